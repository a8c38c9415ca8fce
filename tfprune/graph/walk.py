"""The one loop over a Keras graph: masking, cutting and measuring all run a model through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import tree

from tfprune.data import read_inputs_by
from tfprune.graph.nodes import is_graph, nodes_in, substituted
from tfprune.graph.opened import is_opened, opened

_MOST_SAMPLES_AT_ONCE = 256


def functional(model: keras.Model) -> keras.Model:
    """Returns the functional graph behind `model`: its opened form where its layers are made of layers.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is a subclassed model, or a Sequential model that is not built.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"model: expected a keras.Model, received {type(model).__name__}.")
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise ValueError(
                f"model {model.name!r} is a Sequential model that is not built, so its shapes are unknown. "
                "Start it with keras.Input(shape), or call it on data once."
            )
        model = model._functional
    return model if is_opened(model) else opened(model) or model


read_inputs_by(lambda model: functional(model).inputs)


def nodes_of(model: keras.Model) -> Iterator[Any]:
    """Yields the nodes of the graph, inputs left out, each after those that it reads; equals in order of `layers`."""
    return nodes_in(functional(model))


def flat_nodes(model: keras.Model) -> Iterator[Any]:
    """Yields the nodes of a model with those of its nested models, each model once."""
    seen: set[int] = set()

    def walk(graph: keras.Model) -> Iterator[Any]:
        for node in nodes_of(graph):
            if not is_graph(node.operation):
                yield node
            elif id(functional(node.operation)) not in seen:
                seen.add(id(functional(node.operation)))
                yield from walk(node.operation)

    return walk(model)


def run(
    model: keras.Model,
    inputs: Sequence[Any],
    call: Callable[..., Any],
    *,
    enter: Callable[[Any, Any, Any], Any] | None = None,
) -> list[Any]:
    """Runs `inputs` through the graph of `model`.

    Args:
        model: a Sequential or functional model.
        inputs: one object per model input, in order: tensors, symbolic tensors, or anything that `call` understands.
        call: called for every node as `call(node, args, kwargs)` with the arguments of the original call, its tensors
            replaced; returns one object per output of the node, in a flat list.
        enter: if given, called as `enter(node, tensor, value)` for every tensor that a node reads; what it returns is
            read in its place.

    Returns:
        One object per model output, in order.
    """
    graph = functional(model)
    values = {id(reference): value for reference, value in zip(graph.inputs, inputs, strict=True)}
    for node in nodes_of(model):

        def entering(leaf: Any, node: Any = node) -> Any:
            return values[id(leaf)] if enter is None else enter(node, leaf, values[id(leaf)])

        args, kwargs = substituted(node, entering)
        outputs = call(node, args, kwargs)
        values.update({id(reference): value for reference, value in zip(node.outputs, outputs, strict=True)})
    return [values[id(reference)] for reference in graph.outputs]


def call_operation(node: Any, args: tuple, kwargs: dict) -> list[Any]:
    """Calls the node's own operation: the plain forward pass, for use with `run`."""
    return tree.flatten(node.operation(*args, **kwargs))


def fresh_input(tensor: Any, **changes: Any) -> Any:
    """Returns a new input like the one behind an input of a model: same name, shape and type but for `changes`."""
    layer = tensor._keras_history.operation
    config = layer.get_config() | changes
    config.pop("trainable", None)
    return type(layer).from_config(config).output


def run_flat(
    model: keras.Model, inputs: Sequence[Any], call: Callable[..., Any], *, only: set[int] | None = None
) -> list[Any] | None:
    """Runs a model with its nested models opened up: `call(node, args, kwargs)` sees plain layers and operations only.

    Args:
        model: a Sequential or functional model.
        inputs: one object per model input, in order.
        call: as for `run`. A node inside a model that is called twice is seen twice.
        only: if given, the `id`s of the nodes to run, as `ancestors` returns them; the others are left out.

    Returns:
        One object per model output, or None where `only` left one of them out.
    """
    graph = functional(model)
    values = {id(reference): value for reference, value in zip(graph.inputs, inputs, strict=True)}
    for node in nodes_of(model):
        if only is not None and id(node) not in only:
            continue
        args, kwargs = substituted(node, lambda leaf: values[id(leaf)])
        if is_graph(node.operation):
            outputs = run_flat(node.operation, [values[id(tensor)] for tensor in node.input_tensors], call, only=only)
        else:
            outputs = call(node, args, kwargs)
        if outputs is not None:
            values.update({id(reference): value for reference, value in zip(node.outputs, outputs, strict=True)})
    outputs = [values.get(id(reference)) for reference in graph.outputs]
    return None if any(value is None for value in outputs) else outputs


def samples_at_once(model: keras.Model, most_floats: int) -> int:
    """Returns how many samples, at most 256, fill so many numbers on their way through a model, all layers together.

    What the model's inputs fix comes first.
    """
    floats = 0

    def count(node: Any, args: tuple, kwargs: dict) -> list[Any]:
        nonlocal floats
        floats += sum(math.prod(length or 1 for length in tensor.shape[1:]) for tensor in node.outputs)
        return node.outputs

    inputs = functional(model).inputs
    run_flat(model, inputs, count)
    fixed = inputs[0].shape[0]
    return fixed or min(max(1, most_floats // max(floats, 1)), _MOST_SAMPLES_AT_ONCE)


def ancestors(model: keras.Model, wanted: set[int]) -> set[int]:
    """Returns the `id`s of the nodes that must run so that the nodes with the `id`s in `wanted` can be called.

    Nodes inside nested models count; the wanted nodes themselves are in the result.
    """
    needed = set(wanted)
    _collect(model, needed, whole=False)
    return needed


def _collect(model: keras.Model, needed: set[int], *, whole: bool) -> bool:
    """Adds to `needed` what its nodes stand on inside `model`; returns whether the model is needed at all."""
    graph = functional(model)
    tensors = {id(tensor) for tensor in graph.outputs} if whole else set()
    any_needed = whole
    for node in reversed(list(nodes_of(model))):
        gives = any(id(tensor) in tensors for tensor in node.outputs)
        inside = is_graph(node.operation) and _collect(node.operation, needed, whole=gives)
        if gives or inside or id(node) in needed:
            needed.add(id(node))
            any_needed = True
            tensors.update(id(tensor) for tensor in node.input_tensors)
    return any_needed
