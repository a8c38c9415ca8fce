"""The mask itself: units switched off by `on_nodes`."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers, ops

package = keras.saving.register_keras_serializable(package="tfprune")


def along(row: Any, axis: int, rank: int, dtype: str, batch_axis: int = 0) -> Any:
    """Returns `row`, shape `(batch or 1, units)`, shaped so that it broadcasts along `axis` of a tensor."""
    axis = axis % rank
    shape = [-1 if k == batch_axis else row.shape[-1] if k == axis else 1 for k in range(rank)]
    row = ops.cast(row, dtype)
    return ops.reshape(row if batch_axis < axis else ops.transpose(row), shape)


def spread(row: Any, positions: Any) -> Any:
    """Returns `row`, shape `(batch or 1, units)`, with each sample's mask as often as it has positions in a row."""
    if row.shape[0] == 1 or (row.shape[0] is not None and row.shape[0] == positions):
        return row
    return ops.repeat(row, positions // ops.shape(row)[0], axis=0)


def replaced(h: Any, on: Any, replacement: Any, relative: bool = False, directions: tuple | None = None) -> Any:
    """Returns `h`, shape `(..., units)`, with what is off replaced; the other arguments broadcast to it.

    Args:
        h: the units.
        on: 1 on, 0 off, or a mixture; one per direction where there are `directions`.
        replacement: what stands in for a unit that is off, one per unit.
        relative: whether it is added to the unit instead.
        directions: `(units, k)` and `(k, units)`. What is off are then not units but the coordinates
            `(h - replacement) @ first`, which the second brings back to the units; None for units.
    """
    if directions is not None:
        outwards, back = directions
        return h + ops.matmul((on - 1) * ops.matmul(h - replacement, outwards), back)
    if relative:
        replacement = h + replacement
    return replacement + on * (h - replacement)


def at_steps(h: Any, changed: Any, positions: Any) -> Any:
    """Returns `changed` at the steps where `positions`, `(batch or 1, steps)`, is 1, and `h` where it is 0."""
    if positions is None:
        return changed
    return h + ops.cast(positions, h.dtype)[..., None] * (changed - h)


@package
class MeanReplacement(layers.Layer):
    """Switches units off: `replacement + on_nodes * (h - replacement)`.

    With the replacement left at zero this is plain removal; with the mean of each unit it is the mean replacement of
    Evci (2018), and the gradient with respect to `on_nodes` is the mean replacement saliency of each sample.

    Args:
        axis: the axis of `h` that holds the units: -1, or 1 for `channels_first`. Not the batch axis.
        relative: whether `replacement` is added to a unit that is off instead of standing for it: `h + replacement`.
        batch_axis: the axis of `h` along which samples lie.
        merged: whether each sample takes several positions in a row there (its tokens).
        **kwargs: passed on to `keras.layers.Layer`.

    Call arguments:
        h: any tensor of shape `(batch, ..., units, ...)`.
        on_nodes: shape `(batch, units)` or `(1, units)`; 1 is on, 0 is off, anything between is a mixture.
        positions: for `h` of shape `(batch, steps, units)`: `(batch or 1, steps)`, 1 at the steps where `on_nodes`
            counts, 0 where all units are on; None for all steps.

    Raises:
        ValueError: if `on_nodes` does not have one column per unit, or `axis` is the batch axis.

    Example:
        >>> MeanReplacement()(np.array([[2.0, 3.0]]), np.array([[1.0, 0.0]])).numpy().tolist()
        [[2.0, 0.0]]

    Reference: the mask follows "Exploring toy neural nets under node removal"; the replacement U. Evci, "Detecting dead
    weights and units in neural networks" (2018), section 4.
    """

    def __init__(self, axis: int = -1, relative: bool = False, batch_axis: int = 0, merged: bool = False, **kwargs):
        super().__init__(**kwargs)
        if axis == batch_axis:
            raise ValueError(
                f"MeanReplacement: axis {axis} is the batch axis. Give the axis of the units, usually -1 or 1."
            )
        self.axis = axis
        self.relative = relative
        self.batch_axis, self.merged = batch_axis, merged
        self.supports_masking = True

    def build(self, h_shape, on_nodes_shape=None, positions_shape=None):
        units = h_shape[self.axis]
        if units is None and on_nodes_shape is not None:
            units = on_nodes_shape[1]
        if units is None:
            raise ValueError(f"{self.name}: axis {self.axis} of shape {h_shape} has no fixed length to count units on.")
        if on_nodes_shape is not None and tuple(on_nodes_shape[1:]) != (units,):
            raise ValueError(
                f"{self.name}: on_nodes must have shape (batch, {units}), one column per unit on axis {self.axis}; "
                f"received {tuple(on_nodes_shape)}."
            )
        self.replacement = self.add_weight(name="replacement", shape=(units,), initializer="zeros", trainable=False)

    def call(self, h, on_nodes, positions=None):
        rank = len(h.shape)
        if self.merged:
            on_nodes = spread(on_nodes, ops.shape(h)[self.batch_axis])
        on = along(on_nodes, self.axis, rank, h.dtype, self.batch_axis)
        replacement = along(self.replacement[None], self.axis, rank, h.dtype, self.batch_axis)
        return at_steps(h, replaced(h, on, replacement, self.relative), positions)

    def compute_output_shape(self, h_shape, on_nodes_shape=None, positions_shape=None):
        return h_shape

    def get_config(self):
        places = {"batch_axis": self.batch_axis, "merged": self.merged}
        return {**super().get_config(), "axis": self.axis, "relative": self.relative, **places}


@package
class TakeUnits(layers.Layer):
    """Picks the columns of `on_nodes` that one place of the graph needs.

    Args:
        columns: for each position at that place, its column of `on_nodes`; -1 for a position that is always on.
        **kwargs: passed on to `keras.layers.Layer`.
    """

    def __init__(self, columns, **kwargs):
        super().__init__(**kwargs)
        self.columns = [int(column) for column in columns]

    def call(self, on_nodes):
        columns = np.asarray(self.columns)
        if (np.diff(columns) == 1).all() and columns[0] >= 0:
            return on_nodes[:, columns[0] : columns[-1] + 1]
        if (columns < 0).any():
            on_nodes = ops.concatenate([on_nodes, ops.ones_like(on_nodes[:, :1])], axis=1)
            columns = np.where(columns < 0, on_nodes.shape[1] - 1, columns)
        return ops.take(on_nodes, columns, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], len(self.columns))

    def get_config(self):
        return {**super().get_config(), "columns": self.columns}
