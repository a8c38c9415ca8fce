"""Groups of units, the layers that make them, and where to look at them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

# What does nothing outside training.
_IDLE = (
    *[keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D],
    *[keras.layers.SpatialDropout3D, keras.layers.AlphaDropout, keras.layers.GaussianDropout],
    *[keras.layers.GaussianNoise, keras.layers.ActivityRegularization],
)


@dataclass(frozen=True, eq=False)
class Home:
    """Where the units that a layer makes are to be looked at.

    Attributes:
        tensor: of the graph.
        axis: of the tensor.
        units: for each position along the axis, the unit's place within the group; -1 for other positions.
        own: the same for the positions of this layer alone, where others make the units beside it (the directions of a
            Bidirectional).
        behind: the operations between the layer and here, in the order in which they run.
    """

    tensor: Any
    axis: int
    units: np.ndarray
    own: np.ndarray
    behind: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class Member:
    """A layer that makes the units of a group.

    Attributes:
        name: the layer's name, `outer/inner` inside a nested model.
        operation: the layer.
        homes: where its units are to be looked at, one for each call of the layer; empty if no tensor shows them (the
            heads of attention).
        ids: the ids of its units, which no other layer has.
    """

    name: str
    operation: Any
    homes: tuple[Home, ...]
    ids: np.ndarray

    @property
    def changed_behind(self) -> list[Any]:
        """The operations between the layer and its homes that change numbers: all but dropout and noise."""
        found = {id(step): step for home in self.homes for step in home.behind if not isinstance(step, _IDLE)}
        return list(found.values())


@dataclass(frozen=True, eq=False)
class Group:
    """Units with the same members, and in the same slices where their tensor is taken apart.

    Attributes:
        name: the name of the first member.
        size: the number of units.
        start: the column of the first unit in `on_nodes` when all groups are masked.
        members: the layers that make the units.
        exits: names of the layers that contract over the units.
        parameters_per_unit: the number of weights that go with one unit, on average.

    Of the group of whole blocks each unit is a member.
    """

    name: str
    size: int
    start: int
    members: tuple[Member, ...]
    exits: tuple[str, ...]
    parameters_per_unit: float
