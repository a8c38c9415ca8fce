"""Least squares from streamed moments, the ridge chosen by two-fold cross-validation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy.linalg import LinAlgError, cho_factor, cho_solve

RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1)
"""Ridges to choose from, as shares of the mean variance of the regressors. The smallest keeps exact relations exact."""
_FLOOR = 1e-12


@dataclass
class Moments:
    """Sums over rows `(x, z)`: all that a regression of z, shape `(rows, q)`, on x, shape `(rows, p)`, needs.

    Attributes:
        count: number of rows.
        x: sum of x, `(p,)`.
        z: sum of z, `(q,)`.
        xx: sum of x x', `(p, p)`.
        xz: sum of x z', `(p, q)`.
        zz: sum of the squares of z, `(q,)`.
    """

    count: float
    x: np.ndarray
    z: np.ndarray
    xx: np.ndarray
    xz: np.ndarray
    zz: np.ndarray

    @classmethod
    def zero(cls, num_regressors: int, num_targets: int) -> Moments:
        """Returns the sums over no rows."""
        p, q = num_regressors, num_targets
        return cls(0.0, np.zeros(p), np.zeros(q), np.zeros((p, p)), np.zeros((p, q)), np.zeros(q))

    def add(self, sums: Iterable[Any]) -> None:
        """Adds the sums of one batch, as `row_sums` gives them."""
        count, x, z, xx, xz, zz = (np.asarray(own, "float64") for own in sums)
        self.count += float(count)
        for mine, new in ((self.x, x), (self.z, z), (self.xx, xx), (self.xz, xz), (self.zz, zz)):
            mine += new

    def plus(self, other: Moments) -> Moments:
        """Returns the sums over both sets of rows."""
        return Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def padded(self, share: float) -> Moments:
        """Returns the moments when rows of zeros are a share `share` of all rows."""
        return Moments(self.count / (1.0 - share), self.x, self.z, self.xx, self.xz, self.zz)

    def without_means(self) -> Moments:
        """Returns the moments with the means called zero, for a regression without an intercept."""
        return Moments(self.count, 0.0 * self.x, 0.0 * self.z, self.xx, self.xz, self.zz)

    def centred(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Returns mean of x, mean of z, covariance of x, of x with z, and variance of z."""
        mean_x, mean_z = self.x / self.count, self.z / self.count
        covariance = self.xx / self.count - np.outer(mean_x, mean_x)
        cross = self.xz / self.count - np.outer(mean_x, mean_z)
        return mean_x, mean_z, covariance, cross, self.zz / self.count - mean_z**2


def row_sums(x: Any, z: Any) -> tuple[Any, ...]:
    """Returns the sums of one batch of rows as float64 tensors, in the order of `Moments`."""
    x, z = tf.cast(x, tf.float64), tf.cast(z, tf.float64)
    return (
        tf.cast(tf.shape(x)[0], tf.float64),
        tf.reduce_sum(x, 0),
        tf.reduce_sum(z, 0),
        tf.matmul(x, x, transpose_a=True),
        tf.matmul(x, z, transpose_a=True),
        tf.reduce_sum(z * z, 0),
    )


class _Ridge:
    """Ridge regression of one set of moments, for any ridge, pulled towards `start`."""

    def __init__(self, moments: Moments, start: np.ndarray, intercept: bool):
        moments = moments if intercept else moments.without_means()
        self.mean_x, self.mean_z, self.covariance, self.cross, self.variance_z = moments.centred()
        self._scale = float(np.mean(np.diag(self.covariance)))
        # What rounding leaves of a regressor that is constant must not look like something to learn from.
        self._noise = 8 * np.finfo(float).eps * float(np.mean(np.diag(moments.xx))) / moments.count
        self._start = start
        self._gap = self.cross - self.covariance @ start

    def weights(self, ridge: float) -> np.ndarray:
        """Returns W, shape `(p, q)`, for a ridge as a share of the mean variance of x."""
        damping = max(ridge, _FLOOR) * self._scale + self._noise
        if damping <= 0:
            # All regressors are zero on every row.
            return self._start
        damped = self.covariance.copy()
        diagonal = np.einsum("ii->i", damped)
        diagonal += damping
        while True:
            try:
                # A factorisation per ridge costs less than one eigendecomposition for all.
                factor = cho_factor(damped, lower=True, check_finite=False)
                return self._start + cho_solve(factor, self._gap, check_finite=False)
            except LinAlgError:
                # Rounding made the covariance indefinite by more than the ridge.
                diagonal += 10 * damping
                damping *= 10

    def intercept(self, weights: np.ndarray) -> np.ndarray:
        """Returns b, shape `(q,)`, for given W."""
        return self.mean_z - self.mean_x @ weights

    def error_of(self, weights: np.ndarray, intercept: np.ndarray) -> float:
        """Mean squared error, summed over the targets, that a fit from elsewhere makes on these rows."""
        spread = (
            self.variance_z - 2 * np.sum(weights * self.cross, 0) + np.sum(weights * (self.covariance @ weights), 0)
        )
        offset = self.mean_z - intercept - self.mean_x @ weights
        return float(np.sum(spread + offset**2))


def fit(halves: tuple[Moments, Moments], start: np.ndarray, *, intercept: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Regresses z on x, with an intercept that is not penalised.

    Minimises `mean |z - x W - b|^2 + ridge * t * |W - start|^2`, t the mean variance of x; the ridge is the one of
    `RIDGES` whose fit on either half of the rows predicts the other half best.

    Args:
        halves: moments of two halves of the rows.
        start: what W is pulled towards, shape `(p, q)`.
        intercept: False leaves b at zero, for a layer that has no place for one.

    Returns:
        W, shape `(p, q)`, and b, shape `(q,)`, fitted on all rows.
    """
    both = _Ridge(halves[0].plus(halves[1]), start, intercept)
    if min(half.count for half in halves) < 2:
        weights = both.weights(RIDGES[-1])
        return weights, both.intercept(weights)
    one, other = (_Ridge(half, start, intercept) for half in halves)
    errors = []
    for ridge in RIDGES:
        error = 0.0
        for trained, tested in ((one, other), (other, one)):
            weights = trained.weights(ridge)
            error += tested.error_of(weights, trained.intercept(weights))
        errors.append(error)
    weights = both.weights(RIDGES[int(np.argmin(errors))])
    return weights, both.intercept(weights)
