"""SavedModel and TFLite files, each checked by loading it back."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tensorflow.lite.python.convert_phase import ConverterError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfprune.borders import public
from tfprune.compiling import compiled
from tfprune.export.inputs import fixed_batch, plain_call, random_inputs, unchanged_states
from tfprune.files import atomic_write
from tfprune.graph.comparing import computes_in_half
from tfprune.graph.walk import functional

TOLERANCE = 1e-5
"""How far an exported model may be off, relative to the largest output."""
_HALF_TOLERANCE = 2e-2


@public
def saved_model(model: keras.Model, path: str | os.PathLike, *, tolerance: float | None = None) -> Path:
    """Writes a TensorFlow SavedModel, for TensorFlow Serving and other languages, and checks it.

    The folder is loaded back and compared with the model on random inputs; it appears at `path` only if they agree.
    Its endpoint is `serve`: `loaded = tf.saved_model.load(path)`, then `loaded.serve(inputs)`; hold on to `loaded`.

    Args:
        model: a Sequential or functional model.
        path: the folder to write; one that exists is replaced. The folder that it lies in must exist.
        tolerance: the largest difference of an output that is accepted, relative to the largest output; None means
            1e-5, or 2e-2 where a layer computes in half precision.

    Returns:
        The path.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is subclassed or not built, cannot be exported, or the file computes something else.

    Example:
        >>> tfprune.export.saved_model(small, "small")                # doctest: +SKIP
    """
    call = plain_call(model)
    batch = fixed_batch(model) or 3
    inputs = random_inputs(model, batch)
    with atomic_write(path) as temporary, unchanged_states(model):
        with _reasons("SavedModel", model):
            functional(model).export(str(temporary), format="tf_saved_model", verbose=False, **_given(model))
        loaded = tf.saved_model.load(str(temporary))
        structure = keras.tree.pack_sequence_as(functional(model)._inputs_struct, list(map(tf.constant, inputs)))
        _check(model, call(*inputs), keras.tree.flatten(loaded.serve(structure)), "SavedModel", tolerance)
    return Path(path)


@public
def tflite(model: keras.Model, path: str | os.PathLike, *, tolerance: float | None = None) -> Path:
    """Writes a TFLite file in float32 that runs one sample at a time, and checks it.

    Weights are written as constants, so that recurrent layers need no variables, and all operations are TFLite's own:
    a model that needs others is refused with their names. Signatures are named as the model's inputs and outputs.
    Lengths that the model leaves open stay open.

    Args:
        model: a Sequential or functional model.
        path: the file to write, usually `.tflite`; one that exists is replaced. Its folder must exist.
        tolerance: as for `saved_model`.

    Returns:
        The path.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is subclassed or not built, cannot be converted, or the file computes something else.

    Example:
        >>> tfprune.export.tflite(small, "small.tflite")              # doctest: +SKIP
    """
    call = plain_call(model)
    batch = fixed_batch(model) or 1
    _refuse_stateful(model)
    with atomic_write(path) as temporary:
        with _reasons("TFLite", model):
            content = _converted(model, batch)
        for seed in range(3):
            inputs = random_inputs(model, batch, seed=seed)
            with _reasons("TFLite", model):
                outputs = _run_tflite(model, content, inputs)
            _check(model, call(*inputs), outputs, "TFLite", tolerance)
        temporary.write_bytes(content)
    return Path(path)


def _given(model: keras.Model) -> dict[str, Any]:
    """Returns how the inputs are given, where they have names: Keras 3.8 forgets these."""
    graph = functional(model)
    if not isinstance(graph._inputs_struct, Mapping):
        return {}
    specs = [tf.TensorSpec(own.shape, own.dtype, name=own.name) for own in graph.inputs]
    return {"input_signature": [keras.tree.pack_sequence_as(graph._inputs_struct, specs)]}


def _names(tensors: Iterable[str], kind: str) -> list[str]:
    """Returns names that a signature accepts; numbers instead where two would be equal."""
    names = [re.sub(r"\W", "_", name) for name in tensors]
    if len(set(names)) < len(names) or not all(name.isidentifier() for name in names):
        return [f"{kind}_{number}" for number in range(len(names))]
    return names


def _signature(model: keras.Model) -> tuple[list[str], list[str]]:
    graph = functional(model)
    inputs = _names([tensor.name for tensor in graph.inputs], "input")
    return inputs, _names([f"{name}_" if name in inputs else name for name in graph.output_names], "output")


def _converted(model: keras.Model, batch: int) -> bytes:
    input_names, output_names = _signature(model)
    specs = [
        tf.TensorSpec((batch, *tensor.shape[1:]), tensor.dtype, name=name)
        for tensor, name in zip(functional(model).inputs, input_names, strict=True)
    ]
    # A converted variable is read inside loops before it is set; a constant needs no such care.
    frozen = convert_variables_to_constants_v2(
        compiled(plain_call(model)).get_concrete_function(*specs), lower_control_flow=False
    )
    module = tf.Module()
    module.serve = tf.function(
        lambda *tensors: dict(zip(output_names, frozen(*tensors), strict=True)), input_signature=specs, autograph=False
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    try:
        return converter.convert()
    except ConverterError as error:
        raise ValueError(_why_not_tflite(model, str(error))) from error


def _why_not_tflite(model: keras.Model, message: str) -> str:
    """Picks out of the converter's long message what is of use."""
    lacking = re.search(r"(?:TF Select|Custom) ops: ([\w, ]+)", message)
    why = f"TFLite has no operation of its own for {lacking[1].strip()}." if lacking else _short(message)
    other = sorted({layer.compute_dtype for layer in model._flatten_layers()} - {"float32"})
    if other:
        why += f" Layers compute in {', '.join(other)}: build the model in float32 and copy the weights."
    return why


def _run_tflite(model: keras.Model, content: bytes, inputs: list[np.ndarray]) -> list[np.ndarray]:
    input_names, output_names = _signature(model)
    with warnings.catch_warnings():
        # TensorFlow announces that its interpreter will move into a package of its own.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
        interpreter = tf.lite.Interpreter(model_content=content)
    runner = interpreter.get_signature_runner()
    outputs = runner(**dict(zip(input_names, inputs, strict=True)))
    return [outputs[name] for name in output_names]


def _refuse_stateful(model: keras.Model) -> None:
    for layer in model._flatten_layers():
        if getattr(layer, "stateful", False):
            raise ValueError(
                f"TFLite: layer {layer.name!r} of model {model.name!r} is stateful: it keeps its state between calls, "
                "which a file of constants cannot. Build it with stateful=False and pass the state as an input "
                "(initial_state) and an output (return_state=True)."
            )


@contextlib.contextmanager
def _reasons(what: str, model: keras.Model) -> Iterator[None]:
    """Says which model could not be written when TensorFlow fails."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{what}: model {model.name!r} cannot be exported; nothing was written. "
            f"{type(error).__name__}: {_short(str(error))}"
        ) from error


def _short(text: str, most: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[:most]}..."


def _check(model: keras.Model, expected: list[Any], received: list[Any], what: str, tolerance: float | None) -> None:
    """Raises ValueError unless all outputs agree."""
    if tolerance is None:
        tolerance = _HALF_TOLERANCE if computes_in_half(model) else TOLERANCE
    names = functional(model).output_names
    for name, one, other in zip(names, expected, received, strict=True):
        one, other = (np.asarray(keras.ops.convert_to_numpy(value), np.float64) for value in (one, other))
        if one.shape != other.shape:
            raise ValueError(
                f"{what}: output {name!r} has the shape {other.shape} when loaded back, expected {one.shape}."
            )
        largest = max(float(np.abs(one).max(initial=0.0)), np.finfo(np.float32).tiny)
        difference = float(np.abs(one - other).max(initial=0.0))
        # Written so that NaN is refused, too.
        if not difference <= tolerance * largest:
            raise ValueError(
                f"{what}: output {name!r} of model {model.name!r} differs by {difference:.2g} when loaded back, where "
                f"the largest output is {largest:.2g}; expected at most {tolerance:g} of it. Nothing was written. "
                "Give tolerance=... if this is accepted."
            )
