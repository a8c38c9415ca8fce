"""What becomes of a model's own graph of layers where whole blocks leave it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras.src.ops.numpy import Add

from tfprune.graph.blocks import Removal
from tfprune.surgery.configuring import Refused


def whole_layers(layer: Any, removal: Removal) -> Iterator[Any]:
    """Yields the outermost layers inside this one whose weights are needed no more, some of them by blocks that go."""
    for own in layer._flatten_layers(include_self=False, recursive=False):
        keys = {id(weight) for weight in own.weights}
        if keys & removal.variables and not keys & removal.used:
            yield own
        else:
            yield from whole_layers(own, removal)


def added_up(node: Any, values: dict[int, Any]) -> dict[int, Any]:
    """Returns what an addition gives of which some operands are gone."""
    left = [values[id(own)] for own in node.input_tensors if values[id(own)] is not None]
    if len(node.outputs) != 1 or not isinstance(node.operation, keras.layers.Add | Add):
        raise Refused(f"{node.operation.name!r} reads what is gone")
    return {id(node.outputs[0]): left[0] if len(left) == 1 else keras.layers.Add(name=node.operation.name)(left)}


def passed_on(node: Any, values: dict[int, Any]) -> dict[int, Any]:
    """Returns what a layer gives out whose blocks are all gone: what enters it."""
    result, left = {}, list(node.input_tensors)
    for output in node.outputs:
        stream = next((own for own in left if tuple(own.shape) == tuple(output.shape)), None)
        if stream is None:
            raise Refused(f"{node.operation.name!r} is gone, but does not give out what it takes")
        left = [own for own in left if own is not stream]
        result[id(output)] = values[id(stream)]
    return result
