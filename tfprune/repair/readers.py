"""How each layer class reads units: where its kernels are, and what they are multiplied with.

A layer has one `Reading` per kernel. The same reading is made for the layer of the original and of the cut model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.graph.kernels import Kernel, kernels_of
from tfprune.graph.rows_kernel import einsum_letters
from tfprune.layers import RECURRENT, attended_heads, entering_states, is_plain_recurrent

MOST_COLUMNS = 2048
"""Regressors up to which a kernel is refitted whole; beyond that only its input channels are guessed."""
MOST_POSITIONS = 128
"""Positions of a sample's map up to which all of them are rows of a fit."""


@dataclass(frozen=True, kw_only=True)
class Reading(Kernel):
    """One kernel of a layer, and how to get at what it reads.

    Attributes:
        source: takes the arguments of the layer's call as a dictionary by name, returns the tensor that is read.
        channels: takes that tensor, returns the units with all positions pooled, shape `(positions, rows)`.
        regressors: takes the tensor, returns what the kernel as a matrix `(taps * rows, outputs)` is multiplied with,
            shape `(positions, taps * rows)`; None where the kernel is not to be refitted whole.
        padding_share: share of the taps that fall on padding.
        bias_row: for a bias with one row per kernel, which one.
        bias_axes: for each axis of the bias, which of the kernel's axes behind the rows it is, -1 for another; None for
            a bias that has these axes and no others.
        own_state: True for a recurrent kernel. What it reads depends on itself, so a guess is always learned from the
            states of the original: from its own it would run away.
        refusal: why the mean of a unit cannot be folded into the bias, or None.
    """

    source: Callable[[dict], Any]
    channels: Callable[[Any], Any]
    regressors: Callable[[Any], Any] | None = None
    padding_share: float = 0.0
    bias_row: int | None = None
    bias_axes: tuple[int, ...] | None = None
    own_state: bool = False
    refusal: str | None = None

    @classmethod
    def of(cls, kernel: Kernel, source: Callable, channels: Callable, **options: Any) -> Reading:
        """Returns the reading of a kernel."""
        return cls(**vars(kernel), source=source, channels=channels, **options)

    @property
    def bias(self) -> Any:
        """The weight that is added to the outputs, or None where it is missing or the same for several outputs."""
        bias = getattr(self.layer, "bias", None)
        if bias is None or self.bias_axes is None:
            return bias
        lengths = self.kernel.shape[self.taps + self.row_axes :]
        held = {axis: length for axis, length in zip(self.bias_axes, bias.shape, strict=True) if axis >= 0}
        return bias if held == dict(enumerate(lengths)) else None

    def add_to_bias(self, constant: np.ndarray) -> None:
        """Adds a number to every output, shape `(outputs,)`."""
        value = np.array(keras.ops.convert_to_numpy(self.bias), "float64")
        if self.bias_axes is not None:
            constant = constant.reshape(self.kernel.shape[self.taps + self.row_axes :])
            constant = np.transpose(constant, [axis for axis in self.bias_axes if axis >= 0])
            constant = constant.reshape(
                [1 if axis < 0 else length for axis, length in zip(self.bias_axes, value.shape, strict=True)]
            )
            value += constant
        else:
            part = value if self.bias_row is None else value[self.bias_row]
            part += constant.reshape(part.shape)
        self.bias.assign(value)

    def products(self, x: Any) -> Any:
        """Returns what the kernel makes of the tensor `x`, without bias: `(positions, outputs)`."""
        rows = self.regressors(x)
        return tf.matmul(rows, tf.reshape(tf.cast(self.kernel.value, rows.dtype), [rows.shape[-1], -1]))


def _last(x: Any) -> Any:
    return tf.reshape(x, [-1, x.shape[-1]])


def _first_argument(arguments: dict) -> Any:
    return next(iter(arguments.values()))


def _dense(layer: Any) -> list[Reading]:
    return [Reading.of(kernel, _first_argument, _last, regressors=_last) for kernel in kernels_of(layer)]


def _einsum(layer: layers.EinsumDense) -> list[Reading]:
    return [_einsum_reading(kernel, _first_argument) for kernel in kernels_of(layer)]


def _einsum_reading(own: Kernel, source: Callable) -> Reading:
    layer = own.layer
    given, kernel, target = einsum_letters(layer.equation, layer.input_spec.ndim)
    gone, new = kernel[: own.row_axes], kernel[own.row_axes :]
    order = [given.index(letter) for letter in (*(letter for letter in given if letter not in gone), *gone)]
    count = math.prod(own.kernel.shape[: own.row_axes])

    def rows(x: Any) -> Any:
        return tf.reshape(tf.transpose(x, order), [-1, count])

    in_bias = tuple(new.find(letter) for letter in target[-len(layer.bias.shape) :]) if layer.bias is not None else None
    return Reading.of(own, source, rows, regressors=rows, bias_axes=in_bias)


def _channels_last(layer: Any, x: Any) -> Any:
    if layer.data_format == "channels_first":
        x = tf.transpose(x, [0, *range(2, len(x.shape)), 1])
    return x


def _convolution(layer: Any) -> list[Reading]:
    def channels(x: Any) -> Any:
        # A unit is one position in every group.
        return tf.reshape(_channels_last(layer, x), [-1, layer.kernel.shape[-2]])

    def regressors(x: Any) -> Any:
        return _receptive_fields(layer, x)

    whole = regressors if layer.rank < 3 and layer.groups == 1 else None
    share = _padding_share(layer)
    (kernel,) = kernels_of(layer)
    return [Reading.of(kernel, _first_argument, channels, regressors=whole, padding_share=share)]


def picked_positions(count: int) -> np.ndarray | None:
    """Returns some of `count` positions of a map, always the same ones, or None for all of a small one.

    Neighbouring positions say nearly the same, and there are many samples.
    """
    if count <= MOST_POSITIONS:
        return None
    return np.sort(np.random.default_rng(17).permutation(count)[:MOST_POSITIONS])


def _receptive_fields(layer: Any, x: Any) -> Any:
    """Returns one row per (picked) position of the output, with zeros where the convolution pads."""
    x = _channels_last(layer, x)
    places = [_places(layer, axis, length) for axis, length in enumerate(x.shape[1:-1])]
    height, width = places if layer.rank == 2 else [np.zeros((1, 1), int), *places]
    lengths = (1, *x.shape[1:-1])[-2:]
    inside = (height >= 0)[:, None, :, None] & (width >= 0)[None, :, None, :]
    # One more entry, of zeros, stands for the padding.
    index = np.where(inside, height[:, None, :, None] * lengths[1] + width[None, :, None, :], lengths[0] * lengths[1])
    index = index.reshape(len(height) * len(width), -1)
    picked = picked_positions(len(index))
    index = index if picked is None else index[picked]
    flat = tf.reshape(x, [-1, lengths[0] * lengths[1], x.shape[-1]])
    fields = tf.gather(tf.pad(flat, [[0, 0], [0, 1], [0, 0]]), index.ravel(), axis=1)
    return tf.reshape(fields, [-1, index.shape[1] * x.shape[-1]])


def _places(layer: Any, axis: int, length: int) -> np.ndarray:
    """Returns which input position each tap of each output position reads, `(outputs, taps)`; -1 for padding."""
    size, stride, rate = layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis]
    reach = (size - 1) * rate + 1
    if layer.padding == "same":
        num_outputs = -(-length // stride)
        before = max((num_outputs - 1) * stride + reach - length, 0) // 2
    else:
        before = reach - 1 if layer.padding == "causal" else 0
        num_outputs = (length + before - reach) // stride + 1
    places = np.arange(num_outputs)[:, None] * stride + np.arange(size)[None] * rate - before
    return np.where((places >= 0) & (places < length), places, -1)


def _padding_share(layer: Any) -> float:
    """Returns the share of a 'same' convolution's taps that fall on padding; 0 where the size is not known."""
    shape = layer._inbound_nodes[0].input_tensors[0].shape
    spatial = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    if layer.padding != "same" or None in spatial:
        return 0.0
    inside = math.prod(float((_places(layer, axis, length) >= 0).mean()) for axis, length in enumerate(spatial))
    return 1.0 - inside


def _transposed(layer: Any) -> list[Reading]:
    def channels(x: Any) -> Any:
        return _last(_channels_last(layer, x))

    (kernel,) = kernels_of(layer)
    return [Reading.of(kernel, _first_argument, channels, padding_share=_missing_share(layer))]


def _missing_share(layer: Any) -> float:
    """Returns the share of a transposed convolution's taps that find nothing to read, over all output positions."""
    shape = layer._inbound_nodes[0].input_tensors[0].shape
    spatial = shape[1:-1] if layer.data_format == "channels_last" else shape[2:]
    inside = 1.0
    for axis, length in enumerate(spatial):
        size, stride, rate = layer.kernel_size[axis], layer.strides[axis], layer.dilation_rate[axis]
        if length is None:
            inside /= stride
            continue
        taps = keras.ops.conv_transpose(
            np.ones((1, length, 1), "float32"),
            np.ones((size, 1, 1), "float32"),
            stride,
            layer.padding,
            None if layer.output_padding is None else layer.output_padding[axis],
            "channels_last",
            rate,
        )
        inside *= float(np.mean(keras.ops.convert_to_numpy(taps))) / size
    return 1.0 - inside


def _separable(layer: Any) -> list[Reading]:
    """The pointwise kernel reads what the depthwise one makes of each channel."""

    def rows(x: Any) -> Any:
        strides = layer.strides if layer.rank > 1 else layer.strides[0]
        options = {"padding": layer.padding, "data_format": layer.data_format, "dilation_rate": layer.dilation_rate}
        return _last(_channels_last(layer, keras.ops.depthwise_conv(x, layer.depthwise_kernel, strides, **options)))

    (kernel,) = kernels_of(layer)
    return [Reading.of(kernel, _first_argument, rows, regressors=rows)]


def _attention(layer: Any) -> list[Reading]:
    """Query, key, value and gate projections read widths; the output projection reads heads."""

    def source(name: str) -> Callable:
        return lambda arguments: _heads(layer, arguments) if name == "heads" else _named(arguments, name)

    return [_einsum_reading(kernel, source(kernel.reads)) for kernel in kernels_of(layer)]


def _named(arguments: dict, name: str) -> Any:
    value = arguments.get(name)
    return arguments["value"] if value is None else value


def _heads(layer: Any, arguments: dict) -> Any:
    names = ("query_mask", "value_mask", "key_mask", "attention_mask", "use_causal_mask")
    masks = {name: arguments[name] for name in names if name in arguments}
    return attended_heads(layer, arguments["query"], arguments["value"], arguments.get("key"), **masks)[0]


def _recurrent(layer: Any, state_part: slice | None = None) -> list[Reading]:
    """The kernel reads the sequences, the recurrent kernel the layer's own state."""
    if not is_plain_recurrent(layer):
        return []
    cell = layer.cell
    two_biases = cell.bias is not None and len(cell.bias.shape) == 2
    refusal = None
    if type(cell) is layers.GRUCell and not cell.reset_after:
        refusal = (
            "the recurrent kernel of a GRU with reset_after=False reads r * h and not h, so no constant stands in for "
            "a unit"
        )

    def read(arguments: dict) -> tuple[Any, Any]:
        state = arguments.get("initial_state")
        state = state if state is None or state_part is None else state[state_part]
        sequences = arguments["sequences"]
        mask = arguments.get("mask")
        mask = getattr(sequences, "_keras_mask", None) if mask is None and state is None else mask
        return entering_states(layer, sequences, state, mask)

    inputs, own = kernels_of(layer)
    rows = (0, 1) if two_biases else (None, None)
    return [
        Reading.of(inputs, lambda a: read(a)[0], _last, regressors=_last, bias_row=rows[0]),
        Reading.of(
            own, lambda a: read(a)[1], _last, regressors=_last, bias_row=rows[1], own_state=True, refusal=refusal
        ),
    ]


def _bidirectional(layer: layers.Bidirectional) -> list[Reading]:
    count = len(getattr(layer.forward_layer, "state_size", ()))
    forward = _recurrent(layer.forward_layer, slice(0, count))
    return [*forward, *_recurrent(layer.backward_layer, slice(count, None))]


_table: dict[type, Callable[[Any], list[Reading]]] = {
    layers.Dense: _dense,
    layers.EinsumDense: _einsum,
    layers.TimeDistributed: _dense,
    **dict.fromkeys((layers.Conv1D, layers.Conv2D, layers.Conv3D), _convolution),
    **dict.fromkeys((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    **dict.fromkeys((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    **dict.fromkeys(RECURRENT, _recurrent),
    layers.Bidirectional: _bidirectional,
    layers.MultiHeadAttention: _attention,
    layers.GroupQueryAttention: _attention,
}


def readings(layer: Any) -> list[Reading]:
    """Returns the readings of a layer: none for one without a kernel, or whose kernel has a form not known here."""
    make = _table.get(type(layer))
    return [] if make is None else make(layer)
