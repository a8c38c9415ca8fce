"""Finds out whether an activation works on each number alone, by trying it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_PLAIN_LAYERS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Identity,
    keras.layers.Dropout,
)
_known: dict[int, tuple[Any, bool]] = {}


def is_elementwise(function: Any) -> bool:
    """Returns whether `function` maps every number by itself, so that removing one number leaves the others alone.

    Each entry of a small random array is moved in turn; no other output may move. Then some columns are left out; the
    others may not move either. A hidden softmax fails, as does a function that looks at the width of an array or that
    cannot be called on one. Answers are kept per function.
    """
    if function is None:
        return True
    if id(function) not in _known:
        # The function is kept with the answer so that its id is not given to another one.
        # Also where a model is being traced, it is tried on numbers.
        with tf.init_scope():
            _known[id(function)] = (function, _judge(function))
    return _known[id(function)][1]


def _judge(function: Any) -> bool:
    if isinstance(function, keras.layers.Activation):
        return is_elementwise(function.activation)
    if isinstance(function, keras.layers.Layer):
        return type(function) in _PLAIN_LAYERS
    return _moves_alone(function)


def _moves_alone(function: Any) -> bool:
    values = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
    try:
        # Near zero, and far away, where functions with thresholds do something else.
        return all(_entries_move_alone(function, scale * values) for scale in (1.0, 4.0))
    except Exception:  # Whatever a stranger's function raises, it is no activation that can be trusted.
        return False


def _entries_move_alone(function: Any, values: np.ndarray) -> bool:
    def answer(values: np.ndarray) -> np.ndarray:
        return keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(values)))

    reference = answer(values)
    if reference.shape != values.shape:
        return False
    # Both a small step and a leap, as some functions react to one of them alone (sparsemax, thresholds).
    for leap in (0.25, -0.25, 8.0, -8.0):
        for entry in range(values.size):
            moved = values.copy()
            moved.flat[entry] += leap
            others = np.arange(values.size) != entry
            if not np.array_equal(answer(moved).ravel()[others], reference.ravel()[others]):
                return False
    kept = [1, 3]
    # Vectorised code may round the last bit otherwise when the array is shorter.
    return np.allclose(answer(values[:, kept]), reference[:, kept], rtol=1e-5, atol=1e-6)
