"""The loss with one unit off at a time: exact, and without running again what lies before the unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfprune.data import as_batches
from tfprune.masking.before import masked_before
from tfprune.masking.build import masked_model
from tfprune.masking.steps import MaskedSteps, Steps, pieces, tensors_of
from tfprune.objectives import check_classes
from tfprune.units import LayerValues


class SingleChanges(NamedTuple):
    """What taking one unit out does to the loss: means over samples, one number per unit by group name.

    Attributes:
        signed: mean of `loss_k(unit off) - loss_k`.
        absolute: mean of `|loss_k(unit off) - loss_k|`, the absolute value of each sample.
    """

    signed: LayerValues
    absolute: LayerValues


def single_changes(
    model: keras.Model,
    data: Any,
    names: Sequence[str],
    *,
    loss: Any = None,
    replacement: LayerValues | None = None,
    before: bool = False,
) -> SingleChanges:
    """Measures for each unit alone how the loss of the samples changes when it is off, in one pass over the data.

    What lies before a group's units runs once per sample, and the first dense layer that reads them changes by a
    product of rank one; the rest runs once per sample and unit.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        names: the groups to measure.
        loss: a Keras loss; None takes the one that the model was compiled with.
        replacement: what stands in for a unit that is off, one number each by group name; None means zero.
        before: whether units are replaced before the nonlinearity of their own layer; groups must be able to.
    """
    build = masked_before if before else masked_model
    runners = {}
    for name in names:
        alone = LayerValues({name: replacement[name]}) if name in (replacement or ()) else None
        # The layer that it is named after may make other groups too.
        runners[name] = _runners.get(model, loss, f"{name}#1", alone, build=build)[1]
    most = min(runner.points_at_once for runner in runners.values())
    totals = {name: np.zeros((2, runner.num_units)) for name, runner in runners.items()}
    num_points = 0
    batches = as_batches(data, model, batch_size=most, targets="required")
    for batch in pieces(batches, most, lambda targets: check_classes(model, targets, loss)):
        num_points += len(batch.inputs[0])
        for name, runner in runners.items():
            totals[name] += runner.sums(*tensors_of(batch))
    signed, absolute = (LayerValues({name: own[row] / num_points for name, own in totals.items()}) for row in (0, 1))
    return SingleChanges(signed, absolute)


class _Single(Steps):
    """The compiled steps of one group."""

    gradients = False

    def __init__(self, masked: keras.Model, per_sample: Callable):
        super().__init__(masked, per_sample)
        self._whole = self.compiled(self._all_on)
        self._step = self.compiled(self._changes)

    def sums(self, inputs: list[Any], targets: Any, weights: Any) -> np.ndarray:
        """Returns the sums over a batch of the changes and of their absolute values, `(2, num_units)`."""
        boundary = self.before(inputs)
        losses = self._whole(boundary, targets, weights)
        at_once = self.begin(len(inputs[0]), self.num_units)
        result = np.zeros((2, self.num_units))
        for start in range(0, self.num_units, at_once):
            # Every part has the same shape, so that the step is compiled once: the last one begins earlier.
            begin = min(start, self.num_units - at_once)
            off = tf.range(begin, begin + at_once)
            result[:, begin : begin + at_once] = self._step(boundary, targets, weights, losses, off).numpy()
        return result

    def _all_on(self, boundary: tuple, targets: Any, weights: Any) -> Any:
        return self.losses(boundary, targets, weights, tf.ones([1, self.num_units]))[0]

    def _changes(self, boundary: tuple, targets: Any, weights: Any, losses: Any, off: Any) -> Any:
        masks = 1.0 - tf.one_hot(off, self.num_units)
        changes = tf.cast(self.losses(boundary, targets, weights, masks, off) - losses[None], "float64")
        return tf.reduce_sum(tf.stack([changes, tf.abs(changes)]), axis=2)


# A score of a large model has one for each of its groups.
_runners = MaskedSteps(_Single, 64)
