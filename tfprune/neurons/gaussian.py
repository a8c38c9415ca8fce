"""A probe of one Gaussian per class, from which any subset of units can be read without fitting anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tfprune.borders import public
from tfprune.neurons.class_means import means_of
from tfprune.neurons.labelled import Classes, classes_of, held_out, points_of
from tfprune.neurons.ranking import Ranked, Ranking
from tfprune.ties import first_lowest

# In nats: what differs by less is rounding.
_SAME_GAIN = 1e-9


@dataclass(frozen=True, eq=False)
class GaussianProbe(Ranked):
    """Units in the order in which they add most to what is known of the labels.

    `scores` and `order` make it a ranking.

    Attributes:
        ranking: the chosen units in the order of choice; all others score 0.
        chosen: flat positions of the units, the first choice first, `(chosen,)`.
        mutual_information: bits that the first k units tell of the labels of points that were held out, `(chosen,)`: a
            lower bound, below 0 where the Gaussians mislead.
        entropy: of these labels in bits, which no number of units can exceed.
        accuracy: share of these points that the first k units classify right, `(chosen,)`.
        test: which points were held out, bool `(points,)`.
    """

    ranking: Ranking
    chosen: np.ndarray
    mutual_information: np.ndarray
    entropy: float
    accuracy: np.ndarray
    test: np.ndarray

    def __repr__(self) -> str:
        labels = self.ranking.labels(len(self.chosen))
        rows = [f"  {'unit':20}{'bits so far':>12}{'accuracy':>10}"]
        for label, bits, accuracy in zip(labels, self.mutual_information, self.accuracy, strict=True):
            rows.append(f"  {label:20}{bits:12.3f}{accuracy:10.3f}")
        return "\n".join([f"GaussianProbe: labels of {self.entropy:.3f} bits", *rows])


class _Model(NamedTuple):
    """Gaussians of all units: means `(classes, units)`, covariances `(classes, units, units)`, log shares."""

    means: np.ndarray
    covariances: np.ndarray
    log_shares: np.ndarray


@public
def gaussian_probe(
    activations: Any,
    labels: Any,
    *,
    num_units: int | None = None,
    prior_points: float = 1.0,
    test: Any = 0.25,
    seed: int = 0,
) -> GaussianProbe:
    """Adds units one by one, each time the one with which the labels are known best, under a Gaussian for each class.

    One fit serves all subsets, as a part of a Gaussian is a Gaussian. So this ranking, other than `probeless`, passes
    over units that only repeat what is known, and, other than `probe`, says how few units suffice, and reads from
    differences of spread as well as of means. The gain of a unit is the mean over points of log p(label | units); what
    the first k units tell is

        I(labels; units) >= H(labels) + mean log2 p(label | units),    on points that were held out.

    Covariances are (n * S_c + prior_points * diag(variance of all points)) / (n + prior_points): those of the n points
    of the class with a few added at which units are independent.

    Args:
        activations: `(points, units)`, or several layers by name.
        labels: the class of each point, `(points,)`.
        num_units: how many units to choose; None for 50, or all that change where there are fewer.
        prior_points: weight of the prior in points, above 0.
        test: share of the points to hold out, of every class; or which ones, bool `(points,)`.
        seed: of the points that are held out.

    Returns:
        A `GaussianProbe`.

    Raises:
        TypeError: if activations or labels are of no such kind.
        ValueError: if they do not fit each other, hold NaN, no unit changes, there is one class or a class of one
            point, or an option is out of range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> labels = np.repeat([0, 1], 200)
        >>> first = labels + 0.3 * generator.normal(size=400)
        >>> units = np.stack([generator.normal(size=400), first, first + 0.01 * generator.normal(size=400)], axis=1)
        >>> found = gaussian_probe(units, labels, num_units=1)
        >>> found.chosen, found.mutual_information.round(1)
        (array([1]), array([0.7]))

    Reference: L. Torroba Hennigen, A. Williams, R. Cotterell (2020), "Intrinsic probing through dimension selection",
    sections 3 and 4.
    """
    points = points_of(activations, "gaussian_probe")
    classes = classes_of(labels, len(points.values), "gaussian_probe")
    spread = points.values.std(axis=0)
    changing = np.flatnonzero(spread > 1e-9 * np.abs(points.values).max(axis=0))
    number = _checked(num_units, prior_points, changing, points.values.shape[1])
    mask = held_out(test, classes.codes, len(points.values), seed, "gaussian_probe")
    rows = points.values[:, changing]
    # Scaled alike, so that products of variances stay in range.
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    seen = Classes(classes.names, classes.codes[~mask])
    model = _fitted(rows[~mask], seen, prior_points)
    picked = _greedy(model, rows[~mask], seen.codes, number)
    information, accuracy, entropy = _told(model, rows[mask], classes.codes[mask], picked)
    scores = np.zeros(points.values.shape[1])
    scores[changing[picked]] = np.arange(number, 0, -1)
    return GaussianProbe(Ranking(points.wrapped(scores)), changing[picked], information, entropy, accuracy, mask)


def _checked(num_units: Any, prior_points: Any, changing: np.ndarray, size: int) -> int:
    if not len(changing):
        raise ValueError("gaussian_probe: no unit changes from point to point, so that nothing can be read from them.")
    if not (np.isscalar(prior_points) and np.isfinite(prior_points) and prior_points > 0):
        raise ValueError(f"gaussian_probe: prior_points expects a number above 0, received {prior_points!r}.")
    if num_units is None:
        return min(50, len(changing))
    whole = isinstance(num_units, int | np.integer) and not isinstance(num_units, bool)
    if not whole or not 1 <= num_units <= len(changing):
        raise ValueError(
            f"gaussian_probe: num_units expects a whole number from 1 to {len(changing)}, the number of units that "
            f"change ({size} in all), received {num_units!r}."
        )
    return int(num_units)


def _fitted(rows: np.ndarray, classes: Classes, prior_points: float) -> _Model:
    means, counts, variance = means_of(rows, classes), classes.counts, rows.var(axis=0)
    covariances = np.empty((len(counts), rows.shape[1], rows.shape[1]))
    for code, count in enumerate(counts):
        own = rows[classes.codes == code] - means[code]
        covariances[code] = own.T @ own + prior_points * np.diag(variance)
        covariances[code] /= count + prior_points
    return _Model(means, covariances, np.log(counts / counts.sum()))


def _greedy(model: _Model, rows: np.ndarray, codes: np.ndarray, number: int) -> np.ndarray:
    """Returns the units in the order of choice; each step looks at all that are left, given those chosen."""
    num_classes, num_units = model.means.shape
    known = np.tile(model.log_shares, (len(rows), 1))
    left, picked = np.ones(num_units, bool), []
    for _ in range(number):
        total, own = np.full((len(rows), num_units), -np.inf), np.empty((len(rows), num_units))
        for code in range(num_classes):
            residual, variance = _given(model, code, rows, picked)
            now = known[:, [code]] + _log_density(residual, variance)
            np.logaddexp(total, now, out=total)
            own[codes == code] = now[codes == code]
        gain = np.where(left, (own - total).mean(axis=0), -np.inf)
        best = first_lowest(-gain, absolute=_SAME_GAIN)
        known = _with(model, known, rows, picked, best)
        left[best] = False
        picked.append(best)
    return np.array(picked)


def _given(model: _Model, code: int, rows: np.ndarray, picked: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Returns what the chosen units leave open of all units at one class: residuals, and their variance."""
    centred, covariance = rows - model.means[code], model.covariances[code]
    if not picked:
        return centred, np.diag(covariance)
    slopes = np.linalg.solve(covariance[np.ix_(picked, picked)], covariance[picked])
    variance = np.diag(covariance) - np.einsum("kd,kd->d", covariance[picked], slopes)
    # The chosen ones themselves leave nothing open, but for rounding.
    floor = np.finfo("float64").eps * np.diag(covariance)
    return centred - centred[:, picked] @ slopes, np.maximum(variance, floor)


def _with(model: _Model, known: np.ndarray, rows: np.ndarray, picked: list[int], unit: int) -> np.ndarray:
    """Returns log p(class, units) with one unit more, up to what all classes share."""
    added = np.empty_like(known)
    for code in range(known.shape[1]):
        columns = [*picked, unit]
        small = _Model(model.means[:, columns], model.covariances[:, columns][:, :, columns], model.log_shares)
        residual, variance = _given(small, code, rows[:, columns], list(range(len(picked))))
        added[:, code] = _log_density(residual[:, -1], variance[-1])
    return known + added


def _log_density(residual: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return -0.5 * (np.log(variance) + np.square(residual) / variance)


def _told(
    model: _Model, rows: np.ndarray, codes: np.ndarray, picked: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns bits and accuracy of the first k units, for every k, and the entropy of the labels."""
    shares = np.bincount(codes) / len(codes)
    entropy = float(-np.sum(shares[shares > 0] * np.log2(shares[shares > 0])))
    known = np.tile(model.log_shares, (len(rows), 1))
    information, accuracy = [], []
    for number, unit in enumerate(picked):
        known = _with(model, known, rows, list(picked[:number]), unit)
        right = known[np.arange(len(codes)), codes] - np.logaddexp.reduce(known, axis=1)
        information.append(entropy + right.mean() / np.log(2.0))
        accuracy.append(np.mean(known.argmax(axis=1) == codes))
    return np.array(information), np.array(accuracy), entropy
