"""Walks along the way from a baseline: which points are visited, and with which weights."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfprune.relevance.compiled import Compiled


def integrated_gradients(
    compiled: Compiled, inputs: list[Any], baseline: list[Any], indices: Any, steps: int, layers: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The mean gradient along the way, by midpoints; that at each of the `layers` along a way of its own.

    Args:
        compiled: the compiled functions.
        inputs: one tensor per input.
        baseline: the same, with one row or one per sample.
        indices: the classes.
        steps: stretches of the way.
        layers: names of layers to look at.

    Returns:
        The mean gradient by each input; nothing for units; integrated gradients at the layers.
    """
    totals: Any = None
    for fraction in _midpoints(steps):
        totals = _added(totals, compiled.point(inputs, baseline, fraction, indices).gradients, 1.0 / steps)
    if not layers:
        return totals, {}, {}
    whole = [tf.broadcast_to(b, tf.shape(x)) for x, b in zip(inputs, baseline, strict=True)]
    starts, ends = compiled.values(whole), compiled.values(inputs)
    at = {}
    for layer in layers:
        own = [name for name in ends if name == layer or name.startswith((f"{layer}@", f"{layer}:"))]
        start, end = ({name: values[name] for name in own} for values in (starts, ends))
        slopes: Any = None
        for fraction in _midpoints(steps):
            part = compiled.slopes(inputs, start, end, fraction, indices, layer)
            slopes = _added(slopes, part, 1.0 / steps)
        at.update({name: slopes[name] * (end[name] - start[name]) for name in own})
    return totals, {}, at


def conductance(
    compiled: Compiled, inputs: list[Any], baseline: list[Any], indices: Any, steps: int, layers: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """The mean gradient along the way by Simpson's rule, and what units and layers conduct on it.

    Where all behind a unit is smooth, the error falls with the fourth power of the number of steps (its own relu and
    those before it: with the second power). Where a relu behind it switches on the way, the gradient jumps, and the
    error falls with the first power. A step costs a gradient and three passes over all numbers at the units (subtract,
    multiply, sum up; another three at every second point): a quarter to a third of a gradient in a small convolutional
    net, where a tenth was aimed at. The passes are bound by memory; smaller chunks or XLA were slower still.

    Args:
        compiled: the compiled functions.
        inputs: one tensor per input.
        baseline: the same, with one row or one per sample.
        indices: the classes.
        steps: stretches of the way; an odd number is one more.
        layers: names of layers to look at; `compiled` knows them.

    Returns:
        The mean gradient by each input; the conductance of units; that of the numbers of layers.
    """
    steps += steps % 2
    last, totals, conducted = [], None, None
    for step in range(steps + 1):
        fraction = tf.constant(step / steps, "float64")
        weight = (1.0 if step in (0, steps) else 4.0 if step % 2 else 2.0) / (3.0 * steps)
        if step % 2 or not step:
            point = compiled.point(inputs, baseline, fraction, indices)
        else:
            # Before its beginning, the way stays where it begins.
            older = [one.values for one in (last[:2] if len(last) == 4 else last[:1] * 2)]
            point, part = compiled.next_point(inputs, baseline, fraction, indices, last[-2:], older)
            conducted = _added(conducted, part, 1.0)
        totals = _added(totals, point.gradients, weight)
        last = [*last, point][-4:]
    end = compiled.last_conducted(last[-1], last[-3].values, last[-2].values)
    conducted = _added(conducted, end, 1.0)
    return totals, conducted.units, conducted.at


def conductance_by_differences(
    compiled: Compiled, inputs: list[Any], baseline: list[Any], indices: Any, steps: int, layers: tuple[str, ...]
) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Conductance as a chain of comparisons: each stretch with its beginning as the baseline.

    The slope of differences of a relu that switches on a stretch is its share of the stretch, so the error falls with
    the second power of the number of steps in front of relus, too; and inputs, and layers that cut the net in two,
    make up the rise of the output however few steps there are. A step runs the model at both its ends.

    Args and Returns: as for `conductance`; any number of steps.
    """
    totals, conducted = None, None
    for step in range(steps):
        before, after = (tf.constant(number / steps, "float64") for number in (step, step + 1))
        multipliers, part = compiled.stretch(inputs, baseline, before, after, indices)
        totals = _added(totals, multipliers, 1.0 / steps)
        conducted = _added(conducted, part, 1.0)
    return totals, conducted.units, conducted.at


WALKS = {
    "integrated_gradients": integrated_gradients,
    "conductance": conductance,
    "conductance_by_differences": conductance_by_differences,
}
"""The methods that walk, by name."""


def _midpoints(steps: int) -> list[Any]:
    return [tf.constant((step + 0.5) / steps, "float64") for step in range(steps)]


def _added(total: Any, part: Any, weight: float) -> Any:
    """Returns total + weight * part, whatever structure they have."""
    weighted = part if weight == 1.0 else tf.nest.map_structure(lambda x: tf.constant(weight, x.dtype) * x, part)
    return weighted if total is None else tf.nest.map_structure(tf.add, total, weighted)
