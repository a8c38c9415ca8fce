"""Nodes and operations of a Keras graph one by one: their order, arguments, names and copies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import tree

_PATH, _CLOSED = "_tfprune_path", "_tfprune_closed"
STANDING = ("name", "_inbound_nodes", "_outbound_nodes", _PATH, _CLOSED)
"""Attributes that say where in a graph an operation stands."""
_BOOKKEEPING = re.compile(
    "_self_(setattr_tracking|unconditional_|update_uid|name_based_restores|saveable_object_factories|"
    "non_append_mutation|external_modification|last_wrapped|extra_variables|tracked_trackables)"
)


def is_bookkeeping(name: str) -> bool:
    """Whether an attribute of this name holds what TensorFlow notes of a layer, not what the layer holds.

    A layer may well hold a `_self_attention` of its own.
    """
    return _BOOKKEEPING.match(name) is not None


def name_of(operation: Any) -> str:
    """Returns the name of an operation: in an opened model its path, `block/layer`, which no name may be in Keras."""
    return getattr(operation, _PATH, operation.name)


def keep_place(old: Any, new: Any) -> None:
    """Gives an operation what an opened model notes of the one that it stands for: its path, and why it is shut."""
    vars(new).update({key: vars(old)[key] for key in (_PATH, _CLOSED) if key in vars(old)})


def drop_place(operation: Any) -> None:
    """Forgets what an opened model notes of an operation, which is then known by its name."""
    for key in (_PATH, _CLOSED):
        vars(operation).pop(key, None)


def set_path(operation: Any, path: str) -> None:
    """Names an operation of an opened model by its path."""
    operation.name = path.replace("/", ".")
    vars(operation)[_PATH] = path


def shut(operation: Any, reason: str) -> None:
    """Notes of an operation of an opened model that its code cannot be followed, and why."""
    vars(operation)[_CLOSED] = reason


def why_shut(operation: Any) -> str | None:
    """Returns why the code of an operation of an opened model cannot be followed; None if it is none, or can be."""
    return vars(operation).get(_CLOSED)


def is_graph(operation: Any) -> bool:
    """Whether `operation` is a model whose inside can be walked (a nested Sequential or functional model)."""
    if isinstance(operation, keras.Sequential):
        return operation._functional is not None
    return isinstance(operation, keras.Model) and hasattr(operation, "_nodes_by_depth")


def nodes_in(graph: Any) -> Iterator[Any]:
    """Yields the nodes of a functional graph as it is, as `nodes_of` does."""
    by_depth = graph._nodes_by_depth
    place = {id(operation): number for number, operation in enumerate(graph.operations)}
    for depth in sorted(by_depth, reverse=True):
        for node in sorted(by_depth[depth], key=lambda node: place[id(node.operation)]):
            if not isinstance(node.operation, keras.layers.InputLayer) and not node.is_input:
                yield node


def substituted(node: Any, replace: Callable[[Any], Any]) -> tuple[tuple, dict]:
    """Returns `(args, kwargs)` of the node's call with `replace(tensor)` in the place of every symbolic tensor."""

    def swap(leaf: Any) -> Any:
        return replace(leaf) if isinstance(leaf, keras.KerasTensor) else leaf

    return tree.map_structure(swap, node.arguments.args), tree.map_structure(swap, node.arguments.kwargs)


def copied(operation: Any, **changes: Any) -> Any:
    """Returns an operation that shares everything with this one, its weights too, but the attributes in `changes`.

    To build on copies leaves a model as it is: what is called symbolically keeps a record of every call for ever.
    """
    twin = object.__new__(type(operation))
    # Calls of the copy must not show in the graph of the original, nor in the losses that it reports.
    own = {"_inbound_nodes": [], "_outbound_nodes": []}
    if isinstance(operation, keras.layers.Layer):
        own |= {"_losses": [], "_loss_ids": set()}
    twin.__dict__.update(operation.__dict__ | own | changes)
    return twin
