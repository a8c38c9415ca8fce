"""Directions in the space of a layer's units: combinations of units, in an order, that can be taken out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Directions:
    """Directions in the space of the units of one model, best first.

    The value of direction k on a point h `(units,)` is z_k = (h - mean) @ transform[:, k]; over the points that it was
    made of it has variance 1, and different ones do not correlate. inverse[k] is what one unit of z_k adds to each unit
    of the model (the regression of the units on z), so that

    h without direction k = h - z_k inverse[k]

    takes it out and leaves all other directions as they were. Of `svcca`, inverse is the pseudo-inverse of transform.

    Attributes:
        scores: canonical correlations, falling, `(directions,)`.
        transform: `(units, directions)`.
        inverse: `(directions, units)`; inverse @ transform is the identity.
        mean: of each unit, `(units,)`.
        sizes: number of units by group name, whose units together are those above; None where names are not known.
    """

    scores: np.ndarray
    transform: np.ndarray
    inverse: np.ndarray
    mean: np.ndarray
    sizes: Mapping[str, int] | None = None

    @property
    def order(self) -> np.ndarray:
        """The directions, best first, `(directions,)`."""
        return np.arange(len(self.scores))

    def values(self, activations: Any) -> np.ndarray:
        """Returns the value of each direction on each point.

        Args:
            activations: of all units, `(points, units)`.

        Returns:
            `(points, directions)`, float64.

        Raises:
            ValueError: if there are more or fewer units.
        """
        return (self._checked(activations) - self.mean) @ self.transform

    def without(self, activations: Any, directions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns activations from which directions are taken out; everywhere they have their mean, 0, then.

        Args:
            activations: of all units, `(points, units)`.
            directions: positions of some directions, such as `found.order[:10]`.

        Returns:
            `(points, units)`, float64.

        Raises:
            ValueError: if there are more or fewer units, or no such directions.
        """
        activations = self._checked(activations)
        chosen = np.asarray(directions, int)
        wrong = chosen[(chosen < 0) | (chosen >= len(self.scores))]
        if wrong.size:
            raise ValueError(f"directions: there are {len(self.scores)} of them, from 0; received {wrong.flat[0]}.")
        values = (activations - self.mean) @ self.transform[:, chosen]
        return activations - values @ self.inverse[chosen]

    def _checked(self, activations: Any) -> np.ndarray:
        activations = np.asarray(activations, "float64")
        if activations.ndim != 2 or activations.shape[1] != len(self.mean):
            raise ValueError(
                f"activations: expected the shape (points, {len(self.mean)}), the units that the directions were made "
                f"of, received {activations.shape}."
            )
        return activations

    def __len__(self) -> int:
        return len(self.scores)

    def __repr__(self) -> str:
        best = ", ".join(f"{score:.3f}" for score in self.scores[:5])
        more = ", ..." if len(self) > 5 else ""
        return f"{len(self)} directions among {len(self.mean)} units, canonical correlations {best or 'none'}{more}"


@dataclass(frozen=True, eq=False)
class CanonicalCorrelations:
    """How alike the spaces are that two layers span, and the directions that they share.

    Attributes:
        correlations: canonical correlations, falling, `(directions,)`; as many as the smaller space has dimensions.
        directions: for each of the two the directions with these correlations.
    """

    correlations: np.ndarray
    directions: tuple[Directions, Directions]

    @property
    def similarity(self) -> float:
        """The mean canonical correlation, 0 to 1; 0 where one of the two never changes."""
        return float(self.correlations.mean()) if len(self.correlations) else 0.0
