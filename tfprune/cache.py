"""The last few things that were made, for those that ask again: tracing a model takes longer than many a run of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any


class Recent:
    """Keeps what was made for the last few keys, and what the keys name by `id`.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int):
        self._most = most
        self._made: OrderedDict[Hashable, tuple[Any, tuple]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Any], *alive: Any) -> Any:
        """Returns what was made for `key`, or makes it; `alive` are the objects whose `id` is part of the key."""
        if key not in self._made:
            # The objects are kept with it so that their ids are not given to others.
            self._made[key] = (make(), alive)
            if len(self._made) > self._most:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key][0]

    @property
    def last(self) -> Any:
        """What was asked for last."""
        return next(reversed(self._made.values()))[0]
