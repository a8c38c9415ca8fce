"""Kinds of groups: those that stand at the same place of blocks of the same sort, and are equally large.

A constructor that says one width for all blocks needs as many units in each of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.ties import rising_order
from tfprune.units import LayerValues

_NUMBER = re.compile(r"\d+")
_LAST_NUMBER = re.compile(r"_\d+$")


def kind_of(name: str) -> str:
    """Returns what groups of a kind have in common: the path below the block, without the numbers that tell them apart.

    `transformer_layer_0/self_attention/query` and `transformer_layer_1/self_attention/query` are of a kind, and so are
    `dense` and `dense_1`.
    """
    *blocks, layer = name.split("/")
    return "/".join([*(_NUMBER.sub("", block) for block in blocks[1:]), _LAST_NUMBER.sub("", layer)])


def kinds_of(sizes: Mapping[str, int]) -> list[list[str]]:
    """Returns the names of the groups, those of a kind and of one size together, in the order of the first of each."""
    found: dict[tuple[str, int], list[str]] = {}
    for name, size in sizes.items():
        found.setdefault((kind_of(name), size), []).append(name)
    return list(found.values())


def check_uniform(uniform: Any, scores: LayerValues) -> None:
    """Raises where units of a kind cannot be counted.

    Raises:
        TypeError: if `uniform` is no bool.
        ValueError: if the scores are of single weights.
    """
    if not isinstance(uniform, bool | np.bool_):
        raise TypeError(f"uniform: expected True or False, received {uniform!r}.")
    weights = [name for name, values in scores.items() if values.ndim > 1]
    if uniform and weights:
        raise ValueError(
            f"uniform: {weights[0]!r} holds scores of single weights, but it is units of which as many stay in each "
            "group of a kind. Give scores of units, or leave uniform=False."
        )


def check_equal_shares(shares: Mapping[str, float], scores: LayerValues) -> None:
    """Raises ValueError if groups of a kind are to lose different fractions."""
    for names in kinds_of({name: values.size for name, values in scores.items()}):
        for name in names:
            if shares[name] != shares[names[0]]:
                raise ValueError(
                    f"uniform: groups {names[0]!r} and {name!r} are of a kind, but a sparsity of {shares[names[0]]:g} "
                    f"and of {shares[name]:g} is given for them. Give one for both, or leave uniform=False."
                )


def ranks_of_kinds(scores: LayerValues) -> list[tuple[list[str], np.ndarray]]:
    """Returns for each kind the names of its groups and what their lowest unit is worth together, their next one, ...

    The mean of units that go at once.
    """
    result = []
    for names in kinds_of({name: values.size for name, values in scores.items()}):
        result.append((names, np.mean([values_in_order(scores[name])[0] for name in names], axis=0)))
    return result


def values_in_order(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns finite scores from the lowest to the highest, and at which positions they are."""
    order = rising_order(values)
    # The mean of infinite ones of either sign would be none.
    return np.clip(values[order].astype("float64"), -1e300, 1e300), order
