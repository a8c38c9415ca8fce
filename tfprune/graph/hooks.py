"""What a trace changes in layers and puts back: nodes, losses, variables; and what symbolic tensors take as index."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from tfprune.graph.nodes import is_bookkeeping

_OF_KERAS = (
    *("_trainable_variables", "_non_trainable_variables", "_tracker", "_layers", "_metrics", "_seed_generators"),
    *("optimizer", "_optimizer", "_loss_tracker"),
)
"""Attributes in which Keras notes the variables of a layer, beside those that hold them."""

_index_lock = threading.Lock()
_index_users: list[Callable] = []


@contextmanager
def any_index() -> Iterator[None]:
    """Lets symbolic tensors take a lone slice, None or Ellipsis as an index, as all other tensors do."""
    with _index_lock:
        _index_users.append(_index_users[0] if _index_users else keras.KerasTensor.__getitem__)
        plain = _index_users[0]

        def get_item(tensor: Any, key: Any) -> Any:
            return plain(tensor, (key,) if key is None or key is Ellipsis or isinstance(key, slice) else key)

        keras.KerasTensor.__getitem__ = get_item
    try:
        yield
    finally:
        with _index_lock:
            _index_users.pop()
            if not _index_users:
                keras.KerasTensor.__getitem__ = plain


def state_of(operation: Any) -> dict[str, Any]:
    """Returns what symbolic calls would leave on an operation."""
    own = vars(operation)
    state = {name: list(own[name]) for name in ("_inbound_nodes", "_outbound_nodes", "_losses") if name in own}
    return state | {"_loss_ids": set(own.get("_loss_ids", ()))}


def restore(operation: Any, state: dict[str, Any]) -> None:
    """Takes off what was added to an operation since `state_of`."""
    for name, before in state.items():
        held = vars(operation).get(name)
        if isinstance(held, list):
            del held[len(before) :]
        elif isinstance(held, set):
            held.intersection_update(before)


def variables_of(layer: Any) -> list[tuple[str, Any]]:
    """Returns the attributes of a layer that hold its variables: itself, in lists or in dictionaries."""
    held = []
    for name, value in vars(layer).items():
        if name not in _OF_KERAS and not is_bookkeeping(name) and _holds_variables(value):
            held.append((name, value))
    return held


def _holds_variables(value: Any) -> bool:
    if isinstance(value, keras.Variable):
        return True
    if isinstance(value, dict):
        return any(_holds_variables(own) for own in value.values())
    return isinstance(value, list | tuple) and any(_holds_variables(own) for own in value)
