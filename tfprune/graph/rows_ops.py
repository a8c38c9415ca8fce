"""Rows of `keras.ops` nodes: what `+`, `*`, indexing and the like leave in a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras.src.activations import activations
from keras.src.ops import core, nn, numpy
from keras.src.ops import math as math_operations

from tfprune.graph.batch import moved_axes
from tfprune.graph.operands import Operand, broadcast, joined, operand, operands
from tfprune.graph.rows_shape import reshaped
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


def operations(*names: str) -> list[type]:
    """Returns those of the named operation classes that this version of Keras has."""
    return [getattr(room, name) for name in names for room in (numpy, nn, core, math_operations) if hasattr(room, name)]


@register(
    *operations(
        *[
            "Absolute",
            "Abs",
            "Arctan",
            "Arcsinh",
            "Cbrt",
            "Ceil",
            "Cos",
            "Cosh",
            "Exp",
            "Exp2",
            "Expm1",
            "Floor",
            "Log",
            "Log10",
            "Log1p",
            "Log2",
            "Negative",
        ],
        *[
            "Reciprocal",
            "Round",
            "Sign",
            "Sin",
            "Sinh",
            "Sqrt",
            "Square",
            "Tan",
            "Tanh",
            "Trunc",
            "NanToNum",
            "Copy",
            "Rsqrt",
            "Erf",
            "Cast",
            "StopGradient",
        ],
        *[
            "Relu",
            "Relu6",
            "Sigmoid",
            "SparseSigmoid",
            "Softplus",
            "Softsign",
            "SoftShrink",
            "SparsePlus",
            "Silu",
            "Squareplus",
            "LogSigmoid",
        ],
        *[
            "LeakyRelu",
            "HardSigmoid",
            "HardSilu",
            "Elu",
            "Selu",
            "Gelu",
            "Celu",
            "Mish",
            "LogicalNot",
            "Isnan",
            "Isinf",
            "Isfinite",
            "TanhShrink",
            "HardTanh",
            "HardShrink",
            "Threshold",
            "Erfc",
            "Erfinv",
            "SaturateCast",
            "ConvertToTensor",
            "Arccos",
            "Arcsin",
            "Arccosh",
            "Arctanh",
            "Deg2rad",
            "Rad2deg",
            "Sinc",
            "Positive",
            "BitwiseNot",
        ],
    ),
    follows=True,
)
def elementwise(step: Step, x: Signal, *args, **kwargs) -> Axes:
    if any(isinstance(other, Signal) for other in (*args, *kwargs.values())):
        return unknown(step, [x, *(other for other in (*args, *kwargs.values()) if isinstance(other, Signal))])
    return x.axes


register(activations.ReLU, follows=True)(elementwise)


@register(*operations("Clip"), follows=True)
def clip(step: Step, x: Signal) -> Axes:
    if np.ndim(step.operation.x_min) or np.ndim(step.operation.x_max):
        step.fix_axes(x, "its bounds are arrays")
    return x.axes


def unknown(step: Step, signals: list[Signal]) -> Axes:
    step.wall("this form of the operation cannot be read", signals)
    return step.untracked()


@register(
    *operations(
        *[
            "Add",
            "Subtract",
            "Multiply",
            "Divide",
            "DivideNoNan",
            "TrueDivide",
            "FloorDivide",
            "Power",
            "Maximum",
            "Minimum",
            "Mod",
            "Arctan2",
        ],
        *["Logaddexp", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr"],
        *["LogicalXor", "Logaddexp2", "Heaviside", "Hypot", "Nextafter", "BitwiseAnd", "BitwiseOr", "BitwiseXor"],
    )
)
def elementwise_of_two(step: Step, x1: Any, x2: Any) -> Axes:
    return broadcast(step, _aligned_right(step, x1=x1, x2=x2))


@register(*operations("Where"))
def where(step: Step, condition: Any, x1: Any, x2: Any) -> Axes:
    return broadcast(step, _aligned_right(step, condition=condition, x1=x1, x2=x2))


def _aligned_right(step: Step, **values: Any) -> list[Operand]:
    """NumPy's rule: missing axes at the front have length 1. Takes the arguments of the call by name, in order."""
    rank = len(step.node.outputs[0].shape)
    in_order = len(step.node.arguments.args)
    result = []
    for place, (name, value) in enumerate(values.items()):
        own = operand(step, value, place if place < in_order else name)
        result.append(own.with_more_axes(0, rank - len(own.shape)))
    return result


@register(*operations("ZerosLike", "OnesLike", "FullLike"))
def constant_like(step: Step, x: Signal, *args, **kwargs) -> Axes:
    """Only the shape is looked at: every position holds the same number."""
    for axis in range(x.rank):
        step.uniform(axis)
    return x.axes


@register(*operations("Concatenate"))
def concatenate(step: Step, xs: list[Any]) -> Axes:
    return joined(step, operands(step, xs, "xs"), step.operation.axis)


@register(*operations("Reshape"))
def reshape(step: Step, x: Signal) -> Axes:
    target = tuple(step.node.outputs[0].shape)
    return _with_literal_sizes(step, reshaped(step, x.axes, x.shape, target), "newshape")


def _with_literal_sizes(step: Step, axes: Axes, key: str) -> Axes:
    literal = getattr(step.operation, key)
    for place, ids in enumerate(axes):
        if ids is not None and isinstance(literal[place], int):
            step.size((key, place), ids)
    return axes


@register(*operations("Ravel"))
def ravel(step: Step, x: Signal) -> Axes:
    step.fix_axes(x, "the batch axis is reshaped")
    return step.untracked()


@register(*operations("Transpose"))
def transpose(step: Step, x: Signal) -> Axes:
    order = step.operation.axes or tuple(reversed(range(x.rank)))
    return tuple(x.axes[axis] for axis in order)


@register(*operations("Swapaxes"))
def swapaxes(step: Step, x: Signal) -> Axes:
    axes = list(x.axes)
    one, other = x.axis(step.operation.axis1), x.axis(step.operation.axis2)
    axes[one], axes[other] = axes[other], axes[one]
    return tuple(axes)


@register(*operations("Moveaxis"))
def moveaxis(step: Step, x: Signal) -> Axes:
    return tuple(x.axes[axis] for axis in moved_axes(step.operation, x.rank))


@register(*operations("ExpandDims"))
def expand_dims(step: Step, x: Signal) -> Axes:
    axes = list(x.axes)
    places = np.atleast_1d(step.operation.axis).tolist()
    for place in sorted(place % (x.rank + len(places)) for place in places):
        axes.insert(place, None)
    return tuple(axes)


@register(*operations("Squeeze"))
def squeeze(step: Step, x: Signal) -> Axes:
    axis = step.operation.axis
    gone = [k for k in range(1, x.rank) if x.shape[k] == 1] if axis is None else np.atleast_1d(axis) % x.rank
    for place in gone:
        step.fix(x.axes[place], "its axis is squeezed away")
    return tuple(ids for place, ids in enumerate(x.axes) if place not in set(gone))


@register(*operations("Flip"))
def flip(step: Step, x: Signal) -> Axes:
    axis = step.operation.axis
    turned = range(x.rank) if axis is None else np.atleast_1d(axis) % x.rank
    return tuple(ids[::-1] if ids is not None and k in set(turned) else ids for k, ids in enumerate(x.axes))


@register(*operations("Split"))
def split(step: Step, x: Signal) -> list[Axes]:
    axis = x.axis(step.operation.axis)
    ids = x.axes[axis]
    if ids is None:
        return [x.axes] * len(step.node.outputs)
    lengths = [tensor.shape[axis] for tensor in step.node.outputs]
    borders = np.cumsum(lengths)[:-1]
    literal = step.operation.indices_or_sections
    if isinstance(literal, int):
        # Equal parts stay equal only if the same positions of every part go.
        parts = ids.reshape(literal, -1)
        for part in range(1, literal):
            step.unite(parts[0], parts[part])
    else:
        for place, border in enumerate(borders.tolist()):
            step.size(("indices_or_sections", place), ids, count_before(border))
    return [x.replaced(axis, step.part(part)) for part in np.split(ids, borders)]


def count_before(border: int) -> Callable[[Any, np.ndarray], int]:
    """Returns the change of a size that says how many positions lie before `border`."""
    return lambda old, kept: int(kept[:border].sum())


@register(*operations("GetItem"))
def get_item(step: Step, x: Signal, key: Any) -> Axes:
    """Basic indexing: slices, whole numbers, None and the ellipsis."""
    entries = _full_key(key, x.rank)
    if entries is None:
        return unknown(step, [x])
    axes: list[np.ndarray | None] = []
    axis = 0
    for place, entry in enumerate(entries):
        if entry is None:
            axes.append(None)
            continue
        ids = x.axes[axis]
        if isinstance(entry, slice):
            axes.append(_sliced(step, ids, entry, x.shape[axis], (entries, place)))
        else:
            step.fix(ids, "one of its units is picked by number")
        axis += 1
    return tuple(axes)


def _full_key(key: Any, rank: int) -> list | None:
    """Returns one entry per axis (and per new axis), or None if the key is no basic one."""
    entries = list(key) if isinstance(key, tuple) else [key]
    if not all(entry is None or entry is Ellipsis or isinstance(entry, int | slice) for entry in entries):
        return None
    missing = rank - sum(entry is not None and entry is not Ellipsis for entry in entries)
    if Ellipsis not in entries:
        entries.append(Ellipsis)
    at = entries.index(Ellipsis)
    return [*entries[:at], *[slice(None)] * missing, *entries[at + 1 :]]


def _sliced(step: Step, ids: np.ndarray | None, entry: slice, length: int | None, where: tuple) -> np.ndarray | None:
    if ids is None or entry == slice(None):
        return ids
    start, stop, stride = entry.indices(length)
    if stride != 1:
        step.fix(ids, "every so many-th of its units is picked")
        return ids[entry]
    entries, place = where
    full = tuple(entries)

    def change(old: Any, kept: np.ndarray) -> tuple:
        current = old if isinstance(old, tuple) and len(old) == len(full) and Ellipsis not in old else full
        new = slice(int(kept[:start].sum()), int(kept[:stop].sum()), None)
        return (*current[:place], new, *current[place + 1 :])

    step.argument((1,), ids, change)
    return step.part(ids[start:stop])
