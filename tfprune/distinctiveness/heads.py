"""Second moments of the heads of attention, which show in no tensor of the graph."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend

from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.distinctiveness.vectors import Vectors, pooled
from tfprune.graph import Group, UnitGraph
from tfprune.graph.walk import ancestors, call_operation, run_flat
from tfprune.layers import attended_heads

_SAMPLES_AT_ONCE = 64
_MASKS = ("query_mask", "value_mask", "key_mask", "attention_mask", "use_causal_mask")


def head_vectors(graph: UnitGraph, groups: list[Group], data: Any) -> dict[str, Vectors]:
    """Measures what the heads give to the output projection, over samples, positions and entries.

    Args:
        graph: the reading of the model.
        groups: groups whose units are heads.
        data: whatever `model.fit` takes.

    Returns:
        The vectors by group name, around zero.
    """
    places = {}
    for exit in graph.records.exits:
        columns = graph.columns(exit.ids)
        for group in groups:
            inside = (columns >= group.start) & (columns < group.start + group.size)
            if exit.tensor is None and inside.any():
                places[group.name] = (exit.node, np.where(inside, columns - group.start, -1), group.size)
    sums = _sums(graph.model, data, {name: node for name, (node, _, _) in places.items()})
    found = {}
    for name, (_, units, size) in places.items():
        count, total, squares = sums[name]
        mean = total / count
        # In grouped attention several query heads are one unit.
        units = np.repeat(units, len(mean) // len(units))
        found[name] = pooled(mean, squares / count - np.outer(mean, mean), units, size, int(count))
    return found


def _sums(model: keras.Model, data: Any, nodes: dict[str, Any]) -> dict[str, list[np.ndarray]]:
    """Returns number of rows, their sum and the sum of their products, for the heads at some nodes."""
    only = ancestors(model, {id(node) for node in nodes.values()})
    names = {id(node): name for name, node in nodes.items()}

    def sums_of_batch(inputs: list[Any]) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}

        def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            if id(node) in names:
                found[names[id(node)]] = _row_sums(node.operation, args, kwargs)
            return call_operation(node, args, kwargs)

        run_flat(model, inputs, call, only=only)
        return found

    step = ByLengths(sums_of_batch)
    totals: dict[str, list[np.ndarray]] = {}
    for batch in as_batches(data, model, batch_size=_SAMPLES_AT_ONCE, targets="ignore"):
        found = step([tf.convert_to_tensor(x) for x in batch.inputs])
        for name, own in found.items():
            before = totals.get(name, [0.0, 0.0, 0.0])
            totals[name] = [total + part.numpy() for total, part in zip(before, own, strict=True)]
    return totals


def _row_sums(layer: Any, args: tuple, kwargs: dict) -> list[Any]:
    given = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    masks = {name: given[name] for name in _MASKS if name in given}
    read = {name: given[name] for name in ("query", "value", "key") if given.get(name) is not None}
    carried = {name: backend.get_keras_mask(tensor) for name, tensor in read.items()}
    masks |= {f"{name}_mask": mask for name, mask in carried.items() if masks.get(f"{name}_mask") is None}
    heads, _ = attended_heads(layer, **{"key": None, **read}, **masks)
    for name, tensor in read.items():
        # `attended_heads` takes the masks away, and the layer itself has still to be called.
        backend.set_keras_mask(tensor, carried[name])
    rows = tf.cast(tf.reshape(tf.transpose(heads, [0, 1, 3, 2]), [-1, heads.shape[2]]), "float64")
    return [tf.cast(tf.shape(rows)[0], "float64"), tf.reduce_sum(rows, 0), tf.matmul(rows, rows, transpose_a=True)]
