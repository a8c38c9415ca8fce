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
