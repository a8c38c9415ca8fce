"""Directions in the space of a layer's units: combinations of units, in an order, that can be taken out."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.ties import RELATIVE


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
    """

    correlations: np.ndarray
    _sides: tuple[Side, Side] = field(repr=False)

    @functools.cached_property
    def directions(self) -> tuple[Directions, Directions]:
        """For each of the two the directions with these correlations."""
        # Made when they are asked for: the similarity needs none.
        signs = _signs(self._sides[0].turn)
        return tuple(own.directions(self.correlations, signs) for own in self._sides)

    @property
    def similarity(self) -> float:
        """The mean canonical correlation, 0 to 1; 0 where one of the two never changes."""
        return float(self.correlations.mean()) if len(self.correlations) else 0.0

    def __repr__(self) -> str:
        best = ", ".join(f"{value:.3f}" for value in self.correlations[:5])
        more = ", ..." if len(self.correlations) > 5 else ""
        return (
            f"CanonicalCorrelations: similarity {self.similarity:.3f}, {len(self.correlations)} directions: "
            f"{best or 'none'}{more}"
        )


@dataclass(frozen=True, eq=False)
class Axes:
    """Axes along which units that are divided by `units` do not correlate.

    Attributes:
        vectors: orthonormal columns, `(units, kept)`.
        scale: the standard deviation along each of them, `(kept,)`.
        units: what each unit is divided by, `(units,)`.
    """

    vectors: np.ndarray
    scale: np.ndarray
    units: np.ndarray


@dataclass(frozen=True, eq=False)
class Side:
    """One of two layers: what its directions are made of.

    Attributes:
        axes: those of its units.
        turn: from the axes to the directions, `(kept, directions)`.
        mean: of each unit, `(units,)`.
        sizes: number of units by group name, or None.
    """

    axes: Axes
    turn: np.ndarray
    mean: np.ndarray
    sizes: Mapping[str, int] | None

    def directions(self, correlations: np.ndarray, signs: np.ndarray) -> Directions:
        """Returns the directions, each with the sign that it is given."""
        axes, turn, units = self.axes, self.turn * signs, self.axes.units[:, None]
        transform = (axes.vectors / axes.scale / units) @ turn
        inverse = turn.T @ (axes.vectors * axes.scale * units).T
        return Directions(correlations, transform, inverse, self.mean, self.sizes)


def _signs(columns: np.ndarray) -> np.ndarray:
    """Returns the sign of the largest entry of each column: the sign of a direction is free, and this one is its own.

    Of entries that are equal but for rounding the first counts, so that it does not hang on the processor.
    """
    strength = np.abs(columns)
    largest = strength >= strength.max(axis=0, initial=0.0) * (1 - RELATIVE)
    first = largest & (np.cumsum(largest, axis=0) == 1)
    return np.where((columns * first).sum(axis=0) < 0, -1.0, 1.0)
