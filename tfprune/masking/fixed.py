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
from tfprune.graph.walk import copied, fresh_input, functional, is_graph, nodes_of, run
from tfprune.layers import (
    DirectionReplacement,
    FixedOnNodes,
    MaskedBidirectional,
    MaskedRNN,
    MeanReplacement,
    StepPositions,
)
from tfprune.masking.build import MaskedBuilder, refuse_masked
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

    def along(self, units: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None]:
        """Returns values, what is off, and directions along an axis whose positions hold these units, -1 for none.

        Raises:
            ValueError: if there are directions and a unit has several positions.
        """
        inside = units >= 0
        values = np.where(inside, self.values[units], 0.0)
        if self.directions is None:
            return values, self.off[units] & inside, None
        if inside.sum() != len(self.values):
            raise ValueError(
                f"directions: they are of {len(self.values)} units, which the layer gives at {inside.sum()} positions."
            )
        outwards, back = self.directions
        return values, self.off, (outwards[units] * inside[:, None], back[:, units] * inside)

    def holds(self, units: np.ndarray) -> np.ndarray:
        """Whether numbers are units of the group, bool."""
        return (units >= 0) & (units < len(self.values))


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
    if name in graph and len({id(member.home and member.home[0]) for member in graph[name].members}) > 1:
        others = ", ".join(member.name for member in graph[name].members[1:])
        raise ValueError(
            f"neurons: the units of {name!r} are made by several layers together ({name}, {others}), so that no one "
            f"number can stand in for what each of them gives. Name one of the others alone ({others}), or a group "
            "that one layer makes; tfprune.unit_groups(model) lists the members."
        )
    found = [member for group in graph.values() for member in group.members if name in (group.name, member.name)]
    if not found:
        raise ValueError(graph.unknown(name))
    if len(found) > 1:
        groups = ", ".join(group.name for group in graph.values() if found[0] in group.members or name == group.name)
        raise ValueError(f"neurons: layer {name!r} makes several groups. Name one of them: {groups}.")
    if found[0].home is None:
        raise ValueError(
            f"neurons: the units of {name!r} are heads of attention, which show in no tensor, so that nothing can "
            "stand in for one. tfprune.with_on_nodes switches them off."
        )
    return found[0]


def _check_steps(name: str, member: Member) -> None:
    tensor, axis = member.home
    if len(tensor.shape) != 3 or axis % 3 != 2:
        raise ValueError(
            f"positions: the units of {name!r} show in a tensor of shape {tuple(tensor.shape)}, which has no axis of "
            "steps; expected (batch, steps, units). Leave positions out, or take units of a layer that gives sequences."
        )


class _HomeBuilder:
    """Builds models whose units are replaced where they show, and inside the recurrence that makes them."""

    def __init__(
        self,
        graph: UnitGraph,
        members: Mapping[str, Member],
        stand_ins: Mapping[str, StandIn],
        positions: Iterable[int] | str | None,
    ):
        self._graph = graph
        self._positions = positions
        self._homes: dict[int, list[tuple[Member, StandIn]]] = {}
        self._parts: dict[str, tuple[int, StandIn]] = {}
        for name, member in members.items():
            group = next(own for own in graph.values() if any(member is other for other in own.members))
            self._homes.setdefault(id(member.home[0]), []).append((member, stand_ins[name]))
            self._parts[member.name] = (group.start, stand_ins[name])
        self._copies: dict[int, Any] = {}
        self._nested: dict[int, keras.Model | None] = {}

    def build(self, model: keras.Model, name: str) -> keras.Model:
        """Builds the form of a model, or of one nested in it, in which units are replaced."""
        graph = functional(model)
        inputs = [fresh_input(tensor) for tensor in graph.inputs]
        asked = [keras.Input((None,), name=POSITIONS)] if self._positions == "input" else []
        at = asked[0] if asked else None
        outputs = run(model, inputs, lambda node, args, kwargs: self._call(node, args, kwargs, at))
        return keras.Model([*inputs, *asked], tree.pack_sequence_as(graph._outputs_struct, outputs), name=name)

    def _call(self, node: Any, args: tuple, kwargs: dict, at: Any) -> list[Any]:
        operation = node.operation
        nested = self._replaced_inside(operation) if is_graph(operation) else None
        if nested is not None:
            inputs = [leaf for leaf in tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
            asked = [] if at is None else [at]
            outputs = tree.flatten(nested([*inputs, *asked], training=kwargs.get("training")))
        else:
            outputs = self._recurrent(node, args, kwargs, at)
            if outputs is None:
                outputs = tree.flatten(self._copy(operation)(*args, **kwargs))
        for number, reference in enumerate(node.outputs):
            for member, own in self._homes.get(id(reference), ()):
                outputs[number] = self._replaced(outputs[number], member.units, member.home[1], own, at)
        return outputs

    def _copy(self, operation: Any) -> Any:
        if id(operation) not in self._copies:
            self._copies[id(operation)] = copied(operation)
        return self._copies[id(operation)]

    def _replaced_inside(self, model: keras.Model) -> keras.Model | None:
        """Returns the form of a nested model, or None if nothing in it is replaced."""
        if id(model) not in self._nested:
            self._nested[id(model)] = self.build(model, model.name) if self._has_homes(model) else None
        return self._nested[id(model)]

    def _has_homes(self, model: keras.Model) -> bool:
        nodes = nodes_of(model)
        return any(id(tensor) in self._homes for node in nodes for tensor in node.outputs) or any(
            is_graph(node.operation) and self._has_homes(node.operation) for node in nodes
        )

    def _replaced(self, h: Any, units: np.ndarray, axis: int, own: StandIn, at: Any) -> Any:
        """Puts the layer behind `h` that replaces the units on its axis."""
        values, off, directions = own.along(units)
        if directions is None:
            layer = MeanReplacement(axis=axis, relative=own.relative, dtype=h.dtype)
        else:
            layer = DirectionReplacement(len(off), axis=axis, dtype=h.dtype)
        on = FixedOnNodes(len(off))
        at = self._at(h, at)
        result = layer(h, on(h)) if at is None else layer(h, on(h), at)
        layer.replacement.assign(values)
        on.on_nodes.assign(1.0 - off[None])
        if directions is not None:
            layer.outwards.assign(directions[0])
            layer.back.assign(directions[1])
        return result

    def _at(self, h: Any, at: Any) -> Any:
        """Returns at which steps of `h` units are replaced, or None for all."""
        if self._positions is None or at is not None:
            return at
        return StepPositions(self._positions)(h)

    def _recurrent(self, node: Any, args: tuple, kwargs: dict, at: Any) -> list[Any] | None:
        """Calls the twin of a recurrent layer whose units are replaced, or returns None if it is no such node."""
        record = self._graph.records.twins.get(id(node))
        if record is None or not issubclass(record.layer_class, MaskedRNN | MaskedBidirectional):
            return None
        columns = [self._graph.columns(ids) for ids in record.ids]
        found = [(start, own) for name, (start, own) in self._parts.items() if self._makes(node.operation, name)]
        if not found:
            return None
        start, own = found[0]
        rows = [own.along(np.where(own.holds(row - start), row - start, -1)) for row in columns]
        sequences = args[0]
        on_rows = []
        for _, off, _ in rows:
            on = FixedOnNodes(len(off))
            on_rows.append(on(sequences))
            on.on_nodes.assign(1.0 - off[None])
        twin = record.layer_class(
            node.operation,
            [values for values, _, _ in rows],
            relative=own.relative,
            directions=None if own.directions is None else [directions for _, _, directions in rows],
            name=node.operation.name,
            dtype=node.operation.dtype_policy,
        )
        at = self._at(sequences, at)
        if at is not None:
            kwargs = {**kwargs, "positions": at}
        return tree.flatten(twin(*args, **kwargs, on_nodes=on_rows))

    def _makes(self, operation: Any, name: str) -> bool:
        return any(
            member.name == name and (member.operation is operation or member.name.startswith(f"{operation.name}/"))
            for group in self._graph.values()
            for member in group.members
        )
