"""Rows of what stands in an opened model for what its code does beside calling layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.graph.step import Axes, Signal, Step
from tfprune.graph.table import register
from tfprune.layers.opened import HeldWeight, SizedArray, WithMask


@register(HeldWeight)
def held_weight(step: Step, reference: Signal) -> Axes:
    """A weight that code reads: what its positions are, they become where they meet units.

    A kernel's last axis makes units; a vector (a scale, say) holds a number for each unit that others make.
    """
    variable = step.operation.held
    lengths = [int(length) for length in variable.shape]
    known = step.records.weights.get(id(variable))
    makes = known is None and sum(length > 1 for length in lengths) > 1
    axes: list[np.ndarray | None] = []
    for axis, length in enumerate(lengths):
        if length == 1:
            axes.append(None)
        elif known is not None and known.axes[axis] is not None:
            axes.append(known.axes[axis])
        elif makes and axis == len(lengths) - 1:
            axes.append(step.emit(length))
        else:
            axes.append(step.records.ids.new(length))
        step.size(("variable", axis), axes[-1])
    step.weight(variable, *axes)
    return tuple(axes)


@register(SizedArray)
def sized_array(step: Step, like: Any) -> Axes:
    """Numbers that code makes anew at every call, for all units that there were (angles of a rotation): these stay."""
    return step.untracked()


@register(WithMask, follows=True)
def with_mask(step: Step, x: Signal, mask: Any) -> Axes:
    return x.axes
