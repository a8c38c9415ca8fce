"""Second moments of the units of several models on the same points, in one streaming pass.

Nothing is of the size points x points, nor, where models are given, of the size points x units.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

SMALLEST_SHARE = 1e-11
"""Eigenvalues below so much of the largest are the rounding of activations, and no direction."""


class Covariances:
    """Sums of products of deviations from the mean, within models and between each two of them, in float64.

    Args:
        widths: the number of units of each model.
        own: what is kept within a model: "squares" alone, or the whole "matrix" of products.
        fourth: whether products of squared lengths of points are summed too, as unbiased measures need them.

    Attributes:
        count: the number of points.
        means: of each model, `(units,)`.
        squares: of each model, `(units,)`.
        own: of each model, `(units, units)`; empty if not asked for.
        cross: by `(i, j)`, i < j, `(units of i, units of j)`.
    """

    def __init__(self, widths: Sequence[int], *, own: str = "matrix", fourth: bool = False):
        self.count = 0
        self.means = [np.zeros(width) for width in widths]
        self.squares = [np.zeros(width) for width in widths]
        self.own = [np.zeros((width, width)) for width in widths] if own == "matrix" else []
        self.cross = {(i, j): np.zeros((widths[i], widths[j])) for i, j in combinations(range(len(widths)), 2)}
        self._lengths = _Lengths(widths) if fourth else None
        self._room = [np.empty((0, width)) for width in widths]

    def add(self, rows: Sequence[np.ndarray]) -> None:
        """Adds points: one array `(points, units)` per model.

        Reference: T. F. Chan, G. H. Golub, R. J. LeVeque (1979), "Updating formulae and a pairwise algorithm for
        computing sample variances", equation 2.1.
        """
        added = len(rows[0])
        if not added:
            return
        centred, rests, steps = [], [], []
        for number, values in enumerate(rows):
            own, centre = self._centred(number, values)
            # The centre is near the mean, which is all that the products ask for; this is what it lacks.
            rest = np.full(added, 1 / added) @ own
            centred.append(own)
            rests.append(rest)
            steps.append(centre + rest - self.means[number])
        if self._lengths is not None:
            self._lengths.add(centred, [mean + d - e for mean, d, e in zip(self.means, steps, rests, strict=True)])
        total = self.count + added
        weight = self.count * added / total
        for number, own in enumerate(centred):
            if self.own:
                _add_product(self.own[number], own, own)
                self.own[number] += _outer(rests, steps, number, number, added, weight)
                self.squares[number] = np.diagonal(self.own[number]).copy()
            else:
                self.squares[number] += np.einsum("pd,pd->d", own, own)
                self.squares[number] += weight * steps[number] ** 2 - added * rests[number] ** 2
            self.means[number] += steps[number] * (added / total)
        for (i, j), matrix in self.cross.items():
            _add_product(matrix, centred[i], centred[j])
            matrix += _outer(rests, steps, i, j, added, weight)
        self.count = total

    def _centred(self, number: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns values less a centre, and the centre, `(units,)`; the same memory serves again and again."""
        points = len(values)
        kind = values.dtype if values.dtype in ("float32", "float64") else np.dtype("float64")
        centre = (np.full(points, 1 / points, kind) @ values.astype(kind, copy=False)).astype("float64")
        if len(self._room[number]) < points:
            self._room[number] = np.empty(values.shape)
        return np.subtract(values, centre, out=self._room[number][:points]), centre

    def products(self, i: int, j: int) -> np.ndarray:
        """Returns the sums of products between two models, `(units of i, units of j)`."""
        if i == j:
            return self.own[i]
        return self.cross[i, j] if i < j else self.cross[j, i].T

    def squared_lengths(self, i: int, j: int) -> float:
        """Returns the sum over points of the products of their squared distances from the mean, in models i and j."""
        return self._lengths.sum_around(i, j, self)


def _add_product(total: np.ndarray, one: np.ndarray, other: np.ndarray) -> None:
    total += one.T @ other


def _outer(
    rests: Sequence[np.ndarray], steps: Sequence[np.ndarray], i: int, j: int, added: int, weight: float
) -> np.ndarray:
    """Returns what the products lack: that around the mean of the new points, and that between it and the old one."""
    left = np.stack([-added * rests[i], weight * steps[i]], axis=1)
    return left @ np.stack([rests[j], steps[j]])


class _Lengths:
    """Sums over points of products of squared lengths, around the mean of the first points."""

    def __init__(self, widths: Sequence[int]):
        number = len(widths)
        self._origins: list[np.ndarray] = []
        self._products = np.zeros((number, number))
        # [i][j]: squared length in i times the values in j.
        self._with_values = [[np.zeros(width) for width in widths] for _ in range(number)]

    def add(self, centred: Sequence[np.ndarray], centres: Sequence[np.ndarray]) -> None:
        self._origins = self._origins or list(centres)
        moved = zip(centred, centres, self._origins, strict=True)
        values = [own + (centre - origin) for own, centre, origin in moved]
        lengths = np.stack([np.einsum("pd,pd->p", own, own) for own in values])
        self._products += lengths @ lengths.T
        for own_length, sums in zip(lengths, self._with_values, strict=True):
            for own, total in zip(values, sums, strict=True):
                total += own_length @ own

    def sum_around(self, i: int, j: int, moments: Covariances) -> float:
        count = moments.count
        d, e = (moments.means[k] - self._origins[k] for k in (i, j))
        dd, ee = d @ d, e @ e
        a, b = moments.squares[i].sum() + count * dd, moments.squares[j].sum() + count * ee
        crossed = d @ moments.products(i, j) @ e + count * dd * ee
        values = e @ self._with_values[i][j], d @ self._with_values[j][i]
        # The product of |x - d|^2 and |y - e|^2, multiplied out.
        total = self._products[i, j] - 2 * values[0] - 2 * values[1] + 4 * crossed + ee * a + dd * b
        return float(total - 3 * count * dd * ee)


def principal_axes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the eigenvalues of covariances, falling, and their eigenvectors as columns: those that are not rounding.

    Example:
        >>> principal_axes(np.array([[0.0, 0.0], [0.0, 4.0]]))[0]
        array([4.])
    """
    values, vectors = np.linalg.eigh(matrix)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int(np.sum(values > SMALLEST_SHARE * max(values[0], np.finfo("float64").tiny)))
    return values[:kept], vectors[:, :kept]
