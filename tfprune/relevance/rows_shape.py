"""Rows of the table: layers that move, pool and merge, and the operations of `keras.ops` that do."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops
from keras.src.ops import core as core_ops
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from tfprune.relevance.steps import Trace, Value
from tfprune.relevance.table import register, row_of
from tfprune.relevance.windows import global_windows, pooling_windows, stacked_windows


@register(
    layers.Flatten,
    layers.Reshape,
    layers.Permute,
    layers.RepeatVector,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Cropping1D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.UpSampling1D,
    layers.UpSampling3D,
)
def moved(trace: Trace, inputs: Value) -> Value:
    return trace.move(trace.layer.call, inputs)


@register(layers.UpSampling2D)
def up_sampling(trace: Trace, inputs: Value) -> Value:
    # Interpolation mixes neighbours: a linear step.
    nearest = trace.layer.interpolation == "nearest"
    return (trace.move if nearest else trace.linear)(trace.layer.call, inputs)


@register(
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
)
def averaged(trace: Trace, inputs: Value) -> Value:
    return trace.linear(trace.layer.call, inputs)


@register(layers.GlobalAveragePooling1D)
def averaged_sequence(trace: Trace, inputs: Value, mask: Any = None) -> Value:
    mask = inputs.mask if mask is None else mask
    return trace.linear(lambda x: trace.layer.call(x, mask=mask), inputs)


@register(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)
def max_pooling(trace: Trace, inputs: Value) -> Value:
    return trace.maximum(trace.layer.call, lambda x: pooling_windows(trace.layer, x), inputs)


@register(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D)
def global_max_pooling(trace: Trace, inputs: Value) -> Value:
    layer, rank = trace.layer, len(inputs.shape)
    axes = list(range(2, rank) if layer.data_format == "channels_first" else range(1, rank - 1))
    return trace.maximum(layer.call, lambda x: global_windows(axes, layer.keepdims, x), inputs)


@register(layers.Masking)
def masking(trace: Trace, inputs: Value) -> Value:
    keep = tf.reduce_any(tf.not_equal(inputs.tensor, trace.layer.mask_value), axis=-1, keepdims=True)
    return trace.move(lambda x: x * tf.cast(keep, x.dtype), inputs)


@register(layers.TimeDistributed)
def time_distributed(trace: Trace, inputs: Value, training: Any = None, mask: Any = None) -> Value:
    layer = trace.layer.layer
    steps = inputs.shape[1]
    if steps is None:
        raise TypeError("its number of steps is open; give the Input a fixed one.")
    rest = [-1 if length is None else length for length in inputs.shape[2:]]
    flat = trace.move(lambda x: tf.reshape(x, [-1, *rest]), inputs)
    row = row_of(layer)
    if row is None:
        raise TypeError(f"no row for {type(layer).__name__} inside it.")
    result = row(trace.inner(layer, repeats=steps), flat)
    lengths = [-1 if length is None else length for length in result.shape[1:]]
    return trace.move(lambda x: tf.reshape(x, [-1, steps, *lengths]), result)


# Merging --------------------------------------------------------------------------------------------------------------


def _weighted(trace: Trace, values: list[Value], coefficients: list[float]) -> Value:
    if all(coefficient == 1.0 for coefficient in coefficients):
        return trace.linear(lambda *tensors: sum(tensors[1:], tensors[0]), *values)
    count = len(values)

    def add(*tensors: Any) -> Any:
        return sum(w * x for x, w in zip(tensors[:count], tensors[count:], strict=True))

    return trace.linear(add, *values, weights=[tf.constant(c) for c in coefficients])


@register(layers.Add)
def add(trace: Trace, inputs: list[Value]) -> Value:
    return _weighted(trace, inputs, [1.0] * len(inputs))


@register(layers.Subtract)
def subtract(trace: Trace, inputs: list[Value]) -> Value:
    return _weighted(trace, inputs, [1.0, -1.0])


@register(layers.Average)
def average(trace: Trace, inputs: list[Value]) -> Value:
    return _weighted(trace, inputs, [1.0 / len(inputs)] * len(inputs))


@register(layers.Multiply)
def multiply(trace: Trace, inputs: list[Value]) -> Value:
    result = inputs[0]
    for value in inputs[1:]:
        result = trace.product(tf.multiply, result, value)
    return result


@register(layers.Concatenate)
def concatenate(trace: Trace, inputs: list[Value]) -> Value:
    return trace.move(lambda *tensors: tf.concat(tensors, axis=trace.layer.axis), *inputs)


@register(layers.Maximum)
def maximum(trace: Trace, inputs: list[Value]) -> Value:
    return trace.maximum(lambda *tensors: trace.layer._merge_function(tensors), stacked_windows, *inputs)


@register(layers.Minimum)
def minimum(trace: Trace, inputs: list[Value]) -> Value:
    turned = [_weighted(trace, [value], [-1.0]) for value in inputs]
    return _weighted(trace, [maximum_of(trace, turned)], [-1.0])


def maximum_of(trace: Trace, values: list[Value]) -> Value:
    """The elementwise maximum of several values."""

    def most(*tensors: Any) -> Any:
        result = tensors[0]
        for tensor in tensors[1:]:
            result = tf.maximum(result, tensor)
        return result

    return trace.maximum(most, stacked_windows, *values)


@register(layers.Dot)
def dot(trace: Trace, inputs: list[Value]) -> Value:
    return trace.product(lambda one, other: trace.layer._merge_function([one, other]), *inputs)


# Operations -----------------------------------------------------------------------------------------------------------


def _closed(trace: Trace, args: tuple, kwargs: dict) -> tuple[list[Value], Any]:
    """Returns the values among the arguments, and the operation as a function of their tensors alone."""
    leaves = keras.tree.flatten((args, kwargs))
    values = [leaf for leaf in leaves if isinstance(leaf, Value)]

    def call(*tensors: Any) -> Any:
        given = iter(tensors)
        full_args, full_kwargs = keras.tree.map_structure(
            lambda leaf: next(given) if isinstance(leaf, Value) else leaf, (args, kwargs)
        )
        return trace.layer.call(*full_args, **full_kwargs)

    return values, call


@register(
    numpy_ops.Reshape,
    numpy_ops.Transpose,
    numpy_ops.GetItem,
    numpy_ops.ExpandDims,
    numpy_ops.Squeeze,
    numpy_ops.Concatenate,
    numpy_ops.Stack,
    numpy_ops.Flip,
    numpy_ops.Moveaxis,
    numpy_ops.Swapaxes,
    numpy_ops.Ravel,
    numpy_ops.Repeat,
    numpy_ops.Tile,
    numpy_ops.BroadcastTo,
    core_ops.Cast,
)
def operation_moves(trace: Trace, *args: Any, **kwargs: Any) -> Value:
    values, call = _closed(trace, args, kwargs)
    return trace.move(lambda *tensors: tf.cast(call(*tensors), tensors[0].dtype), *values)


@register(numpy_ops.Split)
def operation_split(trace: Trace, *args: Any, **kwargs: Any) -> list[Value]:
    values, call = _closed(trace, args, kwargs)
    count = len(call(*[value.tensor for value in values]))
    return [trace.move(lambda x, k=k: call(x)[k], *values) for k in range(count)]


@register(numpy_ops.Mean, numpy_ops.Sum)
def operation_sums(trace: Trace, *args: Any, **kwargs: Any) -> Value:
    values, call = _closed(trace, args, kwargs)
    return trace.linear(call, *values)


@register(numpy_ops.Add)
def operation_add(trace: Trace, x1: Any, x2: Any) -> Value:
    return _sum_of(trace, x1, x2, 1.0)


@register(numpy_ops.Subtract)
def operation_subtract(trace: Trace, x1: Any, x2: Any) -> Value:
    return _sum_of(trace, x1, x2, -1.0)


@register(numpy_ops.Negative)
def operation_negative(trace: Trace, x: Value) -> Value:
    return _weighted(trace, [x], [-1.0])


def _sum_of(trace: Trace, one: Any, other: Any, sign: float) -> Value:
    if isinstance(one, Value) and isinstance(other, Value):
        return _weighted(trace, [one, other], [1.0, sign])
    if isinstance(one, Value):
        return _plus_constant(trace, one, 1.0, sign * trace.cast(other))
    return _plus_constant(trace, other, sign, trace.cast(one))


def _plus_constant(trace: Trace, value: Value, factor: float, constant: Any) -> Value:
    rank = len(value.shape)
    bias = tf.reshape(constant, [1] * (rank - len(constant.shape)) + list(constant.shape))
    bias = bias + tf.zeros([1] * (rank - 1) + [value.shape[-1]], constant.dtype)
    return trace.linear(tf.multiply, value, weights=[tf.constant(factor)], bias=bias)


@register(numpy_ops.Multiply)
def operation_multiply(trace: Trace, x1: Any, x2: Any) -> Value:
    if isinstance(x1, Value) and isinstance(x2, Value):
        return trace.product(tf.multiply, x1, x2)
    value, factor = (x1, x2) if isinstance(x1, Value) else (x2, x1)
    return trace.linear(tf.multiply, value, weights=[trace.cast(factor)])


@register(numpy_ops.TrueDivide, numpy_ops.Divide)
def operation_divide(trace: Trace, x1: Any, x2: Any) -> Value:
    if not isinstance(x2, Value):
        return trace.linear(tf.multiply, x1, weights=[1.0 / trace.cast(x2)])
    inverse = trace.nonlinearity(lambda x: 1.0 / x, x2)
    if not isinstance(x1, Value):
        return trace.linear(tf.multiply, inverse, weights=[trace.cast(x1)])
    return trace.product(tf.multiply, x1, inverse, signal=0)


@register(numpy_ops.Matmul)
def operation_matmul(trace: Trace, x1: Any, x2: Any) -> Value:
    if isinstance(x1, Value) and isinstance(x2, Value):
        return trace.product(ops.matmul, x1, x2)
    if isinstance(x1, Value):
        return trace.linear(ops.matmul, x1, weights=[x2])
    return trace.linear(lambda x, weight: ops.matmul(weight, x), x2, weights=[x1])


@register(numpy_ops.Maximum)
def operation_maximum(trace: Trace, x1: Any, x2: Any) -> Value:
    if isinstance(x1, Value) and isinstance(x2, Value):
        return maximum_of(trace, [x1, x2])
    value, constant = (x1, x2) if isinstance(x1, Value) else (x2, x1)
    constant = trace.cast(constant)
    at_zero = tf.maximum(constant, 0.0)
    return trace.nonlinearity(lambda x: tf.maximum(x, constant), value, zero=lambda: at_zero)


@register(
    nn_ops.Relu,
    nn_ops.Relu6,
    nn_ops.Sigmoid,
    nn_ops.Softplus,
    nn_ops.Softsign,
    nn_ops.Silu,
    nn_ops.LeakyRelu,
    nn_ops.HardSigmoid,
    nn_ops.HardSilu,
    nn_ops.Elu,
    nn_ops.Selu,
    nn_ops.Gelu,
    numpy_ops.Tanh,
    numpy_ops.Exp,
    numpy_ops.Square,
    numpy_ops.Abs,
    numpy_ops.Absolute,
    numpy_ops.Sin,
    numpy_ops.Cos,
)
def operation_elementwise(trace: Trace, x: Value) -> Value:
    return trace.nonlinearity(trace.layer.call, x, zero=trace._constant(trace.layer.call))


@register(nn_ops.Softmax)
def operation_softmax(trace: Trace, x: Value) -> Value:
    return trace.softmax(x, trace.layer.axis)
