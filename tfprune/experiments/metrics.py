"""Metrics of a model under many masks: the loss, a metric of Keras, or any function of targets and outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src import backend

from tfprune.borders import warn
from tfprune.compiling import ByLengths, without_retracing_warnings
from tfprune.data import Batch, Batches, as_batches, collect
from tfprune.graph.walk import functional
from tfprune.masking import on_nodes_input, outputs_under_masks, sweep
from tfprune.objectives import check_classes, sample_loss
from tfprune.units import LayerValues

Metric = str | keras.metrics.Metric | Callable[[Any, Any], float] | None
# Numbers of all outputs that are held at once for a function; above it, masks come in several passes over the data.
_MOST_FLOATS = 2**27


def name_of(metric: Metric) -> str:
    """Returns what a metric is called in records and figures."""
    if metric is None:
        return "loss"
    return metric if isinstance(metric, str) else getattr(metric, "name", None) or getattr(metric, "__name__", "metric")


def check_metric(metric: Metric, model: keras.Model) -> None:
    """Raises unless a metric can be measured of this model; messages say how to mend it."""
    if metric is None or (callable(metric) and not isinstance(metric, type)):
        return
    if isinstance(metric, type) or not isinstance(metric, str):
        raise TypeError(
            f"metric: expected None (the compiled loss), the name of a metric, a keras.metrics.Metric or a function of "
            f"targets and outputs, received {metric!r}."
        )
    if len(functional(model).outputs) > 1:
        raise ValueError(
            f"metric: model {model.name!r} has {len(functional(model).outputs)} outputs, so that {metric!r} does not "
            "say which one it is of. Give a function (targets, outputs) -> number."
        )
    if metric not in _ACCURACY:
        keras_metric(metric, None, None)


_ACCURACY = ("accuracy", "acc")


def keras_metric(metric: str | keras.metrics.Metric, targets: Any, outputs: Any) -> keras.metrics.Metric:
    """Returns a fresh metric; "accuracy" is the one that `compile` would take for such targets and outputs."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    if metric not in _ACCURACY:
        try:
            found = keras.metrics.get(metric)
        except ValueError as error:
            raise ValueError(
                f"metric: Keras has no metric {metric!r}. Give the name of one, such as 'accuracy', a "
                "keras.metrics.Metric, or a function (targets, outputs) -> number."
            ) from error
        return found if isinstance(found, keras.metrics.Metric) else keras.metrics.MeanMetricWrapper(found, metric)
    if outputs.shape[-1] == 1:
        return keras.metrics.BinaryAccuracy(name=metric)
    is_sparse = targets.ndim < outputs.ndim or targets.shape[-1] == 1
    return (keras.metrics.SparseCategoricalAccuracy if is_sparse else keras.metrics.CategoricalAccuracy)(name=metric)


def measure(
    model: keras.Model,
    data: Any,
    rows: np.ndarray,
    metric: Metric,
    *,
    loss: Any,
    layers: Iterable[str] | None,
    replacement: LayerValues | None,
) -> np.ndarray:
    """Measures a metric under each of many masks.

    Args:
        model: a Sequential or functional model, or one that has the input `on_nodes` already.
        data: inputs and targets.
        rows: masks `(num_masks, num_units)`.
        metric: see `check_metric`.
        loss: the loss that None is.
        layers: the groups whose units are the columns; None for a model that has the input already.
        replacement: what stands in for a unit that is off; None for zero.

    Returns:
        One value per mask, float64 `(num_masks,)`.
    """
    options = {"layers": layers, "replacement": replacement}
    if metric is None:
        return sweep(model, data, rows, loss=_given(model, loss), gradients=False, progress=False, **options).losses
    if isinstance(metric, str | keras.metrics.Metric):
        return _streamed(model, data, rows, metric, options)
    batches = as_batches(data, _plain_inputs(model), targets="required")
    refuse_weights(next(iter(batches)).weights)
    num_points = batches.num_samples or sum(len(batch.inputs[0]) for batch in batches)
    floats = num_points * sum(int(np.prod([n or 64 for n in tensor.shape[1:]])) for tensor in functional(model).outputs)
    at_once = int(np.clip(_MOST_FLOATS // max(floats, 1), 1, len(rows)))
    starts = range(0, len(rows), at_once)
    return np.concatenate([_held(model, data, rows[start : start + at_once], metric, options) for start in starts])


def _plain_inputs(model: keras.Model) -> list[Any]:
    """Returns the inputs of a model without `on_nodes`."""
    return [tensor for number, tensor in enumerate(functional(model).inputs) if number != on_nodes_input(model)]


def _given(model: keras.Model, loss: Any) -> Any:
    """Returns the loss to give for a model: None where the model was compiled with it, weights of outputs included."""
    return None if getattr(model, "compiled", False) else loss


def is_function(metric: Metric) -> bool:
    """Whether a metric is a function of all targets and outputs."""
    return callable(metric) and not isinstance(metric, keras.metrics.Metric)


def measure_model(
    model: keras.Model, data: Any, metric: Metric, *, loss: Any = None, predict: Callable | None = None
) -> float:
    """Measures a metric of one model, as `measure` does of a model under a mask.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets.
        metric: see `check_metric`.
        loss: the loss where `metric` is None; None takes that of the model.
        predict: what gives the outputs that a function sees; None runs the model.
    """
    batches = as_batches(data, model, targets="required")
    if is_function(metric):
        inputs, targets, weights = collect(batches)
        refuse_weights(weights)
        return value_of(metric, targets, outputs_of(model, inputs, predict), f"model {model.name!r}")
    return _measured(model, batches, metric, loss, lambda outputs: None)


def outputs_and_metric(
    model: keras.Model, data: Any, metric: Metric, *, loss: Any = None, predict: Callable | None = None
) -> tuple[Any, float]:
    """Returns what a model gives out and its metric, of one pass; arguments as for `measure_model`."""
    batches = as_batches(data, model, targets="required")
    if is_function(metric) or predict is not None:
        inputs, targets, _ = collect(batches)
        outputs = outputs_of(model, inputs, predict)
        return outputs, value_of(metric, targets, outputs, f"model {model.name!r}")
    parts: list[list[np.ndarray]] = []
    value = _measured(model, batches, metric, loss, lambda outputs: parts.append([own.numpy() for own in outputs]))
    joined = [np.concatenate(pieces) for pieces in zip(*parts, strict=True)]
    return tree.pack_sequence_as(functional(model)._outputs_struct, joined), value


def outputs_of(model: keras.Model, inputs: list[np.ndarray], predict: Callable | None) -> Any:
    """Returns what a model gives out for some inputs, a list of one array per input; `predict` may say how."""
    if predict is not None:
        return predict(model, inputs)
    with without_retracing_warnings():
        return model.predict(_as_fed(model, inputs), verbose=0)


def _measured(
    model: keras.Model, batches: Batches, metric: Metric, loss: Any, see: Callable[[list[Any]], Any]
) -> float:
    """Measures the loss (None) or a metric of Keras batch by batch; `see` is called with the outputs of each."""
    run, found, total, count = ByLengths(lambda inputs: _with_masks(model, inputs)), None, 0.0, 0
    per_sample = sample_loss(model, loss) if metric is None else None
    for batch in batches:
        outputs, keras_masks = run([tf.convert_to_tensor(x) for x in batch.inputs])
        see(outputs)
        for output, keras_mask in zip(outputs, keras_masks, strict=True):
            if keras_mask is not None:
                backend.set_keras_mask(output, keras_mask)
        if metric is None:
            check_classes(model, batch.targets, loss)
            losses = np.asarray(per_sample(tree.map_structure(tf.convert_to_tensor, batch.targets), outputs), "float64")
            total += float(losses.sum() if batch.weights is None else (losses * np.asarray(batch.weights)).sum())
            count += len(losses)
            continue
        (targets,) = tree.flatten(batch.targets)
        found = keras_metric(metric, targets, outputs[0]) if found is None else found
        found.update_state(targets, outputs[0], sample_weight=batch.weights)
    return total / count if metric is None else float(found.result())


def _with_masks(model: keras.Model, inputs: list[Any]) -> tuple[list[Any], list[Any]]:
    outputs = tree.flatten(model(_as_fed(model, inputs), training=False))
    return outputs, [backend.get_keras_mask(own) for own in outputs]


def _as_fed(model: keras.Model, inputs: list[Any]) -> Any:
    """Returns inputs in the structure in which the model takes them."""
    return tree.pack_sequence_as(functional(model)._inputs_struct, inputs)


def refuse_weights(weights: Any) -> None:
    """Warns where the data have sample weights, which a function of targets and outputs never sees."""
    if weights is not None:
        warn(
            "data: the sample weights are not used, since a metric that is a function sees targets and outputs alone. "
            "Leave them out, or give a keras.metrics.Metric or None (the loss), which take them."
        )


def _streamed(model: keras.Model, data: Any, rows: np.ndarray, metric: Any, options: dict) -> np.ndarray:
    found: list[keras.metrics.Metric] = []
    for part in outputs_under_masks(model, data, rows, **options):
        if part.batch.targets is None:
            raise ValueError("data: a metric needs targets. Give data=(x, y).")
        (targets,) = tree.flatten(part.batch.targets)
        found = found or [keras_metric(metric, targets, part.outputs[0][0]) for _ in rows]
        for number, output in enumerate(part.outputs[0]):
            output = keras.ops.convert_to_tensor(output)
            if part.keras_masks[0] is not None:
                # As in `evaluate`, steps that are masked do not count.
                backend.set_keras_mask(output, keras.ops.convert_to_tensor(part.keras_masks[0][number]))
            found[part.first + number].update_state(targets, output, sample_weight=part.batch.weights)
    return np.array([float(own.result()) for own in found])


def _held(model: keras.Model, data: Any, rows: np.ndarray, metric: Callable, options: dict) -> np.ndarray:
    """Holds all outputs of some masks, for a function that needs them together."""
    batches: list[Batch] = []
    parts: list[list[list[np.ndarray]]] = [[] for _ in rows]
    for part in outputs_under_masks(model, data, rows, **options):
        if part.first == 0:
            batches.append(part.batch)
        for number, own in enumerate(zip(*part.outputs, strict=True)):
            parts[part.first + number].append(list(own))
    targets = collect(batches).targets
    values = []
    for number, own in enumerate(parts):
        joined = [np.concatenate(pieces) for pieces in zip(*own, strict=True)]
        values.append(value_of(metric, targets, joined[0] if len(joined) == 1 else joined, f"mask {number}"))
        parts[number] = []
    return np.array(values)


def value_of(metric: Callable, targets: Any, outputs: Any, where: str) -> float:
    """Returns what a function makes of targets and outputs, as one number."""
    value = np.asarray(metric(targets, outputs))
    if value.size != 1 or not np.isfinite(value).all():
        raise ValueError(
            f"metric: expected one finite number of {name_of(metric)}(targets, outputs), received {value!r} at {where}."
        )
    return float(value.reshape(()))
