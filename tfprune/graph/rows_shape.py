"""Rows of the layers that move positions about: pooling, padding, flatten, reshape, permute."""

from __future__ import annotations

import math

import numpy as np
from keras import layers

from tfprune.graph.rows_kernel import channel_axis
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


def layer_classes(*names: str) -> list[type]:
    """Returns those of the named classes of `keras.layers` that this version of Keras has."""
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


_LOCAL_1D = layer_classes("ZeroPadding1D", "Cropping1D", "UpSampling1D")
_LOCAL = layer_classes(
    *[f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)],
    *[f"Adaptive{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)],
    *[f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (2, 3)],
    *["Resizing", "CenterCrop"],
)


@register(*_LOCAL)
def local(step: Step, inputs: Signal, *args, **kwargs) -> Axes:
    """Pooling, padding, cropping, resizing: each channel by itself, along the spatial axes."""
    if len(step.node.outputs[0].shape) != inputs.rank:
        step.wall(f"it is made for another rank than {inputs.rank}", [inputs])
        return step.untracked()
    axis = channel_axis(step.operation, inputs)
    step.fix_axes(inputs, "this axis is pooled, padded, cropped or resized", keep=[axis])
    return tuple(inputs.axes[k] if k == axis else None for k in range(inputs.rank))


@register(*_LOCAL_1D)
def local_along_time(step: Step, inputs: Signal) -> Axes:
    """The same for the layers of rank one that only know channels last."""
    step.fix_axes(inputs, "this axis is padded, cropped or repeated", keep=[-1])
    return (None, None, inputs.axes[-1])


@register(*layer_classes(*[f"Global{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)]))
def global_pooling(step: Step, inputs: Signal, mask=None) -> Axes:
    axis = channel_axis(step.operation, inputs)
    step.fix_axes(inputs, "this axis is pooled", keep=[axis])
    channels = inputs.axes[axis]
    if not step.operation.keepdims:
        return (None, channels)
    return tuple(channels if k == axis else None for k in range(inputs.rank))


@register(layers.Flatten)
def flatten(step: Step, inputs: Signal) -> Axes:
    if inputs.rank == 1:
        return (None, None)
    axes, shape = inputs.axes, inputs.shape
    if step.operation.data_format == "channels_first" and inputs.rank > 2:
        axes, shape = (axes[0], *axes[2:], axes[1]), (shape[0], *shape[2:], shape[1])
    length = None if None in shape[1:] else math.prod(shape[1:])
    return reshaped(step, axes, shape, (shape[0], length))


@register(layers.Reshape)
def reshape(step: Step, inputs: Signal) -> Axes:
    target = tuple(step.operation.compute_output_shape(inputs.shape))
    axes = reshaped(step, inputs.axes, inputs.shape, target)
    for place, ids in enumerate(axes[1:]):
        step.size(("target_shape", place), ids)
    return axes


@register(layers.Permute)
def permute(step: Step, inputs: Signal) -> Axes:
    return tuple(inputs.axes[axis] for axis in (0, *step.operation.dims))


@register(layers.RepeatVector)
def repeat_vector(step: Step, inputs: Signal) -> Axes:
    return (inputs.axes[0], None, inputs.axes[1])


def reshaped(step: Step, axes: Axes, shape: tuple, target: tuple) -> Axes:
    """Returns the ids along each axis after a reshape from `shape` to `target` that keeps the order of the entries.

    Axes that the reshape leaves alone at the front and at the back pass through. Of the axes between, the first one
    that carries units goes on doing so. If afterwards one axis tells the units apart, it carries them; otherwise the
    units that share a position of one axis become one: of the last axis but one where a sequence's channels are parted
    (into the heads of attention), of the last one elsewhere.
    """
    front, back = _left_alone(shape, target)
    middle = slice(front, len(shape) - back), slice(front, len(target) - back)
    head, tail = axes[:front], axes[len(axes) - back :] if back else ()
    parted = len(shape) == 3 and middle[0] == slice(2, 3) and len(target) > 3
    inner = _reshaped_middle(step, axes[middle[0]], shape[middle[0]], target[middle[1]], parted)
    return (*head, *inner, *tail)


def _left_alone(shape: tuple, target: tuple) -> tuple[int, int]:
    """Returns how many axes at the front and at the back pass, so that those between hold as many entries as before.

    Where tokens are parted into samples and positions, lengths may be equal by chance.
    """
    for front in range(_untouched(shape, target), -1, -1):
        start = -len(shape) - 1 if front == 0 else front - 1
        back = _untouched(shape[:start:-1], target[: -len(target) - 1 if front == 0 else start : -1])
        one, other = shape[front : len(shape) - back], target[front : len(target) - back]
        if None in one or None in other:
            if None in one and None in other:
                return front, back
        elif math.prod(one) == math.prod(other):
            return front, back
    return 0, 0


def _untouched(shape: tuple, target: tuple) -> int:
    """Counts the equal lengths at the front of both shapes (the unknown batch counts as equal)."""
    count = 0
    for one, other in zip(shape, target, strict=False):
        if one != other:
            break
        count += 1
    return count


def _reshaped_middle(step: Step, axes: Axes, shape: tuple, target: tuple, parted: bool) -> Axes:
    carriers = [axis for axis, ids in enumerate(axes) if ids is not None]
    if not carriers:
        return (None,) * len(target)
    unknown = None in shape or None in target or not target
    for axis in carriers if unknown else carriers[1:]:
        step.fix(axes[axis], "a reshape mixes its units with an axis that cannot be followed")
    if unknown:
        return (None,) * len(target)
    ids = axes[carriers[0]].reshape([-1 if axis == carriers[0] else 1 for axis in range(len(shape))])
    ids = np.broadcast_to(ids, shape).reshape(target)
    for axis in reversed(range(len(target))):
        lines = np.moveaxis(ids, axis, 0).reshape(target[axis], -1)
        if (lines == lines[:, :1]).all():
            return _only(axis, lines[:, 0], len(target))
    carrier = len(target) - 1 - (parted and step.in_blocks(ids))
    lines = np.moveaxis(ids, carrier, 0).reshape(target[carrier], -1)
    for column in range(1, lines.shape[1]):
        step.unite(lines[:, 0], lines[:, column])
    return _only(carrier, lines[:, 0], len(target))


def _only(axis: int, ids: np.ndarray, rank: int) -> Axes:
    return tuple(ids if k == axis else None for k in range(rank))
