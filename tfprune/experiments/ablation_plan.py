"""Which units go at each step of a curve of ablation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.graph import unit_groups
from tfprune.neurons import Directions
from tfprune.ties import rising_order
from tfprune.units import LayerValues, check_like

ORDERS = ("top", "bottom", "random")


class Plan:
    """Which units go at each step of each curve."""

    def __init__(
        self,
        model: keras.Model,
        ranking: Any,
        order: str | Sequence[str],
        steps: int | Sequence[float],
        repeats: int,
        seed: int,
        keep_last: bool = False,
    ):
        self.is_of_directions = isinstance(ranking, Directions)
        graph = unit_groups(model)
        scores = _one_group(ranking) if self.is_of_directions else check_scores(graph, ranking)
        self.layers = tuple(scores)
        self._sizes = {name: len(own) for name, own in scores.items()}
        self.num_units = scores.size
        orders = [order] if isinstance(order, str) else list(order)
        unknown = [own for own in orders if own not in ORDERS]
        if unknown or not orders:
            raise ValueError(f"order: expected one or several of {', '.join(ORDERS)}, received {order!r}.")
        if not isinstance(repeats, int) or repeats < 1:
            raise ValueError(f"repeats: expected how many random orders to draw, at least 1, received {repeats!r}.")
        generator = np.random.default_rng(seed)
        flat = np.asarray(scores.flat, "float64")
        self.orders, self._ways = [], []
        for own in orders:
            for _ in range(repeats if own == "random" else 1):
                way = generator.permutation(len(flat)) if own == "random" else rising_order(_SIGNS[own] * flat)
                self.orders.append(own)
                self._ways.append(self._without_last(way) if keep_last else way)
        self.counts = _counts(steps, len(self._ways[0]), self.num_units)

    def _without_last(self, way: np.ndarray) -> np.ndarray:
        """Leaves out the unit of each group that would be its last to go."""
        groups = np.repeat(np.arange(len(self._sizes)), list(self._sizes.values()))[way]
        last = [np.flatnonzero(groups == group)[-1] for group in range(len(self._sizes))]
        return np.delete(way, last)

    def masks(self) -> np.ndarray:
        """Returns bool `(num_curves, num_steps + 1, num_units)`, True where a unit is on."""
        masks = np.ones((len(self._ways), len(self.counts), self.num_units), bool)
        for own, way in zip(masks, self._ways, strict=True):
            for row, count in zip(own, self.counts, strict=True):
                row[way[:count]] = False
        return masks

    def mask(self, row: np.ndarray) -> LayerValues:
        """Returns a row as a mask by group name."""
        return LayerValues.from_flat(row, self._sizes)


_SIGNS = {"top": -1.0, "bottom": 1.0}


def check_scores(graph: Any, ranking: Any) -> LayerValues:
    """Returns the scores of a ranking in the order of the graph.

    Args:
        graph: the units of the model.
        ranking: scores by group name, or something with an attribute `scores` that holds them.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is empty, or names, lengths or values do not fit.
    """
    if isinstance(ranking, tuple) or hasattr(ranking, "correlations"):
        raise TypeError(
            "ranking: expected one ranking, received those of several models. Take that of this model: found[0], or "
            "found.directions[0] of svcca."
        )
    scores = getattr(ranking, "scores", ranking)
    if isinstance(scores, Mapping):
        for name in scores:
            if name not in graph:
                raise ValueError(graph.unknown(name))
        if not len(scores):
            raise ValueError("ranking: it is empty. Give scores of at least one group.")
    elif isinstance(scores, np.ndarray):
        raise TypeError(
            "ranking: expected scores by group name, received an array, as a ranking of plain arrays has it. Give "
            "{group: scores}; tfprune.unit_groups(model) lists the groups."
        )
    return check_like(scores, graph.sizes_with_blocks, "ranking", partial=True)


def _counts(steps: int | Sequence[float], most: int, num_units: int) -> np.ndarray:
    """Returns how many units are off at each step, rising from 0."""
    if isinstance(steps, int | np.integer) and not isinstance(steps, bool):
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, received {steps}.")
        return np.unique(np.round(np.linspace(0, most, min(steps, most) + 1)).astype(int))
    given = np.asarray(steps)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf":
        raise ValueError(f"steps: expected a number of steps, or a list of counts or shares, received {steps!r}.")
    limit = 1.0 if given.dtype.kind == "f" else num_units
    if not np.isfinite(given).all() or given.min() < 0 or given.max() > limit:
        raise ValueError(
            f"steps: expected shares from 0.0 to 1.0, or counts (whole numbers) from 0 to {num_units}, received "
            f"{steps!r}."
        )
    counts = np.round(given * num_units).astype(int) if given.dtype.kind == "f" else given
    return np.unique(np.append(np.minimum(counts, most), 0))


def _one_group(ranking: Directions) -> LayerValues:
    """Returns the scores of directions by the name of the one group whose units they combine."""
    if ranking.sizes is None or len(ranking.sizes) != 1:
        received = "no names (they were made of arrays)" if ranking.sizes is None else ", ".join(ranking.sizes)
        raise ValueError(
            f"ranking: directions can be erased if they combine the units of one group; received {received}. Give "
            "neurons.svcca the activations, or the models, with one name in `layers`."
        )
    if not len(ranking):
        raise ValueError("ranking: it has no directions, since the units never change.")
    return LayerValues({next(iter(ranking.sizes)): ranking.scores})
