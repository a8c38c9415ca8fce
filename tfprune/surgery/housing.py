"""How the cut form of an opened model is made: in its own class, of its own blocks, in plain layers, as a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.models.functional import Functional

from tfprune.graph.blocks import Removal
from tfprune.graph.closing import can_be_opened
from tfprune.graph.comparing import gives_same, tolerance_of
from tfprune.graph.nodes import drop_place, name_of, nodes_in, substituted
from tfprune.graph.opened import (
    example_inputs,
    is_opened,
    originals,
)
from tfprune.graph.walk import functional
from tfprune.layers.opened import HeldWeight, Sized, SizedArray, WithMask
from tfprune.surgery.configuring import Configurer, Refused
from tfprune.surgery.copying import Copier, NotCopied
from tfprune.surgery.homes import at_home
from tfprune.surgery.leaving import added_up, passed_on, whole_layers
from tfprune.surgery.rebuild import Cut, Rebuild


class House:
    """The cut graph of an opened model, and what its weights and numbers have become."""

    def __init__(self, rebuilt: Rebuild):
        self.rebuilt, self.model = rebuilt, rebuilt.graph.model
        self.opened = functional(self.model)
        self._is_opened = is_opened(self.opened)
        self._new = rebuilt.new_variables()
        self._numbers = dict(self._changed_numbers())
        self._replaced, self._with_bias = self._numbers, rebuilt.with_bias
        removal = rebuilt.removal if isinstance(rebuilt, Cut) else Removal(self.model, ())
        # A weight that no call reads goes with the layer that holds it.
        self._whole = list(whole_layers(self.model, removal)) if removal.variables else []
        # The outermost layers in which, or behind which, a block goes that leaves what enters them.
        passed = (node for node in nodes_in(self.opened) if id(node) in removal.passed)
        self._passed = {name_of(node.operation).split("/")[0] for node in passed}
        self._gone = removal.variables | {id(weight) for layer in self._whole for weight in layer.weights}
        self._configurer = Configurer(self._new, self._numbers, self._changes, self._gone, self._whole)

    @property
    def order(self) -> tuple[str, ...]:
        """The forms as "auto" tries them: a copy goes before a graph in which weights have left their layers."""
        reads = any(isinstance(own, HeldWeight) for own in self.rebuilt.model.operations)
        return ("class", "layers", *(("copy", "plain") if reads else ("plain", "copy")), "graph")

    def as_plain(self) -> keras.Model:
        """The cut graph as it is, where nothing stands in it but what Keras has, or has homes for."""
        operations = self.rebuilt.model.operations if self._is_opened else []
        for operation in operations:
            if isinstance(operation, Sized | SizedArray | WithMask):
                raise Refused(f"no layer of Keras says what {name_of(operation)!r} computes")
        model = self.as_graph()
        if any(isinstance(operation, HeldWeight) for operation in operations):
            model, homes = at_home(model)
            self.check(model)
            self.rebuilt.housed(homes)
        return model

    def as_class(self) -> keras.Model:
        """The model's own class, built from its configuration with other numbers."""
        if type(self.model).__module__.startswith("keras.src.models"):
            raise Refused(f"its class is a plain keras.{type(self.model).__name__}")
        self._refuse_biases("")
        new = self._configurer.built(self.model, lambda new: new(example_inputs(self.opened)))
        self._compare_classes(new)
        return new

    def as_layers(self) -> keras.Model:
        """A functional model of the model's blocks, each built from its own configuration."""
        self._refuse_biases("/")
        copier = self._copier()

        def block(old: Any, args: tuple, kwargs: dict) -> Any:
            if not self._changes(old) or isinstance(old, keras.layers.Lambda):
                return self._copied(old, copier)
            new = self._configurer.built(old, lambda new: new(*args, **kwargs))
            # What it holds may be called beside it (an embedding that is read backwards, say).
            copier.know(self._configurer.pairs(old, new))
            return new

        return self._run_with(block, copier)

    def as_copy(self) -> keras.Model:
        """A copy of the model, or of its blocks, that holds the cut layers and weights.

        Which numbers in the blocks are sizes of what was cut is tried out.
        """
        failed: list[Exception] = []
        for numbers in (self._numbers, {**self._lengths(), **self._numbers}, {}):
            self._replaced = numbers
            try:
                model = self._copy()
                self.check(model)
                return model
            except Exception as error:  # The code of a stranger, with other numbers than it was written for.
                failed.append(error)
        raise failed[0]

    def as_graph(self) -> keras.Model:
        """The cut graph as it is, with operations of this package in it."""
        for operation in self.rebuilt.model.operations:
            drop_place(operation)
        return self.rebuilt.model

    def _copy(self) -> keras.Model:
        copier = self._copier()
        try:
            if not hasattr(self.model, "_nodes_by_depth"):
                return self._copied(self.model, copier)
            return self._run_with(lambda block, args, kwargs: self._copied(block, copier), copier)
        except NotCopied as reason:
            raise Refused(str(reason)) from reason

    def check(self, model: keras.Model) -> None:
        """Raises Refused unless a model computes what was cut."""
        inputs = example_inputs(self.opened)
        if not gives_same(
            self.rebuilt.model(inputs, training=False), model(inputs, training=False), tolerance_of(self.model)
        ):
            raise Refused("it computes something else than the cut graph")
        read = {id(own) for own in self.opened.weights}
        unread = [own for own in self.model.weights if id(own) not in read and id(own) not in self._gone]
        if _size(model.weights) > _size(self.rebuilt.model.weights) + _size(unread):
            raise Refused("it holds a weight twice that the original holds once")

    def _run_with(self, block: Callable[[Any, tuple, dict], Any], copier: Copier) -> keras.Model:
        """Runs the model's own graph with another layer in the place of each; `block` is told how it will be called."""
        graph = getattr(self.model, "_functional", None) or self.model
        if not hasattr(graph, "_nodes_by_depth"):
            raise Refused("it is a subclassed model, which has no graph of blocks")
        inputs = [self.rebuilt._input(tensor) for tensor in graph.inputs]
        values = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        made: dict[int, Any] = {}
        whole = {id(own) for own in self._whole}
        for node in nodes_in(graph):
            operation = node.operation
            gone = [values[id(own)] is None for own in node.input_tensors]
            if id(operation) in whole and operation.name in self._passed:
                values.update(passed_on(node, values))
                continue
            if id(operation) in whole or (gone and all(gone)):
                values.update(dict.fromkeys(map(id, node.outputs)))
                continue
            if any(gone):
                values.update(added_up(node, values))
                continue
            if id(operation) not in made:
                args, kwargs = substituted(node, lambda leaf: values[id(leaf)])
                opens = can_be_opened(operation)
                known = copier.known(operation)
                new = block(operation, args, kwargs) if opens else self._leaf(operation) if known is None else known
                made[id(operation)] = new
            args, kwargs = substituted(node, lambda leaf: values[id(leaf)])
            outputs = tree.flatten(made[id(operation)](*args, **kwargs))
            values.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
        result = keras.Model(
            tree.pack_sequence_as(graph._inputs_struct, inputs),
            tree.map_structure(lambda own: values[id(own)], graph._outputs_struct),
            name=self.model.name,
        )
        result._trainable = self.model._trainable
        return result

    def _leaf(self, old: Any) -> Any:
        """Returns the cut layer for one of the model's that the graph has as it is."""
        twins = {id(own): key for key, own in originals(self.opened).items()} if self._is_opened else {}
        new = self.rebuilt.operations.get(twins.get(id(old), id(old)))
        if new is None:
            return self.rebuilt._copied(old)
        new.name = old.name
        drop_place(new)
        new._inbound_nodes, new._outbound_nodes = [], []
        return new

    def _copied(self, old: Any, copier: Copier) -> Any:
        # A layer that is not called, whose weights the code around it reads, is cut here.
        is_read = any(id(own) in self._new for own in old.weights)
        if id(old) in self._closed() or not (can_be_opened(old) or is_read):
            return self._leaf(old)
        known = copier.known(old)
        if known is not None:
            return known
        new = copier.layer(old)
        for name, value in vars(new).items():
            if type(value) is int or (type(value) is tuple and all(own is None or type(own) is int for own in value)):
                vars(new)[name] = self._number_for(old, value)
        if isinstance(new, keras.layers.Lambda) and not callable(new._output_shape):
            # What it was told of the width may hold no more; Keras finds it by running the function.
            new._output_shape = None
        if isinstance(new, Functional) and self._changes(old):
            # A nested graph would insist on inputs as wide as they were.
            new.input_spec = None
        return new

    def _number_for(self, old: Any, value: Any) -> Any:
        """Returns what a number, or each of a tuple of them, that a layer holds has become."""
        if isinstance(value, tuple):
            return tuple(self._number_for(old, own) for own in value)
        return self._replaced.get((id(old), value), value)

    def _closed(self) -> set[int]:
        return {id(own) for own in originals(self.opened).values()} if self._is_opened else set()

    def _copier(self) -> Copier:
        copier = Copier(lambda old: self._copied(old, copier), filter(can_be_opened, self._whole))
        copier.know(self._known_variables())
        return copier

    def _changes(self, block: Any) -> bool:
        """Whether weights or numbers of a block are others in the cut model."""
        inside = {id(own) for own in block._flatten_layers()}
        shapes = [(own.shape, self._new[id(own)].shape) for own in block.weights if id(own) in self._new]
        if any(id(own) in self._gone for own in block.weights):
            return True
        return any(key in inside for key, _ in self._numbers) or any(one != other for one, other in shapes)

    def _known_variables(self) -> list[tuple[Any, Any]]:
        variables = [own for layer in self.model._flatten_layers() for own in layer.variables]
        return [(own, self._new[id(own)]) for own in variables if id(own) in self._new]

    def _refuse_biases(self, inside: str) -> None:
        """Refuses where a repair has given a bias to layers that a constructor builds without one."""
        added = {name_of(node.operation) for node in nodes_in(self.opened) if id(node.operation) in self._with_bias}
        names = sorted(name for name in added if inside in name)
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Refused(f"the repair needs a bias in {names[0]!r}{more}, which the class builds without one")

    def _compare_classes(self, new: Any) -> None:
        if type(new) is not type(self.model):
            raise Refused(f"from_config gives a {type(new).__name__}")

    def _changed_numbers(self) -> Iterator[tuple[tuple[int, int], int]]:
        """Yields what numbers in the code of a block have become, by the block and the number."""
        records = self.rebuilt.graph.records
        for node in nodes_in(self.opened):
            edits = [*records.edits.get(id(node.operation), {}).values(), *records.call_edits.get(id(node), ())]
            if isinstance(node.operation, keras.layers.Layer) and not isinstance(node.operation, HeldWeight):
                edits = records.call_edits.get(id(node), [])
            for edit in edits:
                counts = self.rebuilt.counts(edit.ids)
                if (counts == 1).all():
                    continue
                for layer in self._on_the_way(name_of(node.operation)):
                    yield (id(layer), len(counts)), int(counts.sum())

    def _lengths(self) -> dict[tuple[int, int], int]:
        """Returns what lengths of the weights in a block have become, where all of one length have become the same."""
        found: dict[tuple[int, int], set[int]] = {}
        for layer in self.model._flatten_layers():
            for own in layer.weights if can_be_opened(layer) else ():
                for old, new in zip(own.shape, self._new.get(id(own), own).shape, strict=True):
                    found.setdefault((id(layer), old), set()).add(new)
        return {key: new.pop() for key, new in found.items() if len(new) == 1 and new != {key[1]}}

    def _on_the_way(self, path: str) -> Iterator[Any]:
        """Yields the layers whose code has made a call: the model, and those that its path names.

        Blocks of one kind hold layers of the same names; a layer that another one holds is looked for everywhere.
        """
        here = [self.model]
        yield self.model
        for part in path.split("/")[:-1]:
            below = [own for layer in here for own in layer._flatten_layers(include_self=False, recursive=False)]
            here = [own for own in below if own.name == part]
            here = here or [own for own in self.model._flatten_layers() if own.name == part]
            yield from here


def _size(weights: list[Any]) -> int:
    return sum(int(np.prod(own.shape)) for own in weights)
