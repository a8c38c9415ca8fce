"""The engine's way forward: a model as a list of primitive steps, each with its values and its rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.graph.probe import is_elementwise
from tfprune.relevance.arithmetic import Offset, pulled_back

_HOMOGENEOUS = (keras.activations.relu, keras.activations.leaky_relu)


class Value:
    """A tensor on its way through the model.

    Attributes:
        tensor: its value, float.
        reference: its value at the baseline, with one row or one per sample; None without a baseline.
        mask: the time mask that Keras carries with it, or None.
        logits: the value that a softmax was taken of, or None.
        is_given: whether it is the same whatever enters: a weight or an array that code reads, or made of such alone.
    """

    __slots__ = ("tensor", "reference", "mask", "logits", "is_given")

    def __init__(
        self,
        tensor: Any,
        reference: Any = None,
        mask: Any = None,
        logits: Value | None = None,
        is_given: bool = False,
    ):
        self.tensor, self.reference, self.mask, self.logits = tensor, reference, mask, logits
        self.is_given = is_given

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The static shape."""
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> Any:
        """The dtype."""
        return self.tensor.dtype


def _apart(tensors: Sequence[Any]) -> tuple[Any, ...]:
    """Returns the tensors, with a copy for each that comes again: as one tensor, each would get the shares of both."""
    seen: set[int] = set()
    apart = []
    for tensor in tensors:
        apart.append(tf.identity(tensor) if id(tensor) in seen else tensor)
        seen.add(id(tensor))
    return tuple(apart)


class Step:
    """One primitive step as a rule sees it.

    Attributes:
        kind: "linear", "move", "nonlinearity", "maximum", "product", "embedding" or "whole".
        layer: the layer or operation that it is a part of; None for the model's end.
        name: the layer's name.
        rule: what passes relevance through it; None for kinds that need none.
        function: `function(*inputs, *weights)`, without the bias.
        inputs: the tensors that it reads.
        references: the same at the baseline.
        output: what came out, bias included.
        reference: the same at the baseline.
        weights: tensors of weights, for linear steps.
        offset: what the bias adds, or None.
        signal: which factor of a product carries the signal, or None.
        homogeneous: whether f(c a) = c f(a) for c > 0, as for a ReLU.
    """

    def __init__(self, kind: str, layer: Any, name: str, function: Callable, values: Sequence[Value], **options: Any):
        self.kind, self.layer, self.name, self.function = kind, layer, name, function
        self.values = tuple(values)
        self.inputs = _apart([value.tensor for value in values])
        self.references = tuple(value.reference for value in values)
        self.weights: tuple[Any, ...] = options.pop("weights", ())
        self.offset: Offset | None = options.pop("offset", None)
        self.signal: int | None = options.pop("signal", None)
        self.homogeneous: bool = options.pop("homogeneous", False)
        self.zero_offset: Callable[[], Any] | None = options.pop("zero_offset", None)
        self._windows: Callable | None = options.pop("windows", None)
        self._repeats: int = options.pop("repeats", 1)
        self.rule: Any = None
        self.blamed: list[tuple[str, Any]] = []
        self._tape = tf.GradientTape(watch_accessed_variables=False, persistent=True)
        with self._tape:
            self._tape.watch([x for x in self.inputs if x.dtype.is_floating])
            self.bare = function(*self.inputs, *self.weights)
        self.output = self._with_offset(self.bare)
        self.reference = None
        if any(reference is not None for reference in self.references):
            self.reference = self._with_offset(function(*self.references, *self.weights))
        self.result = Value(self.output, self.reference)

    def _with_offset(self, output: Any) -> Any:
        return output if self.offset is None else self.offset.added_to(output)

    def pulled(self, outgoing: Any) -> list[Any]:
        """Returns the vector-Jacobian products of the step at its inputs; differentiable."""
        return self._tape.gradient(self.bare, list(self.inputs), outgoing, unconnected_gradients="zero")

    def blame(self, shares: Any, offset: Offset | None = None) -> None:
        """Gives a bias its relevance, offset * shares; `offset` None is the step's own, if it has one."""
        offset = offset or self.offset
        if offset is None:
            return
        blamed = offset.blamed(shares)
        if self._repeats > 1:
            blamed = tf.reduce_sum(tf.reshape(blamed, [-1, self._repeats, *blamed.shape[1:]]), axis=1)
        self.blamed.append((offset.name, blamed))

    def with_weights(self, inputs: Sequence[Any], weights: Sequence[Any]) -> Any:
        """Runs the linear map with other inputs and weights; a step without weights is scaled by the one given."""
        if self.weights:
            return self.function(*inputs, *weights)
        return self.function(*inputs) * weights[0]

    def offset_at_zero(self) -> Offset | None:
        """Returns f(0) of a nonlinearity as an offset, None where it is zero."""
        value = self.zero_offset() if self.zero_offset else None
        return None if value is None else Offset(value, -1, f"{self.name}/f(0)")

    def slope_at(self, inputs: Any) -> Any:
        """Returns the derivative of an elementwise function at other inputs."""
        return pulled_back(self.function, [inputs], tf.ones_like(inputs))[0]

    def entries(self, *, baseline: bool = False) -> tuple[Any, Any]:
        """Returns what each maximum looks at, `(*output shape, entries)`, and which of them lie inside the input."""
        return self._windows(*(self.references if baseline else self.inputs))

    def scattered(self, shares: Any) -> list[Any]:
        """Brings shares `(*output shape, entries)` back to the inputs that the entries came from."""
        return pulled_back(lambda *inputs: self._windows(*inputs)[0], self.inputs, shares)


class Trace:
    """What a row of the table calls to say what its layer does, step by step.

    Attributes:
        layer: the layer (or `keras.ops` operation) whose call is being read.
        name: its name, with the names of the models around it.
    """

    def __init__(self, recorder: Recorder, layer: Any, name: str, repeats: int = 1):
        self._recorder = recorder
        self._repeats = repeats
        self.layer = layer
        self.name = name

    @property
    def dtype(self) -> str:
        """The precision in which relevance is computed."""
        return self._recorder.dtype

    def inner(self, layer: Any, slot: str = "", *, repeats: int = 1) -> Trace:
        """Returns the trace of a layer inside this one.

        Args:
            layer: the layer.
            slot: goes behind the name of its biases.
            repeats: how many rows of what it reads belong to one sample.
        """
        return Trace(self._recorder, layer, f"{self.name}/{slot}" if slot else self.name, self._repeats * repeats)

    def cast(self, tensor: Any) -> Any:
        """Returns a weight or array as a tensor in the precision in which relevance is computed."""
        if isinstance(tensor, bool | int | float | np.ndarray | np.generic):
            # Straight from double precision, as Keras would round it to single first.
            return tf.constant(np.asarray(tensor), self.dtype)
        return tf.cast(keras.ops.convert_to_tensor(tensor), self.dtype)

    def linear(
        self, function: Callable, *values: Value, weights: Sequence[Any] = (), bias: Any = None, axis: int = -1
    ) -> Value:
        """A linear step, bias apart.

        Args:
            function: `function(*tensors, *weights)`, linear in the tensors together; without weights its coefficients
                must be at least zero, as those of a sum or mean.
            *values: what it reads.
            weights: the layer's variables or tensors in it.
            bias: what is added: a vector along `axis`, or a tensor that broadcasts against the output.
            axis: the axis of the output along which a vector bias lies.
        """
        offset = None if bias is None else Offset(self.cast(bias), axis, self.name)
        weights = tuple(self.cast(weight) for weight in weights)
        return self._record("linear", function, values, weights=weights, offset=offset)

    def affine(self, function: Callable, *values: Value) -> Value:
        """A linear step with a constant in it that is no variable: the constant is what comes of zeros."""
        constant = function(*[tf.zeros_like(value.tensor[:1]) for value in values])
        return self.linear(lambda *tensors: function(*tensors) - constant, *values, bias=constant)

    def move(self, function: Callable, *values: Value) -> Value:
        """A step that only moves, repeats or drops numbers: relevance goes with them, whatever the rules."""
        return self._record("move", function, values)

    def look_up(self, function: Callable, entries: Value) -> Value:
        """Rows of a table for entries of a vocabulary: each entry counts as a one that the row is multiplied with."""
        return self._record("embedding", function, (entries,))

    def whole(self, function: Callable, *values: Value) -> Value:
        """A layer that is not taken apart; only gradients pass through it."""
        return self._record("whole", function, values)

    def nonlinearity(
        self, function: Callable, value: Value, *, homogeneous: bool = False, zero: Callable[[], Any] | None = None
    ) -> Value:
        """An elementwise function.

        Args:
            function: of one tensor.
            value: what it reads.
            homogeneous: whether f(c a) = c f(a) for c > 0.
            zero: gives f(0) as a tensor that broadcasts against the output, where that is not zero.
        """
        return self._record("nonlinearity", function, (value,), homogeneous=homogeneous, zero_offset=zero)

    def maximum(self, function: Callable, windows: Callable, *values: Value) -> Value:
        """A maximum.

        Args:
            function: of the tensors, gives the maxima.
            windows: of the tensors, gives the numbers that each maximum looks at, `(*output shape, entries)`, and a
                bool tensor that broadcasts against them: which of them are no padding.
            *values: what it reads.
        """
        return self._record("maximum", function, values, windows=windows)

    def product(self, function: Callable, one: Value, other: Value, *, signal: int | None = None) -> Value:
        """A function that is linear in each of two tensors: a product, a gate, a matrix product.

        Args:
            function: of the two tensors.
            one: the first.
            other: the second.
            signal: 0 or 1 where that one is the signal and the other a gate, taken as given.
        """
        return self._record("product", function, (one, other), signal=signal)

    def activation(self, value: Value, activation: Any) -> Value:
        """The activation of a layer: nothing, elementwise, or a softmax over the last axis."""
        if activation in (None, keras.activations.linear):
            return value
        if activation is keras.activations.softmax:
            return self.softmax(value, -1)
        with tf.init_scope():
            alone = is_elementwise(activation)
        if not alone:
            raise TypeError(
                f"the activation {getattr(activation, '__name__', activation)!r} does not work on each number alone. "
                "Known are elementwise functions and softmax."
            )
        homogeneous = any(activation is known for known in _HOMOGENEOUS)
        return self.nonlinearity(activation, value, homogeneous=homogeneous, zero=self._constant(activation))

    def softmax(self, value: Value, axis: int) -> Value:
        """A softmax, as exp divided by its sum; the sum counts as given."""
        most = tf.reduce_max(value.tensor, axis=axis, keepdims=True)
        if value.reference is not None:
            # The same constant for both, so that differences are those of the exponentials.
            most = tf.maximum(most, tf.reduce_max(value.reference, axis=axis, keepdims=True))
        powers = self.nonlinearity(lambda x: tf.exp(x - most), value, zero=lambda: tf.exp(-most))
        total = self.linear(lambda x: tf.reduce_sum(x, axis=axis, keepdims=True), powers)
        share = self.nonlinearity(lambda x: 1.0 / x, total)
        result = self.product(tf.multiply, powers, share, signal=0)
        result.logits = value
        return result

    def _constant(self, function: Callable) -> Callable[[], Any] | None:
        """Returns what gives f(0), or None where that is zero; found out by trying."""
        with tf.init_scope():
            at_zero = float(keras.ops.convert_to_numpy(function(keras.ops.zeros((1, 1), dtype=self.dtype)))[0, 0])
        return (lambda: tf.constant([[at_zero]], self.dtype)) if at_zero else None

    def _record(self, kind: str, function: Callable, values: Sequence[Value], **options: Any) -> Value:
        step = Step(kind, self.layer, self.name, function, values, repeats=self._repeats, **options)
        return self._recorder.add(step)


class Recorder:
    """The steps of one run, in order.

    Args:
        composite: gives each step its rule.
        dtype: the precision in which all is computed.
    """

    def __init__(self, composite: Any, dtype: str):
        self.composite = composite
        self.dtype = dtype
        self.steps: list[Step] = []

    def add(self, step: Step) -> Value:
        """Keeps a step, with its rule; returns its output."""
        step.rule = self.composite.rule_for(step)
        self.steps.append(step)
        return step.result
