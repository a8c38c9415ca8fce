"""Rows of the table: recurrent layers, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.layers import ONLSTM
from tfprune.relevance.steps import Trace, Value
from tfprune.relevance.table import register


def _listed(states: Any) -> list[Value]:
    return list(states) if isinstance(states, list | tuple) else [states]


def _zeros(trace: Trace, like: Value, units: int) -> Value:
    def zeros(x: Any) -> Any:
        return tf.zeros([tf.shape(x)[0], units], trace.dtype)

    return Value(zeros(like.tensor), None if like.reference is None else zeros(like.reference))


def _sum(trace: Trace, *values: Value) -> Value:
    return trace.linear(lambda *tensors: sum(tensors[1:], tensors[0]), *values)


def _read(trace: Trace, x: Value, h: Value, kernel: Any, recurrent: Any, bias: Any) -> Value:
    """What a gate or candidate reads: x kernel + h recurrent + bias, one linear step."""
    weights = [kernel, recurrent]
    return trace.linear(lambda x, h, k, u: tf.matmul(x, k) + tf.matmul(h, u), x, h, weights=weights, bias=bias)


def _columns(array: Any, units: int, number: int) -> Any:
    return None if array is None else array[..., number * units : (number + 1) * units]


def _gated(trace: Trace, gate: Value, signal: Value) -> Value:
    return trace.product(tf.multiply, gate, signal, signal=1)


def _gates(trace: Trace, count: int) -> Any:
    """Returns a function of x, h and a number that gives what the gate of that number reads."""
    cell, units = trace.layer.cell, trace.layer.units
    kernel, recurrent = trace.cast(cell.kernel), trace.cast(cell.recurrent_kernel)
    bias = trace.cast(cell.bias) if cell.use_bias else None

    def read(x: Value, h: Value, number: int) -> Value:
        parts = [_columns(array, units, number) for array in (kernel, recurrent, bias)]
        return _read(trace, x, h, *parts)

    return read


def _lstm_step(trace: Trace) -> Any:
    cell, read = trace.layer.cell, _gates(trace, 4)

    def step(x: Value, states: list[Value]) -> list[Value]:
        h, c = states
        i, f, o = (trace.activation(read(x, h, k), cell.recurrent_activation) for k in (0, 1, 3))
        candidate = trace.activation(read(x, h, 2), cell.activation)
        c = _sum(trace, _gated(trace, f, c), _gated(trace, i, candidate))
        return [_gated(trace, o, trace.activation(c, cell.activation)), c]

    return step


def _simple_step(trace: Trace) -> Any:
    cell, read = trace.layer.cell, _gates(trace, 1)
    return lambda x, states: [trace.activation(read(x, states[0], 0), cell.activation)]


def _gru_step(trace: Trace) -> Any:
    cell, units = trace.layer.cell, trace.layer.units
    kernel, recurrent = trace.cast(cell.kernel), trace.cast(cell.recurrent_kernel)
    bias = trace.cast(cell.bias) if cell.use_bias else None
    own, inner = (bias[0], bias[1]) if bias is not None and cell.reset_after else (bias, None)

    def part(array: Any, number: int) -> Any:
        return _columns(array, units, number)

    def gate(x: Value, h: Value, number: int) -> Value:
        both = None if own is None else part(own, number) + (0.0 if inner is None else part(inner, number))
        value = _read(trace, x, h, part(kernel, number), part(recurrent, number), both)
        return trace.activation(value, cell.recurrent_activation)

    def step(x: Value, states: list[Value]) -> list[Value]:
        (h,) = states
        update, reset = gate(x, h, 0), gate(x, h, 1)
        if cell.reset_after:
            carried = trace.linear(tf.matmul, h, weights=[part(recurrent, 2)], bias=part(inner, 2))
            carried = _gated(trace, reset, carried)
        else:
            carried = trace.linear(tf.matmul, _gated(trace, reset, h), weights=[part(recurrent, 2)])
        entered = trace.linear(tf.matmul, x, weights=[part(kernel, 2)], bias=part(own, 2))
        candidate = trace.activation(_sum(trace, entered, carried), cell.activation)
        minus = tf.constant(-1.0)
        rest = trace.linear(tf.multiply, update, weights=[minus], bias=tf.ones([units]))
        return [_sum(trace, _gated(trace, update, h), _gated(trace, rest, candidate))]

    return step


def _on_lstm_step(trace: Trace) -> Any:
    """As in an LSTM the states carry the signal, and what the master gates make of i and f are gates."""
    cell = trace.layer.cell
    kernel, recurrent = trace.cast(cell.kernel), trace.cast(cell.recurrent_kernel)
    bias = trace.cast(cell.bias) if cell.use_bias else None
    starts = np.cumsum([0, cell.num_levels, cell.num_levels, *[cell.units] * 4])
    to_input, to_forget = (trace.cast(flags) for flags in cell.level_sums())

    def step(x: Value, states: list[Value]) -> list[Value]:
        h, c = states

        def read(number: int) -> Value:
            columns = slice(starts[number], starts[number + 1])
            return _read(
                trace, x, h, *(None if array is None else array[..., columns] for array in (kernel, recurrent, bias))
            )

        def master_gate(number: int, sums: Any) -> Value:
            level = trace.linear(lambda shares: tf.matmul(shares, sums), trace.softmax(read(number), -1))
            return trace.move(lambda x: tf.repeat(x, cell.chunk_size, axis=-1), level)

        enter_level, forget_level = master_gate(0, to_input), master_gate(1, to_forget)
        overlap = trace.product(tf.multiply, forget_level, enter_level)
        minus = trace.linear(tf.multiply, overlap, weights=[tf.constant(-1.0)])

        def gate(number: int, level: Value) -> Value:
            own = trace.activation(read(number), cell.recurrent_activation)
            return _sum(trace, trace.product(tf.multiply, own, overlap), level, minus)

        candidate = trace.activation(read(3), cell.activation)
        c = _sum(trace, _gated(trace, gate(5, forget_level), c), _gated(trace, gate(4, enter_level), candidate))
        output = trace.activation(read(2), cell.recurrent_activation)
        return [_gated(trace, output, trace.activation(c, cell.activation)), c]

    return step


_STEPS = {
    layers.LSTM: (_lstm_step, 2),
    layers.GRU: (_gru_step, 1),
    layers.SimpleRNN: (_simple_step, 1),
    ONLSTM: (_on_lstm_step, 2),
}


def _run(trace: Trace, sequences: Value, initial_state: Any, mask: Any) -> tuple[Value, list[Value]]:
    """Runs a recurrent layer step by step; returns its output and its last states."""
    layer = trace.layer
    if type(layer) not in _STEPS:
        raise TypeError(f"no row for the recurrent layer {type(layer).__name__}.")
    make, num_states = _STEPS[type(layer)]
    length = sequences.shape[1]
    if length is None:
        raise TypeError("its number of time steps is open; give the Input a fixed one, as relevance goes step by step.")
    mask = sequences.mask if mask is None and initial_state is None else mask
    states = [_zeros(trace, sequences, layer.units) for _ in range(num_states)]
    if initial_state is not None:
        states = _listed(initial_state)
    step, outputs, output = make(trace), [], states[0]
    blank = _zeros(trace, sequences, layer.units)
    for time in reversed(range(length)) if layer.go_backwards else range(length):
        x = trace.move(lambda sequence, time=time: sequence[:, time], sequences)
        new = step(x, states)
        last = blank if layer.zero_output_for_mask or not outputs else output
        output, states = _masked(trace, new, states, last, mask, time)
        outputs.append(output)
    if layer.return_sequences:
        return trace.move(lambda *tensors: tf.stack(tensors, axis=1), *outputs), states
    return output, states


def _masked(trace: Trace, new: list[Value], old: list[Value], last: Value, mask: Any, time: int) -> tuple:
    """Where a step is masked, states stay what they were and the output is `last`; the mask is as given."""
    if mask is None:
        return new[0], new
    here = tf.cast(mask, "bool")[:, time, None]

    def choose(one: Value, other: Value) -> Value:
        return trace.move(lambda a, b: tf.where(here, a, b), one, other)

    return choose(new[0], last), [choose(one, other) for one, other in zip(new, old, strict=True)]


@register(layers.LSTM, layers.GRU, layers.SimpleRNN, ONLSTM)
def recurrent(trace: Trace, sequences: Value, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
    output, states = _run(trace, sequences, initial_state, mask)
    return [output, *states] if trace.layer.return_state else output


@register(layers.Bidirectional)
def bidirectional(
    trace: Trace, sequences: Value, initial_state: Any = None, mask: Any = None, training: Any = None
) -> Any:
    layer = trace.layer
    half = None if initial_state is None else len(initial_state) // 2
    found = []
    for number, direction in enumerate((layer.forward_layer, layer.backward_layer)):
        start = None if half is None else initial_state[number * half : (number + 1) * half]
        found.append(_run(trace.inner(direction, direction.name), sequences, start, mask))
    (forward, forward_states), (backward, backward_states) = found
    if layer.return_sequences:
        backward = trace.move(lambda x: tf.reverse(x, [1]), backward)
    states = [*forward_states, *backward_states] if layer.return_state else []
    if layer.merge_mode is None:
        return [forward, backward, *states]
    merged = _merged(trace, layer.merge_mode, forward, backward)
    return [merged, *states] if states else merged


def _merged(trace: Trace, mode: str, forward: Value, backward: Value) -> Value:
    if mode == "concat":
        return trace.move(lambda a, b: tf.concat([a, b], axis=-1), forward, backward)
    if mode == "mul":
        return trace.product(tf.multiply, forward, backward)
    if mode == "sum":
        return _sum(trace, forward, backward)
    return trace.linear(lambda a, b: 0.5 * (a + b), forward, backward)
