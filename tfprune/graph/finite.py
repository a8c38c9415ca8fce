"""Weights that are NaN or infinite: told where they are, before anything is computed from them."""

from __future__ import annotations

import keras
import numpy as np


def check_finite_weights(model: keras.Model) -> None:
    """Raises ValueError, naming the layer, if a weight of a model is NaN or infinite.

    Scores, statistics, masks and repairs that are made from such a model would be numbers that look fine, or NaN. To be
    called wherever they are made.
    """
    for variable in model.weights:
        if not keras.backend.is_float_dtype(variable.dtype):
            continue
        values = keras.ops.convert_to_numpy(variable)
        # A sum that is a number has no NaN and no infinity in it; one that is not may have overflowed.
        with np.errstate(all="ignore"):
            if np.isfinite(np.sum(values, dtype="float32")):
                continue
        # Of the half precisions some have no `isfinite` of their own.
        bad = np.argwhere(~np.isfinite(values.astype("float32" if values.dtype.itemsize < 4 else values.dtype)))
        if len(bad):
            layer, _, name = variable.path.rpartition("/")
            place = f"[{', '.join(map(str, bad[0].tolist()))}]" if values.ndim else ""
            raise ValueError(
                f"model {model.name!r}: the weight {name!r} of layer {layer or variable.name!r} has {len(bad)} of "
                f"{values.size} numbers that are NaN or infinite, the first {values[tuple(bad[0])]} at {name}{place}. "
                "Nothing that is computed from them means anything. Load weights from before the training went wrong, "
                "and train from there with a lower learning rate or with clipnorm=1.0."
            )
