"""Rows of the layers in which several tensors meet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from keras import layers

from tfprune.graph.ids import NOTHING
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


def broadcast(step: Step, operands: Sequence[tuple[Axes, tuple]]) -> Axes:
    """Returns the ids after tensors of one rank met entry by entry; each operand is `(axes, shape)`.

    An axis of length 1 that is stretched over units is no part of them: its own units are fixed.
    """
    result = []
    for axis in range(len(operands[0][0])):
        column = [(axes[axis], shape[axis]) for axes, shape in operands]
        stretched = any(length != 1 for _, length in column)
        meeting = []
        for ids, length in column:
            if stretched and length == 1:
                step.fix(ids, "it is stretched over another axis")
            else:
                meeting.append(ids)
        ids = meeting[0]
        for other in meeting[1:]:
            ids = step.unite(ids, other)
        result.append(ids)
    return tuple(result)


def aligned_left(signal: Signal, rank: int) -> tuple[Axes, tuple]:
    """A merge layer gives a tensor of lower rank new axes of length 1 behind its batch axis."""
    more = rank - signal.rank
    return (signal.axes[0], *[None] * more, *signal.axes[1:]), (signal.shape[0], *[1] * more, *signal.shape[1:])


@register(layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
def merge(step: Step, inputs: Sequence[Signal]) -> Axes:
    rank = max(signal.rank for signal in inputs)
    return broadcast(step, [aligned_left(signal, rank) for signal in inputs])


@register(layers.Concatenate)
def concatenate(step: Step, inputs: Sequence[Signal]) -> Axes:
    return joined(step, inputs, step.operation.axis)


def joined(step: Step, inputs: Sequence[Signal], axis: int) -> Axes:
    """Ids after a concatenation: positions follow each other along `axis`, and meet along every other one."""
    axis = inputs[0].axis(axis)
    axes = list(inputs[0].axes)
    for signal in inputs[1:]:
        for other in range(len(axes)):
            if other != axis:
                axes[other] = step.unite(axes[other], signal.axes[other])
    parts = [signal.axes[axis] for signal in inputs]
    if all(part is None for part in parts):
        axes[axis] = None
    elif any(part is None and signal.shape[axis] is None for part, signal in zip(parts, inputs, strict=True)):
        for part in parts:
            step.fix(part, "it is joined to something of unknown length")
        axes[axis] = None
    else:
        axes[axis] = np.concatenate(
            [
                np.full(signal.shape[axis], NOTHING) if part is None else part
                for part, signal in zip(parts, inputs, strict=True)
            ]
        )
    return tuple(axes)


@register(layers.Dot)
def dot(step: Step, inputs: Sequence[Signal]) -> Axes:
    one, other = inputs
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
def attention(step: Step, inputs: Sequence[Signal], mask=None, **kwargs) -> Axes | list[Axes]:
    """Query and key are summed over their last axis; value passes."""
    query, value = inputs[0], inputs[1]
    key = inputs[2] if len(inputs) > 2 else value
    product_contraction(step, query, -1, key, -1)
    if isinstance(step.operation, layers.AdditiveAttention):
        step.weight(step.operation.scale, query.axes[-1])
    for signal in (query, value, key):
        step.fix_axes(signal, "attention mixes the positions along this axis", keep=[-1])
    output = (*[None] * (query.rank - 1), value.axes[-1])
    return [output, step.untracked(1)] if len(step.node.outputs) == 2 else output
