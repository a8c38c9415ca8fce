"""Which layers are looked into, and which stay shut."""

from __future__ import annotations

from typing import Any

import keras

from tfprune.graph.nodes import why_shut
from tfprune.graph.table import note_change, row_of

_closed_classes: set[type] = set()
OPENED = "_tfprune_opened"
"""The attribute by which a class that stands for an opened layer's own names that."""


def own_class(layer: Any) -> type:
    """Returns the class of a layer, also while it is open."""
    return vars(type(layer)).get(OPENED, type(layer))


def closed(*layer_classes: type) -> Any:
    """Keeps layers of these classes shut: their code is not looked into, and units that reach them stay.

    Args:
        *layer_classes: classes of layers. The exact class counts.

    Returns:
        The first class, if any, so that it can stand above a class as a decorator.

    Raises:
        TypeError: if one of them is no class.
    """
    for layer_class in layer_classes:
        if not isinstance(layer_class, type):
            raise TypeError(f"closed: expected classes, received {layer_class!r}. Pass the class, not an instance.")
    _closed_classes.update(layer_classes)
    note_change()
    return layer_classes[0] if layer_classes else None


def is_closed(operation: Any) -> bool:
    """Whether an operation is a layer that was closed, and that the table does not know."""
    return own_class(operation) in _closed_classes and row_of(operation) is None


def can_be_opened(operation: Any) -> bool:
    """Whether an operation is a layer that the table does not know, so that its code is looked into."""
    own = own_class(operation)
    if not isinstance(operation, keras.layers.Layer) or own in _closed_classes or row_of(operation) is not None:
        return False
    if why_shut(operation) is not None:  # It has been tried.
        return False
    # Those layers of Keras that are not in the table compute what cannot be followed: random numbers, tables of words.
    # A Lambda is the code of its user.
    # The layers of this package say what they do by themselves: a masked model is not opened once more.
    of_its_user = isinstance(operation, keras.Model | keras.layers.Lambda)
    return of_its_user or not own.__module__.startswith(("keras.src.layers", "tfprune."))
