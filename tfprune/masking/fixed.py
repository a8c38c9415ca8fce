"""Models whose units are replaced without one more input: by a mask that stands in a weight, or for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from tfprune.borders import warn
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.members import Group, Home, Member
from tfprune.graph.walk import fresh_input, functional, run
from tfprune.layers import (
    DirectionReplacement,
    FixedOnNodes,
    MaskedBidirectional,
    MaskedRNN,
    MeanReplacement,
    StepPositions,
    TakeUnits,
)
from tfprune.masking.build import ON_NODES, GraphBuilder, call_nested, masked_builder, refuse_masked
from tfprune.units import LayerValues

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
    builder = masked_builder(model, layers, replacement)
    row = FixedOnNodes(builder.num_units, name="fixed_on_nodes")
    return builder.build(model, model.name, row), _switch(row)


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

    def along(self, units: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """Returns values and directions along an axis whose positions hold these units, -1 for others.

        Raises:
            ValueError: if there are directions and a unit has several positions.
        """
        inside = units >= 0
        values = np.where(inside, self.values[units], 0.0)
        if self.directions is None:
            return values, None
        if inside.sum() != len(self.values):
            raise ValueError(
                f"directions: they are of {len(self.values)} units; the layer has {units.max() + 1} units, at "
                f"{inside.sum()} positions."
            )
        outwards, back = self.directions
        return values, (outwards[units] * inside[:, None], back[:, units] * inside)


class HomeModel(NamedTuple):
    """A model whose units are replaced where they show.

    Attributes:
        model: takes the inputs of the original as they are; or a list of them, and behind them `on_nodes` if it is no
            weight, and `positions` if asked for.
        switch: takes a row `(num_columns,)`, 1 on and 0 off, one number for each entry of the stand-ins in turn; None
            where the model has the input `on_nodes`.
    """

    model: keras.Model
    switch: Callable[[np.ndarray], None] | None


def replaced_at_homes(
    model: keras.Model,
    stand_ins: Mapping[str, StandIn],
    positions: Sequence[int] | str | None = None,
    *,
    fixed: bool = True,
) -> HomeModel:
    """Builds a model in which units of some layers are replaced where they show, so that all readers see it.

    A recurrent layer goes on from what stands in, too, unless it merges two directions into one number.

    Args:
        model: a Sequential or functional model.
        stand_ins: what stands in, by the name of a group, or of a layer that makes units.
        positions: steps of the sequence at which units are replaced, from the end if negative; "input" for one more
            input of the model, `positions`, `(batch, steps)`, 1 where they are; None for everywhere.
        fixed: whether what is off stands in a weight; False for an input `on_nodes`.

    Raises:
        ValueError: if a name is unknown or its units show in no tensor; or if there are `positions` and they show
            without steps.
    """
    refuse_masked(model)
    graph = unit_groups(model)
    members = {name: member_of(graph, name) for name in stand_ins}
    for name, member in members.items():
        _warn_of_others(graph, name, member)
        _warn_of_state(graph, name, member)
    if positions is not None:
        for name, member in members.items():
            _check_steps(name, member, positions)
    builder = _HomeBuilder(graph, members, stand_ins, positions)
    row = FixedOnNodes(builder.num_columns, name="fixed_on_nodes") if fixed else None
    built = builder.build(model, model.name, row)
    if not fixed:
        return HomeModel(built, None)
    switch = _switch(row)
    switch(np.concatenate([~own.off for own in stand_ins.values()]))
    return HomeModel(built, switch)


def _switch(row: FixedOnNodes) -> Callable[[np.ndarray], None]:
    return lambda mask: row.on_nodes.assign(np.asarray(mask, "float32").reshape(1, -1))


def member_of(graph: UnitGraph, name: str) -> Member:
    """Returns the layer that makes the units which a name means: the first one of a group, or the one of this name.

    Raises:
        ValueError: if there is no such layer, or its units show in no tensor.
    """
    found = [member for group in graph.values() for member in group.members if name in (group.name, member.name)]
    if not found:
        raise ValueError(graph.unknown(name))
    if name not in graph and len(found) > 1:
        groups = ", ".join(own.name for own in graph.values() if any(name == member.name for member in own.members))
        raise ValueError(f"neurons: layer {name!r} makes several groups. Name one of them: {groups}.")
    merging = _bidirectional_of(graph, found[0])
    if not found[0].homes and merging is not None:
        raise ValueError(
            f"neurons: the directions of {merging.name!r} are merged by {merging.merge_mode!r}, so that no tensor "
            f"shows {name!r} alone. Name its group to hold what both give together: {group_of(graph, found[0]).name!r}."
        )
    if not found[0].homes:
        raise ValueError(
            f"neurons: the units of {name!r} are heads of attention, which show in no tensor, so that nothing can "
            "stand in for one. tfprune.with_on_nodes switches them off."
        )
    return found[0]


def group_of(graph: UnitGraph, member: Member) -> Group:
    """Returns the group whose units a layer makes."""
    return next(own for own in graph.values() if any(member is other for other in own.members))


def _bidirectional_of(graph: UnitGraph, member: Member) -> keras.layers.Bidirectional | None:
    """Returns the layer of which a member is one direction, None for any other member."""
    two_ways = (own for own in graph.model._flatten_layers() if isinstance(own, keras.layers.Bidirectional))
    made = member.operation
    return next((own for own in two_ways if made is own.forward_layer or made is own.backward_layer), None)


def _warn_of_state(graph: UnitGraph, name: str, member: Member) -> None:
    """Warns where the units of a recurrent layer show only behind what changes their numbers."""
    steps = member.changed_behind
    inside = any(exit.tensor is None and exit.operation is member.operation for exit in graph.records.exits)
    if steps and inside:
        warn(
            f"neurons: the units of {name!r} show behind {', '.join(repr(step.name) for step in steps)}, and are "
            "replaced there; inside the recurrence they go on as they are."
        )


def _warn_of_others(graph: UnitGraph, name: str, member: Member) -> None:
    """Warns where other layers make the same units elsewhere, if the group is meant."""
    made = graph[name].members if name in graph else ()
    # Directions of one layer show together, side by side or merged.
    around = _bidirectional_of(graph, member)
    made = [own for own in made if around is None or _bidirectional_of(graph, own) is not around]
    shown = {id(home.tensor) for home in member.homes}
    others = [own.name for own in made if shown != {id(home.tensor) for home in own.homes}]
    if others:
        warn(
            f"neurons: the units of {name!r} are made by several layers, whose outputs are added or read together: "
            f"{member.name}, {', '.join(others)}. Only what {member.name!r} gives is replaced. Name one of the other "
            "layers to replace what that one gives, or erase the units by with_on_nodes, which acts where they are "
            "read."
        )


def _check_steps(name: str, member: Member, positions: Sequence[int] | str) -> None:
    lengths = {home.tensor.shape[1] for home in member.homes if len(home.tensor.shape) > 1} - {None}
    if isinstance(positions, str) and len(lengths) > 1:
        found = " and ".join(map(str, sorted(lengths)))
        raise ValueError(
            f"positions: the units of {name!r} show at {found} steps, since the layer is called several times; one "
            "input has one number of steps. Give numbers of steps, such as [0, -1]."
        )
    for home in member.homes:
        shape = tuple(home.tensor.shape)
        if len(shape) != 3 or home.axis % 3 != 2:
            raise ValueError(
                f"positions: the units of {name!r} show in a tensor of shape {shape}, which has no axis of steps; "
                "expected (batch, steps, units). Leave positions out, or take units of a layer that gives sequences."
            )
        steps = shape[1]
        given = [] if steps is None or isinstance(positions, str) else positions
        beyond = [position for position in given if not -steps <= position < steps]
        if beyond:
            raise ValueError(
                f"positions: the units of {name!r} show at {steps} steps, 0 to {steps - 1} or -1 to -{steps}; received "
                f"{beyond[0]}."
            )


class _HomeBuilder(GraphBuilder):
    """Builds models whose units are replaced where they show, and inside the recurrence that makes them."""

    def __init__(
        self,
        graph: UnitGraph,
        members: Mapping[str, Member],
        stand_ins: Mapping[str, StandIn],
        positions: Sequence[int] | str | None,
    ):
        super().__init__(graph)
        self.positions = positions
        self.homes: dict[int, list[tuple[_Part, Home]]] = {}
        self._parts: list[_Part] = []
        self.num_columns = 0
        for name, member in members.items():
            part = _Part(member, group_of(graph, member), stand_ins[name], self.num_columns)
            self._parts.append(part)
            for home in member.homes:
                self.homes.setdefault(id(home.tensor), []).append((part, home))
            self.num_columns += len(part.own.off)

    def build(self, model: keras.Model, name: str, fixed: FixedOnNodes | None = None) -> keras.Model:
        """Builds the form of a model, or of one nested in it, in which units are replaced."""
        graph = functional(model)
        inputs = [fresh_input(tensor) for tensor in graph.inputs]
        on_nodes = keras.Input((self.num_columns,), name=ON_NODES) if fixed is None else fixed(inputs[0])
        asked = [keras.Input((None,), name=POSITIONS)] if self.positions == "input" else []
        place = _HomePlace(self, on_nodes, asked)
        outputs = tree.pack_sequence_as(graph._outputs_struct, run(model, inputs, place.call))
        given = [*inputs, *([on_nodes] if fixed is None else []), *asked]
        if len(given) == len(inputs):
            given = tree.pack_sequence_as(graph._inputs_struct, inputs)
        return keras.Model(given, outputs, name=name)

    def _is_changed(self, node: Any) -> bool:
        return any(id(tensor) in self.homes for tensor in node.outputs) or self.recurrent(node) is not None

    def recurrent(self, node: Any) -> tuple[type, list[_Row]] | None:
        """Returns the twin of a recurrent node, and for each of its rows what is replaced; None if nothing is."""
        record = self._graph.records.twins.get(id(node))
        if record is None or not issubclass(record.layer_class, MaskedRNN | MaskedBidirectional):
            return None
        if getattr(node.operation, "merge_mode", None) not in (None, "concat"):
            # What stands in is for both directions together; none of them can go on from it.
            return None
        rows = [
            _Row(len(ids), [held for part in self._parts for held in self._inside(part, ids)]) for ids in record.ids
        ]
        return (record.layer_class, rows) if any(row.held for row in rows) else None

    def _inside(self, part: _Part, ids: np.ndarray) -> list[tuple[_Part, np.ndarray]]:
        """Returns the part and which of its units a recurrent state holds, if the part's layer makes them."""
        units = self._graph.units_along(ids, part.group.start, part.group.size)
        made = np.isin(ids, part.member.ids).any() and (units >= 0).any()
        # What stands in behind a norm is no state.
        return [(part, units)] if made and not part.member.changed_behind else []


@dataclass(frozen=True, eq=False)
class _Part:
    """What stands in for the units of one layer, and the first column of `on_nodes` that is about them."""

    member: Member
    group: Group
    own: StandIn
    column: int

    def columns(self, units: np.ndarray) -> np.ndarray:
        """Returns which columns of `on_nodes` the positions of an axis take, -1 for always on."""
        if self.own.directions is not None:
            return self.column + np.arange(len(self.own.off))
        return np.where(units >= 0, self.column + units, -1)


class _Row(NamedTuple):
    """A row of masks that a recurrent twin takes: how long, and which parts hold which of its positions."""

    size: int
    held: list[tuple[_Part, np.ndarray]]

    def values(self) -> tuple[Any, Any]:
        """Returns what stands in along the row, values and directions."""
        found = [part.own.along(units) for part, units in self.held]
        # Each position belongs to one part alone.
        return np.sum([np.zeros(self.size), *(values for values, _ in found)], axis=0), found[0][1] if found else None

    def columns(self) -> np.ndarray:
        """Returns which columns of `on_nodes` it takes, -1 for always on."""
        columns = [part.columns(units) for part, units in self.held]
        return np.max(columns, axis=0) if columns else np.full(self.size, -1)


class _HomePlace:
    """One graph while its units are being replaced."""

    def __init__(self, builder: _HomeBuilder, on_nodes: Any, positions: list[Any]):
        self._builder = builder
        self._on_nodes = on_nodes
        self._positions = positions
        self._twins: dict[int, Any] = {}
        self._free: dict[tuple[int, int], Any] = {}

    def call(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        """Calls a node's operation and replaces the units that show in what it gives."""
        nested = self._builder.nested(node.operation)
        inside = self._builder.recurrent(node)
        if nested is not None:
            outputs = call_nested(nested, args, kwargs, self._on_nodes, *self._positions)
        elif inside is not None:
            outputs = self._recurrent(node.operation, args, kwargs, *inside)
        else:
            outputs = tree.flatten(self._builder.copy(node.operation)(*args, **kwargs))
        for number, reference in enumerate(node.outputs):
            for part, home in self._builder.homes.get(id(reference), ()):
                h = outputs[number]
                outputs[number] = self._replaced(h, part, home.own, home.axis, self._at(h))
        return outputs

    def _replaced(self, h: Any, part: _Part, units: np.ndarray, axis: int, at: Any = None) -> Any:
        """Puts the layer behind `h` that replaces the units on its axis."""
        values, directions = part.own.along(units)
        if directions is None:
            layer = MeanReplacement(axis=axis, relative=part.own.relative, dtype=h.dtype)
        else:
            layer = DirectionReplacement(len(part.own.off), axis=axis, dtype=h.dtype)
        result = layer(h, self._row(part.columns(units)), *([] if at is None else [at]))
        layer.replacement.assign(values)
        if directions is not None:
            layer.outwards.assign(directions[0])
            layer.back.assign(directions[1])
        return result

    def _row(self, columns: np.ndarray) -> Any:
        return TakeUnits(columns, dtype=self._on_nodes.dtype)(self._on_nodes)

    def _at(self, h: Any) -> Any:
        """Returns at which steps of `h` units are replaced, or None for all."""
        if self._positions:
            return self._positions[0]
        return None if self._builder.positions is None else StepPositions(self._builder.positions)(h)

    def _recurrent(self, operation: Any, args: tuple, kwargs: dict, twin_class: type, rows: list[_Row]) -> list[Any]:
        """Calls the twin of a recurrent layer, and replaces the units in the states h that it gives out last."""
        if id(operation) not in self._twins:
            found = [row.values() for row in rows]
            self._twins[id(operation)] = twin_class(
                operation,
                [values for values, _ in found],
                relative=any(part.own.relative for row in rows for part, _ in row.held),
                directions=[directions for _, directions in found],
                name=operation.name,
                dtype=operation.dtype_policy,
            )
        twin = self._twins[id(operation)]
        at = self._at(args[0])
        asked = {} if at is None else {"positions": at}
        on_nodes = [self._row(row.columns()) for row in rows]
        # The twin replaces what enters: a state that another call of it has given goes in as it was.
        args, kwargs = tree.map_structure(lambda own: self._free.get((id(own), id(operation)), own), (args, kwargs))
        outputs = tree.flatten(twin(*args, **kwargs, **asked, on_nodes=on_nodes))
        if at is None and operation.return_state:
            # Behind the sequences (a Bidirectional may give two) come the states: h is the first of each row's.
            first = 2 if getattr(operation, "merge_mode", "concat") is None else 1
            for number, row in enumerate(rows):
                place = first + number * (len(outputs) - first) // len(rows)
                free = outputs[place]
                for part, units in row.held:
                    outputs[place] = self._replaced(outputs[place], part, units, -1)
                self._free[id(outputs[place]), id(operation)] = free
        return outputs
