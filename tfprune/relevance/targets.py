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
        axis: the axis of the output that holds the classes.
    """

    kind: str
    function: Callable | None = None
    indices: np.ndarray | None = None
    axis: int = -1

    @property
    def key(self) -> tuple:
        """The same for two that are compiled alike."""
        return self.kind, id(self.function), self.axis

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
        rank = len(output.shape)
        axis = self.axis % rank
        shape = [-1 if k in (0, axis) else 1 for k in range(rank)]
        if indices is None:
            # There is one position alone.
            indices = tf.reshape(tf.argmax(output, axis=axis, output_type="int32"), [-1])
        chosen = tf.one_hot(indices, output.shape[axis], dtype=output.dtype)
        shape[axis] = output.shape[axis]
        slope = tf.reshape(chosen, shape) * tf.ones_like(output)
        return indices, tf.reduce_sum(slope * output, axis=list(range(1, rank))), slope


def checked_axis(axis: Any, output_shape: tuple, name: str) -> int:
    """Returns the axis of an output that holds the classes, counted from the front.

    Raises:
        TypeError: if it is no whole number.
        ValueError: if the output has no such axis, it is that of the samples, or its length is open.
    """
    if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
        raise TypeError(f"class_axis: expected a whole number, received {axis!r} ({type(axis).__name__}).")
    rank = len(output_shape)
    if not -rank <= axis < rank or axis % rank == 0:
        raise ValueError(
            f"class_axis: output {name!r} has the shape {output_shape}; expected an axis from 1 to {rank - 1} (or "
            f"from -{rank - 1} to -1), received {axis}. Axis 0 holds the samples."
        )
    if output_shape[axis] is None:
        raise ValueError(
            f"class_axis: axis {axis} of output {name!r}, shape {output_shape}, has no fixed length, so its classes "
            "cannot be counted. Name the axis of the classes: class_axis=1."
        )
    return int(axis) % rank


def target_of(target: Any, num_samples: int, output_shape: tuple, name: str, class_axis: Any = -1) -> Target:
    """Returns a checked target.

    Args:
        target: None, a class, one class per sample, or a function of the output.
        num_samples: how many samples there are.
        output_shape: the shape of the output, `(None, ..., classes)`.
        name: the output's name, for messages.
        class_axis: the axis that holds the classes.

    Raises:
        ValueError: if a class is out of range, the number of classes wrong, there is no such axis, or None is given
            for an output with more than one position.
        TypeError: if `target` is of another kind.
    """
    if callable(target):
        return Target("function", target)
    axis = checked_axis(class_axis, output_shape, name)
    num_classes = output_shape[axis]
    if target is None:
        if any(length != 1 for k, length in enumerate(output_shape) if k not in (0, axis)):
            raise ValueError(
                f"target: output {name!r} has the shape {output_shape}, so there is no predicted class. Give a class, "
                "which is summed over positions, or a function of the output that returns one number per sample."
            )
        return Target("predicted", axis=axis)
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
            f"{int(indices.min() if indices.min() < 0 else indices.max())}. Classes are counted along axis {axis} of "
            f"the shape {output_shape}; class_axis= names another."
        )
    return Target("index", indices=np.broadcast_to(indices, (num_samples,)).astype("int32"), axis=axis)
