"""The one way in which the package has TensorFlow compile its functions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf


def compiled(function: Callable, **options: Any) -> Callable:
    """Compiles a function of tensors, without autograph: nothing here branches on tensors, and errors stay short.

    TensorFlow counts the tracings of all functions with the same text together, and warns of those that are made anew
    for every model, as pruning loops have it. The user could do nothing about them, so that it does not warn of ours.

    Args:
        function: takes and returns nested tensors.
        **options: passed on to `tf.function`.

    Returns:
        The compiled function.

    Example:
        >>> float(compiled(lambda x: 2 * x)(tf.constant(3.0)))
        6.0
    """
    made = tf.function(function, **{"autograph": False, **options})
    made._omit_frequent_tracing_warning = True
    return made


class ByLengths:
    """A function of tensors, compiled once for all numbers of samples, but anew for every other length.

    A function that is traced for one length and another would leave the length open, and layers that look at it go
    astray: TimeDistributed, say, then loops over as many steps as there are samples.

    Args:
        function: takes nested tensors whose first axis is free; anything else that it takes must be None.
        signature: takes the same and returns the `input_signature` to compile for; None for that of the tensors.
        **options: passed on to `compiled`.

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
            self._compiled[key] = compiled(self._function, **options)
        return self._compiled[key](*args)


@contextlib.contextmanager
def without_retracing_warnings() -> Iterator[None]:
    """Keras compiles its own loops anew for every model; where the package makes models, that is no fault of the user.

    Example:
        >>> with without_retracing_warnings():  # doctest: +SKIP
        ...     small.evaluate(x, y)
    """

    def wanted(record: logging.LogRecord) -> bool:
        return "triggered tf.function retracing" not in record.getMessage()

    logger = tf.get_logger()
    logger.addFilter(wanted)
    try:
        yield
    finally:
        logger.removeFilter(wanted)
