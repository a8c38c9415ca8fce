"""Divisions that are safe to differentiate, pulling back through a function, and what a bias adds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

# Below these differences a slope is taken as the derivative in the middle: rounding would spoil the quotient.
_SMOOTH = {tf.float32: 1e-4, tf.float64: 1e-6}
_PIECEWISE = {tf.float32: 1e-6, tf.float64: 1e-12}


def where(condition: Any, one: Any, other: Any) -> Any:
    """Like `tf.where`, with numbers taken in the dtype of the tensor beside them."""
    dtype = one.dtype if tf.is_tensor(one) else other.dtype
    return tf.where(condition, tf.cast(one, dtype), tf.cast(other, dtype))


def divided(numerator: Any, denominator: Any, epsilon: float) -> Any:
    """Returns numerator / blip(denominator), blip(z) = z + epsilon sign(z) with sign(0) = 1; 0 where that is 0 / 0."""
    if epsilon:
        return numerator / (denominator + epsilon * where(denominator >= 0, tf.ones_like(denominator), -1.0))
    # Its gradient too stays finite where the denominator is zero.
    return tf.math.divide_no_nan(numerator, denominator)


def quotient(rise: Any, run: Any, limit: Any, *, piecewise: bool = False) -> Any:
    """Returns rise / run, or `limit` where the run is next to nothing."""
    near = tf.abs(run) < (_PIECEWISE if piecewise else _SMOOTH)[run.dtype]
    return where(near, limit, rise / where(near, 1.0, run))


def pulled_back(function: Callable, inputs: Sequence[Any], outgoing: Any) -> list[Any]:
    """Returns the vector-Jacobian products of `function` at `inputs`; zeros where nothing depends on one."""
    inputs = [tf.identity(x) for x in inputs]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(inputs)
        output = function(*inputs)
    return tape.gradient(output, inputs, outgoing, unconnected_gradients="zero")


def positive(x: Any) -> Any:
    """Returns the positive part."""
    return tf.maximum(x, tf.zeros([], x.dtype))


def negative(x: Any) -> Any:
    """Returns the negative part, at most zero."""
    return tf.minimum(x, tf.zeros([], x.dtype))


class Offset(NamedTuple):
    """What an affine step adds: a vector along `axis` of the output, or a tensor that broadcasts against it."""

    tensor: Any
    axis: int
    name: str

    def like(self, output: Any) -> Any:
        """Returns the offset so that it broadcasts against `output`."""
        rank = len(output.shape)
        if len(self.tensor.shape) != 1:
            return self.tensor
        return tf.reshape(self.tensor, [-1 if axis == self.axis % rank else 1 for axis in range(rank)])

    def added_to(self, output: Any) -> Any:
        """Returns output + offset."""
        rank = len(output.shape)
        if len(self.tensor.shape) == 1 and self.axis % rank == rank - 1 and rank > 1:
            # TensorFlow joins this operation with the one before it.
            return tf.nn.bias_add(output, self.tensor)
        return output + self.like(output)

    def blamed(self, shares: Any) -> Any:
        """Returns the sum of offset * shares per sample and channel, shape `(samples, channels)`."""
        rank = len(shares.shape)
        axis = self.axis % rank
        others = [k for k in range(1, rank) if k != axis]
        if len(self.tensor.shape) == 1 and axis:
            return (tf.reduce_sum(shares, axis=others) if others else shares) * self.tensor
        return tf.reduce_sum(shares * self.tensor, axis=others)
