"""What a model costs after a cut, counted from the graph alone: parameters, and floating-point operations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from tfprune.compiling import compiled
from tfprune.graph import flops_rows
from tfprune.graph.checks import named
from tfprune.graph.flops_table import Call, Shape, flops_row_of
from tfprune.graph.groups import UnitGraph
from tfprune.graph.nodes import is_graph, name_of, substituted
from tfprune.graph.walk import functional, nodes_of
from tfprune.units import LayerValues, check_flags, check_like

Slots = tuple[int, ...]
"""For every axis of a tensor or weight, where its length after the cut stands."""


def count_parameters(graph: UnitGraph, on: LayerValues | np.ndarray | None = None) -> int:
    """Counts the parameters that are left when only the units that are on stay; exact, and without building a model.

    Args:
        graph: the units of a model, from `unit_groups`.
        on: the units that stay: a mask by group name (groups left out stay whole), or `(num_units,)` of bool. None
            keeps all.

    Returns:
        The number of weights, statistics of batch norm included, as `count_params()` of the smaller model gives it.

    Raises:
        TypeError: if `on` is not of bool.
        ValueError: if `on` does not fit the graph.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, name="hidden"), keras.layers.Dense(2)])
        >>> count_parameters(unit_groups(net)), count_parameters(unit_groups(net), {"hidden": np.arange(20) < 10})
        (102, 52)
    """
    return Costs(graph, flops=False).parameters(as_row(graph, on))


def count_flops(
    graph: UnitGraph, on: LayerValues | np.ndarray | None = None, *, shapes: Sequence[Shape] | None = None
) -> int:
    """Counts the floating-point operations of one sample when only the units that are on stay.

    The convention is that of TensorFlow's profiler: a multiply-add is 2, any other arithmetic operation on a number 1,
    a softmax 5 per number; activation functions and moving numbers are free. A layer class without a row in the table
    counts as one operation for each number that it gives out; `register_flops` adds a row.

    Args:
        graph: the units of a model, from `unit_groups`.
        on: as for `count_parameters`.
        shapes: the shape of one sample for each input of the model; needed where the model leaves a length open.

    Raises:
        TypeError: if `on` is not of bool.
        ValueError: if `on` or `shapes` do not fit, or a length is open and `shapes` is not given.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, name="hidden"), keras.layers.Dense(2)])
        >>> count_flops(unit_groups(net))
        182
    """
    return sum(flops_by_layer(graph, on, shapes=shapes).values())


def flops_by_layer(
    graph: UnitGraph, on: LayerValues | np.ndarray | None = None, *, shapes: Sequence[Shape] | None = None
) -> dict[str, int]:
    """Returns the floating-point operations of one sample by layer, all calls of a layer together.

    Args, errors: as for `count_flops`. Names inside nested models are `outer/inner`.
    """
    return Costs(graph, shapes=shapes).flops(as_row(graph, on))


def guessed_flops(graph: UnitGraph) -> tuple[str, ...]:
    """Returns the names of layers with kernels but without a row: what is counted for them is far too little."""
    found: dict[str, None] = {}
    for name, node in _flat_nodes(functional(graph.model), ""):
        weights = getattr(node.operation, "weights", [])
        if flops_row_of(node.operation) is None and any(len(weight.shape) > 1 for weight in weights):
            found[name] = None
    return tuple(found)


def as_row(graph: UnitGraph, on: LayerValues | np.ndarray | None) -> np.ndarray:
    """Returns which units stay, shape `(num_units,)` of bool; `on` as for `count_parameters`."""
    if on is None:
        return np.ones(graph.num_units, bool)
    if isinstance(on, np.ndarray):
        check_flags(on, "on: the array")
        if on.shape not in ((graph.num_units,), (graph.num_columns,)):
            raise ValueError(f"on: expected the shape ({graph.num_units},), one for each unit, received {on.shape}.")
        return on.astype(bool)
    row = np.ones(graph.num_columns, bool)
    for name, kept in check_like(on, graph.sizes_with_blocks, "mask", partial=True, boolean=True).items():
        row[graph[name].start : graph[name].start + graph[name].size] = kept
    return row


class Costs:
    """Reads a graph once, then tells for any mask what would be left: a few milliseconds a mask.

    Args:
        graph: the units of a model.
        flops: whether floating-point operations are wanted, which need all lengths to be known.
        shapes: as for `count_flops`.
    """

    def __init__(self, graph: UnitGraph, *, flops: bool = True, shapes: Sequence[Shape] | None = None):
        self._graph, self._lengths = graph, _Lengths(graph)
        records = graph.records
        self._weights: dict[int, Slots] = {}
        for variable in graph.model.weights:
            known = records.weights.get(id(variable))
            axes = known.axes if known is not None else (None,) * len(variable.shape)
            self._weights[id(variable)] = self._lengths.slots(tuple(variable.shape), axes)
        self._calls: list[tuple[str, Any, list[Slots], list[Slots]]] = []
        if flops:
            _Plan(graph, self._lengths, self._calls).walk(functional(graph.model), _given(graph.model, shapes), "")

    def parameters(self, on: np.ndarray) -> int:
        """Returns the number of parameters left for `on`, shape `(num_units,)` or `(num_columns,)` of bool."""
        lengths, gone = self._lengths.after(on), self._graph.removal(on).variables
        return sum(prod(lengths[slot] for slot in slots) for key, slots in self._weights.items() if key not in gone)

    def flops(self, on: np.ndarray) -> dict[str, int]:
        """Returns the operations of one sample by layer for `on`, as for `parameters`."""
        lengths, removal = self._lengths.after(on), self._graph.removal(on)

        def shaped(slots: Slots) -> Shape:
            return tuple(lengths[slot] for slot in slots)

        weights = {key: shaped(slots) for key, slots in self._weights.items()}
        total: dict[str, int] = {}
        for name, node, entering, leaving in self._calls:
            if id(node) in removal.nodes or id(node) in removal.passed:
                continue
            if id(node) in removal.operands:
                gone = removal.operands[id(node)]
                pairs = zip(node.input_tensors, entering, strict=True)
                entering = [own for tensor, own in pairs if id(tensor) not in gone]
            row = flops_row_of(node.operation) or flops_rows.one_per_number
            inputs, outputs = tuple(map(shaped, entering)), tuple(map(shaped, leaving))
            count = named(row, node.operation, name, "how many operations it takes, by a count")
            total[name] = total.get(name, 0) + int(count(Call(node.operation, node, inputs, outputs, weights)))
        return total


class _Lengths:
    """All lengths that matter, each kind once, and how many of each are kept."""

    def __init__(self, graph: UnitGraph):
        self._graph = graph
        self._slot_of: dict[tuple, int] = {}
        self._constant: list[int] = []
        self._columns: list[np.ndarray] = []
        self._tracked: list[int] = []

    def slots(self, shape: Shape, axes: Sequence[np.ndarray | None]) -> Slots:
        """Returns where the lengths of these axes will stand in `after`."""
        return tuple(self._slot(length, ids) for length, ids in zip(shape, axes, strict=True))

    def _slot(self, length: int, ids: np.ndarray | None) -> int:
        key = ("fixed", length) if ids is None else ("ids", id(ids))
        if key not in self._slot_of:
            self._slot_of[key] = len(self._constant)
            self._constant.append(length)
            if ids is not None:
                self._tracked.append(self._slot_of[key])
                # The last entry of the row that `after` extends stands for positions that always stay.
                self._columns.append(self._graph.columns(ids) % (self._graph.num_units + 1))
        return self._slot_of[key]

    def after(self, on: np.ndarray) -> list[int]:
        """Returns the length in each slot when the units `on` stay."""
        lengths = np.array(self._constant, np.int64)
        if self._tracked:
            ends = np.cumsum([len(columns) for columns in self._columns])
            stays = np.append(on[: self._graph.num_units], True).astype(np.int64)
            # A sum up to each place, so that an axis without positions counts none.
            sums = np.append(0, np.cumsum(stays[np.concatenate(self._columns)]))
            lengths[self._tracked] = np.diff(sums[ends], prepend=0)
        return lengths.tolist()


class _Plan:
    """Walks a graph and the graphs nested in it, and notes every call with its lengths, for a batch of one."""

    def __init__(self, graph: UnitGraph, lengths: _Lengths, calls: list):
        self._signals = graph.records.signals
        self._lengths = lengths
        self._calls = calls

    def walk(self, graph: keras.Model, shapes: Sequence[Shape], prefix: str) -> list[Shape]:
        known = {id(tensor): shape for tensor, shape in zip(graph.inputs, shapes, strict=True)}
        batch = graph.inputs[0].shape[0] if graph.inputs else None
        for node in nodes_of(graph):
            entering = [known[id(tensor)] for tensor in node.input_tensors]
            name = prefix + name_of(node.operation)
            if is_graph(node.operation):
                leaving = self.walk(functional(node.operation), entering, f"{name}/")
            else:
                leaving = _output_shapes(node, known, batch, name)
                noted = [
                    [self._slots(tensor, shape) for tensor, shape in zip(tensors, own, strict=True)]
                    for tensors, own in ((node.input_tensors, entering), (node.outputs, leaving))
                ]
                self._calls.append((name, node, *noted))
            known.update({id(tensor): shape for tensor, shape in zip(node.outputs, leaving, strict=True)})
        return [known[id(tensor)] for tensor in graph.outputs]

    def _slots(self, tensor: Any, shape: Shape) -> Slots:
        signal = self._signals.get(id(tensor))
        return self._lengths.slots(shape, signal.axes if signal is not None else (None,) * len(shape))


def _output_shapes(node: Any, known: dict[int, Shape], batch: int | None, name: str) -> list[Shape]:
    """Returns the shapes for a batch of one; where the graph leaves a length open, the operation is asked."""
    shapes = [tuple(tensor.shape) for tensor in node.outputs]
    if not any(None in shape[1:] for shape in shapes):
        return [(1, *shape[1:]) if shape and shape[0] in (None, batch) else shape for shape in shapes]
    args, kwargs = substituted(node, lambda leaf: keras.KerasTensor(known[id(leaf)], leaf.dtype))
    shapes = [tuple(spec.shape) for spec in tree.flatten(node.operation.compute_output_spec(*args, **kwargs))]
    if any(None in shape for shape in shapes):
        shapes = _traced_shapes(node, known)
    if any(None in shape for shape in shapes):
        raise ValueError(f"FLOPs: {name!r} gives out a length that is not known before it runs: {shapes}.")
    return shapes


def _traced_shapes(node: Any, known: dict[int, Shape]) -> list[Shape]:
    """Returns the shapes that TensorFlow finds; some layers (EinsumDense) know less of their own output."""

    def call() -> list[Any]:
        args, kwargs = substituted(node, lambda leaf: tf.zeros(known[id(leaf)], leaf.dtype))
        return tree.flatten(node.operation(*args, **kwargs))

    return [tuple(tensor.shape) for tensor in compiled(call).get_concrete_function().outputs]


def _given(model: keras.Model, shapes: Sequence[Shape] | None) -> list[Shape]:
    """Returns the shapes of the model's inputs for a batch of one."""
    inputs = functional(model).inputs
    if shapes is None:
        for tensor in inputs:
            if None in tensor.shape[1:]:
                raise ValueError(
                    f"FLOPs: input {tensor.name!r} of model {model.name!r} has the shape {tuple(tensor.shape)}, so the "
                    "FLOPs of a sample depend on the data. Give shapes=[...], one shape per input without the batch, "
                    "or build the model with fixed lengths."
                )
        return [(1, *tensor.shape[1:]) for tensor in inputs]
    if len(shapes) != len(inputs):
        raise ValueError(f"shapes: the model has {len(inputs)} inputs, received {len(shapes)} shapes. Give one each.")
    for tensor, shape in zip(inputs, shapes, strict=True):
        wanted = tuple(tensor.shape[1:])
        if len(wanted) != len(shape) or any(want not in (None, have) for want, have in zip(wanted, shape, strict=True)):
            raise ValueError(
                f"shapes: input {tensor.name!r} expects {wanted} (without the batch), received {tuple(shape)}."
            )
    return [(1, *shape) for shape in shapes]


def _flat_nodes(graph: keras.Model, prefix: str):
    """Yields `(name, node)` of every call, nested models opened up."""
    for node in nodes_of(graph):
        name = prefix + name_of(node.operation)
        if is_graph(node.operation):
            yield from _flat_nodes(functional(node.operation), f"{name}/")
        else:
            yield name, node
