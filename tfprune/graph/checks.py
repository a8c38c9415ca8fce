"""What a row of the table says is checked when it says it: said wrongly, it would fail far away and without a name."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def check_weight(variable: Any, axes: Sequence[Any]) -> None:
    """Raises ValueError unless there is an entry for each axis of a weight, and ids for each position along it."""
    shape, name = tuple(variable.shape), getattr(variable, "path", variable)
    if len(axes) != len(shape):
        raise ValueError(
            f"step.weight: {name!r} has the shape {shape}, so that ids or None are expected for each of its "
            f"{len(shape)} axes; received {len(axes)}."
        )
    _check_lengths(axes, shape, f"step.weight: {name!r}")


def check_outputs(outputs: Sequence[Any], shapes: Sequence[tuple[int | None, ...]], row: str) -> None:
    """Raises TypeError unless a row has returned axes that fit the outputs of the call."""
    for axes, shape in zip(outputs, shapes, strict=False):
        if not isinstance(axes, tuple) or len(axes) != len(shape):
            raise TypeError(
                f"{row}: it must return a tuple of ids or None for each of the {len(shape)} axes of an output, such as "
                f"inputs.axes; received {axes!r}."
            )
    if len(outputs) != len(shapes):
        raise TypeError(
            f"{row}: it must return a list with one tuple for each of the {len(shapes)} outputs; received "
            f"{len(outputs)}."
        )
    for axes, shape in zip(outputs, shapes, strict=True):
        try:
            _check_lengths(axes, shape, "an output")
        except ValueError as error:
            raise TypeError(f"{row}: {error}") from error


def _check_lengths(axes: Sequence[Any], shape: Sequence[int | None], what: str) -> None:
    for axis, (ids, length) in enumerate(zip(axes, shape, strict=True)):
        if ids is None:
            continue
        if not isinstance(ids, np.ndarray) or ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise ValueError(f"{what} expects ids, a vector of integers, or None along axis {axis}; received {ids!r}.")
        if length is not None and len(ids) != length:
            raise ValueError(
                f"{what} of the shape {tuple(shape)} expects {length} ids along axis {axis}, received {len(ids)}."
            )


def named(function: Callable, layer: Any, name: str, what: str) -> Callable:
    """Wraps what a row has given for later, so that a failure then names the row, the layer and what it was for."""

    @functools.wraps(function)
    def told(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise TypeError(
                f"The row for {type(layer).__name__} has told for {name!r} {what} that fails: {type(error).__name__}: "
                f"{error}"
            ) from error

    return told
