"""Where a model is looked at for the activations of a group or a layer, and what is taken from there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend

from tfprune.borders import names_of
from tfprune.graph import Group, UnitGraph, unit_groups
from tfprune.graph.nodes import is_graph, name_of
from tfprune.graph.walk import functional, nodes_of
from tfprune.graph.wiring import Wiring
from tfprune.statistics.measures import occurrences
from tfprune.statistics.passes import Place, value_at


def chosen_places(
    model: keras.Model, layers: Iterable[str] | str | None
) -> tuple[dict[str, list[Place]], dict[str, str]]:
    """Returns the places of each group or layer that is meant, by name, and why groups are left out.

    Args:
        model: a Sequential or functional model.
        layers: names of groups, of layers that make units of a group, or of any other layer, which is looked at where
            it gives out its first output; None takes all groups.

    Raises:
        TypeError: if something else than names is given.
        ValueError: if a name is unknown, or there is nothing to look at.
    """
    graph = unit_groups(model)
    wiring, nodes = Wiring(model), dict[str, list[Any]]()
    for name, node in _named_nodes(model, "", set()):
        nodes.setdefault(name, []).append(node)
    found: dict[str, list[Place]] = {}
    skipped: dict[str, str] = {}
    for name in graph.names if layers is None else names_of(layers, "layers"):
        for own, places in _places_of(name, graph, wiring, nodes).items():
            if places:
                found[own] = places
            else:
                kind = "a direction that is merged with the other" if own not in graph else "heads of attention"
                skipped[own] = f"its units show in no tensor ({kind})"
    if not found:
        why = (
            "; ".join(f"{name}: {reason}" for name, reason in skipped.items()) or "it has no units that can be removed"
        )
        raise ValueError(
            f"model {model.name!r}: there is nothing to look at ({why}). Name layers: "
            f"{', '.join(nodes) or 'it has none'}."
        )
    return found, skipped


def _named_nodes(model: keras.Model, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields the nodes of a model with those of its nested models, each model once, as `(outer/inner, node)`."""
    seen.add(id(functional(model)))
    for node in nodes_of(model):
        name = prefix + name_of(node.operation)
        yield name, node
        if is_graph(node.operation) and id(functional(node.operation)) not in seen:
            yield from _named_nodes(node.operation, f"{name}/", seen)


def _places_of(name: str, graph: UnitGraph, wiring: Wiring, nodes: dict[str, list[Any]]) -> dict[str, list[Place]]:
    if not isinstance(name, str):
        raise ValueError(graph.unknown(name))
    if name in graph.sizes:
        return {name: _shown(graph[name], graph[name].members[0].name, wiring)}
    makes = [group for group in graph.values() if name in {member.name for member in group.members}]
    if len(makes) == 1:
        return {name: _shown(makes[0], name, wiring)}
    holds = any(own.name.startswith(f"{name}/") for group in graph.values() for own in group.members)
    if name in nodes and not makes and not holds:
        return {name: [_output(node, wiring) for node in nodes[name]]}
    chosen = [graph[own] for own in graph.choose(name)]
    return {own.name: _shown(own, own.members[0].name, wiring) for own in chosen}


def _shown(group: Group, layer: str, wiring: Wiring) -> list[Place]:
    """Returns where the units that a layer makes show, at every call."""
    places = {}
    for home in (home for member in group.members if member.name == layer for home in member.homes):
        if np.isin(np.arange(group.size), home.own).all():
            node = wiring.makers[id(home.tensor)]
            take = occurrences(home.own, group.size)
            places[id(home.tensor), home.axis] = Place(node, home.tensor, node.operation, home.axis, take)
    return list(places.values())


def _output(node: Any, wiring: Wiring) -> Place:
    tensor = node.outputs[0]
    while id(tensor) not in wiring.makers:
        # What a nested model gives out is made inside it.
        inner = functional(node.operation)
        tensor = inner.outputs[0]
        node = next(own for own in nodes_of(inner) if any(tensor is made for made in own.outputs))
    first = getattr(node.operation, "data_format", None) == "channels_first" and len(tensor.shape) > 2
    return Place(node, tensor, node.operation, 1 if first else len(tensor.shape) - 1, None)


def look_for_samples(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple[Any, Any]:
    """Returns the mean of each sample over its positions, `(samples, 1, units)`, and their number, `(samples, 1)`."""
    value, mask = _laid_out(place, args, kwargs, outputs)
    value = tf.reshape(value, [tf.shape(value)[0], -1, value.shape[-1]])
    if mask is None:
        count = tf.fill([tf.shape(value)[0], 1], tf.shape(value)[1])
        return tf.reduce_mean(value, axis=1, keepdims=True), count
    mask = _repeated(mask, value)
    count = tf.reduce_sum(tf.cast(mask, "int32"), axis=1, keepdims=True)
    # Not a product with the mask: what is behind it may be infinite.
    total = tf.reduce_sum(tf.where(mask[..., None], value, tf.zeros_like(value)), axis=1, keepdims=True)
    return total / tf.cast(tf.maximum(count, 1), value.dtype)[..., None], count


def look_for_steps(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple[Any, Any]:
    """Returns the values of each step, `(samples, steps, units)`, and whether it is one, `(samples, steps)`."""
    value, mask = _laid_out(place, args, kwargs, outputs)
    value = tf.reduce_mean(value, axis=list(range(2, len(value.shape) - 1)))
    return value, _whole(value) if mask is None else tf.cast(mask, "int32")


def look_for_positions(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple[Any, Any]:
    """Returns the values at each position, `(samples, positions, units)`, and whether it is one."""
    value, mask = _laid_out(place, args, kwargs, outputs)
    value = tf.reshape(value, [tf.shape(value)[0], -1, value.shape[-1]])
    return value, _whole(value) if mask is None else tf.cast(_repeated(mask, value), "int32")


LOOKS = {"samples": look_for_samples, "steps": look_for_steps, "positions": look_for_positions}
"""What is a point: by name, what is taken from a place."""


def _laid_out(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple[Any, Any]:
    """Returns the values as `(samples, ..., units)`, and the mask of steps, `(samples, steps)`, or None.

    Where a unit has several channels it has their mean.
    """
    value = value_at(place, args, kwargs, outputs)
    mask = backend.get_keras_mask(value)
    rank = len(value.shape)
    if mask is not None and (rank < 3 or place.axis == 1 or len(mask.shape) != 2):
        mask = None
    value = tf.cast(value, "float64" if value.dtype == tf.float64 else "float32")
    value = tf.transpose(value, [k for k in range(rank) if k != place.axis] + [place.axis])
    if place.take is not None:
        rows, units = place.take.shape
        value = tf.gather(value, place.take.ravel(), axis=-1)
        value = tf.reshape(value, tf.concat([tf.shape(value)[:-1], [rows, units]], axis=0))
        value = tf.reduce_mean(value, axis=-2)
    return value, None if mask is None else tf.cast(mask, "bool")


def _repeated(mask: Any, value: Any) -> Any:
    """Returns the mask for positions `(samples, positions)`, of which every step has equally many."""
    steps, positions = tf.shape(mask)[1], tf.shape(value)[1]
    return tf.repeat(mask, positions // tf.maximum(steps, 1), axis=1)


def _whole(value: Any) -> Any:
    return tf.ones(tf.shape(value)[:2], "int32")
