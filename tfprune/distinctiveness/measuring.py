"""Vectors of the units of a model: activations at their homes, what each reader sees of them, or their weights."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.data import as_batches
from tfprune.distinctiveness.centres import auto_centre
from tfprune.distinctiveness.heads import head_vectors
from tfprune.distinctiveness.vectors import Vectors, pooled
from tfprune.graph import Group, UnitGraph, unit_groups
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.kernels import making_kernels
from tfprune.graph.step import Exit
from tfprune.graph.wiring import Wiring, pulled_back
from tfprune.statistics import ExitStatistics, exit_statistics, unit_statistics

KINDS = ("activations", "weights")


def checked_groups(
    model: keras.Model, data: Any, layers: Iterable[str] | str | None, kind: str, centre: Any
) -> tuple[UnitGraph, tuple[str, ...]]:
    """Checks what all functions of this room take; returns the units and the names of the groups that are meant.

    Raises:
        TypeError: if there are no data for activations, or `centre` is of no kind that is known.
        ValueError: if an option or a name is unknown, or no unit can be removed.
    """
    if kind not in KINDS:
        raise ValueError(f"vectors: expected one of {', '.join(map(repr, KINDS))}, received {kind!r}.")
    is_number = isinstance(centre, numbers.Real) and not isinstance(centre, bool)
    if centre not in ("auto", "mean") and not (is_number and math.isfinite(centre)):
        raise ValueError(f"centre: expected 'auto', 'mean' or a finite number, received {centre!r}.")
    if kind == "weights" and centre != "auto":
        raise ValueError(f"centre: vectors of weights have none, received {centre!r}. Leave it at 'auto'.")
    graph = unit_groups(model)
    check_finite_weights(model)
    names = graph.choose(layers)
    if not names:
        raise ValueError(
            f"model {model.name!r} has no units that can be removed, so there are none to compare.\n{graph}"
        )
    if kind == "activations":
        check_data(model, data, "angles between activations (vectors='weights' compares weights)")
    return graph, names


def check_data(model: keras.Model, data: Any, what: str) -> None:
    """Raises TypeError if there are no data for `what`, ValueError if they do not fit or are less than two patterns."""
    if data is None:
        raise TypeError(
            f"data: expected inputs for {what}, received none. Pass x, (x, y), a tf.data.Dataset or a PyDataset as the "
            "second argument."
        )
    count = as_batches(data, model, targets="ignore").num_samples
    if count is not None and count < 2:
        raise ValueError(f"data: expected at least 2 patterns, received {count}. One pattern tells no two units apart.")


def vectors_of(graph: UnitGraph, names: Iterable[str], data: Any, kind: str, centre: Any) -> dict[str, Vectors]:
    """Returns the vectors of the units of some groups, everything checked already."""
    if kind == "weights":
        return {name: _weight_vectors(graph, graph[name]) for name in names}
    found, inside = _activation_vectors(graph, tuple(names), data)
    for name, own in found.items():
        if own.count < 2:
            raise ValueError(f"data: expected at least 2 patterns, received {own.count} of group {name!r}.")
    result = {}
    for name, own in found.items():
        if centre == "auto":
            result[name] = own.around(auto_centre(graph[name], at_home=name not in inside))
        else:
            result[name] = own.around(own.mean if centre == "mean" else centre)
    return result


def _weight_vectors(graph: UnitGraph, group: Group) -> Vectors:
    """Sums the products of the incoming weights, all gates and the recurrent kernel included, biases not."""
    products, count = np.zeros((group.size, group.size)), 0
    for variable, axis, ids in making_kernels(graph):
        units = graph.columns(ids) - group.start
        positions = [np.flatnonzero(units == unit) for unit in range(group.size)]
        if not any(len(own) for own in positions):
            continue
        values = np.moveaxis(keras.ops.convert_to_numpy(variable).astype("float64"), axis, 0)
        values = np.concatenate([values.reshape(len(values), -1), np.zeros((1, values[0].size))])
        for number in range(max(map(len, positions))):
            rows = values[[own[number] if number < len(own) else -1 for own in positions]]
            products += rows @ rows.T
            count += rows.shape[1]
    zeros = np.zeros(group.size)
    return Vectors(zeros, products / max(count, 1), zeros, count)


def _activation_vectors(graph: UnitGraph, names: tuple[str, ...], data: Any) -> tuple[dict[str, Vectors], set[str]]:
    """Returns activations at home around zero; of recurrent layers that show their last step only, of all steps.

    Second come the names of the groups whose vectors are states inside a layer, and not what is seen at home.
    """
    statistics = unit_statistics(graph.model, data, layers=names, covariance=True)
    found = {
        name: Vectors(mean, statistics.covariance[name], np.zeros(len(mean)), statistics.counts[name])
        for name, mean in statistics.mean.items()
    }
    if statistics.skipped:
        found |= head_vectors(graph, [graph[name] for name in statistics.skipped], data)
    hidden = [
        exit
        for exit in graph.records.exits
        if exit.tensor is None and isinstance(exit.operation, keras.layers.RNN) and not exit.operation.return_sequences
    ]
    # Where several layers make a unit together, it is what they make together that shows.
    single = [name for name in names if len(graph[name].members) == 1]
    states = {name: [exit for exit in hidden if len(_inside(graph, exit, graph[name]))] for name in single}
    states = {name: exits for name, exits in states.items() if exits}
    inside = set()
    if states:
        measured = exit_statistics(graph.model, data, [exit for exits in states.values() for exit in exits])
        for name, exits in states.items():
            (member,) = graph[name].members
            if member.changed_behind:
                inside.add(name)
            found[name] = _with_states(graph, measured, exits, graph[name], found[name], alone=name in inside)
    return {name: found[name] for name in names}, inside


def _inside(graph: UnitGraph, exit: Exit, group: Group) -> np.ndarray:
    columns = graph.columns(exit.ids)
    return np.flatnonzero((columns >= group.start) & (columns < group.start + group.size))


def _with_states(
    graph: UnitGraph, measured: ExitStatistics, exits: list[Exit], group: Group, home: Vectors, *, alone: bool
) -> Vectors:
    """Adds the states of a recurrent layer between its steps to its last ones; the zeros that it starts with are out.

    Where the units show only behind a normalization, the states between the steps stand alone.
    """
    parts = [] if alone else [(home.count, home.mean, home.around(0.0).products)]
    for exit in exits:
        moments, node = measured[exit], exit.node
        own = pooled(moments.mean, moments.covariance, graph.columns(exit.ids) - group.start, group.size, moments.count)
        given = node.arguments.kwargs.get("initial_state") is not None or len(node.input_tensors) > 1
        # Each call shows as many last states.
        count = own.count - (0 if given else home.count // len(exits))
        if count >= 1:
            scale = own.count / count
            parts.append((count, own.mean * scale, own.around(0.0).products * scale))
    if not parts:
        return home
    whole = sum(count for count, _, _ in parts)
    mean = sum(count * own for count, own, _ in parts) / whole
    raw = sum(count * own for count, _, own in parts) / whole
    return Vectors(mean, raw - np.outer(mean, mean), home.centre, whole)


def reader_vectors(graph: UnitGraph, names: Iterable[str], data: Any) -> dict[tuple[str, str], Vectors]:
    """Measures what is read of units where that is not simply their value at home.

    Readers behind a layer that the units share with others, or behind one that more than one layer reads, may see a
    unit differently from what its home shows; so does a recurrent kernel, which reads states that start at zero.

    Args:
        graph: the reading of the model.
        names: the groups to look at.
        data: whatever `model.fit` takes.

    Returns:
        Vectors around zero by `(name of the reader, name of the group)`.
    """
    wiring = Wiring(graph.model)
    wanted: dict[int, tuple[Exit, list[str]]] = {}
    for number, exit in enumerate(graph.records.exits):
        groups = [name for name in names if len(_inside(graph, exit, graph[name])) and exit.kernel]
        away = [name for name in groups if not _at_home(graph, wiring, exit, graph[name])]
        if away:
            wanted[number] = (exit, away)
    exits = [exit for exit, _ in wanted.values()]
    statistics = exit_statistics(graph.model, data, exits) if exits else None
    found: dict[tuple[str, str], Vectors] = {}
    for exit, away in wanted.values():
        for name in away if exit in statistics else ():
            own = _at_reader(graph, statistics, exit, graph[name])
            if own is not None:
                key = (exit.node.operation.name, name)
                found[key] = own if key not in found else _joined(found[key], own)
    return found


def _at_home(graph: UnitGraph, wiring: Wiring, exit: Exit, group: Group) -> bool:
    homes = [home for member in group.members for home in member.homes]
    if exit.tensor is None:
        # Heads of attention have no other place to be measured at.
        return not isinstance(exit.operation, keras.layers.RNN)
    if len(homes) != 1:
        return False
    layer = group.members[0].operation
    if isinstance(layer, keras.layers.RNN) and not layer.return_sequences:
        # Its vectors hold all steps, not only the one that it gives out.
        return False
    return wiring.origin(pulled_back(graph, wiring, exit).tensor) is wiring.origin(homes[0].tensor)


def _at_reader(graph: UnitGraph, statistics: ExitStatistics, exit: Exit, group: Group) -> Vectors | None:
    moments, channels = statistics[exit], statistics.channels(exit)
    units = np.full(len(moments.mean), -1)
    units[channels] = graph.columns(exit.ids) - group.start
    return pooled(moments.mean, moments.covariance, units, group.size, moments.count)


def _joined(one: Vectors, other: Vectors) -> Vectors:
    count = one.count + other.count
    mean = (one.count * one.mean + other.count * other.mean) / count
    raw = (one.count * one.products + other.count * other.products) / count
    return Vectors(mean, raw - np.outer(mean, mean), one.centre, count)
