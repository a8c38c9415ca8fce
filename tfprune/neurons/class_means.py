"""What the means of classes say of units: rankings without a probe, and class selectivity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.borders import public, warn
from tfprune.neurons.labelled import Classes, classes_of, points_of
from tfprune.neurons.ranking import Ranked, Ranking


@dataclass(frozen=True, eq=False)
class Selectivity(Ranked):
    """How much more each unit says at one class than at the others.

    `scores` and `order` make it a ranking.

    Attributes:
        ranking: units by selectivity, highest first.
        preferred: the class at which each unit's mean is highest, `(units,)`.
        means: mean activity, `(classes, units)`.
        classes: the labels, in order, `(classes,)`.
    """

    ranking: Ranking
    preferred: np.ndarray
    means: np.ndarray
    classes: np.ndarray

    def __repr__(self) -> str:
        return f"Selectivity for {len(self.classes)} classes: {self.ranking!r}"


@public
def probeless(activations: Any, labels: Any, *, standardise: bool = False) -> Ranking:
    """Ranks units by how far apart their means at different classes are, without fitting anything.

        score_j = sum over pairs of classes a < b of |mean_a,j - mean_b,j|

    A quick stand-in for `probe`, which knows nothing of what units say together, and so prefers no unit to its clone.
    Where the scale of units differs, one of large values wins; `standardise` divides by their standard deviation.

    Args:
        activations: `(points, units)`, or several layers by name.
        labels: the class of each point, `(points,)`.
        standardise: whether to measure units in standard deviations.

    Returns:
        A `Ranking`; constant units score 0.

    Raises:
        TypeError: if activations or labels are of no such kind.
        ValueError: if they do not fit each other, hold NaN, there is one class, or a class of one point.

    Example:
        >>> probeless(np.array([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 0.0]]), [0, 0, 1, 1]).scores
        array([2. , 0.5])

    Reference: O. Antverg, Y. Belinkov (2022), "On the pitfalls of analyzing individual neurons in language models",
    section 3.
    """
    points = points_of(activations, "probeless")
    classes = classes_of(labels, len(points.values), "probeless")
    # The k-th lowest of C means is subtracted C - 1 - k times and added k times.
    rising = np.sort(means_of(points.values, classes), axis=0)
    times = 2 * np.arange(len(rising)) - (len(rising) - 1)
    scores = times @ rising
    if standardise:
        spread = points.values.std(axis=0)
        scores = np.divide(scores, spread, out=np.zeros_like(scores), where=spread > 0)
    return Ranking(points.wrapped(np.maximum(scores, 0.0)))


@public
def selectivity(activations: Any, labels: Any) -> Selectivity:
    """Says how much each unit keeps to one class: 1 if it is active there alone, 0 if it is equally so everywhere.

        selectivity_j = (mean_max - mean_rest) / (mean_max + mean_rest)

    mean_max is the highest of the unit's means at the classes, mean_rest the mean of the others, each class counting
    once. A unit that is never active scores 0. Units that matter need not be selective; `experiments.ablation_curve`
    of this ranking shows whether they are. Of a convolution take the mean over positions first, as
    `activations(..., points="samples")` does.

    Only activity that is never negative, as behind a relu, stays within 0 and 1; other means are warned of, and units
    whose two means add up to nothing or less score 0.

    Args:
        activations: `(points, units)`, or several layers by name.
        labels: the class of each point, `(points,)`.

    Returns:
        A `Selectivity`.

    Raises:
        TypeError: if activations or labels are of no such kind.
        ValueError: if they do not fit each other, hold NaN, there is one class, or a class of one point.

    Example:
        >>> found = selectivity(np.array([[3.0, 1.0], [3.0, 1.0], [1.0, 1.0], [1.0, 1.0]]), ["a", "a", "b", "b"])
        >>> found.scores, found.preferred
        (array([0.5, 0. ]), array(['a', 'a'], dtype='<U1'))

    Reference: A. S. Morcos et al. (2018), "On the importance of single directions for generalization", equation 1.
    """
    points = points_of(activations, "selectivity")
    classes = classes_of(labels, len(points.values), "selectivity")
    means = means_of(points.values, classes)
    highest = means.max(axis=0)
    rest = (means.sum(axis=0) - highest) / (len(means) - 1)
    total = highest + rest
    negative = (means < 0).any(axis=0)
    if negative.any():
        undefined = int((total <= 0)[negative].sum())
        warn(
            f"selectivity: {negative.sum()} of {len(negative)} units have means below 0, for which the measure leaves "
            f"its range of 0 to 1; {undefined} of them score 0, as it is not defined there. It is made for activity "
            "that is never negative, as behind a relu: take activations there, or rank by probeless."
        )
    scores = np.divide(highest - rest, total, out=np.zeros_like(total), where=total > 0)
    return Selectivity(Ranking(points.wrapped(scores)), classes.names[means.argmax(axis=0)], means, classes.names)


def means_of(points: np.ndarray, classes: Classes) -> np.ndarray:
    """Returns the mean of each unit at each class, `(classes, units)`."""
    chosen = classes.codes == np.arange(len(classes.names))[:, None]
    return chosen @ points / classes.counts[:, None]
