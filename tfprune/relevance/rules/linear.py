"""Rules for affine steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow as tf

from tfprune.relevance.arithmetic import Offset, divided, negative, positive
from tfprune.relevance.rules.base import Rule


@dataclass(frozen=True, kw_only=True)
class Normalized(Rule):
    """R(a_i) = sum_j a_i w_ij / blip(b_j) R(b_j), with blip(z) = z + epsilon sign(z), sign(0) = 1.

    Args:
        epsilon: keeps the denominator away from zero; what it swallows shows in `.delta`.
        biases: whether each bias is a weight on an input of one, which takes its share and counts in b_j. If False,
            biases are left out of b_j, and the inputs have to explain what a bias did.

    Reference: Hobson, "how to blame the bias" (normalized, solution 1); S. Bach et al. (2015), equation 58.
    """

    epsilon: float = 0.0
    biases: bool = True
    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    flows: ClassVar[str] = "relevance"

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        z = step.output if self.biases or step.offset is None else step.output - step.offset.like(step.output)
        shares = divided(outgoing, z, self.epsilon)
        if self.biases:
            step.blame(shares)
        return [value * share for value, share in zip(step.inputs, step.pulled(shares), strict=True)]


class Term(NamedTuple):
    """One product of (modified) inputs and weights, added with `sign`; None for weights takes a step's own weights."""

    inputs: list[Any]
    weights: list[Any]
    sign: float = 1.0


class Part(NamedTuple):
    """What shares `factor` of the relevance: terms, and what the bias has in it (None for nothing)."""

    terms: list[Term]
    bias: Any
    factor: float = 1.0


@dataclass(frozen=True, kw_only=True)
class WeightRule(Rule):
    """A rule with other inputs or weights in the place of a_i w_ij: R(a_i) = sum_j z_ij / blip(sum_i z_ij) R(b_j).

    A subclass says in `parts` which numbers stand in for inputs, weights and bias; the rest is done here. A step
    without weights (a sum, a mean) counts as one with the weight one in front.

    Args:
        epsilon: keeps the denominator away from zero.
        biases: whether each bias is a weight on an input of one, which takes its share. If False, `parts` is told of no
            bias, and the inputs have to explain what a bias did.
    """

    epsilon: float = 1e-9
    biases: bool = True
    kinds: ClassVar[tuple[str, ...]] = ("linear",)
    flows: ClassVar[str] = "relevance"

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """Returns what shares the relevance; `bias` is None where the step has none, or none is to count."""
        raise NotImplementedError

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        weights = list(step.weights) or [tf.ones([], outgoing.dtype)]
        bias = step.offset.tensor if self.biases and step.offset is not None else None
        totals: list[Any] = [None] * len(step.inputs)
        for part in self.parts(list(step.inputs), weights, bias):
            self._share(part, step, outgoing, totals)
        return totals

    def _share(self, part: Part, step: Any, outgoing: Any, totals: list[Any]) -> None:
        # One tensor may stand in two terms; as copies, each has its own share.
        terms = [Term([tf.identity(x) for x in term.inputs], term.weights, term.sign) for term in part.terms]
        copies = [x for term in terms for x in term.inputs]
        offset = None if part.bias is None else Offset(part.bias, step.offset.axis, step.offset.name)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(copies)
            z = sum(term.sign * step.with_weights(term.inputs, term.weights) for term in terms)
        whole = z if offset is None else z + offset.like(z)
        shares = part.factor * divided(outgoing, whole, self.epsilon)
        if offset is not None:
            step.blame(shares, offset)
        pulled = iter(zip(copies, tape.gradient(z, copies, shares), strict=True))
        for term in terms:
            for number in range(len(term.inputs)):
                value, share = next(pulled)
                own = value * share
                totals[number] = own if totals[number] is None else totals[number] + own


@dataclass(frozen=True, kw_only=True)
class Gamma(WeightRule):
    """Favours positive weights: w + gamma max(w, 0) in the place of w, for inputs of at least zero (after a ReLU).

    Where an input is negative, its weight's negative part is favoured, so that positive contributions always are.

    Reference: G. Montavon et al. (2019), "Layer-wise relevance propagation: an overview", section 10.2.3.
    """

    gamma: float = 0.25

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """See `WeightRule.parts`."""
        favoured = [w + self.gamma * positive(w) for w in weights]
        below = [w + self.gamma * negative(w) for w in weights]
        terms = [Term([positive(x) for x in inputs], favoured), Term([negative(x) for x in inputs], below)]
        return [Part(terms, None if bias is None else bias + self.gamma * positive(bias))]


@dataclass(frozen=True, kw_only=True)
class AlphaBeta(WeightRule):
    """Positive contributions share alpha R(b_j), negative ones minus beta R(b_j); alpha - beta = 1.

    Raises:
        ValueError: if alpha - beta is not 1, or beta is negative.

    Reference: S. Bach et al. (2015), equation 60.
    """

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self):
        if abs(self.alpha - self.beta - 1.0) > 1e-9 or self.beta < 0:
            raise ValueError(
                f"AlphaBeta: expected beta >= 0 and alpha - beta = 1, so that relevance is kept; received "
                f"alpha={self.alpha}, beta={self.beta}. Give for instance alpha=2.0, beta=1.0."
            )

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """See `WeightRule.parts`."""
        up, down = [positive(x) for x in inputs], [negative(x) for x in inputs]
        plus, minus = [positive(w) for w in weights], [negative(w) for w in weights]
        found = [Part([Term(up, plus), Term(down, minus)], None if bias is None else positive(bias), self.alpha)]
        if self.beta:
            bias = None if bias is None else negative(bias)
            found.append(Part([Term(up, minus), Term(down, plus)], bias, -self.beta))
        return found


@dataclass(frozen=True, kw_only=True)
class ZPlus(AlphaBeta):
    """Positive contributions alone share the relevance: alpha-beta with alpha = 1, beta = 0.

    Reference: G. Montavon et al. (2017), "Explaining nonlinear classification decisions with deep Taylor
    decomposition", section 4.1.
    """

    alpha: float = 1.0
    beta: float = 0.0


@dataclass(frozen=True, kw_only=True)
class WSquare(WeightRule):
    """Shares by the squares of the weights alone: w_ij^2 / sum_i w_ij^2; a bias counts as a weight on a one.

    Reference: G. Montavon et al. (2017), section 4.1 (the w^2 rule).
    """

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """See `WeightRule.parts`."""
        squares = None if bias is None else tf.square(bias)
        return [Part([Term([tf.ones_like(x) for x in inputs], [tf.square(w) for w in weights])], squares)]


@dataclass(frozen=True, kw_only=True)
class Flat(WeightRule):
    """Equal shares for all inputs that a weight connects, whatever its size; a bias counts as one more input.

    Reference: S. Lapuschkin et al. (2019), "Unmasking Clever Hans predictors", methods.
    """

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """See `WeightRule.parts`."""
        ones = None if bias is None else tf.ones_like(bias)
        return [Part([Term([tf.ones_like(x) for x in inputs], [tf.ones_like(w) for w in weights])], ones)]


@dataclass(frozen=True, kw_only=True)
class ZBox(WeightRule):
    """For inputs that lie in a box: z_ij = a_i w_ij - low max(w_ij, 0) - high min(w_ij, 0).

    Args:
        low: the least value that an input can take; a number, or numbers that broadcast (as nested tuples).
        high: the greatest.
        biases: whether a bias takes a share too, by what it adds; by itself it takes nothing.

    Raises:
        ValueError: if low is not below high.

    Reference: G. Montavon et al. (2017), section 4.1 (the z^B rule).
    """

    low: float | tuple = 0.0
    high: float | tuple = 1.0
    biases: bool = False

    def __post_init__(self):
        if not np.all(np.asarray(self.low) < np.asarray(self.high)):
            raise ValueError(f"ZBox: expected low below high, received low={self.low!r}, high={self.high!r}.")

    def parts(self, inputs: list[Any], weights: list[Any], bias: Any) -> list[Part]:
        """See `WeightRule.parts`."""
        low = [tf.ones_like(x) * tf.constant(self.low, x.dtype) for x in inputs]
        high = [tf.ones_like(x) * tf.constant(self.high, x.dtype) for x in inputs]
        plus, minus = [positive(w) for w in weights], [negative(w) for w in weights]
        return [Part([Term(inputs, weights), Term(low, plus, -1.0), Term(high, minus, -1.0)], bias)]
