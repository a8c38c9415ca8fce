"""Runs the code of a model on symbolic tensors of known shapes, into its layers as far down as their code allows.

What remains are layers that the table knows, operations of `keras.ops`, and the layers that cannot be opened, with the
reason. Nothing is copied and nothing is left behind: the model's layers are afterwards as they were before.
"""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops, tree
from keras.src import backend
from keras.src.models.functional import Functional

from tfprune.borders import in_one_line
from tfprune.graph.closing import OPENED, can_be_opened, own_class
from tfprune.graph.hooks import any_index, restore, state_of, variables_of
from tfprune.graph.nodes import nodes_in, substituted
from tfprune.graph.of_tensorflow import followed
from tfprune.layers.opened import HeldWeight, WithMask

_FOLDERS = (
    *(f"{Path(module.__file__).parent}{os.sep}" for module in (keras, tf)),
    f"{Path(__file__).parents[1]}{os.sep}",
)


@dataclass(frozen=True, eq=False)
class Traced:
    """One call that was met: its arguments, symbolic tensors among them, and what it gives out."""

    operation: Any
    name: str
    args: tuple
    kwargs: dict
    outputs: list[Any]


@dataclass(frozen=True, eq=False)
class Trace:
    """What the code of a model does.

    Attributes:
        inputs: the symbolic tensors that were put in, in order.
        outputs: what came out, structured as the model gives it.
        calls: every call that the outputs stand on, each after those that it reads.
        closed: for the name of every layer that could not be opened, why.
    """

    inputs: list[Any]
    outputs: Any
    calls: list[Traced]
    closed: dict[str, str]


def trace(model: keras.Model, inputs: Any, call: Callable[[Any], Any], *, training: bool = False) -> Trace:
    """Runs a model on symbolic tensors.

    Args:
        model: the model; it is as it was before afterwards.
        inputs: a structure of symbolic tensors of known shapes.
        call: runs the code of the model: takes `inputs`, returns the outputs.
        training: whether the code is told that it is training; else it is told nothing.
    """
    run = _Run(model, tree.flatten(inputs))
    with any_index(), followed(), run.hooked():
        outputs = run.in_training(call, inputs) if training else call(inputs)
        calls = run.collect(tree.flatten(outputs))
    outputs = tree.map_structure(run.resolved, outputs)
    return Trace(run.inputs, outputs, calls, run.closed)


def where_it_failed(error: BaseException) -> str:
    """Returns the file and line, outside Keras and TensorFlow, at which code failed, with the message."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_FOLDERS)]
    frame = (own or frames)[-1]
    place = "/".join(frame.filename.split("/")[-2:])
    return f"{place}, line {frame.lineno}: {type(error).__name__}: {in_one_line(error, 200)}"


@dataclass
class _Run:
    """The state of one trace."""

    model: keras.Model
    inputs: list[Any]
    closed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self._layers = list(self.model._flatten_layers())
        self._held = {id(layer): variables_of(layer) for layer in self._layers}
        self._stand_ins: dict[tuple[int, str], Any] = {}
        self._read: dict[int, tuple[Any, Any]] = {}
        self._weights: dict[int, Any] = {}
        self._casts: dict[int, Any] = {}
        self._owners = {
            id(own): (layer, name)
            for layer in reversed(self._layers)
            for name, value in self._held[id(layer)]
            for own in tree.flatten(value)
        }
        self._path: list[str] = []
        self._training: list[Any] = [None]
        self._aliases: dict[int, tuple[Any, Any]] = {}
        self._plain: dict[int, tuple[Any, Any]] = {}
        self._masked: dict[tuple[int, int], Any] = {}
        self._paths: dict[int, str] = {id(self.model): ""}
        self._shut: set[int] = set()
        self._classes: dict[type, type] = {}

    def in_training(self, call: Callable[[Any], Any], inputs: Any) -> Any:
        """Runs code that is told that it is training, by Keras's own way: a layer around it that is called so."""
        entry = _Entry()
        vars(entry)["symbolic_call"] = lambda given, **kwargs: tree.map_structure(self._alias, call(given))
        return entry(inputs, training=True)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Opens the layers for the time of the trace; afterwards they are as before."""
        before = [(operation, state_of(operation)) for operation in self._operations()]
        weights = [(layer, name, value) for layer in self._layers for name, value in self._held[id(layer)]]
        seeds = [(own.state, own.state.numpy()) for layer in self._layers for own in layer._seed_generators]
        try:
            for layer in self._layers:
                if layer is not self.model:
                    vars(layer)["symbolic_call"] = self._hook(layer)
                    if can_be_opened(layer):
                        object.__setattr__(layer, "__class__", self._called_by(type(layer)))
            for layer, name, value in weights:
                vars(layer)[name] = self._swapped(value, layer)
            yield
        finally:
            for layer, name, value in weights:
                vars(layer)[name] = value
            for state, value in seeds:
                if not np.array_equal(state.numpy(), value):
                    state.assign(value)
            for operation, state in before:
                vars(operation).pop("symbolic_call", None)
                restore(operation, state)
            for layer in self._layers:
                object.__setattr__(layer, "__class__", own_class(layer))

    def _operations(self) -> Iterator[Any]:
        """Yields all layers of the model, and the operations of the graphs inside."""
        seen: set[int] = set()
        for layer in self._layers:
            for operation in (layer, *(getattr(layer, "_operations", None) or ())):
                if id(operation) not in seen:
                    seen.add(id(operation))
                    yield operation

    def _called_by(self, layer_class: type) -> type:
        """Returns a class that differs in one thing: its calls give back what is no tensor as it is."""
        if layer_class not in self._classes:
            run = self

            def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
                outputs = layer_class.__call__(layer, *args, **kwargs)
                return tree.map_structure(lambda leaf: run._plain.get(id(leaf), (None, leaf))[1], outputs)

            own = {"__call__": call, "__module__": layer_class.__module__, "__qualname__": layer_class.__qualname__}
            self._classes[layer_class] = type(layer_class.__name__, (layer_class,), own | {OPENED: layer_class})
        return self._classes[layer_class]

    def _swapped(self, value: Any, layer: Any) -> Any:
        if isinstance(value, keras.Variable):
            return self._stand_in(value, layer)
        if isinstance(value, dict):
            return {key: self._swapped(own, layer) for key, own in value.items()}
        if isinstance(value, list | tuple):
            return [self._swapped(own, layer) for own in value]
        return value

    def _stand_in(self, variable: Any, layer: Any) -> Any:
        """Returns the symbolic tensor that stands for a variable which code reads outside the layers that are known.

        In mixed precision it comes in the type that the layer computes in, as a variable does.
        """
        casts = layer.autocast and variable._autocast and backend.is_float_dtype(variable.dtype)
        dtype = layer.compute_dtype if casts else variable.dtype
        if (id(variable), dtype) not in self._stand_ins:
            tensor = keras.KerasTensor(variable.shape, dtype)
            self._stand_ins[id(variable), dtype] = tensor
            self._read[id(tensor)] = (tensor, variable)
        return self._stand_ins[id(variable), dtype]

    def _held_weight(self, tensor: Any) -> Any:
        """Returns what gives out a weight that code has read; most stand-ins are never read."""
        stand_in, variable = self._read[id(tensor)]
        if id(variable) not in self._weights:
            self._weights[id(variable)] = HeldWeight(variable)(self.inputs[0])
        weight = self._weights[id(variable)]
        if stand_in.dtype != weight.dtype and id(tensor) not in self._casts:
            self._casts[id(tensor)] = ops.cast(weight, stand_in.dtype)
        return self._casts.get(id(tensor), weight)

    def _hook(self, layer: Any) -> Callable:
        opened = can_be_opened(layer)

        def symbolic_call(*args: Any, **kwargs: Any) -> Any:
            if opened and id(layer) not in self._shut:
                return self._open(layer, args, kwargs)
            return self._leaf(layer, args, kwargs)

        return symbolic_call

    def _open(self, layer: Any, args: tuple, kwargs: dict) -> Any:
        name = self._here(layer)
        self._paths.setdefault(id(layer), name)
        self._path.append(layer.name)
        self._training.append(kwargs.get("training"))
        try:
            outputs = code_of(layer)(*args, **kwargs)
        except Exception as error:  # Whatever the code of a stranger raises on tensors without numbers.
            self._shut.add(id(layer))
            self.closed[name] = where_it_failed(error)
        else:
            self._note_place(outputs, (args, kwargs))
            return tree.map_structure(self._alias, outputs)
        finally:
            self._path.pop()
            self._training.pop()
        return self._leaf(layer, args, kwargs)

    def _leaf(self, layer: Any, args: tuple, kwargs: dict) -> Any:
        """Asks a layer that is not opened for the shapes of what it gives out; inside it its weights are its own."""
        inside = list(layer._flatten_layers())
        for own in inside:
            vars(own).pop("symbolic_call", None)
            for name, value in self._held.get(id(own), ()):
                vars(own)[name] = value
        try:
            outputs = own_class(layer).symbolic_call(layer, *args, **kwargs)
            if any(None in tensor.shape for tensor in tree.flatten(outputs)):
                outputs = backend.compute_output_spec(layer.call, *args, **kwargs)
        finally:
            for own in inside:
                vars(own)["symbolic_call"] = self._hook(own)
                for name, value in self._held.get(id(own), ()):
                    vars(own)[name] = self._swapped(value, own)
        self._paths.setdefault(id(layer), self._here(layer))
        for tensor in tree.flatten(outputs):
            tensor._tfprune_where = ("/".join(self._path), self._training[-1])
        return outputs

    def _note_place(self, outputs: Any, given: Any) -> None:
        """Notes on all that the code of a layer has made between its inputs and outputs that it was made there."""
        where = ("/".join(self._path), self._training[-1])
        met = {id(own) for own in tree.flatten((given, self.inputs))}
        waiting = tree.flatten(outputs)
        while waiting:
            tensor = waiting.pop()
            if id(tensor) in met or id(tensor) in self._read or not isinstance(tensor, keras.KerasTensor):
                continue
            met.add(id(tensor))
            if id(tensor) in self._aliases:
                waiting.append(self._aliases[id(tensor)][1])
            elif hasattr(tensor, "_keras_history"):
                node = _node_of(tensor)
                waiting.extend(node.input_tensors)
                for own in node.outputs:
                    own._tfprune_where = getattr(own, "_tfprune_where", where)

    def _here(self, layer: Any) -> str:
        return "/".join([*self._path, layer.name])

    def _alias(self, tensor: Any) -> Any:
        """Returns a tensor that stands for one from inside a layer: Keras notes on it that the layer has made it.

        What is no tensor (None in the place of scores that were not asked for) gets a tensor, too: Keras wants one.
        """
        if not isinstance(tensor, keras.KerasTensor):
            alias = keras.KerasTensor(())
            self._plain[id(alias)] = (alias, tensor)
            return alias
        alias = keras.KerasTensor(tensor.shape, tensor.dtype, sparse=tensor.sparse)
        mask = backend.get_keras_mask(tensor)
        if mask is not None:
            alias._keras_mask = mask
        self._aliases[id(alias)] = (alias, tensor)
        return alias

    def resolved(self, tensor: Any) -> Any:
        """Returns the tensor behind aliases, with the time mask that a layer has put on its outputs."""
        if id(tensor) in self._read:
            return self._held_weight(tensor)
        if id(tensor) not in self._aliases:
            return tensor
        inner = self.resolved(self._aliases[id(tensor)][1])
        mask = backend.get_keras_mask(tensor)
        if mask is None or mask is backend.get_keras_mask(inner):
            return inner
        key = id(inner), id(mask)
        if key not in self._masked:
            self._masked[key] = WithMask()(inner, mask)
        return self._masked[key]

    def collect(self, outputs: list[Any]) -> list[Traced]:
        """Returns the calls that the outputs stand on, each after those that it reads."""
        given = {id(tensor) for tensor in self.inputs}
        made: dict[int, Traced] = {}
        calls: list[Traced] = []
        waiting = [(self.resolved(tensor), False) for tensor in reversed(outputs)]
        while waiting:
            tensor, ready = waiting.pop()
            if id(tensor) in given or id(tensor) in made:
                continue
            node = _node_of(tensor)
            read = [self.resolved(own) for own in node.input_tensors]
            if not ready:
                waiting.append((tensor, True))
                waiting.extend((own, False) for own in reversed(read))
                continue
            call = self._traced(node)
            made.update((id(own), call) for own in node.outputs)
            calls.append(call)
        return calls

    def _traced(self, node: Any) -> Traced:
        args, kwargs = (
            tree.map_structure(lambda leaf: self.resolved(leaf) if isinstance(leaf, keras.KerasTensor) else leaf, own)
            for own in (node.arguments.args, node.arguments.kwargs)
        )
        path, training = getattr(node.outputs[0], "_tfprune_where", ("", None))
        if "training" in kwargs and (kwargs["training"] is None or kwargs["training"] == training):
            # What the code around it was told, not what it says itself.
            kwargs = {key: value for key, value in kwargs.items() if key != "training"}
        name = self._paths.get(id(node.operation))
        if isinstance(node.operation, HeldWeight):
            name = self._name_of_weight(node.operation.held)
        elif name is None:
            name = "/".join(own for own in (path, type(node.operation).__name__.lower()) if own)
        return Traced(node.operation, name, args, kwargs, list(node.outputs))

    def _name_of_weight(self, variable: Any) -> str:
        """Returns the path of the layer that holds a weight, and the weight's name in it."""
        layer, attribute = self._owners[id(variable)]
        own = attribute if variable.name.startswith("variable") else variable.name
        return "/".join(part for part in (self._path_of(layer), own) if part)

    def _path_of(self, layer: Any) -> str:
        """Returns the path of a layer: as it was called, else as it is held."""
        if id(layer) not in self._paths:
            holds = (own for own in self._layers if any(one is layer for one in own._layers))
            parent = next(holds, self.model)
            self._paths[id(layer)] = "/".join(part for part in (self._path_of(parent), layer.name) if part)
        return self._paths[id(layer)]


class _Entry(keras.layers.Layer):
    """The outermost layer of a trace: what it is told of training, the layers inside are told."""

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return inputs


def code_of(layer: Any) -> Callable:
    """Returns what runs the code of a layer; the graph of a nested model is run node by node."""
    if isinstance(layer, keras.Sequential) and layer._functional is not None:
        return code_of(layer._functional)
    if not isinstance(layer, keras.Model) or not hasattr(layer, "_nodes_by_depth"):
        return layer.call

    def graph(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return run_graph(layer, tree.flatten(inputs))

    return graph if type(layer).call in (keras.Model.call, Functional.call) else layer.call


def run_graph(model: Any, inputs: Sequence[Any]) -> Any:
    """Runs a functional graph node by node."""
    values = {id(own): value for own, value in zip(model.inputs, inputs, strict=True)}
    for node in nodes_in(model):
        args, kwargs = substituted(node, lambda leaf: values[id(leaf)])
        outputs = tree.flatten(node.operation(*args, **kwargs))
        values.update({id(own): value for own, value in zip(node.outputs, outputs, strict=True)})
    return tree.pack_sequence_as(model._outputs_struct, [values[id(own)] for own in model.outputs])


def _node_of(tensor: Any) -> Any:
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def takes_training(layer: Any) -> bool:
    """Whether the code of a layer is told whether it is training."""
    return "training" in inspect.signature(layer.call).parameters
