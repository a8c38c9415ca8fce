"""Rows of the layers in which several tensors meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import layers

from tfprune.graph.operands import broadcast, joined, operands
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


@register(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
def merge(step: Step, inputs: Sequence[Any]) -> Axes:
    """Tensors of lower rank get new axes of length 1 behind their batch axis."""
    given = operands(step, inputs, "inputs")
    rank = max(len(own.shape) for own in given)
    return broadcast(step, [own.with_more_axes(1, rank - len(own.shape)) for own in given])


@register(layers.Concatenate)
def concatenate(step: Step, inputs: Sequence[Any]) -> Axes:
    return joined(step, operands(step, inputs, "inputs"), step.operation.axis)


@register(layers.Dot)
def dot(step: Step, inputs: Sequence[Any]) -> Axes:
    one, other = inputs
    if not (isinstance(one, Signal) and isinstance(other, Signal)):
        step.wall("it multiplies with a constant", [x for x in inputs if isinstance(x, Signal)])
        return step.untracked()
    axes = step.operation.axes
    axes = (axes, axes) if isinstance(axes, int) else tuple(axes)
    first, second = one.axis(axes[0]), other.axis(axes[1])
    if step.operation.normalize:
        step.fix(one.axes[first], "a dot product of normalized vectors")
        step.fix(other.axes[second], "a dot product of normalized vectors")
    product_contraction(step, one, first, other, second)
    left = [ids for axis, ids in enumerate(one.axes) if axis != first]
    right = [ids for axis, ids in enumerate(other.axes) if axis not in (0, second)]
    if one.rank == 2 and other.rank == 2:
        return (None, None)
    return (*left, *right)


def product_contraction(step: Step, one: Signal, first: int, other: Signal, second: int) -> None:
    """Two tensors are multiplied and summed over an axis that both have: their units are one, and end here."""
    step.unite(one.axes[first], other.axes[second])
    step.contract(one, first, kernel=False)
    step.contract(other, second, kernel=False)


@register(layers.Attention, layers.AdditiveAttention)
def attention(step: Step, inputs: Sequence[Any], mask=None, **kwargs) -> Axes | list[Axes]:
    """Query and key are summed over their last axis; value passes."""
    if not all(isinstance(x, Signal) for x in inputs):
        step.wall("it attends to a constant", [x for x in inputs if isinstance(x, Signal)])
        return [step.untracked(k) for k in range(len(step.node.outputs))]
    query, value = inputs[0], inputs[1]
    key = inputs[2] if len(inputs) > 2 else value
    product_contraction(step, query, -1, key, -1)
    if isinstance(step.operation, layers.AdditiveAttention):
        step.weight(step.operation.scale, query.axes[-1])
    for signal in (query, value, key):
        step.fix_axes(signal, "attention mixes the positions along this axis", keep=[-1])
    output = (*[None] * (query.rank - 1), value.axes[-1])
    return [output, step.untracked(1)] if len(step.node.outputs) == 2 else output
