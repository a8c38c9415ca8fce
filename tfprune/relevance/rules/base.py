"""A rule: how one kind of step hands the relevance of its output to its inputs.

A step is `linear` (affine, with weights and perhaps a bias), a `nonlinearity` (elementwise), a `maximum`, or a
`product` (bilinear in two tensors). What flows is either a relevance R or a multiplier Q with R = value * Q; a rule's
`flows` says which of them it is made for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

KINDS = ("linear", "nonlinearity", "maximum", "product")


class Rule:
    """Base of all rules.

    Attributes:
        kinds: the kinds of steps that it fits.
        flows: "relevance", "multipliers", or "both".
        needs_baseline: whether it compares with a baseline.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    flows: ClassVar[str] = "both"
    needs_baseline: ClassVar[bool] = False

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """Returns the relevance of each input of `step`, or None where nothing flows.

        Args:
            step: the `Step`: values of its inputs and output, its function, `pulled`, `blame`.
            outgoing: the relevance (or multiplier) of the output, shaped like it.
            multipliers: whether multipliers flow.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Gradient(Rule):
    """The rule of calculus, for every kind of step: R(a_i) = sum_j db_j / da_i R(b_j).

    Reference: Hobson, "Visualizing neural networks, how to blame the bias", tables of rules.
    """

    kinds: ClassVar[tuple[str, ...]] = KINDS

    def back(self, step: Any, outgoing: Any, multipliers: bool) -> list[Any]:
        """See `Rule.back`."""
        step.blame(outgoing)
        return step.pulled(outgoing)
