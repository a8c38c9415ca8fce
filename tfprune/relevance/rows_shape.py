"""Rows of the table: layers that move, pool and merge."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras import layers

from tfprune.layers.opened import WithMask
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


@register(WithMask)
def with_mask(trace: Trace, inputs: Value, mask: Any) -> Value:
    result = trace.move(tf.identity, inputs)
    result.mask = mask.tensor if isinstance(mask, Value) else mask
    return result


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


def weighted(trace: Trace, values: list[Value], coefficients: list[float]) -> Value:
    """The sum of several values, each with its coefficient."""
    if all(coefficient == 1.0 for coefficient in coefficients):
        return trace.linear(lambda *tensors: sum(tensors[1:], tensors[0]), *values)
    count = len(values)

    def add(*tensors: Any) -> Any:
        return sum(w * x for x, w in zip(tensors[:count], tensors[count:], strict=True))

    return trace.linear(add, *values, weights=[tf.constant(c) for c in coefficients])


@register(layers.Add)
def add(trace: Trace, inputs: list[Value]) -> Value:
    return weighted(trace, inputs, [1.0] * len(inputs))


@register(layers.Subtract)
def subtract(trace: Trace, inputs: list[Value]) -> Value:
    return weighted(trace, inputs, [1.0, -1.0])


@register(layers.Average)
def average(trace: Trace, inputs: list[Value]) -> Value:
    return weighted(trace, inputs, [1.0 / len(inputs)] * len(inputs))


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
    return minimum_of(trace, inputs)


def maximum_of(trace: Trace, values: list[Value]) -> Value:
    """The elementwise maximum of several values."""

    def most(*tensors: Any) -> Any:
        result = tensors[0]
        for tensor in tensors[1:]:
            result = tf.maximum(result, tensor)
        return result

    return trace.maximum(most, stacked_windows, *values)


def minimum_of(trace: Trace, values: list[Value]) -> Value:
    """The elementwise minimum of several values: the maximum of their negatives, turned back."""
    turned = [weighted(trace, [value], [-1.0]) for value in values]
    return weighted(trace, [maximum_of(trace, turned)], [-1.0])


@register(layers.Dot)
def dot(trace: Trace, inputs: list[Value]) -> Value:
    return trace.product(lambda one, other: trace.layer._merge_function([one, other]), *inputs)
