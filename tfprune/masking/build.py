"""Masked models: one more input, `on_nodes`, switches units off where they act."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import tree

from tfprune.borders import public, warn
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.batch import Batch
from tfprune.graph.blocks import Block
from tfprune.graph.checks import named
from tfprune.graph.nodes import copied, is_graph
from tfprune.graph.opened import other_in_training
from tfprune.graph.walk import fresh_input, functional, nodes_of, run
from tfprune.layers import FixedOnNodes, MaskedBidirectional, MaskedRNN, MeanReplacement, TakeUnits
from tfprune.units import LayerValues, check_like

ON_NODES = "on_nodes"
"""Name of the input that a masked model has more than its original."""


@public
def with_on_nodes(
    model: keras.Model, layers: Iterable[str] | str | None = None, replacement: LayerValues | None = None
) -> keras.Model:
    """Gives a model one more input, `on_nodes`, that switches its units off; the weights are shared.

    Its layers are copies of the model's, of the same names and with the same weights, so that nothing of the masked
    model stays on the model's own layers.

    A unit that is off is replaced wherever a kernel reads it, so that the masked model computes what the model computes
    after the unit has been removed. `on_nodes` has shape `(batch, num_units)`, or `(1, num_units)` in a direct call,
    with the columns of `unit_groups(model)` in order (only those of `layers`, if given). Fractions are allowed, and the
    output can be differentiated with respect to them.

    Args:
        model: a Keras model, as for `unit_groups`. It is not changed.
        layers: names of the groups or layers whose units get a column; None takes all units that can be removed, which
            those of the model's outputs never can. The group "blocks", whole residual branches, must be named; its
            columns come last, and a branch that is off adds nothing.
        replacement: what stands in for a unit that is off, one number per unit by group name; None means zero, plain
            removal. With the means of the units this is mean replacement. Where a norm sums over units, and for heads
            of attention, zero stands in all the same.

    Returns:
        A functional model with inputs `[*model.inputs, on_nodes]` and the outputs of `model`; not compiled.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is not built, cannot be followed, or is masked already; if a name is unknown or has no units
            that can be removed; if `replacement` does not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, "relu"), keras.layers.Dense(2)])
        >>> masked = with_on_nodes(net)
        >>> masked([np.zeros((5, 2)), np.ones((1, 20))]).shape
        TensorShape([5, 2])

    Reference: "Exploring toy neural nets under node removal" for the mask as an input; U. Evci (2018), section 4, for
    the mean as replacement.
    """
    masked = masked_model(model, layers, replacement).model
    others = other_in_training(model)
    if others:
        warn(
            f"with_on_nodes: in training, the code of {', '.join(map(repr, others))} does something else, which the "
            "masked model does not do: it is right for predictions, losses and gradients. To train under a mask, use "
            "training.PruneDuringTraining on the model itself."
        )
    return masked


class MaskedModel(NamedTuple):
    """A masked model, and how to put another replacement into it.

    Attributes:
        model: what `with_on_nodes` returns.
        sizes: units per group, in the order of the columns of `on_nodes`.
        replace: takes a replacement for all groups; None if the model was built without one, or if a recurrent layer
            has it built in.
    """

    model: keras.Model
    sizes: dict[str, int]
    replace: Callable[[LayerValues], None] | None


def masked_model(
    model: keras.Model, layers: Iterable[str] | str | None = None, replacement: LayerValues | None = None
) -> MaskedModel:
    """Builds what `with_on_nodes` returns; arguments and errors are its own."""
    builder = masked_builder(model, layers, replacement)
    masked = builder.build(model, model.name)
    return MaskedModel(masked, builder.sizes, builder.replace if builder.replaceable else None)


def masked_builder(
    model: keras.Model, layers: Iterable[str] | str | None, replacement: LayerValues | None
) -> MaskedBuilder:
    """Checks the arguments of `with_on_nodes` and returns what builds the model."""
    refuse_masked(model)
    graph = unit_groups(model)
    chosen = graph.choose(layers, blocks=True)
    if not chosen:
        raise ValueError(f"model {model.name!r} has no units that can be switched off.\n{graph!r}")
    if replacement is not None:
        sizes = {name: graph[name].size for name in chosen if name in graph.sizes}
        replacement = check_like(replacement, sizes, "replacement", partial=True)
    return MaskedBuilder(graph, chosen, replacement)


def masked_already(model: keras.Model, layers: None = None, replacement: None = None) -> MaskedModel:
    """Returns a model that has the input `on_nodes`, as `masked_model` does one that gets it."""
    return MaskedModel(model, {ON_NODES: model.inputs[on_nodes_input(model)].shape[1]}, None)


def refuse_masked(model: keras.Model) -> None:
    """Raises ValueError if `model` has an `on_nodes` input already."""
    if on_nodes_input(model) is not None:
        raise ValueError(
            f"model {model.name!r} has an input {ON_NODES!r} already. Call with_on_nodes on the model without it; its "
            "weights are the same objects."
        )


def on_nodes_input(model: Any) -> int | None:
    """Returns the position of the `on_nodes` input of a masked model, or None."""
    if not isinstance(model, keras.Model) or not hasattr(model, "inputs") or not model.inputs:
        return None
    names = [getattr(tensor, "name", None) for tensor in model.inputs]
    return names.index(ON_NODES) if ON_NODES in names else None


class GraphBuilder:
    """Builds another form of a model on copies of its layers, and of every nested model that takes part."""

    def __init__(self, graph: UnitGraph):
        self._graph = graph
        self._copies: dict[int, Any] = {}
        self._nested: dict[int, keras.Model | None] = {}

    def build(self, model: keras.Model, name: str) -> keras.Model:
        """Builds the form of a model, or of one nested in it."""
        raise NotImplementedError

    def _is_changed(self, node: Any) -> bool:
        """Whether something changes at a node itself."""
        raise NotImplementedError

    def copy(self, operation: Any) -> Any:
        """Returns the copy that stands for an operation in the new model; the same one for every call of it."""
        if id(operation) not in self._copies:
            self._copies[id(operation)] = copied(operation)
        return self._copies[id(operation)]

    def nested(self, operation: Any) -> keras.Model | None:
        """Returns the form of a nested model, or None if nothing in it changes, or it is none."""
        if not is_graph(operation):
            return None
        if id(operation) not in self._nested:
            self._nested[id(operation)] = self.build(operation, operation.name) if self._needed(operation) else None
        return self._nested[id(operation)]

    def _needed(self, model: keras.Model) -> bool:
        return any(
            self._is_changed(node) or (is_graph(node.operation) and self._needed(node.operation))
            for node in nodes_of(model)
        )


def call_nested(nested: keras.Model, args: tuple, kwargs: dict, *asked: Any) -> list[Any]:
    """Calls the new form of a nested model, which takes more inputs behind those of the original call."""
    inputs = [leaf for leaf in tree.flatten((args, kwargs)) if isinstance(leaf, keras.KerasTensor)]
    return tree.flatten(nested([*inputs, *asked], training=kwargs.get("training")))


class MaskedBuilder(GraphBuilder):
    """Builds masked models: the whole one, and one for every nested model that has units inside."""

    def __init__(self, graph: UnitGraph, chosen: tuple[str, ...], replacement: LayerValues | None):
        super().__init__(graph)
        groups = [graph[name] for name in chosen]
        self.sizes = {group.name: group.size for group in groups}
        self.num_units = sum(self.sizes.values())
        # Columns of all units -> columns of the chosen ones; the last entry serves the -1 of positions always on.
        self._columns = np.full(graph.num_columns + 1, -1)
        start = 0
        for group in groups:
            stop = start + group.size
            self._columns[group.start : group.start + group.size] = np.arange(start, stop)
            start = stop
        self._groups = groups
        self.has_replacement = replacement is not None
        self._set(replacement if replacement is not None else {})
        # Layers that hold a replacement: the column of each of their positions, and whether a kernel reads them.
        self.placed: list[tuple[MeanReplacement, np.ndarray, bool]] = []
        self._built_in = False
        self._exits: dict[int, list[Any]] = {}
        for exit in graph.records.exits:
            if exit.tensor is not None:
                self._exits.setdefault(id(exit.node), []).append(exit)
        self._twins: dict[int, Any] = {}
        # The blocks that have a column, by the nodes of their additions and of their norms.
        self.blocks: dict[int, list[tuple[Block, int]]] = {}
        for number, block in enumerate(graph.blocks if graph.blocks_name in self.sizes else ()):
            for node in (block.addition, *([] if block.norm is None else [block.norm])):
                self.blocks.setdefault(id(node), []).append((block, self._columns[graph.num_units + number]))

    def _set(self, replacement: Mapping[str, np.ndarray]) -> None:
        own = [replacement.get(group.name, np.zeros(group.size)) for group in self._groups]
        self._replacement = np.concatenate([*own, [0.0]])

    @property
    def replaceable(self) -> bool:
        """Whether `replace` can serve for the whole model."""
        return self.has_replacement and not self._built_in

    def replace(self, replacement: LayerValues) -> None:
        """Puts another replacement into the model that was built."""
        self._set(replacement)
        for layer, columns, kernel in self.placed:
            layer.replacement.assign(self.means(columns) * kernel)

    def columns(self, ids: np.ndarray) -> np.ndarray:
        """Returns the column of the masked model's `on_nodes` per position, -1 where always on."""
        return self._columns[self._graph.columns(ids)]

    def build(self, model: keras.Model, name: str, fixed: FixedOnNodes | None = None) -> keras.Model:
        """Builds the masked form of a model; with `fixed`, that layer stands in the place of the input `on_nodes`."""
        graph = functional(model)
        inputs = [fresh_input(tensor) for tensor in graph.inputs]
        on_nodes = keras.Input((self.num_units,), name=ON_NODES) if fixed is None else fixed(inputs[0])
        place = MaskedPlace(self, on_nodes)
        outputs = run(model, inputs, place.call, enter=place.enter)
        outputs = tree.pack_sequence_as(graph._outputs_struct, outputs)
        given = [*inputs, on_nodes] if fixed is None else tree.pack_sequence_as(graph._inputs_struct, inputs)
        return keras.Model(given, outputs, name=name)

    def exits_of(self, node: Any) -> list[Any]:
        """Returns the exits into a node that show in tensors."""
        return self._exits.get(id(node), [])

    def means(self, columns: np.ndarray) -> np.ndarray:
        """Returns what stands in at each position; zero where always on."""
        return np.where(columns < 0, 0.0, self._replacement[columns])

    def twin(self, node: Any) -> tuple[Any, list[np.ndarray | None]] | None:
        """Returns the twin of the node's layer and the columns of its rows, or None if all its units are always on."""
        record = self._graph.records.twins.get(id(node))
        if record is None:
            return None
        rows = [self.columns(ids) for ids in record.ids]
        if all((row < 0).all() for row in rows):
            return None
        layer = node.operation
        if id(layer) not in self._twins:
            # Only a recurrence can take a replacement in.
            takes = self.has_replacement and issubclass(record.layer_class, MaskedRNN | MaskedBidirectional)
            self._built_in |= takes
            means = [self.means(row) for row in rows] if takes else None
            make = named(record.layer_class, layer, layer.name, "a twin for masked models")
            self._twins[id(layer)] = make(layer, means, name=layer.name, dtype=getattr(layer, "dtype_policy", None))
        return self._twins[id(layer)], [row if len(row) else None for row in rows]

    def _is_changed(self, node: Any) -> bool:
        acts = any((self.columns(exit.ids) >= 0).any() for exit in self.exits_of(node))
        return acts or self.twin(node) is not None or id(node) in self.blocks


class MaskedPlace:
    """One graph while its masked form is being built: the masks that were put into it so far."""

    def __init__(self, builder: MaskedBuilder, on_nodes: Any):
        self._builder = builder
        self._on_nodes = on_nodes
        self._rows: dict[tuple[int, ...], Any] = {}
        self._masked: dict[tuple, Any] = {}
        self._names: dict[str, int] = {}
        self._streams: dict[int, Any] = {}

    def enter(self, node: Any, tensor: Any, value: Any) -> Any:
        """Puts the masks of the node's exits on a tensor that it reads; all readers of a tensor share them.

        A node may read one tensor several times (as query, key and value, say): each time it is masked once.
        """
        exits = {exit.axis: exit for exit in self._builder.exits_of(node) if exit.tensor is tensor}
        for exit in exits.values():
            columns = self._builder.columns(exit.ids)
            if (columns >= 0).any():
                value = self._mask(value, exit.axis, exit.batch, columns, exit.kernel, node.operation.name)
        for block, column in self._builder.blocks.get(id(node), ()):
            if tensor is block.stream and node is block.addition:
                self._streams[id(block)] = value
            if tensor is block.operand and block.norm is None:
                value = self._mask_block(value, block, column)
        return value

    def _mask_block(self, value: Any, block: Block, column: int) -> Any:
        columns = np.full(value.shape[-1], column)
        return self._mask(value, -1, block.batch, columns, False, block.addition.operation.name)

    def _mask(self, value: Any, axis: int, batch: Batch, columns: np.ndarray, kernel: bool, reader: str) -> Any:
        # A norm takes no replacement: its readers' biases could not make up for it.
        key = (id(value), axis, kernel or not self._builder.has_replacement, columns.tobytes())
        if key not in self._masked:
            layer = MeanReplacement(
                axis=axis, batch_axis=batch.axis, merged=batch.merged, name=self._name(reader), dtype=value.dtype
            )
            # The unmasked value is kept with the masked one so that its id is not given to another tensor.
            self._masked[key] = (value, layer(value, self.row(columns)))
            layer.replacement.assign(self._builder.means(columns) * kernel)
            self._builder.placed.append((layer, columns, kernel))
        return self._masked[key][1]

    def _name(self, reader: str) -> str:
        self._names[reader] = count = self._names.get(reader, 0) + 1
        return f"{reader}_on_nodes" if count == 1 else f"{reader}_on_nodes_{count}"

    def row(self, columns: np.ndarray | None) -> Any:
        """Returns the part of `on_nodes` that one place needs."""
        if columns is None:
            return None
        if np.array_equal(columns, np.arange(self._builder.num_units)):
            return self._on_nodes
        key = tuple(columns.tolist())
        if key not in self._rows:
            self._rows[key] = TakeUnits(columns, dtype=self._on_nodes.dtype)(self._on_nodes)
        return self._rows[key]

    def call(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        """Calls the masked form of a node."""
        outputs = self._called(node, args, kwargs)
        for block, column in self._builder.blocks.get(id(node), ()):
            if node is block.norm:
                # On or off, one of both sides is zero, so that nothing is rounded.
                stream = self._streams[id(block)]
                parts = [stream, self._mask_block(stream, block, column)]
                left = keras.layers.Subtract(name=self._name(f"{node.operation.name}_rest"), dtype=stream.dtype)(parts)
                parts = [self._mask_block(outputs[0], block, column), left]
                outputs = [keras.layers.Add(name=self._name(f"{node.operation.name}_or_rest"), dtype=left.dtype)(parts)]
        return outputs

    def _called(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        nested = self._builder.nested(node.operation)
        if nested is not None:
            return call_nested(nested, args, kwargs, self._on_nodes)
        twin = self._builder.twin(node)
        if twin is None:
            return tree.flatten(self._builder.copy(node.operation)(*args, **kwargs))
        layer, rows = twin
        if getattr(layer, "rows_by_axis", False):
            # Keras 3.8 takes no None among tensors.
            kwargs = {**kwargs, "held": tuple(columns is not None for columns in rows)}
            rows = [columns for columns in rows if columns is not None]
        return tree.flatten(layer(*args, **kwargs, on_nodes=[self.row(columns) for columns in rows]))
