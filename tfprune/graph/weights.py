"""The weights that can be pruned one by one, and their names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tfprune.borders import names_of
from tfprune.graph.nodes import is_graph, name_of
from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.walk import functional, nodes_of
from tfprune.units import describe_unknown

_WITHOUT_KERNEL = (
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.PReLU,
    *layer_classes("RMSNormalization"),
)
"""Layers whose weights scale or shift, whatever their rank: norms, and activations with slopes."""


@dataclass(frozen=True, eq=False)
class KernelWeight:
    """One kernel of a model.

    Attributes:
        name: `layer`, or `layer/kernel` where the layer has several.
        variable: the Keras variable.
        operations: the layers of the graph that hold it, one unless it is tied.
        aliases: the names by which other layers that hold it would know it.
    """

    name: str
    variable: Any
    operations: tuple[Any, ...]
    aliases: tuple[str, ...]


def kernel_weights(model: keras.Model) -> dict[str, KernelWeight]:
    """Finds the kernels of a model: all its trainable weights of rank two or more, but biases, norms and slopes.

    A kernel is named after its layer; where a layer has several, the name of the weight follows (`lstm/kernel`,
    `lstm/recurrent_kernel`), or of the layer inside (`attention/query`, `bidirectional/forward/kernel`). Layers inside
    nested models are `outer/inner`, as in the names of groups. A kernel that several layers share comes once, by the
    name of the first. Frozen layers count as well.

    Args:
        model: a Sequential or functional model.

    Returns:
        The kernels by name, in the order of the graph.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is a subclassed model or not built.

    Example:
        >>> net = keras.Sequential([keras.Input((4, 3)), keras.layers.LSTM(5, name="lstm"), keras.layers.Dense(2)])
        >>> [(name, tuple(weight.variable.shape)) for name, weight in kernel_weights(net).items()][:2]
        [('lstm/kernel', (3, 20)), ('lstm/recurrent_kernel', (5, 20))]
    """
    functional(model)
    found: dict[int, tuple[Any, list[str], list[Any]]] = {}
    taken: set[str] = set()
    for prefix, operation in _operations(model, "", set()):
        for path, variable in _kernels_of(operation):
            name = _free("/".join((prefix + name_of(operation), *path)), taken)
            _, names, holders = found.setdefault(id(variable), (variable, [], []))
            names.append(name)
            holders.append(operation)
    return {
        names[0]: KernelWeight(names[0], variable, tuple(holders), tuple(names[1:]))
        for variable, names, holders in found.values()
    }


def choose_kernels(model: keras.Model, layers: Iterable[str] | str | None) -> dict[str, KernelWeight]:
    """Returns the kernels that `layers` means, in the order of the graph.

    Args:
        model: a Sequential or functional model.
        layers: names of kernels, of layers, or of nested models, for all that is inside; None for all kernels.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if a name is unknown or there is no kernel.
    """
    kernels = kernel_weights(model)
    if not kernels:
        raise ValueError(f"model {model.name!r} has no kernels: no trainable weights of rank two or more.")
    if layers is None:
        return kernels
    chosen = set()
    for own in names_of(layers, "layers"):
        matches = {name for name, kernel in kernels.items() if any(_within(n, own) for n in (name, *kernel.aliases))}
        if not matches:
            raise ValueError(f"layers: no kernel of model {model.name!r} has this name. {_unknown(own, kernels)}")
        chosen |= matches
    return {name: kernel for name, kernel in kernels.items() if name in chosen}


def _unknown(name: str, kernels: dict[str, KernelWeight]) -> str:
    return describe_unknown([name], kernels)


def _within(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}/")


def _free(name: str, taken: set[str]) -> str:
    """Returns the name, numbered if it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    taken.add(free)
    return free


def _operations(model: keras.Model, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Yields every operation of the graph once, nested models opened up, with what stands before its name."""
    for node in nodes_of(model):
        operation = node.operation
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        if is_graph(operation):
            yield from _operations(operation, f"{prefix}{name_of(operation)}/", seen)
        else:
            yield prefix, operation


def _kernels_of(operation: Any) -> list[tuple[tuple[str, ...], Any]]:
    """Returns the kernels of a layer and of all layers inside it, with the shortest paths that tell them apart."""
    if not isinstance(operation, keras.layers.Layer):
        return []
    own = [
        ((variable.name,), variable) for variable in operation._trainable_variables if _is_kernel(operation, variable)
    ]
    inner = operation._flatten_layers(include_self=False, recursive=False)
    parts = [(_label(operation, layer), _kernels_of(layer)) for layer in inner]
    parts = [(label, kernels) for label, kernels in parts if kernels]
    if len(own) + len(parts) == 1:
        return [((), own[0][1])] if own else parts[0][1]
    return own + [((label, *path), variable) for label, kernels in parts for path, variable in kernels]


def _is_kernel(layer: Any, variable: Any) -> bool:
    return (
        len(variable.shape) >= 2
        and not variable.name.endswith("bias")
        and keras.backend.is_float_dtype(variable.dtype)
        and not isinstance(layer, _WITHOUT_KERNEL)
    )


def _label(holder: Any, layer: Any) -> str:
    # The names of the directions are made of the name of the layer that was wrapped, which is often a numbered one.
    if isinstance(holder, keras.layers.Bidirectional):
        return "forward" if layer is holder.forward_layer else "backward"
    return layer.name
