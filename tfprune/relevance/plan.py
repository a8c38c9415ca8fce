"""What is known about a model before it runs: names of its layers, and where to look."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfprune.graph import UnitGraph
from tfprune.graph.nodes import is_graph, name_of
from tfprune.graph.read import read
from tfprune.graph.walk import functional, nodes_of, run_flat
from tfprune.units import describe_unknown


class Site(NamedTuple):
    """Where to look at the units of a layer: tensors of the graph, one for each call, and their axis of channels."""

    name: str
    tensors: tuple[Any, ...]
    axis: int


def shown_columns(graph: UnitGraph) -> dict[str, np.ndarray]:
    """Returns for each layer that makes units which unit of the graph each of its channels is, where they show.

    A unit has several channels where a grouped kernel goes on. Channels that are no unit have -1.

    Args:
        graph: of the model.
    """
    found = {}
    for emitter in graph.records.emitters.values():
        for home in emitter.homes[:1]:
            ids = graph.records.signals[id(home.tensor)].axes[home.axis]
            found[emitter.name] = graph.columns(ids[np.isin(ids, emitter.ids)])
    return found


def unit_totals(units: Mapping[str, np.ndarray], columns: dict[str, np.ndarray], graph: UnitGraph) -> np.ndarray:
    """Returns the values of all units of a graph, summed over the layers that make them, `(samples, num_units)`.

    Args:
        units: `(samples, channels)` by layer name.
        columns: as `shown_columns` has them.
        graph: of the model.
    """
    num_samples = len(next(iter(units.values()))) if units else 0
    # What cannot be removed has the column -1: the one too many at the end.
    totals = np.zeros((graph.num_units + 1, num_samples))
    for name, values in units.items():
        np.add.at(totals, columns[name], values.T)
    return totals[:-1].T


class Plan:
    """What is known about a model before it runs.

    Args:
        model: a Sequential or functional model.

    Attributes:
        names: names of layers and operations, with those of the models around them, by `id`.
        sites: where the units of each layer show.
        dtype: the precision in which relevance is computed.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.names: dict[int, str] = {}
        # The tensors that each call of a layer gives out, and which run through the graph around them it is.
        self._calls: dict[str, list[list[tuple[Any, int]]]] = {}
        self._name_layers(model, "")
        self._find_calls()
        self._positions: dict[str, np.ndarray] = {}
        self.sites = self._find_sites()
        # Operations have no precision of their own; it shows in what they give out.
        wide = any(getattr(layer, "compute_dtype", "") == "float64" for layer in model._flatten_layers())
        wide = wide or any(tensor.dtype == "float64" for tensor in functional(model).outputs)
        self.dtype = "float64" if wide else "float32"

    def _name_layers(self, model: keras.Model, prefix: str) -> None:
        for node in nodes_of(model):
            operation = node.operation
            self.names.setdefault(id(operation), prefix + name_of(operation))
            if is_graph(operation):
                self._name_layers(operation, f"{prefix}{operation.name}/")

    def _find_calls(self) -> None:
        turns: dict[int, int] = {}

        def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            for tensor in node.outputs:
                turns[id(tensor)] = turns.get(id(tensor), -1) + 1
            found = self._calls.setdefault(self.names[id(node.operation)], [])
            found.append([(tensor, turns[id(tensor)]) for tensor in node.outputs])
            return node.outputs

        run_flat(self.model, functional(self.model).inputs, call)
        self._find_nested(self.model, turns)

    def _find_nested(self, model: keras.Model, turns: dict[int, int]) -> None:
        """A model inside counts as a layer, too: it gives out what its last layers do."""
        for node in nodes_of(model):
            inner, name = node.operation, self.names[id(node.operation)]
            if not is_graph(inner) or name in self._calls:
                continue
            given = functional(inner).outputs
            if all(id(tensor) in turns for tensor in given):
                runs = range(turns[id(given[0])] + 1)
                self._calls[name] = [[(tensor, turn) for tensor in given] for turn in runs]
            self._find_nested(inner, turns)

    def _find_sites(self) -> list[Site]:
        """One site for each layer that makes units and has a tensor of its own in which they show."""
        sites, records = [], read(self.model)
        for emitter in records.emitters.values():
            if not emitter.homes:
                continue
            home = emitter.homes[0]
            last = all(own.axis == len(own.tensor.shape) - 1 for own in emitter.homes)
            sites.append(Site(emitter.name, tuple(own.tensor for own in emitter.homes), -1 if last else home.axis))
            own = np.isin(records.signals[id(home.tensor)].axes[home.axis], emitter.ids)
            if not own.all():
                # Both directions of a Bidirectional show in one tensor, side by side.
                self._positions[emitter.name] = np.flatnonzero(own)
        return sites

    def own_units(self, by_layer: dict[str, Any]) -> dict[str, Any]:
        """Returns numbers `(samples, channels)` by layer, each without the channels that are no units of that layer."""
        return {
            name: tf.gather(values, self._positions[name], axis=1) if name in self._positions else values
            for name, values in by_layer.items()
        }

    def output_names(self) -> list[str]:
        """Returns the names of the model's outputs."""
        graph = functional(self.model)
        struct = graph._outputs_struct
        return sorted(struct) if isinstance(struct, Mapping) else list(graph.output_names)

    def checked_layers(self, layers: Iterable[str] | str | None) -> tuple[str, ...]:
        """Returns the names of layers at which to look.

        Raises:
            TypeError: if they are no names, or a layer gives out no floats.
            ValueError: if a name is unknown, or that of an input.
        """
        names = () if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
        wrong = next((name for name in names if not isinstance(name, str)), None)
        if wrong is not None:
            raise TypeError(
                f"layers: expected names of layers, received {wrong!r}. Give its name: layers=[layer.name]; inside a "
                "model 'model/layer'."
            )
        graph = functional(self.model)
        entries = {layer.name for layer in graph._layers if isinstance(layer, keras.layers.InputLayer)}
        entries.update(tensor.name for tensor in graph.inputs)
        for name in names:
            if name in entries and name not in self._calls:
                raise ValueError(f"layers: {name!r} is an input; its relevance is in `.inputs`.")
        unknown = [name for name in names if name not in self._calls]
        if unknown:
            raise ValueError(f"layers: {describe_unknown(unknown, self._calls)}")
        for name in names:
            if not all(tf.as_dtype(tensor.dtype).is_floating for tensor, _ in self._calls[name][0]):
                raise TypeError(f"layers: {name!r} gives out no floats, so nothing there has a relevance.")
        return tuple(dict.fromkeys(names))

    def names_of_outputs(self, layers: Iterable[str]) -> dict[str, tuple[Any, int]]:
        """Returns what the layers give out: a tensor of the graph, and which run through it, by name.

        A layer that is called more than once has `name@1`, `name@2`; one with several outputs `name:1`, `name:2`.
        """
        found = {}
        for name in layers:
            calls = self._calls[name]
            for number, outputs in enumerate(calls, start=1):
                own = f"{name}@{number}" if len(calls) > 1 else name
                for part, output in enumerate(outputs, start=1):
                    found[f"{own}:{part}" if len(outputs) > 1 else own] = output
        return found
