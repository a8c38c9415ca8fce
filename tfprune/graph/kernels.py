"""Kernels of units: by which weights a layer reads each position, for every layer class, and which make units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.graph.groups import UnitGraph
from tfprune.graph.rows_kernel import einsum_letters
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.step import Exit
from tfprune.graph.walk import substituted

_table: dict[type, Callable[[Exit], np.ndarray]] = {}


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
    read = _table.get(type(exit.operation))
    return _by_ids(graph, exit) if read is None else read(exit)


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


def _row(*layer_classes: type) -> Callable:
    def keep(read: Callable) -> Callable:
        _table.update({layer_class: read for layer_class in layer_classes})
        return read

    return keep


def _numbers(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")


@_row(layers.Dense)
def _dense(exit: Exit) -> np.ndarray:
    return _numbers(exit.operation.kernel)[:, None, :]


@_row(layers.EinsumDense)
def _einsum_dense(exit: Exit) -> np.ndarray:
    layer = exit.operation
    # Inside TimeDistributed the layer does not see the axis of time.
    skipped = exit.node.operation is not layer
    source, letters, _ = einsum_letters(layer.equation, len(exit.tensor.shape) - skipped)
    kernel = _numbers(layer.kernel)
    rows = np.moveaxis(kernel, letters.index(source[exit.axis - skipped]), 0)
    return rows.reshape(len(rows), 1, -1)


@_row(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _convolution(exit: Exit) -> np.ndarray:
    kernel = _numbers(exit.operation.kernel)
    kernel = kernel.reshape(-1, *kernel.shape[-2:])
    groups, (taps, rows, columns) = exit.operation.groups, kernel.shape
    result = np.zeros((groups, rows, taps, columns))
    for group, own in enumerate(np.split(np.arange(columns), groups)):
        result[group][..., own] = np.moveaxis(kernel[..., own], 1, 0)
    return result.reshape(groups * rows, taps, columns)


@_row(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _transposed_convolution(exit: Exit) -> np.ndarray:
    kernel = _numbers(exit.operation.kernel)
    return np.moveaxis(kernel.reshape(-1, *kernel.shape[-2:]), -1, 0)


@_row(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_convolution(exit: Exit) -> np.ndarray:
    depthwise, pointwise = _numbers(exit.operation.depthwise_kernel), _numbers(exit.operation.pointwise_kernel)
    depthwise = depthwise.reshape(-1, *depthwise.shape[-2:])
    pointwise = pointwise.reshape(*depthwise.shape[1:], -1)
    return np.einsum("trm,rmc->rtc", depthwise, pointwise)


@_row(layers.SimpleRNN, layers.GRU, layers.LSTM, layers.RNN)
def _recurrent(exit: Exit) -> np.ndarray:
    cell = exit.operation.cell
    return _numbers(cell.recurrent_kernel if exit.tensor is None else cell.kernel)[:, None, :]


@_row(layers.MultiHeadAttention, *layer_classes("GroupQueryAttention"))
def _attention(exit: Exit) -> np.ndarray:
    """Query, key, value and gate read tensors; the output projection reads heads, their entries as taps."""
    layer = exit.operation
    if exit.tensor is None:
        kernel = _numbers(layer._output_dense.kernel)
        return kernel.reshape(len(exit.ids), -1, kernel.shape[-1])
    args, kwargs = substituted(exit.node, lambda tensor: tensor)
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    given["key"] = given["value"] if given.get("key") is None else given["key"]
    given["gate"] = given["query"]
    dense = {name: getattr(layer, f"_{name}_dense", None) for name in ("query", "key", "value", "gate")}
    kernels = [_numbers(own.kernel) for name, own in dense.items() if own is not None and given[name] is exit.tensor]
    return np.concatenate([kernel.reshape(len(kernel), 1, -1) for kernel in kernels], axis=2)


@_row(*layer_classes("ReversibleEmbedding"))
def _reversible_embedding(exit: Exit) -> np.ndarray:
    layer = exit.operation
    kernel = _numbers(layer.embeddings).T if layer.tie_weights else _numbers(layer.reverse_embeddings)
    return kernel[:, None, :]


def _by_ids(graph: UnitGraph, exit: Exit) -> np.ndarray | None:
    """Finds the one weight axis that holds the ids of the exit; among several the choice would be a guess."""
    found = []
    for variable in exit.operation.weights:
        weight = graph.records.weights.get(id(variable))
        if weight is not None and len(variable.shape) > 1:
            found += [(variable, axis) for axis, ids in enumerate(weight.axes) if np.array_equal(ids, exit.ids)]
    if len(found) != 1:
        return None
    ((variable, axis),) = found
    rows = np.moveaxis(_numbers(variable), axis, 0)
    return rows.reshape(len(rows), 1, -1)
