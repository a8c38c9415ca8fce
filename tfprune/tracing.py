"""Compiled functions of batches, traced with the lengths that the batches have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class ByLengths:
    """A function of tensors, compiled once for all numbers of samples, but anew for every other length.

    A function that is traced for one length and another would leave the length open, and layers that look at it go
    astray: TimeDistributed, say, then loops over as many steps as there are samples.

    Args:
        function: takes nested tensors whose first axis is free; anything else that it takes must be None.
        signature: takes the same and returns the `input_signature` to compile for; None for that of the tensors.
        **options: passed on to `tf.function`.

    Example:
        >>> total = ByLengths(lambda x: tf.reduce_sum(tf.ones(x.shape[1])))
        >>> float(total(tf.zeros([2, 3]))), float(total(tf.zeros([4, 3]))), float(total(tf.zeros([4, 5])))
        (3.0, 3.0, 5.0)
    """

    def __init__(self, function: Callable, *, signature: Callable | None = None, **options: Any):
        self._function = function
        self._signature = signature
        self._options = options
        self._compiled: dict[tuple, Callable] = {}

    def __call__(self, *args: Any) -> Any:
        """Calls the function that was compiled for these lengths."""
        key = tuple(None if own is None else tuple(own.shape[1:]) for own in tf.nest.flatten(args))
        if key not in self._compiled:
            options = {"reduce_retracing": True, **self._options}
            if self._signature is not None:
                options["input_signature"] = self._signature(*args)
            self._compiled[key] = tf.function(self._function, **options)
        return self._compiled[key](*args)
