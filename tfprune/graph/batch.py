"""Where the batch lies in a tensor: a mask of one row per sample can only be put on a tensor that has the samples."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.src.ops import core, nn, numpy

from tfprune.graph.equations import product_letters
from tfprune.layers.opened import HeldWeight, Sized, SizedArray


class Batch(NamedTuple):
    """The axis along which samples lie; `merged` where each of them takes several positions in a row (its tokens)."""

    axis: int = 0
    merged: bool = False


def batch_of(tensor: Any, known: dict[int, tuple[Any, Batch | None]]) -> Batch | None:
    """Returns where the batch lies in a tensor of a graph, or None if it has none, or if that cannot be told.

    Args:
        tensor: a symbolic tensor.
        known: what was found before; it is added to.
    """
    waiting = [tensor]
    while waiting:
        current = waiting[-1]
        if id(current) in known:
            waiting.pop()
            continue
        node = _node_of(current)
        missing = [] if node is None else [own for own in node.input_tensors if id(own) not in known]
        if missing:
            waiting.extend(missing)
            continue
        known[id(waiting.pop())] = (current, Batch() if node is None else _behind(node, current, known))
    return known[id(tensor)][1]


def _node_of(tensor: Any) -> Any:
    """Returns the node that makes a tensor, or None for an input."""
    history = getattr(tensor, "_keras_history", None)
    if history is None or isinstance(history.operation, keras.layers.InputLayer):
        return None
    nodes = history.operation._inbound_nodes
    node = nodes[history.node_index] if history.node_index < len(nodes) else None
    return None if node is None or node.is_input else node


def _behind(node: Any, tensor: Any, known: dict) -> Batch | None:
    operation = node.operation
    own = operation.operation if isinstance(operation, Sized) else operation
    if isinstance(own, HeldWeight):
        return None
    if isinstance(own, SizedArray):
        return Batch() if 0 in own.repeated else None
    if isinstance(node.operation, Sized) and isinstance(own, numpy.BroadcastTo | numpy.Tile):
        settings = node.operation.settings.items()
        if any(path[1:] == (0,) and all(axis == 0 for _, axis in axes) for path, (_, axes, _) in settings):
            return Batch()
    if isinstance(node.operation, Sized) and isinstance(own, numpy.Repeat) and own.axis == 0:
        settings = node.operation.settings.items()
        if any(path == ("repeats",) and all(axis == 0 for _, axis in axes) for path, (_, axes, _) in settings):
            # Of a single row each sample gets one.
            return Batch() if node.input_tensors[0].shape[0] == 1 else None
    given = [(other, known[id(other)][1]) for other in node.input_tensors]
    given = [(other, batch) for other, batch in given if batch is not None]
    if not given:
        return None
    rule = _RULES.get(type(own))
    if rule is not None:
        return rule(node, own, given, tensor)
    return _aligned(given, tensor)


def _aligned(given: list, tensor: Any) -> Batch | None:
    """Tensors of one rank keep their batch where it is; counted from the back where ranks differ."""
    rank = len(tensor.shape)
    whole = [batch for other, batch in given if len(other.shape) == rank]
    if whole:
        # As long as one that has a row for each sample, it has too.
        same = len({batch.axis for batch in whole}) == 1
        return Batch(whole[0].axis, all(batch.merged for batch in whole)) if same else None
    first, batch = given[0]
    same = batch.axis == 0 and rank > 0 and tensor.shape[0] == first.shape[0]
    return batch if same else None


def _permuted(order: Any, batch: Batch) -> Batch:
    return batch._replace(axis=list(order).index(batch.axis))


def _transpose(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    rank = len(tensor.shape)
    order = own.axes or tuple(reversed(range(rank)))
    return _permuted([axis % rank for axis in order], given[0][1])


def _swapaxes(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    order = np.arange(len(tensor.shape))
    order[[own.axis1, own.axis2]] = order[[own.axis2, own.axis1]]
    return _permuted(order, given[0][1])


def _moveaxis(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    return _permuted(moved_axes(own, len(tensor.shape)), given[0][1])


def moved_axes(operation: Any, rank: int) -> list[int]:
    """Returns for each axis of what `ops.moveaxis` gives out which axis of its input it is."""
    sources = [int(axis) % rank for axis in np.atleast_1d(operation.source)]
    targets = [int(axis) % rank for axis in np.atleast_1d(operation.destination)]
    order = [axis for axis in range(rank) if axis not in sources]
    for target, axis in sorted(zip(targets, sources, strict=True)):
        order.insert(target, axis)
    return order


def _reshape(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    (before, batch), target = given[0], tuple(tensor.shape)
    if batch.axis != 0 or not target:
        return None
    size = node.operation.settings.get(("newshape", 0)) if isinstance(node.operation, Sized) else None
    if size is not None:
        factor, lengths, offset = size
        if not offset and any(axis == 0 for _, axis in lengths):
            return Batch(0, factor > 1 or len(lengths) > 1)
        return None
    if before.shape[0] is not None and target[0] == before.shape[0]:
        return batch
    one, other = before.shape[1:], target[1:]
    known = [prod(length for length in shape if length is not None) for shape in (one, other)]
    unknown = [sum(length is None for length in shape) for shape in (one, other)]
    if unknown == [0, 0] and known[0] == known[1]:
        return batch
    # It takes in tokens, or gives some back.
    whole = 0 not in known and (known[0] % known[1] == 0 or (batch.merged and known[1] % known[0] == 0))
    return Batch(0, True) if whole and (unknown[0] >= unknown[1] or batch.merged) and target[0] != 1 else None


def _expand_dims(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    rank = len(tensor.shape)
    new = {int(axis) % rank for axis in np.atleast_1d(own.axis)}
    left = [axis for axis in range(rank) if axis not in new]
    return given[0][1]._replace(axis=left[given[0][1].axis])


def _squeeze(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    before, batch = given[0]
    rank = len(before.shape)
    axes = [k for k in range(rank) if before.shape[k] == 1] if own.axis is None else np.atleast_1d(own.axis) % rank
    return _without({int(axis) for axis in axes}, batch)


def _without(gone: set[int], batch: Batch) -> Batch | None:
    if batch.axis in gone:
        return None
    return batch._replace(axis=batch.axis - sum(axis < batch.axis for axis in gone))


def _reduction(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    before, batch = given[0]
    rank = len(before.shape)
    axes = range(rank) if own.axis is None else np.atleast_1d(own.axis) % rank
    gone = {int(axis) for axis in axes}
    if own.keepdims:
        return None if batch.axis in gone else batch
    return _without(gone, batch)


def _stack(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    axis, batch = own.axis % len(tensor.shape), given[0][1]
    return batch._replace(axis=batch.axis + (axis <= batch.axis))


def _unstack(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    return _without({own.axis % len(given[0][0].shape)}, given[0][1])


def _get_item(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    before, batch = given[0]
    key = node.arguments.args[1] if len(node.arguments.args) > 1 else node.arguments.kwargs.get("key")
    entries = list(key) if isinstance(key, tuple) else [key]
    if not all(entry is None or entry is Ellipsis or isinstance(entry, int | slice) for entry in entries):
        return None
    missing = len(before.shape) - sum(entry is not None and entry is not Ellipsis for entry in entries)
    at = entries.index(Ellipsis) if Ellipsis in entries else len(entries)
    entries = [*entries[:at], *[slice(None)] * missing, *entries[at + 1 :]]
    read, made = 0, 0
    for entry in entries:
        if entry is None:
            made += 1
        elif read == batch.axis:
            return batch._replace(axis=made) if entry == slice(None) else None
        else:
            read, made = read + 1, made + (not isinstance(entry, int))
    return None


def _product(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    values = [*node.arguments.args, *node.arguments.kwargs.values()][: max(2, len(node.arguments.args))]
    found = product_letters(own, [len(np.shape(value)) for value in values])
    if found is None:
        return None
    batches, letters = {id(other): batch for other, batch in given}, set()
    for part, value in zip(found[0], values, strict=True):
        if id(value) in batches:
            batch = batches[id(value)]
            letters.add((part[batch.axis], batch.merged))
    letter, merged = letters.pop()
    return Batch(found[1].index(letter), merged) if not letters and letter in found[1] else None


def _repeat(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    before, batch = given[0]
    if own.axis is None:
        return None
    return Batch(batch.axis, True) if own.axis % len(before.shape) == batch.axis else batch


def _tile(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    before, batch = given[0]
    axis = batch.axis + len(tensor.shape) - len(before.shape)
    repeats = np.atleast_1d(own.repeats).tolist()
    repeats = [1] * (len(tensor.shape) - len(repeats)) + repeats
    return batch._replace(axis=axis) if repeats[axis] == 1 else None


def _last(node: Any, own: Any, given: list, tensor: Any) -> Batch | None:
    """Another axis comes in behind the others."""
    return given[0][1]


def _classes(*names: str) -> list[type]:
    return [getattr(room, name) for name in names for room in (numpy, nn, core) if hasattr(room, name)]


_RULES: dict[type, Any] = {
    own: rule
    for rule, names in {
        _transpose: ["Transpose"],
        _swapaxes: ["Swapaxes"],
        _moveaxis: ["Moveaxis"],
        _reshape: ["Reshape"],
        _expand_dims: ["ExpandDims"],
        _squeeze: ["Squeeze"],
        _reduction: [
            "Mean",
            "Sum",
            "Max",
            "Min",
            "Amax",
            "Amin",
            "Var",
            "Std",
            "Prod",
            "Any",
            "All",
            "Argmax",
            "Argmin",
        ],
        _stack: ["Stack"],
        _unstack: ["Unstack"],
        _get_item: ["GetItem"],
        _product: ["Einsum", "Matmul", "Dot", "Inner", "Tensordot"],
        _repeat: ["Repeat"],
        _tile: ["Tile"],
        _last: ["OneHot"],
    }.items()
    for own in _classes(*names)
}
"""What an operation does to the batch; all others keep it where it is."""
