"""The public verbs of cutting: `remove` and `remove_dead`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from tfprune.graph import UnitGraph, unit_groups
from tfprune.masking import refuse_masked
from tfprune.surgery.rebuild import Cut, compile_like
from tfprune.units import LayerValues, check_like


def remove(model: keras.Model, mask: LayerValues, *, keep_optimizer: bool = False) -> keras.Model:
    refuse_masked(model)
    graph = unit_groups(model)
    on = checked_mask(graph, mask)
    cut = Cut(graph, on)
    compile_like(model, cut, keep_optimizer=keep_optimizer)
    return cut.model


def checked_mask(graph: UnitGraph, mask: Any) -> np.ndarray:
    """Returns which units stay, shape `(num_units,)`; groups that `mask` leaves out stay whole.

    Raises:
        ValueError: if a group is unknown or of another length, if a group would be empty, or if a layer needs equal
            numbers of two kinds of units and would not have them.
    """
    mask = check_like(mask, graph.sizes, "mask", partial=True, boolean=True)
    on = np.ones(graph.num_units, bool)
    for name, kept in mask.items():
        group = graph[name]
        if not kept.any():
            raise ValueError(
                f"mask: all {group.size} units of group {name!r} are off, which would leave {group.members[0].name!r} "
                "without units. Keep at least one (keep_top has min_units=1)."
            )
        on[group.start : group.start + group.size] = kept
    for one, other, reason in graph.records.equal:
        counts = int(graph.kept(one, on).sum()), int(graph.kept(other, on).sum())
        if counts[0] != counts[1]:
            raise ValueError(
                f"mask: {reason}, but {counts[0]} and {counts[1]} would stay. Keep equal numbers: keep_top with "
                "scope='group' does."
            )
    return on


def remove_dead(model, data):
    raise NotImplementedError
