"""Points of the plane in two classes: the circle and the two spirals."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np

Split = tuple[np.ndarray, np.ndarray]

CIRCLE_RADIUS = math.sqrt(2.0 / math.pi)


def circle_radius(*, as_published: bool = False) -> float:
    """Radius of the circle whose inside is class 0 in :func:`circle`.

    Args:
        as_published: Whether the published listing's circle is meant instead of the text's.

    Returns:
        ``sqrt(2 / pi)`` = 0.798, or its square root 0.893 for the listing.

    Example:
        >>> round(circle_radius(), 3), round(circle_radius(as_published=True), 3)
        (0.798, 0.893)
    """
    return math.sqrt(CIRCLE_RADIUS) if as_published else CIRCLE_RADIUS


def circle(num_points: int, seed: int, *, as_published: bool = False) -> Split:
    """Points of a square, labelled by whether they lie outside a circle.

    The points are uniform on ``[-1, 1]^2`` and ``y = 1`` outside the circle of radius ``sqrt(2 / pi)`` around the
    origin. That circle covers half of the square, so the two classes are equally likely.

    The listing that was published with this data set compares the *squared* distance with ``sqrt(2 / pi)``. Its
    circle has radius ``(2 / pi) ** (1 / 4)`` = 0.893, and only ``1 - pi / 4 * sqrt(2 / pi)`` = 0.373 of the points lie
    outside, not the half that its text asks for. ``as_published=True`` gives that variant.

    Args:
        num_points: Number of points, at least 1.
        seed: Seed of the random generator; the same seed gives the same points in both variants.
        as_published: Whether to use the listing's circle instead of the text's.

    Returns:
        ``x`` float32 of shape ``(num_points, 2)`` and ``y`` int64 of shape ``(num_points,)``.

    Raises:
        TypeError: If ``num_points`` is not an integer.
        ValueError: If ``num_points`` is below 1.

    Example:
        >>> x, y = circle(100_000, seed=0)
        >>> round(float(y.mean()), 2)
        0.5
        >>> round(float(circle(100_000, seed=0, as_published=True)[1].mean()), 2)
        0.37

    Reference:
        Hobson, "Exploring toy neural nets under node removal", training code.
    """
    _check_count("circle", num_points)
    x = np.random.default_rng(seed).uniform(-1.0, 1.0, size=(int(num_points), 2)).astype(np.float32)
    return x, outside_circle(x, as_published=as_published)


def outside_circle(points: np.ndarray, *, as_published: bool = False) -> np.ndarray:
    """The labels of :func:`circle` for given points, such as those of a grid.

    Args:
        points: Shape ``(n, 2)``.
        as_published: Whether to use the listing's circle instead of the text's.

    Returns:
        int64 of shape ``(n,)``: 1 outside the circle, 0 inside.

    Example:
        >>> outside_circle(np.array([[0.0, 0.0], [0.85, 0.0]])).tolist()
        [0, 1]
    """
    distance = np.sqrt(np.sum(np.square(points, dtype=np.float64), axis=1))
    return (distance > circle_radius(as_published=as_published)).astype(np.int64)


def spiral(num_points: int, seed: int, *, turns: float = 1.5, noise: float = 0.02) -> Split:
    """Points on two spirals that wind around each other, one for each class.

    A point at the share ``t`` of its arm lies at the radius ``t`` and the angle ``2 pi turns t``, the arm of class 1
    turned by half a circle; ``t`` is spread so that points are equally dense along the arm's radius. Points alternate
    between the classes, so that both have equally many.

    Args:
        num_points: Number of points, at least 1.
        seed: Seed of the random generator.
        turns: How often each arm winds around the origin.
        noise: Standard deviation of what is added to both coordinates, in units of the arm's length.

    Returns:
        ``x`` float32 of shape ``(num_points, 2)``, within about ``[-1, 1]^2``, and ``y`` int64 of shape
        ``(num_points,)``.

    Raises:
        TypeError: If ``num_points`` is not an integer.
        ValueError: If ``num_points`` is below 1, ``turns`` not above 0 or ``noise`` below 0.

    Example:
        >>> x, y = spiral(1000, seed=0)
        >>> x.shape, float(y.mean())
        ((1000, 2), 0.5)

    Reference:
        Hobson, "Prune first or train first", the spiral data; the exact parameters are not published.
    """
    _check_count("spiral", num_points)
    for name, value, fits in (("turns", turns, turns > 0), ("noise", noise, noise >= 0)):
        if not fits or not math.isfinite(value):
            raise ValueError(
                f"spiral: expected {name} {'above 0' if name == 'turns' else 'of at least 0'}, received {value!r}."
            )
    generator = np.random.default_rng(seed)
    y = np.arange(int(num_points)) % 2
    share = generator.uniform(0.0, 1.0, size=len(y))
    angle = 2.0 * math.pi * turns * share + math.pi * y
    arms = share[:, np.newaxis] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x = arms + noise * generator.standard_normal((len(y), 2))
    return x.astype(np.float32), y.astype(np.int64)


def _check_count(where: str, num_points: Any) -> None:
    if isinstance(num_points, bool) or not isinstance(num_points, numbers.Integral):
        raise TypeError(f"{where}: expected num_points as an integer, received {num_points!r}.")
    if num_points < 1:
        raise ValueError(f"{where}: expected num_points of at least 1, received {num_points}.")
