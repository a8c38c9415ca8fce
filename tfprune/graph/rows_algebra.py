"""Rows of products of tensors: `einsum`, `matmul` and their kin, and attention as one operation.

A letter stands for every axis. Axes of one letter meet. A letter that the result lacks is summed over: its units end
there. Constant arrays are cut along the units that they meet, and so are weights that code reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras.src.ops import nn, numpy

from tfprune.graph.equations import product_letters
from tfprune.graph.operands import Operand, cut_along, operand
from tfprune.graph.rows_ops import operations, unknown
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


@register(numpy.Einsum)
def einsum(step: Step, *values: Any, **kwargs) -> Axes:
    return _product(step, values, list(range(len(values))))


@register(*operations("Matmul", "Dot", "Inner", "Tensordot"))
def product(step: Step, x1: Any, x2: Any) -> Axes:
    in_order = len(step.node.arguments.args)
    return _product(step, (x1, x2), [place if place < in_order else f"x{place + 1}" for place in range(2)])


def _product(step: Step, values: Sequence[Any], places: Sequence[int | str]) -> Axes:
    given = [operand(step, value, place) for value, place in zip(values, places, strict=True)]
    letters = product_letters(step.operation, [len(own.shape) for own in given])
    if letters is None or any(len(set(part)) < len(part) for part in letters[0]):
        return unknown(step, [value for value in values if isinstance(value, Signal)])
    parts, target = letters
    if len(target) != len(step.node.outputs[0].shape):  # Old versions of Keras tell other shapes than they compute.
        return unknown(step, [value for value in values if isinstance(value, Signal)])
    found = {}
    for letter in sorted(set("".join(parts))):
        where = [(k, part.index(letter)) for k, part in enumerate(parts) if letter in part]
        found[letter] = _met(step, given, where)
        if letter not in target:
            _ends(step, values, where)
    return tuple(found[letter] for letter in target)


def _met(step: Step, given: Sequence[Operand], where: Sequence[tuple[int, int]]) -> np.ndarray | None:
    """Returns the ids of the axes of one letter, which meet; one of length 1 is stretched over the others."""
    longest = any(given[k].shape[axis] != 1 for k, axis in where)
    ids, first = None, True
    for k, axis in where:
        own = given[k]
        if longest and own.shape[axis] == 1:
            step.fix(own.axes[axis], "it is stretched over another axis")
        elif not own.is_constant:
            ids = own.axes[axis] if first else step.unite(ids, own.axes[axis])
            first = False
    for k, axis in where:
        cut_along(step, given[k], axis, ids)
    return ids


def _ends(step: Step, values: Sequence[Any], where: Sequence[tuple[int, int]]) -> None:
    """Says that the axes of a letter are summed over. One factor that is off does for all, so one is an exit."""
    signals = [(values[k], axis) for k, axis in where if isinstance(values[k], Signal)]
    for signal, axis in signals:
        batch = step.batch(signal)
        if signal.axes[axis] is not None and batch is not None and batch.axis != axis:
            step.contract(signal, axis, kernel=False)
            return
    for signal, axis in signals:
        step.contract(signal, axis, kernel=False)


@register(nn.DotProductAttention)
def dot_product_attention(
    step: Step, query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: Any = None, **kwargs
) -> Axes:
    """Heads are on the last axis but one; several heads of the query may read one of the key."""
    signals = [own for own in (query, key, value, bias, mask, scale) if isinstance(own, Signal)]
    if not all(isinstance(own, Signal) and own.rank == 4 for own in (query, key, value)):
        return unknown(step, signals)
    for signal in (query, key, value):
        step.fix_axes(signal, "attention mixes the positions along this axis", keep=[2, 3])
    heads = query.axes[2]
    for signal in (key, value):
        own = signal.axes[2]
        if own is not None and query.shape[2] != signal.shape[2]:
            own = np.repeat(own, query.shape[2] // signal.shape[2])
        heads = step.unite(heads, own)
    for own in (bias, mask):
        length = np.shape(own)[1] if own is not None and len(np.shape(own)) == 4 else 1
        if isinstance(own, Signal):
            step.fix_axes(own, "it is added to the scores of attention")
        if length != 1:
            step.fix(heads, "every head has a mask or bias of its own")
    if scale is None:
        step.fix(query.axes[3], "the scores are scaled by how many there are")
        step.fix(key.axes[3], "the scores are scaled by how many there are")
    channels = step.unite(query.axes[3], key.axes[3])
    step.contract(query, 3, kernel=False)
    # Keras says that what comes out is as wide as the query.
    return (query.axes[0], query.axes[1], heads, step.unite(channels, value.axes[3]))
