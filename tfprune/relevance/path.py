"""Gradients added up on the straight way from a baseline to a sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import tensorflow as tf

from tfprune.relevance.composites import PRESETS
from tfprune.relevance.propagate import Forward, Plan, backward, forward


class Point(NamedTuple):
    """A model at one point of the way.

    Attributes:
        score: the number that is explained, `(samples,)`.
        gradients: its gradient by each input.
        values: the tensors at the sites, by name.
        slopes: the gradients there, by name.
    """

    score: Any
    gradients: list[Any]
    values: dict[str, list[Any]]
    slopes: dict[str, list[Any]]


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
        **options: `output` and `logits`, as for `forward`.
    """
    fraction = tf.cast(fraction, plan.dtype)
    here = []
    for x, b in zip(inputs, baseline, strict=True):
        x, b = tf.cast(x, plan.dtype), tf.cast(b, plan.dtype)
        here.append(b + fraction * (x - b))
    run = forward(plan, PRESETS["gradient"], here, None, **options)
    _, score, slope = seed(run.output.tensor)
    found, _ = backward(run, PRESETS["gradient"], slope, blame=False)
    gradients = [found.get(id(value), tf.zeros_like(value.tensor)) for value in run.inputs]
    values, slopes = _at_sites(run, found) if sites else ({}, {})
    return Point(score, gradients, values, slopes)


def _at_sites(run: Forward, found: dict[int, Any]) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    values, slopes = {}, {}
    for name, (_, tensors) in run.sites.items():
        known = [value for value in tensors if id(value) in found]
        if known:
            values[name] = [value.tensor for value in known]
            slopes[name] = [found[id(value)] for value in known]
    return values, slopes


def conductance_between(plan: Plan, one: Point, other: Point) -> dict[str, Any]:
    """Returns what each unit conducts between two points: the mean gradient times the change, `(samples, units)`.

    Summed along the way this is, up to its ends, the gradient at each point times half of the change between its
    neighbours: the gradient in the middle of each stretch.
    """
    axes = {site.name: site.axis for site in plan.sites}
    units = {}
    for name, values in other.values.items():
        axis = axes[name] % len(values[0].shape)
        others = [k for k in range(1, len(values[0].shape)) if k != axis]
        parts = []
        for before, after, g0, g1 in zip(one.values[name], values, one.slopes[name], other.slopes[name], strict=True):
            part = (g0 + g1) * (after - before)
            parts.append(0.5 * (tf.reduce_sum(part, axis=others) if others else part))
        units[name] = parts[0] if len(parts) == 1 else tf.add_n(parts)
    return units
