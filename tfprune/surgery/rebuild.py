"""Builds a model with other numbers of units: layers anew from their own configuration, sizes changed along their ids.

Layers of which nothing changes are copied, with all that they hold.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.saving.serialization_lib import SafeModeScope

from tfprune.borders import warn
from tfprune.graph import UnitGraph
from tfprune.graph.nodes import copied, is_graph, keep_place
from tfprune.graph.opened import is_opened
from tfprune.graph.step import Edit
from tfprune.graph.walk import flat_nodes, functional, nodes_of, run
from tfprune.surgery.carrying import carry_flags, carry_weights, inner_pairs, own_variables
from tfprune.surgery.copying import Copier, NotCopied
from tfprune.surgery.editing import add_bias, begins_with_array, change_entry, with_entry, without_build_config

_OWN_OBJECTS = ("activation", "_initializer", "_regularizer", "_constraint")
"""Endings of configuration keys whose value is passed on as the object that the layer holds, registered or not."""


class Rebuild:
    """A model with other numbers of units: how many, and the numbers of its weights, say the classes made of this one.

    Args:
        graph: the units of the original model.
        with_bias: `id`s of layers without a bias that get one, of zeros.

    Attributes:
        model: the new model, not compiled.
        operations: the new operation for the `id` of every old one.
        nodes: the new node for the `id` of every old one.
    """

    verb = ""
    """What is done to the model, as messages begin."""

    def __init__(self, graph: UnitGraph, with_bias: Collection[int] = ()):
        self.graph = graph
        self.with_bias = frozenset(with_bias)
        self._models: dict[int, keras.Model] = {}
        self._touched = self._find_touched()
        self._copier = Copier(self.operation)
        self._rebuilt_layers: list[tuple[Any, Any]] = []
        self._homes: dict[int, Any] = {}
        self.operations: dict[int, Any] = {}
        self.nodes: dict[int, Any] = {}
        # Serialisation of the user's own model in this process: its lambdas are as safe as they were.
        with SafeModeScope(False):
            self.model = self._model(graph.model)
        self._carry()

    def counts(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` how many positions of the new model stand for it."""
        raise NotImplementedError

    def carried(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns `value`, shaped like `variable` (an optimizer's moments, say), as the new model holds it."""
        raise NotImplementedError

    def _value(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns what a weight becomes in the new model."""
        raise NotImplementedError

    def _find_touched(self) -> set[int]:
        """Returns the `id`s of the operations of which something changes: a weight, a size, a channel that passes."""
        records = self.graph.records
        variables = {key for key, weight in records.weights.items() if self._any_changed(weight.axes)}
        touched = set(self.with_bias)
        touched.update(
            key for key, edits in records.edits.items() if self._any_changed(edit.ids for edit in edits.values())
        )
        for node in flat_nodes(self.graph.model):
            operation = node.operation
            tensors = [records.signals.get(id(tensor)) for tensor in (*node.input_tensors, *node.outputs)]
            if any(self._any_changed(signal.axes) for signal in tensors if signal is not None) or any(
                id(variable) in variables for variable in getattr(operation, "weights", ())
            ):
                touched.add(id(operation))
        return touched

    def _any_changed(self, axes: Iterable[np.ndarray | None]) -> bool:
        return any(ids is not None and (self.counts(ids) != 1).any() for ids in axes)

    def _model(self, model: keras.Model) -> keras.Model:
        graph = functional(model)
        if id(graph) not in self._models:
            plain = isinstance(model, keras.Sequential) and graph is model._functional
            new = self._sequential(model) if plain else self._functional(model, graph)
            # Without the setter, which would set the flags of all layers inside.
            new._trainable, functional(new)._trainable = model._trainable, graph._trainable
            self._models[id(graph)] = new
            self.operations[id(model)] = new
        return self._models[id(graph)]

    def _functional(self, model: keras.Model, graph: keras.Model) -> keras.Model:
        inputs = [self._input(tensor) for tensor in graph.inputs]
        outputs = run(model, inputs, self._call)
        # Of an opened model the cut graph is housed afterwards, in a class that can say it.
        new_class = keras.Model if is_opened(graph) else self._class_for(model, keras.Model)
        return new_class(
            tree.pack_sequence_as(graph._inputs_struct, inputs),
            tree.pack_sequence_as(graph._outputs_struct, outputs),
            name=model.name,
        )

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        first = self._input(functional(model).inputs[0], any_batch=True)
        new = self._class_for(model, keras.Sequential)(
            [first, *(self.operation(layer) for layer in model.layers)], name=model.name
        )
        for old, own in zip(nodes_of(model), nodes_of(new), strict=True):
            self.nodes[id(old)] = own
            # Operations that no layer of the model makes are those that compute the masks of sequences.
            self.operations.setdefault(id(old.operation), own.operation)
        return new

    def _class_for(self, model: keras.Model, plain: type) -> type:
        """Returns the class of the new model, and says what it lacks of the old one."""
        left_out = [name for name, value in vars(model).items() if name[0] != "_" and _holds_layers(value)]
        if left_out:
            warn(
                f"model {model.name!r}: the new model has no attributes {', '.join(left_out)}, which hold parts of the "
                "old one; find its parts by get_layer(name)."
            )
        if _has_usual_constructor(model):
            return type(model)
        warn(
            f"model {model.name!r}: its class {type(model).__name__} has a constructor of its own, so that the new "
            f"model is a plain keras.{plain.__name__}, without the methods of that class."
        )
        return plain

    def _input(self, tensor: Any, *, any_batch: bool = False) -> Any:
        """Returns a new input like the one behind `tensor`, as wide as the new model is where it enters.

        A Sequential model that was built by calling it on data holds that batch's size; `any_batch` forgets it.
        """
        layer = tensor._keras_history.operation
        config = layer.get_config()
        shape = list(config["batch_shape"])
        signal = self.graph.records.signals.get(id(tensor))
        for axis, ids in enumerate(signal.axes if signal is not None else ()):
            if ids is not None:
                shape[axis] = int(self.counts(ids).sum())
        if any_batch and not any(getattr(layer, "stateful", False) for layer in self.graph.model._flatten_layers()):
            shape[0] = None
        # Keras 3.8 leaves `optional` out.
        config |= {"batch_shape": tuple(shape), "optional": layer.optional}
        config.pop("trainable", None)
        new = type(layer).from_config(config)
        new._trainable = layer._trainable
        return new.output

    def _call(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        edits = self.graph.records.call_edits.get(id(node), [])
        if edits:
            args, kwargs = self._edited_arguments(node, args, kwargs, edits)
        new = self.operation(node.operation)
        outputs = tree.flatten(new(*args, **kwargs))
        self.nodes[id(node)] = new._inbound_nodes[-1]
        return outputs

    def _edited_arguments(self, node: Any, args: tuple, kwargs: dict, edits: list[Edit]) -> tuple[tuple, dict]:
        held = {**dict(enumerate(args)), **kwargs}
        for edit in edits:
            place, *inner = edit.path
            held[place] = with_entry(held[place], inner, lambda old, edit=edit: self._changed(node, edit, old))
        return tuple(held[place] for place in range(len(args))), {name: held[name] for name in kwargs}

    def _changed(self, holder: Any, edit: Edit, old: Any) -> Any:
        """Returns what a size in the configuration of a layer, or in the arguments of a node, becomes."""
        return edit.change(old, self.counts(edit.ids))

    def operation(self, old: Any) -> Any:
        """Returns the new operation for an old one; the same one however often it is called."""
        if id(old) not in self.operations:
            if is_graph(old):
                return self._model(old)
            if id(old) in self._touched:
                self.operations[id(old)] = self._rebuilt(old)
                self._rebuilt_layers.append((old, self.operations[id(old)]))
            else:
                self.operations[id(old)] = self._copied(old)
            keep_place(old, self.operations[id(old)])
        return self.operations[id(old)]

    def _copied(self, old: Any) -> Any:
        """Returns a copy of an operation of which nothing changes, or the operation itself under another name."""
        if not isinstance(old, keras.layers.Layer):
            return copied(old)
        try:
            return self._copier.layer(old)
        except NotCopied as reason:
            warn(
                f"{self.verb}: {old.name!r} ({type(old).__name__}) cannot be copied ({reason}), so both models share "
                "its state: training one of them changes the other. Save the new model and load it to part them."
            )
            return copied(old)

    def _rebuilt(self, old: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # Nothing is written to a file here, and the functions themselves are passed on below.
                warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
                config = without_build_config(old.get_config())
            for edit in self.graph.records.edits.get(id(old), {}).values():
                change_entry(config, edit.path, lambda value, edit=edit: self._changed(old, edit, value))
            if id(old) in self.with_bias:
                add_bias(old, config)
            for key in config:
                if key.endswith(_OWN_OBJECTS) and hasattr(old, key) and not isinstance(getattr(old, key), str):
                    config[key] = getattr(old, key)
            # An array that the weights once began with would fit no more.
            config = {key: value for key, value in config.items() if not begins_with_array(value)}
            if isinstance(old, keras.layers.Lambda):
                # Its configuration holds the bytes of the function, without what the function refers to.
                config.update(function=old.function, output_shape=old._output_shape, mask=old.mask)
                return type(old)(**config)
            return type(old).from_config(config)
        except Exception as error:
            if not getattr(old, "weights", ()) and id(old) not in self.graph.records.edits:
                # What passes through it is narrower, and nothing in it says how wide.
                return self._copied(old)
            raise ValueError(
                f"{self.verb}: {old.name!r} ({type(old).__name__}) cannot be built anew from its get_config(): {error} "
                "Give the class a get_config() that returns all arguments of its constructor."
            ) from error

    def housed(self, homes: Mapping[int, Any]) -> None:
        """Notes which variables now stand in the place of others of the new model, by the `id` of those."""
        self._homes.update(homes)

    def new_variables(self) -> dict[int, Any]:
        """Returns the variable of the new model for the `id` of every variable of the old one."""
        found = self._copied_variables()
        for old, new, added in self._pairs():
            own = [variable for variable in own_variables(new) if not (added and variable is new.bias)]
            for one, other in zip(own_variables(old), own, strict=True):
                found.setdefault(id(one), other)
        return {key: self._homes.get(id(own), own) for key, own in found.items()}

    def _copied_variables(self) -> dict[int, Any]:
        """Returns what stands for variables that were copied with layers of which nothing is cut.

        A function may hold the layers around it: copies of weights that are cut, which nobody reads, are left out.
        """
        records = self.graph.records.weights
        found = self._copier.variables()
        return {
            key: own for key, own in found.items() if key not in records or not self._any_changed(records[key].axes)
        }

    def _pairs(self) -> list[tuple[Any, Any, bool]]:
        """Returns the rebuilt layers and those inside them: old, new, and whether the new one has got a bias."""
        pairs = []
        for old, new in self._rebuilt_layers:
            if not isinstance(old, keras.layers.Layer):
                continue
            for one, other in inner_pairs(old, new, self.verb):
                added = id(old) in self.with_bias and getattr(one, "bias", None) is None
                pairs.append((one, other, added))
        return pairs

    def _carry(self) -> None:
        """Gives the rebuilt layers what their originals hold; copies have it already."""
        pairs, copies = self._pairs(), self._copied_variables()
        done = carry_weights(pairs, self._value, copies, self.verb)
        carry_flags(pairs)
        known = done | {id(variable) for variable in (*copies.values(), *self.graph.model.variables)}
        left = [variable.path for variable in self.model.variables if id(variable) not in known]
        if left:
            raise RuntimeError(
                f"{self.verb}: the weights {', '.join(left)} of the new model stand for none of the old one."
            )


class Cut(Rebuild):
    """A model without the units that are off; the numbers of its weights are those of the original's kept units.

    Args:
        graph: the units of the original model.
        on: for every unit, whether it stays; shape `(num_units,)` of bool, or `(num_columns,)` with the blocks.
        with_bias: as for `Rebuild`.

    Attributes:
        removal: what goes with the blocks that are off.
    """

    verb = "remove"

    def __init__(self, graph: UnitGraph, on: np.ndarray, with_bias: Collection[int] = ()):
        self.on, self.removal = on, graph.removal(on)
        super().__init__(graph, with_bias)

    def _call(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        if id(node) in self.removal.nodes:
            return [None] * len(node.outputs)
        if id(node) in self.removal.operands or id(node) in self.removal.passed:
            left = [own for own in tree.flatten((args, kwargs)) if own is not None]
            if id(node) in self.removal.passed:
                history = left[0]._keras_history
                if not isinstance(history.operation, keras.layers.InputLayer):
                    # What makes the tensor stands for what gave on the block.
                    self.nodes[id(node)] = history.operation._inbound_nodes[history.node_index]
                return left
            args, kwargs = (left,), {}
        return super()._call(node, args, kwargs)

    def kept(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` whether it stays."""
        return self.graph.kept(ids, self.on)

    counts = kept

    def carried(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns `value`, shaped like `variable` (an optimizer's moments, say), without what belongs to units off."""
        record = self.graph.records.weights.get(id(variable))
        for axis, ids in enumerate(record.axes if record is not None else ()):
            if ids is not None:
                value = np.take(value, np.flatnonzero(self.kept(ids)), axis=axis)
        return value

    def _value(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns what a weight becomes in the new model: cut, and rescaled where its row says so."""
        value = self.carried(variable, value)
        record = self.graph.records.weights.get(id(variable))
        if record is None or record.rescale is None:
            return value
        ids = [ids for ids in record.axes if ids is not None]
        return value * record.rescale(self.kept(ids[-1])) if ids else value


def _holds_layers(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_layers(part) for part in value.values())
    if isinstance(value, list | tuple):
        return any(_holds_layers(part) for part in value)
    return isinstance(value, keras.layers.Layer)


def _has_usual_constructor(model: keras.Model) -> bool:
    """Whether the class of a functional model can be called as `(inputs, outputs, name=...)`."""
    own = [c for c in type(model).__mro__ if c.__module__.split(".")[0] != "keras" and "__init__" in vars(c)]
    return all(c is object for c in own)
