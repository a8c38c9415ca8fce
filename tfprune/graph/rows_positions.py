"""Rows of operations that move positions about, repeat them or pick some of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.ops import core, image, numpy

from tfprune.graph.ids import NOTHING
from tfprune.graph.operands import joined, operand, operands
from tfprune.graph.rows_ops import count_before, operations, unknown
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register

_PICKED = "one of its units is picked by number"


@register(numpy.Stack)
def stack(step: Step, x: Any) -> Axes:
    """Tensors meet along all axes but the new one."""
    given = operands(step, x, "x")
    axis = step.operation.axis % len(step.node.outputs[0].shape)
    signals = [value for value in x if isinstance(value, Signal)]
    if any(own.is_constant for own in given):
        for signal in signals:
            step.fix_axes(signal, "it is stacked with a constant")
    return joined(step, [own.with_more_axes(axis, 1) for own in given], axis)


@register(*operations("Hstack", "Vstack"))
def stack_along(step: Step, xs: Any) -> Axes:
    given = operands(step, xs, "xs")
    if len(given[0].shape) < 2:
        return unknown(step, [value for value in xs if isinstance(value, Signal)])
    return joined(step, given, 1 if isinstance(step.operation, numpy.Hstack) else 0)


@register(numpy.Append)
def append(step: Step, x1: Any, x2: Any) -> Axes:
    if step.operation.axis is None or len(step.node.arguments.args) < 2:
        return unknown(step, [value for value in (x1, x2) if isinstance(value, Signal)])
    return joined(step, [operand(step, x1, 0), operand(step, x2, 1)], step.operation.axis)


@register(core.Unstack)
def unstack(step: Step, x: Signal) -> list[Axes]:
    axis = x.axis(step.operation.axis)
    step.fix(x.axes[axis], _PICKED)
    return [(*x.axes[:axis], *x.axes[axis + 1 :])] * len(step.node.outputs)


@register(numpy.Repeat)
def repeat(step: Step, x: Signal) -> Axes:
    """Every position comes several times in a row: a head of keys for each head of queries that reads it, say."""
    repeats, axis = step.operation.repeats, step.operation.axis
    if axis is None:
        step.fix_axes(x, "all axes are made one")
        return step.untracked()
    ids = x.axes[x.axis(axis)]
    if ids is None:
        return x.axes
    counts = np.atleast_1d(repeats)
    if len(counts) > 1:
        step.fix(ids, "its units are repeated unequally often")
    return x.replaced(axis, np.repeat(ids, counts if len(counts) > 1 else int(counts[0])))


@register(numpy.Tile)
def tile(step: Step, x: Signal) -> Axes:
    repeats = [step.operation.repeats] if isinstance(step.operation.repeats, int) else list(step.operation.repeats)
    rank = max(x.rank, len(repeats))
    repeats = [1] * (rank - len(repeats)) + repeats
    axes = (*[None] * (rank - x.rank), *x.axes)
    return tuple(None if ids is None else np.tile(ids, int(times)) for ids, times in zip(axes, repeats, strict=True))


@register(numpy.Roll)
def roll(step: Step, x: Signal) -> Axes:
    axis = step.operation.axis
    for own in range(x.rank) if axis is None else np.atleast_1d(axis).tolist():
        step.fix(x.axes[x.axis(own)], "its units are shifted")
    return x.axes


@register(numpy.Take)
def take(step: Step, x: Any, indices: Any) -> Axes:
    """Picks positions along one axis: by numbers that are known, or by whole numbers of a tensor."""
    axis = step.operation.axis
    if isinstance(indices, Signal):
        step.fix_axes(indices, "its numbers are taken for places")
    if not isinstance(x, Signal):
        return step.untracked()
    if axis is None:
        step.fix_axes(x, "all axes are made one")
        return step.untracked()
    axis = x.axis(axis)
    ids, picked = x.axes[axis], None
    numbers = None if isinstance(indices, Signal) else np.asarray(indices)
    if ids is not None and numbers is not None and numbers.ndim == 1 and (numbers >= 0).all():
        picked = step.part(ids[numbers])
        place = 1 if len(step.node.arguments.args) > 1 else "indices"
        step.argument((place,), ids, _renumbered)
    else:
        step.fix(ids, _PICKED)
    new = len(step.node.outputs[0].shape) - x.rank + 1
    return (*x.axes[:axis], *[picked] * (new > 0), *[None] * (new - 1), *x.axes[axis + 1 :])


def _renumbered(old: Any, counts: np.ndarray) -> np.ndarray:
    """Returns places among as many positions as there are now: none, one or several for each that there was."""
    counts = counts.astype(int)
    first = np.cumsum(counts) - counts
    found = [np.arange(first[number], first[number] + counts[number]) for number in np.asarray(old)]
    return np.concatenate([np.zeros(0, int), *found])


@register(numpy.Pad)
def pad(step: Step, x: Signal, constant_values: Any = None) -> Axes:
    """Positions without units come in at the ends."""
    widths = [tuple(own) for own in step.operation.pad_width]
    widths = widths * x.rank if len(widths) == 1 else widths
    axes = []
    for ids, (before, after) in zip(x.axes, widths, strict=True):
        if ids is None or not (before or after):
            axes.append(ids)
        elif step.operation.mode == "constant":
            axes.append(np.concatenate([np.full(before, NOTHING), ids, np.full(after, NOTHING)]))
        else:
            step.fix(ids, "numbers from its ends are repeated")
            axes.append(None)
    return tuple(axes)


@register(numpy.BroadcastTo)
def broadcast_to(step: Step, x: Signal) -> Axes:
    """Axes of length 1 are stretched, new ones come in at the front."""
    target = tuple(step.node.outputs[0].shape)
    more = len(target) - x.rank
    axes: list[np.ndarray | None] = [None] * more
    for place, (ids, length) in enumerate(zip(x.axes, x.shape, strict=True), start=more):
        if ids is not None and length == 1 and target[place] != 1:
            step.fix(ids, "it is stretched over another axis")
            ids = None
        axes.append(ids)
        step.size(("shape", place), ids)
    return tuple(axes)


@register(core.Slice)
def slice_of(step: Step, inputs: Signal, start_indices: Any, shape: Any = None) -> Axes:
    """The shape is a setting, or in old versions of Keras an argument of the call."""
    if shape is not None:
        return unknown(step, [inputs])
    starts = list(start_indices) if isinstance(start_indices, list | tuple) else None
    axes = []
    place = 1 if len(step.node.arguments.args) > 1 else "start_indices"
    for axis, (ids, length) in enumerate(zip(inputs.axes, step.operation.shape, strict=True)):
        if ids is None:
            axes.append(None)
        elif starts is None or not isinstance(starts[axis], int) or not isinstance(length, int):
            step.fix(ids, _PICKED)
            axes.append(None)
        else:
            start = starts[axis]
            part = ids[start:] if length == -1 else ids[start : start + length]
            if start:
                step.argument((place, axis), ids, count_before(start))
            step.size(("shape", axis), part)
            axes.append(step.part(part))
    return tuple(axes)


@register(image.Resize)
def resize(step: Step, images: Signal) -> Axes:
    """Each channel by itself, along the spatial axes."""
    axis = images.axis(-3 if step.operation.data_format == "channels_first" else -1)
    step.fix_axes(images, "this axis is resized", keep=[axis])
    return tuple(images.axes[k] if k == axis else None for k in range(images.rank))


@register(image.ExtractPatches)
def extract_patches(step: Step, images: Signal) -> Axes:
    """The channels of every position of a patch follow each other."""
    axis = 1 if step.operation.data_format == "channels_first" else images.rank - 1
    step.fix_axes(images, "patches are taken along this axis", keep=[axis])
    ids = images.axes[axis]
    made = step.node.outputs[0].shape
    if ids is None:
        return step.untracked()
    own = np.tile(ids, made[axis] // len(ids))
    return tuple(own if k == axis else None for k in range(len(made)))


@register(*operations("Diff", "Tril", "Triu"))
def along_one_axis(step: Step, x: Signal, *args: Any) -> Axes:
    """Neighbours are taken from each other, or a triangle is cut out: positions along these axes stay."""
    axis = getattr(step.operation, "axis", None)
    axes = [x.rank - 2, x.rank - 1] if axis is None else [x.axis(axis)]
    for own in axes:
        step.fix(x.axes[own], "its units are no longer by themselves")
    return tuple(None if axis in axes else ids for axis, ids in enumerate(x.axes))
