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
_WORDS = 6
"""How many words a random sentence has."""


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

    Where an Embedding or a lookup reads the input, they are entries of its vocabulary; elsewhere normal numbers, 0 and
    1 for an input of whole numbers or bool, letters for one of words.

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
    readers = _readers(graph)
    arrays = []
    for tensor, shape in zip(graph.inputs, shapes, strict=True):
        dtype, own, size = keras.backend.standardize_dtype(tensor.dtype), readers.get(id(tensor), []), (batch, *shape)
        if dtype == "string":
            arrays.append(_words(own, size, generator))
            continue
        vocabularies = [layer.input_dim for layer in own if isinstance(layer, keras.layers.Embedding)]
        entries = min((number for number in vocabularies if number), default=None)
        if entries is None and ("int" in dtype or dtype == "bool"):
            entries = 2
        values = generator.normal(size=size) if entries is None else generator.integers(0, entries, size)
        arrays.append(values.astype(tensor.dtype))
    return arrays


def _words(layers: list[Any], shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Draws words that the layers know, several in a row for those that take sentences apart."""
    known = [str(word) for layer in layers if hasattr(layer, "get_vocabulary") for word in layer.get_vocabulary()]
    count = _WORDS if any(isinstance(layer, keras.layers.TextVectorization) for layer in layers) else 1
    drawn = generator.choice(known or list("abcdefgh"), (*shape, count))
    return np.array([" ".join(words) for words in drawn.reshape(-1, count)], object).reshape(shape)


def _readers(graph: keras.Model) -> dict[int, list[Any]]:
    """Returns the layers that read a tensor, also those inside nested models, by the tensor's `id`."""
    found: dict[int, list[Any]] = {}
    for node in nodes_of(graph):
        inside: dict[int, list[Any]] = {place: [node.operation] for place in range(len(node.input_tensors))}
        if is_graph(node.operation):
            nested = functional(node.operation)
            readers = _readers(nested)
            inside = {place: readers.get(id(own), []) for place, own in enumerate(nested.inputs)}
        for place, layers in inside.items():
            found.setdefault(id(node.input_tensors[place]), []).extend(layers)
    return found
