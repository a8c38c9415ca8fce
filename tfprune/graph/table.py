"""The table of layer classes: which row reads a call of which class. Open to users through `register`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One row: `read(step, *args, **kwargs)` gets the arguments of the layer's call with signals for tensors.

    `follows` says that the layer treats every unit by itself and changes no positions, so that the home of a unit
    moves behind it.
    """

    read: Callable[..., Any]
    follows: bool = False


_table: dict[type, Row] = {}
_changes: list[int] = [0]


def version_of_table() -> int:
    """Returns a number that grows whenever a class is taught: what was read before may be read otherwise now."""
    return _changes[0]


def note_change() -> None:
    """Says that models may be read otherwise from now on."""
    _changes[0] += 1


def register(*layer_classes: type, follows: bool = False) -> Callable[[Callable], Callable]:
    """Teaches the reader a layer class: a decorator for one row of the table.

    The row is called as `row(step, *args, **kwargs)` with the arguments of the layer's own call, in which every tensor
    is a `Signal` (`.axes`: ids along each axis, `.shape`). It tells `step` what the layer does (`emit`, `contract`,
    `weight`, `size`, `unite`, `fix`, `activation`: see the methods of `tfprune.graph.Step`; every weight of the layer
    that has an axis of units, a bias too, is to be named by `weight`) and returns the axes of the output: a tuple with
    one entry per axis (`inputs.axes` if they stay), or a list of such tuples for several outputs. FLOPs of a new class
    are taught by `register_flops`. The exact class counts: a subclass needs its own row, as it may
    compute something else.

    Args:
        *layer_classes: classes of layers or of `keras.ops` operations.
        follows: True for a layer that treats every unit by itself at its own position (an activation).

    Raises:
        TypeError: if one of `layer_classes` is no class.

    Example:
        A dense layer of one's own, whose kernel is called `table`:

        >>> @tfprune.graph.register(MyDense)                          # doctest: +SKIP
        ... def my_dense(step, inputs):
        ...     rows = step.contract(inputs, -1)
        ...     units = step.emit(step.operation.units)
        ...     step.weight(step.operation.table, rows, units)
        ...     step.size("units", units)
        ...     return inputs.replaced(-1, units)
    """
    for layer_class in layer_classes:
        if not isinstance(layer_class, type):
            raise TypeError(f"register: expected classes, received {layer_class!r}. Pass the class, not an instance.")

    def keep(read: Callable) -> Callable:
        _table.update({layer_class: Row(read, follows) for layer_class in layer_classes})
        note_change()
        return read

    return keep


def row_of(operation: Any) -> Row | None:
    """Returns the row for the exact class of `operation`, or None."""
    return _table.get(type(operation))
