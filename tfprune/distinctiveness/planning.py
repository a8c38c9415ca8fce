"""The plan of a pruning: a report that prints, and that can be carried out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune.distinctiveness.grouping import Criteria, Readers, Removal
from tfprune.distinctiveness.vectors import SAME_ANGLE
from tfprune.graph import UnitGraph
from tfprune.repair import Channels, Merged, Repair, merge
from tfprune.surgery import remove
from tfprune.ties import rising_order
from tfprune.units import LayerValues

_MOST_ROWS = 40


@dataclass(frozen=True, eq=False)
class Plan:
    """What a distinctiveness pruning takes out. Prints as a table: who goes, to whom its weights go, angle and factor.

    Attributes:
        model: the model that was looked at.
        criteria: the thresholds and the transfer.
        removals: the units that go.
        mask: True = kept, `(units,)` by group name.
        skipped: why nothing goes from a group, by its name.
        held: units that stay although their angle to another one that stays would let one go, by the group's name:
            what reads them could not replace it.
    """

    model: keras.Model = field(repr=False)
    criteria: Criteria
    removals: tuple[Removal, ...]
    mask: LayerValues
    skipped: dict[str, str]
    held: dict[str, tuple[int, ...]]
    _readers: Mapping[str, Readers] = field(repr=False)

    def cut(self) -> keras.Model:
        """Returns the smaller model, as `tfprune.remove` makes it."""
        repair = "zero" if self.criteria.transfer == "none" else self.repair
        return remove(self.model, self.mask, repair=repair)

    @property
    def repair(self) -> Repair:
        """The repair that carries the weights over: the merge repair, with factors for each reader."""
        usual = _transfer(self.removals, self.mask)
        readers = {reader for own in self._readers.values() for reader in own.vectors}
        special = {
            reader: _transfer([self._as_read(own, reader) for own in self.removals], self.mask) for reader in readers
        }

        def guess(channels: Channels) -> tuple[np.ndarray, np.ndarray]:
            return special.get(channels.reader, usual).guess(channels)

        return replace(usual, guess=guess)

    def _as_read(self, own: Removal, reader: str) -> Removal:
        """Returns a removal with factors and offset as they are right for what a reader sees."""
        readers = self._readers[own.group]
        if reader not in readers.vectors or self.criteria.transfer != "exact":
            return own
        seen = readers.seen(reader)
        if not own.partners:
            return replace(own, offset=float(seen.mean[own.unit]) if readers.intercepts[reader] else 0.0)
        factors, offset = seen.stand_in(own.unit, own.partners)
        return replace(own, factors=tuple(factors.tolist()), offset=offset)

    def __repr__(self) -> str:
        before, gone = self.mask.size, len(self.removals)
        table = Table(title=f"Distinctiveness of {self.model.name!r}: {gone} of {before} units go")
        for column in ("group", "unit", "why", "its weights go to", "angle", "factor", "into the bias"):
            table.add_column(column, justify="left" if column in ("group", "why", "its weights go to") else "right")
        for own in self.removals[:_MOST_ROWS]:
            table.add_row(*_row(own, self.criteria.transfer))
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(table)
            if gone > _MOST_ROWS:
                console.print(f"and {gone - _MOST_ROWS} more")
            for name, reason in self.skipped.items():
                console.print(f"{name}: nothing goes, as {reason}.", markup=False)
            for name, units in self.held.items():
                console.print(
                    f"{name}: the units {', '.join(map(str, units))} are near each other and stay, as what reads them "
                    "could not replace one: there is a constant in front of padding, a state that starts at zero, or "
                    "another normalization.",
                    markup=False,
                )
        return capture.get()


def _row(own: Removal, transfer: str) -> list[str]:
    partners = ", ".join(map(str, own.partners))
    goes_to = f"none (cancels with {partners})" if own.both else partners if transfer != "none" else "none"
    return [
        own.group,
        str(own.unit),
        own.reason,
        goes_to if own.partners else "none",
        "" if math.isnan(own.angle) else f"{own.angle:.2f}",
        ", ".join(f"{factor:.4g}" for factor in own.factors) if transfer != "none" else "",
        f"{own.offset:.4g}" if own.offset else "",
    ]


def _transfer(removals: tuple[Removal, ...] | list[Removal], mask: LayerValues) -> Repair:
    """Returns the merge repair for units with one partner or none, with the combinations of several added."""
    pairs, several = [], []
    for own in removals:
        if own.both:
            continue
        if len(own.factors) > 1:
            several.append(own)
        elif own.factors:
            pairs.append(Merged(own.group, own.unit, own.partners[0], own.factors[0], own.offset))
        elif own.offset:
            anyone = int(np.flatnonzero(mask[own.group])[0])
            pairs.append(Merged(own.group, own.unit, anyone, 0.0, own.offset))
    repair = merge(pairs)
    return replace(repair, guess=_with_combinations(repair.guess, several)) if several else repair


def _with_combinations(guess: Callable, several: list[Removal]) -> Callable:
    """Each partner of a combination is a pair by itself; their shares add up."""

    def whole(channels: Channels) -> tuple[np.ndarray, np.ndarray]:
        matrix, offset = guess(channels)
        for own in several:
            for number, (partner, factor) in enumerate(zip(own.partners, own.factors, strict=True)):
                one = merge([Merged(own.group, own.unit, partner, factor, 0.0 if number else own.offset)])
                more, constant = one.guess(channels)
                matrix, offset = matrix + more - channels.selection, offset + constant
        return matrix, offset

    return whole


def balanced(graph: UnitGraph, removals: list[Removal]) -> list[Removal]:
    """Drops removals, the least exact first, where a layer needs equal numbers of two kinds of units."""
    for one, other, _ in graph.records.equal:
        sides = [[own for own in removals if _column(graph, own) in set(graph.columns(ids))] for ids in (one, other)]
        fewer, more = sorted(sides, key=len)
        order = rising_order(np.array([-own.deviation for own in more]), absolute=SAME_ANGLE)
        dropped = [more[number] for number in order[: len(more) - len(fewer)].tolist()]
        removals = [own for own in removals if not any(own is gone for gone in dropped)]
    return removals


def _column(graph: UnitGraph, own: Removal) -> int:
    return graph[own.group].start + own.unit
