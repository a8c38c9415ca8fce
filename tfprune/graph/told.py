"""What a user tells of the lengths at which the code of a model runs; it hangs on the model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import tree

from tfprune.graph.layouts import inputs_of

_TOLD = "_tfprune_input_shapes"


def tell_input_shapes(model: keras.Model, shapes: Any) -> None:
    """Notes at which lengths the code of a model runs; they hold from now on, wherever it is opened.

    Raises:
        ValueError: if they do not fit the inputs.
        TypeError: if they are no shapes.
    """
    own = _graph_of(model)
    structure = own._inputs_struct if hasattr(own, "_nodes_by_depth") else inputs_of(own)
    vars(own)[_TOLD] = _checked(structure, shapes)


def keep_input_shapes(old: keras.Model, new: keras.Model) -> None:
    """Tells a model the lengths that another one, of which it was made, was told."""
    if (told := told_input_shapes(old)) is not None:
        vars(_graph_of(new))[_TOLD] = told


def told_input_shapes(model: keras.Model) -> tuple[tuple[int | None, ...], ...] | None:
    """Returns the lengths that a model was told, None if it was told none."""
    return vars(_graph_of(model)).get(_TOLD)


def _graph_of(model: keras.Model) -> Any:
    return getattr(model, "_functional", None) or model


def _checked(structure: Any, shapes: Any) -> tuple[tuple[int | None, ...], ...]:
    """Returns the shapes that a user tells of the inputs, one for each, checked.

    Args:
        structure: the inputs as the model takes them.
        shapes: the shape of the one input, or one for each in a list, or in a dictionary by name.

    Raises:
        ValueError: if they do not fit the inputs.
        TypeError: if they are no shapes.
    """
    inputs = tree.flatten(structure)
    names = [own.name for own in inputs]
    if isinstance(structure, dict) and len(structure) == len(inputs):
        names = sorted(structure)  # As tree.flatten goes through it.
    if isinstance(shapes, dict):
        if set(shapes) != set(names):
            raise ValueError(f"input_shapes: expected one for each of {names}, received those of {sorted(shapes)}.")
        shapes = [shapes[name] for name in names]
    elif _is_shape(shapes):
        shapes = [shapes]
    if not isinstance(shapes, list | tuple) or not all(_is_shape(own) for own in shapes):
        raise TypeError(
            "input_shapes: expected the shape of the input as a tuple of whole numbers and None, with the samples "
            f"first, or one for each input in a list or a dictionary; received {shapes!r}."
        )
    if len(shapes) != len(inputs):
        raise ValueError(f"input_shapes: expected one for each of {names}, received {len(shapes)}.")
    for name, own, tensor in zip(names, shapes, inputs, strict=True):
        pairs = list(zip(own, tensor.shape, strict=False))[1:]
        fits = len(own) == len(tensor.shape) and all(told in (None, known) or known is None for told, known in pairs)
        if not fits or any(told is not None and told < 1 for told in own):
            raise ValueError(
                f"input_shapes of {name!r}: expected lengths of at least 1 where the model has None in "
                f"{tuple(tensor.shape)}, and its own elsewhere; received {tuple(own)}."
            )
    return tuple((None, *own[1:]) for own in shapes)


def _is_shape(value: Any) -> bool:
    entries = (type(None), int, np.integer)
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(own, entries) for own in value)
