"""Orders that do not hang on rounding: what is equal but for it goes by its place.

The last bits of a sum depend on the processor. Without care they choose which of two clones is cut.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

RELATIVE = 1e-6
"""What differs by less than this share of itself is equal."""


def rising_order(values: np.ndarray, *, absolute: float = 0.0) -> np.ndarray:
    """Returns the positions of values from the lowest to the highest; of equal ones the first comes first.

    Equal are those that exceed the lowest of them by a millionth of itself, or by `absolute`, at most. So no two that
    differ by more are ever exchanged, however many lie between them. Whole numbers are equal if they are the same.

    Args:
        values: numbers without NaN, `(n,)`.
        absolute: in the unit of the values.

    Returns:
        Positions, `(n,)`.

    Example:
        >>> rising_order(np.array([2.0, 1.0 + 1e-9, 3.0, 1.0])).tolist()
        [1, 3, 0, 2]
    """
    order = np.argsort(values, kind="stable")
    if values.dtype.kind != "f":
        return order  # Whole numbers are not rounded.
    rising = np.asarray(values, "float64")[order]
    limits, rising = _limits(rising, absolute).tolist(), rising.tolist()
    starts, place = [], 0
    while place < len(rising):
        starts.append(place)
        place = bisect_right(rising, limits[place], lo=place)
    classes = np.repeat(np.arange(len(starts)), np.diff([*starts, len(rising)]))
    return order[np.lexsort((order, classes))]


def first_lowest(values: np.ndarray, *, absolute: float = 0.0) -> int:
    """Returns the position of the lowest of some values; of equal ones, as `rising_order` has it, the first.

    Example:
        >>> first_lowest(np.array([2.0, 1.0 + 1e-9, 1.0]))
        1
    """
    values = np.asarray(values, "float64")
    return int(np.argmax(values <= _limits(values.min(), absolute)))


def _limits(lowest: np.ndarray, absolute: float) -> np.ndarray:
    """Returns up to where values are equal to `lowest`; infinite ones are equal to themselves alone."""
    finite = np.isfinite(lowest)
    return np.where(finite, lowest + np.maximum(RELATIVE * np.abs(np.where(finite, lowest, 0.0)), absolute), lowest)
