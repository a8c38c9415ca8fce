"""Rows of the layers that live inside `keras.applications`."""

from __future__ import annotations

from collections.abc import Sequence

from keras.src.applications import convnext, inception_resnet_v2

from tfprune.graph.rows_merge import merge
from tfprune.graph.rows_unit import plain
from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register

register(convnext.StochasticDepth, follows=True)(plain)


@register(convnext.LayerScale, follows=True)
def layer_scale(step: Step, inputs: Signal) -> Axes:
    step.weight(step.operation.gamma, inputs.axes[-1])
    step.size("projection_dim", inputs.axes[-1])
    return inputs.axes


@register(inception_resnet_v2.CustomScaleLayer)
def custom_scale(step: Step, inputs: Sequence[Signal]) -> Axes:
    return merge(step, inputs)
