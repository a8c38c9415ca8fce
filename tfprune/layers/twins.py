"""Stand-ins, in a masked model, for layers that look across units: what they share, and that of a norm."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops
from keras.src import backend

from tfprune.layers.masks import along, package, replaced


class Twin(layers.Layer):
    """Stands in for `layer` in a masked model: shares its weights, and takes rows of `on_nodes` besides its arguments.

    Args:
        layer: the built layer that it stands in for.
        replacement: for each row of `on_nodes` that it takes, what stands in for a unit that is off, one number per
            unit; None for zeros. Only recurrent states can be replaced by anything else.
        relative: whether it is added to the unit instead, as in `MeanReplacement`.
        directions: for each row, None or the pair `outwards` `(units, k)` and `back` `(k, units)` of
            `DirectionReplacement`; None for units.
        **kwargs: passed on to `keras.layers.Layer`.
    """

    def __init__(
        self,
        layer: layers.Layer,
        replacement: list | None = None,
        relative: bool = False,
        directions: list | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.layer = layer
        self.replacement = None if replacement is None else [[float(x) for x in row] for row in replacement]
        self.relative = relative
        self.directions = None if directions is None else [_as_lists(pair) for pair in directions]
        self.supports_masking = getattr(layer, "supports_masking", False)

    def compute_output_spec(self, *args, on_nodes=None, sequences_mask=None, positions=None, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs, previous_mask):
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        options = {"replacement": self.replacement, "relative": self.relative, "directions": self.directions}
        return {**super().get_config(), "layer": layer, **options}

    def _replaced(self, row: int, h: Any, on: Any) -> Any:
        """Returns `h` with what the row has off replaced."""
        dtype = self.compute_dtype
        means = 0.0 if self.replacement is None else ops.convert_to_tensor(self.replacement[row], dtype)
        pair = None if self.directions is None else self.directions[row]
        directions = None if pair is None else tuple(ops.convert_to_tensor(own, dtype) for own in pair)
        return replaced(h, on, means, self.relative, directions)

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)


def _as_lists(pair: Any) -> list | None:
    return None if pair is None else [np.asarray(own, "float64").tolist() for own in pair]


class CountsUnits(Twin):
    """A stand-in whose result hangs on how many units are on: one that is always zero does not go for nothing."""


@package
class MaskedLayerNormalization(CountsUnits):
    """LayerNormalization whose mean and variance run over the units that are on: what the cut layer will compute."""

    def call(self, inputs, on_nodes=None):
        layer, axis = self.layer, self.layer.axis
        axis = axis[0] if isinstance(axis, list | tuple) else axis
        x = ops.cast(inputs, backend.result_type(inputs.dtype, "float32"))
        on = along(on_nodes[0], axis, len(x.shape), x.dtype)
        count = ops.sum(on, axis=axis, keepdims=True)
        # Where all units are off there is nothing to normalise, and nothing that anyone reads; but no NaN either.
        count = ops.where(count > 0, count, ops.ones_like(count))
        mean = ops.sum(on * x, axis=axis, keepdims=True) / count
        variance = ops.sum(on * ops.square(x - mean), axis=axis, keepdims=True) / count
        result = (x - mean) * ops.rsqrt(variance + layer.epsilon)
        if layer.gamma is not None:
            result = result * along(layer.gamma[None], axis, len(x.shape), x.dtype)
        if layer.beta is not None:
            result = result + along(layer.beta[None], axis, len(x.shape), x.dtype)
        return ops.cast(result, layer.compute_dtype)
