"""Schedules: which fraction of units or weights is off after how many steps or epochs of training."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

THESIS_WEIGHTS: Mapping[int, float] = MappingProxyType({2: 0.2, 3: 0.5, 4: 0.8, 5: 0.9})
"""Evci (2018), table 2.2: sparsity of weights after so many epochs."""

THESIS_UNITS: Mapping[int, float] = MappingProxyType({2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6})
"""Evci (2018), table 4.2: sparsity of units after so many epochs."""

COUNTS = ("steps", "epochs")
# A rise is looked for at so many counts at most, spread evenly over a training.
_MOST_LOOKS = 20_000


@dataclass(frozen=True)
class Schedule:
    """A function from the steps or epochs that are done to the sparsity that is wanted.

    Attributes:
        function: takes the count, returns the sparsity, at least 0 and below 1. It must never fall.
        counts: what is counted: "steps" (batches) or "epochs".
        name: for messages.
    """

    function: Callable[[int], float]
    counts: str = "steps"
    name: str = "schedule"

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(f"{self.name}: expected a function of the step, received {self.function!r}.")
        if self.counts not in COUNTS:
            raise ValueError(f"{self.name}: `counts` expects 'steps' or 'epochs', received {self.counts!r}.")

    def __call__(self, count: int) -> float:
        """Returns the sparsity after `count` steps or epochs.

        Raises:
            ValueError: if the function gives no number of at least 0 and below 1.
        """
        sparsity = self.function(int(count))
        check_sparsity(sparsity, f"{self.name}: the sparsity after {count} {self.counts}")
        return float(sparsity)

    def check(self, last: int) -> None:
        """Looks at the schedule up to a count, before any work.

        Up to 20,000 counts each is looked at, beyond that so many of them spread evenly.

        Args:
            last: the number of steps or epochs of the training.

        Raises:
            ValueError: if the sparsity falls somewhere, or is out of its range.
        """
        before, largest = 0, 0.0
        for count in sorted({*range(0, last + 1, max(1, math.ceil(last / _MOST_LOOKS))), last}):
            sparsity = self(count)
            if sparsity < largest:
                raise ValueError(
                    f"{self.name}: it falls from {largest:g} after {before} {self.counts} to {sparsity:g} after "
                    f"{count}. What is off stays off, so a schedule must never fall."
                )
            before, largest = count, sparsity


def constant(sparsity: float, start: int = 0) -> Schedule:
    """Nothing is off before a step, and the whole sparsity from then on.

    Args:
        sparsity: the fraction that is off, at least 0 and below 1.
        start: the number of steps before the pruning step.

    Returns:
        The schedule, counted in steps.

    Raises:
        ValueError: if an argument is out of its range.

    Example:
        >>> schedule = constant(0.5, start=100)
        >>> schedule(99), schedule(100)
        (0.0, 0.5)
    """
    check_sparsity(sparsity, "constant: `sparsity`")
    _check_whole(start, "constant: `start`", 0)
    return Schedule(lambda step: sparsity if step >= start else 0.0, "steps", "constant")


def polynomial(initial: float, final: float, begin: int, end: int, power: float = 3, frequency: int = 100) -> Schedule:
    """The sparsity rises fast at first and then ever more slowly: with power 3 the cubic of Zhu and Gupta.

    `s(t) = final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power` from `begin` to `end`, taken at
    `begin`, at every `frequency` steps after it, and at `end`; 0 before, `final` after.

    Args:
        initial: sparsity at the step `begin`.
        final: sparsity from the step `end` on, no less than `initial`.
        begin: first step of the rise.
        end: last step of the rise.
        power: how fast the rise slows down; 1 is a straight line.
        frequency: steps between two pruning steps.

    Returns:
        The schedule, counted in steps.

    Raises:
        ValueError: if an argument is out of its range, or the schedule would fall.

    Example:
        >>> schedule = polynomial(0.0, 0.5, begin=0, end=200, frequency=100)
        >>> schedule(99), schedule(100), schedule(200)
        (0.0, 0.4375, 0.5)

    Reference: M. Zhu, S. Gupta (2017), "To prune, or not to prune", equation 1.
    """
    check_sparsity(initial, "polynomial: `initial`")
    check_sparsity(final, "polynomial: `final`")
    if final < initial:
        raise ValueError(
            f"polynomial: it would fall from initial={initial} to final={final}. What is off stays off, so `final` "
            "must be no less than `initial`."
        )
    _check_whole(begin, "polynomial: `begin`", 0)
    _check_whole(end, "polynomial: `end`", begin + 1)
    _check_whole(frequency, "polynomial: `frequency`", 1)
    if isinstance(power, bool) or not isinstance(power, numbers.Real) or not 0 < power < math.inf:
        raise ValueError(f"polynomial: `power` expects a number above 0, received {power!r}.")

    def sparsity(step: int) -> float:
        if step < begin:
            return 0.0
        if step >= end:
            return final
        at = begin + (step - begin) // frequency * frequency
        return final + (initial - final) * (1 - (at - begin) / (end - begin)) ** power

    return Schedule(sparsity, "steps", "polynomial")


def by_epoch(table: Mapping[int, float]) -> Schedule:
    """The sparsity after so many epochs, from a table.

    Args:
        table: sparsity by the number of epochs that are done: `{2: 0.1, 5: 0.6}` prunes when two epochs are done and
            when five are. `THESIS_WEIGHTS` and `THESIS_UNITS` are such tables.

    Returns:
        The schedule, counted in epochs.

    Raises:
        TypeError: if `table` is no mapping.
        ValueError: if it is empty, an entry is out of its range, or the sparsity falls.

    Example:
        >>> schedule = by_epoch(THESIS_UNITS)
        >>> [schedule(epochs) for epochs in range(7)]
        [0.0, 0.0, 0.1, 0.2, 0.4, 0.6, 0.6]

    Reference: U. Evci (2018), tables 2.2 and 4.2.
    """
    if not isinstance(table, Mapping):
        raise TypeError(f"by_epoch: expected a mapping such as {{2: 0.1, 5: 0.6}}, received {type(table).__name__}.")
    if not table:
        raise ValueError("by_epoch: the table is empty. Give at least one entry, such as {2: 0.5}.")
    for epochs, sparsity in table.items():
        _check_whole(epochs, "by_epoch: a number of epochs", 0)
        check_sparsity(sparsity, f"by_epoch: the sparsity after {epochs} epochs")
    entries = sorted(table.items())
    for (before, smaller), (after, larger) in zip(entries, entries[1:], strict=False):
        if larger < smaller:
            raise ValueError(
                f"by_epoch: it falls from {smaller} after {before} epochs to {larger} after {after}. What is off stays "
                "off, so a schedule must never fall."
            )
    return Schedule(lambda epochs: max((s for e, s in entries if e <= epochs), default=0.0), "epochs", "by_epoch")


def as_schedule(schedule: Any) -> Schedule:
    """Returns a schedule as it is, and a user's own function `step -> sparsity` as a schedule of steps.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(schedule, Schedule):
        return schedule
    if hasattr(schedule, "shape"):
        raise TypeError(
            "schedule: expected one of tfprune.schedules or a function of the step, received an array of the shape "
            f"{tuple(schedule.shape)}. Inputs and targets are one value: data=(x, y)."
        )
    if not callable(schedule):
        raise TypeError(
            f"schedule: expected one of tfprune.schedules or a function of the step, received {schedule!r}. For one "
            "sparsity throughout use schedules.constant(0.5)."
        )
    return Schedule(schedule, "steps", getattr(schedule, "__name__", type(schedule).__name__))


def check_sparsity(sparsity: Any, what: str) -> None:
    """Raises ValueError if `sparsity` is no number of at least 0 and below 1."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real) or not 0 <= sparsity < 1:
        raise ValueError(
            f"{what} expects a number of at least 0 and below 1 (the fraction that is off), received {sparsity!r}."
        )


def _check_whole(value: Any, what: str, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{what} expects a whole number of at least {least}, received {value!r}.")
