"""Biases that Keras adds along another axis than their own.

On TensorFlow, Keras takes an array with one long axis for a bias of the last axis, or else of the first one behind the
batch, if it is as long as that one, wherever its own axis is: so for a convolution with channels first whose output is
as wide as it has channels. With other numbers of units other lengths coincide, and the model computes something else.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers
from keras.src.ops import numpy as numpy_operations

from tfprune.graph.nodes import substituted
from tfprune.graph.rows_kernel import einsum_letters
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.walk import flat_nodes
from tfprune.surgery.rebuild import Rebuild

Shape = tuple[int | None, ...]

_CONVOLUTIONS = tuple(
    layer_classes(
        *[f"Conv{rank}D{kind}" for rank in (1, 2, 3) for kind in ("", "Transpose")],
        *[f"{kind}Conv{rank}D" for kind in ("Depthwise", "Separable") for rank in (1, 2)],
    )
)
_ATTENTION = tuple(layer_classes("MultiHeadAttention", "GroupQueryAttention"))
_SUMS = (layers.Add, numpy_operations.Add)


def moved_biases(rebuilt: Rebuild) -> list[str]:
    """Returns what there is to say of every bias that goes astray in one of both models, the original or the other."""
    told = []
    for node in flat_nodes(rebuilt.graph.model):
        if id(node) not in rebuilt.nodes or id(node.operation) not in rebuilt.operations:
            continue
        # A repair may have added a bias.
        for old, new in itertools.zip_longest(_sums(node), _sums(rebuilt.nodes[id(node)])):
            axes = [None if own is None else _taken_axis(*own) for own in (old, new)]
            if axes[0] != axes[1]:
                model, taken = ("original", axes[0]) if axes[1] is None else ("new model", axes[1])
                length = (old if axes[1] is None else new)[0][taken]
                told.append(
                    f"{node.operation.name!r} adds a bias that Keras takes for one of axis {taken} in the {model}, "
                    f"where that is as long as its own, {length}, so that the new model computes something else"
                )
    return list(dict.fromkeys(told))


def _sums(node: Any) -> Iterator[tuple[Shape, Shape]]:
    """Yields the shapes of what is added in one call: a tensor, and a bias or a constant array."""
    layer, inputs, outputs = node.operation, tuple(node.input_tensors[0].shape), tuple(node.outputs[0].shape)
    if isinstance(layer, layers.TimeDistributed):
        layer, inputs, outputs = layer.layer, (inputs[0], *inputs[2:]), (outputs[0], *outputs[2:])
    if isinstance(layer, _SUMS):
        yield from _constants(node)
    elif isinstance(layer, _ATTENTION) and _einsum_goes_astray():
        yield from _projections(node, layer)
    elif isinstance(layer, _CONVOLUTIONS) and layer.bias is not None and layer.data_format == "channels_first":
        yield outputs, (1, layer.bias.shape[0], *[1] * (len(outputs) - 2))
    elif isinstance(layer, layers.EinsumDense) and layer.bias is not None and _einsum_goes_astray():
        # What the layer says of its output may leave lengths open that its input has.
        source, kernel, target = einsum_letters(layer.equation, len(inputs))
        lengths = dict(zip(kernel, layer.kernel.shape, strict=True)) | dict(zip(source, inputs, strict=True))
        yield tuple(lengths[letter] for letter in target), tuple(layer.bias.shape)


def _constants(node: Any) -> Iterator[tuple[Shape, Shape]]:
    args, kwargs = node.arguments.args, node.arguments.kwargs
    values = [*args, *kwargs.values()]
    values = values[0] if isinstance(values[0], list | tuple) else values
    for value in values[1:]:
        if not isinstance(value, keras.KerasTensor) and np.ndim(value):
            yield tuple(node.outputs[0].shape), tuple(np.shape(value))


def _projections(node: Any, layer: Any) -> Iterator[tuple[Shape, Shape]]:
    args, kwargs = substituted(node, lambda tensor: tensor)
    given = dict(zip(("query", "value", "key"), args, strict=False)) | kwargs
    given["key"] = given["value"] if given.get("key") is None else given["key"]
    for name in ("query", "key", "value"):
        dense = getattr(layer, f"_{name}_dense")
        if dense.bias is not None:
            heads = tuple(dense.kernel.shape[1:])
            yield (*given[name].shape[:-1], *heads), tuple(dense.bias.shape)


def _taken_axis(tensor: Shape, bias: Shape) -> int | None:
    """Returns the axis of a tensor along which Keras adds a bias, if it is not that along which the bias lies."""
    long = [axis for axis, length in enumerate(bias) if length is None or length > 1]
    if len(long) != 1 or bias[long[0]] is None or len(tensor) < 2:
        return None
    own, length = len(tensor) - len(bias) + long[0], bias[long[0]]
    taken = len(tensor) - 1 if tensor[-1] == length else 1 if tensor[1] == length else own
    return taken if taken != own and _is_taken(tensor, bias) else None


@functools.cache
def _einsum_goes_astray() -> bool:
    """Whether the biases of EinsumDense are added so by this Keras; 3.8 adds them as NumPy does."""
    equation, options = "abc,cde->abde", {"bias_axes": "d", "kernel_initializer": "zeros", "name": "probe"}
    layer = layers.EinsumDense(equation, (None, 3, 2), **options)
    layer.build((None, 3, 1))
    layer.bias.assign([[0.0], [1.0], [2.0]])
    found = keras.ops.convert_to_numpy(layer(np.zeros((1, 3, 1), "float32")))
    return not np.array_equal(found[0, 0, :, 0], [0.0, 1.0, 2.0])


def _is_taken(tensor: Shape, bias: Shape) -> bool:
    """Whether this Keras adds it otherwise than NumPy."""
    zeros = np.zeros([length or 1 for length in tensor], "float32")
    added = np.arange(np.prod(bias), dtype="float32").reshape(bias)
    return not np.array_equal(keras.ops.convert_to_numpy(keras.ops.add(zeros, added)), zeros + added)
