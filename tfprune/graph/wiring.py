"""Which node makes and which nodes read a tensor, and what stands before the layers that only move positions about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.graph.groups import UnitGraph
from tfprune.graph.nodes import is_graph
from tfprune.graph.step import Exit
from tfprune.graph.walk import functional, nodes_of

_INDEX_STEPS = (keras.layers.Flatten, keras.layers.Reshape, keras.layers.Permute, keras.layers.RepeatVector)


class Wiring:
    """Makers and readers of every tensor of a model, nested models opened up.

    Args:
        model: a Sequential or functional model.

    Attributes:
        makers: `id(tensor) -> node` of a plain layer or operation.
        readers: `id(tensor) -> nodes` that read it; a nested model counts, and so does None for a graph's output.
        outside: `id(input of a nested model) -> tensors` that are passed in, one for each call.
    """

    def __init__(self, model: keras.Model):
        self.makers: dict[int, Any] = {}
        self.readers: dict[int, list[Any]] = {}
        self.outside: dict[int, list[Any]] = {}
        for graph in _graphs(model, set()):
            for tensor in graph.outputs:
                self.readers.setdefault(id(tensor), []).append(None)
            for node in nodes_of(graph):
                self._add(node)

    def _add(self, node: Any) -> None:
        for tensor in node.input_tensors:
            self.readers.setdefault(id(tensor), []).append(node)
        if is_graph(node.operation):
            for inner, outer in zip(functional(node.operation).inputs, node.input_tensors, strict=True):
                self.outside.setdefault(id(inner), []).append(outer)
        else:
            self.makers.update({id(tensor): node for tensor in node.outputs})

    def origin(self, tensor: Any) -> Any:
        """Returns the tensor that is `tensor` outside the nested models that are called once and read it as input."""
        while len(self.outside.get(id(tensor), ())) == 1:
            tensor = self.outside[id(tensor)][0]
        return tensor


def _graphs(model: keras.Model, seen: set[int]) -> Iterator[keras.Model]:
    """Yields the graphs of a model and of the models nested in it, each once."""
    graph = functional(model)
    if id(graph) in seen:
        return
    seen.add(id(graph))
    yield graph
    for node in nodes_of(graph):
        if is_graph(node.operation):
            yield from _graphs(node.operation, seen)


@dataclass(frozen=True, eq=False)
class Site:
    """Where the units that an exit reads can be looked at: `node` reads `tensor`, whose `axis` holds the channels.

    Attributes:
        node: a node that reads the tensor; the recurrent one where `tensor` is None.
        operation: the exit's layer.
        tensor: the tensor, or None for the state inside a recurrent layer.
        axis: the channels' axis of the tensor.
        channels: for each position of the exit's axis, the channel that it holds.
    """

    node: Any
    operation: Any
    tensor: Any
    axis: int
    channels: np.ndarray

    @property
    def key(self) -> tuple[int, int]:
        """The same for all exits that read the same channels."""
        return id(self.node if self.tensor is None else self.tensor), self.axis


def pulled_back(graph: UnitGraph, wiring: Wiring, exit: Exit) -> Site:
    """Follows an exit back through layers that only move positions (Flatten, Reshape, Permute, RepeatVector).

    A dense layer behind `Flatten` reads every channel of a map once for each pixel; what holds for the channels holds
    for all of these positions, so that one matrix of channels by channels serves them.

    Args:
        graph: the reading of the model.
        wiring: the wiring of the same model.
        exit: one of `graph.records.exits`.

    Returns:
        The place in front of these layers; the exit's own place where there are none.
    """
    site = Site(exit.node, exit.operation, exit.tensor, exit.axis, np.arange(len(exit.ids)))
    while site.tensor is not None:
        before = _one_step_back(graph, wiring, site)
        if before is None:
            break
        site = before
    return site


def _one_step_back(graph: UnitGraph, wiring: Wiring, site: Site) -> Site | None:
    tensor = wiring.origin(site.tensor)
    node = wiring.makers.get(id(tensor))
    if node is None or type(node.operation) not in _INDEX_STEPS:
        return None
    (before,) = node.input_tensors
    shape = tuple(before.shape[1:])
    if None in shape:
        return None
    signals = graph.records.signals
    after_ids = signals[id(tensor)].axes[site.axis]
    for axis, ids in enumerate(signals[id(before)].axes):
        if ids is None:
            continue
        # Whole numbers, as layers cast floats to their own precision.
        places = np.arange(shape[axis - 1], dtype="int32").reshape(
            [-1 if k == axis - 1 else 1 for k in range(len(shape))]
        )
        moved = np.asarray(node.operation(np.broadcast_to(places, shape)[None]))
        lines = np.moveaxis(moved, site.axis, 0).reshape(moved.shape[site.axis], -1)
        if (lines == lines[:, :1]).all() and np.array_equal(ids[lines[:, 0]], after_ids):
            return Site(node, site.operation, before, axis, lines[:, 0][site.channels])
    return None
