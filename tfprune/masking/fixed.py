"""Models whose units are replaced without one more input: by a mask that stands in a weight, or for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree

from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.groups import Member
from tfprune.graph.walk import fresh_input, functional, is_graph, run
from tfprune.layers import FixedOnNodes, MaskedBidirectional, MaskedRNN, MeanReplacement, StepPositions
from tfprune.masking.build import MaskedBuilder, MaskedPlace, refuse_masked
from tfprune.units import LayerValues, check_like

POSITIONS = "positions"
"""Name of the input that says at which steps of each sequence units are replaced."""


def fixed_model(
    model: keras.Model, layers: Iterable[str] | str | None = None, replacement: LayerValues | None = None
) -> tuple[keras.Model, Callable[[np.ndarray], None]]:
    """Builds a model whose mask stands in a weight, so that it takes the inputs of the original.

    Arguments as for `with_on_nodes`.

    Returns:
        The model, with all units on, and a function that takes the mask, a row `(num_units,)` of 1 (on) and 0 (off).
    """
    refuse_masked(model)
    graph = unit_groups(model)
    chosen = graph.choose(layers)
    if replacement is not None:
        replacement = check_like(replacement, {name: graph[name].size for name in chosen}, "replacement", partial=True)
    row = FixedOnNodes(sum(graph[name].size for name in chosen), name="fixed_on_nodes")
    fixed = MaskedBuilder(graph, chosen, replacement).build(model, model.name, row)
    return fixed, lambda mask: row.on_nodes.assign(np.asarray(mask, "float32").reshape(1, -1))


@dataclass(frozen=True, eq=False)
class StandIn:
    """What stands in for units of one layer where they show.

    Attributes:
        values: one number per unit of the group.
        relative: whether they are added to the units instead of standing for them.
        directions: `(units, k)` and `(k, units)`: not units but the directions `h @ first` are replaced, by those of
            `values`; None for units.
        off: which units, or directions, are replaced, bool.
    """

    values: np.ndarray
    off: np.ndarray
    relative: bool = False
    directions: tuple[np.ndarray, np.ndarray] | None = None


def replaced_at_homes(
    model: keras.Model, stand_ins: Mapping[str, StandIn], positions: Iterable[int] | str | None = None
) -> keras.Model:
    """Builds a model in which units of some layers are replaced where they show, so that all readers see it.

    A recurrent layer goes on from what stands in, too.

    Args:
        model: a Sequential or functional model.
        stand_ins: what stands in, by the name of a group that one layer makes, or of a layer that makes units.
        positions: steps of the sequence at which units are replaced, from the end if negative; "input" for one more
            input of the model, `positions`, `(batch, steps)`, 1 where they are; None for everywhere.

    Raises:
        ValueError: if a name is unknown or its units show in no tensor, or in several that would add up; or if there
            are `positions` and they show without steps.
    """
    refuse_masked(model)
    graph = unit_groups(model)
    members = {name: member_of(graph, name) for name in stand_ins}
    if positions is not None:
        for name, member in members.items():
            _check_steps(name, member)
    return _HomeBuilder(graph, members, stand_ins, positions).build(model, model.name)


def member_of(graph: UnitGraph, name: str) -> Member:
    """Returns the layer that makes the units which a name means: the only one of a group, or one of several.

    Raises:
        ValueError: if there is no such layer, several make the group, or its units show in no tensor.
    """
    if name in graph and len(graph[name].members) > 1:
        others = ", ".join(member.name for member in graph[name].members[1:])
        raise ValueError(
            f"neurons: the units of {name!r} are made by several layers together ({name}, {others}), so that no one "
            f"number can stand in for what each of them gives. Name one of the others alone ({others}), or a group that "
            "one layer makes; tfprune.unit_groups(model) lists the members."
        )
    found = [member for group in graph.values() for member in group.members if name in (group.name, member.name)]
    if not found:
        raise ValueError(graph.unknown(name))
    if len(found) > 1:
        groups = ", ".join(group.name for group in graph.values() if found[0] in group.members or name == group.name)
        raise ValueError(f"neurons: layer {name!r} makes several groups. Name one of them: {groups}.")
    if found[0].home is None:
        raise ValueError(
            f"neurons: the units of {name!r} are heads of attention, which show in no tensor, so that nothing can stand "
            "in for one. tfprune.with_on_nodes switches them off."
        )
    return found[0]


def _check_steps(name: str, member: Member) -> None:
    tensor, axis = member.home
    if len(tensor.shape) != 3 or axis % 3 != 2:
        raise ValueError(
            f"positions: the units of {name!r} show in a tensor of shape {tuple(tensor.shape)}, which has no axis of "
            "steps; expected (batch, steps, units). Leave positions out, or take units of a layer that gives sequences."
        )


class _HomeBuilder(MaskedBuilder):
    """Builds models whose units are replaced where they show, and inside the recurrence that makes them."""

    def __init__(
        self,
        graph: UnitGraph,
        members: Mapping[str, Member],
        stand_ins: Mapping[str, StandIn],
        positions: Iterable[int] | str | None,
    ):
        super().__init__(graph, (), None)
        self._positions = positions
        self.homes: dict[int, list[tuple[Member, StandIn]]] = {}
        self.makers: dict[int, list[tuple[Member, StandIn]]] = {}
        for name, member in members.items():
            self.homes.setdefault(id(member.home[0]), []).append((member, stand_ins[name]))
            self.makers.setdefault(id(member.operation), []).append((member, stand_ins[name]))

    def build(self, model: keras.Model, name: str, row: Any = None) -> keras.Model:
        graph = functional(model)
        inputs = [fresh_input(tensor) for tensor in graph.inputs]
        positions = self.positions_of(inputs)
        place = _HomePlace(self, positions)
        outputs = tree.pack_sequence_as(graph._outputs_struct, run(model, inputs, place.call))
        asked = [positions] if self._positions == "input" else []
        return keras.Model([*inputs, *asked], outputs, name=name)
