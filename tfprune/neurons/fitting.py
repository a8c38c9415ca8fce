"""Linear models by scikit-learn, fitted to convergence, with one form of the penalty whatever its version."""

from __future__ import annotations

import inspect
import warnings
from typing import Any, NamedTuple

import numpy as np

from tfprune.borders import warn

# Of the gradient of the loss: what may be left of it at the end of a fit, and what is warned of.
_GRADIENT_LEFT, _NOT_CONVERGED = 1e-5, 1e-4
# The solver's own measure of change, tightened until the gradient says that all is done.
_TOLERANCES = (1e-4, 1e-5, 1e-6, 1e-7)
_MAX_ITERATIONS = 3000


class Linear(NamedTuple):
    """A linear model of standardised units.

    Attributes:
        weights: `(outputs, units)`.
        bias: `(outputs,)`.
        mean: of each unit, `(units,)`.
        std: of each unit; 1 for those that never change, which have no weight.
    """

    weights: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    std: np.ndarray

    def standardised(self, points: np.ndarray) -> np.ndarray:
        """Returns units less their mean, in standard deviations."""
        return (points - self.mean) / self.std

    def outputs(self, points: np.ndarray) -> np.ndarray:
        """Returns the outputs at points, `(points, outputs)`."""
        return self.standardised(points) @ self.weights.T + self.bias


def logistic(points: np.ndarray, codes: np.ndarray, l1: float, l2: float, seed: int) -> Linear:
    """Fits classes: mean cross-entropy + l1 * sum |W| + l2 / 2 * sum W^2 over all rows, biases free.

    Two classes are one row in scikit-learn; here they are two, opposite ones, which minimise the same sum.

    Args:
        points: `(points, units)`.
        codes: the class of each, from 0 without gaps.
        l1: strength of the penalty on absolute values.
        l2: strength of the penalty on squares.
        seed: of the order in which the solver for l1 takes points.
    """
    from sklearn.linear_model import LogisticRegression

    rows, mean, std, changing = _standardised(points)
    binary = codes.max() == 1
    squares = l2 / 2 if binary else l2
    strength = l1 + squares
    options: dict[str, Any] = {"C": 1.0 / (strength * len(rows)), "max_iter": _MAX_ITERATIONS, "warm_start": True}
    if l1:
        options |= {"solver": "saga", "l1_ratio": l1 / strength, "random_state": seed}
        if inspect.signature(LogisticRegression).parameters["penalty"].default != "deprecated":
            options["penalty"] = "elasticnet"
    model = LogisticRegression(**options)
    weights, bias, left = np.zeros(0), np.zeros(0), np.inf
    for tolerance in _TOLERANCES:
        weights, bias = _continued(model.set_params(tol=tolerance), rows, codes)
        left = gradient_left(rows, codes, weights, bias, l1, l2)
        if left <= _GRADIENT_LEFT:
            break
    if left > _NOT_CONVERGED:
        warn(
            f"probe: the fit did not converge in {len(_TOLERANCES)} x {_MAX_ITERATIONS} passes: {left:.1e} of the "
            f"gradient is left, {_GRADIENT_LEFT:.0e} was aimed at, so that the lower part of the ranking is not "
            "certain. Take a larger l1 or l2, or fewer units."
        )
    return Linear(_spread(weights, changing), bias, mean, std)


def _continued(model: Any, rows: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fits on from where the model is; returns one row of weights and one bias per class."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        # Whether it has converged is asked of the gradient.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, codes)
    weights, bias = np.array(model.coef_), np.array(model.intercept_)
    if len(weights) > 1:
        return weights, bias
    return np.concatenate([-weights, weights]) / 2, np.concatenate([-bias, bias]) / 2


def gradient_left(
    rows: np.ndarray, codes: np.ndarray, weights: np.ndarray, bias: np.ndarray, l1: float, l2: float
) -> float:
    """Returns the largest entry of the subgradient that is nearest to zero: 0 at the minimum.

    Example:
        >>> rows, codes = np.array([[1.0], [-1.0]]), np.array([0, 1])
        >>> gradient_left(rows, codes, np.zeros((2, 1)), np.zeros(2), l1=0.3, l2=0.0)
        0.2
    """
    outputs = rows @ weights.T + bias
    outputs -= outputs.max(axis=1, keepdims=True)
    errors = np.exp(outputs)
    errors /= errors.sum(axis=1, keepdims=True)
    errors[np.arange(len(codes)), codes] -= 1.0
    slope = errors.T @ rows / len(rows) + l2 * weights
    slope = np.where(weights == 0, np.maximum(np.abs(slope) - l1, 0.0), np.abs(slope + l1 * np.sign(weights)))
    return float(max(slope.max(initial=0.0), np.abs(errors.mean(axis=0)).max()))


def ridge(points: np.ndarray, numbers: np.ndarray, l2: float) -> Linear:
    """Fits numbers: half the mean squared error + l2 / 2 * sum W^2, bias free.

    Args:
        points: `(points, units)`.
        numbers: `(points,)`.
        l2: strength of the penalty.
    """
    from sklearn.linear_model import Ridge

    rows, mean, std, changing = _standardised(points)
    model = Ridge(alpha=l2 * len(rows), solver="svd").fit(rows, numbers)
    weights = _spread(np.reshape(model.coef_, (1, -1)), changing)
    return Linear(weights, np.reshape(model.intercept_, 1), mean, std)


def _standardised(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the units that change, standardised; mean and scale of all, and which do."""
    mean, std = points.mean(axis=0), points.std(axis=0)
    # What rounding leaves of a constant is no change.
    changing = std > 1e-9 * np.maximum(np.abs(mean), np.abs(points).max(axis=0))
    if not changing.any():
        raise ValueError("probe: no unit changes from point to point, so that nothing can be read from them.")
    std = np.where(changing, std, 1.0)
    return ((points - mean) / std)[:, changing], mean, std, changing


def _spread(weights: np.ndarray, changing: np.ndarray) -> np.ndarray:
    whole = np.zeros((len(weights), len(changing)))
    whole[:, changing] = weights
    return whole
