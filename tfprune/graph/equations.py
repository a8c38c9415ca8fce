"""Products of tensors as equations: the letter of every axis."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras.src.ops import numpy


def letters_of(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Returns the letters of each operand and of the result; those that an ellipsis stands for are capitals from "A".

    Args:
        equation: as `ops.einsum` takes it; without an arrow the result has every letter that occurs once, sorted.
        ranks: how many axes each operand has.

    Raises:
        ValueError: if it does not fit the operands.
    """
    left, arrow, target = equation.replace(" ", "").partition("->")
    parts = left.split(",")
    if len(parts) != len(ranks):
        raise ValueError(f"the equation {equation!r} is for {len(parts)} operands, received {len(ranks)}.")
    free = [letter for letter in string.ascii_uppercase if letter not in equation]
    counts = [
        rank - len(part.replace("...", "")) if "..." in part else 0 for part, rank in zip(parts, ranks, strict=True)
    ]
    hidden = "".join(free[: max(counts)])
    # An ellipsis is aligned at its end.
    written = [part.replace("...", hidden[len(hidden) - count :]) for part, count in zip(parts, counts, strict=True)]
    if any(len(part) != rank for part, rank in zip(written, ranks, strict=True)):
        raise ValueError(f"the equation {equation!r} does not fit operands of the ranks {list(ranks)}.")
    if not arrow:
        every = "".join(parts).replace("...", "")
        target = ("..." if hidden else "") + "".join(sorted(own for own in set(every) if every.count(own) == 1))
    return written, target.replace("...", hidden)


def product_letters(operation: Any, ranks: Sequence[int]) -> tuple[list[str], str] | None:
    """Returns the letters of a product's operands and of its result, or None if it is no product that letters tell.

    Args:
        operation: of `ops.einsum`, `matmul`, `dot`, `inner` or `tensordot`.
        ranks: how many axes each operand has.
    """
    if isinstance(operation, numpy.Einsum):
        return letters_of(operation.subscripts, ranks)
    if min(ranks) == 0:
        return None
    first, second = string.ascii_lowercase[: ranks[0]], string.ascii_uppercase[: ranks[1]]
    if isinstance(operation, numpy.Matmul):
        return _matmul_letters(*ranks)
    if isinstance(operation, numpy.Tensordot):
        axes = operation.axes
        if isinstance(axes, int):
            axes = [list(range(ranks[0] - axes, ranks[0])), list(range(axes))]
        pairs = list(zip(*(np.atleast_1d(own).tolist() for own in axes), strict=True))
    else:
        # Dot takes the last axis but one of its second operand, Inner the last.
        inner = hasattr(numpy, "Inner") and isinstance(operation, numpy.Inner)
        pairs = [(-1, -1 if inner or ranks[1] == 1 else -2)]
    summed = {second[there]: first[here] for here, there in pairs}
    target = [own for own in first if own not in summed.values()] + [own for own in second if own not in summed]
    return [first, "".join(summed.get(own, own) for own in second)], "".join(target)


def _matmul_letters(one: int, other: int) -> tuple[list[str], str]:
    hidden = string.ascii_uppercase[: max(one, other, 2) - 2]
    fronts = [hidden[len(hidden) - max(rank - 2, 0) :] for rank in (one, other)]
    left, right = "i" * (one > 1), "j" * (other > 1)
    return [f"{fronts[0]}{left}k", f"{fronts[1]}k{right}"], f"{hidden}{left}{right}"
