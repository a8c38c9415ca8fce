"""The loss of every single sample, from whatever loss a model was compiled with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src import backend

from tfprune.graph.walk import functional
from tfprune.units import describe_unknown

SampleLoss = Callable[[Any, Any], Any]
"""Takes targets and the model's outputs, gives the loss of every sample, shape `(num_samples,)`."""

# Losses whose targets have a shape of their own.
_OWN_SHAPES = ("ctc", "CTC", "circle", "Circle")


def sample_loss(model: keras.Model, loss: Any = None) -> SampleLoss:
    """Returns a function `(targets, outputs) -> losses` of shape `(num_samples,)`.

    The loss of a sample is the mean over the remaining axes of what the loss function returns, so that the mean over
    samples is what `evaluate` reports (without regularisation terms). Steps that Keras masks do not count; each sample
    then weighs the same, where `evaluate` has each step of a batch weigh the same.

    Args:
        model: the model; `loss=None` takes the loss that it was compiled with, loss weights included.
        loss: a name, function or `keras.losses.Loss`; for several outputs a list, or a dictionary by output name.

    Raises:
        TypeError: if what is given is no loss.
        ValueError: if no loss is given and the model is not compiled, if no loss has the name, or if losses and outputs
            do not match. The function that is returned raises it for targets that do not fit the loss.
    """
    loss, weights = _given_or_compiled(model, loss)
    names = _output_names(functional(model))
    losses = _per_output(loss, names, "loss")
    factors = [1.0] * len(names) if weights is None else _per_output(weights, names, "loss_weights")
    functions = [None if own is None else _one_output(own, name) for own, name in zip(losses, names, strict=True)]
    if not any(functions):
        raise ValueError(f"loss: none of the outputs {names} has a loss. Give at least one of them a loss.")

    def total(targets: Any, outputs: Any) -> Any:
        targets = _per_output(targets, names, "targets")
        outputs = keras.tree.flatten(outputs)
        parts = [
            factor * function(target, output)
            for function, factor, target, output in zip(functions, factors, targets, outputs, strict=True)
            if function is not None
        ]
        return sum(parts[1:], parts[0])

    return total


def check_classes(model: keras.Model, targets: Any, loss: Any = None) -> None:
    """Checks that targets fit their loss: their shape, and the classes of sparse categorical losses.

    Those give NaN, or any number, for a class that does not exist.

    Args:
        model: the model; arguments as for `sample_loss`.
        targets: the targets of some samples, as arrays, in the structure that `fit` takes.
        loss: a loss, or None for the one that the model was compiled with.

    Raises:
        ValueError: if the shape of the targets does not fit, such as whole numbers for a loss of one-hot rows; or if a
            class is no whole number from 0 to the number of classes, nor the loss's `ignore_class`.
    """
    graph = functional(model)
    names = _output_names(graph)
    losses = _per_output(_given_or_compiled(model, loss)[0], names, "loss")
    outputs = keras.tree.flatten(graph._outputs_struct)
    for name, own, output, given in zip(names, losses, outputs, _per_output(targets, names, "targets"), strict=True):
        if given is None or own is None:
            continue
        function, given = _keras_loss(own, name), np.asarray(given)
        _check_shape(function, name, given.shape, output.shape)
        if not _is_named(function, "sparse_categorical"):
            continue
        options = getattr(function, "_fn_kwargs", {})
        num_classes = output.shape[options.get("axis", -1)]
        bad = (given < 0) | (given >= num_classes) | (given != np.floor(given))
        bad &= given != options.get("ignore_class", None)
        if bad.any():
            place = tuple(int(index) for index in np.argwhere(bad)[0])
            raise ValueError(
                f"targets: output {name!r} has {num_classes} classes, so that its sparse categorical loss expects "
                f"whole numbers from 0 to {num_classes - 1}; received {given[place]} at index {place} "
                f"({int(bad.sum())} of {given.size} targets). Number the classes from 0, or widen "
                "the output."
            )


def _given_or_compiled(model: keras.Model, loss: Any) -> tuple[Any, Any]:
    """Returns the loss and the weights of the outputs' losses."""
    if loss is not None:
        return loss, None
    if not getattr(model, "compiled", False) or model.loss is None:
        raise ValueError(
            f"loss: model {model.name!r} is not compiled with a loss and none was given. Pass loss=..., for example "
            "loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), or compile the model with one."
        )
    config = model._compile_config
    return model.loss, None if config is None else config.config.get("loss_weights")


def describe_loss(model: keras.Model, loss: Any = None) -> str:
    """Returns a text that is the same for equal losses, also in another process; arguments as for `sample_loss`."""

    def describe(part: Any) -> str:
        if isinstance(part, keras.losses.Loss):
            # Some losses of Keras leave their options out of the configuration.
            options = sorted(getattr(part, "_fn_kwargs", {}).items())
            return f"{type(part).__name__} {part.get_config()} {options}"
        return f"{part.__module__}.{part.__qualname__}" if callable(part) else repr(part)

    loss, weights = _given_or_compiled(model, loss)
    return f"{keras.tree.map_structure(describe, loss)} {weights}"


def _output_names(graph: keras.Model) -> list[str]:
    """Returns the names by which Keras knows losses and targets: the keys of a dictionary of outputs, or layers."""
    struct = graph._outputs_struct
    return sorted(struct) if isinstance(struct, Mapping) else list(graph.output_names)


def _per_output(value: Any, names: list[str], what: str) -> list[Any]:
    """Returns one entry per output; outputs that a dictionary leaves out have None."""
    if isinstance(value, Mapping):
        unknown = sorted(set(value) - set(names))
        if unknown:
            raise ValueError(f"{what}: no output is called {unknown[0]!r}; the outputs are {names}.")
        return [value.get(name) for name in names]
    if len(names) == 1:
        return list(value) if isinstance(value, list | tuple) and len(value) == 1 else [value]
    if not isinstance(value, list | tuple):
        return [value] * len(names) if what == "loss" else _refuse(value, names, what)
    if len(value) != len(names):
        return _refuse(value, names, what)
    return list(value)


def _refuse(value: Any, names: list[str], what: str) -> list[Any]:
    count = len(value) if isinstance(value, list | tuple) else 1
    raise ValueError(f"{what}: the model has {len(names)} outputs {names}, but {count} were given. Give one each.")


def _keras_loss(loss: Any, output: str) -> Any:
    """Returns the function or `Loss` that is meant; says of one that Keras does not know what was perhaps meant."""
    try:
        function = keras.losses.get(loss)
    except (TypeError, ValueError):
        function = None
    if callable(function) and not isinstance(function, type):
        return function
    if isinstance(loss, str):
        names = [
            name for name in dir(keras.losses) if not name.startswith("_") and callable(getattr(keras.losses, name))
        ]
        known = [name for name in names if name not in ("get", "serialize", "deserialize", "Loss")]
        raise ValueError(f"loss: Keras has no such loss for output {output!r}. {describe_unknown([loss], known)}")
    if isinstance(function, type):
        raise TypeError(f"loss: expected a loss, received the class {loss.__name__}. Make one: {loss.__name__}().")
    raise TypeError(
        f"loss: expected a name, a function or a keras.losses.Loss for output {output!r}, received {loss!r} of type "
        f"{type(loss).__name__}."
    )


def _is_named(function: Any, start: str) -> bool:
    """Whether this is one of Keras's own losses, as a function or as a `Loss`, and its name begins so."""
    function = getattr(function, "fn", function)
    own = getattr(function, "__module__", "").startswith("keras.")
    return own and getattr(function, "__name__", "").startswith(start)


def _check_shape(function: Any, name: str, targets: tuple, outputs: tuple) -> None:
    """Raises ValueError if targets of this shape, with the samples first, do not fit the outputs of one output."""
    sparse, one_hot = _is_named(function, "sparse_categorical"), _is_named(function, "categorical")
    if sparse:
        if len(targets) >= len(outputs) and targets[-1] not in (None, 1):
            raise ValueError(
                f"targets: output {name!r} has {outputs[-1]} classes and a sparse categorical loss, which expects one "
                f"whole number per sample; received the shape {tuple(targets)}. Of one-hot targets give "
                "y.argmax(axis=-1), or compile with the loss CategoricalCrossentropy."
            )
        return
    if not _is_named(function, "") or getattr(getattr(function, "fn", function), "__name__", "") in _OWN_SHAPES:
        return
    if len(outputs) - len(targets) == 1 and outputs[-1] == 1:
        targets = (*targets, 1)
    if len(targets) - len(outputs) == 1 and targets[-1] == 1:
        targets = targets[:-1]
    pairs = list(zip(targets[1:], outputs[1:], strict=False))
    fits = all(None in (one, other) or one == other or (1 in (one, other) and not one_hot) for one, other in pairs)
    if len(targets) == len(outputs) and fits:
        return
    mend = "Give targets of the shape of the output."
    if one_hot:
        mend = (
            f"Of whole numbers from 0 to {(outputs[-1] or 1) - 1} make keras.utils.to_categorical(y, {outputs[-1]}), "
            "or compile with the loss SparseCategoricalCrossentropy."
        )
    wanted = ", ".join(["samples", *("any" if length is None else str(length) for length in outputs[1:])])
    what = "a categorical loss, which expects one-hot rows," if one_hot else "a loss that expects targets"
    raise ValueError(
        f"targets: output {name!r} has {what} of the shape ({wanted}); received the shape {tuple(targets)}. {mend}"
    )


def _one_output(loss: Any, output: str) -> SampleLoss:
    own = _keras_loss(loss, output)
    # A Loss object reduces when it is called; its `call` still has one value per sample.
    function = own.call if isinstance(own, keras.losses.Loss) else own
    name = getattr(loss, "name", None) or getattr(loss, "__name__", str(loss))

    def losses(targets: Any, outputs: Any) -> Any:
        keras_mask = backend.get_keras_mask(outputs)
        targets, outputs = ops.convert_to_tensor(targets), ops.convert_to_tensor(outputs)
        _check_shape(own, output, tuple(targets.shape), tuple(outputs.shape))
        if len(targets.shape) == len(outputs.shape) - 1 and outputs.shape[-1] == 1:
            targets = ops.expand_dims(targets, -1)
        values = function(targets, outputs)
        if len(values.shape) == 0:
            raise ValueError(
                f"loss: {name!r} returns one number for a whole batch, so the loss of a sample cannot be told. Return "
                "one value per sample, shape (batch,), and leave the mean to Keras (a Loss does so with its reduction)."
            )
        return _mean_of_samples(values, keras_mask)

    return losses


def _mean_of_samples(values: Any, keras_mask: Any) -> Any:
    """Returns the mean of each sample, `(num_samples,)`, over what is not masked."""
    if keras_mask is None or len(keras_mask.shape) > len(values.shape):
        return ops.mean(ops.reshape(values, (ops.shape(values)[0], -1)), axis=1)
    for _ in range(len(values.shape) - len(keras_mask.shape)):
        keras_mask = ops.expand_dims(keras_mask, -1)
    counted = ops.reshape(ops.cast(keras_mask, values.dtype) * ops.ones_like(values), (ops.shape(values)[0], -1))
    values = ops.reshape(values, (ops.shape(values)[0], -1))
    return ops.sum(values * counted, axis=1) / ops.maximum(ops.sum(counted, axis=1), 1)
