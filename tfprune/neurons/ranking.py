"""Units in an order, best first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.ties import rising_order
from tfprune.units import LayerValues


class Ranked:
    """What holds a ranking, as `ranking`, and stands for it."""

    ranking: Ranking

    @property
    def scores(self) -> np.ndarray | LayerValues:
        """The scores of the units: higher is more important."""
        return self.ranking.scores

    @property
    def order(self) -> np.ndarray:
        """Flat positions of the units, the most important first."""
        return self.ranking.order

    def labels(self, count: int | None = None) -> list[str]:
        """Returns how the best units are called, the best first; see `Ranking.labels`."""
        return self.ranking.labels(count)


@dataclass(frozen=True, eq=False)
class Ranking:
    """Units in an order, best first, with the scores that put them there.

    Flat positions count through all groups in the order of `scores`, as `LayerValues.flat` does. Whatever takes scores
    by group takes `ranking.scores`.

    Attributes:
        scores: higher is more important; `(units,)`, or `LayerValues` of such by group where names are known.
        order: flat positions of all units, best first, `(units,)`. None, where it is made, is the order of falling
            scores, in which of equal ones (`tfprune.ties`) the first comes first.
        partners: for each unit, by flat position, the other model's number and the flat position of the unit there
            that it is most like, `(units, 2)`; -1 for units that have none. None for rankings that know no partners.

    Raises:
        ValueError: if a score is NaN or infinite, or order or partners do not fit the scores.

    Example:
        >>> ranking = Ranking(LayerValues({"first": [0.1, 0.9], "second": [0.5, 0.9]}))
        >>> ranking.order
        array([1, 3, 2, 0])
        >>> ranking.labels(2)
        ['first[1]', 'second[1]']
    """

    scores: np.ndarray | LayerValues
    order: np.ndarray = None
    partners: np.ndarray | None = None

    def __post_init__(self):
        if not isinstance(self.scores, LayerValues):
            object.__setattr__(self, "scores", np.asarray(self.scores))
        flat = self.flat
        if flat.ndim != 1 or flat.dtype.kind not in "biuf":
            raise ValueError(
                f"Ranking: scores expect one number for each unit, (units,), received the shape {flat.shape} and "
                f"dtype {flat.dtype}."
            )
        bad = np.flatnonzero(~np.isfinite(flat))
        if len(bad):
            raise ValueError(f"Ranking: the score of unit {bad[0]} is {flat[bad[0]]}, expected a finite number.")
        order = rising_order(-flat.astype("float64")) if self.order is None else np.asarray(self.order)
        if order.shape != flat.shape or not np.array_equal(np.sort(order), np.arange(len(flat))):
            raise ValueError(f"Ranking: the order expects each of the positions 0 to {len(flat) - 1} once.")
        object.__setattr__(self, "order", order)
        if self.partners is not None and self.partners.shape != (len(flat), 2):
            raise ValueError(
                f"Ranking: partners expect the shape ({len(flat)}, 2), received {np.shape(self.partners)}."
            )

    @property
    def flat(self) -> np.ndarray:
        """The scores of all units as one vector `(units,)`."""
        return self.scores.flat if isinstance(self.scores, LayerValues) else self.scores

    def labels(self, count: int | None = None) -> list[str]:
        """Returns how the best units are called, the best first: `group[unit]`, or the position alone without names.

        Args:
            count: how many; None for all.
        """
        if not isinstance(self.scores, LayerValues):
            return [f"[{position}]" for position in self.order[:count].tolist()]
        names = [f"{name}[{unit}]" for name, own in self.scores.items() for unit in range(len(own))]
        return [names[position] for position in self.order[:count].tolist()]

    def __len__(self) -> int:
        return len(self.order)

    def __repr__(self) -> str:
        best = zip(self.labels(5), self.flat[self.order[:5]], strict=True)
        more = ", ..." if len(self) > 5 else ""
        return f"Ranking of {len(self)} units: {', '.join(f'{label} {score:.3g}' for label, score in best)}{more}"


def units_of_labels(labels: Any, what: str) -> dict[str, list[int]]:
    """Returns the units that labels such as "hidden[3]" mean, by name; `what` is how errors call them."""
    found: dict[str, list[int]] = {}
    for label in [labels] if isinstance(labels, str) or not isinstance(labels, Iterable) else labels:
        name, bracket, unit = label.rpartition("[") if isinstance(label, str) else ("", "", "")
        if not bracket or not unit.endswith("]") or not unit[:-1].isdigit():
            raise TypeError(f"{what}: expected {{group: units}} or labels such as 'hidden[3]', received {label!r}.")
        found.setdefault(name, []).append(int(unit[:-1]))
    return found
