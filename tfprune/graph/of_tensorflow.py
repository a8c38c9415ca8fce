"""What functions of TensorFlow in a model's code do to symbolic tensors: what the same functions of Keras do.

Keras refuses its symbolic tensors to `tf.concat` and its like, so that code written with them could not be followed.
While a model is traced, TensorFlow's own dispatch hands such calls over to `keras.ops`. What is not in the table is
refused as before, and the layer stays shut.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree
from tensorflow.python.util.tf_export import get_canonical_name_for_symbol

_here = threading.local()
_functions: dict[str, Callable] = {}


@contextmanager
def followed() -> Iterator[None]:
    """For its time, functions of TensorFlow take the symbolic tensors of Keras in this thread."""
    before = getattr(_here, "follows", False)
    _here.follows = True
    try:
        yield
    finally:
        _here.follows = before


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    """What TensorFlow asks where one of its functions has refused its arguments."""

    def handle(self, op: Any, args: tuple, kwargs: dict) -> Any:
        name = get_canonical_name_for_symbol(op) or ""
        function = _functions.get(name.removeprefix("__operators__."))
        symbolic = (isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten((args, kwargs)))
        if function is None or not getattr(_here, "follows", False) or not any(symbolic):
            return self.NOT_SUPPORTED
        return function(*args, **kwargs)


_Dispatcher().register()


def _stands_for(*names: str) -> Callable[[Callable], Callable]:
    """Notes a function under the names that TensorFlow has for it.

    It takes the arguments that change what is computed. Others ("name", and what only says how) are left out where they
    are None or as TensorFlow has them unasked; anything else is refused.
    """

    def note(function: Callable) -> Callable:
        own = inspect.signature(function).parameters
        free = any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values())

        def call(*args: Any, **kwargs: Any) -> Any:
            known = kwargs if free else {key: value for key, value in kwargs.items() if key in own}
            for key in kwargs.keys() - known.keys():
                if key != "name" and kwargs[key] not in _UNASKED:
                    raise NotImplementedError(f"tf.{names[0]} with {key}={kwargs[key]!r} is not followed")
            return function(*args, **known)

        _functions.update(dict.fromkeys(names, call))
        return function

    return note


_UNASKED = (None, False, True, "NHWC", "euclidean", 10)


def _ints(value: Any) -> Any:
    """Returns whole numbers that stand in tensors as Python's."""
    if isinstance(value, list | tuple):
        return tuple(_ints(own) for own in value)
    array = np.asarray(value)
    return tuple(_ints(own) for own in array) if array.ndim else int(array)


def _known(value: Any) -> Any:
    """Returns numbers of TensorFlow as an array, and what is symbolic as it is."""
    return value.numpy() if isinstance(value, tf.Tensor) else value


def _is_symbolic(value: Any) -> bool:
    return any(isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten(value))


# One argument or two, the same in Keras -------------------------------------------------------------------------------

_SAME = {
    "abs": "math.abs", "exp": "math.exp", "expm1": "math.expm1", "log": "math.log", "log1p": "math.log1p",
    "sqrt": "math.sqrt", "rsqrt": "math.rsqrt", "square": "math.square", "negative": "math.negative neg",
    "sign": "math.sign", "sigmoid": "math.sigmoid nn.sigmoid", "tanh": "math.tanh nn.tanh", "sin": "math.sin",
    "cos": "math.cos", "floor": "math.floor", "ceil": "math.ceil", "round": "math.round", "erf": "math.erf",
    "reciprocal": "math.reciprocal", "softplus": "math.softplus nn.softplus", "softsign": "nn.softsign",
    "relu": "nn.relu", "relu6": "nn.relu6", "elu": "nn.elu", "selu": "nn.selu", "isnan": "math.is_nan",
    "logical_not": "math.logical_not", "log_sigmoid": "math.log_sigmoid", "stop_gradient": "stop_gradient",
    "add": "math.add", "subtract": "math.subtract sub", "multiply": "math.multiply mul",
    "true_divide": "math.divide math.truediv realdiv truediv", "floor_divide": "math.floordiv floordiv",
    "maximum": "math.maximum", "minimum": "math.minimum", "power": "math.pow pow", "equal": "math.equal eq",
    "not_equal": "math.not_equal ne", "greater": "math.greater gt", "greater_equal": "math.greater_equal ge",
    "less": "math.less lt", "less_equal": "math.less_equal le", "logical_and": "math.logical_and",
    "logical_or": "math.logical_or", "mod": "math.floormod mod",
}  # fmt: skip


def _same(function: Callable) -> Callable:
    def call(*args: Any, name: Any = None, **kwargs: Any) -> Any:
        given = [own for own in (*args, *kwargs.values()) if not (isinstance(own, str) or own is None)]
        return function(*given)

    return call


for _name, _names in _SAME.items():
    _functions.update(dict.fromkeys(_names.split(), _same(getattr(ops, _name))))


@_stands_for("math.squared_difference")
def _squared_difference(x: Any, y: Any) -> Any:
    return ops.square(ops.subtract(x, y))


@_stands_for("math.add_n")
def _add_n(inputs: Sequence[Any]) -> Any:
    total = inputs[0]
    for own in inputs[1:]:
        total = ops.add(total, own)
    return total


@_stands_for("math.divide_no_nan")
def _divide_no_nan(x: Any, y: Any) -> Any:
    nothing = ops.equal(y, 0)
    return ops.where(nothing, ops.zeros_like(x), ops.divide(x, ops.where(nothing, ops.ones_like(y), y)))


@_stands_for("clip_by_value")
def _clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.minimum(ops.maximum(t, clip_value_min), clip_value_max)


# Sums and their like --------------------------------------------------------------------------------------------------

_REDUCTIONS = {
    "reduce_mean": "mean", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "reduce_any": "any", "reduce_all": "all", "reduce_std": "std", "reduce_variance": "var",
    "reduce_logsumexp": "logsumexp",
}  # fmt: skip


def _reduction(function: Callable) -> Callable:
    def call(input_tensor: Any, axis: Any = None, keepdims: bool | None = False, name: Any = None) -> Any:
        axes = None if axis is None else _ints(axis)
        # Not every version of Keras takes one number for each of them.
        axes = (axes,) if isinstance(axes, int) else axes
        return function(input_tensor, axis=axes, keepdims=bool(keepdims))

    return call


for _name, _like in _REDUCTIONS.items():
    _functions[f"math.{_name}"] = _reduction(getattr(ops, _like))


@_stands_for("norm", "linalg.norm")
def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = False) -> Any:
    if ord not in ("euclidean", 2) or axis is None or isinstance(axis, list | tuple):
        raise NotImplementedError("tf.norm is followed along one axis, and euclidean")
    return ops.sqrt(ops.sum(ops.square(tensor), axis=_ints(axis), keepdims=bool(keepdims)))


@_stands_for("math.reduce_euclidean_norm")
def _euclidean_norm(input_tensor: Any, axis: Any = None, keepdims: Any = False) -> Any:
    axes = None if axis is None else _ints(axis)
    return ops.sqrt(ops.sum(ops.square(input_tensor), axis=axes, keepdims=bool(keepdims)))


@_stands_for("math.l2_normalize")
def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    axes = None if axis is None else _ints(axis)
    squares = ops.sum(ops.square(x), axis=axes, keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, epsilon)))


@_stands_for("math.argmax", "argmax")
def _argmax(input: Any, axis: Any = None, output_type: Any = "int64") -> Any:
    return ops.cast(ops.argmax(input, axis=0 if axis is None else _ints(axis)), _dtype(output_type))


@_stands_for("math.argmin", "argmin")
def _argmin(input: Any, axis: Any = None, output_type: Any = "int64") -> Any:
    return ops.cast(ops.argmin(input, axis=0 if axis is None else _ints(axis)), _dtype(output_type))


@_stands_for("math.top_k")
def _top_k(input: Any, k: Any = 1, sorted: bool = True) -> Any:
    return ops.top_k(input, _ints(k), sorted)


@_stands_for("math.cumsum")
def _cumsum(x: Any, axis: Any = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    if exclusive or reverse:
        raise NotImplementedError("tf.cumsum is followed forwards, with what it adds")
    return ops.cumsum(x, axis=_ints(axis))


# Shapes ---------------------------------------------------------------------------------------------------------------


def _dtype(value: Any) -> str:
    return tf.as_dtype(value).name


@_stands_for("shape")
def _shape(input: Any, out_type: Any = "int32") -> np.ndarray:
    return np.array(input.shape, _dtype(out_type or "int32"))


@_stands_for("rank")
def _rank(input: Any) -> int:
    return len(input.shape)


@_stands_for("size")
def _size(input: Any, out_type: Any = "int32") -> Any:
    return np.prod(input.shape).astype(_dtype(out_type or "int32"))


@_stands_for("identity", "convert_to_tensor", "ensure_shape")
def _identity(value: Any = None, *args: Any, input: Any = None, x: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    tensor = next(own for own in (value, input, x) if own is not None)
    if isinstance(tensor, list | tuple):
        return _stack(tensor)
    return tensor if dtype is None else ops.cast(tensor, _dtype(dtype))


@_stands_for("cast")
def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, _dtype(dtype))


@_stands_for("reshape")
def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, _ints(shape))


@_stands_for("transpose")
def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    return ops.transpose(a, None if perm is None else _ints(perm))


@_stands_for("linalg.matrix_transpose")
def _matrix_transpose(a: Any) -> Any:
    return _turned(a, True)


@_stands_for("expand_dims")
def _expand_dims(input: Any, axis: Any) -> Any:
    return ops.expand_dims(input, _ints(axis))


@_stands_for("squeeze")
def _squeeze(input: Any, axis: Any = None) -> Any:
    return ops.squeeze(input, None if axis is None else _ints(axis))


@_stands_for("concat")
def _concat(values: Any, axis: Any) -> Any:
    return ops.concatenate(list(values), axis=_ints(axis))


@_stands_for("stack")
def _stack(values: Any, axis: Any = 0) -> Any:
    return ops.stack(list(values), axis=_ints(axis))


@_stands_for("unstack")
def _unstack(value: Any, num: Any = None, axis: Any = 0) -> Any:
    return ops.unstack(value, num=num, axis=_ints(axis))


@_stands_for("split")
def _split(value: Any, num_or_size_splits: Any, axis: Any = 0, num: Any = None) -> Any:
    parts = _ints(num_or_size_splits)
    if isinstance(parts, int):
        return ops.split(value, parts, axis=_ints(axis))
    length = value.shape[_ints(axis)]
    parts = [length - sum(own for own in parts if own >= 0) if part < 0 else part for part in parts]
    return ops.split(value, np.cumsum(parts)[:-1].tolist(), axis=_ints(axis))


@_stands_for("slice")
def _slice(input_: Any = None, begin: Any = None, size: Any = None, input: Any = None) -> Any:
    tensor = input if input_ is None else input_
    places = zip(_ints(begin), _ints(size), tensor.shape, strict=True)
    return tensor[tuple(slice(first, length if own < 0 else first + own) for first, own, length in places)]


@_stands_for("tile")
def _tile(input: Any, multiples: Any) -> Any:
    return ops.tile(input, _ints(multiples))


@_stands_for("repeat")
def _repeat(input: Any, repeats: Any, axis: Any = None) -> Any:
    return ops.repeat(input, _ints(repeats), axis=None if axis is None else _ints(axis))


@_stands_for("broadcast_to")
def _broadcast_to(input: Any, shape: Any) -> Any:
    return ops.broadcast_to(input, _ints(shape))


@_stands_for("pad")
def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    kind = mode.lower()
    return ops.pad(tensor, _ints(paddings), kind, _known(constant_values) if kind == "constant" else None)


@_stands_for("reverse")
def _reverse(tensor: Any, axis: Any) -> Any:
    for own in _ints(axis):
        tensor = ops.flip(tensor, axis=own)
    return tensor


@_stands_for("roll")
def _roll(input: Any, shift: Any, axis: Any) -> Any:
    return ops.roll(input, _ints(shift), axis=_ints(axis))


@_stands_for("gather", "nn.embedding_lookup")
def _gather(params: Any, indices: Any = None, axis: Any = None, batch_dims: Any = 0, ids: Any = None) -> Any:
    if _ints(batch_dims or 0):
        raise NotImplementedError("tf.gather is followed without batch_dims")
    return ops.take(params, _known(ids if indices is None else indices), axis=0 if axis is None else _ints(axis))


@_stands_for("where")
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None:
        raise NotImplementedError("tf.where is followed with both choices")
    return ops.where(condition, x, y)


@_stands_for("one_hot")
def _one_hot(indices: Any, depth: Any, on_value: Any = 1, off_value: Any = 0, axis: Any = -1, dtype: Any = None) -> Any:
    if (on_value, off_value) not in ((1, 0), (None, None), (1, None), (None, 0)):
        raise NotImplementedError("tf.one_hot is followed with 1 and 0")
    return ops.one_hot(indices, _ints(depth), axis=-1 if axis is None else axis, dtype=_dtype(dtype or "float32"))


@_stands_for("ones_like")
def _ones_like(input: Any, dtype: Any = None) -> Any:
    return ops.ones_like(input, None if dtype is None else _dtype(dtype))


@_stands_for("zeros_like")
def _zeros_like(input: Any, dtype: Any = None) -> Any:
    return ops.zeros_like(input, None if dtype is None else _dtype(dtype))


@_stands_for("linalg.band_part")
def _band_part(input: Any, num_lower: Any, num_upper: Any) -> Any:
    lower, upper = _ints(num_lower), _ints(num_upper)
    result = input if lower < 0 else ops.triu(input, -lower)
    return result if upper < 0 else ops.tril(result, upper)


# Products and layers --------------------------------------------------------------------------------------------------


def _turned(tensor: Any, turn: Any) -> Any:
    return ops.swapaxes(tensor, -1, -2) if turn else tensor


@_stands_for("linalg.matmul", "matmul")
def _matmul(a: Any, b: Any, transpose_a: Any = False, transpose_b: Any = False) -> Any:
    return ops.matmul(_turned(a, transpose_a), _turned(b, transpose_b))


@_stands_for("tensordot")
def _tensordot(a: Any, b: Any, axes: Any) -> Any:
    return ops.tensordot(a, b, _ints(axes))


@_stands_for("einsum")
def _einsum(equation: str, *inputs: Any, **kwargs: Any) -> Any:
    return ops.einsum(equation, *inputs)


@_stands_for("nn.bias_add")
def _bias_add(value: Any, bias: Any, data_format: Any = None) -> Any:
    if data_format not in (None, "NHWC", "NC", "NWC", "N...C"):
        raise NotImplementedError("tf.nn.bias_add is followed with the channels last")
    return ops.add(value, bias)


@_stands_for("nn.leaky_relu")
def _leaky_relu(features: Any, alpha: Any = 0.2) -> Any:
    return ops.leaky_relu(features, float(alpha))


@_stands_for("nn.gelu")
def _gelu(features: Any, approximate: bool = False) -> Any:
    return ops.gelu(features, approximate=approximate)


@_stands_for("nn.silu", "nn.swish")
def _silu(features: Any, beta: Any = 1.0) -> Any:
    return ops.silu(features) if beta == 1 else ops.multiply(features, ops.sigmoid(ops.multiply(beta, features)))


@_stands_for("nn.softmax")
def _softmax(logits: Any, axis: Any = None) -> Any:
    return ops.softmax(logits, axis=-1 if axis is None else _ints(axis))


@_stands_for("nn.log_softmax")
def _log_softmax(logits: Any, axis: Any = None) -> Any:
    return ops.log_softmax(logits, axis=-1 if axis is None else _ints(axis))


@_stands_for("nn.depth_to_space")
def _depth_to_space(input: Any, block_size: Any, data_format: str = "NHWC") -> Any:
    _channels_last("depth_to_space", data_format)
    (_, height, width, channels), own = input.shape, _ints(block_size)
    parts = ops.reshape(input, (-1, height, width, own, own, channels // own**2))
    parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return ops.reshape(parts, (-1, height * own, width * own, channels // own**2))


@_stands_for("nn.space_to_depth")
def _space_to_depth(input: Any, block_size: Any, data_format: str = "NHWC") -> Any:
    _channels_last("space_to_depth", data_format)
    (_, height, width, channels), own = input.shape, _ints(block_size)
    parts = ops.reshape(input, (-1, height // own, own, width // own, own, channels))
    parts = ops.transpose(parts, (0, 1, 3, 2, 4, 5))
    return ops.reshape(parts, (-1, height // own, width // own, own**2 * channels))


def _channels_last(name: str, data_format: Any) -> None:
    if data_format not in (None, "NHWC", "NWC", "NDHWC"):
        raise NotImplementedError(f"tf.nn.{name} is followed with the channels last")


def _steps(value: Any) -> Any:
    """Returns the steps along the inner axes, without those along samples and channels."""
    steps = 1 if value is None else _ints(value)
    return steps[1:-1] if isinstance(steps, tuple) and len(steps) > 2 else steps


@_stands_for("nn.conv2d", "nn.conv3d", "nn.convolution")
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


@_stands_for("nn.max_pool", "nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d")
def _max_pool(input: Any, ksize: Any, strides: Any, padding: Any, data_format: Any = None) -> Any:
    _channels_last("max_pool", data_format)
    return ops.max_pool(input, _steps(ksize), _steps(strides), padding.lower(), "channels_last")


@_stands_for("nn.avg_pool", "nn.avg_pool1d", "nn.avg_pool2d", "nn.avg_pool3d")
def _avg_pool(input: Any, ksize: Any, strides: Any, padding: Any, data_format: Any = None) -> Any:
    _channels_last("avg_pool", data_format)
    return ops.average_pool(input, _steps(ksize), _steps(strides), padding.lower(), "channels_last")


@_stands_for("image.extract_patches")
def _extract_patches(images: Any, sizes: Any, strides: Any, rates: Any, padding: Any) -> Any:
    sizes, strides, rates = (_ints(own)[1:-1] for own in (sizes, strides, rates))
    if any(len(set(own)) > 1 for own in (strides, rates)) or (rates[0] != 1 and strides[0] != 1):
        raise NotImplementedError("tf.image.extract_patches is followed with one stride or one rate for both axes")
    # Keras 3.8 finds no shape where a stride is named.
    stride = None if strides == sizes else strides[0]
    return ops.image.extract_patches(images, sizes, stride, rates[0], padding.lower())


@_stands_for("image.resize")
def _resize(images: Any, size: Any, method: str = "bilinear", antialias: bool = False) -> Any:
    return ops.image.resize(images, _ints(size), interpolation=method, antialias=antialias)
