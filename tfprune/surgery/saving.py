"""Files of models, whatever form they were cut in: `save` and `load`.

A model in the form "copy" is of a class that would build the old widths from its configuration. Its file holds the
configuration of the original, what was cut of it, and the weights; loading builds the original and cuts it again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune.borders import in_one_line, public
from tfprune.files import atomic_write
from tfprune.graph import unit_groups
from tfprune.graph.nodes import nodes_in
from tfprune.graph.told import tell_input_shapes, told_input_shapes
from tfprune.graph.walk import functional
from tfprune.surgery.forms import finished
from tfprune.surgery.origins import CutStep, Origin, origin_of
from tfprune.surgery.rebuild import Cut

_HEADER, _VERSION = "tfprune.json", 1
_OF_KERAS = (".keras", ".h5", ".hdf5")
"""Endings by which Keras knows its files; it takes no others."""


@public
def save(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes a model to a file that `load` reads, without pickle.

    A model that was cut in the form "copy" or "graph" is written with the configuration of its original and what was
    cut, with its weights, its compilation and the state of its optimizer; every other model as Keras writes it.

    Args:
        model: any Keras model.
        path: the file, whatever its name; a name in ".keras" lets Keras load what Keras has written. It is written
            whole or not at all.

    Raises:
        ValueError: if the folder does not exist, or if the model was cut or widened in a way that cannot be repeated.

    Example:
        >>> small = tfprune.remove(net, mask, form="copy")                    # doctest: +SKIP
        >>> save(small, "small.tfprune")                                      # doctest: +SKIP
        >>> load("small.tfprune").predict(x)                                  # doctest: +SKIP
    """
    origin = origin_of(model)
    if origin is None:
        with atomic_write(path) as temporary:
            if Path(path).suffix in _OF_KERAS:
                model.save(temporary)
            else:
                _write_by_keras(model, temporary)
        return
    if any(step.on is None for step in origin.steps):
        raise ValueError(
            f"save: model {model.name!r} is a copy that was widened or crossed, which cannot be repeated from a file. "
            "Save its weights (model.save_weights) and widen anew before loading them."
        )
    arrays = {f"w{k}": keras.ops.convert_to_numpy(own) for k, own in enumerate(model.weights)}
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and optimizer.built:
        arrays |= {f"o{k}": keras.ops.convert_to_numpy(own) for k, own in enumerate(optimizer.variables)}
    arrays |= {f"m{k}": step.on for k, step in enumerate(origin.steps)}
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as file:
        file.writestr(_HEADER, json.dumps(_header(model, origin, arrays)))
        file.writestr("arrays.npz", _packed(arrays))


def _header(model: keras.Model, origin: Origin, arrays: dict[str, np.ndarray]) -> dict:
    inputs = [{"shape": list(x.shape), "dtype": x.dtype, "name": x.name} for x in functional(model).inputs]
    return {
        "version": _VERSION,
        "model": origin.config,
        "why_no_model": origin.reason,
        "inputs": inputs,
        "input_shapes": told_input_shapes(model),
        "steps": [{"form": s.form, "sizes": s.sizes, "with_bias": s.with_bias} for s in origin.steps],
        # NumPy has no bfloat16.
        "dtypes": {key: array.dtype.name for key, array in arrays.items()},
        "trainable": [layer.trainable for layer in model._flatten_layers()],
        "compiled": model.get_compile_config() if model.compiled else None,
    }


def _packed(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    plain = {k: a if a.dtype.kind in "biufc" else a.astype("float32") for k, a in arrays.items()}
    np.savez(buffer, **plain)
    return buffer.getvalue()


@public
def load(
    path: str | os.PathLike, *, model: keras.Model | None = None, custom_objects: dict | None = None
) -> keras.Model:
    """Reads a model that `save` has written, or a file of Keras.

    Args:
        path: the file.
        model: the original, or one built as it was, for a file that says that its class has no configuration. It is not
            changed.
        custom_objects: classes by name, as for `keras.saving.load_model`.

    Returns:
        The model, compiled if it was.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, if `model` is needed and missing, or is another one than was cut.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: there is no file {str(path)!r}.")
    header, arrays = _read(path)
    if header is None:
        return _read_by_keras(path, custom_objects)
    result = model if model is not None else _original(header, path, custom_objects)
    if header.get("input_shapes") is not None and told_input_shapes(result) is None:
        tell_input_shapes(result, header["input_shapes"])
    for number, step in enumerate(header["steps"]):
        result = _cut_again(result, CutStep(arrays[f"m{number}"].astype(bool), **step), path)
    for layer, trainable in zip(result._flatten_layers(), header["trainable"], strict=True):
        layer._trainable = trainable
    _assign(result.weights, arrays, "w", path)
    if header["compiled"] is not None:
        with keras.saving.custom_object_scope(custom_objects or {}):
            result.compile_from_config(header["compiled"])
        if "o0" in arrays:
            result.optimizer.build(result.trainable_variables)
            _assign(result.optimizer.variables, arrays, "o", path)
    return result


def _write_by_keras(model: keras.Model, path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save(named := Path(folder) / f"model{_OF_KERAS[0]}")
        shutil.copyfile(named, path)


def _read_by_keras(path: Path, custom_objects: dict | None) -> keras.Model:
    if path.suffix in _OF_KERAS:
        return keras.saving.load_model(path, custom_objects=custom_objects)
    with tempfile.TemporaryDirectory() as folder:
        shutil.copyfile(path, named := Path(folder) / f"model{_OF_KERAS[0]}")
        return keras.saving.load_model(named, custom_objects=custom_objects)


def _read(path: Path) -> tuple[dict | None, dict[str, np.ndarray]]:
    """Returns what a file says and holds; None for a file of Keras."""
    try:
        with zipfile.ZipFile(path) as file:
            if _HEADER not in file.namelist():
                return None, {}
            header = json.loads(file.read(_HEADER))
            with np.load(io.BytesIO(file.read("arrays.npz")), allow_pickle=False) as members:
                arrays = {key: members[key] for key in members.files}
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError) as error:
        if path.suffix in (".keras", ".h5"):
            return None, {}
        raise ValueError(f"load: {str(path)!r} is damaged, or no file of a model ({error}).") from error
    if header["version"] != _VERSION:
        raise ValueError(f"load: {str(path)!r} has the format {header['version']}, expected {_VERSION}.")
    return header, arrays


def _original(header: dict, path: Path, custom_objects: dict | None) -> keras.Model:
    if header["model"] is None:
        raise ValueError(
            f"load: {str(path)!r} holds no configuration of the original ({header['why_no_model']}). Build the "
            "original as it was and pass it: load(path, model=original)."
        )
    try:
        result = keras.saving.deserialize_keras_object(header["model"], custom_objects=custom_objects, safe_mode=True)
    except Exception as error:  # The code of a stranger.
        raise ValueError(
            f"load: the original of {str(path)!r} cannot be built from its configuration ({in_one_line(error)}). Name "
            "its classes: load(path, custom_objects={'MyLayer': MyLayer}); or, where a class has no get_config that "
            "says all, build the original as it was and pass it: load(path, model=original)."
        ) from error
    if not hasattr(result, "_nodes_by_depth"):
        tensors = [np.zeros([n or 2 for n in own["shape"]], own["dtype"]) for own in header["inputs"]]
        result(tensors[0] if len(tensors) == 1 else tensors)
    return result


def _cut_again(model: keras.Model, step: CutStep, path: Path) -> keras.Model:
    graph = unit_groups(model)
    fits = step.on is None or len(step.on) in (graph.num_units, graph.num_columns)
    if list(graph.sizes.values()) != step.sizes or not fits:
        raise ValueError(
            f"load: the model was cut from one with groups of {step.sizes} units, but {model.name!r} has "
            f"{graph.sizes}. Pass the original of {str(path)!r}, built as it was."
        )
    nodes = list(nodes_in(functional(model)))
    return finished(
        model, Cut(graph, step.on, [id(nodes[number].operation) for number in step.with_bias]), form=step.form
    )


def _assign(variables: list[Any], arrays: dict[str, np.ndarray], letter: str, path: Path) -> None:
    held = [arrays[f"{letter}{k}"] for k in range(sum(key.startswith(letter) for key in arrays))]
    if [own.shape for own in held] != [tuple(own.shape) for own in variables]:
        raise ValueError(f"load: the weights in {str(path)!r} have other shapes than those of the model cut again.")
    for variable, value in zip(variables, held, strict=True):
        variable.assign(value)
