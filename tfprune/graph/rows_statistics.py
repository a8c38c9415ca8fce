"""Rows of operations that take a statistic over positions: sums, means, norms, softmaxes, the choice of the largest.

Over units they hang on which units there are. A sum ends there; for the others a stand-in in the masked model sees
those units alone that are on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras.src.ops import linalg, nn, numpy
from keras.src.ops import math as math_operations

from tfprune.graph.rows_ops import operations, unknown
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register
from tfprune.layers import (
    MaskedExtreme,
    MaskedLogsumexp,
    MaskedMean,
    MaskedMoments,
    MaskedNorm,
    MaskedSoftmax,
    MaskedTopK,
    MaskedTopShares,
    MaskedVariance,
)
from tfprune.layers.reductions import reduced_axes

_SELECTING = tuple(operations("Max", "Min", "Amax", "Amin", "Any", "All"))
_TWINS = {
    **dict.fromkeys(operations("Mean"), MaskedMean),
    **dict.fromkeys(operations("Var", "Std"), MaskedVariance),
    **dict.fromkeys(operations("Max", "Min", "Amax", "Amin"), MaskedExtreme),
    **dict.fromkeys(operations("Logsumexp"), MaskedLogsumexp),
}
_REDUCED = "it is reduced along its units"


@register(*operations("Mean", "Sum", "Max", "Min", "Amax", "Amin", "Var", "Std", "Prod", "Logsumexp", "Any", "All"))
def reduction(step: Step, x: Signal, **kwargs) -> Axes:
    if any(value is not None for value in kwargs.values()):
        return unknown(step, [x])
    gone = reduced_axes(step.operation, x.rank)
    if isinstance(step.operation, numpy.Sum):
        for axis in gone:
            step.contract(x, axis, kernel=False)
    # What all positions agree on stays so with fewer of them.
    elif not isinstance(step.operation, _SELECTING) or not all(
        x.axes[axis] is None or step.is_uniform(x, axis) for axis in gone
    ):
        _look_across(step, x, gone, _TWINS.get(type(step.operation)), _REDUCED)
    return _left(step, x, gone)


def _left(step: Step, x: Signal, gone: Sequence[int]) -> Axes:
    if step.operation.keepdims:
        return tuple(None if axis in gone else ids for axis, ids in enumerate(x.axes))
    return tuple(ids for axis, ids in enumerate(x.axes) if axis not in gone)


def _look_across(step: Step, x: Signal, axes: Sequence[int], twin: type | None, reason: str) -> None:
    """Says that an operation looks across the units along these axes: by its stand-in, or they stay."""
    batch = step.batch(x)
    rows = [x.axes[axis] for axis in axes]
    real = x.real_axes == tuple(range(x.rank)) and step.operation is step.node.operation
    if twin is None or not real or not _is_real_number(x) or batch is None or batch.axis != 0 or 0 in axes:
        for ids in rows:
            step.fix(ids, reason)
    else:
        step.twin(twin, *rows)


def _is_real_number(x: Signal) -> bool:
    return "float" in str(x.tensor.dtype)


@register(nn.Moments)
def moments(step: Step, x: Signal) -> list[Axes]:
    gone = reduced_axes(step.operation, x.rank)
    _look_across(step, x, gone, MaskedMoments, _REDUCED)
    return [_left(step, x, gone)] * 2


@register(*operations("Softmax", "LogSoftmax", "Sparsemax"))
def softmax(step: Step, x: Signal) -> Axes:
    twin = MaskedSoftmax if isinstance(step.operation, nn.Softmax) else None
    _look_across(step, x, reduced_axes(step.operation, x.rank), twin, "a softmax looks across units")
    return x.axes


@register(linalg.Norm)
def norm(step: Step, x: Signal) -> Axes:
    """The length of a vector: a unit that is off adds nothing to it."""
    gone = reduced_axes(step.operation, x.rank)
    order = step.operation.ord
    for axis in gone:
        if order in (None, "fro") or (len(gone) == 1 and order in (1, 2, float("inf"))):
            step.contract(x, axis, kernel=False)
        else:
            step.fix(x.axes[axis], f"a norm of the order {order} is taken of its units")
    return _left(step, x, gone)


@register(nn.Normalize)
def normalize(step: Step, x: Signal) -> Axes:
    for axis in reduced_axes(step.operation, x.rank):
        if step.operation.order in (1, 2, float("inf")):
            step.contract(x, axis, kernel=False)
        else:
            step.fix(x.axes[axis], f"a norm of the order {step.operation.order} is taken of its units")
    return x.axes


@register(*[getattr(nn, name) for name in ("RMSNorm", "LayerNorm") if hasattr(nn, name)])
def norm_operation(step: Step, x: Signal, *parameters: Any, **named: Any) -> Axes:
    axes = reduced_axes(step.operation, x.rank)
    given = [own for own in (*parameters, *named.values()) if own is not None]
    plain = len(axes) == 1 and not getattr(step.operation, "rms_scaling", False)
    if not plain or not all(isinstance(own, Signal) and own.rank == 1 for own in given):
        step.wall("a norm over several axes, or with a scale that is no vector of weights", [x])
        for own in given:
            if isinstance(own, Signal):
                step.fix_axes(own, "a norm over several axes")
        return step.untracked()
    ids = x.axes[axes[0]]
    for own in given:
        ids = step.unite(ids, own.axes[0])
    _look_across(step, x, axes, MaskedNorm, "a norm looks across units")
    return x.replaced(axes[0], ids)


@register(math_operations.TopK)
def top_k(step: Step, x: Signal) -> list[Axes]:
    """The largest scores and their places: of experts, say. With fewer units than `k` all of them are chosen."""
    ids = x.axes[-1]
    front = x.axes[:-1]
    if ids is not None:
        twin = MaskedTopShares if _are_shares(x.tensor) else MaskedTopK
        _look_across(step, x, [x.rank - 1], twin, "the largest of its units are chosen")
        step.size("k", ids, lambda old, kept: min(old, int(kept.sum())))
        step.picks(ids, 1)
    return [(*front, None), (*front, None)]


def _are_shares(tensor: Any) -> bool:
    """Whether the numbers of a tensor are no less than zero: a softmax or a sigmoid has made them."""
    while True:
        operation = tensor._keras_history.operation
        if isinstance(operation, nn.Softmax | nn.Sigmoid):
            return True
        if not isinstance(operation, operations("Cast")[0]):
            return False
        tensor = operation._inbound_nodes[tensor._keras_history.node_index].input_tensors[0]


@register(*operations("Argmax"))
def argmax(step: Step, x: Signal) -> Axes:
    gone = reduced_axes(step.operation, x.rank)
    if len(gone) == 1 and x.axes[gone[0]] is not None:
        _look_across(step, x, gone, MaskedTopK, "the largest of its units is chosen")
        step.picks(x.axes[gone[0]])
    else:
        for axis in gone:
            step.fix(x.axes[axis], _REDUCED)
    return _left(step, x, gone)


@register(nn.OneHot)
def one_hot(step: Step, x: Signal) -> Axes:
    """The places of units become an axis of these units."""
    ids, axis = step.picked(x), step.operation.axis % (x.rank + 1)
    if ids is not None:
        if step.operation.num_classes != len(ids):
            step.fix(ids, "one of its units is picked by number")
        step.size("num_classes", ids)
    for own in x.axes[axis:] if ids is None else ():
        step.fix(own, "its numbers are taken for places")
    return (*x.axes[:axis], ids, *x.axes[axis:])


@register(*operations("Cumsum", "Cumprod", "Sort", "Argsort", "Argmin"))
def in_order(step: Step, x: Signal) -> Axes:
    """Each number hangs on those before it, along one axis."""
    if isinstance(step.operation, numpy.Cumsum) and step.operation.axis is not None:
        axis = x.axis(step.operation.axis)
        step.contract(x, axis, kernel=False)
        return x.axes
    axes = reduced_axes(step.operation, x.rank)
    for axis in axes:
        step.fix(x.axes[axis], "its units are put in order, or multiplied up")
    if isinstance(step.operation, operations("Argmin")[0]):
        return _left(step, x, axes)
    return x.axes if len(step.node.outputs[0].shape) == x.rank and len(axes) == 1 else step.untracked()
