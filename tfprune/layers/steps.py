"""The steps of a recurrent layer, gone through with a step of one's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras import layers, ops
from keras.src import backend


def initial_states(layer: layers.RNN, sequences: Any, initial_state: Any) -> list[Any]:
    """Returns the states that a recurrent layer starts from, those of zeros if none are given."""
    if initial_state is None:
        initial_state = layer.get_initial_state(batch_size=ops.shape(sequences)[0])
    states = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    return [ops.cast(state, layer.compute_dtype) for state in states]


def recurrence(
    layer: layers.RNN, sequences: Any, states: list[Any], mask: Any, step: Callable, **options: Any
) -> tuple[Any, Any, Any]:
    """Goes through the steps of a recurrent layer with a step of one's own.

    Args:
        layer: a recurrent layer.
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
