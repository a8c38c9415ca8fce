"""For functions of TensorFlow on arrays, what computes the same with `keras.ops`, on symbols too."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from keras import ops

FUNCTIONS: dict[str, Callable] = {}
"""By the name that TensorFlow has for each; operators by the name of theirs (`add`, `sub`)."""
_AS_ALWAYS = {"use_cudnn_on_gpu": True, "data_format": "NHWC", "preserve_aspect_ratio": False}
"""Settings that say nothing where they stand at what they are unasked."""


def stands_for(*names: str) -> Callable[[Callable], Callable]:
    """Notes a function under the names that TensorFlow has for it.

    It takes the arguments that change what is computed. Others may be None or as they are unasked, "name" anything.
    """

    def note(function: Callable) -> Callable:
        own = inspect.signature(function).parameters

        def call(*args: Any, name: Any = None, **kwargs: Any) -> Any:
            for key, value in kwargs.items():
                if key not in own and value is not None and value != _AS_ALWAYS.get(key):
                    raise NotImplementedError(f"tf.{names[0]} with {key}={value!r} is not followed")
            return function(*args, **{key: value for key, value in kwargs.items() if key in own})

        FUNCTIONS.update(dict.fromkeys(names, call))
        return function

    return note


def ints(value: Any) -> Any:
    """Returns whole numbers that stand in tensors as Python's, None as it is."""
    if isinstance(value, list | tuple):
        return tuple(ints(own) for own in value)
    if value is None:
        return None
    array = np.asarray(value)
    return tuple(ints(own) for own in array) if array.ndim else int(array)


def _dtype(value: Any) -> str | None:
    return None if value is None else tf.as_dtype(value).name


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


_OPERANDS = ("x", "y", "features", "input")


def _same(name: str) -> Callable:
    function = getattr(ops, name)

    def call(*args: Any, **kwargs: Any) -> Any:
        unknown = kwargs.keys() - {*_OPERANDS, "name"}
        if unknown:
            raise NotImplementedError(f"tf.{name} with {', '.join(sorted(unknown))} is not followed")
        # The last argument of all of these is a name.
        given = [own for own in args if not isinstance(own, str)]
        return function(*given, *(kwargs[key] for key in _OPERANDS if key in kwargs))

    return call


for _name, _names in _SAME.items():
    FUNCTIONS.update(dict.fromkeys(_names.split(), _same(_name)))


@stands_for("math.squared_difference")
def _squared_difference(x: Any, y: Any) -> Any:
    return ops.square(ops.subtract(x, y))


@stands_for("math.add_n")
def _add_n(inputs: Sequence[Any]) -> Any:
    total = inputs[0]
    for own in inputs[1:]:
        total = ops.add(total, own)
    return total


@stands_for("math.divide_no_nan")
def _divide_no_nan(x: Any, y: Any) -> Any:
    nothing = ops.equal(y, 0)
    return ops.where(nothing, ops.zeros_like(x), ops.divide(x, ops.where(nothing, ops.ones_like(y), y)))


@stands_for("clip_by_value")
def _clip_by_value(t: Any, clip_value_min: Any, clip_value_max: Any) -> Any:
    return ops.minimum(ops.maximum(t, clip_value_min), clip_value_max)


# Sums and their like --------------------------------------------------------------------------------------------------

_REDUCTIONS = {
    "reduce_mean": "mean", "reduce_sum": "sum", "reduce_max": "max", "reduce_min": "min", "reduce_prod": "prod",
    "reduce_any": "any", "reduce_all": "all", "reduce_std": "std", "reduce_variance": "var",
    "reduce_logsumexp": "logsumexp",
}  # fmt: skip


def _reduction(name: str) -> Callable:
    function = getattr(ops, name)

    def call(input_tensor: Any, axis: Any = None, keepdims: bool | None = False) -> Any:
        axes = ints(axis)
        # Not every version of Keras takes one number for each of them.
        return function(input_tensor, axis=(axes,) if isinstance(axes, int) else axes, keepdims=bool(keepdims))

    return call


for _name, _like in _REDUCTIONS.items():
    stands_for(f"math.{_name}")(_reduction(_like))


@stands_for("norm", "linalg.norm")
def _norm(tensor: Any, ord: Any = "euclidean", axis: Any = None, keepdims: Any = False) -> Any:
    if ord not in ("euclidean", 2) or axis is None or isinstance(axis, list | tuple):
        raise NotImplementedError("tf.norm is followed along one axis, and euclidean")
    return _euclidean_norm(tensor, axis, keepdims)


@stands_for("math.reduce_euclidean_norm")
def _euclidean_norm(input_tensor: Any, axis: Any = None, keepdims: Any = False) -> Any:
    return ops.sqrt(ops.sum(ops.square(input_tensor), axis=ints(axis), keepdims=bool(keepdims)))


@stands_for("math.l2_normalize")
def _l2_normalize(x: Any, axis: Any = None, epsilon: float = 1e-12) -> Any:
    squares = ops.sum(ops.square(x), axis=ints(axis), keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, epsilon)))


def _place(name: str) -> Callable:
    def call(input: Any, axis: Any = None, output_type: Any = "int64") -> Any:
        return ops.cast(getattr(ops, name)(input, axis=ints(axis) or 0), _dtype(output_type))

    return call


for _name in ("argmax", "argmin"):
    stands_for(f"math.{_name}", _name)(_place(_name))


@stands_for("math.top_k")
def _top_k(input: Any, k: Any = 1, sorted: bool = True) -> Any:
    return ops.top_k(input, ints(k), sorted)


@stands_for("math.cumsum")
def _cumsum(x: Any, axis: Any = 0, exclusive: bool = False, reverse: bool = False) -> Any:
    if exclusive or reverse:
        raise NotImplementedError("tf.cumsum is followed forwards, with what it adds")
    return ops.cumsum(x, axis=ints(axis))


# Shapes ---------------------------------------------------------------------------------------------------------------


@stands_for("shape")
def _shape(input: Any, out_type: Any = "int32") -> np.ndarray:
    return np.array(input.shape, _dtype(out_type))


@stands_for("rank")
def _rank(input: Any) -> int:
    return len(input.shape)


@stands_for("size")
def _size(input: Any, out_type: Any = "int32") -> Any:
    return np.prod(input.shape).astype(_dtype(out_type))


@stands_for("identity")
def _identity(input: Any) -> Any:
    return input


@stands_for("ensure_shape")
def _ensure_shape(x: Any, shape: Any) -> Any:
    return x


@stands_for("convert_to_tensor")
def _convert_to_tensor(value: Any, dtype: Any = None, dtype_hint: Any = None) -> Any:
    tensor = _stack(value) if isinstance(value, list | tuple) else value
    return tensor if dtype is None else _cast(tensor, dtype)


@stands_for("cast")
def _cast(x: Any, dtype: Any) -> Any:
    return ops.cast(x, _dtype(dtype))


@stands_for("reshape")
def _reshape(tensor: Any, shape: Any) -> Any:
    return ops.reshape(tensor, ints(shape))


@stands_for("transpose")
def _transpose(a: Any, perm: Any = None, conjugate: bool = False) -> Any:
    return ops.transpose(a, ints(perm))


@stands_for("expand_dims")
def _expand_dims(input: Any, axis: Any) -> Any:
    return ops.expand_dims(input, ints(axis))


@stands_for("squeeze")
def _squeeze(input: Any, axis: Any = None) -> Any:
    return ops.squeeze(input, ints(axis))


@stands_for("concat")
def _concat(values: Any, axis: Any) -> Any:
    return ops.concatenate(list(values), axis=ints(axis))


@stands_for("stack")
def _stack(values: Any, axis: Any = 0) -> Any:
    return ops.stack(list(values), axis=ints(axis))


@stands_for("unstack")
def _unstack(value: Any, num: Any = None, axis: Any = 0) -> Any:
    return ops.unstack(value, num=num, axis=ints(axis))


@stands_for("split")
def _split(value: Any, num_or_size_splits: Any, axis: Any = 0, num: Any = None) -> Any:
    parts = ints(num_or_size_splits)
    if isinstance(parts, int):
        return ops.split(value, parts, axis=ints(axis))
    length = value.shape[ints(axis)]
    parts = [length - sum(own for own in parts if own >= 0) if part < 0 else part for part in parts]
    return ops.split(value, np.cumsum(parts)[:-1].tolist(), axis=ints(axis))


@stands_for("slice")
def _slice(input_: Any = None, begin: Any = None, size: Any = None, input: Any = None) -> Any:
    tensor = input if input_ is None else input_
    places = zip(ints(begin), ints(size), tensor.shape, strict=True)
    return tensor[tuple(slice(first, length if own < 0 else first + own) for first, own, length in places)]


@stands_for("tile")
def _tile(input: Any, multiples: Any) -> Any:
    return ops.tile(input, ints(multiples))


@stands_for("repeat")
def _repeat(input: Any, repeats: Any, axis: Any = None) -> Any:
    return ops.repeat(input, ints(repeats), axis=ints(axis))


@stands_for("broadcast_to")
def _broadcast_to(input: Any, shape: Any) -> Any:
    return ops.broadcast_to(input, ints(shape))


def _constant(value: Any) -> Any:
    """Returns numbers of TensorFlow as an array, and what is symbolic as it is."""
    return value.numpy() if isinstance(value, tf.Tensor) else value


@stands_for("pad")
def _pad(tensor: Any, paddings: Any, mode: str = "CONSTANT", constant_values: Any = 0) -> Any:
    kind = mode.lower()
    return ops.pad(tensor, ints(paddings), kind, _constant(constant_values) if kind == "constant" else None)


@stands_for("reverse")
def _reverse(tensor: Any, axis: Any) -> Any:
    for own in ints(axis):
        tensor = ops.flip(tensor, axis=own)
    return tensor


@stands_for("roll")
def _roll(input: Any, shift: Any, axis: Any) -> Any:
    return ops.roll(input, ints(shift), axis=ints(axis))


@stands_for("gather", "nn.embedding_lookup")
def _gather(params: Any, indices: Any = None, axis: Any = None, batch_dims: Any = 0, ids: Any = None) -> Any:
    if ints(batch_dims or 0):
        raise NotImplementedError("tf.gather is followed without batch_dims")
    return ops.take(params, _constant(ids if indices is None else indices), axis=ints(axis) or 0)


@stands_for("where")
def _where(condition: Any, x: Any = None, y: Any = None) -> Any:
    if x is None:
        raise NotImplementedError("tf.where is followed with both choices")
    return ops.where(condition, x, y)


@stands_for("one_hot")
def _one_hot(indices: Any, depth: Any, on_value: Any = 1, off_value: Any = 0, axis: Any = -1, dtype: Any = None) -> Any:
    if (on_value, off_value) not in ((1, 0), (None, None), (1, None), (None, 0)):
        raise NotImplementedError("tf.one_hot is followed with 1 and 0")
    return ops.one_hot(indices, ints(depth), axis=-1 if axis is None else axis, dtype=_dtype(dtype) or "float32")


@stands_for("ones_like")
def _ones_like(input: Any, dtype: Any = None) -> Any:
    return ops.ones_like(input, _dtype(dtype))


@stands_for("zeros_like")
def _zeros_like(input: Any, dtype: Any = None) -> Any:
    return ops.zeros_like(input, _dtype(dtype))


@stands_for("linalg.band_part")
def _band_part(input: Any, num_lower: Any, num_upper: Any) -> Any:
    lower, upper = ints(num_lower), ints(num_upper)
    result = input if lower < 0 else ops.triu(input, -lower)
    return result if upper < 0 else ops.tril(result, upper)
