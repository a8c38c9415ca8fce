"""Running a model by a list of arrays, and random inputs to run it on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import tree

from tfprune.graph.nodes import is_graph
from tfprune.graph.walk import functional, nodes_of

OPEN_LENGTH = 8
"""How long an axis is made that the model leaves open."""


def plain_call(model: keras.Model) -> Callable[..., list[Any]]:
    """Returns a function that takes one tensor per input, in order, and returns one per output, in order."""
    graph = functional(model)

    def call(*tensors: Any) -> list[Any]:
        return tree.flatten(graph(tree.pack_sequence_as(graph._inputs_struct, list(tensors)), training=False))

    return call


@contextlib.contextmanager
def unchanged_states(model: keras.Model) -> Iterator[None]:
    """Gives stateful layers back the states that they had, whatever ran meanwhile."""
    layers = [layer for layer in model._flatten_layers() if getattr(layer, "stateful", False)]
    states = [state for layer in layers for state in tree.flatten(getattr(layer, "states", None)) if state is not None]
    values = [keras.ops.convert_to_numpy(state).copy() for state in states]
    try:
        yield
    finally:
        for state, value in zip(states, values, strict=True):
            state.assign(value)


def input_shapes(model: keras.Model) -> list[tuple[int, ...]]:
    """Returns the shape of one sample for each input; open lengths are `OPEN_LENGTH`."""
    inputs = functional(model).inputs
    return [tuple(OPEN_LENGTH if length is None else length for length in tensor.shape[1:]) for tensor in inputs]


def fixed_batch(model: keras.Model) -> int | None:
    """Returns the number of samples that the model was built for, or None where it takes any."""
    return next((tensor.shape[0] for tensor in functional(model).inputs if tensor.shape[0] is not None), None)


def random_inputs(
    model: keras.Model, batch: int, *, shapes: Sequence[tuple[int, ...]] | None = None, seed: int = 0
) -> list[np.ndarray]:
    """Makes random inputs for a model.

    Where an Embedding reads the input, they are entries of its vocabulary; elsewhere normal numbers, or 0 and 1 for an
    input of whole numbers or bool.

    Args:
        model: a Sequential or functional model.
        batch: the number of samples.
        shapes: the shape of one sample for each input; None takes `input_shapes`.
        seed: the same seed gives the same inputs.

    Returns:
        One array `(batch, ...)` per input, in the model's order and dtypes.
    """
    generator = np.random.default_rng(seed)
    shapes = input_shapes(model) if shapes is None else shapes
    graph = functional(model)
    vocabularies = _vocabularies(graph)
    arrays = []
    for tensor, shape in zip(graph.inputs, shapes, strict=True):
        entries = vocabularies.get(id(tensor))
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if entries is None and ("int" in dtype or dtype == "bool"):
            entries = 2
        if entries is None:
            values = generator.normal(size=(batch, *shape))
        else:
            values = generator.integers(0, entries, (batch, *shape))
        arrays.append(values.astype(tensor.dtype))
    return arrays


def _vocabularies(graph: keras.Model) -> dict[int, int]:
    """Returns how many entries the Embeddings have that read a tensor, by the tensor's `id`; the fewest if several."""
    found: dict[int, int] = {}
    for node in nodes_of(graph):
        inside = {}
        if is_graph(node.operation):
            nested = functional(node.operation)
            sizes = _vocabularies(nested)
            inside = {place: sizes[id(own)] for place, own in enumerate(nested.inputs) if id(own) in sizes}
        elif isinstance(node.operation, keras.layers.Embedding) and node.operation.input_dim:
            inside = {0: node.operation.input_dim}
        for place, entries in inside.items():
            tensor = node.input_tensors[place]
            found[id(tensor)] = min(entries, found.get(id(tensor), entries))
    return found
