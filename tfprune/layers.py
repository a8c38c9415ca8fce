"""Layers of a masked model: units switched off by `on_nodes`, and stand-ins for layers that look across units."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.src import backend

_package = keras.saving.register_keras_serializable(package="tfprune")


def _along(row: Any, axis: int, rank: int, dtype: str) -> Any:
    """Returns `row`, shape `(batch or 1, units)`, shaped so that it broadcasts along `axis` of a tensor."""
    shape = [-1 if k == 0 else row.shape[-1] if k == axis % rank else 1 for k in range(rank)]
    return ops.reshape(ops.cast(row, dtype), shape)


@_package
class MeanReplacement(layers.Layer):
    """Switches units off: `replacement + on_nodes * (h - replacement)`.

    With the replacement left at zero this is plain removal; with the mean of each unit it is the mean replacement of
    Evci (2018), and the gradient with respect to `on_nodes` is the mean replacement saliency of each sample.

    Args:
        axis: the axis of `h` that holds the units: -1, or 1 for `channels_first`. Not the batch axis.
        **kwargs: passed on to `keras.layers.Layer`.

    Call arguments:
        h: any tensor of shape `(batch, ..., units, ...)`.
        on_nodes: shape `(batch, units)` or `(1, units)`; 1 is on, 0 is off, anything between is a mixture.

    Raises:
        ValueError: if `on_nodes` does not have one column per unit, or `axis` is the batch axis.

    Example:
        >>> MeanReplacement()(np.array([[2.0, 3.0]]), np.array([[1.0, 0.0]])).numpy().tolist()
        [[2.0, 0.0]]

    Reference: the mask follows "Exploring toy neural nets under node removal"; the replacement U. Evci, "Detecting dead
    weights and units in neural networks" (2018), section 4.
    """

    def __init__(self, axis: int = -1, **kwargs):
        super().__init__(**kwargs)
        if axis == 0:
            raise ValueError("MeanReplacement: axis 0 is the batch axis. Give the axis of the units, usually -1 or 1.")
        self.axis = axis
        self.supports_masking = True

    def build(self, h_shape, on_nodes_shape=None):
        units = h_shape[self.axis]
        if units is None:
            raise ValueError(f"{self.name}: axis {self.axis} of shape {h_shape} has no fixed length to count units on.")
        if on_nodes_shape is not None and tuple(on_nodes_shape[1:]) != (units,):
            raise ValueError(
                f"{self.name}: on_nodes must have shape (batch, {units}), one column per unit on axis {self.axis}; "
                f"received {tuple(on_nodes_shape)}."
            )
        self.replacement = self.add_weight(name="replacement", shape=(units,), initializer="zeros", trainable=False)

    def call(self, h, on_nodes):
        rank = len(h.shape)
        on = _along(on_nodes, self.axis, rank, h.dtype)
        replacement = _along(self.replacement[None], self.axis, rank, h.dtype)
        return replacement + on * (h - replacement)

    def compute_output_shape(self, h_shape, on_nodes_shape=None):
        return h_shape

    def get_config(self):
        return {**super().get_config(), "axis": self.axis}


@_package
class TakeUnits(layers.Layer):
    """Picks the columns of `on_nodes` that one place of the graph needs.

    Args:
        columns: for each position at that place, its column of `on_nodes`; -1 for a position that is always on.
        **kwargs: passed on to `keras.layers.Layer`.
    """

    def __init__(self, columns, **kwargs):
        super().__init__(**kwargs)
        self.columns = [int(column) for column in columns]

    def call(self, on_nodes):
        columns = np.asarray(self.columns)
        if (np.diff(columns) == 1).all() and columns[0] >= 0:
            return on_nodes[:, columns[0] : columns[-1] + 1]
        if (columns < 0).any():
            on_nodes = ops.concatenate([on_nodes, ops.ones_like(on_nodes[:, :1])], axis=1)
            columns = np.where(columns < 0, on_nodes.shape[1] - 1, columns)
        return ops.take(on_nodes, columns, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.columns))

    def get_config(self):
        return {**super().get_config(), "columns": self.columns}


class Twin(layers.Layer):
    """Stands in for `layer` in a masked model: shares its weights, and takes rows of `on_nodes` besides its arguments.

    Args:
        layer: the built layer that it stands in for.
        replacement: for each row of `on_nodes` that it takes, what stands in for a unit that is off, one number per
            unit; None for zeros. Only recurrent states can be replaced by anything else.
        **kwargs: passed on to `keras.layers.Layer`.
    """

    def __init__(self, layer: layers.Layer, replacement: list | None = None, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        self.replacement = None if replacement is None else [[float(x) for x in row] for row in replacement]
        self.supports_masking = layer.supports_masking

    def compute_output_spec(self, *args, on_nodes=None, sequences_mask=None, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "replacement": self.replacement}

    def _replacement(self, row: int) -> Any:
        return 0.0 if self.replacement is None else ops.convert_to_tensor(self.replacement[row], self.compute_dtype)

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


@_package
class MaskedLayerNormalization(Twin):
    """LayerNormalization whose mean and variance run over the units that are on: what the cut layer will compute."""

    def call(self, inputs, on_nodes=None):
        layer, axis = self.layer, self.layer.axis
        axis = axis[0] if isinstance(axis, list | tuple) else axis
        x = ops.cast(inputs, backend.result_type(inputs.dtype, "float32"))
        on = _along(on_nodes[0], axis, len(x.shape), x.dtype)
        count = ops.sum(on, axis=axis, keepdims=True)
        # Where all units are off there is nothing to normalise, and nothing that anyone reads; but no NaN either.
        count = ops.where(count > 0, count, ops.ones_like(count))
        mean = ops.sum(on * x, axis=axis, keepdims=True) / count
        variance = ops.sum(on * ops.square(x - mean), axis=axis, keepdims=True) / count
        result = (x - mean) * ops.rsqrt(variance + layer.epsilon)
        if layer.gamma is not None:
            result = result * _along(layer.gamma[None], axis, len(x.shape), x.dtype)
        if layer.beta is not None:
            result = result + _along(layer.beta[None], axis, len(x.shape), x.dtype)
        return ops.cast(result, layer.compute_dtype)


def is_plain_recurrent(layer: Any) -> bool:
    """Whether a layer is a SimpleRNN, GRU or LSTM, or an RNN around the cell of one of them."""
    cells = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
    return type(layer) in (layers.SimpleRNN, layers.GRU, layers.LSTM, layers.RNN) and type(layer.cell) in cells


def _initial_states(layer: layers.RNN, sequences: Any, initial_state: Any) -> list[Any]:
    """Returns the states that a recurrent layer starts from, those of zeros if none are given."""
    if initial_state is None:
        initial_state = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
    states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    return [ops.cast(state, layer.compute_dtype) for state in states]


def _recurrence(
    layer: layers.RNN, sequences: Any, states: list[Any], mask: Any, step: Callable, **options: Any
) -> tuple[Any, Any, Any]:
    """Goes through the steps of a recurrent layer with a step of one's own.

    Args:
        layer: a SimpleRNN, GRU or LSTM.
        sequences: shape `(batch, steps, features)`.
        states: what it starts from.
        mask: as in the layer's call.
        step: takes `(inputs, states)` of one step, returns what to give out and the cell's new state or states.
        **options: passed on to `keras.src.backend.rnn`.

    Returns:
        `(last, outputs, states)`.
    """

    def listed(inputs: Any, states: list[Any]) -> tuple[Any, list[Any]]:
        output, new = step(inputs, states)
        return output, list(new) if isinstance(new, list | tuple) else [new]

    return backend.rnn(
        listed,
        sequences,
        states,
        go_backwards=layer.go_backwards,
        mask=mask,
        unroll=layer.unroll,
        input_length=sequences.shape[1],
        **options,
    )


def _masked_rnn(
    layer: layers.RNN, row: Any, replacement: Any, sequences: Any, initial_state: Any, mask: Any, training: Any
) -> Any:
    """Runs a recurrent layer whose state h is masked as it enters each step. Returns `(last, outputs, states)`."""
    states = _initial_states(layer, sequences, initial_state)
    if row is None:
        row = ops.ones((1, layer.cell.units))
    on = ops.cast(row, layer.compute_dtype)

    def step(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
        entering = replacement + on * (states[0] - replacement)
        return layer.cell(inputs, [entering, *states[1:]], training=training)

    options = {"zero_output_for_mask": layer.zero_output_for_mask, "return_all_outputs": layer.return_sequences}
    layer._maybe_config_dropout_masks(layer.cell, sequences[:, 0, :], states)
    found = _recurrence(layer, sequences, states, mask, step, **options)
    layer._maybe_reset_dropout_masks(layer.cell)
    return found


def entering_states(layer: layers.RNN, sequences: Any, initial_state: Any = None, mask: Any = None) -> tuple[Any, Any]:
    """Returns what a recurrent layer reads at every step, in the order in which it goes through them.

    Args:
        layer: a SimpleRNN, GRU or LSTM, or an RNN around the cell of one.
        sequences: shape `(batch, steps, features)`.
        initial_state: as in the layer's call; None for zeros.
        mask: as in the layer's call.

    Returns:
        The sequences, `(batch, steps, features)`, and the state h as it enters each step, `(batch, steps, units)`.
    """
    states = _initial_states(layer, sequences, initial_state)

    def step(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
        return states[0], layer.cell(inputs, states, training=False)[1]

    _, entering, _ = _recurrence(layer, sequences, states, mask, step, return_all_outputs=True)
    return (ops.flip(sequences, axis=1) if layer.go_backwards else sequences), entering


def _mask_of(mask: Any, sequences_mask: Any, initial_state: Any) -> Any:
    """Returns the time mask that the original would use: Keras fills it in only where no state is passed."""
    return sequences_mask if mask is None and initial_state is None else mask


@_package
class MaskedRNN(Twin):
    """SimpleRNN, GRU or LSTM whose units are off inside the recurrence too; rows of `on_nodes` may differ by sample."""

    def call(self, sequences, initial_state=None, mask=None, training=False, on_nodes=None, sequences_mask=None):
        layer = self.layer
        mask = _mask_of(mask, sequences_mask, initial_state)
        last, outputs, states = _masked_rnn(
            layer, on_nodes[0], self._replacement(0), sequences, initial_state, mask, training
        )
        output = outputs if layer.return_sequences else last
        return (output, *states) if layer.return_state else output


@_package
class MaskedBidirectional(Twin):
    """Bidirectional over SimpleRNN, GRU or LSTM with units off in both directions: rows for forward and backward."""

    def call(self, sequences, initial_state=None, mask=None, training=False, on_nodes=None, sequences_mask=None):
        layer = self.layer
        mask = _mask_of(mask, sequences_mask, initial_state)
        half = None if initial_state is None else len(initial_state) // 2
        results = []
        for number, direction in enumerate((layer.forward_layer, layer.backward_layer)):
            start = None if half is None else initial_state[number * half : (number + 1) * half]
            last, outputs, states = _masked_rnn(
                direction, on_nodes[number], self._replacement(number), sequences, start, mask, training
            )
            results.append((outputs if direction.return_sequences else last, list(states)))
        (forward, forward_states), (backward, backward_states) = results
        if layer.return_sequences:
            backward = ops.flip(backward, axis=1)
        output = _merged(layer.merge_mode, forward, backward)
        if not layer.return_state:
            return output
        return (
            (*output, *forward_states, *backward_states)
            if layer.merge_mode is None
            else (
                output,
                *forward_states,
                *backward_states,
            )
        )


def _merged(mode: str | None, forward: Any, backward: Any) -> Any:
    if mode is None:
        return (forward, backward)
    return {
        "concat": lambda: ops.concatenate([forward, backward], axis=-1),
        "sum": lambda: forward + backward,
        "ave": lambda: (forward + backward) / 2,
        "mul": lambda: forward * backward,
    }[mode]()


def attended_heads(
    layer: keras.layers.Layer,
    query: Any,
    value: Any,
    key: Any = None,
    on_nodes: Any = None,
    *,
    training: Any = None,
    return_attention_scores: bool = False,
    **masks: Any,
) -> tuple[Any, Any]:
    """Runs a MultiHeadAttention or GroupQueryAttention up to its output projection.

    Args:
        layer: the attention layer.
        query: shape `(batch, targets, width)`.
        value: shape `(batch, sources, width)`.
        key: like value, or None for the value.
        on_nodes: which heads are on, `(batch or 1, heads)`, or None for all.
        training: as in the layer's call.
        return_attention_scores: as in the layer's call.
        **masks: the mask arguments of the layer's call.

    Returns:
        What the output projection reads, `(batch, targets, heads, size)`, and the attention scores or None.
    """
    key = value if key is None else key
    for tensor in (query, value, key):
        # As the layer itself does: from here on the masks are in the arguments.
        backend.set_keras_mask(tensor, None)
    allowed = layer._compute_attention_mask(query, value, **masks)
    queries, keys, heads = layer._query_dense(query), layer._key_dense(key), layer._value_dense(value)
    if on_nodes is not None:
        heads = heads * _along(on_nodes, 2, len(heads.shape), heads.dtype)
    options = {"attention_mask": allowed, "training": training}
    if isinstance(layer, keras.layers.GroupQueryAttention):
        keys, heads = (ops.repeat(x, layer.num_repeats, axis=2) for x in (keys, heads))
    if "return_attention_scores" in inspect.signature(layer._compute_attention).parameters:
        options["return_attention_scores"] = return_attention_scores
    else:
        # GroupQueryAttention, and in Keras 3.8 MultiHeadAttention too, note it on themselves.
        layer._return_attention_scores = return_attention_scores
    output, scores = layer._compute_attention(queries, keys, heads, **options)
    gate = getattr(layer, "_gate_dense", None)
    return (output if gate is None else output * gate(query)), scores


@_package
class MaskedMultiHeadAttention(Twin):
    """MultiHeadAttention or GroupQueryAttention with heads off: the value of a head is masked, which is exact.

    Attention is linear in the value, so a head whose value is zero adds nothing to the output.
    """

    def call(
        self,
        query,
        value,
        key=None,
        query_mask=None,
        value_mask=None,
        key_mask=None,
        attention_mask=None,
        return_attention_scores=False,
        training=None,
        use_causal_mask=False,
        on_nodes=None,
    ):
        output, scores = attended_heads(
            self.layer,
            query,
            value,
            key,
            on_nodes[0],
            training=training,
            return_attention_scores=return_attention_scores,
            query_mask=query_mask,
            value_mask=value_mask,
            key_mask=key_mask,
            attention_mask=attention_mask,
            use_causal_mask=use_causal_mask,
        )
        output = self.layer._output_dense(output)
        return (output, scores) if return_attention_scores else output
