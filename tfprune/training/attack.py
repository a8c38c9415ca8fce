"""The learning-rate attack: one unit's incoming weights learn far too fast for a few steps."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.kernels import making_kernels
from tfprune.training.stepping import StepCounter, attach, detach, refuse_uncompiled


class LearningRateAttack(StepCounter):
    """Multiplies the gradient of a unit's incoming weights, not of its bias, at some steps of the training.

    Incoming weights are the kernels that make the unit in all layers of its group (all gates and the recurrent kernel
    of a recurrent layer), as for `saliency.weight_norm`. The gradient is multiplied before the optimizer sees it, in
    the compiled training step, so that it works with any optimizer (one that divides by the size of its
    gradients, as Adam does, takes most of the force out of it) and with `jit_compile` and `steps_per_execution`;
    with plain SGD it is the same as a learning rate for these weights. Steps are counted as `fit` counts its epochs:
    with `initial_epoch` the earlier ones count too.

    Args:
        unit: `(group, place)`, the unit's place within its group, such as `("conv1", 3)`; or a sequence of them.
        multiplier: what the gradient is multiplied with.
        start: the first step that is attacked; the first of the training is 0.
        count: how many steps are attacked.
        interval: so many steps lie between one attacked step and the next; 1 attacks neighbours.

    Raises:
        TypeError: if `unit` is no pair of a name and a number.
        ValueError: if a number is out of its range; and when `fit` begins, if there is no such unit.

    Example:
        >>> attack = LearningRateAttack(("conv1", 3), multiplier=100, start=50, count=10, interval=10)
        >>> net.fit(x, y, epochs=10, callbacks=[attack])                                          # doctest: +SKIP

    Reference: U. Evci (2018), chapter 3.
    """

    def __init__(
        self,
        unit: tuple[str, int] | Sequence[tuple[str, int]],
        multiplier: float,
        start: int,
        count: int,
        interval: int = 1,
    ):
        super().__init__()
        self.units = _checked_units(unit)
        if isinstance(multiplier, bool) or not isinstance(multiplier, numbers.Real) or not np.isfinite(multiplier):
            raise ValueError(f"LearningRateAttack: `multiplier` expects a finite number, received {multiplier!r}.")
        for name, value, least in (("start", start, 0), ("count", count, 1), ("interval", interval, 1)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(
                    f"LearningRateAttack: `{name}` expects a whole number of at least {least}, received {value!r}."
                )
        self.multiplier, self.start, self.count, self.interval = float(multiplier), start, count, interval
        self._hook: _Multiplied | None = None
        self._attacked: keras.Model | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the unit's weights and makes the attack part of the training step."""
        self.release()
        self.begin()
        refuse_uncompiled(self.model, "LearningRateAttack")
        graph = unit_groups(self.model)
        for group, place in self.units:
            _check_unit(graph, group, place)
        first, last = self.start, self.start + (self.count - 1) * self.interval

        def attacked(step: Any) -> Any:
            return (step >= first) & (step <= last) & ((step - first) % self.interval == 0)

        self._hook = _Multiplied(_factors(graph, self.units, self.multiplier), attacked)
        self._attacked = self.model
        attach(self.model, self._hook)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets the count of steps to that of the epoch."""
        self.begin_epoch(epoch)
        self._hook.step.assign(self._before_epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Counts steps for epochs of unknown length."""
        self.begin_step(batch)

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the attack out of the training step."""
        self.release()

    def release(self) -> None:
        """Gives the model's training step back as it was. `fit` does so, unless it is interrupted."""
        if self._hook is not None:
            detach(self._attacked, self._hook)
        self._hook = None


class _Multiplied:
    """A hook that multiplies gradients by factors at some steps, and counts the steps."""

    def __init__(self, factors: dict[int, np.ndarray], attacked: Any):
        self._factors = factors
        self._attacked = attacked
        self.step = tf.Variable(0, dtype="int64", trainable=False)

    def before(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Returns the gradients, multiplied if this step is attacked."""
        now = self._attacked(self.step)
        self.step.assign_add(1)
        return [self._multiplied(g, self._factors.get(id(v)), now) for g, v in zip(gradients, variables, strict=True)]

    def after(self, variables: list[Any]) -> None:
        """Does nothing."""

    @staticmethod
    def _multiplied(gradient: Any, factor: np.ndarray | None, now: Any) -> Any:
        if gradient is None or factor is None:
            return gradient
        # Rows that an embedding has not looked up have no gradient to multiply.
        gradient = tf.convert_to_tensor(gradient)
        return gradient * tf.where(now, tf.cast(factor, gradient.dtype), tf.ones([], gradient.dtype))


def _factors(graph: UnitGraph, units: tuple[tuple[str, int], ...], multiplier: float) -> dict[int, np.ndarray]:
    """Returns for each kernel that makes one of the units what its gradient is multiplied with, by `id`."""
    columns = [graph[group].start + place for group, place in units]
    result: dict[int, np.ndarray] = {}
    for variable, axis, ids in making_kernels(graph):
        own = np.isin(graph.columns(ids), columns)
        if own.any():
            shape = [-1 if k == axis else 1 for k in range(len(variable.shape))]
            factor = np.where(own, multiplier, 1.0).reshape(shape)
            # A kernel that makes units along two axes multiplies once where both are attacked.
            known = result.get(id(variable), np.ones([1] * len(shape)))
            result[id(variable)] = np.where(factor == 1.0, known, factor)
    return result


def _checked_units(unit: Any) -> tuple[tuple[str, int], ...]:
    units = [unit] if isinstance(unit, tuple) and len(unit) == 2 and isinstance(unit[0], str) else unit
    if not isinstance(units, Sequence) or isinstance(units, str) or not units:
        units = [units]
    for own in units:
        if (
            not isinstance(own, tuple)
            or len(own) != 2
            or not isinstance(own[0], str)
            or isinstance(own[1], bool)
            or not isinstance(own[1], numbers.Integral)
        ):
            raise TypeError(
                f"LearningRateAttack: `unit` expects the pair (group, place), such as ('conv1', 3), received {own!r}."
            )
    return tuple((group, int(place)) for group, place in units)


def _check_unit(graph: UnitGraph, group: str, place: int) -> None:
    if group not in graph:
        raise ValueError(f"LearningRateAttack: {graph.unknown(group).removeprefix('layers: ')}")
    if not 0 <= place < graph[group].size:
        raise ValueError(
            f"LearningRateAttack: group {group!r} has {graph[group].size} units, numbered from 0; received {place}."
        )
