"""Kernels of units: the weights by which each layer class reads them, as rows, taps and outputs; and which make units.

This is the one place that knows where the kernels of a layer are. Scores look at them position by position through
`reading_kernel`; the repairs kernel by kernel through `kernels_of`, as they write them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.graph.groups import UnitGraph
from tfprune.graph.nodes import substituted
from tfprune.graph.rows_kernel import einsum_letters
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.step import Exit
from tfprune.layers import RECURRENT, CrossedConv, CrossedDense, is_plain_recurrent


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One kernel by which a layer reads units; as an array `(taps, rows, outputs)` it has a row for each of them.

    Attributes:
        layer: the object that holds the kernel and its bias.
        kernel: the weight.
        reads: what of the layer's call it reads: "inputs", an argument by name, or what no tensor of the graph shows,
            "state" or "heads".
        taps: how many of the kernel's first axes are taps.
        row_axes: how many axes behind the taps are rows.
        rows_last: True for a kernel whose rows are its last axis (a transposed convolution).
    """

    layer: Any
    kernel: Any
    reads: str = "inputs"
    taps: int = 0
    row_axes: int = 1
    rows_last: bool = False

    def view(self, array: np.ndarray) -> np.ndarray:
        """Returns an array with the kernel's axes as `(taps, rows, outputs)`."""
        if self.rows_last:
            array = np.moveaxis(array, -1, self.taps)
        shape = array.shape
        rows = math.prod(shape[self.taps : self.taps + self.row_axes])
        return array.reshape(math.prod(shape[: self.taps]), rows, -1)

    def set_kernel(self, array: np.ndarray) -> None:
        """Assigns the kernel from an array `(taps, rows, outputs)`."""
        shape = list(self.kernel.shape)
        if self.rows_last:
            shape.insert(self.taps, shape.pop())
        array = array.reshape(shape)
        self.kernel.assign(np.moveaxis(array, self.taps, -1) if self.rows_last else array)

    def view_of_rows(self, flags: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Takes one flag array per axis of the kernel; returns those of rows and outputs as the view has them."""
        if self.rows_last:
            flags = [*flags[: self.taps], flags[-1], *flags[self.taps : -1]]
        rows, outputs = flags[self.taps : self.taps + self.row_axes], flags[self.taps + self.row_axes :]
        return _outer(rows), _outer(outputs)

    @property
    def summed_axes(self) -> range:
        """The axes of the kernel that are rows."""
        rank = len(self.kernel.shape)
        return range(rank - 1, rank) if self.rows_last else range(self.taps, self.taps + self.row_axes)

    @property
    def numbers(self) -> np.ndarray:
        """The kernel as float64 `(taps, rows, outputs)`."""
        return self.view(_numbers(self.kernel))


def _outer(flags: list[np.ndarray]) -> np.ndarray:
    result = np.ones(1, bool)
    for own in flags:
        result = (result[:, None] & own[None]).ravel()
    return result


def _numbers(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")


_table: dict[type, Callable[[Any], list[Kernel]]] = {}


def kernels_of(layer: Any) -> list[Kernel]:
    """Returns the kernels by which a layer reads: none for one without, or with a form that is not known here."""
    find = _table.get(type(layer))
    return [] if find is None else find(layer)


def _row(*layer_classes: type) -> Callable:
    def keep(find: Callable) -> Callable:
        _table.update(dict.fromkeys(layer_classes, find))
        return find

    return keep


@_row(layers.Dense)
def _dense(layer: Any) -> list[Kernel]:
    return [Kernel(layer=layer, kernel=layer.kernel)]


@_row(layers.EinsumDense)
def _einsum(layer: Any, reads: str = "inputs") -> list[Kernel]:
    """Only equations whose kernel has the letters that are summed over, followed by new ones."""
    given, kernel, target = einsum_letters(layer.equation, layer.input_spec.ndim)
    gone = "".join(letter for letter in kernel if letter not in target)
    new = kernel[len(gone) :]
    if not gone or not kernel.startswith(gone) or set(new) & set(given) or set(gone) - set(given):
        return []
    return [Kernel(layer=layer, kernel=layer.kernel, reads=reads, row_axes=len(gone))]


@_row(layers.TimeDistributed)
def _time_distributed(layer: Any) -> list[Kernel]:
    return _dense(layer.layer) if type(layer.layer) is layers.Dense else []


@_row(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(layer: Any) -> list[Kernel]:
    """A row is one channel of every group."""
    return [Kernel(layer=layer, kernel=layer.kernel, taps=layer.rank)]


@_row(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed_convolution(layer: Any) -> list[Kernel]:
    return [Kernel(layer=layer, kernel=layer.kernel, taps=layer.rank, rows_last=True)]


@_row(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_convolution(layer: Any) -> list[Kernel]:
    """A row is what the depthwise kernel makes of one channel."""
    return [Kernel(layer=layer, kernel=layer.pointwise_kernel, taps=layer.rank)]


@_row(*RECURRENT)
def _recurrent(layer: Any) -> list[Kernel]:
    if not is_plain_recurrent(layer):
        return []
    cell = layer.cell
    return [Kernel(layer=cell, kernel=cell.kernel), Kernel(layer=cell, kernel=cell.recurrent_kernel, reads="state")]


@_row(layers.Bidirectional)
def _bidirectional(layer: Any) -> list[Kernel]:
    return [*kernels_of(layer.forward_layer), *kernels_of(layer.backward_layer)]


@_row(layers.MultiHeadAttention, *layer_classes("GroupQueryAttention"))
def _attention(layer: Any) -> list[Kernel]:
    """Query, key, value and gate projections read widths; the output projection reads heads."""
    by_name = [("query", layer._query_dense), ("key", layer._key_dense), ("value", layer._value_dense)]
    if getattr(layer, "_gate_dense", None) is not None:
        by_name.append(("query", layer._gate_dense))
    by_name.append(("heads", layer._output_dense))
    return [kernel for reads, dense in by_name for kernel in _einsum(dense, reads)]


def reading_kernel(graph: UnitGraph, exit: Exit) -> np.ndarray | None:
    """Returns the weights by which an exit's layer reads its positions.

    Layers that are not in the table (a user's own, taught with `register`) are read by the ids of their weights.

    Args:
        graph: the reading of the model.
        exit: one of `graph.records.exits`.

    Returns:
        float64 array `(positions, taps, outputs)`: what position `p` adds to output `o` at tap `t` of the kernel. None
        where nothing with weights reads (norms, dot products), or where the weights cannot be told.
    """
    if not exit.kernel:
        return None
    layer = exit.operation
    if type(layer) in _by_position:
        return _by_position[type(layer)](exit)
    if type(layer) not in _table:
        return _by_ids(graph, exit)
    arguments = _names_of(exit)
    read = [own.numbers for own in kernels_of(layer) if own.reads in arguments]
    # The entries of a head are taps.
    read = [own.reshape(len(exit.ids), -1, own.shape[2]) if exit.tensor is None else _rows_first(own) for own in read]
    return np.concatenate(read, axis=2)


def _rows_first(view: np.ndarray) -> np.ndarray:
    return np.moveaxis(view, 1, 0)


def _names_of(exit: Exit) -> set[str]:
    """Returns what the kernels that read at an exit call it: as `Kernel.reads`."""
    if exit.tensor is None:
        return {"state", "heads"}
    args, kwargs = substituted(exit.node, lambda tensor: tensor)
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    given["key"] = given.get("value") if given.get("key") is None else given["key"]
    return {"inputs", *(name for name, tensor in given.items() if tensor is exit.tensor)}


_by_position: dict[type, Callable[[Exit], np.ndarray]] = {}
"""Layers that read a position by something else than one row of one kernel: returns `(positions, taps, outputs)`."""


def _position_row(*layer_classes: type) -> Callable:
    def keep(read: Callable) -> Callable:
        _by_position.update(dict.fromkeys(layer_classes, read))
        return read

    return keep


@_position_row(layers.EinsumDense)
def _einsum_positions(exit: Exit) -> np.ndarray:
    """One letter among several that are summed over, or one that stays."""
    layer = exit.operation
    # Inside TimeDistributed the layer does not see the axis of time.
    skipped = exit.node.operation is not layer
    source, letters, _ = einsum_letters(layer.equation, len(exit.tensor.shape) - skipped)
    rows = np.moveaxis(_numbers(layer.kernel), letters.index(source[exit.axis - skipped]), 0)
    return rows.reshape(len(rows), 1, -1)


@_position_row(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution_positions(exit: Exit) -> np.ndarray:
    """A channel is read by the outputs of its own group alone."""
    (kernel,) = kernels_of(exit.operation)
    rows, groups = _rows_first(kernel.numbers), exit.operation.groups
    result = np.zeros((groups, *rows.shape))
    for group, own in enumerate(np.split(np.arange(rows.shape[2]), groups)):
        result[group][..., own] = rows[..., own]
    return result.reshape(groups * len(rows), *rows.shape[1:])


@_position_row(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_positions(exit: Exit) -> np.ndarray:
    """Through the depthwise kernel, which has the taps."""
    depthwise = _numbers(exit.operation.depthwise_kernel)
    depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
    (kernel,) = kernels_of(exit.operation)
    return np.einsum("trm,rmc->rtc", depthwise, kernel.numbers.reshape(*depthwise.shape[1:], -1))


@_position_row(CrossedDense, CrossedConv)
def _crossed_positions(exit: Exit) -> np.ndarray:
    """The kernels of all blocks, as if they were one."""
    layer = exit.operation
    result = np.zeros((len(layer.survived_inputs), math.prod(layer.taps), len(layer.survived_outputs)))
    for kernel, places, made in layer.blocks():
        rows = np.moveaxis(_numbers(kernel).reshape(result.shape[1], len(places), len(made)), 1, 0)
        result[np.ix_(places, np.arange(result.shape[1]), made)] = rows
    return result


@_position_row(*layer_classes("ReversibleEmbedding"))
def _reversible_embedding_positions(exit: Exit) -> np.ndarray:
    layer = exit.operation
    kernel = _numbers(layer.embeddings).T if layer.tie_weights else _numbers(layer.reverse_embeddings)
    return kernel[:, None, :]


def _by_ids(graph: UnitGraph, exit: Exit) -> np.ndarray | None:
    found = _axis_by_ids(graph, exit)
    if found is None:
        return None
    variable, axis = found
    rows = np.moveaxis(_numbers(variable), axis, 0)
    return rows.reshape(len(rows), 1, -1)


def _axis_by_ids(graph: UnitGraph, exit: Exit) -> tuple[Any, int] | None:
    """Finds the one weight axis that holds the ids of the exit; among several the choice would be a guess."""
    found = []
    for variable in exit.operation.weights:
        weight = graph.records.weights.get(id(variable))
        if weight is not None and len(variable.shape) > 1:
            found += [(variable, axis) for axis, ids in enumerate(weight.axes) if np.array_equal(ids, exit.ids)]
    return found[0] if len(found) == 1 else None


def row_axes(graph: UnitGraph, exit: Exit) -> list[tuple[Any, int]]:
    """Returns the weights by which an exit's layer reads units, each with the axis along which lie those it sums over.

    Where all numbers of a unit are zero there, it adds nothing to what the layer gives out.

    Args:
        graph: the reading of the model.
        exit: one of `graph.records.exits`.

    Returns:
        `(variable, axis)` for every axis of every kernel of the layer that is summed over; nothing where no weights
        read, where they cannot be told, or where those that read units make them, too.
    """
    layer = exit.operation
    if not exit.kernel:
        return []
    if type(layer) is layers.EinsumDense:
        _, letters, target = einsum_letters(layer.equation, layer.input_spec.ndim)
        return [(layer.kernel, axis) for axis, letter in enumerate(letters) if letter not in target]
    if type(layer) in layer_classes("ReversibleEmbedding"):
        return [] if layer.tie_weights else [(layer.reverse_embeddings, 0)]
    if type(layer) in (CrossedConv, CrossedDense):
        return [(kernel, len(layer.taps)) for kernel in layer.kernels]
    if type(layer) in _table:
        return [(kernel.kernel, axis) for kernel in kernels_of(layer) for axis in kernel.summed_axes]
    found = _axis_by_ids(graph, exit)
    return [] if found is None else [found]


def making_kernels(graph: UnitGraph) -> Iterator[tuple[Any, int, np.ndarray]]:
    """Yields the kernels that make units, biases and norms left out.

    Args:
        graph: the reading of the model.

    Yields:
        `(variable, axis, ids)`: along that axis of the weight lie the units `ids` that it makes, all gates of a
        recurrent layer included.
    """
    made: dict[int, tuple[Any, list[np.ndarray]]] = {}
    for emitter in graph.records.emitters.values():
        made.setdefault(id(emitter.operation), (emitter.operation, []))[1].append(emitter.ids)
    inside = {(id(exit.operation), unit) for exit in graph.records.exits if exit.tensor is None for unit in exit.ids}
    for operation, ids in made.values():
        own = np.concatenate(ids)
        for variable in operation.weights:
            weight = graph.records.weights.get(id(variable))
            if weight is None or len(variable.shape) < 2 or variable.name == "bias":
                continue
            for axis, ids in enumerate(weight.axes):
                if ids is None or not np.isin(ids, own).any():
                    continue
                # A recurrent kernel, and attention's output projection, read the layer's own units on the first axis.
                if axis == 0 and (id(operation), ids[0]) in inside:
                    continue
                yield variable, axis, ids
