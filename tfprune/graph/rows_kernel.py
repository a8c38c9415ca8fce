"""Rows of the layers that have a kernel: dense, convolution, embedding."""

from __future__ import annotations

import string

import numpy as np
from keras import layers

from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register


def channel_axis(layer, signal: Signal) -> int:
    """Returns the axis of `signal` that holds the layer's channels."""
    return signal.rank - 1 if layer.data_format == "channels_last" else 1


@register(layers.Dense)
def dense(step: Step, inputs: Signal, training=None) -> Axes:
    layer = step.operation
    units = step.emit(layer.units)
    step.weight(layer.kernel, step.contract(inputs), units)
    step.weight(layer.bias, units)
    step.size("units", units)
    step.activation(layer.activation, units)
    return inputs.replaced(-1, units)


@register(layers.EinsumDense)
def einsum_dense(step: Step, inputs: Signal, training=None) -> Axes:
    layer = step.operation
    source, kernel, target = einsum_letters(layer.equation, inputs.rank)
    ids = dict(zip(source, inputs.axes, strict=True))
    axes_of = {letter: axis for axis, letter in enumerate(source)}
    for letter in source:
        if letter not in target:
            ids[letter] = step.contract(inputs, axes_of[letter])
    sizes = dict(zip(kernel, layer.kernel.shape, strict=True))
    made = [letter for letter in kernel if letter not in source]
    for letter in made:
        ids[letter] = step.emit(sizes[letter], letter if len(made) > 1 else "")
    step.weight(layer.kernel, *(ids[letter] for letter in kernel))
    if layer.bias is not None:
        step.weight(layer.bias, *_bias_ids(layer, target, ids))
    written = [letter for letter in target if letter.islower()] if "..." in layer.equation else target[1:]
    for place, letter in enumerate(written):
        step.size(("output_shape", place), ids[letter])
    for letter in target:
        step.activation(layer.activation, ids[letter])
    return tuple(ids[letter] for letter in target)


def einsum_letters(equation: str, rank: int) -> tuple[str, str, str]:
    """Returns the letters of input, kernel and output, an ellipsis written out as capital letters."""
    left, target = equation.replace(" ", "").split("->")
    source, kernel = left.split(",")
    hidden = string.ascii_uppercase[: rank - len(source.replace("...", ""))]
    return source.replace("...", hidden), kernel.replace("...", hidden), target.replace("...", hidden)


def _bias_ids(layer, target: str, ids: dict) -> list:
    """Ids per axis of the bias, which begins at the first of the bias axes and has length 1 between them."""
    letters = layer.bias_axes
    shape = layer.bias.shape
    trailing = target[len(target) - len(shape) :]
    return [ids[letter] if letter in letters else None for letter in trailing]


@register(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def convolution(step: Step, inputs: Signal) -> Axes:
    layer = step.operation
    axis = channel_axis(layer, inputs)
    step.fix_axes(inputs, "a convolution slides over this axis", keep=[axis])
    if layer.groups == 1:
        rows, columns = step.contract(inputs, axis), step.emit(layer.filters)
        step.size("filters", columns)
    else:
        rows, columns = _grouped(step, layer, inputs, axis)
    step.weight(layer.kernel, *[None] * layer.rank, rows, columns)
    step.weight(layer.bias, columns)
    step.activation(layer.activation, columns)
    return _spatial(inputs, axis, columns)


def _spatial(inputs: Signal, axis: int, channels: np.ndarray | None) -> Axes:
    return tuple(channels if k == axis else None for k in range(inputs.rank))


def _grouped(step: Step, layer, inputs: Signal, axis: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Ids of the kernel's rows and columns of a grouped convolution.

    Either whole groups are units (many small groups), or the same position in every group is (few large ones): in both
    cases what remains is a plain grouped convolution.
    """
    groups, entering = layer.groups, inputs.axes[axis]
    width_in, width_out = layer.kernel.shape[-2], layer.filters // layer.groups
    whole_groups = groups >= max(width_in, width_out)
    if whole_groups and entering is None:
        columns = step.emit(layer.filters)
        step.fix(columns, "its groups read something that is not a unit")
        return None, columns
    if whole_groups:
        units = step.emit(groups)
        step.unite(entering, np.repeat(units, width_in))
        columns = np.repeat(units, width_out)
        step.size("groups", units)
        step.size("filters", columns)
        return None, columns
    columns = np.tile(step.emit(width_out), groups)
    step.size("filters", columns)
    if entering is None:
        return None, columns
    step.contract(inputs, axis)
    rows = entering.reshape(groups, width_in)
    for group in range(1, groups):
        step.unite(rows[0], rows[group])
    return rows[0], columns


@register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed_convolution(step: Step, inputs: Signal) -> Axes:
    layer = step.operation
    axis = channel_axis(layer, inputs)
    step.fix_axes(inputs, "a convolution slides over this axis", keep=[axis])
    columns = step.emit(layer.filters)
    step.weight(layer.kernel, *[None] * layer.rank, columns, step.contract(inputs, axis))
    step.weight(layer.bias, columns)
    step.size("filters", columns)
    step.activation(layer.activation, columns)
    return _spatial(inputs, axis, columns)


@register(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise_convolution(step: Step, inputs: Signal) -> Axes:
    layer = step.operation
    axis = channel_axis(layer, inputs)
    step.fix_axes(inputs, "a convolution slides over this axis", keep=[axis])
    rows = inputs.axes[axis]
    columns = None if rows is None else np.repeat(rows, layer.depth_multiplier)
    step.weight(layer.kernel, *[None] * layer.rank, rows, None)
    step.weight(layer.bias, columns)
    step.activation(layer.activation, columns)
    return _spatial(inputs, axis, columns)


@register(layers.SeparableConv1D, layers.SeparableConv2D)
def separable_convolution(step: Step, inputs: Signal) -> Axes:
    layer = step.operation
    axis = channel_axis(layer, inputs)
    step.fix_axes(inputs, "a convolution slides over this axis", keep=[axis])
    rows, columns = step.contract(inputs, axis), step.emit(layer.filters)
    middle = None if rows is None else np.repeat(rows, layer.depth_multiplier)
    step.weight(layer.depthwise_kernel, *[None] * layer.rank, rows, None)
    step.weight(layer.pointwise_kernel, *[None] * layer.rank, middle, columns)
    step.weight(layer.bias, columns)
    step.size("filters", columns)
    step.activation(layer.activation, columns)
    return _spatial(inputs, axis, columns)


@register(layers.Embedding)
def embedding(step: Step, inputs: Signal) -> Axes:
    layer = step.operation
    step.fix_axes(inputs, "an embedding reads whole numbers")
    units = step.emit(layer.output_dim)
    step.weight(layer.embeddings, None, units)
    step.size("output_dim", units)
    return (*[None] * inputs.rank, units)


if hasattr(layers, "ReversibleEmbedding"):

    @register(layers.ReversibleEmbedding)
    def reversible_embedding(step: Step, inputs: Signal, reverse=False) -> Axes:
        layer = step.operation
        if not reverse:
            return embedding(step, inputs)
        entering = step.contract(inputs)
        if layer.tie_weights:
            step.weight(layer.embeddings, None, entering)
        else:
            # The reverse table has one row per unit of the forward table, by configuration.
            units = step.emit(layer.output_dim)
            step.size("output_dim", units)
            step.weight(layer.reverse_embeddings, step.unite(entering, units), None)
        return inputs.replaced(-1, None)
