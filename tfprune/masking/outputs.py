"""Outputs of a model under many masks at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from keras.src import backend

from tfprune.data import Batch, as_batches
from tfprune.masking.build import masked_already, masked_model, on_nodes_input
from tfprune.masking.steps import NO_LOSS, MaskedSteps, Steps, pieces
from tfprune.units import LayerValues


class _Outputs(Steps):
    """The compiled steps that give outputs under masks."""

    gradients = False

    def __init__(self, masked: keras.Model, per_sample: None):
        super().__init__(masked, per_sample)
        self.step = self.compiled(self._step)

    def _step(self, boundary: tuple, masks: Any) -> tuple[list[Any], list[Any]]:
        """Returns the outputs and the time masks that Keras has put on them, or None."""
        outputs = self.outputs(boundary, masks)
        return outputs, [backend.get_keras_mask(own) for own in outputs]


class OutputsUnderMasks(NamedTuple):
    """What a model gives out for some points under some masks.

    Attributes:
        first: the number of the first of these masks.
        batch: the points.
        outputs: one array `(masks, points, ...)` per output of the model.
        keras_masks: the time mask `(masks, points, steps)` that Keras has put on each output, or None.
    """

    first: int
    batch: Batch
    outputs: list[np.ndarray]
    keras_masks: list[np.ndarray | None]


_runners = MaskedSteps(_Outputs, 4)


def outputs_under_masks(
    model: keras.Model,
    data: Any,
    masks: np.ndarray,
    *,
    layers: Iterable[str] | str | None = None,
    replacement: LayerValues | None = None,
) -> Iterator[OutputsUnderMasks]:
    """Yields what a model gives out under each of many masks, a chunk of points at a time.

    Args:
        model: a Sequential or functional model, or one that has the input `on_nodes` already.
        data: inputs and targets, whatever `model.fit` takes.
        masks: `(num_masks, num_units)`, 1 on and 0 off, the columns those of `layers`.
        layers: which units have a column, as for `with_on_nodes`.
        replacement: what stands in for a unit that is off, as for `with_on_nodes`.

    Yields:
        Outputs, chunk by chunk; every chunk of points comes with all masks before the next one does.
    """
    layers = layers if layers is None or isinstance(layers, str) else tuple(layers)
    build = masked_model if on_nodes_input(model) is None else masked_already
    _, runner = _runners.get(model, NO_LOSS, layers, replacement, build=build)
    masks = np.asarray(masks, "float32")
    batches = as_batches(data, runner.inputs, batch_size=runner.points_at_once)
    for batch in pieces(batches, runner.points_at_once, lambda targets: None):
        num_points = len(batch.inputs[0])
        boundary = runner.before([tf.convert_to_tensor(x) for x in batch.inputs])
        at_once = runner.begin(num_points, len(masks))
        for start in range(0, len(masks), at_once):
            # Every part has the same shape, so that the step is compiled once: the last one begins earlier.
            begin = min(start, len(masks) - at_once)
            found = runner.step(boundary, tf.convert_to_tensor(masks[begin : begin + at_once]))
            outputs, keras_masks = tree.map_structure(partial(_by_mask, num_points, start - begin), found)
            yield OutputsUnderMasks(start, batch, outputs, keras_masks)


def _by_mask(num_points: int, skipped: int, tensor: Any) -> np.ndarray | None:
    """Returns an array `(masks, points, ...)` of what came mask by mask, without the masks that were there already."""
    if tensor is None:
        return None
    return tensor.numpy().reshape(-1, num_points, *tensor.shape[1:])[skipped:]
