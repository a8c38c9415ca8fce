"""Scores of units from the loss: gradients of `on_nodes`, mean replacement, and the exact change of the loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.data import as_batches
from tfprune.graph.walk import run_flat
from tfprune.masking import refuse_masked, sweep, with_on_nodes
from tfprune.objectives import sample_loss
from tfprune.saliency.units import by_group, check_data, chosen_groups
from tfprune.statistics import exit_means
from tfprune.units import LayerValues

# Numbers that one batch may fill on the way forward, all of which the way back needs.
_FLOATS_AT_ONCE = 2**24
_MOST_SAMPLES_AT_ONCE = 256


def on_nodes_gradient(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    signed: bool = False,
) -> LayerValues:
    """Scores each unit by the first-order Taylor estimate of what plain removal does to the loss.

    With `on_nodes` the mask of a model whose units are zero when off, the score is the mean over samples of
    `|d loss_k / d on_nodes|`; that is `|sum over exits of x * d loss_k / d x|`. One backward pass serves all units.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed.
        loss: a Keras loss; None takes the one that the model was compiled with.
        signed: True for the mean of `-d loss_k / d on_nodes`, the estimated rise of the loss, which may be negative.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data or loss do not fit, targets are missing, or the model is masked already.

    Example:
        >>> scores = on_nodes_gradient(net, (x, y), loss="mse")                                  # doctest: +SKIP

    Reference: P. Molchanov et al. (2017), "Pruning convolutional neural networks for resource efficient inference",
    section 2.2; the mask follows "Exploring toy neural nets under node removal".
    """
    check_data(data, "on_nodes_gradient")
    return _gradient_scores(model, data, layers, loss, None, signed)


def mean_replacement(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    means: LayerValues | None = None,
    signed: bool = False,
) -> LayerValues:
    """Scores each unit by mean replacement saliency (MRS): what replacing it by its mean does to the loss, first order.

    `MRS_i` is the mean over samples of `|(mean_i - x_i) * d loss_k / d x_i|`, summed over positions and exits inside
    the absolute value, which is `|d loss_k / d on_nodes|` of the model whose units are replaced by their means when
    off. Mean and gradient are taken where kernels read the unit, as there the repair folds the mean in. Inside a
    recurrent layer, where only zero can be masked in, and for heads of attention the replacement is zero.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed.
        loss: a Keras loss; None takes the one that the model was compiled with.
        means: what stands in for the units, one number each by group name; None measures `statistics.exit_means` on
            `data` first.
        signed: True for the mean of `-d loss_k / d on_nodes`, the estimated rise of the loss, which may be negative.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, means or loss do not fit, targets are missing, or the model is masked
            already.

    Example:
        >>> scores = mean_replacement(net, (x, y), loss="mse")                                   # doctest: +SKIP

    Reference: U. Evci (2018), "Detecting dead weights and units in neural networks", section 4 and table 4.1.
    """
    check_data(data, "mean_replacement")
    refuse_masked(model)
    sample_loss(model, loss)
    as_batches(data, model, targets="required")
    means = exit_means(model, data, layers=layers) if means is None else means
    return _gradient_scores(model, data, layers, loss, means, signed)


def loss_change(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
    replacement: LayerValues | None = None,
) -> LayerValues:
    """Scores each unit by how much the mean loss rises when that unit alone is off: exact, one forward pass a unit.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed.
        loss: a Keras loss; None takes the one that the model was compiled with.
        absolute: whether a fall of the loss counts like a rise.
        replacement: what stands in for a unit that is off, one number each by group name; None means zero.

    Returns:
        The change of the mean loss per unit, `(units,)` by group name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, replacement or loss do not fit, targets are missing, or the model is masked
            already.

    Example:
        >>> scores = loss_change(net, (x, y), loss="mse")                                        # doctest: +SKIP

    Reference: U. Evci (2018), table 2.1 (loss change) and section 4 (the same for units).
    """
    check_data(data, "loss_change")
    refuse_masked(model)
    graph, names = chosen_groups(model, layers)
    sizes = [graph[name].size for name in names]
    masks = np.concatenate([np.ones((1, sum(sizes)), "float32"), 1 - np.eye(sum(sizes), dtype="float32")])
    options = {"loss": loss, "gradients": False, "layers": names, "replacement": replacement, "progress": False}
    losses = sweep(model, data, masks, **options).losses
    change = losses[1:] - losses[0]
    return LayerValues.from_flat(np.abs(change) if absolute else change, dict(zip(names, sizes, strict=True)))


def _gradient_scores(
    model: keras.Model, data: Any, layers: Any, loss: Any, replacement: LayerValues | None, signed: bool
) -> LayerValues:
    """Mean over samples of |d loss_k / d on_nodes|, or of minus the gradient."""
    refuse_masked(model)
    graph, names = chosen_groups(model, layers)
    per_sample = sample_loss(model, loss)
    masked = with_on_nodes(model, names, replacement)
    step = _gradient_step(masked, per_sample, signed)
    total, num_samples = 0.0, 0
    for batch in as_batches(data, model, batch_size=_samples_at_once(model), targets="required"):
        total = total + step(*keras.tree.map_structure(_as_tensor, tuple(batch))).numpy()
        num_samples += len(batch.inputs[0])
    scores = np.zeros(graph.num_units)
    start = 0
    for name in names:
        group = graph[name]
        scores[group.start : group.start + group.size] = total[start : start + group.size] / num_samples
        start += group.size
    _check_scores(scores, model)
    return by_group(graph, names, scores)


def _as_tensor(array: np.ndarray | None) -> Any:
    return None if array is None else tf.convert_to_tensor(array)


def _gradient_step(masked: keras.Model, per_sample: Callable, signed: bool) -> Callable:
    """Returns a compiled function of inputs, targets and weights: sums over a batch `(num_units,)` in float64."""
    num_units = masked.inputs[-1].shape[1]

    @tf.function(reduce_retracing=True)
    def step(inputs: list[Any], targets: Any, weights: Any) -> Any:
        # A row for each sample: its gradient is that of the sample's own loss.
        rows = tf.ones([tf.shape(inputs[0])[0], num_units])
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows)
            losses = per_sample(targets, masked([*inputs, rows]))
            losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
        gradient = tf.cast(tape.gradient(losses, rows, unconnected_gradients="zero"), "float64")
        return tf.reduce_sum(-gradient if signed else tf.abs(gradient), axis=0)

    return step


def _samples_at_once(model: keras.Model) -> int:
    floats = 0

    def count(node: Any, args: tuple, kwargs: dict) -> list[Any]:
        nonlocal floats
        floats += sum(math.prod(length or 1 for length in tensor.shape[1:]) for tensor in node.outputs)
        return node.outputs

    run_flat(model, model.inputs, count)
    fixed = model.inputs[0].shape[0]
    return fixed or int(np.clip(_FLOATS_AT_ONCE // max(floats, 1), 1, _MOST_SAMPLES_AT_ONCE))


def _check_scores(scores: np.ndarray, model: keras.Model) -> None:
    if not np.isfinite(scores).all():
        raise ValueError(
            f"The loss of model {model.name!r} has gradients that are NaN or infinite on these data "
            f"({int((~np.isfinite(scores)).sum())} of {len(scores)} units). Check weights, targets and loss."
        )
