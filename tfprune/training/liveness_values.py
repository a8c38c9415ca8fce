"""What a liveness monitor measures: gradients of units and of their weights, per sample, in one compiled step."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.graph import unit_groups
from tfprune.graph.batch import Batch, batch_of
from tfprune.graph.kernels import making_kernels
from tfprune.graph.members import Home, Member
from tfprune.graph.walk import call_operation, run_flat
from tfprune.masking import has_values_before
from tfprune.masking.before import SplitAtUnits
from tfprune.objectives import sample_loss
from tfprune.units import LayerValues

_MOST_SAMPLES_AT_ONCE = 256


class GradientPass:
    """Measures, for the units of some groups, the gradients of the loss and the values; traced once.

    The output of a unit is what its layer gives out before the nonlinearity. Where that does not show (recurrent
    layers), it is what the layer gives out; of heads of attention nothing shows.

    Args:
        model: a compiled model.
        data: inputs and targets.
        names: the groups.
    """

    def __init__(self, model: keras.Model, data: Any, names: tuple[str, ...]):
        self._model = model
        self._batches = as_batches(data, model, batch_size=_MOST_SAMPLES_AT_ONCE, targets="required")
        self._graph = graph = unit_groups(model)
        self._sizes = {name: graph[name].size for name in names}
        self._starts = dict(zip(names, np.cumsum([0, *self._sizes.values()]).tolist(), strict=False))
        self._per_sample = sample_loss(model)
        self._before = tuple(name for name in names if has_values_before(graph, name))
        self._split = SplitAtUnits(model, self._before) if self._before else None
        chosen = np.full(graph.num_units + 1, -1)
        for name in names:
            chosen[graph[name].start :][: self._sizes[name]] = np.arange(self._sizes[name]) + self._starts[name]
        self._kernels = [
            (variable, axis, chosen[graph.columns(ids)])
            for variable, axis, ids in making_kernels(graph)
            if (chosen[graph.columns(ids)] >= 0).any()
        ]
        self._homes: dict[int, list[tuple[str, Member, Home]]] = {}
        batches: dict[int, tuple[Any, Batch | None]] = {}
        for name in names:
            for member in graph[name].members:
                # A weight that code reads is the same for all samples, and what is made of it: nothing lives in it.
                for home in (own for own in member.homes if batch_of(own.tensor, batches) is not None):
                    self._homes.setdefault(id(home.tensor), []).append((name, member, home))
        self._compiled = ByLengths(self._step)

    @property
    def num_units(self) -> int:
        """How many units all groups have."""
        return sum(self._sizes.values())

    def measure(self) -> dict[str, Any]:
        """Returns what is measured over all samples.

        Returns:
            `loss`, a number; `output_gradient` and `largest_output_gradient`, LayerValues of the mean and the largest
            over samples of the norm over positions of d loss_k / d output; `weight_gradient`, of the norm of the
            gradient of the mean loss by the incoming weights; `outputs` and `activations`, of the values of the first
            samples, `{group: (values, units)}`.
        """
        total, count, loss, largest, weights, first = 0.0, 0, 0.0, np.zeros(self.num_units), [], None
        for batch in self._batches:
            parts = keras.tree.map_structure(lambda x: None if x is None else tf.convert_to_tensor(x), tuple(batch))
            losses, norms, gradients, values = self._compiled(*parts)
            loss += float(losses)
            total = total + norms.numpy().sum(axis=0)
            largest = np.maximum(largest, norms.numpy().max(axis=0))
            gradients = [ops.convert_to_numpy(own).astype("float64") for own in gradients]
            weights = [a + b for a, b in zip(weights, gradients, strict=True)] if count else gradients
            first = values if first is None else first
            count += len(batch.inputs[0])
        hidden = self._hidden()
        return {
            "loss": loss / count,
            "output_gradient": self._named(np.where(hidden, np.nan, total / count)),
            "largest_output_gradient": self._named(np.where(hidden, np.nan, largest)),
            "weight_gradient": self._named(self._weight_norms([own / count for own in weights])),
            "outputs": {name: own.numpy() for name, own in first[0].items()},
            "activations": {name: own.numpy() for name, own in first[1].items()},
        }

    def _weight_norms(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Returns for each unit the norm of its part of arrays shaped like the kernels."""
        squares = np.zeros(self.num_units)
        for (_, axis, columns), array in zip(self._kernels, arrays, strict=True):
            along = np.square(np.moveaxis(array, axis, 0)).reshape(len(columns), -1).sum(axis=1)
            np.add.at(squares, columns[columns >= 0], along[columns >= 0])
        return np.sqrt(squares)

    def _named(self, flat: np.ndarray) -> LayerValues:
        return LayerValues.from_flat(flat, self._sizes)

    def _hidden(self) -> np.ndarray:
        """Returns which units show in no tensor."""
        shown = {name for homes in self._homes.values() for name, _, _ in homes} | set(self._before)
        return np.concatenate([np.full(size, name not in shown) for name, size in self._sizes.items()])

    def _step(self, inputs: list[Any], targets: Any, weights: Any) -> tuple:
        """Returns for a batch: the summed loss, norms `(samples, num_units)`, kernels' gradients, and values."""

        def total(predictions: list[Any]) -> Any:
            losses = self._per_sample(targets, predictions)
            losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
            return tf.reduce_sum(losses)

        kernels = [variable.value for variable, _, _ in self._kernels]
        with tf.GradientTape() as tape:
            for kernel in kernels:
                tape.watch(kernel)
            seen = _Seen(tape)
            totals = [] if self._split is None else [total(self._run_split(inputs, seen))]
            predictions = self._run_plain(inputs, seen)
            if len(self._before) < len(self._sizes):
                totals.append(total(predictions))
            whole = sum(totals[1:], totals[0])
        gradients = tape.gradient(whole, [*seen.outputs, *kernels], unconnected_gradients="zero")
        norms = self._norms(seen, gradients, tf.shape(inputs[0])[0])
        # Where some groups show before the nonlinearity and some do not, the model has run twice.
        own = [tf.convert_to_tensor(g) / len(totals) for g in gradients[len(seen.outputs) :]]
        return tf.cast(totals[0], "float64"), norms, own, (seen.before.joined(), seen.after.joined())

    def _run_split(self, inputs: list[Any], seen: _Seen) -> list[Any]:
        """Runs the model with the units of groups that show before the nonlinearity in sight."""
        places = [np.arange(self._sizes[name]) + self._starts[name] for name in self._split.sizes]
        place = np.concatenate([*places, [-1]])

        def act(layer: Any, h: Any, maker: Any) -> Any:
            columns = place[maker.columns]
            seen.watch(h, maker.axis, columns)
            for name in self._split.sizes:
                inside = (columns >= self._starts[name]) & (columns < self._starts[name] + self._sizes[name])
                if inside.any():
                    units = np.where(inside, columns - self._starts[name], -1)
                    seen.before.add(name, layer, _rows(h, maker.axis, units))
            return h

        return self._split.run(inputs, act)

    def _run_plain(self, inputs: list[Any], seen: _Seen) -> list[Any]:
        """Runs the model as it is, with the homes of units in sight."""

        def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            outputs = call_operation(node, args, kwargs)
            for tensor, output in zip(node.outputs, outputs, strict=True):
                for name, member, home in self._homes.get(id(tensor), ()):
                    values = _rows(output, home.axis, home.units)
                    seen.after.add(name, member, values)
                    if name not in self._before:
                        # Both directions of a Bidirectional show in one tensor, side by side.
                        columns = np.where(home.own >= 0, home.own + self._starts[name], -1)
                        seen.watch(output, home.axis, columns)
                        seen.before.add(name, member, values)
            return outputs

        return run_flat(self._model, inputs, call)

    def _norms(self, seen: _Seen, gradients: list[Any], num_samples: Any) -> Any:
        """Returns for each sample and unit the norm of the gradient over positions, `(samples, num_units)`."""
        squares = tf.zeros([num_samples, self.num_units], "float64")
        for (axis, columns), gradient in zip(seen.places, gradients, strict=False):
            rank = len(gradient.shape)
            others = [k for k in range(1, rank) if k != axis % rank]
            along = tf.reduce_sum(tf.square(tf.cast(gradient, "float64")), axis=others)
            squares += along @ np.eye(self.num_units + 1)[columns][:, :-1]
        return tf.sqrt(squares)


class _Shown:
    """Values of units of each group, at all calls of the first layer that makes them."""

    def __init__(self):
        self._makers: dict[str, Any] = {}
        self._rows: dict[str, list[Any]] = {}

    def add(self, name: str, maker: Any, rows: Any) -> None:
        """Adds what one call of a layer shows, unless another layer makes these units, too, and came first."""
        if self._makers.setdefault(name, maker) is maker:
            self._rows.setdefault(name, []).append(rows)

    def joined(self) -> dict[str, Any]:
        """Returns the values `(rows, units)` by group."""
        return {name: tf.concat(own, axis=0) for name, own in self._rows.items()}


class _Seen:
    """What one run of a model has shown."""

    def __init__(self, tape: tf.GradientTape):
        self._tape = tape
        self.outputs: list[Any] = []
        self.places: list[tuple[int, np.ndarray]] = []
        self.before = _Shown()
        self.after = _Shown()

    def watch(self, output: Any, axis: int, columns: np.ndarray) -> None:
        """Notes an output whose gradient is wanted; -1 in `columns` is no unit."""
        self._tape.watch(output)
        self.outputs.append(output)
        self.places.append((axis, columns))


def _rows(values: Any, axis: int, units: np.ndarray) -> Any:
    """Returns the values of units, `(rows, units)`; of a unit with several channels, those of the first."""
    first = [int(np.flatnonzero(units == unit)[0]) for unit in range(units.max() + 1)]
    rank = len(values.shape)
    values = tf.transpose(values, [k for k in range(rank) if k != axis % rank] + [axis % rank])
    return tf.reshape(tf.gather(values, first, axis=-1), [-1, len(first)])
