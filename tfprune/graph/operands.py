"""Tensors and constant arrays that meet entry by entry, or follow each other, in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.graph.ids import NOTHING
from tfprune.graph.step import Axes, Signal, Step


@dataclass(frozen=True)
class Operand:
    """A tensor among the arguments of a call, or a constant array, which is cut along the units that it meets.

    Attributes:
        axes: ids per axis; None along all axes of a constant.
        shape: length per axis.
        uniform: for each axis whether units next to each other along it hold the same numbers.
        path: where in the call's arguments a constant stands; None for a tensor.
    """

    axes: Axes
    shape: tuple[int | None, ...]
    uniform: tuple[bool, ...]
    path: tuple[str | int, ...] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether this is an array that holds one number per unit, not a tensor."""
        return self.path is not None

    def with_more_axes(self, at: int, count: int) -> Operand:
        """Returns this operand with `count` new axes of length 1 in front of axis `at`."""

        def wider(own: tuple, filler: Any) -> tuple:
            return (*own[:at], *[filler] * count, *own[at:])

        return Operand(wider(self.axes, None), wider(self.shape, 1), wider(self.uniform, True), self.path)


def operand(step: Step, value: Any, *path: str | int) -> Operand:
    """Returns the operand of a call: a signal, a constant array or a number, which stands at `path` in its arguments.

    A variable that stands there is no constant; units that meet it stay.
    """
    if isinstance(value, Signal):
        return Operand(value.axes, value.shape, tuple(step.is_uniform(value, axis) for axis in range(value.rank)))
    shape = tuple(value.shape) if hasattr(value, "shape") else np.shape(value)
    held = hasattr(value, "assign")
    return Operand((None,) * len(shape), shape, (False,) * len(shape), None if held else path)


def operands(step: Step, values: Sequence[Any], name: str) -> list[Operand]:
    """Returns the operands of a call whose first argument, called `name`, is a list of them."""
    place = 0 if step.node.arguments.args else name
    return [operand(step, value, place, number) for number, value in enumerate(values)]


def broadcast(step: Step, given: Sequence[Operand]) -> Axes:
    """Returns the ids after operands of one rank met entry by entry.

    An axis of length 1 that is stretched over units is no part of them: its own units are fixed.
    """
    result = []
    for axis in range(len(given[0].shape)):
        stretched = any(own.shape[axis] != 1 for own in given)
        meeting = []
        for own in given:
            if stretched and own.shape[axis] == 1:
                step.fix(own.axes[axis], "it is stretched over another axis")
            else:
                meeting.append(own)
        result.append(_met(step, meeting, axis))
    return tuple(result)


def _met(step: Step, meeting: list[Operand], axis: int) -> np.ndarray | None:
    """Returns the ids where operands meet along one axis; constants follow what the tensors hold there."""
    tensors = [own for own in meeting if not own.is_constant]
    ids = tensors[0].axes[axis] if tensors else None
    for other in tensors[1:]:
        ids = step.unite(ids, other.axes[axis])
    for own in meeting:
        cut_along(step, own, axis, ids)
    if all(own.uniform[axis] for own in meeting):
        step.uniform(axis)
    return ids


def cut_along(step: Step, own: Operand, axis: int, ids: np.ndarray | None) -> None:
    """Says that an operand, if it is a constant, has one entry for each of `ids` along this axis."""
    if own.is_constant and ids is not None and own.shape[axis] == len(ids):
        # Counted from the back, where no axes have been put in.
        step.argument(own.path, ids, _repeated_along(axis - len(own.shape)))


def _repeated_along(axis: int) -> Callable[[Any, np.ndarray], np.ndarray]:
    return lambda old, counts: np.repeat(keras.ops.convert_to_numpy(old), counts, axis=axis)


def joined(step: Step, given: Sequence[Operand], axis: int) -> Axes:
    """Ids after a concatenation: positions follow each other along `axis`, and meet along every other one."""
    rank = len(given[0].shape)
    axis = axis % rank
    axes: list[np.ndarray | None] = [None if k == axis else _met(step, list(given), k) for k in range(rank)]
    parts = [own.axes[axis] for own in given]
    if all(part is None for part in parts):
        return tuple(axes)
    if any(part is None and own.shape[axis] is None for part, own in zip(parts, given, strict=True)):
        for part in parts:
            step.fix(part, "it is joined to something of unknown length")
        return tuple(axes)
    if all(own.uniform[axis] for own in given if own.axes[axis] is not None):
        step.uniform(axis)
    axes[axis] = np.concatenate(
        [np.full(own.shape[axis], NOTHING) if part is None else part for part, own in zip(parts, given, strict=True)]
    )
    return tuple(axes)
