"""What is explained: one number per sample, made from the output of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class Target(NamedTuple):
    """What to explain.

    Attributes:
        kind: "predicted", "index" or "function".
        function: for the last kind, takes the output and gives one number per sample.
        indices: for kind "index", one class per sample, int32.
    """

    kind: str
    function: Callable | None = None
    indices: np.ndarray | None = None

    @property
    def key(self) -> tuple:
        """The same for two that are compiled alike."""
        return self.kind, id(self.function)

    def seed(self, output: Any, indices: Any = None) -> tuple[Any, Any, Any]:
        """Returns `(class of each sample or None, number explained, its gradient by the output)`."""
        if self.kind == "function":
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(output)
                scores = self.function(output)
            if tuple(scores.shape[1:]):
                raise ValueError(
                    f"target: the function must return one number per sample, shape (samples,), received a tensor of "
                    f"shape {tuple(scores.shape)} for outputs of shape {tuple(output.shape)}."
                )
            return None, scores, tape.gradient(scores, output, unconnected_gradients="zero")
        if indices is None:
            indices = tf.argmax(output, axis=-1, output_type="int32")
        middle = [1] * (len(output.shape) - 2)
        chosen = tf.one_hot(indices, output.shape[-1], dtype=output.dtype)
        slope = tf.reshape(chosen, [-1, *middle, output.shape[-1]]) * tf.ones_like(output)
        return indices, tf.reduce_sum(slope * output, axis=list(range(1, len(output.shape)))), slope


def target_of(target: Any, num_samples: int, output_shape: tuple, name: str) -> Target:
    """Returns a checked target.

    Args:
        target: None, a class, one class per sample, or a function of the output.
        num_samples: how many samples there are.
        output_shape: the shape of the output, `(None, ..., classes)`.
        name: the output's name, for messages.

    Raises:
        ValueError: if a class is out of range, the number of classes wrong, or None is given for an output with more
            than one axis besides the samples.
        TypeError: if `target` is of another kind.
    """
    if callable(target):
        return Target("function", target)
    num_classes = output_shape[-1]
    if target is None:
        if len(output_shape) != 2:
            raise ValueError(
                f"target: output {name!r} has the shape {output_shape}, so there is no predicted class. Give a class, "
                "which is summed over positions, or a function of the output that returns one number per sample."
            )
        return Target("predicted")
    indices = np.asarray(target)
    if indices.dtype.kind not in "iu":
        raise TypeError(
            f"target: expected None, a class, an array of classes or a function, received {type(target).__name__} "
            f"({indices.dtype}). Classes are integers."
        )
    if indices.shape not in ((), (num_samples,)):
        raise ValueError(
            f"target: expected one class, or one for each of the {num_samples} samples, received the shape "
            f"{indices.shape}."
        )
    if indices.size and not (indices.min() >= 0 and indices.max() < num_classes):
        raise ValueError(
            f"target: output {name!r} has {num_classes} classes, 0 to {num_classes - 1}; received "
            f"{int(indices.min() if indices.min() < 0 else indices.max())}."
        )
    return Target("index", indices=np.broadcast_to(indices, (num_samples,)).astype("int32"))
