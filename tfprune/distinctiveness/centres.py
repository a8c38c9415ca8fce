"""Where the middle of an activation lies, and where it comes to lie behind a batch normalization."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.graph import Group, Member
from tfprune.graph.members import Home
from tfprune.layers import ONLSTM

_HALF = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
_NONLINEAR = (layers.ReLU, layers.LeakyReLU, layers.ELU, layers.PReLU)


def auto_centre(group: Group, *, at_home: bool = True) -> np.ndarray:
    """Returns the middle of each unit's activation where it shows, `(units,)`.

    It is 0.5 for a sigmoid and 0 for all else; a batch normalization behind it moves it along, unless `at_home` is
    False. Of several layers that make the same units it is the mean.
    """
    centres = []
    for member in group.members:
        own = np.full(group.size, _of(_own_activation(member.operation)))
        centres += [_at_home(member, home, group.size) if at_home else own for home in member.homes]
    return np.mean(centres, axis=0) if centres else np.zeros(group.size)


def _at_home(member: Member, home: Home, size: int) -> np.ndarray:
    positions = np.full(len(home.units), _of(_own_activation(member.operation)))
    for step in home.behind:
        if isinstance(step, layers.BatchNormalization):
            positions = _normalized(step, positions)
        elif isinstance(step, layers.Activation):
            positions = (
                positions if step.activation is keras.activations.linear else 0 * positions + _of(step.activation)
            )
        elif isinstance(step, _NONLINEAR):
            positions = 0 * positions
    first = [np.flatnonzero(home.units == unit)[0] for unit in range(size)]
    return positions[first]


def _own_activation(layer: Any) -> Any:
    # The state of an LSTM is a product with its output gate, whose middle is zero whatever the activation.
    return None if isinstance(layer, layers.LSTM | ONLSTM) else getattr(layer, "activation", None)


def _of(activation: Any) -> float:
    return 0.5 if activation in _HALF else 0.0


def _normalized(norm: layers.BatchNormalization, values: np.ndarray) -> np.ndarray:
    def numbers(variable: Any, default: float) -> np.ndarray | float:
        return default if variable is None else keras.ops.convert_to_numpy(variable).astype("float64")

    scale = numbers(norm.gamma, 1.0) / np.sqrt(numbers(norm.moving_variance, 1.0) + norm.epsilon)
    return (values - numbers(norm.moving_mean, 0.0)) * scale + numbers(norm.beta, 0.0)
