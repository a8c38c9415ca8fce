"""Configurations of layers, and arguments of calls, with other numbers in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def can_get_bias(layer: Any) -> bool:
    """Whether a layer that has no bias can be built anew with one."""
    if isinstance(layer, keras.layers.TimeDistributed | keras.layers.Bidirectional):
        layer = layer.forward_layer if isinstance(layer, keras.layers.Bidirectional) else layer.layer
    if type(layer) is keras.layers.EinsumDense:
        return layer.bias_axes is None
    return "use_bias" in getattr(layer, "cell", layer).get_config()


def add_bias(layer: Any, config: dict) -> None:
    """Changes the configuration of a layer so that it has a bias."""
    if type(layer) is keras.layers.EinsumDense:
        given, _, target = (part.strip() for part in layer.equation.replace("->", ",").split(","))
        config["bias_axes"] = "".join(letter for letter in target if letter not in given)
        return
    inner = [config[key]["config"] for key in ("layer", "backward_layer") if config.get(key) is not None]
    for own in inner or [config]:
        if "bias_axes" in own:
            add_bias(layer.layer, own)
        else:
            # That of an RNN lies in its cell's.
            own.get("cell", {"config": own})["config"]["use_bias"] = True


def begins_with_array(value: Any) -> bool:
    """Whether a value of a configuration is an initial value that has a shape."""
    return isinstance(value, keras.initializers.Constant) and np.ndim(value.value) > 0


def without_build_config(config: Any) -> Any:
    """Returns a copy of the configuration without the input shapes that wrappers keep of their inner layers."""
    if isinstance(config, dict):
        return {key: without_build_config(value) for key, value in config.items() if key != "build_config"}
    if type(config) in (list, tuple):
        return type(config)(without_build_config(value) for value in config)
    return config


def with_entry(value: Any, path: list, change: Callable[[Any], Any]) -> Any:
    """Returns an argument with the entry at `path` of its nested lists changed; the argument itself stays."""
    if not path:
        return change(value)
    parts = list(value)
    parts[path[0]] = with_entry(parts[path[0]], path[1:], change)
    return tuple(parts) if isinstance(value, tuple) else parts


def change_entry(config: dict, path: tuple, change: Callable[[Any], Any]) -> None:
    """Changes the entry at `path` in place; tuples on the way become lists."""
    holder: Any = config
    for key in path[:-1]:
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        elif isinstance(holder[key], int):
            holder[key] = [holder[key]]
        holder = holder[key]
    holder[path[-1]] = change(holder[path[-1]])
