"""Who goes, and who stands in for it: decided on the vectors of one group, without a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from tfprune.distinctiveness.vectors import SAME_ANGLE, Vectors
from tfprune.ties import first_lowest, rising_order

TRANSFERS = ("exact", "gedeon", "none")
# Offsets up to this share of a vector's length are rounding.
_NO_OFFSET = 1e-5
# Shares of a squared length that differ by less are equal.
_NO_SHARE = 1e-9


@dataclass(frozen=True)
class Criteria:
    """When units go.

    Attributes:
        similar: angle in degrees below which two units are similar.
        complementary: angle above which they are complementary.
        tolerance: a vector shorter than this share of its group's longest is insignificant; a unit whose standard
            deviation is below this share of its vector's length is constant.
        groups_of: up to how many units may cancel, or sum to a constant, together; 2 looks at pairs only.
        transfer: "exact", "gedeon" or "none".
    """

    similar: float = 15.0
    complementary: float = 165.0
    tolerance: float = 1e-3
    groups_of: int = 2
    transfer: str = "exact"

    @property
    def limit(self) -> float:
        """The largest share of a vector's length that may get lost when others stand in for it."""
        return float(np.sin(np.radians(max(min(self.similar, 90.0), 180.0 - max(self.complementary, 90.0)))))


@dataclass(frozen=True)
class Removal:
    """One unit that goes.

    Attributes:
        group: the group's name.
        unit: its place in the group.
        reason: "similar", "complementary", "insignificant", "constant" or "combination".
        partners: the places of the units that stand in for it, or with which it cancels; none if it is not needed.
        angle: to its partner, or to the best combination of its partners, in degrees; NaN without a partner.
        factors: what each partner is multiplied with.
        offset: what goes into the bias.
        both: whether the partners go too, as they cancel.
    """

    group: str
    unit: int
    reason: str
    partners: tuple[int, ...] = ()
    angle: float = float("nan")
    factors: tuple[float, ...] = ()
    offset: float = 0.0
    both: bool = False

    @property
    def deviation(self) -> float:
        """How far it is from exact, in degrees."""
        return min(self.angle, 180.0 - self.angle) if self.partners else 0.0


@dataclass(frozen=True, eq=False)
class Readers:
    """How the units of a group are read.

    Attributes:
        vectors: what readers see that do not simply read the units as they show, by name, around zero.
        constants: for each unit, whether a constant in its place can go into biases and do the same, `(units,)`.
        intercepts: for each of `vectors`, whether its reader takes a constant.
    """

    vectors: Mapping[str, Vectors]
    constants: np.ndarray
    intercepts: Mapping[str, bool]

    def seen(self, reader: str) -> Vectors:
        """Returns the vectors that a reader sees, around what it can correct for."""
        own = self.vectors[reader]
        return own.around(own.mean) if self.intercepts[reader] else own


def removals(
    name: str, vectors: Vectors, readers: Readers, criteria: Criteria, angles: np.ndarray | None = None
) -> list[Removal]:
    """Decides for one group. At least one unit stays.

    Units that do nothing go first, then those that are constant, then the similar and complementary ones: again and
    again the unit that stands in for most others becomes one to keep, and each of the others goes to the nearest kept
    one. So every angle is one to a unit that is kept, and a kept one never goes.
    """
    exact = criteria.transfer == "exact"
    left = np.ones(len(vectors.mean), bool)
    found = _idle(name, vectors, readers, criteria, left)
    own = vectors.angles() if angles is None else angles
    near = np.outer(vectors.lengths > 0, vectors.lengths > 0) & (own < criteria.similar)
    opposite = np.outer(vectors.lengths > 0, vectors.lengths > 0) & (own > criteria.complementary)
    if exact:
        fits = (near | opposite) & _may_stand_in(vectors, readers, criteria.limit if angles is None else np.inf)
        found += _merged(name, own, vectors, fits, left)
    else:
        found += [replace(gone, factors=(1.0,), offset=0.0) for gone in _merged(name, own, vectors, near, left)]
        # What has taken over the weights of others stays.
        free = left.copy()
        free[[partner for gone in found for partner in gone.partners]] = False
        found += _cancelled(name, own, opposite & np.outer(free, free), left)
    if criteria.groups_of > 2:
        found += _combined(name, vectors, readers, criteria, left, {p for gone in found for p in gone.partners})
    return _leave_one(vectors, found)


def _idle(name: str, vectors: Vectors, readers: Readers, criteria: Criteria, left: np.ndarray) -> list[Removal]:
    """Takes out the units that do nothing, or always the same."""
    lengths, deviations = vectors.lengths, vectors.deviations
    short = lengths <= criteria.tolerance * lengths.max()
    constant = ~short & (deviations <= criteria.tolerance * lengths)
    found = []
    for unit in np.flatnonzero(short | constant).tolist():
        # Under "exact" a short vector is a constant too: the centre of its activation.
        mean = float(vectors.mean[unit])
        offset = 0.0 if short[unit] and criteria.transfer != "exact" else mean
        stays = abs(mean) > _NO_OFFSET * lengths.max() and not readers.constants[unit]
        stays |= not all(_constant_at(own, unit, criteria) for own in readers.vectors.values())
        if stays and criteria.transfer == "exact":
            continue
        found.append(Removal(name, unit, "insignificant" if short[unit] else "constant", offset=offset))
        left[unit] = False
    return found


def _constant_at(seen: Vectors, unit: int, criteria: Criteria) -> bool:
    return bool(seen.deviations[unit] <= criteria.tolerance * seen.lengths.max())


def _may_stand_in(vectors: Vectors, readers: Readers, limit: float) -> np.ndarray:
    """Returns whether unit i (row) can stand in for unit j (column), at all places where they are read."""
    needs_constant = np.abs(vectors.offsets()) > _NO_OFFSET * vectors.lengths[None, :]
    fits = ~needs_constant | readers.constants[None, :]
    for reader in readers.vectors:
        seen = readers.seen(reader)
        squares = seen.lengths**2
        lost = squares[None, :] - seen.factors() ** 2 * squares[:, None]
        fits &= lost <= (limit**2 + 1e-9) * readers.vectors[reader].lengths[None, :] ** 2
    return fits


def _merged(name: str, angles: np.ndarray, vectors: Vectors, fits: np.ndarray, left: np.ndarray) -> list[Removal]:
    """Chooses the units to keep, and gives every other one that fits to the nearest of them."""
    fits = fits & np.outer(left, left)
    np.fill_diagonal(fits, False)
    open_, kept = left.copy(), []
    deviations = np.minimum(angles, 180.0 - angles)
    while True:
        counts = np.where(open_, (fits & open_[None, :]).sum(axis=1), 0)
        if not counts.any():
            break
        # Of those with most partners the longest, and of those the first.
        most = np.flatnonzero(counts == counts.max())
        best = int(most[first_lowest(-vectors.lengths[most])])
        kept.append(best)
        open_ &= ~fits[best]
        open_[best] = False
    found = []
    factors, offsets = vectors.factors(), vectors.offsets()
    for unit in np.flatnonzero(left & ~np.isin(np.arange(len(left)), kept)).tolist():
        own = [k for k in kept if fits[k, unit]]
        if not own:
            continue
        partner = own[first_lowest(deviations[own, unit], absolute=SAME_ANGLE)]
        angle, offset = float(angles[partner, unit]), float(offsets[partner, unit])
        offset = offset if abs(offset) > 1e-9 * vectors.lengths[unit] else 0.0
        reason = "similar" if angle < 90 else "complementary"
        found.append(Removal(name, unit, reason, (partner,), angle, (float(factors[partner, unit]),), offset))
        left[unit] = False
    return found


def _cancelled(name: str, angles: np.ndarray, fits: np.ndarray, left: np.ndarray) -> list[Removal]:
    """Takes both units of complementary pairs out, the most opposite first, each unit once."""
    angles = np.where(np.triu(fits, 1) & np.outer(left, left), angles, -1.0)
    found = []
    for flat in rising_order(-angles.ravel(), absolute=SAME_ANGLE):
        one, other = np.unravel_index(flat, angles.shape)
        if angles[one, other] < 0:
            break
        if left[one] and left[other]:
            left[one] = left[other] = False
            for unit, partner in ((int(one), int(other)), (int(other), int(one))):
                found.append(Removal(name, unit, "complementary", (partner,), float(angles[one, other]), both=True))
    return found


def _combined(
    name: str, vectors: Vectors, readers: Readers, criteria: Criteria, left: np.ndarray, leaned_on: set[int]
) -> list[Removal]:
    """Takes out units that a few kept ones together make up, the nearest first."""
    found, tried = [], np.zeros(len(left), bool)
    seen = vectors.around(vectors.mean)
    while True:
        free = [u for u in np.flatnonzero(left & ~tried).tolist() if u not in leaned_on]
        best = [(own[1], unit, own[0]) for unit in free if (own := _best_pair(seen, unit, left)) is not None]
        taken = False
        for number in rising_order(np.array([rest for rest, _, _ in best]), absolute=_NO_SHARE).tolist():
            _, unit, pair = best[number]
            own = _combination(name, vectors, readers, criteria, unit, pair, left)
            if own is None:
                tried[unit] = True
                continue
            members = (unit, *own.partners) if own.both else (unit,)
            if own.both and leaned_on & set(members):
                tried[unit] = True
                continue
            left[list(members)] = False
            leaned_on |= set() if own.both else set(own.partners)
            found += [own] if not own.both else [_member(own, member, members) for member in members]
            taken = True
            break
        if not taken:
            return found


def _member(own: Removal, unit: int, members: tuple[int, ...]) -> Removal:
    others = tuple(other for other in members if other != unit)
    return Removal(own.group, unit, own.reason, others, own.angle, both=True)


def _best_pair(seen: Vectors, unit: int, left: np.ndarray) -> tuple[tuple[int, int], float] | None:
    """Returns the two kept units that a unit depends on most, by its correlation with both, and what is left over.

    For two regressors with correlations a and b with the unit, and c with each other, the explained share is
    `(a^2 + b^2 - 2 a b c) / (1 - c^2)`.
    """
    others = np.flatnonzero(left & (seen.lengths > 0))
    others = others[others != unit]
    if len(others) < 2 or seen.lengths[unit] == 0:
        return None
    lengths = seen.lengths[others]
    a = seen.products[others, unit] / (lengths * seen.lengths[unit])
    c = seen.products[np.ix_(others, others)] / np.outer(lengths, lengths)
    free = 1 - c**2
    share = np.divide(
        a[:, None] ** 2 + a[None, :] ** 2 - 2 * np.outer(a, a) * c, free, out=np.full_like(c, -1.0), where=free > 1e-9
    )
    one, other = np.unravel_index(first_lowest(-share.ravel(), absolute=_NO_SHARE), share.shape)
    return (int(others[one]), int(others[other])), float(1 - share[one, other])


def _combination(
    name: str,
    vectors: Vectors,
    readers: Readers,
    criteria: Criteria,
    unit: int,
    pair: tuple[int, int],
    left: np.ndarray,
) -> Removal | None:
    """Extends a pair until its combination comes near enough, or it is as large as is allowed."""
    exact = criteria.transfer == "exact"
    seen = vectors.around(vectors.mean) if readers.constants[unit] or not exact else vectors
    chosen = list(pair)
    while True:
        factors, offset = seen.stand_in(unit, chosen)
        if not exact:
            # The source's groups cancel as they are: their vectors sum to a constant.
            factors, offset = -np.ones(len(chosen)), 0.0
        lost = _lost(seen, unit, chosen, factors)
        near = lost <= criteria.limit * seen.lengths[unit]
        if near and (
            not exact or all(_holds_at(readers, reader, unit, chosen, criteria) for reader in readers.vectors)
        ):
            angle = float(np.degrees(np.arcsin(min(1.0, lost / seen.lengths[unit]))))
            factors = tuple(factors.tolist()) if exact else ()
            return Removal(name, unit, "combination", tuple(chosen), angle, factors, offset, both=not exact)
        if len(chosen) + 1 >= criteria.groups_of:
            return None
        spare = [u for u in np.flatnonzero(left).tolist() if u != unit and u not in chosen]
        if not spare:
            return None
        lost = np.array([_lost(seen, unit, [*chosen, other], None) for other in spare])
        chosen.append(spare[first_lowest(lost, absolute=_NO_OFFSET * float(seen.lengths[unit]))])


def _lost(vectors: Vectors, unit: int, partners: list[int], factors: np.ndarray | None) -> float:
    """Returns the length of what partners leave of a unit's vector."""
    factors = vectors.stand_in(unit, partners)[0] if factors is None else factors
    weights = np.concatenate([[1.0], -factors])
    own = [unit, *partners]
    return float(np.sqrt(max(weights @ vectors.products[np.ix_(own, own)] @ weights, 0.0)))


def _holds_at(readers: Readers, reader: str, unit: int, partners: list[int], criteria: Criteria) -> bool:
    seen = readers.seen(reader)
    return _lost(seen, unit, partners, None) <= (criteria.limit + 1e-6) * readers.vectors[reader].lengths[unit]


def _leave_one(vectors: Vectors, found: list[Removal]) -> list[Removal]:
    """Drops the removal of the unit with the longest vector if none would stay."""
    if len(found) < len(vectors.mean):
        return found
    longest = first_lowest(-vectors.lengths)
    return [own for own in found if own.unit != longest]
