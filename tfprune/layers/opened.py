"""What stands in the graph of an opened model for what no layer of Keras says: weights read by code, sizes, masks."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from keras.src import backend

from tfprune.layers.masks import package


@package
class HeldWeight(layers.Layer):
    """Gives out a weight that the code of a layer reads itself.

    Args:
        variable: the weight, or its shape.
        **kwargs: passed on to `keras.layers.Layer`.

    Call arguments:
        reference: any tensor; its numbers do not count.
    """

    def __init__(self, variable: Any, **kwargs: Any):
        own = isinstance(variable, keras.Variable)
        kwargs.setdefault("dtype", variable.dtype if own else None)
        super().__init__(**kwargs)
        self.autocast = False
        self.supports_masking = False
        self.held = variable if own else self.add_weight(shape=tuple(variable), initializer="zeros", name="held")

    def build(self, *shapes: Any) -> None:
        """Nothing is left to build."""
        self.built = True

    def call(self, reference: Any) -> Any:
        # A variable would pass for a tensor, but a gradient tape watches none of Keras.
        return tf.convert_to_tensor(self.held.value)

    def compute_output_spec(self, reference: Any) -> Any:
        return keras.KerasTensor(tuple(self.held.shape), self.held.dtype)

    def get_config(self) -> dict:
        return super().get_config() | {"variable": list(self.held.shape)}


class WithMask(keras.Operation):
    """Puts a time mask of Keras on a tensor."""

    def call(self, x: Any, mask: Any) -> Any:
        # A tensor of its own: the one that came in may be read by others, without the mask.
        x = ops.copy(x)
        backend.set_keras_mask(x, mask)
        return x

    def compute_output_spec(self, x: Any, mask: Any) -> Any:
        result = keras.KerasTensor(x.shape, x.dtype)
        backend.set_keras_mask(result, mask)
        return result


Size = tuple[int | Fraction, tuple[tuple[int, int], ...], int]
"""A size that follows the inputs: `(factor, ((input, axis), ...), offset)`, factor times these lengths plus offset."""

Path = tuple[Any, ...]


def length_of(size: Size, like: Sequence[Any]) -> Any:
    """Returns a size for these inputs: an int where their shapes say it, else a scalar tensor."""
    factor, axes, offset = size
    result: Any = factor.numerator
    for number, axis in axes:
        result = result * ops.shape(like[number])[axis]
    return result // factor.denominator + offset


def put(structure: Any, path: Path, value: Any) -> Any:
    """Returns a structure of tuples, lists, dictionaries and slices with `value` at `path`."""
    if not path:
        return value
    place, *rest = path
    if isinstance(structure, slice):
        parts = {name: getattr(structure, name) for name in ("start", "stop", "step")}
        return slice(*{**parts, place: put(parts[place], tuple(rest), value)}.values())
    if isinstance(structure, dict):
        return {**structure, place: put(structure[place], tuple(rest), value)}
    changed = list(structure)
    changed[place] = put(changed[place], tuple(rest), value)
    return tuple(changed) if isinstance(structure, tuple) else changed


class Sized(keras.Operation):
    """An operation with numbers among its settings or arguments that follow the sizes of the model's inputs.

    Args:
        operation: the operation, with the settings that it has for one size.
        settings: for the path of every such setting, the size that it is.
        arguments: the same for the arguments of the call; a path begins with a position or a name.
        name: as for every operation.
    """

    def __init__(
        self, operation: Any, settings: dict[Path, Size], arguments: dict[Path, Size], name: str | None = None
    ):
        super().__init__(name=name)
        self.operation = operation
        self.settings, self.arguments = dict(settings), dict(arguments)

    def call(self, *args: Any, like: Sequence[Any] = (), **kwargs: Any) -> Any:
        own = object.__new__(type(self.operation))
        vars(own).update(vars(self.operation))
        for (name, *rest), size in self.settings.items():
            vars(own)[name] = put(vars(own)[name], tuple(rest), length_of(size, like))
        held = {**dict(enumerate(args)), **kwargs}
        for (place, *rest), size in self.arguments.items():
            held[place] = put(held[place], tuple(rest), length_of(size, like))
        return own.call(*(held[k] for k in range(len(args))), **{name: held[name] for name in kwargs})

    def get_config(self) -> dict:
        """The settings of the operation inside, at the names that it gives them, and what follows the inputs."""
        own = {"sized": type(self.operation), "settings": self.settings, "arguments": self.arguments}
        return {**self.operation.get_config(), **own, "name": self.name}

    @classmethod
    def from_config(cls, config: dict) -> Sized:
        """Builds the operation from what `get_config` has returned."""
        config = dict(config)
        own = [config.pop(key) for key in ("sized", "settings", "arguments", "name")]
        return cls(own[0].from_config(config), own[1], own[2], name=own[3])


class SizedArray(keras.Operation):
    """An array that code has made for the sizes of the inputs (positions, a causal mask), for any size up to a longest.

    Args:
        array: the array for the longest inputs; of length 1 along axes that are repeated.
        sizes: for every axis that follows the inputs, the size that it is.
        repeated: the axes along which the array holds the same numbers.
        anchors: where the array for shorter inputs stands in it, by axis: 0 at the beginning, 1 in the middle, 2 at the
            end. An axis that is left out stands at the beginning.
        name: as for every operation.
    """

    def __init__(
        self,
        array: Any,
        sizes: dict[int, Size],
        repeated: Sequence[int] = (),
        anchors: dict[int, int] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name)
        self.array = np.asarray(array)
        self.sizes, self.repeated = dict(sizes), tuple(repeated)
        self.anchors = dict(anchors or {})

    def call(self, like: Sequence[Any]) -> Any:
        lengths = {axis: length_of(size, like) for axis, size in self.sizes.items()}
        cut = [
            self._part(k, lengths[k]) if k in lengths and k not in self.repeated else slice(None) for k in self._axes
        ]
        array = ops.convert_to_tensor(self.array)[tuple(cut)]
        for axis in self.repeated:
            array = ops.repeat(array, lengths[axis], axis=axis)
        return array

    def _part(self, axis: int, length: Any) -> slice:
        start = self.anchors.get(axis, 0) * (self.array.shape[axis] - length) // 2
        return slice(start, start + length)

    @property
    def _axes(self) -> range:
        return range(self.array.ndim)

    def compute_output_spec(self, like: Sequence[Any]) -> Any:
        given = [tensor.shape for tensor in like]
        shape = list(self.array.shape)
        for axis, (factor, axes, offset) in self.sizes.items():
            lengths = [given[number][own] for number, own in axes]
            shape[axis] = None if None in lengths else factor * int(np.prod(lengths)) + offset
        return keras.KerasTensor(shape, self.array.dtype.name)

    def get_config(self) -> dict:
        return {"name": self.name, "array": self.array, "sizes": self.sizes, "repeated": self.repeated} | {
            "anchors": self.anchors
        }
