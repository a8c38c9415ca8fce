"""Runs a masked model for many masks at once: what lies before the first mask runs once per point."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend

from tfprune.graph.batch import Batch, batch_of
from tfprune.graph.nodes import substituted
from tfprune.graph.probe import is_elementwise
from tfprune.graph.walk import call_operation, functional, nodes_of
from tfprune.layers import MeanReplacement, TakeUnits

# Kernel entries up to which a dense layer is taken apart by units: so many floats a point.
_MOST_CONTRIBUTIONS = 2**15


class _PerPoint(NamedTuple):
    """A tensor that is the same for every mask, and where its points lie."""

    tensor: Any
    batch: Batch = Batch()


class _PerMask(NamedTuple):
    """A tensor that is the same for every point, shape `(masks, ...)`."""

    tensor: Any


class _Masked(NamedTuple):
    """Units about to be masked for the first time: `replacement + on * (h - replacement)`, not yet multiplied out.

    The units lie along `axis` of `h`; `positions` `(num_units, positions)` says where each column of the mask acts.
    """

    h: Any
    on: Any
    replacement: Any
    axis: int
    positions: np.ndarray | None


class SplitModel:
    """A masked model split into what depends on the points alone, on the masks alone, and on both.

    Args:
        masked: a model with an `on_nodes` input.
        position: which input that is.
    """

    def __init__(self, masked: keras.Model, position: int):
        self._graph = functional(masked)
        self._position = position
        mask_tensor = self._graph.inputs[position]
        on_points = {id(tensor) for tensor in self._graph.inputs if tensor is not mask_tensor}
        on_masks = {id(mask_tensor)}
        before, after, self._masks_only = [], [], []
        nodes = list(nodes_of(masked))
        for node in nodes:
            points = any(id(tensor) in on_points for tensor in node.input_tensors)
            masks = any(id(tensor) in on_masks for tensor in node.input_tensors)
            (after if points and masks else self._masks_only if masks else before).append(node)
            on_points.update(id(tensor) for tensor in node.outputs if points)
            on_masks.update(id(tensor) for tensor in node.outputs if masks)
        read_after = {id(tensor) for node in after for tensor in node.input_tensors}
        read_after.update(id(tensor) for tensor in self._graph.outputs)
        # A weight, or what follows the number of points in a way that nobody can say, cannot be spread over the masks:
        # it is made anew for them.
        batches: dict[int, Any] = {}
        again = set()
        for node in reversed(before):
            read = [tensor for tensor in node.outputs if id(tensor) in read_after]
            if read and any(batch_of(tensor, batches) is None for tensor in read):
                again.add(id(node))
                read_after.update(id(tensor) for tensor in node.input_tensors)
        # Where it is read before the first mask as well, it is made there too.
        read_before: set[int] = set()
        twice = set()
        for node in reversed(before):
            if id(node) not in again or any(id(tensor) in read_before for tensor in node.outputs):
                twice.add(id(node))
                read_before.update(id(tensor) for tensor in node.input_tensors)
        self._before = [node for node in before if id(node) in twice]
        after = {id(node) for node in after} | again
        self._after = [node for node in nodes if id(node) in after]
        points_only = on_points - on_masks - {id(tensor) for node in self._after for tensor in node.outputs}
        self._positions = self._positions_of_units()
        activations = [node.operation for node in self._after if type(node.operation) is keras.layers.Activation]
        self._elementwise = {id(layer) for layer in activations if is_elementwise(layer.activation)}
        known = [*self._graph.inputs, *(tensor for node in self._before for tensor in node.outputs)]
        self.boundary = [tensor for tensor in known if id(tensor) in read_after and id(tensor) in points_only]
        self._batches = [batch_of(tensor, batches) for tensor in self.boundary]

    def _positions_of_units(self) -> dict[int, np.ndarray | None]:
        """Returns for each tensor that is a row of `on_nodes`, or taken from one, where each unit acts."""
        row = self._graph.inputs[self._position]
        num_units = row.shape[1]
        result = {id(row): np.arange(num_units)[:, None]}
        for node in self._masks_only:
            if type(node.operation) is TakeUnits and node.input_tensors[0] is row:
                columns = np.asarray(node.operation.columns)
                own = [np.flatnonzero(columns == unit) for unit in range(num_units)]
                equal = len({len(positions) for positions in own}) == 1
                result[id(node.outputs[0])] = np.stack(own) if equal else None
        return result

    @property
    def floats_before(self) -> int:
        """Numbers that one point fills on its way to the first mask."""
        return _num_floats(self._before)

    @property
    def floats_after(self) -> int:
        """Numbers that one point under one mask fills behind the first mask."""
        return _num_floats(self._after)

    @property
    def is_flat(self) -> bool:
        """Whether everything behind the first mask has one axis besides the batch: there XLA pays on the CPU."""
        return all(len(tensor.shape) <= 2 for node in self._after for tensor in node.outputs)

    def before(self, inputs: list[Any]) -> tuple[list[Any], list[Any]]:
        """Returns what the part behind the first mask reads, for some points; inputs without `on_nodes`.

        Last comes an input, which tells how many points there are. The second list holds the time masks that Keras has
        put on the tensors, or None; they do not leave a `tf.function` by themselves.
        """
        references = [tensor for k, tensor in enumerate(self._graph.inputs) if k != self._position]
        values = {id(reference): _PerPoint(value) for reference, value in zip(references, inputs, strict=True)}
        for node in self._before:
            self._call_alike(node, values, _PerPoint)
        tensors = [values[id(tensor)].tensor for tensor in self.boundary]
        return [*tensors, inputs[0]], [backend.get_keras_mask(tensor) for tensor in tensors]

    def after(self, boundary: tuple[list[Any], list[Any]], masks: Any, off: Any = None) -> list[Any]:
        """Returns the model's outputs, shape `(masks * points, ...)`, mask by mask, for masks `(masks, num_units)`.

        `off`, shape `(masks,)`, says that in each mask just this unit is off: the first dense layer behind it then
        changes by one product of rank one.
        """
        (*tensors, first_input), keras_masks = boundary
        num_points, num_masks = tf.shape(first_input)[0], tf.shape(masks)[0]
        values: dict[int, Any] = {}
        given = zip(self.boundary, tensors, keras_masks, self._batches, strict=True)
        for reference, tensor, keras_mask, batch in given:
            values[id(reference)] = _PerPoint(_with_mask(tensor, keras_mask), batch)
        values[id(self._graph.inputs[self._position])] = _PerMask(masks)
        for node in self._masks_only:
            self._call_alike(node, values, _PerMask)
        spread = _Spread(num_points, num_masks, off)
        for node in self._after:
            self._call_after(node, values, spread)
        return [spread(values[id(tensor)]) for tensor in self._graph.outputs]

    def _call_alike(self, node: Any, values: dict[int, Any], kind: type) -> None:
        """Calls a node whose tensors are all of one kind."""
        args, kwargs = substituted(node, lambda tensor: values[id(tensor)].tensor)
        outputs = call_operation(node, args, kwargs)
        values.update({id(tensor): kind(value) for tensor, value in zip(node.outputs, outputs, strict=True)})

    def _call_after(self, node: Any, values: dict[int, Any], spread: _Spread) -> None:
        own = [values[id(tensor)] for tensor in node.input_tensors]
        layer = node.operation
        plain = type(layer) is MeanReplacement and not layer.relative and len(own) == 2
        if plain and isinstance(own[0], _PerPoint) and own[0].batch == Batch() and isinstance(own[1], _PerMask):
            positions = self._positions.get(id(node.input_tensors[1]))
            replacement = layer.replacement.value
            values[id(node.outputs[0])] = _Masked(own[0].tensor, own[1].tensor, replacement, layer.axis, positions)
            return
        masked = own[0] if own and isinstance(own[0], _Masked) else None
        if masked is not None and id(layer) in self._elementwise and spread.on_or_off:
            values[id(node.outputs[0])] = _activated(layer, masked)
            return
        found = spread.dense(layer, masked) if masked is not None and type(layer) is keras.layers.Dense else None
        if found is not None:
            values[id(node.outputs[0])] = found
            return
        args, kwargs = substituted(node, lambda tensor: spread(values[id(tensor)]))
        outputs = call_operation(node, args, kwargs)
        values.update({id(tensor): value for tensor, value in zip(node.outputs, outputs, strict=True)})


class _Spread:
    """Brings tensors of every kind to one row per mask and point."""

    def __init__(self, num_points: Any, num_masks: Any, off: Any):
        self._num_points = num_points
        self._num_masks = num_masks
        self._off = off

    @property
    def on_or_off(self) -> bool:
        """Whether no mask holds anything but 0 and 1."""
        return self._off is not None

    def dense(self, layer: keras.layers.Dense, masked: _Masked) -> Any:
        """Returns what a dense layer gives without multiplying its input out, or None if that would not pay."""
        if self._off is not None and masked.positions is not None and masked.axis in (-1, len(masked.h.shape) - 1):
            return self._dense_one_off(layer, masked)
        return self._dense(layer, masked) if _is_small(layer, masked) else None

    def __call__(self, value: Any) -> Any:
        if isinstance(value, _PerPoint):
            return self._with_mask_of(value.tensor, self._tiled(value.tensor, value.batch.axis))
        if isinstance(value, _PerMask):
            return tf.repeat(value.tensor, self._num_points, axis=0)
        return self._with_mask_of(value.h, self._multiplied(value)) if isinstance(value, _Masked) else value

    def _tiled(self, tensor: Any, axis: int = 0) -> Any:
        return tf.tile(tensor, [self._num_masks if k == axis else 1 for k in range(len(tensor.shape))])

    def _with_mask_of(self, tensor: Any, result: Any) -> Any:
        keras_mask = backend.get_keras_mask(tensor)
        return _with_mask(result, None if keras_mask is None else self._tiled(keras_mask))

    def _multiplied(self, masked: _Masked) -> Any:
        rank = len(masked.h.shape)
        axis = masked.axis % rank
        shape = [-1 if k == axis else 1 for k in range(1, rank)]
        replacement = tf.reshape(tf.cast(masked.replacement, masked.h.dtype), [1, 1, *shape])
        on = tf.reshape(tf.cast(masked.on, masked.h.dtype), [self._num_masks, 1, *shape])
        result = replacement + on * (masked.h[None] - replacement)
        return tf.reshape(result, tf.concat([[self._num_masks * self._num_points], tf.shape(masked.h)[1:]], axis=0))

    def _dense(self, layer: keras.layers.Dense, masked: _Masked) -> Any:
        """A dense layer is linear in the mask: one product of the masks with each unit's own contribution."""
        kernel, replacement, h = self._operands(layer, masked)
        contributions = tf.transpose(h - replacement)[:, :, None] * kernel[:, None, :]
        contributions = tf.reshape(contributions, [kernel.shape[0], self._num_points * layer.units])
        result = tf.matmul(tf.cast(masked.on, h.dtype), contributions)
        result = tf.reshape(result, [self._num_masks * self._num_points, layer.units])
        return _finished(layer, result + tf.linalg.matvec(kernel, replacement, transpose_a=True))

    def _dense_one_off(self, layer: keras.layers.Dense, masked: _Masked) -> Any:
        """One unit off: the layer's sums change by the unit's own rows of the kernel, times its own change."""
        kernel, replacement, h = self._operands(layer, masked)
        positions = tf.gather(masked.positions, self._off)
        change = tf.gather(replacement - h, positions, axis=-1)
        rank = len(h.shape)
        # (points, ..., masks, positions) -> (masks, points, ..., positions)
        change = tf.transpose(change, [rank - 1, *range(rank - 1), rank])
        rows = tf.gather(kernel, positions)
        rows = tf.reshape(rows, [self._num_masks, *[1] * (rank - 2), *rows.shape[1:]])
        change = change * rows if masked.positions.shape[1] == 1 else tf.matmul(change, rows)
        result = tf.matmul(h, kernel)[None] + change
        result = tf.reshape(result, tf.concat([[self._num_masks * self._num_points], tf.shape(result)[2:]], axis=0))
        return self._with_mask_of(masked.h, _finished(layer, result))

    def _operands(self, layer: keras.layers.Dense, masked: _Masked) -> tuple[Any, Any, Any]:
        dtype = layer.compute_dtype
        kernel = layer.kernel.value if hasattr(layer.kernel, "value") else layer.kernel
        return tuple(tf.cast(own, dtype) for own in (kernel, masked.replacement, masked.h))


def _activated(layer: keras.layers.Activation, masked: _Masked) -> _Masked:
    """On or off and nothing between: the function meets the unit, or what stands in for it."""
    replacement = layer.activation(tf.cast(masked.replacement, masked.h.dtype))
    return masked._replace(h=layer.activation(masked.h), replacement=replacement)


def _finished(layer: keras.layers.Dense, sums: Any) -> Any:
    """Adds the bias of a dense layer to its sums and applies its activation."""
    if layer.bias is not None:
        sums += tf.cast(layer.bias.value, sums.dtype)
    return layer.activation(sums) if layer.activation is not None else sums


def _with_mask(tensor: Any, keras_mask: Any) -> Any:
    """Puts a time mask of Keras on a tensor, as layers do; None leaves it as it is."""
    if keras_mask is not None:
        backend.set_keras_mask(tensor, keras_mask)
    return tensor


def _num_floats(nodes: list[Any]) -> int:
    tensors = [tensor for node in nodes for tensor in node.outputs]
    return max(1, sum(math.prod(length or 1 for length in tensor.shape[1:]) for tensor in tensors))


def _is_small(layer: keras.layers.Dense, masked: _Masked) -> bool:
    """Whether every unit's own contribution to the dense layer may be held for all points of a step."""
    return len(masked.h.shape) == 2 and math.prod(layer.kernel.shape) <= _MOST_CONTRIBUTIONS
