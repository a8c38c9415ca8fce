"""Layers of models whose units are replaced for good: masks that stand in a weight, directions, steps of sequences."""

from __future__ import annotations

import keras
from keras import layers, ops

from tfprune.layers.masks import along, at_steps, package, replaced


@package
class FixedOnNodes(layers.Layer):
    """A mask that stands in a weight, `(1, num_units)`: the place of the input `on_nodes`.

    Args:
        num_units: how many columns it has; all are on at first.
        **kwargs: passed on to `keras.layers.Layer`.

    Call arguments:
        reference: any tensor, which says how many samples there are.

    Example:
        >>> FixedOnNodes(2)(np.zeros((3, 5))).shape
        TensorShape([3, 2])
    """

    def __init__(self, num_units: int, **kwargs):
        super().__init__(**kwargs)
        self.num_units = num_units

    def build(self, reference_shape):
        self.on_nodes = self.add_weight(
            name="on_nodes", shape=(1, self.num_units), initializer="ones", dtype="float32", trainable=False
        )

    def call(self, reference):
        return ops.broadcast_to(self.on_nodes, (ops.shape(reference)[0], self.num_units))

    def compute_output_spec(self, reference):
        return keras.KerasTensor((reference.shape[0], self.num_units), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "num_units": self.num_units}


@package
class StepPositions(layers.Layer):
    """Says at which steps of sequences something is to happen: 1 there, 0 elsewhere, `(1, steps)`.

    Args:
        positions: steps, counted from the end if negative. A sequence that is shorter has the others alone.
        **kwargs: passed on to `keras.layers.Layer`.

    Example:
        >>> StepPositions([0, -1])(np.zeros((2, 4, 3))).numpy().tolist()
        [[1.0, 0.0, 0.0, 1.0]]
    """

    def __init__(self, positions, **kwargs):
        super().__init__(**kwargs)
        self.positions = [int(position) for position in positions]
        self.supports_masking = True

    def call(self, sequences):
        steps = ops.shape(sequences)[1]
        wanted = [position if position >= 0 else steps + position for position in self.positions]
        places = ops.arange(0, steps, dtype="int32")
        found = [ops.cast(ops.equal(places, position), "float32") for position in wanted]
        return ops.max(ops.stack(found), axis=0)[None]

    def compute_mask(self, sequences, previous_mask=None):
        return None

    def compute_output_spec(self, sequences):
        return keras.KerasTensor((1, sequences.shape[1]), dtype="float32")

    def get_config(self):
        return {**super().get_config(), "positions": self.positions}


@package
class DirectionReplacement(layers.Layer):
    """Switches directions off: `h + ((on - 1) * ((h - replacement) @ outwards)) @ back`.

    With the columns of the identity as directions this is `MeanReplacement`.

    Args:
        num_directions: how many directions there are.
        axis: the axis of `h` that holds the units.
        **kwargs: passed on to `keras.layers.Layer`.

    Call arguments:
        h: any tensor of shape `(batch, ..., units, ...)`.
        on_nodes: shape `(batch, num_directions)`, 1 is on, 0 is off.
        positions: as for `MeanReplacement`.
    """

    def __init__(self, num_directions: int, axis: int = -1, **kwargs):
        super().__init__(**kwargs)
        self.num_directions = num_directions
        self.axis = axis
        self.supports_masking = True

    def build(self, h_shape, on_nodes_shape=None, positions_shape=None):
        units = h_shape[self.axis]
        options = {"initializer": "zeros", "trainable": False}
        self.outwards = self.add_weight(name="outwards", shape=(units, self.num_directions), **options)
        self.back = self.add_weight(name="back", shape=(self.num_directions, units), **options)
        self.replacement = self.add_weight(name="replacement", shape=(units,), **options)

    def call(self, h, on_nodes, positions=None):
        last = ops.moveaxis(h, self.axis, -1)
        on, mean = along(on_nodes, -1, len(h.shape), h.dtype), ops.cast(self.replacement, h.dtype)
        directions = (ops.cast(self.outwards, h.dtype), ops.cast(self.back, h.dtype))
        changed = ops.moveaxis(replaced(last, on, mean, directions=directions), -1, self.axis)
        return at_steps(h, changed, positions)

    def compute_output_shape(self, h_shape, on_nodes_shape=None, positions_shape=None):
        return h_shape

    def get_config(self):
        return {**super().get_config(), "num_directions": self.num_directions, "axis": self.axis}
