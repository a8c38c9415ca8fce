"""Builds the smaller model: every layer anew from its own configuration, every weight cut along its ids."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.saving.serialization_lib import SafeModeScope

from tfprune.graph import UnitGraph
from tfprune.graph.step import Edit
from tfprune.graph.walk import functional, is_graph, nodes_of, run

_OWN_OBJECTS = ("activation", "_initializer", "_regularizer", "_constraint")
"""Endings of configuration keys whose value is passed on as the object that the layer holds, registered or not."""


class Cut:
    """A model without the units that are off.

    Args:
        graph: the units of the original model.
        on: for every unit, whether it stays; shape `(num_units,)` of bool.
        with_bias: `id`s of layers without a bias that get one, of zeros.

    Attributes:
        model: the new model, not compiled; the numbers of its weights are those of the original's kept units.
        operations: the new operation for the `id` of every old one.
        nodes: the new node for the `id` of every old one.
    """

    def __init__(self, graph: UnitGraph, on: np.ndarray, with_bias: Collection[int] = ()):
        self.graph = graph
        self._on = on
        self._with_bias = frozenset(with_bias)
        self._models: dict[int, keras.Model] = {}
        self.operations: dict[int, Any] = {}
        self.nodes: dict[int, Any] = {}
        # Serialisation of the user's own model in this process: its lambdas are as safe as they were.
        with SafeModeScope(False):
            self.model = self._model(graph.model)
        self._copy_weights()
        _copy_trainable(graph.model, self.model)

    def kept(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` whether it stays."""
        return self.graph.kept(ids, self._on)

    def cut(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns `value`, shaped like `variable` (an optimizer's moments, say), without what belongs to units off."""
        record = self.graph.records.weights.get(id(variable))
        for axis, ids in enumerate(record.axes if record is not None else ()):
            if ids is not None:
                value = np.take(value, np.flatnonzero(self.kept(ids)), axis=axis)
        return value

    def _model(self, model: keras.Model) -> keras.Model:
        graph = functional(model)
        if id(graph) not in self._models:
            new = self._sequential(model) if isinstance(model, keras.Sequential) else self._functional(model)
            self._models[id(graph)] = new
            self.operations[id(model)] = new
        return self._models[id(graph)]

    def _functional(self, model: keras.Model) -> keras.Model:
        inputs = [self._input(tensor) for tensor in model.inputs]
        outputs = run(model, inputs, self._call)
        model_class = type(model)
        if not _has_usual_constructor(model):
            model_class = keras.Model
            warnings.warn(
                f"model {model.name!r}: its class {type(model).__name__} has a constructor of its own, so that the new "
                "model is a plain keras.Model, without the methods of that class.",
                stacklevel=2,
            )
        return model_class(
            tree.pack_sequence_as(model._inputs_struct, inputs),
            tree.pack_sequence_as(model._outputs_struct, outputs),
            name=model.name,
        )

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        first = self._input(functional(model).inputs[0], any_batch=True)
        new = keras.Sequential([first, *(self.operation(layer) for layer in model.layers)], name=model.name)
        self.nodes.update({id(old): own for old, own in zip(nodes_of(model), nodes_of(new), strict=True)})
        return new

    def _input(self, tensor: Any, *, any_batch: bool = False) -> Any:
        """Returns a new input like the one behind `tensor`, as narrow as what is kept of the units that enter there.

        A Sequential model that was built by calling it on data holds that batch's size; `any_batch` forgets it.
        """
        layer = tensor._keras_history.operation
        config = layer.get_config()
        shape = list(config["batch_shape"])
        signal = self.graph.records.signals.get(id(tensor))
        for axis, ids in enumerate(signal.axes if signal is not None else ()):
            if ids is not None:
                shape[axis] = int(self.kept(ids).sum())
        if any_batch and not any(getattr(layer, "stateful", False) for layer in self.graph.model._flatten_layers()):
            shape[0] = None
        config["batch_shape"] = tuple(shape)
        config.pop("trainable", None)
        return type(layer).from_config(config).output

    def _call(self, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        edits = self.graph.records.call_edits.get(id(node), [])
        if edits:
            args, kwargs = self._edited_arguments(args, kwargs, edits)
        new = self.operation(node.operation)
        outputs = tree.flatten(new(*args, **kwargs))
        self.nodes[id(node)] = new._inbound_nodes[-1]
        return outputs

    def _edited_arguments(self, args: tuple, kwargs: dict, edits: list[Edit]) -> tuple[tuple, dict]:
        held = {**dict(enumerate(args)), **kwargs}
        for edit in edits:
            place, *inner = edit.path
            held[place] = _edited(held[place], inner, lambda old, edit=edit: edit.change(old, self.kept(edit.ids)))
        return tuple(held[place] for place in range(len(args))), {name: held[name] for name in kwargs}

    def operation(self, old: Any) -> Any:
        """Returns the new operation for an old one; the same one however often it is called."""
        if id(old) not in self.operations:
            if is_graph(old):
                return self._model(old)
            self.operations[id(old)] = self._rebuilt(old)
        return self.operations[id(old)]

    def _rebuilt(self, old: Any) -> Any:
        try:
            with warnings.catch_warnings():
                # Nothing is written to a file here, and the functions themselves are passed on below.
                warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
                config = _without_build_config(copy.deepcopy(old.get_config()))
            for edit in self.graph.records.edits.get(id(old), {}).values():
                _edit(config, edit.path, lambda value, edit=edit: edit.change(value, self.kept(edit.ids)))
            if id(old) in self._with_bias:
                _add_bias(old, config)
            for key in config:
                if key.endswith(_OWN_OBJECTS) and hasattr(old, key) and not isinstance(getattr(old, key), str):
                    config[key] = getattr(old, key)
            if isinstance(old, keras.layers.Lambda):
                # Its configuration holds the bytes of the function, without what the function refers to.
                config.update(function=old.function, output_shape=old._output_shape, mask=old.mask)
                return type(old)(**config)
            return type(old).from_config(config)
        except Exception as error:
            raise ValueError(
                f"remove: {old.name!r} ({type(old).__name__}) cannot be built anew from its get_config(): {error} Give "
                "the class a get_config() that returns all arguments of its constructor."
            ) from error

    def _held_by_added_bias(self, layer: Any) -> bool:
        """Whether `layer` had no bias and its copy has one: it is named in `with_bias`, or lies in a layer that is."""
        if id(layer) in self._with_bias:
            return True
        holders = (old for old in self.graph.model._flatten_layers() if id(old) in self._with_bias)
        return getattr(layer, "bias", None) is None and any(
            layer is inner for holder in holders for inner in holder._flatten_layers(include_self=False)
        )

    def _copy_weights(self) -> None:
        seen: dict[int, Any] = {}
        for old, new in _layer_pairs(self.graph.model, self.model):
            added = self._held_by_added_bias(old)
            for own, cut in zip(_own_variables(old), _without(_own_variables(new), new, added), strict=True):
                if seen.setdefault(id(own), cut) is not cut:
                    _hold_instead(new, cut, seen[id(own)])
                    continue
                value = self.cut(own, keras.ops.convert_to_numpy(own))
                record = self.graph.records.weights.get(id(own))
                if record is not None and record.rescale is not None:
                    ids = [ids for ids in record.axes if ids is not None]
                    value = value * record.rescale(self.kept(ids[-1])) if ids else value
                _assign(old, cut, value)


def can_get_bias(layer: Any) -> bool:
    """Whether a layer that has no bias can be built anew with one."""
    if isinstance(layer, keras.layers.TimeDistributed | keras.layers.Bidirectional):
        layer = layer.forward_layer if isinstance(layer, keras.layers.Bidirectional) else layer.layer
    if type(layer) is keras.layers.EinsumDense:
        return layer.bias_axes is None
    return "use_bias" in layer.get_config()


def _add_bias(layer: Any, config: dict) -> None:
    """Changes the configuration of a layer so that it has a bias."""
    if type(layer) is keras.layers.EinsumDense:
        given, _, target = (part.strip() for part in layer.equation.replace("->", ",").split(","))
        config["bias_axes"] = "".join(letter for letter in target if letter not in given)
        return
    inner = [config[key]["config"] for key in ("layer", "backward_layer") if config.get(key) is not None]
    for own in inner or [config]:
        if "bias_axes" in own:
            _add_bias(layer.layer, own)
        else:
            own["use_bias"] = True


def _without(variables: list[Any], layer: Any, bias_added: bool) -> list[Any]:
    """Returns the variables but the bias, set to zero, of a layer that got one."""
    if not bias_added or getattr(layer, "bias", None) is None:
        return variables
    layer.bias.assign(np.zeros(layer.bias.shape))
    return [variable for variable in variables if variable is not layer.bias]


def _hold_instead(layer: Any, variable: Any, shared: Any) -> None:
    """Makes a layer hold `shared`, the variable of another layer, in the place of its own."""
    # A built layer refuses new state through its attributes, hence the dictionary.
    for name, value in vars(layer).items():
        if value is variable:
            vars(layer)[name] = shared
    for variables in (layer._trainable_variables, layer._non_trainable_variables):
        for place, value in enumerate(variables):
            if value is variable:
                list.__setitem__(variables, place, shared)


def _assign(layer: Any, variable: Any, value: np.ndarray) -> None:
    if tuple(variable.shape) != value.shape:
        raise RuntimeError(
            f"remove: weight {variable.path!r} of {layer.name!r} should have shape {value.shape} after the cut, but "
            f"the new layer has {tuple(variable.shape)}: the row of {type(layer).__name__} does not fit the layer."
        )
    variable.assign(value)


def _layer_pairs(old: keras.Model, new: keras.Model) -> Iterator[tuple[Any, Any]]:
    """Yields all layers of both models side by side, those that hold others before these."""
    yield from zip(old._flatten_layers(), new._flatten_layers(), strict=True)


def _own_variables(layer: Any) -> list[Any]:
    """Returns the variables that the layer itself holds, states of its random generators included."""
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._trainable_variables, *layer._non_trainable_variables, *seeds]


def _copy_trainable(old: keras.Model, new: keras.Model) -> None:
    # Setting a layer's flag sets it for all inside, so the outer ones come first.
    for one, other in _layer_pairs(old, new):
        other.trainable = one.trainable if not isinstance(one, keras.Model) else one._trainable


def _has_usual_constructor(model: keras.Model) -> bool:
    """Whether the class of a functional model can be called as `(inputs, outputs, name=...)`."""
    own = [c for c in type(model).__mro__ if c.__module__.split(".")[0] != "keras" and "__init__" in vars(c)]
    return all(c is object for c in own)


def _without_build_config(config: Any) -> Any:
    """Returns the configuration without the input shapes that wrappers keep of their inner layers."""
    if isinstance(config, dict):
        return {key: _without_build_config(value) for key, value in config.items() if key != "build_config"}
    if isinstance(config, list):
        return [_without_build_config(value) for value in config]
    return config


def _edited(value: Any, path: list, change: Callable[[Any], Any]) -> Any:
    """Returns an argument with the entry at `path` of its nested lists changed; the argument itself stays."""
    if not path:
        return change(value)
    parts = list(value)
    parts[path[0]] = _edited(parts[path[0]], path[1:], change)
    return tuple(parts) if isinstance(value, tuple) else parts


def _edit(config: dict, path: tuple, change: Callable[[Any], Any]) -> None:
    """Changes the entry at `path` in place; tuples on the way become lists."""
    holder: Any = config
    for key in path[:-1]:
        if isinstance(holder[key], tuple):
            holder[key] = list(holder[key])
        elif isinstance(holder[key], int):
            holder[key] = [holder[key]]
        holder = holder[key]
    holder[path[-1]] = change(holder[path[-1]])


def compile_like(old: keras.Model, cut: Cut, *, keep_optimizer: bool) -> None:
    """Compiles the new model with the old one's own loss, metrics and a fresh optimizer of the same settings."""
    new = cut.model
    if not old.compiled or old._compile_config is None:
        if keep_optimizer:
            raise ValueError(f"keep_optimizer: model {old.name!r} is not compiled, so it has no optimizer.")
        return
    arguments = dict(old._compile_config.config)
    arguments["optimizer"] = old.optimizer.from_config(old.optimizer.get_config())
    for key in ("metrics", "weighted_metrics"):
        arguments[key] = tree.map_structure(_fresh_metric, arguments.get(key))
    accepted = inspect.signature(new.compile).parameters
    new.compile(**{key: value for key, value in arguments.items() if key in accepted or "kwargs" in accepted})
    if keep_optimizer:
        _copy_optimizer(old, cut)


def _fresh_metric(metric: Any) -> Any:
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, NotImplementedError):
        warnings.warn(f"metric {metric.name!r} cannot be copied, so both models count in the same one.", stacklevel=4)
        return metric


def _copy_optimizer(old: keras.Model, cut: Cut) -> None:
    """Carries moments and step over to what is kept."""
    source, target = old.optimizer, cut.model.optimizer
    if not source.built:
        return
    target.build(cut.model.trainable_variables)
    of_slot = slots_of(getattr(source, "inner_optimizer", source))
    left_out = 0
    for slot, new_slot in zip(source.variables, target.variables, strict=True):
        value = keras.ops.convert_to_numpy(slot)
        variable = of_slot.get(id(slot))
        if variable is not None:
            value = cut.cut(variable, value)
        if tuple(new_slot.shape) == value.shape:
            new_slot.assign(value)
        else:
            left_out += 1
    if left_out:
        warnings.warn(
            f"keep_optimizer: {left_out} moments of {type(source).__name__} are not shaped like the weights that they "
            "belong to; they start anew.",
            stacklevel=4,
        )


def slots_of(optimizer: Any) -> dict[int, Any]:
    """Returns the variable that each slot belongs to, by the slot's `id`: slots of the variable's own shape only."""
    variables = optimizer._trainable_variables
    result = {}
    for held in vars(optimizer).values():
        if isinstance(held, list) and len(held) == len(variables) and held is not variables:
            for slot, variable in zip(held, variables, strict=True):
                if slot is not None and tuple(getattr(slot, "shape", ())) == tuple(variable.shape):
                    result[id(slot)] = variable
    return result
