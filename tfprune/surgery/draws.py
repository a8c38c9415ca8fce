"""The numbers that new units begin with."""

from __future__ import annotations

import contextlib
import copy
import math
import numbers
import random
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

_NORMS = (keras.layers.BatchNormalization, keras.layers.GroupNormalization)


class Draws:
    """Draws weights, the same ones in the same order for the same seed.

    Args:
        initializer: for kernels that make units, a Keras initializer or its name; None for each layer's own.
        outgoing: for kernels that read units, likewise; "zero" for zeros.
        gamma: the scale in batch and group norms; None for the layer's own.
        seed: a whole number.

    Attributes:
        initializer: that for kernels that make units, or None.
        outgoing: that for kernels that read units, None for zeros.
        num_scales: how many norms have been given `gamma`.

    Raises:
        TypeError: if `gamma` or `seed` is no number.
        ValueError: if an initializer is unknown, or a number cannot be used.
    """

    def __init__(self, initializer: Any, outgoing: Any, gamma: float | None, seed: int):
        self.initializer = None if initializer is None else _found(initializer, "initializer")
        outgoing = "zeros" if isinstance(outgoing, str) and outgoing == "zero" else outgoing
        self.outgoing = _found(outgoing, "outgoing")
        if isinstance(self.outgoing, keras.initializers.Zeros):
            self.outgoing = None
        if gamma is not None and (isinstance(gamma, bool) or not isinstance(gamma, numbers.Real)):
            raise TypeError(f"gamma: expected a number, received {gamma!r} of type {type(gamma).__name__}.")
        if gamma is not None and not math.isfinite(gamma):
            raise ValueError(f"gamma: expected a finite number, received {gamma!r}.")
        if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
            raise TypeError(f"seed: expected a whole number, received {seed!r} of type {type(seed).__name__}.")
        if seed < 0:
            raise ValueError(f"seed: expected a number of at least 0, received {seed}.")
        self.num_scales = 0
        self._gamma = gamma
        self._seed = int(seed)
        self._generator = np.random.default_rng(self._seed)

    @contextlib.contextmanager
    def of_layers(self) -> Iterator[None]:
        """Makes what layers draw as they are built the same every time: Keras asks Python for seeds not given."""
        state = random.getstate()
        random.seed(self._seed)
        try:
            yield
        finally:
            random.setstate(state)

    def give_seeds(self, layer: Any) -> None:
        """Gives the initializers of a layer that is not built yet, and of layers inside, seeds of their own.

        With those of the layer that it stands for it would draw that one's numbers again. What its configuration says
        of the seeds stays.
        """
        for own in layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ():
            for name, value in list(vars(own).items()):
                if name.endswith("_initializer"):
                    vars(own)[name] = self._with_seed(value)

    def _with_seed(self, initializer: Any) -> Any:
        if not isinstance(getattr(initializer, "seed", None), int):
            return initializer
        result = copy.copy(initializer)
        result.seed = int(self._generator.integers(2**31))
        return result

    def made(self, layer: Any, variable: Any, is_kernel: bool) -> np.ndarray:
        """Returns what a weight begins with: all of it, in the shape that it has with the new units."""
        if is_kernel and self.initializer is not None:
            return self._drawn(self.initializer, variable, "initializer")
        value = np.array(keras.ops.convert_to_numpy(variable))
        if self._gamma is not None and isinstance(layer, _NORMS) and variable is layer.gamma:
            self.num_scales += 1
            value[...] = self._gamma
        return value

    def read(self, variable: Any) -> np.ndarray:
        """Returns what the weights begin with by which units are read, likewise."""
        if self.outgoing is None:
            return np.zeros_like(keras.ops.convert_to_numpy(variable))
        return self._drawn(self.outgoing, variable, "outgoing")

    def _drawn(self, initializer: Any, variable: Any, what: str) -> np.ndarray:
        shape = tuple(variable.shape)
        try:
            value = self._with_seed(initializer)(shape, dtype=variable.dtype)
            value = np.array(keras.ops.convert_to_numpy(value))
        except Exception as error:  # Whatever a stranger's initializer raises is told with its weight.
            raise ValueError(
                f"{what}: weight {variable.path!r} of shape {shape} cannot be drawn: {type(error).__name__}: {error}"
            ) from error
        if value.shape != shape or not np.isfinite(value.astype("float64")).all():
            raise ValueError(
                f"{what}: weight {variable.path!r} needs finite numbers of shape {shape}; received an array of shape "
                f"{value.shape}."
            )
        return value


def _found(initializer: Any, what: str) -> Any:
    try:
        found = keras.initializers.get(initializer)
    except ValueError as error:
        found = None
        if isinstance(initializer, str):
            raise ValueError(f"{what}: Keras has no initializer {initializer!r}.") from error
    if found is None or not callable(found):
        raise TypeError(
            f"{what}: expected a Keras initializer or its name, received {initializer!r} of type "
            f"{type(initializer).__name__}."
        )
    return found
