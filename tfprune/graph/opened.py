"""The opened form of a model: a functional graph of the layers that its code calls, down to those that the table knows.

A model whose layers are made of layers (a transformer of blocks, say), and a subclassed model, have no graph that could
be read. Their code is run on symbolic tensors of two sizes. What it calls both times is the graph; what differs must
follow the sizes of the inputs, so that the graph serves for every batch and, where the code allows, for every length.
Before it is used, it is run beside the model on random numbers of a third size.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.ops.node import Node
from keras.src.ops.numpy import Reshape

from tfprune.borders import warn
from tfprune.graph.closing import can_be_opened
from tfprune.graph.comparing import gives_same, tolerance_of
from tfprune.graph.layouts import THIRD, Layout, inputs_of, symbols_of, ways_of
from tfprune.graph.nodes import copied, is_graph, nodes_in, set_path, shut, substituted
from tfprune.graph.sizes import NotAlike, SizedCall, aligned, anchors, array_of
from tfprune.graph.table import version_of_table
from tfprune.graph.told import told_input_shapes
from tfprune.graph.tracing import Trace, Traced, run_graph, takes_training, trace, where_it_failed
from tfprune.layers.opened import Size, Sized, SizedArray, put

_PLACE = "_tfprune_opened"
_ORIGINALS, _IN_TRAINING, _CHECKED = "_tfprune_originals", "_tfprune_in_training", "_tfprune_checked_at"
_WAY_OUT = " (where it takes certain lengths alone, tell one: unit_groups(model, input_shapes=...))"
_LONG = (1024, 512, 256, 128, 64, 32)
_lock = threading.RLock()


class _Held:
    """The opened form that hangs on a model; nothing of it goes into copies of the model."""

    def __init__(self, owner: Any, opened: Any, reason: str):
        self.owner, self.opened, self.version = weakref.ref(owner), opened, version_of_table()
        self.reason = reason
        self.token: tuple = ()

    def __reduce__(self) -> tuple:
        return object, ()


def opened(model: keras.Model) -> keras.Model | None:
    """Returns the opened form of a model, or None if there is nothing to open; the same one while the model is.

    Raises:
        ValueError: if it is a subclassed model whose code cannot be followed.
    """
    # While one thread runs the code on symbolic tensors, another one must not begin to.
    with _lock:
        held = vars(model).get(_PLACE)
        if isinstance(held, _Held) and held.owner() is model and held.token == _token(model, held.version):
            held.version = version_of_table()
            return held.opened
        result, reason = _open(model, hasattr(model, "_nodes_by_depth")) if _may(model) else (None, "")
        # Opening builds layers that were not, so that the token is taken afterwards.
        vars(model)[_PLACE] = held = _Held(model, result, reason)
        held.token = _token(model, None)
        return result


def is_opened(graph: keras.Model) -> bool:
    """Whether a functional graph is the opened form of a model."""
    return _ORIGINALS in vars(graph)


def originals(form: keras.Model) -> dict[int, Any]:
    """Returns the operation of the model for the `id` of each one of its opened form."""
    return dict(vars(form)[_ORIGINALS])


def example_inputs(form: keras.Model, shapes: Sequence[Sequence[int]] | None = None) -> Any:
    """Returns random inputs for a form, as it takes them, of the shapes at which it was checked or of others."""
    generator = np.random.default_rng(1)
    shapes = vars(form).get(_CHECKED) if shapes is None else shapes
    arrays = []
    for number, tensor in enumerate(form.inputs):
        open_lengths = [own or THIRD[axis > 0] for axis, own in enumerate(tensor.shape)]
        shape = open_lengths if shapes is None else shapes[number]
        real = keras.backend.is_float_dtype(tensor.dtype)
        array = generator.normal(size=shape) if real else generator.integers(0, 2, shape)
        arrays.append(keras.ops.convert_to_tensor(array.astype(tensor.dtype)))
    return tree.pack_sequence_as(form._inputs_struct, arrays)


def _token(model: keras.Model, version: int | None) -> tuple:
    """Returns what the opened form of a model hangs on.

    Which layers are to be opened is only looked at where the table has changed since `version`.
    """
    graph = id(model._nodes_by_depth) if hasattr(model, "_nodes_by_depth") else None
    held = vars(model).get(_PLACE)
    if version == version_of_table():
        to_open = held.token[1]
    else:
        to_open = tuple(id(layer) for layer in model._flatten_layers(include_self=False) if can_be_opened(layer))
    return graph, to_open, told_input_shapes(model), _flags(model) if held.opened is not None else ()


def _may(model: keras.Model) -> bool:
    """Whether there is something to open."""
    if not hasattr(model, "_nodes_by_depth"):
        return True
    return any(can_be_opened(layer) and not is_graph(layer) for layer in _operations(model))


def _operations(model: Any) -> Iterator[Any]:
    """Yields the operations of a graph and of the graphs nested in it."""
    for operation in model.operations:
        yield operation
        graph = getattr(operation, "_functional", None) or operation
        if isinstance(operation, keras.Model) and hasattr(graph, "_nodes_by_depth"):
            yield from _operations(graph)


def _flags(model: keras.Model) -> tuple:
    """Returns what of the layers of a model goes into its opened form, and may be changed by its owner."""
    layers = model._flatten_layers(include_self=False)
    changed = ("lora_enabled", "quantization_mode")
    return tuple((id(own), own._trainable, own.built, *(getattr(own, key, None) for key in changed)) for own in layers)


def why_not_opened(model: keras.Model) -> str:
    """Returns why a model with something to open could not be; empty for every other one."""
    held = vars(model).get(_PLACE)
    return held.reason if isinstance(held, _Held) and held.owner() is model else ""


def _open(model: keras.Model, has_graph: bool) -> tuple[keras.Model | None, str]:
    """Returns the opened form, or None and the reason."""
    structure = model._inputs_struct if has_graph else inputs_of(model)
    given = tree.flatten(structure)
    call = (lambda inputs: run_graph(model, tree.flatten(inputs))) if has_graph else model.call
    failed: list[tuple[Any, str]] = []
    best: tuple[int, Any] | None = None
    for inputs, groups in ways_of(given, has_graph, told_input_shapes(model)):
        try:
            found = _opened_at(model, structure, inputs, groups, call, has_graph)
        except NotAlike as reason:
            failed.append((inputs, str(reason)))
            continue
        except Exception as error:  # The code of a stranger, run on tensors without numbers.
            failed.append((inputs, where_it_failed(error)))
            continue
        if best is None or len(found[0]) < best[0]:
            best = len(found[0]), found[1]
        if not found[0]:
            break
    if best is not None:
        _warn_of_fixed_lengths(model, best[1], has_graph)
        return best[1], ""
    # What fails at the shapes that the model was made for says more than what fails at others.
    shapes = [tuple(own.shape) for own in given]
    reason = next((reason for inputs, reason in failed if [own.shape for own in inputs] == shapes), failed[-1][1])
    if has_graph:
        told = told_input_shapes(model)
        if told is not None:
            return None, f"{reason} (at the input_shapes that were told, {', '.join(map(str, told))})"
        return None, reason + (_WAY_OUT if any(None in shape[1:] for shape in shapes) else "")
    raise ValueError(
        f"model {model.name!r} is a subclassed model ({type(model).__name__}), and its code cannot be followed: "
        f"{reason}. Make it functional: inputs = keras.Input(shape); "
        "model = keras.Model(inputs, model.call(inputs)); or teach its layers with tfprune.graph.register. Where "
        "its code takes certain lengths alone, tell one: unit_groups(model, input_shapes=...)."
    )


def _warn_of_fixed_lengths(model: keras.Model, form: keras.Model, has_graph: bool) -> None:
    """Warns where the package had to choose a length that the model leaves open."""
    if not has_graph or told_input_shapes(model) is not None:
        return
    for own, found in zip(model.inputs, form.inputs, strict=True):
        if tuple(own.shape[1:]) != tuple(found.shape[1:]):
            warn(
                f"unit_groups: the code of model {model.name!r} could be followed at one length alone, so that masks "
                f"and scores take no other; input {own.name!r} was taken as {tuple(found.shape)}. Tell the shapes of "
                "your data: unit_groups(model, input_shapes=...). What remove cuts takes what the model takes."
            )
            return


def _opened_at(
    model: Any, structure: Any, inputs: list[Layout], groups: str | int, call: Any, has_graph: bool
) -> tuple:
    """Returns the layers that stay closed, and the opened model."""
    symbols = symbols_of(inputs, groups)

    def traced(which: Any, training: bool = False) -> Trace:
        shapes = [list(own.shape) for own in inputs]
        for members, symbol in symbols:
            for number, axis in members:
                shapes[number][axis] = which(symbol)
        tensors = [
            keras.KerasTensor(shape, own.dtype, name=own.name) for shape, own in zip(shapes, inputs, strict=True)
        ]
        own = partial(call, training=True) if training and not has_graph and takes_training(model) else call
        return trace(model, tree.pack_sequence_as(structure, tensors), own, training=training)

    one, two = traced(lambda symbol: symbol.one), traced(lambda symbol: symbol.two)
    sized = aligned(one, two, [symbol for _, symbol in symbols])
    longest = _longest(traced, one, sized)
    result = _Builder(model, structure, inputs, one, sized, longest).build()
    _check(model, result, inputs, symbols)
    vars(result)[_IN_TRAINING] = _differences_in_training(
        model, one, lambda: traced(lambda symbol: symbol.one, training=True)
    )
    return one.closed, result


def _differences_in_training(model: keras.Model, one: Trace, trained: Callable[[], Trace]) -> tuple[str, ...]:
    """Returns the paths of the layers whose code calls something else when it is told that it is training."""
    try:
        other = trained()
    except Exception:  # A stranger's code.
        return (model.name,)
    calls = [Counter((type(call.operation).__name__, call.name) for call in own.calls) for own in (one, other)]
    names = {name.rpartition("/")[0] or model.name for _, name in (calls[0] - calls[1]) + (calls[1] - calls[0])}
    return tuple(sorted(names | (other.closed.keys() - one.closed.keys())))


def other_in_training(model: keras.Model) -> tuple[str, ...]:
    """Returns the paths of layers whose code does something in training that the opened form does not do."""
    held = vars(model).get(_PLACE)
    form = held.opened if isinstance(held, _Held) and held.owner() is model else None
    return vars(form)[_IN_TRAINING] if form is not None else ()


def _longest(traced: Any, one: Trace, sized: list[SizedCall]) -> Trace | None:
    """Returns a trace at the longest inputs that the code takes, if it makes arrays that follow the lengths."""
    sizes = [size for call in sized for axes in call.arrays.values() for size in axes.values()]
    if not any(axis > 0 for _, axes, _ in sizes for _, axis in axes):
        return None

    def at(length: int) -> Trace | None:
        try:
            found = traced(lambda symbol: symbol.one if symbol.axis[1] == 0 else length)
        except Exception:  # Longer than its tables, say.
            return None
        return found if len(found.calls) == len(one.calls) and found.closed == one.closed else None

    fits, too_long = None, None
    for length in _LONG:
        fits = at(length)
        if fits is not None:
            break
        too_long = length
    low = length
    while fits is not None and too_long is not None and too_long - low > 1:
        middle = (low + too_long) // 2
        found = at(middle)
        fits, low, too_long = (fits, low, middle) if found is None else (found, middle, too_long)
    return fits


class _Builder:
    """Builds the functional graph on copies of the layers, which share their weights."""

    def __init__(self, model: Any, structure: Any, inputs: list[Layout], one: Trace, sized: list, longest: Any):
        self._model, self._structure, self._inputs = model, structure, inputs
        self._trace, self._sized, self._longest = one, sized, longest
        self._tensors: dict[int, Any] = {}
        self._copies: dict[int, Any] = {}
        self._names: dict[str, int] = {}
        self._twins: list[tuple[Any, Any]] = []

    def build(self) -> keras.Model:
        inputs = [keras.Input(own.shape[1:], own.shape[0], own.dtype, name=own.name) for own in self._inputs]
        self._like = inputs
        self._tensors = {id(own): new for own, new in zip(self._trace.inputs, inputs, strict=True)}
        for number, (call, sized) in enumerate(zip(self._trace.calls, self._sized, strict=True)):
            self._call(number, call, sized)
        outputs = tree.map_structure(lambda own: self._tensors[id(own)], self._trace.outputs)
        result = keras.Model(tree.pack_sequence_as(self._structure, inputs), outputs, name=self._model.name)
        result._trainable = self._model._trainable
        vars(result)[_ORIGINALS] = {id(twin): old for old, twin in self._twins}
        return result

    def _call(self, number: int, call: Traced, sized: SizedCall) -> None:
        given: Any = {**dict(enumerate(call.args)), **call.kwargs}
        for path, axes in sized.arrays.items():
            given = put(given, path, self._array(number, call, path, axes))
        given = tree.map_structure(
            lambda leaf: self._tensors.get(id(leaf), leaf) if isinstance(leaf, keras.KerasTensor) else leaf, given
        )
        args = tuple(given[place] for place in range(len(call.args)))
        kwargs = {name: given[name] for name in call.kwargs}
        operation = self._operation(call, sized)
        if isinstance(operation, Sized):
            kwargs["like"] = self._like
        outputs = self._made(operation, call.outputs, sized.shapes)
        Node(operation, args, kwargs, outputs)
        self._tensors.update((id(old), new) for old, new in zip(call.outputs, outputs, strict=True))

    def _made(self, operation: Any, old: list[Any], shapes: list[tuple]) -> list[Any]:
        return [
            keras.KerasTensor(shape, own.dtype, sparse=own.sparse, name=f"{operation.name}_{k}")
            for k, (own, shape) in enumerate(zip(old, shapes, strict=True))
        ]

    def _operation(self, call: Traced, sized: SizedCall) -> Any:
        old = call.operation
        if id(old) not in self._copies:
            name = self._name(call.name)
            if sized.settings or sized.arguments:
                own = _with_known_lengths(old, sized.shapes)
                self._copies[id(old)] = Sized(own, sized.settings, sized.arguments)
            else:
                self._copies[id(old)] = copied(old)
            set_path(self._copies[id(old)], name)
            self._twins.append((old, self._copies[id(old)]))
            reason = self._trace.closed.get(call.name)
            if reason is not None:
                shut(self._copies[id(old)], reason)
        return self._copies[id(old)]

    def _name(self, wanted: str) -> str:
        self._names[wanted] = count = self._names.get(wanted, 0) + 1
        return wanted if count == 1 else self._name(f"{wanted}_{count}")

    def _array(self, number: int, call: Traced, path: tuple, axes: dict[int, Size]) -> Any:
        """Returns a tensor for an array that follows the sizes of the inputs."""
        longest = self._trace if self._longest is None else self._longest
        value, short = (
            array_of(_at({**dict(enumerate(own.args)), **own.kwargs}, path)) for own in (longest.calls[number], call)
        )
        found = anchors(value, short)
        if found is None:
            raise NotAlike(f"{call.name} reads an array whose numbers change with the size")
        repeated = [axis for axis, (_, lengths, _) in axes.items() if any(own == 0 for _, own in lengths)]
        for axis in repeated:
            first = np.take(value, [0], axis=axis)
            if not np.array_equal(np.broadcast_to(first, value.shape), value):
                raise NotAlike(f"{call.name} reads an array whose numbers differ from sample to sample")
            value = first
        operation = SizedArray(value, axes, repeated, found)
        set_path(operation, self._name(f"{call.name}/array"))
        shape = tuple(None if axis in axes else length for axis, length in enumerate(value.shape))
        output = keras.KerasTensor(shape, value.dtype.name, name=f"{operation.name}_0")
        Node(operation, (self._like,), {}, [output])
        return output


def _with_known_lengths(operation: Any, shapes: list[tuple]) -> Any:
    """Returns a copy of an operation; of a reshape, with a length that it leaves open written out where it is known."""
    if not isinstance(operation, Reshape):
        return copied(operation)
    told, (made,) = tuple(operation.newshape), shapes
    places = [place for place, own in enumerate(told) if own == -1 and made[place] is not None]
    return Reshape(tuple(made[place] if place in places else own for place, own in enumerate(told)))


def _at(structure: Any, path: tuple) -> Any:
    for place in path:
        structure = getattr(structure, place) if isinstance(structure, slice) else structure[place]
    return structure


def _run_without_sizes(result: keras.Model) -> None:
    """Runs copies of all operations on inputs of open lengths, as masking and cutting will: not all of them can."""
    copies: dict[int, Any] = {}
    values = {id(tensor): keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in result.inputs}
    for node in nodes_in(result):
        args, kwargs = substituted(node, lambda leaf: values[id(leaf)])
        operation = copies.setdefault(id(node.operation), copied(node.operation))
        outputs = tree.flatten(operation(*args, **kwargs))
        values.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})


def _check(model: Any, result: keras.Model, inputs: list[Layout], symbols: list) -> None:
    """Raises NotAlike unless both compute the same for random numbers of a third size."""
    shapes = [list(own.shape) for own in inputs]
    for members, symbol in symbols:
        for number, axis in members:
            shapes[number][axis] = symbol.three
    vars(result)[_CHECKED] = shapes
    _run_without_sizes(result)
    given = example_inputs(result, shapes)
    if not gives_same(model(given, training=False), result(given, training=False), tolerance_of(model)):
        raise NotAlike("what was read of its code computes something else than the model")
