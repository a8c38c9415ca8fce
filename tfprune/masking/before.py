"""Masked models whose units are replaced before the nonlinearity of the layer that makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.nodes import copied
from tfprune.graph.walk import fresh_input, functional, run_flat
from tfprune.layers import MeanReplacement, TakeUnits
from tfprune.layers.opened import HeldWeight
from tfprune.masking.build import ON_NODES, MaskedModel
from tfprune.units import LayerValues


class Maker(NamedTuple):
    """A call that makes units: along which axis of its output, and which column of the mask is each position."""

    axis: int
    columns: np.ndarray


def has_values_before(graph: UnitGraph, name: str) -> bool:
    """Whether every layer that makes the units of a group gives them out before its nonlinearity.

    A recurrent layer applies its own inside the recurrence, a wrapper that of the layer inside it, heads of attention
    show in no tensor, and a weight that code reads has no row for each sample.
    """
    members = {member.name for member in graph[name].members}
    makers = [maker for maker in graph.records.emitters.values() if maker.name in members]
    wrapped = any(node.operation is not maker.operation for maker in makers for node in maker.trails)
    hidden = any(isinstance(maker.operation, _HIDDEN) for maker in makers)
    return not wrapped and not hidden and not _inside(graph, makers)


_HIDDEN = (
    keras.layers.RNN,
    keras.layers.Bidirectional,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
    keras.layers.TimeDistributed,
    HeldWeight,
)


def _inside(graph: UnitGraph, makers: list[Any]) -> bool:
    """Whether some units of these layers are read inside the layer that makes them."""
    operations = {id(maker.operation) for maker in makers}
    return any(exit.tensor is None and id(exit.operation) in operations for exit in graph.records.exits)


def masked_before(
    model: keras.Model, layers: Iterable[str] | str | None = None, replacement: LayerValues | None = None
) -> MaskedModel:
    """Builds a model with an input `on_nodes` whose units are replaced where their layers make them.

    Arguments as for `masked_model`; nested models are opened up. All groups must have `has_values_before`.
    """
    split = SplitAtUnits(model, layers)
    on_nodes = keras.Input((sum(split.sizes.values()),), name=ON_NODES)
    placed = []

    def mask(layer: Any, h: Any, maker: Maker) -> Any:
        own = MeanReplacement(axis=maker.axis, name=f"{layer.name}_on_nodes_{len(placed)}", dtype=h.dtype)
        placed.append((own, maker.columns))
        return own(h, TakeUnits(maker.columns, dtype=on_nodes.dtype)(on_nodes))

    inputs = [fresh_input(tensor) for tensor in functional(model).inputs]
    outputs = split.run(inputs, mask)

    def replace(values: LayerValues) -> None:
        flat = np.concatenate([*(values[name] for name in split.sizes), [0.0]])
        for layer, columns in placed:
            layer.replacement.assign(flat[columns])

    if replacement is not None:
        replace(replacement)
    outputs = keras.tree.pack_sequence_as(functional(model)._outputs_struct, outputs)
    masked = keras.Model([*inputs, on_nodes], outputs, name=model.name)
    return MaskedModel(masked, split.sizes, None if replacement is None else replace)


def means_before(model: keras.Model, data: Any, layers: Iterable[str] | str | None = None) -> LayerValues:
    """Measures the mean of units before the nonlinearity, over samples, positions and the layers that make them."""
    split = SplitAtUnits(model, layers)
    makers: list[Maker] = []

    @ByLengths
    def sums(inputs: list[Any]) -> list[tuple]:
        makers.clear()
        found = []

        def look(layer: Any, h: Any, maker: Maker) -> Any:
            wide = tf.cast(h, "float64")
            makers.append(maker)
            others = [axis for axis in range(len(h.shape)) if axis != maker.axis % len(h.shape)]
            count = tf.size(h) // h.shape[maker.axis]
            found.append((tf.reduce_sum(wide, axis=others), tf.cast(count, "float64")))
            return h

        split.run(inputs, look)
        return found

    total, count = np.zeros((2, sum(split.sizes.values()) + 1))
    for batch in as_batches(data, model, targets="ignore"):
        for (added, rows), maker in zip(sums([tf.convert_to_tensor(x) for x in batch.inputs]), makers, strict=True):
            np.add.at(total, maker.columns, added.numpy())
            np.add.at(count, maker.columns, rows.numpy())
    return LayerValues.from_flat(total[:-1] / count[:-1], split.sizes)


class SplitAtUnits:
    """A model with its nested models opened up, and the activation of each layer that makes units apart from it."""

    def __init__(self, model: keras.Model, layers: Iterable[str] | str | None):
        graph = unit_groups(model)
        self._model = model
        self._signals = graph.records.signals
        self.sizes = {name: graph[name].size for name in graph.choose(layers)}
        # Columns of all units -> columns of the chosen ones; the last entry serves what is always on.
        columns = np.full(graph.num_units + 1, -1)
        start = 0
        for name, size in self.sizes.items():
            columns[graph[name].start :][:size] = np.arange(start, start + size)
            start += size
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._columns_of = lambda ids: columns[graph.columns(ids)]
        self._makes: dict[int, list[np.ndarray]] = {}
        for emitter in graph.records.emitters.values():
            if (self._columns_of(emitter.ids) >= 0).any():
                self._makes.setdefault(id(emitter.operation), []).append(emitter.ids)

    def run(self, inputs: list[Any], act: Callable[[Any, Any, Maker], Any]) -> list[Any]:
        """Runs the model; `act(layer, h, maker)` sees units before the nonlinearity and gives what goes into it."""

        def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            makers = self._makers(node)
            layer = self._unique(node.operation, linear=bool(makers))
            outputs = keras.tree.flatten(layer(*args, **kwargs))
            if not makers:
                return outputs
            h = outputs[0]
            for maker in makers:
                h = act(layer, h, maker)
            activation = getattr(node.operation, "activation", None)
            return [h if activation is None else keras.layers.Activation(activation, dtype=h.dtype)(h)]

        return run_flat(self._model, inputs, call)

    def _unique(self, layer: Any, linear: bool) -> Any:
        """Returns the copy of a layer to call, without its activation if that goes, and of a name of its own."""
        if id(layer) not in self._copies:
            names = {copy.name for _, copy in self._copies.values()}
            name, count = layer.name, 1
            while name in names:
                count += 1
                name = f"{layer.name}_{count}"
            changes = {} if name == layer.name else {"name": name}
            if linear and getattr(layer, "activation", None) is not None:
                changes["activation"] = keras.activations.linear
            # The layer is kept with its copy so that its id is not given to another one.
            self._copies[id(layer)] = (layer, copied(layer, **changes))
        return self._copies[id(layer)][1]

    def _makers(self, node: Any) -> list[Maker]:
        """Returns one for each axis along which a call makes units; units that it passes on are not made by it."""
        made = self._makes.get(id(node.operation))
        if made is None or len(node.outputs) != 1:
            return []
        found = []
        for axis, ids in enumerate(self._signals[id(node.outputs[0])].axes):
            if ids is not None:
                columns = np.where(np.isin(ids, np.concatenate(made)), self._columns_of(ids), -1)
                found += [Maker(axis, columns)] if (columns >= 0).any() else []
        return found
