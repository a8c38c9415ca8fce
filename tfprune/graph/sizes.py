"""Lays two traces of one model beside each other, made at different sizes, and says what in them follows the sizes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations, product
from math import prod
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.ops.numpy import Reshape

from tfprune.graph.tracing import Trace, Traced
from tfprune.layers.opened import Path, Size

_BOOKKEEPING = ("name", "_inbound_nodes", "_outbound_nodes", "_auto_config", "_lock", "_remat_mode", "_tracker")
_MOST_FACTOR = 8
_LARGEST_PART = 4096


class NotAlike(Exception):
    """Two traces differ in something that does not follow the sizes."""


@dataclass(frozen=True)
class Symbol:
    """Lengths of the inputs that are one: the first of them, and what it is in both traces and the run after them."""

    axis: tuple[int, int]
    one: int
    two: int
    three: int


@dataclass(frozen=True, eq=False)
class SizedCall:
    """What in a call follows the sizes.

    Attributes:
        settings: numbers among the settings of the operation, by path.
        arguments: numbers among the arguments, by path.
        arrays: arrays among the arguments, by path: the size of every axis that follows.
        shapes: for each output its shape, None where it follows the sizes.
    """

    settings: dict[Path, Size] = field(default_factory=dict)
    arguments: dict[Path, Size] = field(default_factory=dict)
    arrays: dict[Path, dict[int, Size]] = field(default_factory=dict)
    shapes: list[tuple[int | None, ...]] = field(default_factory=list)


def aligned(one: Trace, two: Trace, symbols: Sequence[Symbol]) -> list[SizedCall]:
    """Returns for each call of the first trace what in it follows the sizes.

    Raises:
        NotAlike: if the traces differ in something else.
    """
    if len(one.calls) != len(two.calls):
        raise NotAlike(f"the code makes {len(one.calls)} calls at one size and {len(two.calls)} at another")
    places = [_places(trace) for trace in (one, two)]
    return [_aligned(a, b, symbols, places) for a, b in zip(one.calls, two.calls, strict=True)]


def _places(trace: Trace) -> dict[int, tuple[int, int]]:
    """Returns which output of which call each tensor is; the inputs are those of call -1."""
    result = {id(tensor): (-1, number) for number, tensor in enumerate(trace.inputs)}
    for number, call in enumerate(trace.calls):
        result.update((id(tensor), (number, k)) for k, tensor in enumerate(call.outputs))
    return result


def _aligned(one: Traced, two: Traced, symbols: Sequence[Symbol], places: list[dict]) -> SizedCall:
    layer = isinstance(one.operation, keras.layers.Layer)
    same = one.operation is two.operation if layer else type(one.operation) is type(two.operation)
    same = same or (type(one.operation) is type(two.operation) and one.name == two.name)
    if not same:
        raise NotAlike(f"the code calls {one.name} at one size and {two.name} at another")
    result = SizedCall(shapes=[_shape(a, b) for a, b in zip(one.outputs, two.outputs, strict=True)])
    if not layer and one.operation is not two.operation:
        for path, a, b in _differences(_settings(one.operation), _settings(two.operation), ()):
            if _is_array(a):
                raise NotAlike(f"{one.name} holds an array that follows the sizes")
            result.settings[path] = _size(a, b, symbols, one.name)
        if result.settings and isinstance(one.operation, Reshape):
            # What is left to be found out says more as a size: where the samples lie, say.
            shapes = one.outputs[0].shape, two.outputs[0].shape
            for place, told in enumerate(one.operation.newshape):
                if told == -1 and shapes[0][place] != shapes[1][place]:
                    result.settings["newshape", place] = _size(*(own[place] for own in shapes), symbols, one.name)
    given = [{**dict(enumerate(call.args)), **call.kwargs} for call in (one, two)]
    for path, a, b in _differences(*given, ()):
        if isinstance(a, keras.KerasTensor) and isinstance(b, keras.KerasTensor):
            if places[0].get(id(a)) != places[1].get(id(b)):
                raise NotAlike(f"{one.name} reads something else at another size")
        elif _is_array(a) and _is_array(b):
            result.arrays[path] = _array_sizes(array_of(a), array_of(b), symbols, one.name)
        elif layer:
            raise NotAlike(f"{one.name} is called with {a} at one size and with {b} at another")
        else:
            result.arguments[path] = _size(a, b, symbols, one.name)
    return result


def _shape(one: Any, two: Any) -> tuple[int | None, ...]:
    if len(one.shape) != len(two.shape):
        raise NotAlike("tensors have other ranks at another size")
    return tuple(a if a == b else None for a, b in zip(one.shape, two.shape, strict=True))


def _settings(operation: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(operation).items() if name not in _BOOKKEEPING}


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or tf.is_tensor(value)


def array_of(value: Any) -> np.ndarray:
    """Returns an array or a tensor as an array, also of a type that NumPy does not know (bfloat16)."""
    return value.numpy() if tf.is_tensor(value) else np.asarray(value)


def _differences(one: Any, two: Any, path: Path) -> Iterator[tuple[Path, Any, Any]]:
    """Yields where two structures differ, with what stands there."""
    if isinstance(one, keras.KerasTensor) or isinstance(two, keras.KerasTensor):
        yield path, one, two
    elif _is_array(one) and _is_array(two):
        if one.shape != two.shape or not np.array_equal(array_of(one), array_of(two)):
            yield path, one, two
    elif isinstance(one, slice) and isinstance(two, slice):
        for name in ("start", "stop", "step"):
            yield from _differences(getattr(one, name), getattr(two, name), (*path, name))
    elif isinstance(one, dict) and isinstance(two, dict) and one.keys() == two.keys():
        for key, value in one.items():
            yield from _differences(value, two[key], (*path, key))
    elif isinstance(one, list | tuple) and isinstance(two, list | tuple) and len(one) == len(two):
        for number, (a, b) in enumerate(zip(one, two, strict=True)):
            yield from _differences(a, b, (*path, number))
    elif type(one) is not type(two) or not _equal(one, two):
        yield path, one, two


def _equal(one: Any, two: Any) -> bool:
    if one is two:
        return True
    plain = isinstance(one, int | float | str | bool | np.generic)
    # Functions and other objects that code makes at every call are taken for the same if they are of one class.
    return bool(one == two) if plain else type(one) is type(two)


def _size(one: Any, two: Any, symbols: Sequence[Symbol], name: str) -> Size:
    """Returns the size that is `one` in the first trace and `two` in the second."""
    if isinstance(one, int | np.integer) and isinstance(two, int | np.integer):
        one, two = int(one), int(two)
        parts: list[Size] = []
        for own in (found for count in (1, 2, 3) for found in combinations(symbols, count)):
            both = [prod(sizes) for sizes in zip(*((symbol.one, symbol.two) for symbol in own), strict=True)]
            if one * both[1] == two * both[0]:
                parts.append((Fraction(one, both[0]), tuple(symbol.axis for symbol in own), 0))
        # A whole number of times says more than a part of it.
        for factor, axes, offset in sorted(parts, key=lambda size: size[0].denominator):
            if factor.denominator <= _LARGEST_PART:
                return (factor.numerator if factor.denominator == 1 else factor), axes, offset
        for symbol in symbols:
            for factor in (*range(1, _MOST_FACTOR), *range(-_MOST_FACTOR, 0)):
                if one - factor * symbol.one == two - factor * symbol.two:
                    return factor, (symbol.axis,), one - factor * symbol.one
    raise NotAlike(f"{name} has {one} at one size and {two} at another, which no size of the inputs explains")


def _array_sizes(one: np.ndarray, two: np.ndarray, symbols: Sequence[Symbol], name: str) -> dict[int, Size]:
    """Returns the sizes of the axes of an array that follow; it must be a part of the one for longer inputs."""
    if one.ndim != two.ndim or one.dtype != two.dtype:
        raise NotAlike(f"{name} reads arrays of other kinds at other sizes")
    axes = [axis for axis, (a, b) in enumerate(zip(one.shape, two.shape, strict=True)) if a != b]
    result = {axis: _size(one.shape[axis], two.shape[axis], symbols, name) for axis in axes}
    if anchors(two, one) is None:
        raise NotAlike(f"{name} reads an array whose numbers change with the size (random ones, say)")
    return result


def anchors(longer: np.ndarray, shorter: np.ndarray) -> dict[int, int] | None:
    """Returns where an array holds another one along the axes in which they differ, None if it does not hold it.

    0 is at the beginning, 2 at the end (distances to the last token, say), 1 in the middle (those of two tokens).
    """
    axes = [axis for axis, (a, b) in enumerate(zip(longer.shape, shorter.shape, strict=True)) if a != b]
    if any(longer.shape[axis] < shorter.shape[axis] for axis in axes):
        return None
    for own in product((0, 2, 1), repeat=len(axes)):
        found = dict(zip(axes, own, strict=True))
        if _same(longer[part_of(longer.shape, shorter.shape, found)], shorter):
            return found
    return None


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays are equal; sines of many numbers at once may round otherwise than those of a few."""
    if one.dtype.kind != "f" or not one.size:
        return np.array_equal(one, other)
    largest = np.abs(other[np.isfinite(other)]).max(initial=0.0)
    return np.allclose(one, other, rtol=0.0, atol=4 * np.finfo(one.dtype).eps * largest, equal_nan=True)


def part_of(longer: Sequence[int], shorter: Sequence[int], found: Mapping[int, int]) -> tuple[slice, ...]:
    """Returns which part of an array another one is, as `anchors` has found."""
    starts = [found.get(axis, 0) * (a - b) // 2 for axis, (a, b) in enumerate(zip(longer, shorter, strict=True))]
    return tuple(slice(start, start + length) for start, length in zip(starts, shorter, strict=True))
