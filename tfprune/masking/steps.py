"""The compiled steps that run many masks over many points, and how much they take at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.cache import Recent
from tfprune.compiling import ByLengths
from tfprune.data import Batch
from tfprune.masking.build import MaskedModel, masked_model, on_nodes_input
from tfprune.masking.split import SplitModel
from tfprune.objectives import describe_loss, sample_loss
from tfprune.units import LayerValues, check_like

_MOST_POINTS_AT_ONCE = 1024
# Numbers that one step may fill before and behind the first mask, which bounds the memory: all of them are kept where
# gradients go back, and a few layers' at a time where outputs alone are wanted.
_FLOATS_BEFORE = 2**25
_FLOATS_AFTER = 2**24
_FORWARD_ALONE = 4
# Pairs of mask and point from which on XLA has won back what it takes to compile. What it has compiled is kept by
# TensorFlow until the process ends, some 1 MB for each function, however soon the model is gone.
_PAIRS_FOR_XLA = 2**22

NO_LOSS = object()
"""In the place of a loss: the steps look at outputs alone."""


class Steps:
    """What runs before the first mask, once per point, and the losses behind it, once per point and mask."""

    gradients = True
    """Whether gradients go back through what lies behind the first mask."""

    def __init__(self, masked: keras.Model, per_sample: Callable | None):
        position = on_nodes_input(masked)
        self.inputs = [tensor for k, tensor in enumerate(masked.inputs) if k != position]
        self.num_units = masked.inputs[position].shape[1]
        self._split = SplitModel(masked, position)
        self._per_sample = per_sample
        self.before = ByLengths(self._split.before)
        self._num_pairs = 0

    def compiled(self, function: Callable) -> Callable:
        """Compiles a function of what `before` returned, by XLA once that pays."""
        plain = ByLengths(function)
        fast = ByLengths(function, jit_compile=True, reduce_retracing=False) if self._split.is_flat else plain
        return lambda *args: (plain if self._num_pairs < _PAIRS_FOR_XLA else fast)(*args)

    @property
    def points_at_once(self) -> int:
        """How many points are taken at once."""
        most = min(_FLOATS_BEFORE // self._split.floats_before, self._floats_after // self._split.floats_after)
        return int(np.clip(most, 1, _MOST_POINTS_AT_ONCE))

    def begin(self, num_points: int, num_masks: int) -> int:
        """Notes that so many points come with so many masks; returns how many masks to take at once, in equal parts."""
        self._num_pairs += num_points * num_masks
        most = max(1, self._floats_after // (self._split.floats_after * num_points))
        return math.ceil(num_masks / math.ceil(num_masks / most))

    @property
    def _floats_after(self) -> int:
        return _FLOATS_AFTER * (1 if self.gradients else _FORWARD_ALONE)

    def outputs(self, boundary: tuple, masks: Any, off: Any = None) -> list[Any]:
        """Returns the model's outputs, mask by mask, `(masks * points, ...)`; `off` as for `SplitModel`."""
        return self._split.after(boundary, masks, off)

    def losses(self, boundary: tuple, targets: Any, weights: Any, masks: Any, off: Any = None) -> Any:
        """Returns the weighted loss of every point under every mask, `(masks, points)`; `off` as for `SplitModel`."""
        num_masks = tf.shape(masks)[0]
        outputs = self.outputs(boundary, masks, off)
        targets = tf.nest.map_structure(
            lambda own: tf.tile(own, tf.concat([[num_masks], tf.ones(tf.rank(own) - 1, tf.int32)], axis=0)), targets
        )
        losses = tf.reshape(self._per_sample(targets, outputs), [num_masks, -1])
        losses = losses if losses.dtype == tf.float64 else tf.cast(losses, tf.float32)
        return losses if weights is None else losses * tf.cast(weights, losses.dtype)[None]


class MaskedSteps:
    """What is compiled for masked models, kept for the next calls, which may come with another replacement.

    Args:
        make: makes the compiled steps: `make(masked, per_sample, *options)`.
        most: for how many models and options they are kept.
    """

    def __init__(self, make: Callable[..., Any], most: int):
        self._make = make
        self._recent = Recent(most)

    def get(
        self,
        model: keras.Model,
        loss: Any,
        layers: str | tuple[str, ...] | None,
        replacement: LayerValues | None,
        *options: Any,
        build: Callable[..., MaskedModel] = masked_model,
    ) -> tuple[MaskedModel, Any]:
        """Returns the masked model and its steps, those of an earlier call if only the replacement is another one.

        Arguments as for `masked_model` and `sample_loss`, or `loss` is `NO_LOSS`; `build` makes the masked model.
        """
        own = getattr(model, "loss", None) if loss is None else loss
        named = None if loss is NO_LOSS else describe_loss(model, loss)
        key = (id(own), named, layers, replacement is None, build, *options)

        def fresh() -> tuple[MaskedModel, Any]:
            masked = build(model, layers, replacement)
            per_sample = None if loss is NO_LOSS else sample_loss(model, loss)
            return masked, self._make(masked.model, per_sample, *options)

        masked, steps = self._recent.get(model, key, fresh, own)
        if replacement is None:
            return masked, steps
        if masked.replace is None:
            return fresh()
        masked.replace(check_like(replacement, masked.sizes, "replacement", partial=True))
        return masked, steps


def pieces(batches: Iterable[Batch], most: int, check: Callable[[Any], None]) -> Iterator[Batch]:
    """Yields the batches in pieces of at most `most` points: those of a dataset may be too large.

    `check` is called with the targets of every batch, to raise what there is to raise.
    """
    for batch in batches:
        check(batch.targets)
        num_points = len(batch.inputs[0])
        for start in range(0, num_points, most):
            rows = slice(start, start + most)
            yield batch if num_points <= most else Batch(*tf.nest.map_structure(partial(_rows_of, rows), tuple(batch)))


def _rows_of(rows: slice, array: Any) -> Any:
    return None if array is None else array[rows]


def tensors_of(batch: Batch) -> tuple[list[Any], Any, Any]:
    """Returns inputs, targets and weights (or None) of a batch as tensors."""
    weights = None if batch.weights is None else tf.convert_to_tensor(batch.weights)
    inputs = [tf.convert_to_tensor(x) for x in batch.inputs]
    return inputs, tf.nest.map_structure(tf.convert_to_tensor, batch.targets), weights
