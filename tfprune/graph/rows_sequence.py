"""Rows of recurrent layers, their wrappers, and multi-head attention."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import layers

from tfprune.graph.ids import NOTHING
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register, row_of
from tfprune.layers import (
    RECURRENT,
    MaskedBidirectional,
    MaskedMultiHeadAttention,
    MaskedRNN,
    ONLSTMCell,
    is_plain_recurrent,
)

_GATES = {layers.SimpleRNNCell: 1, layers.GRUCell: 3, layers.LSTMCell: 4}


@register(*RECURRENT)
def recurrent(step: Step, sequences: Signal, initial_state: Any = None, mask: Any = None, training=None) -> list[Axes]:
    if not is_plain_recurrent(step.operation):
        cell = type(step.operation.cell).__name__
        reason = f"its cell is a {cell}, not one SimpleRNNCell, GRUCell, LSTMCell or ONLSTMCell"
        return _wall(step, reason, sequences, initial_state)
    if step.operation.stateful:
        return _wall(step, "a stateful recurrent layer keeps its state between batches", sequences, initial_state)
    step.fix_axes(sequences, "a recurrent layer runs along this axis", keep=[-1])
    units = _one_direction(step, sequences, initial_state, "")
    step.twin(MaskedRNN, units)
    count = len(step.operation.cell.state_size) if isinstance(step.operation.cell.state_size, list | tuple) else 1
    states = [(None, units)] * (count if step.operation.return_state else 0)
    return [_sequence(step.operation, units), *states]


def _wall(step: Step, reason: str, *arguments: Any) -> list[Axes]:
    signals = [x for argument in arguments for x in _signals(argument)]
    step.wall(reason, signals)
    return [step.untracked(k) for k in range(len(step.node.outputs))]


def _signals(argument: Any) -> list[Signal]:
    if isinstance(argument, Signal):
        return [argument]
    return [x for x in argument if isinstance(x, Signal)] if isinstance(argument, list | tuple) else []


def _sequence(layer: layers.RNN, ids: np.ndarray | None) -> Axes:
    return (None, None, ids) if layer.return_sequences else (None, ids)


def _one_direction(step: Step, sequences: Signal, initial_state: Any, slot: str) -> np.ndarray:
    """Ids of the units of one recurrent layer: kernel columns, recurrent rows and columns, states, all the same."""
    cell = step.operation.cell
    units, columns = _chunks(step, slot) if type(cell) is ONLSTMCell else _single_units(step, slot)
    step.weight(cell.kernel, step.contract(sequences), columns)
    step.weight(cell.recurrent_kernel, units, columns)
    step.contract_inside(units)
    if cell.bias is not None:
        step.weight(cell.bias, *[None] * (len(cell.bias.shape) - 1), columns)
    step.size(_of_cell(step, "units"), units)
    step.activation(cell.activation, units)
    step.activation(getattr(cell, "recurrent_activation", None), units)
    for state in _signals(initial_state):
        step.unite(state.axes[-1], units)
    return units


def _of_cell(step: Step, name: str) -> tuple[str, ...]:
    """An RNN holds the configuration of its cell; the layers named after a cell hold what it holds."""
    return ("cell", "config", name) if type(step.operation) is layers.RNN else (name,)


def _single_units(step: Step, slot: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of the units and of the kernels' columns, gate by gate."""
    cell = step.operation.cell
    units = step.emit(cell.units, slot)
    return units, np.tile(units, _GATES[type(cell)])


def _chunks(step: Step, slot: str) -> tuple[np.ndarray, np.ndarray]:
    """The same where a unit is a chunk. It keeps its level: the columns of the master gates stay as they are."""
    cell = step.operation.cell
    chunks = step.emit(len(cell.levels), f"{slot}/chunks" if slot else "chunks")
    step.size(
        _of_cell(step, "levels"), chunks, lambda old, kept: [own for own, on in zip(old, kept, strict=True) if on]
    )
    units = np.repeat(chunks, cell.chunk_size)
    return units, np.concatenate([np.full(2 * cell.num_levels, NOTHING), np.tile(units, 4)])


@register(layers.Bidirectional)
def bidirectional(
    step: Step, sequences: Signal, initial_state: Any = None, mask: Any = None, training=None
) -> list[Axes]:
    layer = step.operation
    directions = (layer.forward_layer, layer.backward_layer)
    if not all(map(is_plain_recurrent, directions)) or layer.stateful:
        return _wall(step, "its directions are no plain SimpleRNN, GRU, LSTM or ONLSTM", sequences, initial_state)
    step.fix_axes(sequences, "a recurrent layer runs along this axis", keep=[-1])
    states = _signals(initial_state)
    half = len(states) // 2
    forward = _one_direction(step.inner(directions[0], "layer", "config"), sequences, states[:half], "forward")
    backward = _one_direction(
        step.inner(directions[1], "backward_layer", "config"), sequences, states[half:], "backward"
    )
    # Keras takes both directions to be equally wide: unit k of one goes with unit k of the other.
    step.unite(forward, backward)
    step.twin(MaskedBidirectional, forward, backward)
    outputs = _merged(layer, forward, backward)
    if layer.return_state:
        each = (len(step.node.outputs) - len(outputs)) // 2
        outputs += [(None, forward)] * each + [(None, backward)] * each
    return outputs


def _merged(layer: Any, forward: np.ndarray, backward: np.ndarray) -> list[Axes]:
    if layer.merge_mode is None:
        return [_sequence(layer.forward_layer, forward), _sequence(layer.forward_layer, backward)]
    if layer.merge_mode == "concat":
        return [_sequence(layer.forward_layer, np.concatenate([forward, backward]))]
    return [_sequence(layer.forward_layer, forward)]


_NOT_WITHIN_TIME = (
    *[layers.RNN, layers.Bidirectional, layers.Wrapper],
    *layer_classes("MultiHeadAttention", "GroupQueryAttention"),
)
"""Layers whose units act inside them: a mask of samples would have to follow the steps that TimeDistributed folds."""


@register(layers.TimeDistributed)
def time_distributed(step: Step, inputs: Signal, training=None, mask=None) -> Axes:
    """The inner layer's row, applied to every axis but time."""
    inner = step.operation.layer
    row = row_of(inner)
    seen = inputs.without(1)
    if row is None or isinstance(inner, _NOT_WITHIN_TIME):
        step.wall(f"it wraps a {type(inner).__name__}", [inputs])
        return step.untracked()
    within = step.inner(inner, "layer", "config")
    axes = row.read(within, seen)
    if step.records.twins.pop(id(step.node), None) is not None:
        step.fix_axes(seen, f"it wraps a {type(inner).__name__}, which looks across units")
    return (axes[0], inputs.axes[1], *axes[1:])


@register(layers.MultiHeadAttention)
def multi_head_attention(
    step: Step, query: Signal, value: Signal, key: Signal | None = None, *args, **kwargs
) -> list[Axes]:
    layer = step.operation
    key = value if key is None else key
    if query.rank != 3 or value.rank != 3 or len(layer._output_dense.kernel.shape) != 3:
        return _wall(step, "attention over several axes", query, value, key)
    heads = step.emit(layer.num_heads, "heads")
    columns = step.emit(layer._output_dense.kernel.shape[-1])
    _projections(step, (query, key, value), (heads, heads, heads), heads)
    step.weight(layer._output_dense.kernel, heads, None, columns)
    step.weight(layer._output_dense.bias, columns)
    step.size("num_heads", heads)
    # Left open, the output would be as wide as the query, which may be cut too.
    step.size("output_shape", columns, lambda old, kept: (int(kept.sum()),))
    return _attended(step, heads, columns)


def _projections(step: Step, signals: tuple, heads: tuple, gate_heads: np.ndarray) -> None:
    """Query, key and value projections read the last axis of their tensors; heads are on the axis behind it."""
    layer = step.operation
    dense = (layer._query_dense, layer._key_dense, layer._value_dense)
    gate = getattr(layer, "_gate_dense", None)
    if gate is not None:
        signals, heads, dense = (*signals, signals[0]), (*heads, gate_heads), (*dense, gate)
    for signal, own_heads, projection in zip(signals, heads, dense, strict=True):
        step.fix_axes(signal, "attention mixes the positions along this axis", keep=[-1])
        step.weight(projection.kernel, step.contract(signal), own_heads, None)
        step.weight(projection.bias, own_heads, None)


def _attended(step: Step, heads: np.ndarray, columns: np.ndarray | None) -> list[Axes]:
    step.contract_inside(heads, 2)
    step.twin(MaskedMultiHeadAttention, heads)
    if len(step.node.outputs) == 2:
        step.fix(heads, "its attention scores are read")
        return [(None, None, columns), step.untracked(1)]
    return [(None, None, columns)]


@register(*layer_classes("GroupQueryAttention"))
def group_query_attention(
    step: Step, query: Signal, value: Signal, key: Signal | None = None, *args, **kwargs
) -> list[Axes]:
    """A unit is a key-value head with all the query heads that read it; query, value and output have one width."""
    layer = step.operation
    key = value if key is None else key
    heads = step.emit(layer.num_key_value_heads, "heads")
    readers = np.repeat(heads, layer.num_query_heads // layer.num_key_value_heads)
    columns = step.unite(query.axes[-1], value.axes[-1])
    _projections(step, (query, key, value), (readers, heads, heads), readers)
    step.weight(layer._output_dense.kernel, readers, None, columns)
    step.weight(layer._output_dense.bias, columns)
    step.size("num_query_heads", readers)
    step.size("num_key_value_heads", heads)
    return _attended(step, heads, columns)
