"""For functions of TensorFlow that layers are made of, what computes the same with `keras.ops`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import ops

from tfprune.graph.of_tensorflow_table import ints, stands_for


def _turned(tensor: Any, turn: Any) -> Any:
    return ops.swapaxes(tensor, -1, -2) if turn else tensor


@stands_for("linalg.matrix_transpose")
def _matrix_transpose(a: Any) -> Any:
    return _turned(a, True)


@stands_for("linalg.matmul", "matmul")
def _matmul(a: Any, b: Any, transpose_a: Any = False, transpose_b: Any = False) -> Any:
    return ops.matmul(_turned(a, transpose_a), _turned(b, transpose_b))


@stands_for("tensordot")
def _tensordot(a: Any, b: Any, axes: Any) -> Any:
    return ops.tensordot(a, b, ints(axes))


@stands_for("einsum")
def _einsum(equation: str, *inputs: Any, **kwargs: Any) -> Any:
    return ops.einsum(equation, *inputs)


@stands_for("nn.bias_add")
def _bias_add(value: Any, bias: Any, data_format: Any = None) -> Any:
    if data_format not in (None, "NHWC", "NC", "NWC", "N...C"):
        raise NotImplementedError("tf.nn.bias_add is followed with the channels last")
    return ops.add(value, bias)


@stands_for("nn.leaky_relu")
def _leaky_relu(features: Any, alpha: Any = 0.2) -> Any:
    return ops.leaky_relu(features, float(alpha))


@stands_for("nn.gelu")
def _gelu(features: Any, approximate: bool = False) -> Any:
    return ops.gelu(features, approximate=approximate)


@stands_for("nn.silu", "nn.swish")
def _silu(features: Any, beta: Any = 1.0) -> Any:
    return ops.silu(features) if beta == 1 else ops.multiply(features, ops.sigmoid(ops.multiply(beta, features)))


def _along(name: str) -> Callable:
    def call(logits: Any, axis: Any = None) -> Any:
        return getattr(ops, name)(logits, axis=-1 if axis is None else ints(axis))

    return call


for _name in ("softmax", "log_softmax"):
    stands_for(f"nn.{_name}")(_along(_name))


@stands_for("nn.depth_to_space")
def _depth_to_space(input: Any, block_size: Any, data_format: str = "NHWC") -> Any:
    _channels_last("depth_to_space", data_format)
    (_, height, width, channels), own = input.shape, ints(block_size)
    parts = ops.reshape(input, (-1, height, width, own, own, channels // own**2))
    parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return ops.reshape(parts, (-1, height * own, width * own, channels // own**2))


@stands_for("nn.space_to_depth")
def _space_to_depth(input: Any, block_size: Any, data_format: str = "NHWC") -> Any:
    _channels_last("space_to_depth", data_format)
    (_, height, width, channels), own = input.shape, ints(block_size)
    parts = ops.reshape(input, (-1, height // own, own, width // own, own, channels))
    parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return ops.reshape(parts, (-1, height // own, width // own, own**2 * channels))


def _channels_last(name: str, data_format: Any) -> None:
    if data_format not in (None, "NHWC", "NWC", "NDHWC"):
        raise NotImplementedError(f"tf.nn.{name} is followed with the channels last")


def _steps(value: Any) -> Any:
    """Returns the steps along the inner axes, without those along samples and channels."""
    steps = 1 if value is None else ints(value)
    return steps[1:-1] if isinstance(steps, tuple) and len(steps) > 2 else steps


@stands_for("nn.conv2d", "nn.conv3d", "nn.convolution")
def _conv(
    input: Any,
    filters: Any,
    strides: Any = None,
    padding: Any = "VALID",
    data_format: Any = None,
    dilations: Any = None,
) -> Any:
    _channels_last("conv", data_format)
    return ops.conv(input, filters, _steps(strides), padding.lower(), "channels_last", _steps(dilations))


def _pool(name: str) -> Callable:
    def call(input: Any, ksize: Any, strides: Any, padding: Any, data_format: Any = None) -> Any:
        _channels_last(name, data_format)
        return getattr(ops, name)(input, _steps(ksize), _steps(strides), padding.lower(), "channels_last")

    return call


for _name, _like in {"max_pool": "max_pool", "avg_pool": "average_pool"}.items():
    stands_for(*(f"nn.{_name}{_rank}" for _rank in ("", "1d", "2d", "3d")))(_pool(_like))


@stands_for("image.extract_patches")
def _extract_patches(images: Any, sizes: Any, strides: Any, rates: Any, padding: Any) -> Any:
    sizes, strides, rates = (ints(own)[1:-1] for own in (sizes, strides, rates))
    if any(len(set(own)) > 1 for own in (strides, rates)) or (rates[0] != 1 and strides[0] != 1):
        raise NotImplementedError("tf.image.extract_patches is followed with one stride or one rate for both axes")
    # Keras 3.8 finds no shape where a stride is named.
    stride = None if strides == sizes else strides[0]
    return ops.image.extract_patches(images, sizes, stride, rates[0], padding.lower())


@stands_for("image.resize")
def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False) -> Any:
    return ops.image.resize(images, ints(size), interpolation=method, antialias=antialias)
