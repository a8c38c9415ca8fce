"""What flows through a model on some data, computed once and forgotten when nothing asks for it any more."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from tfprune.graph.nodes import is_graph, substituted
from tfprune.graph.walk import call_operation, nodes_of
from tfprune.graph.walk import functional as graph_of

Key = tuple[tuple[int, ...], int]
"""A tensor: the calls of nested models that lead to it, and its `id` in the graph."""


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation; an operation inside a model that is called twice has two."""

    node: Any
    reads: dict[int, Key]
    writes: tuple[Key, ...]

    def arguments(self, values: dict[Key, Any]) -> tuple[tuple, dict]:
        """Returns `(args, kwargs)` of the call, its tensors taken from `values`."""
        return substituted(self.node, lambda tensor: values[self.reads[id(tensor)]])

    def named_arguments(self, values: dict[Key, Any]) -> dict[str, Any]:
        """Returns the arguments by the names that the operation's `call` gives them."""
        args, kwargs = self.arguments(values)
        return dict(inspect.signature(self.node.operation.call).bind(*args, **kwargs).arguments)


class Program:
    """The calls of a model in order, nested models opened up."""

    def __init__(self, model: keras.Model):
        self.inputs: list[Key] = [((), id(tensor)) for tensor in graph_of(model).inputs]
        self.calls: list[Call] = []
        self._walk(model, (), self.inputs)

    def _walk(self, model: keras.Model, path: tuple[int, ...], inputs: list[Key]) -> list[Key]:
        graph = graph_of(model)
        keys = {id(tensor): key for tensor, key in zip(graph.inputs, inputs, strict=True)}
        for node in nodes_of(model):
            reads = {id(tensor): keys[id(tensor)] for tensor in node.input_tensors}
            if is_graph(node.operation):
                entering = [keys[id(tensor)] for tensor in node.input_tensors]
                writes = self._walk(node.operation, (*path, id(node)), entering)
            else:
                writes = [(path, id(tensor)) for tensor in node.outputs]
                self.calls.append(Call(node, reads, tuple(writes)))
            keys.update({id(tensor): key for tensor, key in zip(node.outputs, writes, strict=True)})
        return [keys[id(tensor)] for tensor in graph.outputs]

    def calls_of(self, nodes: Iterable[Any]) -> list[Call]:
        """Returns the calls of some nodes."""
        wanted = {id(node) for node in nodes}
        return [call for call in self.calls if id(call.node) in wanted]

    def missing(self, wanted: Iterable[Key], known: Iterable[Key]) -> list[Call]:
        """Returns the calls that lead from what is known to what is wanted, in order."""
        known, needed, result = set(known), set(wanted), []
        needed -= known
        for call in reversed(self.calls):
            if needed.intersection(call.writes):
                result.append(call)
                needed.update(set(call.reads.values()) - known)
        return result[::-1]


class Activations:
    """Values of tensors of one model, batch by batch.

    Args:
        program: the model's calls.
        batches: the inputs of every batch.
        most_bytes: values are kept from one question to the next as long as they take no more than this.
    """

    def __init__(self, program: Program, batches: Any, most_bytes: int):
        self.program = program
        self._batches = batches
        self._most_bytes = most_bytes
        self._kept: list[dict[Key, Any]] | None = []

    def values(self, wanted: set[Key], later: set[Key], pending: Set[int] = frozenset()) -> Iterator[dict[Key, Any]]:
        """Yields for every batch a dictionary that has the wanted tensors.

        Args:
            wanted: the tensors to compute now.
            later: the tensors that will be asked for afterwards; what leads to them is kept, if there is room.
            pending: `id`s of operations whose weights will change yet, so that nothing they lead to is kept.
        """
        keep_for = None
        size = 0
        for number, inputs in enumerate(self._inputs()):
            values = self._start(number, inputs)
            passing: set[Key] = set()
            for call in self.program.missing(wanted, values):
                args, kwargs = call.arguments(values)
                values.update(zip(call.writes, call_operation(call.node, args, kwargs), strict=True))
                if id(call.node.operation) in pending or passing.intersection(call.reads.values()):
                    passing.update(call.writes)
            yield values
            if self._kept is None:
                continue
            values = {key: value for key, value in values.items() if key not in passing}
            if keep_for is None:
                # The same question may come once more.
                asked = later | wanted
                keep_for = asked.union(*(call.reads.values() for call in self.program.missing(asked, values)))
            self._kept[number] = {key: value for key, value in values.items() if key in keep_for}
            size += sum(_num_bytes(value) for value in self._kept[number].values())
            if size > self._most_bytes:
                self._kept = None

    def _inputs(self) -> Iterator[list[Any] | None]:
        if self._kept:
            yield from [None] * len(self._kept)
        else:
            yield from ([tf.convert_to_tensor(x) for x in batch.inputs] for batch in self._batches)

    def _start(self, number: int, inputs: list[Any] | None) -> dict[Key, Any]:
        if inputs is None:
            return dict(self._kept[number])
        if self._kept is not None and number == len(self._kept):
            self._kept.append({})
        return dict(zip(self.program.inputs, inputs, strict=True))


def _num_bytes(value: Any) -> int:
    return int(tf.size(value)) * value.dtype.size if tf.is_tensor(value) else 0
