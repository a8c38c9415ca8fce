"""Layers of a rejuvenated network, in which two kinds of units, survived and new ones, are connected in three ways."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import activations, constraints, initializers, layers, ops, regularizers

_package = keras.saving.register_keras_serializable(package="tfprune")

CROSSINGS = ("full", "none", "attention")
_OF_WEIGHTS = (
    *("kernel_initializer", "cross_initializer", "bias_initializer"),
    *("kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint"),
)


class _Crossed(layers.Layer):
    """What the crossed layers have in common: four kernels between two kinds of units, or two of them."""

    def __init__(
        self,
        count: int,
        survived_inputs: Sequence[bool],
        survived_outputs: Sequence[bool],
        *,
        crossing: str = "attention",
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        cross_initializer: Any = "zeros",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if crossing not in CROSSINGS:
            raise ValueError(
                f"{self.name}: `crossing` expects one of {', '.join(map(repr, CROSSINGS))}, received {crossing!r}."
            )
        self.survived_inputs = [bool(own) for own in survived_inputs]
        self.survived_outputs = [bool(own) for own in survived_outputs]
        if len(self.survived_outputs) != count:
            raise ValueError(
                f"{self.name}: `survived_outputs` expects {count} flags, one for each unit, received "
                f"{len(self.survived_outputs)}."
            )
        self.crossing, self.use_bias = crossing, use_bias
        self.activation = activations.get(activation)
        self.kernel_initializer = initializers.get(kernel_initializer)
        self.cross_initializer = initializers.get(cross_initializer)
        self.bias_initializer = initializers.get(bias_initializer)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self.kernel_constraint = constraints.get(kernel_constraint)
        self.bias_constraint = constraints.get(bias_constraint)

    @property
    def taps(self) -> tuple[int, ...]:
        """The shape of the kernels without their axes of units."""
        return ()

    def channel_axis(self, rank: int) -> int:
        """Returns the axis of a tensor of this rank that holds the units."""
        return rank - 1

    def _product(self, x: Any, kernel: Any) -> Any:
        raise NotImplementedError

    def build(self, input_shape):
        width = input_shape[self.channel_axis(len(input_shape))]
        if width != len(self.survived_inputs):
            raise ValueError(
                f"{self.name}: `survived_inputs` expects {width} flags, one for each unit that enters, received "
                f"{len(self.survived_inputs)}."
            )
        self.kernels: list[Any] = []
        for name, rows, columns, crosses in self._places():
            kernel = self.add_weight(
                name=name,
                shape=(*self.taps, len(rows), len(columns)),
                initializer=self.cross_initializer if crosses else self.kernel_initializer,
                regularizer=self.kernel_regularizer,
                constraint=self.kernel_constraint,
            )
            self.kernels.append(kernel)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias",
                shape=(len(self.survived_outputs),),
                initializer=self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def _places(self) -> Iterator[tuple[str, np.ndarray, np.ndarray, bool]]:
        """Yields for each kernel its name, the inputs that it reads, the outputs that it makes, and if it crosses."""
        (own_in, new_in), (own_out, new_out) = (
            (np.flatnonzero(flags), np.flatnonzero(~np.asarray(flags, bool)))
            for flags in (self.survived_inputs, self.survived_outputs)
        )
        yield "survived_kernel", own_in, own_out, False
        yield "rejuvenated_kernel", new_in, new_out, False
        if self.crossing != "none":
            yield "rejuvenated_to_survived_kernel", new_in, own_out, True
            yield "survived_to_rejuvenated_kernel", own_in, new_out, True

    def blocks(self) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
        """Yields each kernel with the positions of the inputs that it reads and of the outputs that it makes."""
        for kernel, (_, rows, columns, _) in zip(self.kernels, self._places(), strict=True):
            yield kernel, rows, columns

    def call(self, inputs):
        axis = self.channel_axis(len(inputs.shape))
        (_, own_in, own_out, _), (_, new_in, new_out, _), *_ = self._places()
        survived, rejuvenated = (_taken(inputs, places, axis) for places in (own_in, new_in))
        own, new, *cross = self.kernels
        sides = [
            self._side(survived, own, rejuvenated, cross[0] if cross else None),
            self._side(rejuvenated, new, survived, cross[1] if cross else None),
        ]
        kinds = [(side, len(places)) for side, places in zip(sides, (own_out, new_out), strict=True)]
        full = [self._spread(inputs, side, count, axis) for side, count in kinds if count]
        outputs = ops.concatenate(full, axis=axis) if len(full) > 1 else full[0]
        # A kind without outputs is a zero, which is added so that its kernels have a gradient.
        outputs = outputs + sum(side for side, count in kinds if not count)
        outputs = _taken(outputs, np.argsort(np.concatenate([own_out, new_out])), axis)
        if self.bias is not None:
            shape = [-1 if k == axis else 1 for k in range(len(inputs.shape))]
            outputs = outputs + ops.reshape(self.bias, shape)
        return outputs if self.activation is None else self.activation(outputs)

    def _side(self, own: Any, kernel: Any, other: Any, cross: Any) -> Any:
        """Returns what units of one kind are given by those of both."""
        straight = self._product_or_zero(own, kernel)
        if cross is None:
            return straight
        across = self._product_or_zero(other, cross)
        if self.crossing == "attention":
            return straight + 2 * ops.sigmoid(straight) * across
        return straight + across

    def _spread(self, inputs: Any, side: Any, count: int, axis: int) -> Any:
        """Returns what a kind of units is given; that of nothing at all is a zero, of the shape of the others."""
        if len(side.shape):
            return side
        zeros = ops.zeros((*self.taps, 1, count), side.dtype)
        return side + self._product(_taken(inputs, np.zeros(1, int), axis), zeros)

    def _product_or_zero(self, x: Any, kernel: Any) -> Any:
        # The sum of a kernel without entries is a zero that has a gradient, so that no optimizer misses it.
        return ops.sum(kernel) if 0 in kernel.shape else self._product(x, kernel)

    def get_config(self):
        config = {
            "survived_inputs": self.survived_inputs,
            "survived_outputs": self.survived_outputs,
            "crossing": self.crossing,
            "activation": activations.serialize(self.activation),
            "use_bias": self.use_bias,
        }
        for name in _OF_WEIGHTS:
            value = getattr(self, name)
            config[name] = None if value is None else keras.saving.serialize_keras_object(value)
        return {**super().get_config(), **config}


@_package
class CrossedDense(_Crossed):
    """A dense layer between survived units S and rejuvenated ones R, which are connected in one of three ways.

    With the crossing "attention", where `W_SR` leads from S to R (the mirror image for R):

        S_out = W_SS S + 2 sigmoid(W_SS S) * (W_RS R)

    "full" is a plain dense layer in four kernels, `S_out = W_SS S + W_RS R`, and "none" has no cross connections and so
    fewer weights, `S_out = W_SS S`. A bias and an activation come last. As long as the cross kernels are zero, as they
    begin, all three compute the same, and the survived units what they would alone.

    `unit_groups` reads it as a dense layer, so its units can be masked, scored and removed; repairs know no place for
    constants in it and count removed units that it reads as zero.

    Args:
        units: how many units it makes.
        survived_inputs: for each unit that enters whether it is a survived one.
        survived_outputs: the same for each unit that it makes.
        crossing: "full", "none" or "attention".
        activation: as for `keras.layers.Dense`, and likewise all that is not named here.
        cross_initializer: what the cross kernels begin with.
        **kwargs: passed on to `keras.layers.Layer`.

    Raises:
        ValueError: if the crossing is unknown, or there are not as many flags as units.

    Example:
        >>> layer = CrossedDense(2, [True, True, False], [True, False], kernel_initializer="ones")
        >>> layer(np.array([[1.0, 2.0, 4.0]])).numpy().tolist()
        [[3.0, 4.0]]

    Reference: S. Qiao, Z. Lin, J. Zhang, A. Yuille (2019), "Neural rejuvenation", section 3.4.
    """

    def __init__(self, units: int, survived_inputs: Sequence[bool], survived_outputs: Sequence[bool], **kwargs):
        super().__init__(units, survived_inputs, survived_outputs, **kwargs)
        self.units = units
        self.supports_masking = True

    def _product(self, x: Any, kernel: Any) -> Any:
        return ops.matmul(x, kernel)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@_package
class CrossedConv(_Crossed):
    """A convolution of rank 1, 2 or 3 between survived units and rejuvenated ones: as `CrossedDense`.

    Args:
        filters: how many units it makes.
        kernel_size: the size of the kernel, one number per axis that it slides along; their number is its rank.
        survived_inputs: for each unit that enters whether it is a survived one.
        survived_outputs: the same for each unit that it makes.
        strides: steps of the window, one number or one per axis.
        padding: "valid", "same", or for rank 1 "causal".
        dilation_rate: distance of the taps, one number or one per axis.
        data_format: "channels_last" or "channels_first"; None for Keras's own.
        **kwargs: as for `CrossedDense`.

    Raises:
        ValueError: if the crossing is unknown, or there are not as many flags as units.

    Example:
        >>> layer = CrossedConv(2, (1, 1), [True, False], [True, False], crossing="none", kernel_initializer="ones")
        >>> layer(np.array([[[[3.0, 5.0]]]])).numpy().tolist()
        [[[[3.0, 5.0]]]]

    Reference: as for `CrossedDense`.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: Sequence[int],
        survived_inputs: Sequence[bool],
        survived_outputs: Sequence[bool],
        *,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        dilation_rate: int | Sequence[int] = 1,
        data_format: str | None = None,
        **kwargs,
    ):
        super().__init__(filters, survived_inputs, survived_outputs, **kwargs)
        self.filters = filters
        self.kernel_size = tuple(kernel_size)
        self.rank = len(self.kernel_size)
        self.strides, self.dilation_rate = (
            (own,) * self.rank if isinstance(own, int) else tuple(own) for own in (strides, dilation_rate)
        )
        self.padding = padding
        self.data_format = keras.config.image_data_format() if data_format is None else data_format

    @property
    def taps(self) -> tuple[int, ...]:
        """The shape of the kernels without their axes of units."""
        return self.kernel_size

    def channel_axis(self, rank: int) -> int:
        """Returns the axis of a tensor of this rank that holds the units."""
        return rank - 1 if self.data_format == "channels_last" else 1

    def _product(self, x: Any, kernel: Any) -> Any:
        padding = self.padding
        if padding == "causal":
            before = (self.dilation_rate[0] * (self.kernel_size[0] - 1), 0)
            x = ops.pad(x, [(0, 0), before, (0, 0)] if self.channel_axis(3) == 2 else [(0, 0), (0, 0), before])
            padding = "valid"
        return ops.conv(x, kernel, self.strides, padding, self.data_format, self.dilation_rate)

    def get_config(self):
        names = ("filters", "kernel_size", "strides", "padding", "dilation_rate", "data_format")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _taken(x: Any, places: np.ndarray, axis: int) -> Any:
    """Takes positions of an axis; those that lie side by side without moving numbers about one by one."""
    if len(places) and (np.diff(places) == 1).all():
        first, last = int(places[0]), int(places[-1]) + 1
        return x if last - first == x.shape[axis] else x[(slice(None),) * axis + (slice(first, last),)]
    return ops.take(x, places, axis=axis)
