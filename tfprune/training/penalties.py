"""Penalties on whole units: the weights of each unit taken as one group, and its shrinking in the training step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.graph.step import WeightAxes
from tfprune.training.targets import Units
from tfprune.units import LayerValues

PENALTIES = ("batch_norm_scale", "group_norm")
METHODS = ("proximal", "gradient")
_LEAST_SCALE = 1e-3
"""A batch normalization whose scales are all below this counts as dead as a whole."""


class PenalisedUnits:
    """The units of a model that a penalty acts on, and for each of them the weights that it takes together.

    Args:
        model: a Sequential or functional model.
        penalty: "batch_norm_scale" takes the scales of the batch normalizations that a unit passes, "group_norm" all
            trainable weights that `remove` would cut of it.
        layers: names of groups or layers; None takes all groups that the penalty can act on.

    Attributes:
        graph: the units of the model.
        sizes: how many units each group has.
        left_out: why a group is left out, by its name.

    Raises:
        ValueError: if a name is unknown, or there is nothing to penalise.
    """

    def __init__(self, model: keras.Model, penalty: str, layers: Iterable[str] | str | None):
        units = Units(model, layers)
        self.graph, self.left_out = units.graph, dict(units.left_out)
        self._scales_only = penalty == "batch_norm_scale"
        weights = _scales(units) if self._scales_only else _trained(units)
        found = _seen(units, weights)
        self.sizes = {}
        for name, size in units.sizes.items():
            if found[self._slice(name)].all():
                self.sizes[name] = size
            elif self._scales_only:
                self.left_out[name] = "no trainable scale of a batch normalization lies behind all of its units"
            else:
                self.left_out[name] = "its units have no trainable weights"
        missing = [name for name in units.sizes if name not in self.sizes]
        if not self.sizes or (layers is not None and missing):
            advice = "Unfreeze their layers."
            if self._scales_only:
                advice = "Use penalty='group_norm', which needs none, or batch normalizations with scale=True."
            raise ValueError(
                f"penalty {penalty!r} cannot act on {', '.join(map(repr, missing))}: {self.left_out[missing[0]]}. "
                f"{advice}"
            )
        chosen = np.zeros(self.graph.num_units, bool)
        for name in self.sizes:
            chosen[self._slice(name)] = True
        self._weights = [own for own in (_Entries(self.graph, weight, chosen) for weight in weights) if own.parts]
        self.counts = sum(own.counts for own in self._weights)

    def _slice(self, name: str) -> slice:
        group = self.graph[name]
        return slice(group.start, group.start + group.size)

    def norms(self) -> Any:
        """Returns the L2 norm of every unit's weights as they are now, `(num_units,)`; 0 where there is no penalty."""
        return tf.sqrt(tf.add_n([own.squares() for own in self._weights]))

    def on(self, threshold: float) -> LayerValues:
        """Returns which units are alive: those whose norm is no less than a share of the largest of their group.

        One unit at least stays of each group.

        Raises:
            ValueError: if a weight is NaN or infinite.
        """
        norms = self.norms().numpy()
        broken = [name for name in self.sizes if not np.isfinite(norms[self._slice(name)]).all()]
        if broken:
            raise ValueError(
                f"weights of the units of {', '.join(map(repr, broken))} are NaN or infinite. A learning rate that is "
                "too high does this; keras.callbacks.TerminateOnNaN stops such a training."
            )
        result = {}
        for name in self.sizes:
            own = norms[self._slice(name)]
            largest = own.max()
            on = (own >= threshold * largest) & (own > 0)
            if largest == 0 or (self._scales_only and largest < _LEAST_SCALE):
                on = np.arange(len(own)) == np.argmax(own)
            result[name] = on
        return LayerValues(result)


class Shrinking:
    """Shrinks the weights of units in every training step: a hook.

    Args:
        units: what is penalised.
        strength: a variable, the strength of the penalty now.
        method: "proximal" or "gradient".
        optimizer: the model's optimizer.
    """

    def __init__(self, units: PenalisedUnits, strength: tf.Variable, method: str, optimizer: Any):
        self._units, self._strength, self._method, self._optimizer = units, strength, method, optimizer
        self._inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._weights = {id(own.variable): own for own in units._weights}
        self._roots = tf.constant(np.sqrt(units.counts), "float32")
        self._step: Any = None

    def before(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Returns the gradients, with that of the penalty if it acts by gradient."""
        self._step = tf.identity(tf.convert_to_tensor(self._inner.iterations))
        if self._method != "gradient":
            return gradients
        pull = self._strength * tf.math.divide_no_nan(self._roots, self._units.norms())
        scale = self._loss_scale()
        result = []
        for gradient, variable in zip(gradients, variables, strict=True):
            own = self._weights.get(id(variable))
            if gradient is not None and own is not None:
                # Rows that an embedding has not looked up are pulled as well.
                gradient = tf.convert_to_tensor(gradient)
                gradient += tf.cast(scale * own.pulled(pull), gradient.dtype)
            result.append(gradient)
        return result

    def after(self, variables: list[Any]) -> None:
        """Takes the proximal step, where the optimizer has made one."""
        if self._method != "proximal":
            return
        rate = tf.cast(self._optimizer.learning_rate, "float32")
        # A step with infinite gradients is left out, and of accumulated ones every so many is made.
        made = tf.convert_to_tensor(self._inner.iterations) > self._step
        by = tf.math.divide_no_nan(rate * self._strength * self._roots, self._units.norms())
        left = tf.where(made, tf.maximum(1.0 - by, 0.0), tf.ones_like(by))
        for own in self._weights.values():
            own.variable.assign(own.scaled(left))

    def _loss_scale(self) -> Any:
        """Returns what the gradients are multiplied with when they come here."""
        optimizer = self._optimizer
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            scale = optimizer.dynamic_scale if optimizer.built else optimizer.initial_scale
        else:
            scale = optimizer.loss_scale_factor
        return tf.cast(1.0 if scale is None else scale, "float32")


class _Entries:
    """One weight, and which unit each of its entries belongs to along each axis.

    An entry that two units share (of the kernel between them) belongs to both; one whose two units are the same (on the
    diagonal of a recurrent kernel) counts once.
    """

    def __init__(self, graph: Any, weight: WeightAxes, chosen: np.ndarray):
        self.variable = weight.variable
        shape = tuple(self.variable.shape)
        self._num_units = graph.num_units
        self.counts = np.zeros(graph.num_units)
        self.parts: list[tuple[int, np.ndarray, np.ndarray | None]] = []
        before: list[np.ndarray] = []
        for axis, ids in enumerate(weight.axes):
            columns = np.full(shape[axis], -1) if ids is None else graph.columns(ids)
            columns = np.where((columns >= 0) & chosen[columns], columns, -1)
            if (columns < 0).all():
                continue
            along = columns.reshape([-1 if k == axis else 1 for k in range(len(shape))])
            anew = None
            for own in before:
                if np.intersect1d(own[own >= 0], columns[columns >= 0]).size:
                    anew = (True if anew is None else anew) & (own != along)
            before.append(along)
            self.parts.append((axis, columns, anew))
            entries = np.broadcast_to(1 if anew is None else anew, shape)
            sums = entries.sum(tuple(k for k in range(len(shape)) if k != axis))
            np.add.at(self.counts, columns[columns >= 0], sums[columns >= 0])

    def squares(self) -> Any:
        """Returns the sum of squares of each unit's entries, `(num_units,)`."""
        squares = tf.square(tf.cast(self.variable.value, "float32"))
        total = tf.zeros([self._num_units])
        for axis, columns, anew in self.parts:
            own = squares if anew is None else squares * tf.cast(anew, "float32")
            sums = tf.reduce_sum(own, [k for k in range(len(own.shape)) if k != axis])
            # Entries without a unit have a negative number, which is left out.
            total += tf.math.unsorted_segment_sum(sums, columns, self._num_units)
        return total

    def pulled(self, pull: Any) -> Any:
        """Returns the weight times the sum of what pulls at the units of each entry."""
        total = tf.zeros([])
        for along, anew in self._spread(pull, 0.0):
            total += along if anew is None else along * tf.cast(anew, "float32")
        return tf.cast(self.variable.value, "float32") * total

    def scaled(self, left: Any) -> Any:
        """Returns the weight times what is left of the units of each entry."""
        value = tf.convert_to_tensor(self.variable.value)
        for along, anew in self._spread(left, 1.0):
            value *= tf.cast(along if anew is None else tf.where(anew, along, tf.ones_like(along)), value.dtype)
        return value

    def _spread(self, numbers: Any, otherwise: float) -> Iterable[tuple[Any, np.ndarray | None]]:
        """Yields one number per unit spread along each axis that has units; `otherwise` where there is none."""
        rank = len(self.variable.shape)
        for axis, columns, anew in self.parts:
            along = tf.gather(tf.concat([numbers, [otherwise]], 0), np.where(columns < 0, self._num_units, columns))
            yield tf.reshape(along, [-1 if k == axis else 1 for k in range(rank)]), anew


def _trained(units: Units) -> list[WeightAxes]:
    trained = {id(variable) for variable in units.graph.model.trainable_variables}
    return [weight for key, weight in units.graph.records.weights.items() if key in trained]


def _scales(units: Units) -> list[WeightAxes]:
    norms = [own for own in units.graph.model._flatten_layers() if isinstance(own, keras.layers.BatchNormalization)]
    gammas = {id(own.gamma) for own in norms if own.gamma is not None}
    return [weight for weight in _trained(units) if id(weight.variable) in gammas]


def _seen(units: Units, weights: list[WeightAxes]) -> np.ndarray:
    """Returns which units have an entry in any of these weights, `(num_units,)`."""
    seen = np.zeros(units.graph.num_units, bool)
    for weight in weights:
        for ids in weight.axes:
            if ids is not None:
                columns = units.graph.columns(ids)
                seen[columns[columns >= 0]] = True
    return seen
