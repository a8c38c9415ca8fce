"""Homes in plain Keras for weights that code reads itself: rows of an Embedding."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from tfprune.graph.nodes import copied
from tfprune.graph.walk import run
from tfprune.layers.opened import HeldWeight
from tfprune.surgery.carrying import as_rows
from tfprune.surgery.configuring import Refused

_ELEMENTWISE = (type(None), keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
"""Regularisers that ask for no shape."""


def at_home(model: keras.Model) -> tuple[keras.Model, dict[int, Any]]:
    """Returns a model in which every weight that code reads is that of an Embedding, which is read whole.

    Args:
        model: a functional model with layers `HeldWeight`. It is not changed, and shares all other weights.

    Returns:
        The new model, and the new variable by the `id` of the old one.

    Raises:
        Refused: if a weight has no such home.
    """
    homes, copies = dict[int, Any](), dict[int, Any]()
    first = _row_number(model)

    def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
        old = node.operation
        if not isinstance(old, HeldWeight):
            return tree.flatten(copies.setdefault(id(old), copied(old))(*args, **kwargs))
        if id(old) not in copies:
            copies[id(old)] = _home(old)
        rows, width = copies[id(old)].input_dim, copies[id(old)].output_dim
        name = old.name.replace("/", ".")
        table = copies[id(old)](_called(ops.add(first, np.arange(rows, dtype="int32")), f"{name}.rows"))
        homes[id(old.held)] = copies[id(old)].embeddings
        shape = tuple(old.held.shape)
        return [table if shape == (rows, width) else _called(ops.reshape(table, shape), f"{name}.shape")]

    outputs = run(model, model.inputs, call)
    result = keras.Model(model._inputs_struct, tree.pack_sequence_as(model._outputs_struct, outputs), name=model.name)
    result._trainable = model._trainable
    return result, homes


def _row_number(model: keras.Model) -> Any:
    """Returns the number 0, `(1,)`, as a tensor of the graph."""
    numbers = [own for own in model.inputs if own.dtype != "string"]
    if not numbers:
        raise Refused("weights that code reads hang on an input of numbers, and all inputs are words")
    flat = _called(ops.reshape(numbers[0], (-1,)), "tfprune.flat")
    first = _called(ops.slice(flat, (0,), (1,)), "tfprune.first")
    return _called(ops.cast(_called(ops.zeros_like(first), "tfprune.zero"), "int32"), "tfprune.row")


def _called(tensor: Any, name: str) -> Any:
    """Returns a tensor whose operation has a name of its own: those that Keras gives may be in the model already."""
    tensor._keras_history.operation.name = name
    return tensor


def _home(old: HeldWeight) -> layers.Embedding:
    """Returns an Embedding with the numbers of a weight, which is trained as it is."""
    weight = old.held
    if not keras.backend.is_float_dtype(weight.dtype):
        raise Refused(f"no layer of Keras holds the weight {weight.path!r} of {weight.dtype}")
    if weight.constraint is not None or not isinstance(weight.regularizer, _ELEMENTWISE):
        raise Refused(f"the weight {weight.path!r} has a constraint or a regulariser that looks at its shape")
    options = {"embeddings_regularizer": weight.regularizer, "dtype": weight.dtype, "name": old.name}
    new = layers.Embedding(*as_rows(weight.shape), **options)
    new.build()
    new.embeddings.assign(ops.reshape(weight.value, new.embeddings.shape))
    new.trainable = bool(weight.trainable)
    return new
