"""Stand-ins, in a masked model, for operations that look across units: they see those that are on alone.

All of them take, besides the arguments of the operation, one row of `on_nodes` for every reduced axis that holds
units, and `held`, which of the reduced axes these are.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src import backend

from tfprune.layers.masks import along, package, spread
from tfprune.layers.twins import CountsUnits

_NEVER = -1e9
"""Added to a score that must not be chosen."""


def reduced_axes(operation: Any, rank: int) -> list[int]:
    """Returns the axes over which an operation runs, in order, counted from the front."""
    axis = getattr(operation, "axes", None) if hasattr(operation, "axes") else getattr(operation, "axis", -1)
    return list(range(rank)) if axis is None else sorted(int(own) % rank for own in np.atleast_1d(axis))


class _Reduction(CountsUnits):
    """What the stand-ins share: where units are on, and sums and means over those."""

    def __init__(self, layer: Any, replacement: Any = None, **kwargs: Any):
        super().__init__(layer, replacement, **kwargs)
        # What comes in is of the type that the operation would have got.
        self.autocast = False

    rows_by_axis = True
    """Whether it is told which axes its rows are of."""

    def compute_output_spec(self, x, *args, on_nodes=None, held=(), **kwargs):
        return self.layer.compute_output_spec(x, *args, **kwargs)

    def call(self, x, *args, on_nodes=None, held=(), **kwargs):
        shape = keras.KerasTensor(x.shape, backend.standardize_dtype(x.dtype))
        expected = self.layer.compute_output_spec(shape, *args, **kwargs)
        wide = ops.cast(x, backend.result_type(x.dtype, "float32"))
        axes = reduced_axes(self.layer, len(x.shape))
        held = list(zip([axis for axis, own in zip(axes, held, strict=True) if own], on_nodes, strict=True))
        on = ops.ones((1,) * len(x.shape), wide.dtype)
        for axis, row in held:
            on = on * along(spread(row, ops.shape(x)[0]), axis, len(x.shape), wide.dtype)
        result = self.over(wide, on, [axis for axis, _ in held], axes, *args, *kwargs.values())
        if not isinstance(expected, tuple):
            return ops.cast(result, expected.dtype)
        return tuple(ops.cast(own, spec.dtype) for own, spec in zip(result, expected, strict=True))

    def over(self, x: Any, on: Any, units: list[int], axes: list[int], *args: Any) -> Any:
        """Returns the result over `axes` of `x`; `on` broadcasts to it, and differs along the axes `units`."""
        raise NotImplementedError

    def mean(self, x: Any, on: Any, units: list[int], axes: list[int]) -> Any:
        """Returns the mean over the units that are on, with the axes kept."""
        count = ops.sum(on, axis=units, keepdims=True)
        # Where all units are off there is nothing to take a mean of, and nothing that anyone reads; but no NaN either.
        count = ops.where(count > 0, count, ops.ones_like(count))
        result = ops.sum(on * x, axis=units, keepdims=True) / count
        others = [axis for axis in axes if axis not in units]
        return ops.mean(result, axis=others, keepdims=True) if others else result

    def without_axes(self, x: Any, axes: list[int]) -> Any:
        """Returns `x` without the axes of length 1 that the operation does not keep."""
        return x if self.layer.keepdims else ops.squeeze(x, axis=axes)


@package
class MaskedMean(_Reduction):
    """`ops.mean` over the units that are on."""

    def over(self, x, on, units, axes):
        return self.without_axes(self.mean(x, on, units, axes), axes)


@package
class MaskedVariance(_Reduction):
    """`ops.var` and `ops.std` over the units that are on."""

    def over(self, x, on, units, axes):
        variance = self.mean(ops.square(x - self.mean(x, on, units, axes)), on, units, axes)
        result = ops.sqrt(variance) if isinstance(self.layer, keras.src.ops.numpy.Std) else variance
        return self.without_axes(result, axes)


@package
class MaskedMoments(_Reduction):
    """`ops.moments` over the units that are on."""

    def over(self, x, on, units, axes):
        mean = self.mean(x, on, units, axes)
        variance = self.mean(ops.square(x - mean), on, units, axes)
        return self.without_axes(mean, axes), self.without_axes(variance, axes)


@package
class MaskedExtreme(_Reduction):
    """`ops.max` and `ops.min` over the units that are on: the others are put where they cannot be the answer."""

    def over(self, x, on, units, axes):
        classes = keras.src.ops.numpy
        largest = isinstance(self.layer, (classes.Max, classes.Amax))
        away, towards = (ops.min, ops.max) if largest else (ops.max, ops.min)
        return towards(on * x + (1 - on) * away(x, axis=units, keepdims=True), axis=axes, keepdims=self.layer.keepdims)


def _shifted(x: Any, on: Any, axes: list[int]) -> tuple[Any, Any]:
    """Returns the largest number among the units that are on, and the exponentials above it, zero for the others."""
    highest = ops.max(on * x + (1 - on) * ops.min(x, axis=axes, keepdims=True), axis=axes, keepdims=True)
    highest = ops.stop_gradient(highest)
    return highest, on * ops.exp(ops.where(on > 0, x, highest) - highest)


@package
class MaskedLogsumexp(_Reduction):
    """`ops.logsumexp` over the units that are on."""

    def over(self, x, on, units, axes):
        highest, powers = _shifted(x, on, axes)
        total = ops.sum(powers, axis=axes, keepdims=True)
        total = ops.where(total > 0, total, ops.ones_like(total))
        return self.without_axes(highest + ops.log(total), axes)


@package
class MaskedSoftmax(_Reduction):
    """`ops.softmax` over the units that are on; the others get nothing."""

    def over(self, x, on, units, axes):
        powers = _shifted(x, on, axes)[1]
        total = ops.sum(powers, axis=axes, keepdims=True)
        return powers / ops.where(total > 0, total, ops.ones_like(total))


@package
class MaskedNorm(_Reduction):
    """`ops.rms_normalization` and `ops.layer_normalization` over the units that are on."""

    def over(self, x, on, units, axes, first=None, second=None):
        layer = self.layer
        epsilon = keras.config.epsilon() if layer.epsilon is None else layer.epsilon
        if isinstance(layer, keras.src.ops.nn.LayerNorm) and not layer.rms_scaling:
            x = x - self.mean(x, on, units, axes)
        result = x * ops.rsqrt(self.mean(ops.square(x), on, units, axes) + epsilon)
        for place, own in enumerate((first, second)):
            if own is not None:
                own = ops.cast(own, result.dtype)
                own = ops.reshape(own, [own.shape[-1] if k in axes else 1 for k in range(len(x.shape))])
                result = result * own if place == 0 else result + own
        return result


@package
class MaskedTopK(_Reduction):
    """`ops.top_k` and `ops.argmax` of scores: a unit that is off is chosen when no other is left."""

    def over(self, x, on, units, axes):
        kept = ops.where(on > 0, on, ops.ones_like(on))
        return self.layer(x + ops.where(on > 0, ops.log(kept), _NEVER))


@package
class MaskedTopShares(_Reduction):
    """`ops.top_k` of shares, which are no less than zero: a unit that is off has none."""

    def over(self, x, on, units, axes):
        return self.layer(on * x)
