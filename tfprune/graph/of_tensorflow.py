"""What functions of TensorFlow in a model's code do to symbolic tensors: what the same functions of Keras do.

Keras refuses its symbolic tensors to `tf.concat` and its like, so that code written with them could not be followed.
While a model is traced, TensorFlow's own dispatch hands such calls over to `keras.ops`. What is not in the table is
refused as before, and the layer stays shut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import tensorflow as tf
from keras import tree
from tensorflow.python.util.tf_export import get_canonical_name_for_symbol

from tfprune.graph import of_tensorflow_layers  # noqa: F401  (it fills the table)
from tfprune.graph.of_tensorflow_table import FUNCTIONS

_here = threading.local()


@contextmanager
def followed() -> Iterator[None]:
    """For its time, functions of TensorFlow take the symbolic tensors of Keras in this thread."""
    before = getattr(_here, "follows", False)
    _here.follows = True
    try:
        yield
    finally:
        _here.follows = before


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    """What TensorFlow asks where one of its functions has refused its arguments."""

    def handle(self, op: Any, args: tuple, kwargs: dict) -> Any:
        name = get_canonical_name_for_symbol(op) or ""
        function = FUNCTIONS.get(name.removeprefix("__operators__."))
        symbolic = (isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten((args, kwargs)))
        if function is None or not getattr(_here, "follows", False) or not any(symbolic):
            return self.NOT_SUPPORTED
        return function(*args, **kwargs)


_Dispatcher().register()
