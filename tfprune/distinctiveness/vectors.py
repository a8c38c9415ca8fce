"""The vectors of units, known by their second moments alone: one value per pattern, but no pattern is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SAME_ANGLE = 1e-3
"""Degrees by which angles may differ through the rounding of activations."""


@dataclass(frozen=True, eq=False)
class Vectors:
    """What is known of the vectors of some units.

    Attributes:
        mean: the mean of each unit over patterns, `(units,)`.
        covariance: covariances over patterns, `(units, units)`.
        centre: what is taken from each unit's values before angles are measured, `(units,)`.
        count: how many patterns there were.
    """

    mean: np.ndarray
    covariance: np.ndarray
    centre: np.ndarray
    count: int

    @property
    def products(self) -> np.ndarray:
        """Mean products of the centred values, `(units, units)`."""
        off = self.mean - self.centre
        return self.covariance + np.outer(off, off)

    @property
    def lengths(self) -> np.ndarray:
        """Root mean squares of the centred values, `(units,)`."""
        return np.sqrt(np.maximum(np.diagonal(self.products), 0.0))

    @property
    def deviations(self) -> np.ndarray:
        """Standard deviations, `(units,)`."""
        return np.sqrt(np.maximum(np.diagonal(self.covariance), 0.0))

    def angles(self) -> np.ndarray:
        """Returns the angle between each two vectors in degrees, `(units, units)`; 90 where one has no length."""
        lengths = self.lengths
        both = np.outer(lengths, lengths)
        cosines = np.divide(self.products, both, out=np.zeros_like(both), where=both > 0)
        angles = np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0)))
        np.fill_diagonal(angles, 0.0)
        return angles

    def factors(self) -> np.ndarray:
        """Returns by what each unit (row) is to be multiplied to stand in for each other one (column), centred."""
        squares = self.lengths[:, None] ** 2
        return np.divide(self.products, squares, out=np.zeros_like(self.products), where=squares > 0)

    def offsets(self) -> np.ndarray:
        """Returns what is then to be added, `(units, units)`: `centre_j - factor_ij centre_i`."""
        return self.centre[None, :] - self.factors() * self.centre[:, None]

    def stand_in(self, unit: int, partners: Sequence[int]) -> tuple[np.ndarray, float]:
        """Returns the factors of partners that come closest to a unit, and what is to be added."""
        partners = list(partners)
        factors = np.linalg.lstsq(self.products[np.ix_(partners, partners)], self.products[partners, unit], rcond=None)[
            0
        ]
        return factors, float(self.centre[unit] - factors @ self.centre[partners])

    def around(self, centre: np.ndarray | float) -> Vectors:
        """Returns the same vectors with another centre."""
        return Vectors(self.mean, self.covariance, np.broadcast_to(centre, self.mean.shape), self.count)


def pooled(mean: np.ndarray, covariance: np.ndarray, units: np.ndarray, size: int, count: int) -> Vectors | None:
    """Returns the vectors of units from the moments of channels, around zero.

    Args:
        mean: of each channel, `(channels,)`.
        covariance: of the channels, `(channels, channels)`.
        units: the unit of each channel, `(channels,)`; others than 0 to `size - 1` are left out.
        size: how many units there are.
        count: how many patterns each channel has.

    Returns:
        The vectors, where the k-th channel of a unit is paired with the k-th ones of the others; None if units have
        different numbers of channels.
    """
    own = [np.flatnonzero(units == unit) for unit in range(size)]
    number = len(own[0])
    if not number or any(len(channels) != number for channels in own):
        return None
    if number == 1:
        (take,) = np.stack(own, axis=1)
        return Vectors(mean[take], covariance[np.ix_(take, take)], np.zeros(size), count)
    raw, total = np.zeros((size, size)), np.zeros(size)
    for take in np.stack(own, axis=1):
        raw += covariance[np.ix_(take, take)] + np.outer(mean[take], mean[take])
        total += mean[take]
    total /= number
    return Vectors(total, raw / number - np.outer(total, total), np.zeros(size), count * number)
