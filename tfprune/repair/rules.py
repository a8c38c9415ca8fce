"""What stands in for removed units: every rule guesses all units that a kernel reads from those that are left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.repair.moments import Moments, fit
from tfprune.units import describe_unknown

Guess = tuple[np.ndarray, np.ndarray]
"""`(A, c)`: the units are guessed as `left @ A + c`; A has shape `(left, units)`, c has shape `(units,)`."""


@dataclass(frozen=True)
class Channels:
    """What a rule knows of the units that one kernel reads.

    Attributes:
        reader: the name of the layer that reads.
        groups: the group of every unit, None for a position that no unit stands behind; length `units`.
        places: the place of every unit in its group, -1 likewise; shape `(units,)`.
        kept: which are left, shape `(units,)` of bool.
        halves: moments of two halves of the data, x = what is left in the cut model (in the original model for a repair
            that is not sequential), z = all units in the original model; None for a rule that needs no data.
    """

    reader: str
    groups: tuple[str | None, ...]
    places: np.ndarray
    kept: np.ndarray
    halves: tuple[Moments, Moments] | None

    @property
    def selection(self) -> np.ndarray:
        """The matrix A that takes every kept unit for itself and guesses the others as zero."""
        return np.eye(len(self.kept))[self.kept]

    @property
    def means(self) -> np.ndarray:
        """Mean of every unit in the original model, shape `(units,)`."""
        both = self.halves[0].plus(self.halves[1])
        return both.z / both.count


@dataclass(frozen=True)
class Repair:
    """How readers of removed units make up for them.

    Attributes:
        name: for messages.
        guess: takes `Channels`, returns `(A, c)`; None for one that does nothing.
        needs_data: whether data must be given.
        refits: whether whole kernels are refitted where they can be; `guess` then serves the others.
        check: if given, takes the mask as a dictionary of bool by group; raises ValueError if the repair does not fit.
    """

    name: str
    guess: Callable[[Channels], Guess] | None
    needs_data: bool = True
    refits: bool = False
    check: Callable[[Mapping[str, np.ndarray]], None] | None = None


def _mean(channels: Channels) -> Guess:
    return channels.selection, np.where(channels.kept, 0.0, channels.means)


def _affine(channels: Channels) -> Guess:
    return fit(channels.halves, channels.selection)


zero = Repair("zero", None, needs_data=False)
"""Removed units count as zero: nothing is repaired."""

mean = Repair("mean", _mean)
"""The mean of a removed unit times its weights goes into the next bias (Hobson; Evci 2018, section 4.2)."""

affine = Repair("affine", _affine)
"""Every unit is guessed from all that are left, and the guess is multiplied into the next kernel."""

least_squares = Repair("least_squares", _affine, refits=True)
"""The next kernel is refitted so that its output stays what it was: the repair to recommend."""


@dataclass(frozen=True)
class Merged:
    """One removed unit that another one stands in for: removed = factor * kept + offset.

    Attributes:
        group: the group of both.
        removed: the place of the removed unit in its group.
        kept: the place of the unit that stands in for it.
        factor: what the kept unit is multiplied with.
        offset: what is added.
    """

    group: str
    removed: int
    kept: int
    factor: float = 1.0
    offset: float = 0.0


def merge(pairs: Iterable[Merged]) -> Repair:
    """Returns the repair that gives the weights of removed units to partners (Gedeon and Harris 1991).

    Args:
        pairs: who stands in for whom, as `Merged`; a removed unit without a pair counts as zero.

    Raises:
        TypeError: if a pair is no `Merged`.
        ValueError: if a unit is given away twice, or to itself. `remove` raises it if a group or unit does not exist,
            if the one to be removed is on, or the one that stands in for it is off.

    Example:
        Unit 3 of the layer `hidden` goes, unit 5 does the same at half the strength:

        >>> merge([Merged("hidden", removed=3, kept=5, factor=2.0)]).name
        'merge'
    """
    partners: Mapping[tuple[str, int], Merged] = {}
    for pair in pairs:
        if not isinstance(pair, Merged):
            raise TypeError(f"merge: expected Merged(group, removed, kept, factor, offset), received {pair!r}.")
        if (pair.group, pair.removed) in partners or pair.removed == pair.kept:
            raise ValueError(f"merge: unit {pair.removed} of {pair.group!r} is merged twice, or with itself: {pair}.")
        partners[pair.group, pair.removed] = pair

    def guess(channels: Channels) -> Guess:
        matrix, offset = channels.selection, np.zeros(len(channels.kept))
        rows: dict[tuple[str | None, int], list[int]] = {}
        for row, (group, place) in enumerate(_units(channels)):
            rows.setdefault((group, int(place)), []).append(row)
        rank = np.cumsum(channels.kept) - 1
        for (group, place), own in rows.items():
            pair = partners.get((group, place))
            if pair is None or channels.kept[own[0]]:
                continue
            # A unit with several rows, as a head of attention, gives each of them to its partner's own.
            for row, partner in zip(own, rows[group, pair.kept], strict=True):
                matrix[rank[partner], row] = pair.factor
                offset[row] = pair.offset
        return matrix, offset

    def check(mask: Mapping[str, np.ndarray]) -> None:
        for pair in partners.values():
            _check_pair(pair, mask)

    return Repair("merge", guess, needs_data=False, check=check)


def _check_pair(pair: Merged, mask: Mapping[str, np.ndarray]) -> None:
    if pair.group not in mask:
        raise ValueError(f"merge: {describe_unknown([pair.group], mask)} Received {pair}.")
    kept = mask[pair.group]
    for what, unit, wanted in (("removed", pair.removed, False), ("kept", pair.kept, True)):
        if not 0 <= unit < len(kept):
            raise ValueError(f"merge: {what}={unit} is no unit of {pair.group!r}, which has {len(kept)}: {pair}.")
        if kept[unit] != wanted:
            raise ValueError(
                f"merge: {what}={unit} of {pair.group!r} is {'on' if kept[unit] else 'off'} in the mask, but should be "
                f"{'on' if wanted else 'off'}: {pair}."
            )


def _units(channels: Channels) -> Iterable[tuple[str | None, Any]]:
    return zip(channels.groups, channels.places, strict=True)


NAMED = {repair.name: repair for repair in (zero, mean, affine, least_squares)}


def find_repair(repair: Any) -> Repair:
    """Returns the repair behind a name, a `Repair` or a user's own function `Channels -> (A, c)`.

    Raises:
        ValueError: if the name is unknown.
        TypeError: if it is none of these.
    """
    if isinstance(repair, Repair):
        return repair
    if isinstance(repair, str):
        if repair not in NAMED:
            raise ValueError(f"repair: expected a repair, or its name. {describe_unknown([repair], NAMED)}")
        return NAMED[repair]
    if callable(repair):
        return Repair(getattr(repair, "__name__", "own"), repair)
    raise TypeError(
        f"repair: expected one of {', '.join(map(repr, NAMED))}, a Repair or a function, received {repair!r}."
    )
