"""Reads a model: runs ids through its graph with the rows of the table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops
from keras.src.ops.core import Cast

from tfprune.graph import (  # noqa: F401  (they fill the table)
    rows_algebra,
    rows_applications,
    rows_crossing,
    rows_merge,
    rows_opened,
    rows_ops,
    rows_positions,
    rows_sequence,
    rows_statistics,
)
from tfprune.graph.batch import batch_of
from tfprune.graph.checks import check_outputs
from tfprune.graph.closing import can_be_opened, is_closed
from tfprune.graph.ids import NOTHING
from tfprune.graph.nodes import is_graph, name_of, why_shut
from tfprune.graph.opened import why_not_opened
from tfprune.graph.step import Axes, Emitter, Records, Signal, Spot, Step, signal_of
from tfprune.graph.table import row_of
from tfprune.graph.walk import functional, nodes_of, run
from tfprune.layers.opened import HeldWeight, Sized


def read(model: keras.Model) -> Records:
    """Returns everything that the rows say about `model`; its outputs are fixed, its inputs untracked."""
    not_in_blocks: frozenset[int] = frozenset()
    while True:
        records = _read(model, not_in_blocks)
        stuck = _stuck_blocks(records)
        if not stuck:
            return records
        not_in_blocks |= stuck


def _stuck_blocks(records: Records) -> set[int]:
    """Returns the nodes that part units into blocks which all must stay: they may part them by place in the block."""
    if not records.blocks:
        return set()
    labels, reasons = records.ids.resolve()
    return {
        node
        for node, ids in records.blocks.items()
        if all(label in reasons for label in labels[ids[ids != NOTHING]].tolist())
    }


def _read(model: keras.Model, not_in_blocks: frozenset[int]) -> Records:
    reader = _Reader()
    reader.records.not_in_blocks = not_in_blocks
    graph = functional(model)
    reader.not_opened = why_not_opened(model)
    reader.add_shared_variables(graph)
    outputs = reader.walk(graph, [_untracked(tensor) for tensor in graph.inputs], "")
    for signal in outputs:
        for ids in (*signal.axes, reader.records.picks.get(id(signal.tensor))):
            reader.records.ids.fix(ids, "it is an output of the model")
    reader.fix_held_weights()
    return reader.records


def _untracked(tensor: Any) -> Signal:
    return signal_of(tensor, (None,) * len(tensor.shape))


class _Reader:
    """Walks a graph and the graphs nested in it."""

    def __init__(self):
        self.records = Records()
        self.not_opened = ""
        self._nested: dict[int, tuple[list[Signal], list[Signal]]] = {}
        self._tied: dict[int, str] = {}
        self._at_home: dict[int, list[tuple[Emitter, Any]]] = {}
        self._closed: list[tuple[str, Any]] = []

    def add_shared_variables(self, model: keras.Model) -> None:
        """Remembers the layers that share a variable with another layer: a cut would tear them apart."""
        owners: dict[int, list[Any]] = {}
        for layer in model._flatten_layers(include_self=False):
            # What code reads of a layer's weights is cut with the layer.
            if not isinstance(layer, HeldWeight) and not any(True for _ in layer._flatten_layers(include_self=False)):
                for variable in layer.weights:
                    owners.setdefault(id(variable), []).append(layer)
        for layers in owners.values():
            if len({id(layer) for layer in layers}) > 1:
                names = " and ".join(sorted({layer.name for layer in layers}))
                self._tied.update({id(layer): f"the layers {names} share a variable" for layer in layers})

    def fix_held_weights(self) -> None:
        """Fixes the units whose weights a layer that cannot be read holds too (an output tied to an embedding, say)."""
        for name, operation in self._closed:
            for variable in getattr(operation, "weights", ()):
                record = self.records.weights.get(id(variable))
                for ids in record.axes if record is not None else ():
                    self.records.ids.fix(ids, f"{name}: it cannot be read, and holds a weight of these units")

    def walk(self, graph: keras.Model, inputs: list[Signal], prefix: str) -> list[Signal]:
        readers = Counter(id(tensor) for node in nodes_of(graph) for tensor in node.input_tensors)
        readers.update(id(tensor) for tensor in graph.outputs)

        def call(node: Any, args: tuple, kwargs: dict) -> list[Signal]:
            name = prefix + name_of(node.operation)
            signals = [leaf for leaf in tree.flatten((args, kwargs)) if isinstance(leaf, Signal)]
            if is_graph(node.operation):
                axes = self._nested_call(node, signals, name)
            else:
                axes = self._layer_call(node, args, kwargs, signals, name)
            outputs = [signal_of(tensor, own) for tensor, own in zip(node.outputs, axes, strict=True)]
            self._settle_homes(node, signals, outputs, readers)
            self.records.signals.update({id(signal.tensor): signal for signal in outputs})
            return outputs

        self.records.signals.update({id(tensor): signal for tensor, signal in zip(graph.inputs, inputs, strict=True)})
        return run(graph, inputs, call)

    def _nested_call(self, node: Any, signals: list[Signal], name: str) -> list[Axes]:
        """A nested model is read at its first call; later calls unite what enters with what entered then."""
        graph = functional(node.operation)
        given, reason = node.arguments.args[0] if node.arguments.args else None, ""
        if isinstance(given, Mapping) != isinstance(graph._inputs_struct, Mapping):
            reason = "it is called with a dictionary of tensors, but was built of a list, or the other way round"
        elif any(len(tensor.shape) != s.rank for tensor, s in zip(graph.inputs, signals, strict=True)):
            reason = "it is called with tensors of another rank than it was built for"
        if reason:
            step = Step(self.records, node, name)
            step.wall(reason, signals)
            return [step.untracked(k) for k in range(len(node.outputs))]
        if id(graph) not in self._nested:
            inner = [signal_of(tensor, s.axes) for tensor, s in zip(graph.inputs, signals, strict=True)]
            self._nested[id(graph)] = (inner, self.walk(graph, inner, f"{name}/"))
        entered, outputs = self._nested[id(graph)]
        for first, later in zip(entered, signals, strict=True):
            for one, other in zip(first.axes, later.axes, strict=True):
                self.records.ids.unite(one, other, f"{name}: it is called on units and on something else")
        return [signal.axes for signal in outputs]

    def _layer_call(self, node: Any, args: tuple, kwargs: dict, signals: list[Signal], name: str) -> list[Axes]:
        operation = node.operation
        if isinstance(operation, Sized):
            operation, kwargs = operation.operation, {key: own for key, own in kwargs.items() if key != "like"}
        step = Step(self.records, node, name, operation)
        untracked = [step.untracked(k) for k in range(len(node.outputs))]
        reason = self._why_not(operation)
        if reason is not None and _only_prepares(operation, signals):
            return untracked
        if reason is not None:
            self._closed.append((name, node.operation))
            step.wall(reason, signals)
            return untracked
        self._follow_picks(step, signals)
        row = f"The row for {type(operation).__name__} cannot read the call of {name!r}"
        try:
            result = row_of(operation).read(step, *args, **kwargs)
        except Exception as error:  # A row may be a stranger's; whatever it raises is told with its layer.
            raise TypeError(f"{row}: {type(error).__name__}: {error}") from error
        outputs = result if isinstance(result, list) else [result]
        check_outputs(outputs, [tuple(tensor.shape) for tensor in node.outputs], row)
        tied = self._tied.get(id(node.operation))
        if tied is not None:
            for axes in [*outputs, *(signal.axes for signal in signals)]:
                for ids in axes:
                    step.fix(ids, tied)
        return outputs

    def _follow_picks(self, step: Step, signals: list[Signal]) -> None:
        """Fixes units among which numbers are places, unless the places become an axis of these units again."""
        for signal in signals:
            ids = step.picked(signal)
            if ids is not None and isinstance(step.operation, Cast):
                step.picks(ids)
            elif ids is not None and not isinstance(step.operation, nn_ops.OneHot):
                step.fix(ids, "one of its units is picked by number")

    def _why_not(self, operation: Any) -> str | None:
        if row_of(operation) is None and why_shut(operation) is not None:
            return f"its code cannot be followed: {why_shut(operation)}"
        if self.not_opened and can_be_opened(operation):
            return f"its code cannot be followed: {self.not_opened}"
        if is_closed(operation):
            return "it was closed by tfprune.graph.closed"
        if row_of(operation) is None:
            return f"the class {type(operation).__name__} is not known; teach it with tfprune.graph.register"
        inside = [operation, getattr(operation, "layer", None)]
        if any(getattr(layer, "lora_enabled", False) for layer in inside):
            return "it has LoRA weights; merge them first"
        if any(getattr(layer, "quantization_mode", None) is not None for layer in inside):
            return "it is quantised; remove units first, then quantise"
        return None

    def _settle_homes(self, node: Any, inputs: list[Signal], outputs: list[Signal], readers: Counter) -> None:
        """Says where the units of this call show, and goes on behind a layer that alone reads what shows them."""
        for emitter in self.records.made.pop(id(node), ()):
            home = _home(outputs, emitter.ids)
            if home is not None:
                self._settle(emitter, node, Spot(*home))
        given = [own for own in inputs if self._has_samples(own)]
        if len(given) == 1 < len(inputs) and _is_product(node.operation):
            self._settle_kernels(node, inputs, outputs)
        row = row_of(node.operation)
        if (len(given), len(inputs)) == (1, 2) and _is_of(node.operation, numpy_ops.Add, numpy_ops.Subtract):
            (other,) = (own for own in inputs if own is not given[0])
            entered, follows = given[0], self._is_bias(other)
        else:
            entered, follows = inputs[0] if inputs else None, row is not None and row.follows and len(inputs) == 1
        if not follows or readers[id(entered.tensor)] != 1:
            return
        for emitter, call in self._at_home.pop(id(entered.tensor), []):
            last = emitter.trails[call][-1]
            self._settle(emitter, call, Spot(outputs[0].tensor, last.axis, (*last.behind, node.operation)))

    def _settle_kernels(self, node: Any, inputs: list[Signal], outputs: list[Signal]) -> None:
        """Says that the units of kernels that code reads show in what the product with what enters gives out."""
        for signal in inputs:
            for emitter, call in self._at_home.get(id(signal.tensor), ()) if not self._has_samples(signal) else ():
                home = _home(outputs, emitter.ids)
                if home is not None:
                    # The kernel itself has no sample.
                    emitter.trails.pop(call, None)
                    emitter.trails[node] = []
                    self._settle(emitter, node, Spot(*home))

    def _is_bias(self, signal: Signal) -> bool:
        """Whether it is a weight that code reads, and that makes no units of its own, as a table of positions does."""
        history = getattr(signal.tensor, "_keras_history", None)
        is_weight = history is not None and isinstance(history.operation, HeldWeight)
        return is_weight and id(signal.tensor) not in self._at_home

    def _has_samples(self, signal: Signal) -> bool:
        return batch_of(signal.tensor, self.records.batches) is not None

    def _settle(self, emitter: Emitter, call: Any, spot: Spot) -> None:
        emitter.trails[call].append(spot)
        self._at_home.setdefault(id(spot.tensor), []).append((emitter, call))


def _only_prepares(operation: Any, signals: list[Signal]) -> bool:
    """Whether an operation is a layer of Keras that prepares data: neither what enters nor what it gives are units."""
    of_keras = type(operation).__module__.startswith("keras.src.layers.preprocessing.")
    return of_keras and all(ids is None for signal in signals for ids in signal.axes)


def _is_of(operation: Any, *kinds: type) -> bool:
    return isinstance(operation.operation if isinstance(operation, Sized) else operation, kinds)


def _is_product(operation: Any) -> bool:
    """Whether an operation makes, of a kernel and what enters, the units of the kernel; or looks them up in a table."""
    products = (numpy_ops.Matmul, numpy_ops.Einsum, numpy_ops.Tensordot, numpy_ops.Dot)
    return _is_of(operation, *products, nn_ops.Conv, numpy_ops.Take)


def _home(outputs: list[Signal], ids: np.ndarray) -> tuple[Any, int] | None:
    for signal in outputs:
        for axis, own in enumerate(signal.axes):
            if own is not None and np.isin(ids, own).all():
                return signal.tensor, axis
    return None
