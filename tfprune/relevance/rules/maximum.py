"""Rules for maxima and products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import tensorflow as tf

from tfprune.relevance.arithmetic import divided, positive, pulled_back, quotient, where
from tfprune.relevance.rules.base import Rule


@dataclass(frozen=True)
class Radial(Rule):
    """Shares that treat zero as special: positive entries by their size, and if all are negative by 1 / size.

    If the maximum is positive, s_i = max(a_i, 0) / sum_j max(a_j, 0); otherwise s_i = (1 / a_i) / sum_j (1 / a_j).
    R(a_i) = s_i R(b); for multipliers Q(a_i) = s_i b / a_i Q(b), which is the same with R = a Q.

    Reference: Hobson, "how to blame the bias" (maximum, radial).
    """

    kinds: ClassVar[tuple[str, ...]] = ("maximum",)

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        entries, valid = step.entries()
        most = tf.reduce_max(where(valid, entries, entries.dtype.min), axis=-1, keepdims=True)
        up = where(valid, positive(entries), 0.0)
        below = valid & (entries < 0)
        inverse = where(below, 1.0 / where(below, entries, -1.0), 0.0)
        # A maximum of exactly zero is the limit of negative ones: all to the entries that are zero.
        at_zero = tf.cast(valid & (entries == 0), entries.dtype)
        sizes = where(most > 0, up, where(most < 0, inverse, at_zero))
        shares = sizes / tf.reduce_sum(sizes, axis=-1, keepdims=True)
        if multipliers:
            nonzero = entries != 0
            ratio = where(nonzero, most / where(nonzero, entries, 1.0), 1.0)
            shares = shares * where(valid, ratio, 0.0)
        return step.scattered(shares * outgoing[..., None])


@dataclass(frozen=True)
class LargerMaximum(Rule):
    """The whole difference m - m0 to the entry that holds the larger of the two maxima: Q = (m - m0) / (a_i - a0_i).

    It is the limit of the soft maximum as its softness goes to zero.

    Reference: Hobson, "how to blame the bias" (solution 2, the first way to take a maximum).
    """

    kinds: ClassVar[tuple[str, ...]] = ("maximum",)
    flows: ClassVar[str] = "multipliers"
    needs_baseline: ClassVar[bool] = True

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        rise = step.output - step.reference
        part = outgoing * rise
        up = step.pulled(where(rise >= 0, part, 0.0))
        references = [r + tf.zeros_like(x) for r, x in zip(step.references, step.inputs, strict=True)]
        down = pulled_back(step.function, references, where(rise < 0, part, 0.0))
        limits = step.pulled(outgoing)
        return [
            quotient(one + other, x - r, limit, piecewise=True)
            for one, other, x, r, limit in zip(up, down, step.inputs, references, limits, strict=True)
        ]


@dataclass(frozen=True)
class FoldedMaximum(Rule):
    """max(a, b) = a + relu(b - a), entry after entry, with the slope of differences for each relu.

    The shares hang on the order of the entries (row by row through a pooling window).

    Reference: Hobson, "how to blame the bias" (solution 2, the second way to take a maximum).
    """

    kinds: ClassVar[tuple[str, ...]] = ("maximum",)
    flows: ClassVar[str] = "multipliers"
    needs_baseline: ClassVar[bool] = True

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        (entries, valid), (reference, _) = step.entries(), step.entries(baseline=True)
        known = valid[..., 0] & tf.ones_like(entries[..., 0], dtype="bool")
        most, most0 = entries[..., 0], reference[..., 0]
        slopes = [tf.ones_like(most)]
        for k in range(1, entries.shape[-1]):
            gap, gap0 = entries[..., k] - most, reference[..., k] - most0
            middle = tf.cast(gap + gap0 > 0, gap.dtype)
            slope = quotient(positive(gap) - positive(gap0), gap - gap0, middle, piecewise=True)
            own = valid[..., k]
            slopes.append(where(own, where(known, slope, 1.0), 0.0))
            most = where(own & (~known | (entries[..., k] > most)), entries[..., k], most)
            most0 = where(own & (~known | (reference[..., k] > most0)), reference[..., k], most0)
            known = known | own
        left, shares = outgoing, []
        for slope in reversed(slopes):
            shares.append(left * slope)
            left = left * (1.0 - slope)
        return step.scattered(tf.stack(shares[::-1], axis=-1))


# Products -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class SignalTakesAll(Rule):
    """The factor that carries the signal takes all, a gate is as given; where none is the signal, each takes half.

    Gates of recurrent layers, weights of attention and the divisor of a normalisation are gates; the factors of a
    Multiply layer are equals.

    Args:
        signal: which factor is the signal (0 or 1) where a step does not say so itself; None gives equal shares.
        epsilon: keeps denominators from zero where relevances flow.

    Reference: L. Arras et al. (2017), "Explaining recurrent neural network predictions in sentiment analysis", 2.2.
    """

    signal: int | None = None
    epsilon: float = 0.0
    kinds: ClassVar[tuple[str, ...]] = ("product",)

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        signal = self.signal if step.signal is None else step.signal
        pulled = step.pulled(outgoing if multipliers else divided(outgoing, step.output, self.epsilon))
        if not multipliers:
            pulled = [value * share for value, share in zip(step.inputs, pulled, strict=True)]
        if signal is None:
            return [0.5 * share for share in pulled]
        return [share if number == signal else None for number, share in enumerate(pulled)]


@dataclass(frozen=True)
class ProductOfDifferences(Rule):
    """Q(a) = (b + b0) / 2 Q, Q(b) = (a + a0) / 2 Q: together they explain ab - a0 b0 exactly.

    Reference: L. Shapley (1953); S. Lundberg, S. Lee (2017), "A unified approach to interpreting model predictions".
    """

    kinds: ClassVar[tuple[str, ...]] = ("product",)
    flows: ClassVar[str] = "multipliers"
    needs_baseline: ClassVar[bool] = True

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        return pulled_back(
            step.function, [0.5 * (x + r) for x, r in zip(step.inputs, step.references, strict=True)], outgoing
        )
