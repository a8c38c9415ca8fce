"""Rows of the table: layers with kernels, norms, and activations."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import layers, ops
from keras.src.applications import convnext

from tfprune.graph.rows_shape import layer_classes
from tfprune.relevance.steps import Trace, Value
from tfprune.relevance.table import register


@register(layers.Dense)
def dense(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    return trace.activation(trace.linear(ops.matmul, inputs, weights=[layer.kernel], bias=layer.bias), layer.activation)


@register(layers.EinsumDense)
def einsum_dense(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    bias = None
    if layer.bias is not None:
        # With a leading axis, so that it is no vector and broadcasts as it is.
        bias = ops.expand_dims(layer.bias, 0)
    result = trace.linear(
        lambda x, kernel: ops.einsum(layer.equation, x, kernel), inputs, weights=[layer.kernel], bias=bias
    )
    return trace.activation(result, layer.activation)


def _channel_axis(layer: Any) -> int:
    return 1 if layer.data_format == "channels_first" else -1


@register(layers.Conv2D, layers.Conv3D)
def convolution(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    axis = _channel_axis(layer)
    result = trace.linear(layer.convolution_op, inputs, weights=[layer.kernel], bias=layer.bias, axis=axis)
    return trace.activation(result, layer.activation)


@register(layers.Conv1D)
def convolution_1d(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    causal = layer.padding == "causal"

    def convolve(x: Any, kernel: Any) -> Any:
        x = ops.pad(x, layer._compute_causal_padding()) if causal else x
        return ops.conv(
            x,
            kernel,
            strides=list(layer.strides),
            padding="valid" if causal else layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    result = trace.linear(convolve, inputs, weights=[layer.kernel], bias=layer.bias, axis=_channel_axis(layer))
    return trace.activation(result, layer.activation)


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer

    def convolve(x: Any, kernel: Any) -> Any:
        return ops.conv_transpose(
            x,
            kernel,
            strides=list(layer.strides),
            padding=layer.padding,
            output_padding=layer.output_padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    result = trace.linear(convolve, inputs, weights=[layer.kernel], bias=layer.bias, axis=_channel_axis(layer))
    return trace.activation(result, layer.activation)


def _depthwise(layer: Any) -> Any:
    def convolve(x: Any, kernel: Any) -> Any:
        return ops.depthwise_conv(
            x,
            kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    return convolve


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    axis = _channel_axis(layer)
    result = trace.linear(_depthwise(layer), inputs, weights=[layer.kernel], bias=layer.bias, axis=axis)
    return trace.activation(result, layer.activation)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    hidden = trace.linear(_depthwise(layer), inputs, weights=[layer.depthwise_kernel])

    def point(x: Any, kernel: Any) -> Any:
        return ops.conv(x, kernel, strides=1, padding="valid", data_format=layer.data_format)

    result = trace.linear(point, hidden, weights=[layer.pointwise_kernel], bias=layer.bias, axis=_channel_axis(layer))
    return trace.activation(result, layer.activation)


@register(layers.Embedding)
def embedding(trace: Trace, inputs: Value) -> Value:
    table = trace.cast(trace.layer.embeddings)

    def look_up(entries: Any) -> Any:
        return tf.gather(table, tf.cast(entries, "int32"))

    return trace.look_up(look_up, inputs)


@register(layers.BatchNormalization)
def batch_norm(trace: Trace, inputs: Value, training: Any = None, mask: Any = None) -> Value:
    """At inference an affine map of each channel."""
    layer = trace.layer
    variance, mean = trace.cast(layer.moving_variance), trace.cast(layer.moving_mean)
    scale = tf.math.rsqrt(variance + layer.epsilon)
    scale = scale * trace.cast(layer.gamma) if layer.scale else scale
    offset = -mean * scale
    offset = offset + trace.cast(layer.beta) if layer.center else offset
    return _per_channel(trace, inputs, scale, offset, layer.axis)


def _per_channel(trace: Trace, inputs: Value, scale: Any, offset: Any, axis: int) -> Value:
    rank = len(inputs.shape)
    shape = [-1 if k == axis % rank else 1 for k in range(rank)]
    return trace.linear(
        lambda x, factor: x * tf.reshape(factor, shape), inputs, weights=[scale], bias=offset, axis=axis
    )


@register(layers.LayerNormalization)
def layer_norm(trace: Trace, inputs: Value) -> Value:
    """Centred, then divided by the deviation, which counts as given."""
    layer = trace.layer
    axes = [axis % len(inputs.shape) for axis in _listed(layer.axis)]
    centred = inputs
    if not layer.rms_scaling:
        mean = trace.linear(lambda x: tf.reduce_mean(x, axis=axes, keepdims=True), inputs)
        one, minus = tf.constant(1.0), tf.constant(-1.0)
        centred = trace.linear(lambda x, m, p, q: p * x + q * m, inputs, mean, weights=[one, minus])
    result = _divided_by_size(trace, centred, axes, layer.epsilon, mean=True)
    gamma = None if layer.gamma is None else trace.cast(layer.gamma)
    beta = None if layer.beta is None else trace.cast(layer.beta)
    shape = [inputs.shape[k] if k in axes else 1 for k in range(len(inputs.shape))]
    if gamma is None and beta is None:
        return result
    bias = None if beta is None else tf.reshape(beta, shape)
    gamma = tf.ones([], trace.dtype) if gamma is None else tf.reshape(gamma, shape)
    return trace.linear(tf.multiply, result, weights=[gamma], bias=bias)


def _divided_by_size(trace: Trace, value: Value, axes: list[int], epsilon: float, *, mean: bool) -> Value:
    reduce = tf.reduce_mean if mean else tf.reduce_sum
    square = trace.nonlinearity(tf.square, value)
    size = trace.linear(lambda x: reduce(x, axis=axes, keepdims=True), square)
    inverse = trace.nonlinearity(lambda x: tf.math.rsqrt(x + epsilon), size)
    return trace.product(tf.multiply, value, inverse, signal=0)


@register(*layer_classes("RMSNormalization"))
def rms_norm(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    axes = [axis % len(inputs.shape) for axis in _listed(layer.axis)]
    result = _divided_by_size(trace, inputs, axes, layer.epsilon, mean=True)
    shape = [inputs.shape[k] if k in axes else 1 for k in range(len(inputs.shape))]
    return trace.linear(lambda x, scale: x * tf.reshape(scale, shape), result, weights=[layer.scale])


@register(layers.UnitNormalization)
def unit_norm(trace: Trace, inputs: Value) -> Value:
    axes = [axis % len(inputs.shape) for axis in _listed(trace.layer.axis)]
    return _divided_by_size(trace, inputs, axes, 1e-24, mean=False)


@register(layers.GroupNormalization)
def group_norm(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    apart = trace.move(layer._reshape_into_groups, inputs)
    rank, axis = len(inputs.shape), layer.axis % len(inputs.shape)
    axes = [k for k in range(1, rank + 1) if k != axis]
    mean = trace.linear(lambda x: tf.reduce_mean(x, axis=axes, keepdims=True), apart)
    one, minus = tf.constant(1.0), tf.constant(-1.0)
    centred = trace.linear(lambda x, m, p, q: p * x + q * m, apart, mean, weights=[one, minus])
    result = _divided_by_size(trace, centred, axes, layer.epsilon, mean=True)
    lengths = [-1 if length is None else length for length in inputs.shape]
    joined = trace.move(lambda x: tf.reshape(x, lengths), result)
    if layer.gamma is None and layer.beta is None:
        return joined
    scale = tf.ones([inputs.shape[axis]]) if layer.gamma is None else layer.gamma
    return _per_channel(trace, joined, scale, layer.beta, axis)


def _listed(axis: Any) -> list[int]:
    return list(axis) if isinstance(axis, list | tuple) else [axis]


@register(layers.Normalization)
def normalization(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    mean, variance = trace.cast(layer.mean), trace.cast(layer.variance)
    deviation = tf.maximum(tf.sqrt(variance), keras.config.epsilon())
    if layer.invert:
        return trace.affine(lambda x: mean + x * deviation, inputs)
    return trace.affine(lambda x: (x - mean) / deviation, inputs)


@register(layers.Rescaling)
def rescaling(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    scale, offset = trace.cast(layer.scale), trace.cast(layer.offset)
    offset = tf.broadcast_to(offset, inputs.shape[-1:]) if len(offset.shape) < 2 else offset
    return trace.linear(tf.multiply, inputs, weights=[scale], bias=offset)


@register(convnext.LayerScale)
def layer_scale(trace: Trace, inputs: Value) -> Value:
    return trace.linear(tf.multiply, inputs, weights=[trace.layer.gamma])


# Activations ----------------------------------------------------------------------------------------------------------


@register(layers.Activation)
def activation(trace: Trace, inputs: Value) -> Value:
    return trace.activation(inputs, trace.layer.activation)


@register(layers.ReLU)
def relu(trace: Trace, inputs: Value) -> Value:
    layer = trace.layer
    plain = layer.max_value is None and not layer.threshold
    return trace.nonlinearity(layer.call, inputs, homogeneous=plain, zero=trace._constant(layer.call))


@register(layers.LeakyReLU)
def leaky_relu(trace: Trace, inputs: Value) -> Value:
    return trace.nonlinearity(trace.layer.call, inputs, homogeneous=True)


@register(layers.ELU)
def elu(trace: Trace, inputs: Value) -> Value:
    return trace.nonlinearity(trace.layer.call, inputs)


@register(layers.PReLU)
def prelu(trace: Trace, inputs: Value) -> Value:
    alpha = trace.cast(trace.layer.alpha)
    return trace.nonlinearity(lambda x: tf.nn.relu(x) - alpha * tf.nn.relu(-x), inputs, homogeneous=True)


@register(layers.Softmax)
def softmax(trace: Trace, inputs: Value, mask: Any = None) -> Value:
    if mask is not None or not isinstance(trace.layer.axis, int):
        raise TypeError("a softmax with a mask or over several axes is not known.")
    return trace.softmax(inputs, trace.layer.axis)


@register(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
    layers.Identity,
    convnext.StochasticDepth,
)
def unchanged(trace: Trace, inputs: Value, training: Any = None) -> Value:
    """At inference they do nothing."""
    return inputs
