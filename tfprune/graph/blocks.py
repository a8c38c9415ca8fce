"""Residual blocks: branches that are added to what they began from, so that the identity is left when one goes.

A block is found in the graph alone, whatever its layers are called: one operand of an addition that depends on another
operand, or on what that one was made from by other additions, and that nothing else reads. Where a norm behind the
addition takes what a norm has given (transformers with the norm last), the norm belongs to the block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import layers
from keras.src.ops import numpy as numpy_operations

from tfprune.graph.batch import Batch, batch_of
from tfprune.graph.nodes import is_graph, name_of
from tfprune.graph.walk import functional, nodes_of

BLOCKS = "blocks"
"""The name of the group whose units are whole blocks."""

_ADDITIONS = (layers.Add, numpy_operations.Add)
_NORMS = (
    *[layers.LayerNormalization, layers.BatchNormalization, layers.GroupNormalization],
    *[layers.UnitNormalization, *filter(None, [getattr(layers, "RMSNormalization", None)])],
)
_PASSING = (layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.Identity)


@dataclass(frozen=True, eq=False)
class Block:
    """A residual branch that can go.

    Attributes:
        name: of the first layer with a kernel in it.
        layers: the names of the layers in it that have weights.
        addition: the node that adds the branch.
        operand: the tensor that the branch gives to the addition.
        stream: another operand: what the block begins from, or was made of that.
        norm: the node of the norm behind the addition that belongs to the block, or None.
        batch: where the samples lie in `operand`.
    """

    name: str
    layers: tuple[str, ...]
    addition: Any
    operand: Any
    stream: Any
    norm: Any
    batch: Batch


def find_blocks(model: keras.Model) -> tuple[Block, ...]:
    """Returns the blocks of a model and of the models nested in it, in the order of the graph."""
    found: list[Block] = []
    names: dict[str, int] = {}
    seen: set[int] = set()

    def walk(graph: keras.Model, prefix: str) -> None:
        if id(graph) in seen:
            return
        seen.add(id(graph))
        for block in _Finder(graph, prefix).blocks():
            names[block.name] = count = names.get(block.name, 0) + 1
            found.append(block if count == 1 else replace(block, name=f"{block.name}#{count}"))
        for node in nodes_of(graph):
            if is_graph(node.operation):
                walk(functional(node.operation), f"{prefix}{name_of(node.operation)}/")

    walk(functional(model), "")
    return tuple(found)


def calls_in(model: keras.Model) -> Iterator[tuple[tuple[int, ...], Any]]:
    """Yields every call with the `id`s of the nodes that it hangs on: its own, and those of the models around it."""

    def walk(graph: keras.Model, around: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], Any]]:
        for node in nodes_of(graph):
            own = (*around, id(node))
            if is_graph(node.operation):
                yield from walk(functional(node.operation), own)
            else:
                yield own, node

    return walk(functional(model), ())


class Removal:
    """What goes when some blocks go.

    Args:
        model: the model that the blocks are of.
        blocks: those that go.

    Attributes:
        nodes: the `id`s of the nodes that are not run any more, inside nested models too.
        operands: for the `id` of each addition, the `id`s of the operands that go.
        passed: the `id`s of the nodes that give on what enters them: additions with one operand left, and norms.
        variables: the `id`s of the weights that nothing needs any more.
        used: the `id`s of those that are still needed.
    """

    def __init__(self, model: keras.Model, blocks: Iterable[Block]):
        blocks = list(blocks)
        self.operands: dict[int, set[int]] = {}
        self.passed: set[int] = set()
        for block in blocks:
            gone = self.operands.setdefault(id(block.addition), set())
            gone.add(id(block.operand))
            if len(block.addition.input_tensors) - len(gone) == 1:
                self.passed.add(id(block.addition))
            if block.norm is not None:
                self.passed.add(id(block.norm))
        self.nodes: set[int] = set()
        self.variables: set[int] = set()
        self.used: set[int] = set()
        if blocks:
            self._find(functional(model), set())
            self._gather(model)

    def _find(self, graph: keras.Model, seen: set[int]) -> None:
        """Notes the nodes that no output hangs on any more: what two blocks read goes with the second of them."""
        seen.add(id(graph))
        needed = {id(tensor) for tensor in graph.outputs}
        for node in reversed(list(nodes_of(graph))):
            if all(id(tensor) not in needed for tensor in node.outputs):
                self.nodes.add(id(node))
                continue
            gone = self.operands.get(id(node), ())
            needed.update(id(tensor) for tensor in node.input_tensors if id(tensor) not in gone)
            if is_graph(node.operation) and id(functional(node.operation)) not in seen:
                self._find(functional(node.operation), seen)

    def _gather(self, model: keras.Model) -> None:
        variables: set[int] = set()
        for hangs_on, node in calls_in(model):
            goes = not self.nodes.isdisjoint(hangs_on)
            if goes:
                self.nodes.add(hangs_on[-1])
            goes = goes or hangs_on[-1] in self.passed
            (variables if goes else self.used).update(id(own) for own in getattr(node.operation, "variables", ()))
        self.variables = variables - self.used


class _Finder:
    """One graph: who makes and reads its tensors, and what each of them hangs on."""

    def __init__(self, graph: keras.Model, prefix: str):
        self._prefix = prefix
        self._nodes = list(nodes_of(graph))
        self._outputs = {id(tensor) for tensor in graph.outputs}
        self._maker: dict[int, int] = {}
        self._readers: dict[int, list[int]] = {}
        # For each tensor the tensors that it hangs on, itself too, as the bits of a number.
        self._bit: dict[int, int] = {id(tensor): 1 << k for k, tensor in enumerate(graph.inputs)}
        self._hangs_on = dict(self._bit)
        for number, node in enumerate(self._nodes):
            below = 0
            for tensor in node.input_tensors:
                self._readers.setdefault(id(tensor), []).append(number)
                below |= self._hangs_on[id(tensor)]
            for tensor in node.outputs:
                self._maker[id(tensor)] = number
                self._bit[id(tensor)] = 1 << len(self._bit)
                self._hangs_on[id(tensor)] = below | self._bit[id(tensor)]
        # What a block gives out -> what it began from.
        self._began: dict[int, Any] = {}

    def blocks(self) -> list[Block]:
        """Returns the blocks, in the order of their additions."""
        return [block for number, node in enumerate(self._nodes) for block in self._of_addition(number, node)]

    def _of_addition(self, number: int, node: Any) -> Iterator[Block]:
        operands, output = node.input_tensors, node.outputs[0] if node.outputs else None
        if not isinstance(node.operation, _ADDITIONS) or len({id(own) for own in operands}) < max(2, len(operands)):
            return
        for operand in operands:
            others = [own for own in operands if own is not operand]
            if any(own.shape != output.shape or own.dtype != output.dtype for own in operands):
                return
            streams = [own for own in others if self._begins_from(operand, own)]
            inside = self._inside(number, operand) if streams else []
            batch = batch_of(operand, {})
            if not inside or output.shape[-1] is None or batch is None or batch.axis == len(output.shape) - 1:
                continue
            norm = self._norm_behind(node, streams[0]) if len(operands) == 2 else None
            held = [own.operation for own in (*inside, *([] if norm is None else [norm]))]
            names = [self._prefix + name_of(own) for own in held if getattr(own, "weights", ())]
            if not names:
                continue
            self._began[id((norm or node).outputs[0])] = streams[0]
            names = tuple(dict.fromkeys(names))
            yield Block(self._name(inside), names, node, operand, streams[0], norm, batch)

    def _begins_from(self, operand: Any, stream: Any) -> bool:
        """Whether an operand hangs on a tensor, or on what blocks and dropout have made it from."""
        while True:
            if self._hangs_on[id(operand)] & self._bit[id(stream)]:
                return True
            before = self._before(stream)
            if before is None:
                return False
            stream = before

    def _before(self, tensor: Any) -> Any:
        if id(tensor) in self._began:
            return self._began[id(tensor)]
        node = self._maker_of(tensor)
        return node.input_tensors[0] if node is not None and isinstance(node.operation, _PASSING) else None

    def _maker_of(self, tensor: Any) -> Any:
        return self._nodes[self._maker[id(tensor)]] if id(tensor) in self._maker else None

    def _inside(self, addition: int, operand: Any) -> list[Any]:
        """Returns the nodes whose every output goes nowhere but, in the end, into this operand."""
        if id(operand) not in self._maker or self._readers[id(operand)] != [addition]:
            return []
        inside: set[int] = set()
        for number in range(self._maker[id(operand)], -1, -1):
            outputs = self._nodes[number].outputs
            readers = [reader for own in outputs for reader in self._readers.get(id(own), ())]
            alone = any(own is operand for own in outputs) or (readers and inside.issuperset(readers))
            if alone and not any(id(own) in self._outputs for own in outputs):
                inside.add(number)
        return [self._nodes[number] for number in sorted(inside)]

    def _norm_behind(self, addition: Any, stream: Any) -> Any:
        """Returns the norm that alone reads an addition, if it is one of those that blocks end with.

        So it is where what the block begins from has gone through one, too, or where the next block begins from it.
        """
        output = addition.outputs[0]
        readers = self._readers.get(id(output), [])
        if len(readers) != 1 or id(output) in self._outputs:
            return None
        norm, before = self._nodes[readers[0]], self._maker_of(stream)
        while before is not None and isinstance(before.operation, _PASSING):
            before = self._maker_of(before.input_tensors[0])
        same = before is not None and type(before.operation) is type(norm.operation)
        behind = [own for tensor in norm.outputs for own in self._readers.get(id(tensor), ())]
        same = same or any(isinstance(self._nodes[own].operation, _ADDITIONS) for own in behind)
        return norm if same and isinstance(norm.operation, _NORMS) and len(norm.input_tensors) == 1 else None

    def _name(self, inside: list[Any]) -> str:
        def largest(node: Any) -> int:
            return max((len(own.shape) for own in getattr(node.operation, "weights", ())), default=0)

        first = next((node for node in inside if largest(node) > 1), inside[0])
        return self._prefix + name_of(first.operation)
