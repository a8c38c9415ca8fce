"""Clusters of units that say the same, up to sign and scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.borders import public
from tfprune.neurons.labelled import points_of
from tfprune.ties import first_lowest


@dataclass(frozen=True, eq=False)
class Clusters:
    """Units in clusters.

    Attributes:
        labels: the cluster of each unit, numbered in the order of their first units; an array `(units,)`, or
            `LayerValues` where layers came by name.
        members: flat positions of the units of each cluster.
        representatives: flat position of the unit of each cluster that stands for it: the one whose absolute
            correlations with the others are highest on average.
        mask: True for these units: `remove(model, clusters.mask, repair="affine", data=x)` keeps one of each cluster.
        linkage: the tree, `(units - 1, 4)`, as `scipy.cluster.hierarchy` has it, for drawing.
    """

    labels: Any
    members: tuple[np.ndarray, ...]
    representatives: np.ndarray
    mask: Any
    linkage: np.ndarray

    @property
    def num_clusters(self) -> int:
        """How many clusters there are."""
        return len(self.members)

    def __repr__(self) -> str:
        sizes = sorted((len(own) for own in self.members), reverse=True)
        more = ", ..." if len(sizes) > 8 else ""
        return f"Clusters: {sum(sizes)} units in {len(sizes)} clusters of {', '.join(map(str, sizes[:8]))}{more}"


@public
def clusters(activations: Any, *, threshold: float = 0.5) -> Clusters:
    """Puts units together whose values rise and fall together, by average linkage of 1 - |correlation|.

    Take it to see how much of a layer, or of several, is redundant. Two clusters become one while the mean distance of
    their units is at most `threshold`; so 0 joins only what is the same up to an affine map, 1 everything. A unit that
    never changes is correlated with none, and a cluster of its own below 1.

    Args:
        activations: `(points, units)`, or several layers by name, whose units are clustered together.
        threshold: of the distance, 0 to 1.

    Returns:
        `Clusters`.

    Raises:
        TypeError: if activations are no numbers.
        ValueError: if they hold NaN, there are fewer than two points, or the threshold is out of range.

    Example:
        >>> units = np.array([[0.0, 1.0, 0.0], [1.0, -1.0, 0.0], [2.0, -3.0, 1.0], [3.0, -5.0, 0.0]])
        >>> found = clusters(units)
        >>> found.labels, found.representatives
        (array([0, 0, 1]), array([0, 2]))

    Reference: F. Dalvi et al. (2020), "Analyzing redundancy in pretrained transformer models", section 4.2.
    """
    points = points_of(activations, "clusters")
    if isinstance(threshold, bool | str) or not np.isscalar(threshold) or not 0 <= threshold <= 1:
        raise ValueError(f"clusters: threshold expects a distance from 0 to 1, received {threshold!r}.")
    if len(points.values) < 2:
        raise ValueError("clusters: there is no correlation over one point. Give activations at more points.")
    correlations = _absolute_correlations(points.values)
    codes, tree = _linked(correlations, float(threshold))
    members = tuple(np.flatnonzero(codes == code) for code in range(codes.max() + 1))
    chosen = np.array([_medoid(correlations, own) for own in members])
    mask = np.isin(np.arange(len(codes)), chosen)
    return Clusters(points.wrapped(codes), members, chosen, points.wrapped(mask), tree)


def _absolute_correlations(points: np.ndarray) -> np.ndarray:
    """Returns |correlations| `(units, units)`; 0 for units that never change, 1 with themselves."""
    spread = points.std(axis=0)
    changing = spread > 1e-9 * np.abs(points).max(axis=0)
    rows = np.where(changing, (points - points.mean(axis=0)) / np.where(changing, spread, 1.0), 0.0)
    found = np.minimum(np.abs(rows.T @ rows) / len(points), 1.0)
    np.fill_diagonal(found, 1.0)
    return found


def _linked(correlations: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the cluster of each unit, numbered in the order of first units, and the tree."""
    if len(correlations) < 2:
        return np.zeros(1, "int64"), np.zeros((0, 4))
    from scipy.cluster.hierarchy import fcluster, linkage
    from scipy.spatial.distance import squareform

    # Without the last bits, so that equal distances are equal on every processor.
    distances = np.round(1.0 - (correlations + correlations.T) / 2, 12)
    tree = linkage(squareform(distances, checks=False), "average")
    _, first, codes = np.unique(fcluster(tree, threshold + 1e-12, "distance"), return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes.reshape(-1)], tree


def _medoid(correlations: np.ndarray, members: np.ndarray) -> int:
    return int(members[first_lowest(-correlations[np.ix_(members, members)].mean(axis=1))])
