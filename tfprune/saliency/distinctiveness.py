"""The score of units by how far their vectors are from those of units that are kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.distinctiveness.measuring import checked_groups, vectors_of
from tfprune.distinctiveness.vectors import SAME_ANGLE
from tfprune.ties import first_lowest, rising_order
from tfprune.units import LayerValues


@public
def distinctiveness(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    vectors: str = "activations",
    centre: str | float = "auto",
    complementary: bool = True,
) -> LayerValues:
    """Scores each unit by the smallest angle between its vector and that of a unit that is kept.

    Aware of redundancy: of two clones one scores low and the other does not, whatever share of the units is to go.
    Units are put in the order in which they would be kept: the one with the longest vector first, then again and again
    the one whose angle to all of those so far is largest. A unit's score is the smallest angle to those before it, so
    that the units above any threshold are farther apart than that, and each one below it is near to a kept one. The
    first one scores 180; a unit that never changes from its centre scores 0.

    Works with any schedule; angles know nothing of how strongly a unit is read.

    Comparable between groups as an angle; it does not say what a layer is worth.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets are not looked at. None for vectors="weights".
        layers: names of groups or layers; None takes all units that can be removed.
        vectors: "activations" or "weights", as for `tfprune.distinctiveness.angles`.
        centre: likewise.
        complementary: whether opposite vectors count as alike (180 degrees as 0), as the exact transfer can merge them;
            scores are then at most 90, but for the first unit of each group.

    Returns:
        One angle in degrees per unit, `(units,)` by group name.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, options or data do not fit, or there are fewer than two patterns.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.zeros(3)])
        >>> distinctiveness(net, np.array([[1.0, 0.0], [0.0, 1.0]]))["hidden"].round(3)
        array([180.,   0.,  90.])

    Reference: T. D. Gedeon, D. Harris (1991), "Network reduction techniques"; the order is that of T. F. Gonzalez
    (1985), "Clustering to minimize the maximum intercluster distance".
    """
    graph, names = checked_groups(model, data, layers, vectors, centre)
    measured = vectors_of(graph, names, data, vectors, centre)
    scores = {}
    for name, own in measured.items():
        angles = own.angles()
        angles = np.minimum(angles, 180.0 - angles) if complementary else angles
        scores[name] = _farthest_first(angles, own.lengths)
    return LayerValues(scores)


def _farthest_first(angles: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns for each unit its smallest angle to those that come before it in the order of keeping."""
    scores = np.zeros(len(lengths))
    nearest = np.where(lengths > 0, 180.0, -1.0)
    longest_first = rising_order(-lengths)
    while nearest.max() >= 0:
        best = int(longest_first[first_lowest(-nearest[longest_first], absolute=SAME_ANGLE)])
        scores[best] = nearest[best]
        nearest = np.minimum(nearest, angles[best])
        nearest[best] = -1.0
    return scores
