"""Rows of the table: the operations of `keras.ops`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops
from keras.src.ops import core as core_ops
from keras.src.ops import image as image_ops
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from tfprune.relevance.rows_shape import maximum_of, minimum_of, weighted
from tfprune.relevance.steps import Trace, Value
from tfprune.relevance.table import register
from tfprune.relevance.windows import global_windows


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
    image_ops.ExtractPatches,
)
def operation_moves(trace: Trace, *args: Any, **kwargs: Any) -> Value:
    values, call = _closed(trace, args, kwargs)
    return trace.move(lambda *tensors: tf.cast(call(*tensors), tensors[0].dtype), *values)


@register(numpy_ops.Split)
def operation_split(trace: Trace, *args: Any, **kwargs: Any) -> list[Value]:
    values, call = _closed(trace, args, kwargs)
    count = len(call(*[value.tensor for value in values]))
    return [trace.move(lambda x, k=k: call(x)[k], *values) for k in range(count)]


def _reduced_axes(trace: Trace, value: Value) -> list[int]:
    """Returns the axes over which an operation reduces, counted from the front.

    Raises:
        TypeError: if the samples are among them.
    """
    rank, given = len(value.shape), trace.layer.axis
    given = range(rank) if given is None else given if isinstance(given, list | tuple) else [given]
    axes = sorted(axis % rank for axis in given)
    if axes and axes[0] == 0:
        raise TypeError(
            f"axis={trace.layer.axis} joins all samples to one number, so that no sample has an explanation of its "
            "own. Name the axes behind the samples, from 1 on."
        )
    return axes


@register(numpy_ops.Mean, numpy_ops.Sum)
def operation_sums(trace: Trace, x: Value) -> Value:
    _reduced_axes(trace, x)
    return trace.linear(trace.layer.call, x)


def _maximum_over(trace: Trace, x: Value, initial: Any = None) -> Value:
    axes, keepdims = _reduced_axes(trace, x), trace.layer.keepdims
    if not axes:
        return x

    def most(tensor: Any) -> Any:
        return tf.reduce_max(tensor, axis=axes, keepdims=keepdims)

    result = trace.maximum(most, lambda tensor: global_windows(axes, keepdims, tensor), x)
    return result if initial is None else _maximum_with(trace, result, initial)


@register(numpy_ops.Max, numpy_ops.Amax)
def operation_maximum_over(trace: Trace, x: Value) -> Value:
    """One maximum step over the axes; `initial` counts as a constant beside them."""
    return _maximum_over(trace, x, getattr(trace.layer, "initial", None))


@register(numpy_ops.Min, numpy_ops.Amin)
def operation_minimum_over(trace: Trace, x: Value) -> Value:
    """The maximum of the negatives, turned back."""
    initial = getattr(trace.layer, "initial", None)
    turned = weighted(trace, [x], [-1.0])
    return weighted(trace, [_maximum_over(trace, turned, None if initial is None else -initial)], [-1.0])


@register(numpy_ops.GetItem)
def operation_get_item(trace: Trace, x: Value, key: Any) -> Value:
    first = key[0] if isinstance(key, tuple) and key else key
    if not (first is Ellipsis or first == slice(None)):
        raise TypeError(f"the index {key!r} takes samples apart. Leave the first axis whole: x[:, ...].")
    return trace.move(lambda tensor: trace.layer.call(tensor, key), x)


@register(numpy_ops.Take)
def operation_take(trace: Trace, x: Value, indices: Any) -> Value:
    if isinstance(indices, Value) or trace.layer.axis is None or trace.layer.axis % len(x.shape) == 0:
        raise TypeError("take is known for fixed indices on an axis behind the samples.")
    return trace.move(lambda tensor: trace.layer.call(tensor, indices), x)


@register(numpy_ops.Add)
def operation_add(trace: Trace, x1: Any, x2: Any) -> Value:
    return _sum_of(trace, x1, x2, 1.0)


@register(numpy_ops.Subtract)
def operation_subtract(trace: Trace, x1: Any, x2: Any) -> Value:
    return _sum_of(trace, x1, x2, -1.0)


@register(numpy_ops.Negative)
def operation_negative(trace: Trace, x: Value) -> Value:
    return weighted(trace, [x], [-1.0])


def _sum_of(trace: Trace, one: Any, other: Any, sign: float) -> Value:
    if isinstance(one, Value) and isinstance(other, Value):
        return weighted(trace, [one, other], [1.0, sign])
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
    return _maximum_with(trace, x1, x2) if isinstance(x1, Value) else _maximum_with(trace, x2, x1)


@register(numpy_ops.Minimum)
def operation_minimum(trace: Trace, x1: Any, x2: Any) -> Value:
    if isinstance(x1, Value) and isinstance(x2, Value):
        return minimum_of(trace, [x1, x2])
    value, constant = (x1, x2) if isinstance(x1, Value) else (x2, x1)
    constant = trace.cast(constant)
    at_zero = tf.minimum(constant, tf.zeros([], constant.dtype))
    return trace.nonlinearity(lambda x: tf.minimum(x, constant), value, zero=lambda: at_zero)


def _maximum_with(trace: Trace, value: Value, constant: Any) -> Value:
    constant = trace.cast(constant)
    at_zero = tf.maximum(constant, tf.zeros([], constant.dtype))
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
