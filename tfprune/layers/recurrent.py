"""Recurrent layers: their states step by step, and their stand-ins in a masked model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers, ops

from tfprune.layers.masks import package
from tfprune.layers.on_lstm import ONLSTM
from tfprune.layers.on_lstm_cell import ONLSTMCell
from tfprune.layers.steps import initial_states, recurrence
from tfprune.layers.twins import Twin

RECURRENT = (layers.SimpleRNN, layers.GRU, layers.LSTM, ONLSTM, layers.RNN)
"""The classes of recurrent layers whose units can be told apart; of RNN those around the cell of another."""


def is_plain_recurrent(layer: Any) -> bool:
    """Whether a layer is a SimpleRNN, GRU, LSTM or ONLSTM, or an RNN around the cell of one of them."""
    cells = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell, ONLSTMCell)
    return type(layer) in RECURRENT and type(layer.cell) in cells


def _masked_rnn(
    layer: layers.RNN,
    change: Callable[[Any], Any],
    sequences: Any,
    initial_state: Any,
    mask: Any,
    training: Any,
    positions: Any = None,
) -> Any:
    """Runs a recurrent layer whose state h is changed as it enters each step. Returns `(last, outputs, states)`."""
    states = initial_states(layer, sequences, initial_state)
    read = sequences
    if positions is not None:
        # As one feature more, since Keras goes through pairs of sequences of known lengths only.
        at = ops.cast(_entering(layer, positions, sequences), sequences.dtype)
        read = ops.concatenate([sequences, at], axis=-1)

    def step(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
        entering = change(states[0])
        if positions is not None:
            inputs, at = inputs[:, :-1], inputs[:, -1:]
            entering = states[0] + ops.cast(at, entering.dtype) * (entering - states[0])
        return layer.cell(inputs, [entering, *states[1:]], training=training)

    options = {"zero_output_for_mask": layer.zero_output_for_mask, "return_all_outputs": layer.return_sequences}
    layer._maybe_config_dropout_masks(layer.cell, sequences[:, 0, :], states)
    found = recurrence(layer, read, states, mask, step, **options)
    layer._maybe_reset_dropout_masks(layer.cell)
    return found


def _entering(layer: layers.RNN, positions: Any, sequences: Any) -> Any:
    """Returns for every step, in the order of time, whether the state that enters it is one of `positions`.

    The shape is `(batch, steps, 1)`.
    """
    at = ops.broadcast_to(ops.cast(positions, "float32"), ops.shape(sequences)[:2])
    none = ops.zeros_like(at[:, :1])
    # What enters a step is the output of the step before it, and the first of all is none of the outputs.
    own = [at[:, 1:], none] if layer.go_backwards else [none, at[:, :-1]]
    return ops.concatenate(own, axis=1)[..., None]


def entering_states(layer: layers.RNN, sequences: Any, initial_state: Any = None, mask: Any = None) -> tuple[Any, Any]:
    """Returns what a recurrent layer reads at every step, in the order in which it goes through them.

    Args:
        layer: a SimpleRNN, GRU, LSTM or ONLSTM, or an RNN around the cell of one.
        sequences: shape `(batch, steps, features)`.
        initial_state: as in the layer's call; None for zeros.
        mask: as in the layer's call.

    Returns:
        The sequences, `(batch, steps, features)`, and the state h as it enters each step, `(batch, steps, units)`.
    """
    states = initial_states(layer, sequences, initial_state)

    def step(inputs: Any, states: list[Any]) -> tuple[Any, Any]:
        return states[0], layer.cell(inputs, states, training=False)[1]

    _, entering, _ = recurrence(layer, sequences, states, mask, step, return_all_outputs=True)
    return (ops.flip(sequences, axis=1) if layer.go_backwards else sequences), entering


def _mask_of(mask: Any, sequences_mask: Any, initial_state: Any) -> Any:
    """Returns the time mask that the original would use: Keras fills it in only where no state is passed."""
    return sequences_mask if mask is None and initial_state is None else mask


class _RecurrentTwin(Twin):
    """A recurrent layer whose units are off inside the recurrence too; rows of `on_nodes` may differ by sample."""

    def call(
        self,
        sequences,
        initial_state=None,
        mask=None,
        training=False,
        on_nodes=None,
        sequences_mask=None,
        positions=None,
    ):
        mask = _mask_of(mask, sequences_mask, initial_state)

        def run(layer: layers.RNN, row: int, start: Any) -> tuple[Any, list[Any]]:
            """Returns what a recurrent layer gives out, and its last states."""
            change = self._change(row, on_nodes)
            last, outputs, states = _masked_rnn(layer, change, sequences, start, mask, training, positions)
            return outputs if layer.return_sequences else last, list(states)

        output, states = self._outputs(run, initial_state)
        if not self.layer.return_state:
            return output
        return (*output, *states) if isinstance(output, tuple) else (output, *states)

    def _outputs(self, run: Callable, initial_state: Any) -> tuple[Any, list[Any]]:
        raise NotImplementedError

    def _change(self, row: int, on_nodes: list) -> Callable[[Any], Any]:
        """Returns what happens to the state h as it enters a step."""
        on = ops.cast(on_nodes[row], self.layer.compute_dtype)
        return lambda h: self._replaced(row, h, on)


@package
class MaskedRNN(_RecurrentTwin):
    """A recurrent layer whose units are off inside the recurrence too; one row of `on_nodes`."""

    def _outputs(self, run, initial_state):
        return run(self.layer, 0, initial_state)


@package
class MaskedBidirectional(_RecurrentTwin):
    """Bidirectional over a recurrent layer with units off in both directions: rows for forward and backward."""

    def _outputs(self, run, initial_state):
        layer = self.layer
        half = 0 if initial_state is None else len(initial_state) // 2
        forward_start, backward_start = (initial_state[:half], initial_state[half:]) if half else (None, None)
        forward, forward_states = run(layer.forward_layer, 0, forward_start)
        backward, backward_states = run(layer.backward_layer, 1, backward_start)
        if layer.return_sequences:
            backward = ops.flip(backward, axis=1)
        return _merged(layer.merge_mode, forward, backward), [*forward_states, *backward_states]


def _merged(mode: str | None, forward: Any, backward: Any) -> Any:
    if mode is None:
        return (forward, backward)
    return {
        "concat": lambda: ops.concatenate([forward, backward], axis=-1),
        "sum": lambda: forward + backward,
        "ave": lambda: (forward + backward) / 2,
        "mul": lambda: forward * backward,
    }[mode]()
