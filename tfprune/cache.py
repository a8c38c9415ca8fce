"""What was made for a model, for those that ask again: tracing a model takes longer than many a run of it.

All of it hangs on the model itself, so that it goes when the model goes: a table elsewhere, weak keys or not, would
keep every model alive that its own entry leads back to, as what was traced leads to the layers.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import keras

from tfprune.graph.walk import functional

_PLACE = "_tfprune_made"


class Recent:
    """Keeps what was made for models and keys, each with its model, and no more than the last few of all.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        # Where they are kept, the oldest first: the models that hold them are not held here.
        self._order: OrderedDict[int, weakref.ref[_Made]] = OrderedDict()

    def get(self, model: keras.Model, key: Hashable, make: Callable[[], Any], *alive: Any) -> Any:
        """Returns what was made for `key` and this model, or makes it.

        Args:
            model: a Sequential or functional model. One that gets another graph (`Sequential.add`) is another one.
            key: what else it was made for.
            make: makes it.
            *alive: the objects whose `id` is part of the key, which are kept so that it is not given to others.
        """
        held = _held_by(functional(model))
        made = held.get((self, key))
        if made is None:
            made = held[self, key] = _Made(make(), alive, lambda: held.pop((self, key), None))
        self._touch(made)
        return made.value

    @property
    def last(self) -> Any:
        """What was asked for last."""
        return next(reversed(self._order.values()))().value

    def _touch(self, made: _Made) -> None:
        """Notes that something was asked for, and lets the oldest go."""
        self._order = OrderedDict((place, other) for place, other in self._order.items() if other() is not None)
        self._order.setdefault(id(made), weakref.ref(made))
        self._order.move_to_end(id(made))
        while len(self._order) > self._most:
            oldest = self._order.popitem(last=False)[1]()
            if oldest is not None:
                oldest.drop()


class _Made:
    """Something that was made, the objects that it was made for, and how to let it go."""

    def __init__(self, value: Any, alive: tuple, drop: Callable[[], Any]):
        self.value, self.alive, self.drop = value, alive, drop


class _Held:
    """What one model holds; nothing of it goes into copies of the model."""

    def __init__(self, owner: Any):
        self.owner = weakref.ref(owner)
        self.entries: dict[tuple[Recent, Hashable], _Made] = {}

    def __reduce__(self) -> tuple:
        return object, ()


def _held_by(owner: Any) -> dict:
    # Not by setattr: Keras would look for layers and weights in it.
    attributes = vars(owner)
    held = attributes.get(_PLACE)
    if not isinstance(held, _Held) or held.owner() is not owner:
        held = attributes[_PLACE] = _Held(owner)
    return held.entries
