"""Scores of units from the loss: gradients of `on_nodes`, mean replacement, and the exact change of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.borders import public
from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.graph import unit_groups
from tfprune.graph.walk import samples_at_once
from tfprune.masking import (
    MaskedSteps,
    has_values_before,
    masked_before,
    masked_model,
    means_before,
    refuse_masked,
    single_changes,
)
from tfprune.objectives import check_classes, sample_loss
from tfprune.saliency.units import check_data, chosen_groups
from tfprune.statistics import exit_means
from tfprune.units import LayerValues, check_like

_PLACES = ("after", "before")

# Numbers that one batch may fill on the way forward, all of which the way back needs.
FLOATS_AT_ONCE = 2**24


@public
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

    In the unit of the loss, and so comparable between groups for one unit at a time; a whole group costs more than its
    units add up to, so that a budget or scope="global" empties groups: see `keep_budget`.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed. Whole residual blocks must be
            named: `[*unit_groups(model), "blocks"]`.
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
    refuse_masked(model)
    return _gradient_scores(model, data, chosen_groups(model, layers, blocks=True)[1], loss, None, signed)


@public
def mean_replacement(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    means: LayerValues | None = None,
    signed: bool = False,
    place: str = "after",
) -> LayerValues:
    """Scores each unit by mean replacement saliency (MRS): what replacing it by its mean does to the loss, first order.

    `MRS_i` is the mean over samples of `|(mean_i - x_i) * d loss_k / d x_i|`, summed over positions and exits inside
    the absolute value, which is `|d loss_k / d on_nodes|` of the model whose units are replaced by their means when
    off. Mean and gradient are taken where kernels read the unit, as there the repair folds the mean in; the thesis took
    them before the nonlinearity. For heads of attention the replacement is zero.

    In the unit of the loss, and so comparable between groups for one unit at a time; a whole group costs more than its
    units add up to, so that a budget or scope="global" empties groups: see `keep_budget`.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed.
        loss: a Keras loss; None takes the one that the model was compiled with.
        means: what stands in for the units, one number each by group name; None measures them on `data` first.
        signed: True for the mean of `-d loss_k / d on_nodes`, the estimated rise of the loss, which may be negative.
        place: "after", where kernels read the unit, or "before" the nonlinearity of the layer that makes it. A
            recurrent layer and heads of attention are taken "after" all the same.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, means, place or loss do not fit, targets are missing, or the model is masked
            already.

    Example:
        >>> scores = mean_replacement(net, (x, y), loss="mse")                                   # doctest: +SKIP

    Reference: U. Evci (2018), "Detecting dead weights and units in neural networks", section 4 and table 4.1.
    """
    check_data(data, "mean_replacement")

    def score(names: tuple[str, ...], means: LayerValues, before: bool) -> LayerValues:
        return _gradient_scores(model, data, names, loss, means, signed, before)

    return _mean_replaced(model, data, layers, loss, means, place, score)


@public
def mean_replacement_penalty(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    means: LayerValues | None = None,
    absolute: bool = True,
    place: str = "after",
) -> LayerValues:
    """Scores each unit by mean replacement penalty (MRP): what replacing it by its mean does to the loss, exactly.

    `MRP_i` is the mean over samples of `|loss_k(unit i replaced by its mean) - loss_k|`. What lies before a unit runs
    once, so that the score of all units costs far less than a forward pass for each. Replaced by zero instead are heads
    of attention and what a norm sums over.

    In the unit of the loss, and so comparable between groups for one unit at a time; a whole group costs more than its
    units add up to, so that a budget or scope="global" empties groups: see `keep_budget`.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed.
        loss: a Keras loss; None takes the one that the model was compiled with.
        means: what stands in for the units, one number each by group name; None measures them on `data` first.
        absolute: False leaves the absolute value out, so that the score is the rise of the mean loss.
        place: "after" or "before" the nonlinearity, as for `mean_replacement`.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, means, place or loss do not fit, targets are missing, or the model is masked
            already.

    Example:
        >>> scores = mean_replacement_penalty(net, (x, y), loss="mse")                           # doctest: +SKIP

    Reference: U. Evci (2018), "Detecting dead weights and units in neural networks", table 4.1.
    """
    check_data(data, "mean_replacement_penalty")

    def score(names: tuple[str, ...], means: LayerValues, before: bool) -> LayerValues:
        changes = single_changes(model, data, names, loss=loss, replacement=means, before=before)
        return _checked(changes.absolute if absolute else changes.signed, model)

    return _mean_replaced(model, data, layers, loss, means, place, score)


def _mean_replaced(
    model: keras.Model, data: Any, layers: Any, loss: Any, means: LayerValues | None, place: str, score: Callable
) -> LayerValues:
    """Calls `score(names, means, before)` for the groups that can be replaced before the nonlinearity, and the rest."""
    if place not in _PLACES:
        raise ValueError(f"place: expected one of {', '.join(map(repr, _PLACES))}, received {place!r}.")
    refuse_masked(model)
    sample_loss(model, loss)
    as_batches(data, model, targets="required")
    graph, names = chosen_groups(model, layers)
    if means is not None:
        means = check_like(means, {name: graph[name].size for name in names}, "means")
    parts = {place == "before" and has_values_before(graph, name) for name in names}
    scores = {}
    for before in sorted(parts):
        own = tuple(name for name in names if (place == "before" and has_values_before(graph, name)) == before)
        replaced = means
        if means is None:
            replaced = means_before(model, data, own) if before else exit_means(model, data, layers=own)
        scores |= score(own, LayerValues({name: replaced[name] for name in own}), before)
    return LayerValues({name: scores[name] for name in names})


@public
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

    In the unit of the loss, and so comparable between groups for one unit at a time; a whole group costs more than its
    units add up to, so that a budget or scope="global" empties groups: see `keep_budget`.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of groups or layers; None takes all units that can be removed. Whole residual blocks must be
            named: `[*unit_groups(model), "blocks"]`.
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
    _, names = chosen_groups(model, layers, blocks=True)
    changes = single_changes(model, data, names, loss=loss, replacement=_for_all(model, names, replacement))
    scores = _checked(changes.signed, model)
    return scores.map(np.abs) if absolute else scores


def _for_all(model: keras.Model, names: Iterable[str], replacement: LayerValues | None) -> LayerValues | None:
    """Returns a replacement with zeros where it has no entry."""
    if replacement is None:
        return None
    graph = unit_groups(model)
    # Nothing stands in for a block.
    sizes = {name: graph[name].size for name in names if name in graph.sizes}
    given = check_like(replacement, sizes, "replacement", partial=True)
    return LayerValues({name: given.get(name, np.zeros(size)) for name, size in sizes.items()})


def _gradient_scores(
    model: keras.Model,
    data: Any,
    names: tuple[str, ...],
    loss: Any,
    replacement: LayerValues | None,
    signed: bool,
    before: bool = False,
) -> LayerValues:
    """Mean over samples of |d loss_k / d on_nodes|, or of minus the gradient."""
    batches = as_batches(data, model, batch_size=samples_at_once(model, FLOATS_AT_ONCE), targets="required")
    build = masked_before if before else masked_model
    masked, step = _steps.get(model, loss, names, replacement, signed, build=build)
    total, num_samples = 0.0, 0
    for batch in batches:
        check_classes(model, batch.targets, loss)
        total = total + step(*keras.tree.map_structure(_as_tensor, tuple(batch))).numpy()
        num_samples += len(batch.inputs[0])
    return _checked(LayerValues.from_flat(total / num_samples, masked.sizes), model)


def _as_tensor(array: np.ndarray | None) -> Any:
    return None if array is None else tf.convert_to_tensor(array)


def _gradient_step(masked: keras.Model, per_sample: Callable, signed: bool) -> Callable:
    """Returns a compiled function of inputs, targets and weights: sums over a batch `(num_units,)` in float64."""
    num_units = masked.inputs[-1].shape[1]

    @ByLengths
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


_steps = MaskedSteps(_gradient_step, 8)


def _checked(scores: LayerValues, model: keras.Model) -> LayerValues:
    """Returns the scores, or raises ValueError if there are some that are no numbers."""
    bad = ~np.isfinite(scores.flat)
    if bad.any():
        raise ValueError(
            f"The loss of model {model.name!r}, or its gradient, is NaN or infinite on these data "
            f"({int(bad.sum())} of {len(bad)} units). Check weights, targets and loss."
        )
    return scores
