"""Whether two models compute the same, as far as their precision goes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import tree

_TOLERANCE, _HALF_TOLERANCE = 1e-4, 5e-2


def gives_same(expected: Any, received: Any, tolerance: float) -> bool:
    """Whether two models have given out the same: the largest number times `tolerance` apart at most."""
    for one, other in zip(tree.flatten(expected), tree.flatten(received), strict=True):
        one, other = (keras.ops.convert_to_numpy(keras.ops.cast(own, "float32")) for own in (one, other))
        scale = max(1.0, float(np.abs(one[np.isfinite(one)]).max(initial=0.0)))
        if one.shape != other.shape or not np.allclose(one, other, atol=tolerance * scale, equal_nan=True):
            return False
    return True


def computes_in_half(model: keras.Model) -> bool:
    """Whether a layer of a model computes in half precision."""
    return any("16" in layer.compute_dtype for layer in model._flatten_layers())


def tolerance_of(model: keras.Model) -> float:
    """Returns how far two orders of the same sums of a model may be apart, which is far in half precision."""
    return _HALF_TOLERANCE if computes_in_half(model) else _TOLERANCE
