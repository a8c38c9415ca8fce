"""Two kinds of units, survived and new ones: which weights lead from one to the other, and layers that know of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.kernels import row_axes
from tfprune.graph.walk import flat_nodes
from tfprune.layers import CrossedConv, CrossedDense
from tfprune.surgery.forms import finished
from tfprune.surgery.rebuild import Rebuild

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_ALIKE = (
    *("activation", "use_bias", "kernel_initializer", "bias_initializer", "kernel_regularizer", "bias_regularizer"),
    *("activity_regularizer", "kernel_constraint", "bias_constraint"),
)


class Kinds:
    """Which units of a model are new.

    Args:
        graph: the units of the model.
        old_sizes: how many of each group, the first ones, are not new; groups that it leaves out have no new ones.
    """

    def __init__(self, graph: UnitGraph, old_sizes: Mapping[str, int]):
        self.graph = graph
        self._new = np.zeros(graph.num_units + 1, bool)
        for name, size in old_sizes.items():
            group = graph[name]
            self._new[group.start + size : group.start + group.size] = True

    def new(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` whether a new unit is behind it; the last entry answers for no unit at all."""
        return self._new[self.graph.columns(ids)]

    def silence(self) -> None:
        """Sets the weights to zero that lead from one kind of units to the other, and from new ones to the outputs.

        What the model gives out is then what its old units do alone. New units that no other new ones enter keep what
        they read of old ones.
        """
        axes: dict[int, tuple[Any, set[int]]] = {}
        for exit in self.graph.records.exits:
            for variable, axis in row_axes(self.graph, exit):
                axes.setdefault(id(variable), (variable, set()))[1].add(axis)
        for variable, read in axes.values():
            weight = self.graph.records.weights[id(variable)]
            rows = self._along(weight, read)
            columns = self._along(weight, set(range(len(weight.axes))) - read)
            crosses = rows["new"] & ~columns["new"]
            if rows["new"].any():
                crosses = crosses | (rows["old"] & columns["new"])
            if crosses.any():
                value = keras.ops.convert_to_numpy(variable)
                variable.assign(np.where(np.broadcast_to(crosses, value.shape), 0, value))

    def _along(self, weight: Any, axes: set[int]) -> dict[str, np.ndarray]:
        """Returns which entries of a weight belong to a new unit along some axes, and which to old ones alone."""
        rank = len(weight.axes)
        result = {"new": np.zeros((1,) * rank, bool), "old": np.zeros((1,) * rank, bool)}
        for axis in axes:
            ids = weight.axes[axis]
            if ids is not None:
                shape = [-1 if k == axis else 1 for k in range(rank)]
                result["new"] = result["new"] | self.new(ids).reshape(shape)
                result["old"] = result["old"] | (self.graph.columns(ids) >= 0).reshape(shape)
        result["old"] = result["old"] & ~result["new"]
        return result

    def crossed(self) -> dict[int, tuple[Any, np.ndarray, np.ndarray]]:
        """Returns the layers that units of both kinds enter and leave: `(layer, new inputs, new outputs)` by `id`.

        Dense layers and convolutions without groups; where other numbers than units enter or leave, there is no kind.
        """
        result = {}
        for node in flat_nodes(self.graph.model):
            layer = node.operation
            if type(layer) is layers.Dense or (type(layer) in _CONVOLUTIONS and layer.groups == 1):
                weight = self.graph.records.weights.get(id(layer.kernel))
                if weight is None or any(
                    ids is None or (self.graph.columns(ids) < 0).any() for ids in weight.axes[-2:]
                ):
                    continue
                rows, columns = (self.new(ids) for ids in weight.axes[-2:])
                if rows.any() and columns.any():
                    result[id(layer)] = (layer, rows, columns)
        return result


class _Crossing(Rebuild):
    """The same model with crossed layers in the place of dense ones and convolutions."""

    verb = "rejuvenate"

    def __init__(self, kinds: Kinds, crossing: str):
        self._crossed = kinds.crossed()
        self._crossing = crossing
        super().__init__(kinds.graph)

    def counts(self, ids: np.ndarray) -> np.ndarray:
        return np.ones(len(ids), int)

    def _find_touched(self) -> set[int]:
        return set(self._crossed)

    def _rebuilt(self, old: Any) -> Any:
        _, rows, columns = self._crossed[id(old)]
        options = {name: getattr(old, name) for name in _ALIKE}
        options |= {"crossing": self._crossing, "name": old.name, "dtype": old.dtype_policy}
        if type(old) is layers.Dense:
            return CrossedDense(old.units, ~rows, ~columns, **options)
        for name in ("strides", "padding", "dilation_rate", "data_format"):
            options[name] = getattr(old, name)
        return CrossedConv(old.filters, old.kernel_size, ~rows, ~columns, **options)

    def new_variables(self) -> dict[int, Any]:
        # Those of crossed layers have no single one of the old that they stand for.
        return self._copier.variables()

    def _carry(self) -> None:
        for old, new in self._rebuilt_layers:
            value = keras.ops.convert_to_numpy(old.kernel)
            for kernel, rows, columns in new.blocks():
                kernel.assign(value[..., rows[:, None], columns])
            if new.bias is not None:
                new.bias.assign(old.bias)
            new.trainable = old.trainable


def cross(model: keras.Model, old_sizes: Mapping[str, int], crossing: str) -> keras.Model:
    """Returns the model with the connections between its old units and its new ones made in another way.

    Args:
        model: a model whose new units are the last ones of their groups, `Kinds.silence`d.
        old_sizes: as for `Kinds`.
        crossing: "none" or "attention".
    """
    crossed = _Crossing(Kinds(unit_groups(model), old_sizes), crossing)
    return finished(model, crossed)
