"""The table of layer classes: which steps a call of which class consists of. Open to users through `register`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfprune.graph.closing import closed

_table: dict[type, Callable] = {}


def register(*layer_classes: type) -> Callable[[Callable], Callable]:
    """Teaches relevance a layer class: a decorator for one row of the table.

    The row is called as `row(trace, *args, **kwargs)` with the arguments of the layer's own call, in which every tensor
    is a `Value` (`.tensor`, `.shape`, `.mask`). It says by the methods of `trace` (`linear`, `affine`, `move`,
    `nonlinearity`, `maximum`, `product`, `activation`, `softmax`) what the layer does, and returns the `Value` of its
    output, or a list of them. The exact class counts. A class that is taught here is not opened any more
    (`graph.closed`): the row speaks for all of it.

    Args:
        *layer_classes: classes of layers or of `keras.ops` operations.

    Raises:
        TypeError: if one of `layer_classes` is no class.

    Example:
        A dense layer of one's own, whose kernel is called `table`:

        >>> @tfprune.relevance.register(MyDense)                          # doctest: +SKIP
        ... def my_dense(trace, inputs):
        ...     layer = trace.layer
        ...     result = trace.linear(lambda x, table: x @ table, inputs, weights=[layer.table], bias=layer.shift)
        ...     return trace.activation(result, layer.activation)
    """
    for layer_class in layer_classes:
        if not isinstance(layer_class, type):
            raise TypeError(f"register: expected classes, received {layer_class!r}. Pass the class, not an instance.")

    def keep(row: Callable) -> Callable:
        _table.update({layer_class: row for layer_class in layer_classes})
        closed(*layer_classes)
        return row

    return keep


def row_of(operation: Any) -> Callable | None:
    """Returns the row for the exact class of `operation`, or None."""
    return _table.get(type(operation))
