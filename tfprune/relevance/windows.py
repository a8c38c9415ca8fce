"""What each maximum of a pooling layer looks at."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import tensorflow as tf


def pooling_windows(layer: Any, x: Any) -> tuple[Any, Any]:
    """Returns the entries of every window of a max pooling layer, `(*output shape, entries)`, and which are no padding.

    Args:
        layer: a MaxPooling1D, 2D or 3D layer.
        x: its input.
    """
    first = layer.data_format == "channels_first"
    rank = len(layer.pool_size)
    lengths = [x.shape[axis + (2 if first else 1)] for axis in range(rank)]
    counts, befores, afters = [], [], []
    for length, size, stride in zip(lengths, layer.pool_size, layer.strides, strict=True):
        if length is None:
            raise ValueError(f"{layer.name}: the rule needs inputs of a known size, but one axis is open.")
        if layer.padding == "same":
            count = -(-length // stride)
            missing = max(0, (count - 1) * stride + size - length)
        else:
            count, missing = (length - size) // stride + 1, 0
        counts.append(count)
        befores.append(missing // 2)
        afters.append(missing - missing // 2)
    paddings = list(zip(befores, afters, strict=True))
    outer = [(0, 0)] * (2 if first else 1), [(0, 0)] * (0 if first else 1)
    padded = tf.pad(x, [*outer[0], *paddings, *outer[1]])
    inside = np.pad(np.ones(lengths, bool), paddings)
    entries, valid = [], []
    for start in itertools.product(*(range(size) for size in layer.pool_size)):
        cut = tuple(
            slice(begin, begin + (count - 1) * stride + 1, stride)
            for begin, count, stride in zip(start, counts, layer.strides, strict=True)
        )
        entries.append(padded[(slice(None),) * len(outer[0]) + cut])
        valid.append(inside[cut])
    shape = (1, 1, *counts) if first else (1, *counts, 1)
    return tf.stack(entries, axis=-1), tf.constant(np.stack(valid, axis=-1).reshape(*shape, len(valid)))


def global_windows(axes: list[int], keepdims: bool, x: Any) -> tuple[Any, Any]:
    """Returns the entries of a maximum over `axes`, `(*output shape, entries)`, and that all of them count."""
    if any(length is None for length in x.shape[1:]):
        raise ValueError(
            f"a maximum over {tuple(x.shape)}: the rule needs inputs of a known size, but an axis is open."
        )
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    moved = tf.transpose(x, [*kept, *axes])
    count = int(np.prod([x.shape[axis] for axis in axes]))
    flat = tf.reshape(moved, [-1, *(x.shape[axis] for axis in kept[1:]), count])
    if keepdims:
        for axis in sorted(axes):
            flat = tf.expand_dims(flat, axis)
    return flat, tf.ones([1] * (len(flat.shape) - 1) + [flat.shape[-1]], "bool")


def stacked_windows(*tensors: Any) -> tuple[Any, Any]:
    """Returns the entries of an elementwise maximum of several tensors, and that all of them count."""
    shape = tf.shape(sum(tf.zeros_like(x) for x in tensors))
    entries = tf.stack([tf.broadcast_to(x, shape) for x in tensors], axis=-1)
    return entries, tf.ones([1] * (len(entries.shape) - 1) + [len(tensors)], "bool")
