"""Rows of the layers that treat every unit by itself, and of the norms that look across units."""

from __future__ import annotations

import numpy as np
from keras import layers

from tfprune.graph.rows_shape import layer_classes
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register
from tfprune.layers import MaskedLayerNormalization

_PLAIN = layer_classes(
    *["ReLU", "LeakyReLU", "ELU", "Identity", "ActivityRegularization"],
    *["Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"],
    *["GaussianDropout", "GaussianNoise", "AlphaDropout"],
)


@register(*_PLAIN, follows=True)
def plain(step: Step, inputs: Signal, *args, **kwargs) -> Axes:
    """One number in, one number out (at inference)."""
    return inputs.axes


@register(layers.Activation, follows=True)
def activation(step: Step, inputs: Signal) -> Axes:
    for ids in inputs.axes:
        step.activation(step.operation.activation, ids)
    return inputs.axes


@register(layers.Softmax)
def softmax(step: Step, inputs: Signal, mask=None) -> Axes:
    axes = step.operation.axis
    for axis in [axes] if isinstance(axes, int) else axes:
        step.fix(inputs.axes[inputs.axis(axis)], "a softmax looks across units")
    return inputs.axes


@register(layers.Masking)
def masking(step: Step, inputs: Signal) -> Axes:
    step.fix_axes(inputs, "a time step is masked when all its entries agree")
    return inputs.axes


@register(layers.PReLU, follows=True)
def prelu(step: Step, inputs: Signal) -> Axes:
    shared = step.operation.shared_axes or []
    step.weight(
        step.operation.alpha, *[None if axis in shared else inputs.axes[axis] for axis in range(1, inputs.rank)]
    )
    return inputs.axes


@register(layers.BatchNormalization, follows=True)
def batch_normalization(step: Step, inputs: Signal, training=None, mask=None) -> Axes:
    layer = step.operation
    ids = inputs.axes[inputs.axis(layer.axis)]
    for variable in (layer.gamma, layer.beta, layer.moving_mean, layer.moving_variance):
        step.weight(variable, ids)
    step.fix_axes(inputs, "batch statistics are taken along this axis", keep=[layer.axis])
    return inputs.replaced(layer.axis, ids)


@register(layers.Rescaling, follows=True)
def rescaling(step: Step, inputs: Signal) -> Axes:
    for key in ("scale", "offset"):
        numbers = np.asarray(getattr(step.operation, key))
        if numbers.ndim == 1 and len(numbers) > 1 and inputs.axes[-1] is not None:
            step.size(key, inputs.axes[-1], lambda old, kept: np.repeat(old, kept).tolist())
        elif numbers.ndim > 1:
            step.fix_axes(inputs, f"its {key} has more than one axis")
    return inputs.axes


@register(layers.Normalization)
def normalization(step: Step, inputs: Signal) -> Axes:
    step.fix_axes(inputs, "its statistics are those of the data")
    return inputs.axes


@register(layers.LayerNormalization)
def layer_normalization(step: Step, inputs: Signal, *args, **kwargs) -> Axes:
    layer = step.operation
    axes = _axes_of(layer, inputs)
    if len(axes) > 1 or getattr(layer, "rms_scaling", False):
        for axis in axes:
            step.fix(inputs.axes[axis], "a norm over several axes, or with rms_scaling")
        return inputs.axes
    ids = inputs.axes[axes[0]]
    step.weight(layer.gamma, ids)
    step.weight(layer.beta, ids)
    if ids is not None:
        step.twin(MaskedLayerNormalization, ids)
    return inputs.axes


def _axes_of(layer, inputs: Signal) -> list[int]:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    return [inputs.axis(axis) for axis in axes]


@register(layers.UnitNormalization)
def unit_normalization(step: Step, inputs: Signal) -> Axes:
    """Exact as it is once what enters is masked: a unit that is off adds nothing to the length."""
    for axis in _axes_of(step.operation, inputs):
        step.contract(inputs, axis, kernel=False)
    return inputs.axes


if hasattr(layers, "RMSNormalization"):

    @register(layers.RMSNormalization)
    def rms_normalization(step: Step, inputs: Signal) -> Axes:
        """Its mean is over all n units, on or off, so k kept ones need scale * sqrt(n / k) and epsilon * n / k."""
        layer = step.operation
        axes = _axes_of(layer, inputs)
        if len(axes) > 1:
            step.fix_axes(inputs, "a norm over several axes")
            return inputs.axes
        ids = step.contract(inputs, axes[0], kernel=False)
        if ids is not None:
            step.weight(layer.scale, ids, rescale=lambda kept: float(np.sqrt(len(kept) / max(int(kept.sum()), 1))))
            step.size("epsilon", ids, lambda old, kept: old * len(kept) / max(int(kept.sum()), 1))
        return inputs.axes


@register(layers.GroupNormalization)
def group_normalization(step: Step, inputs: Signal) -> Axes:
    """The channels of one block share their statistics, so a block is one unit."""
    layer = step.operation
    axis = inputs.axis(layer.axis)
    step.fix_axes(inputs, "statistics are taken along this axis", keep=[axis])
    ids = inputs.axes[axis]
    if ids is None:
        return inputs.axes
    count = len(ids) if layer.groups == -1 else layer.groups
    blocks = ids.reshape(count, -1)
    for column in range(1, blocks.shape[1]):
        step.unite(blocks[:, 0], blocks[:, column])
    if layer.groups != -1:
        step.size("groups", blocks[:, 0])
    step.weight(layer.gamma, ids)
    step.weight(layer.beta, ids)
    return inputs.axes
