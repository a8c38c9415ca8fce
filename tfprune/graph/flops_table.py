"""The table of floating-point operations: how many a call of a layer class needs. Open to users."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tfprune.graph.closing import closed
from tfprune.layers.opened import Sized

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation for one sample, with the lengths that are left after a cut.

    Attributes:
        operation: the layer or operation. Its own sizes (`units`, `filters`) are those before the cut: do not use them.
        node: the graph's node, for the call's arguments.
        inputs: the shape of each tensor that enters, a batch of one.
        outputs: the shape of each tensor that leaves.
    """

    operation: Any
    node: Any
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    weights: dict[int, Shape] = field(repr=False)

    def weight(self, variable: Any) -> Shape:
        """Returns the shape of a weight after the cut; `()` for None (a bias that is not there)."""
        if variable is None:
            return ()
        return self.weights.get(id(variable), tuple(variable.shape))

    def argument(self, name: str, position: int) -> Shape | None:
        """Returns the shape of the tensor that the call got under `name` or at `position`; None if it got none."""
        args, kwargs = self.node.arguments.args, self.node.arguments.kwargs
        tensor = kwargs.get(name, args[position] if len(args) > position else None)
        for known, shape in zip(self.node.input_tensors, self.inputs, strict=True):
            if known is tensor:
                return shape
        return None


FlopsRow = Callable[[Call], float]

_table: dict[type, FlopsRow] = {}


def register_flops(*classes: type) -> Callable[[FlopsRow], FlopsRow]:
    """Says how many floating-point operations a call of a layer class needs: a decorator for one row.

    The row takes a `Call` and returns a number: 2 for each multiply-add, 1 for each other arithmetic operation. The
    exact class counts, and is not opened any more (`graph.closed`). A class without a row that is not opened is counted
    as one operation for each number that it gives out.

    Args:
        *classes: classes of layers or of `keras.ops` operations.

    Raises:
        TypeError: if one of `classes` is no class.

    Example:
        >>> @tfprune.graph.register_flops(MyDense)                    # doctest: +SKIP
        ... def my_dense(call):
        ...     return 2 * math.prod(call.outputs[0]) * call.weight(call.operation.table)[0]
    """
    for layer_class in classes:
        if not isinstance(layer_class, type):
            raise TypeError(f"register_flops: expected classes, received {layer_class!r}. Pass the class itself.")

    def keep(row: FlopsRow) -> FlopsRow:
        _table.update(dict.fromkeys(classes, row))
        closed(*classes)
        return row

    return keep


def flops_row_of(operation: Any) -> FlopsRow | None:
    """Returns the row for the exact class of `operation`, or None."""
    operation = operation.operation if isinstance(operation, Sized) else operation
    return _table.get(type(operation))
