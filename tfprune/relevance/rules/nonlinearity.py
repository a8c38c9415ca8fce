"""Rules for activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tfprune.relevance.arithmetic import divided, positive, quotient
from tfprune.relevance.rules.base import Rule


@dataclass(frozen=True)
class Ignore(Rule):
    """R(a) = R(b). Where f(0) is not 0, it counts as a bias: R(a) = (b - f(0)) / b R(b), and the bias takes the rest.

    Reference: Hobson, "how to blame the bias" (ignore).
    """

    kinds: ClassVar[tuple[str, ...]] = ("nonlinearity",)
    flows: ClassVar[str] = "relevance"

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        offset = step.offset_at_zero()
        if offset is None:
            return [outgoing]
        shares = divided(outgoing, step.output, 0.0)
        step.blame(shares, offset)
        return [shares * (step.output - offset.like(step.output))]


@dataclass(frozen=True)
class Slope(Rule):
    """Q(a) = (b - f(0)) / a Q(b); at a = 0 the limit f'(0). f(0) counts as a bias.

    Reference: Hobson, "how to blame the bias" (slope; the Q form).
    """

    kinds: ClassVar[tuple[str, ...]] = ("nonlinearity",)

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        if step.homogeneous:
            # b / a is f'(a) where f(c a) = c f(a), and no number is divided.
            return step.pulled(outgoing)
        offset = step.offset_at_zero()
        (a,), b = step.inputs, step.output
        if offset is not None:
            step.blame(outgoing, offset)
            b = b - offset.like(b)
        return [outgoing * quotient(b, a, step.slope_at(0.5 * a))]


@dataclass(frozen=True)
class Repeat(Rule):
    """R(a) = f(R(b)): the nonlinearity once more, on the way back. Not linear in R.

    Reference: Hobson, "how to blame the bias" (repeat); M. Zeiler, R. Fergus (2014), the deconvolution method.
    """

    kinds: ClassVar[tuple[str, ...]] = ("nonlinearity",)

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        return [step.function(outgoing)]


@dataclass(frozen=True)
class Guided(Rule):
    """R(a) = f'(a) max(R(b), 0): the gradient, where it is positive.

    Reference: J. Springenberg et al. (2015), "Striving for simplicity" (guided backpropagation).
    """

    kinds: ClassVar[tuple[str, ...]] = ("nonlinearity",)

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        return step.pulled(positive(outgoing))


@dataclass(frozen=True)
class SlopeOfDifferences(Rule):
    """Q(a) = (b - b0) / (a - a0) Q(b), with a0 and b0 at the baseline; where a = a0 the limit f'(a).

    Reference: Hobson, "how to blame the bias" (solution 2); A. Shrikumar et al. (2017), the rescale rule.
    """

    kinds: ClassVar[tuple[str, ...]] = ("nonlinearity",)
    flows: ClassVar[str] = "multipliers"
    needs_baseline: ClassVar[bool] = True

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        (a,), (a0,) = step.inputs, step.references
        slope = quotient(
            step.output - step.reference, a - a0, step.slope_at(0.5 * (a + a0)), piecewise=step.homogeneous
        )
        return [outgoing * slope]
