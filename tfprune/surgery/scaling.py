"""Makes the small scales of batch normalizations larger, and what reads their units smaller: the function stays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import activations, layers

from tfprune.graph import UnitGraph
from tfprune.graph.kernels import row_axes
from tfprune.graph.nodes import is_graph
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.walk import flat_nodes, functional, nodes_of

_HOMOGENEOUS = layer_classes(
    *["ReLU", "LeakyReLU", "Identity", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"],
    *["Flatten", "Reshape", "Permute", "RepeatVector", "Concatenate"],
    *[f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for rank in (1, 2, 3)],
    *[f"{kind}Pooling{rank}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for rank in (1, 2, 3)],
)
"""Layers f with f(a x) = a f(x) for every a > 0, a number for each unit."""

_FUNCTIONS = (activations.linear, activations.relu, activations.leaky_relu)
_READERS = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
)
"""Layers whose kernel alone reads, so that its rows can take the factor."""


def rescale_batch_norms(graph: UnitGraph, least: float) -> list[str]:
    """Raises small scales of batch normalizations to a least size, in the model itself, at no change of its function.

    Of a unit with `0 < |gamma| < least` scale and shift are multiplied with `a = least / |gamma|`, and the weights that
    read it divided by a. That is possible where nothing but positively homogeneous layers (relu, not sigmoid) lies
    between, `f(a x) = a f(x)`, and nothing else reads what is scaled; other batch normalizations stay as they are.

    Args:
        graph: the units of a model, whose weights are changed.
        least: the least size of a scale afterwards.

    Returns:
        The names of the batch normalizations that were looked at.
    """
    done, calls = [], _Calls(graph.model)
    for node in flat_nodes(graph.model):
        layer = node.operation
        if type(layer) is not layers.BatchNormalization or layer.gamma is None:
            continue
        weight = graph.records.weights.get(id(layer.gamma))
        readers = [] if weight is None or weight.axes[0] is None else _readers(graph, calls, node)
        if not readers:
            continue
        gamma = keras.ops.convert_to_numpy(layer.gamma).astype("float64")
        columns = graph.columns(weight.axes[0])
        small = (np.abs(gamma) < least) & (gamma != 0) & (columns >= 0)
        factors = np.ones(graph.num_units + 1)
        factors[columns[small]] = least / np.abs(gamma[small])
        own = np.where(columns >= 0, factors[columns], 1.0)
        layer.gamma.assign(gamma * own)
        if layer.beta is not None:
            layer.beta.assign(keras.ops.convert_to_numpy(layer.beta) * own)
        for variable, axis in readers:
            ids = graph.records.weights[id(variable)].axes[axis]
            # What comes from elsewhere has another scale, or none.
            along = factors[graph.columns(ids)]
            shape = [-1 if k == axis else 1 for k in range(len(variable.shape))]
            variable.assign(keras.ops.convert_to_numpy(variable) / along.reshape(shape))
        done.append(layer.name)
    return done


def _readers(graph: UnitGraph, calls: _Calls, start: Any) -> list[tuple[Any, int]]:
    """Returns the weights that read the output of a node, each with its axis; none where it cannot be scaled."""
    if len(calls.of[id(start.operation)]) != 1:
        return []
    units = set(_units(graph, start.outputs[0]))
    found: dict[tuple[int, int], tuple[Any, int]] = {}
    waiting, scaled, joined = [start.outputs[0]], set(), []
    while waiting:
        tensor = waiting.pop()
        if id(tensor) in calls.outputs:
            return []
        if id(tensor) in scaled:
            continue
        scaled.add(id(tensor))
        for node in calls.reading.get(id(tensor), []):
            operation = node.operation
            if type(operation) in _READERS and getattr(operation, "groups", 1) == 1:
                if len(calls.of[id(operation)]) != 1:
                    return []
                exits = [exit for exit in graph.records.exits if exit.operation is operation]
                found.update({(id(own), axis): (own, axis) for exit in exits for own, axis in row_axes(graph, exit)})
            elif _is_homogeneous(operation):
                waiting += node.outputs
                joined += node.input_tensors
            else:
                return []
    # The same unit may come in on another way, without the factor.
    others = [tensor for tensor in joined if id(tensor) not in scaled]
    return [] if any(units & set(_units(graph, tensor)) for tensor in others) else list(found.values())


class _Calls:
    """Which nodes call an operation, which read a tensor, and which tensors a model gives out, nested ones too."""

    def __init__(self, model: keras.Model):
        self.of: dict[int, list[Any]] = {}
        self.reading: dict[int, list[Any]] = {}
        self.outputs: set[int] = set()
        self._note(model)

    def _note(self, model: keras.Model) -> None:
        self.outputs.update(id(tensor) for tensor in functional(model).outputs)
        for node in nodes_of(model):
            if is_graph(node.operation) and id(node.operation) not in self.of:
                self._note(node.operation)
            self.of.setdefault(id(node.operation), []).append(node)
            for tensor in {id(own): own for own in node.input_tensors}.values():
                self.reading.setdefault(id(tensor), []).append(node)


def _units(graph: UnitGraph, tensor: Any) -> Iterator[int]:
    signal = graph.records.signals.get(id(tensor))
    for ids in signal.axes if signal is not None else ():
        if ids is not None:
            yield from graph.columns(ids).tolist()


def _is_homogeneous(operation: Any) -> bool:
    if isinstance(operation, layers.ReLU):
        return operation.max_value is None and operation.threshold == 0
    if type(operation) is layers.Activation:
        return operation.activation in _FUNCTIONS
    return type(operation) in _HOMOGENEOUS
