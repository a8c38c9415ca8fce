"""Rows of the layers of a rejuvenated network, whose kernel is in blocks: their units, and their operations."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from tfprune.graph.flops_table import Call, register_flops
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register
from tfprune.layers import CrossedConv, CrossedDense


def _repeated(old: Any, counts: np.ndarray) -> list[bool]:
    """New units are of the kind of the one that they come behind."""
    return np.repeat(np.asarray(old, bool), counts).tolist()


def _crossed(step: Step, inputs: Signal, size: str) -> tuple[int, np.ndarray]:
    layer = step.operation
    axis = layer.channel_axis(inputs.rank)
    rows, columns = step.contract(inputs, axis), step.emit(len(layer.survived_outputs))
    for kernel, places, made in layer.blocks():
        step.weight(kernel, *[None] * len(layer.taps), None if rows is None else rows[places], columns[made])
    step.weight(layer.bias, columns)
    step.size(size, columns)
    step.size("survived_inputs", rows, _repeated)
    step.size("survived_outputs", columns, _repeated)
    step.activation(layer.activation, columns)
    return axis, columns


@register(CrossedDense)
def crossed_dense(step: Step, inputs: Signal) -> Axes:
    axis, columns = _crossed(step, inputs, "units")
    return inputs.replaced(axis, columns)


@register(CrossedConv)
def crossed_convolution(step: Step, inputs: Signal) -> Axes:
    axis = step.operation.channel_axis(inputs.rank)
    step.fix_axes(inputs, "a convolution slides over this axis", keep=[axis])
    axis, columns = _crossed(step, inputs, "filters")
    return tuple(columns if k == axis else None for k in range(inputs.rank))


@register_flops(CrossedDense, CrossedConv)
def crossed_flops(call: Call) -> float:
    """Every kernel at every position that leaves; attention takes a product, a factor and a sum for each number."""
    layer, shape = call.operation, call.outputs[0]
    positions = prod(shape) // max(shape[layer.channel_axis(len(shape))], 1)
    products = sum(prod(call.weight(kernel)) for kernel in layer.kernels)
    after = {"full": 1, "none": 0, "attention": 3}[layer.crossing] + (layer.bias is not None)
    return 2 * positions * products + after * prod(shape)
