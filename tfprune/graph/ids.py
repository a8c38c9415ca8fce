"""Unit ids: which axis positions must live and die together.

Every position of every tracked axis carries an integer id. Two positions that meet (in an addition, or at the same
weight axis) are *united*; a position that must stay (it leaves the model, or meets something that cannot be read) is
*fixed*, with the reason. `NOTHING` marks a position that no unit stands behind.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

NOTHING = 0
"""The id of an untracked position inside a tracked axis (a model input that was concatenated to units, say)."""


class Ids:
    """Hands out ids, and records which of them are one and which must stay."""

    def __init__(self):
        self._count = 1
        self._left: list[np.ndarray] = []
        self._right: list[np.ndarray] = []
        self._fixed: list[tuple[np.ndarray, str]] = []

    def new(self, count: int) -> np.ndarray:
        """Returns `count` fresh ids, shape `(count,)`."""
        ids = np.arange(self._count, self._count + count)
        self._count += count
        return ids

    def fix(self, ids: np.ndarray | None, reason: str) -> None:
        """Says that the units behind `ids` must stay, and why. `None` (nothing tracked) is allowed and does nothing."""
        if ids is None:
            return
        tracked = np.unique(ids[ids != NOTHING])
        if len(tracked):
            self._fixed.append((tracked, reason))

    def unite(self, one: np.ndarray | None, other: np.ndarray | None, reason: str) -> np.ndarray | None:
        """Says that two axes meet position by position, and returns the ids of what comes out.

        A position where only one side is tracked is fixed for `reason`.

        Raises:
            ValueError: if the axes have different lengths (a reader's row is wrong; never the user's fault).
        """
        if one is None or other is None:
            self.fix(one, reason)
            self.fix(other, reason)
            return None
        if one is other:
            return one
        if one.shape != other.shape:
            raise ValueError(f"Cannot unite {one.shape} with {other.shape} positions: {reason}.")
        both = (one != NOTHING) & (other != NOTHING)
        self.fix(one[~both], reason)
        self.fix(other[~both], reason)
        different = both & (one != other)
        self._left.append(one[different])
        self._right.append(other[different])
        return np.where(both, one, NOTHING)

    def resolve(self) -> tuple[np.ndarray, dict[int, str]]:
        """Returns `(label of every id, reason per fixed label)`; ids with one label are one unit.

        Labels are numbered by the first id that has them; the label of `NOTHING` is 0.
        """
        left = np.concatenate([np.zeros(0, int), *self._left])
        right = np.concatenate([np.zeros(0, int), *self._right])
        links = coo_matrix((np.ones(len(left), bool), (left, right)), shape=(self._count, self._count))
        _, components = connected_components(links, directed=False)
        _, first, inverse = np.unique(components, return_index=True, return_inverse=True)
        labels = first[inverse]
        reasons: dict[int, str] = {}
        for ids, reason in self._fixed:
            for label in np.unique(labels[ids]).tolist():
                reasons.setdefault(label, reason)
        return labels, reasons
