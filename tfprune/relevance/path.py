"""Gradients added up on the straight way from a baseline to a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfprune.relevance.composites import PRESETS
from tfprune.relevance.plan import Plan
from tfprune.relevance.propagate import Forward, backward, forward

_GRADIENT = PRESETS["gradient"]


class Point(NamedTuple):
    """A model at one point of the way.

    Attributes:
        score: the number that is explained, `(samples,)`.
        gradients: its gradient by each input.
        values: the tensors at the sites of units, and at the layers that are looked at in full.
        slopes: the gradients there.
    """

    score: Any
    gradients: list[Any]
    values: tuple[dict[str, list[Any]], dict[str, Any]]
    slopes: tuple[dict[str, list[Any]], dict[str, Any]]


def between(plan: Plan, start: Any, end: Any, fraction: Any) -> Any:
    """Returns what lies on the straight way from `start` to `end`, in the precision of the plan."""
    start, end = tf.cast(start, plan.dtype), tf.cast(end, plan.dtype)
    return start + tf.cast(fraction, plan.dtype) * (end - start)


def point_on_path(
    plan: Plan, inputs: list[Any], baseline: list[Any], fraction: Any, seed: Any, *, sites: bool, **options: Any
) -> Point:
    """Runs a model at `baseline + fraction * (inputs - baseline)`.

    Args:
        plan: of the model.
        inputs: one float tensor per input.
        baseline: the same, with one row or one per sample.
        fraction: 0 at the baseline, 1 at the sample.
        seed: takes the output, gives `(target, scores, their gradient)`.
        sites: whether to look at the units of layers too.
        **options: `output`, `logits` and `layers`, as for `forward`.
    """
    here = [between(plan, b, x, fraction) for x, b in zip(inputs, baseline, strict=True)]
    run = forward(plan, _GRADIENT, here, None, **options)
    _, score, slope = seed(run.output.tensor)
    found, _ = backward(run, _GRADIENT, slope, blame=False)
    gradients = [found.get(id(value), tf.zeros_like(value.tensor)) for value in run.inputs]
    values, slopes = _at_sites(run, found) if sites else ({}, {})
    full, full_slopes = _in_full(run, found)
    return Point(score, gradients, (values, full), (slopes, full_slopes))


def _at_sites(run: Forward, found: dict[int, Any]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    values, slopes = {}, {}
    for name, (_, tensors) in run.sites.items():
        known = [value for value in tensors if id(value) in found]
        if known:
            values[name] = [value.tensor for value in known]
            slopes[name] = [found[id(value)] for value in known]
    return values, slopes


def _in_full(run: Forward, found: dict[int, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    values, slopes = {}, {}
    for name, value in run.outputs.items():
        value = run.output if run.from_logits and value.logits is run.output else value
        values[name] = value.tensor
        slopes[name] = found.get(id(value), tf.zeros_like(value.tensor))
    return values, slopes


def values_at(plan: Plan, inputs: list[Any], **options: Any) -> dict[str, Any]:
    """Returns what the layers in `options["layers"]` give out (the logits, where relevance starts from those)."""
    return _in_full(forward(plan, _GRADIENT, inputs, None, **options), {})[0]


def slopes_between(
    plan: Plan, inputs: list[Any], start: dict[str, Any], end: dict[str, Any], fraction: Any, seed: Any, **options: Any
) -> dict[str, Any]:
    """Returns the gradients by what a layer gives out, where that is on the straight way from `start` to `end`.

    Args:
        plan: of the model.
        inputs: the sample, which all layers beside this one go on to read.
        start: what the layer gives out at the baseline, by the names that `values_at` has for it.
        end: the same at the sample.
        fraction: 0 at the start, 1 at the end.
        seed: takes the output, gives `(target, scores, their gradient)`.
        **options: `output`, `logits` and `layers`, as for `forward`.
    """
    own = forward(plan, _GRADIENT, inputs, None, **options)
    # What relevance starts from has one slope everywhere, and stays as it is.
    free = [name for name, value in own.outputs.items() if not (own.from_logits and value.logits is own.output)]
    instead = {name: between(plan, start[name], end[name], fraction) for name in free}
    run = forward(plan, _GRADIENT, inputs, None, **options, instead=instead)
    slope = seed(run.output.tensor)[2]
    found, _ = backward(run, _GRADIENT, slope, blame=False)
    return _in_full(run, found)[1]


class Conducted(NamedTuple):
    """What units and numbers of layers conduct.

    Attributes:
        units: `(samples, units)` by layer.
        at: shaped like the layer's output, by name.
    """

    units: dict[str, Any]
    at: dict[str, Any]


def conducted_at(plan: Plan, slopes: Any, values: list[Any], *, even: bool) -> Conducted:
    """Returns what is conducted around one point: its gradients times what values change there.

    Summed over all points this is the integral of gradient * change, with gradients and values as parabolas through
    three points each, as in Simpson's rule. A point in the middle of a parabola takes 2/3 (y(k + 1) - y(k - 1)), one
    between two of them 2/3 (y(k + 1) - y(k - 1)) - 1/6 (y(k + 2) - y(k - 2)); beyond the ends, y stays what it is.

    Args:
        plan: of the model.
        slopes: of the point, as in `Point`.
        values: those of the points before and after it, then of those two before and two after it.
        even: whether the point lies between two parabolas.
    """
    axes = {site.name: site.axis for site in plan.sites}
    before, after, *farther = values
    units, at = {}, {}
    for name, own in slopes[0].items():
        parts = []
        for number, slope in enumerate(own):
            part = _per_unit(slope * (after[0][name][number] - before[0][name][number]), axes[name], 2.0 / 3.0)
            if even:
                far = farther[1][0][name][number] - farther[0][0][name][number]
                part += _per_unit(slope * far, axes[name], -1.0 / 6.0)
            parts.append(part)
        units[name] = parts[0] if len(parts) == 1 else tf.add_n(parts)
    units = plan.own_units(units)
    for name, slope in slopes[1].items():
        change = (2.0 / 3.0) * (after[1][name] - before[1][name])
        if even:
            change -= (1.0 / 6.0) * (farther[1][1][name] - farther[0][1][name])
        at[name] = slope * change
    return Conducted(units, at)


def _per_unit(part: Any, axis: int, factor: float) -> Any:
    """Returns factor times the sum over positions, `(samples, units)`."""
    rank = len(part.shape)
    axis = axis % rank
    if rank == 2:
        return factor * part
    if axis != rank - 1:
        return factor * tf.reduce_sum(part, axis=[k for k in range(1, rank) if k != axis])
    # A product with a row of one number takes a third of the time that reduce_sum does along a middle axis.
    count = tf.shape(part)
    positions = tf.reduce_prod(count[1:-1])
    row = tf.fill([1, 1, positions], tf.cast(factor, part.dtype))
    summed = tf.matmul(row, tf.reshape(part, [count[0], positions, part.shape[-1]]))
    return tf.reshape(summed, [count[0], part.shape[-1]])
