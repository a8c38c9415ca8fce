"""The same share of each group, or of all together; what exceeds a threshold; a random subset."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.borders import public
from tfprune.graph import UnitGraph
from tfprune.select.checks import LEAST_SHARE, check_fraction, check_positive, checked_scores, warn_of_thin_groups
from tfprune.select.kinds import check_equal_shares, check_uniform, ranks_of_kinds
from tfprune.ties import rising_order
from tfprune.units import LayerValues, describe_unknown

SCOPES = ("group", "global")


@public
def keep_top(
    scores: LayerValues,
    sparsity: float | Mapping[str, float],
    *,
    scope: str = "group",
    min_units: int = 1,
    round_to: int = 1,
    uniform: bool = False,
) -> LayerValues:
    """Keeps the units, or the weights, with the highest scores.

    With scope "group", `floor(n * sparsity)` of the `n` units of each group go, the lowest scores first. With scope
    "global" so many of all units go, the lowest scores of all groups first: scores must then be comparable between
    groups, as each saliency says of its own. Groups that keep less than a tenth of their units, although more was to
    stay on the whole, are named in a warning. Of equal scores the one that stands first goes first, so that exactly the
    wanted number goes. A kernel of weights counts as a group.

    Args:
        scores: numbers by group name, each `(size of the group,)`, or by kernel, each of the kernel's shape; infinite
            ones are allowed.
        sparsity: the fraction of units that go, from 0 to 1; or one for each group by name, with scope "group": groups
            that it leaves out stay whole.
        scope: "group" or "global".
        min_units: how many units of every group stay at least; a smaller group stays whole. A kernel may lose all its
            weights.
        round_to: the number that stays in a group is rounded up to a multiple of this, but to no more than there are:
            hardware often likes multiples of 8. Fewer units than wanted go then.
        uniform: whether as many units stay in all groups of a kind: those of one size whose names differ in nothing but
            the block, such as all `.../feedforward_intermediate_dense` of a transformer. Constructors that say one
            width for all blocks need it (the form "class" of `remove`). With scope "group" they do anyway, unless
            `sparsity` says otherwise, which is refused; with scope "global" the lowest units of all groups of a kind go
            at once, by their mean score, as long as no more go than wanted.

    Returns:
        The mask: bool in the shapes of the scores, True = kept.

    Raises:
        TypeError: if scores are no numbers.
        ValueError: if a score is NaN, a group is unknown, or an argument is out of its range; if `uniform` is wanted of
            single weights, or of groups of a kind with different fractions.

    Example:
        >>> scores = LayerValues({"first": [0.1, 0.7, 0.2, 0.9], "second": [0.4, 0.3]})
        >>> keep_top(scores, 0.5).flat
        array([False,  True, False,  True,  True, False])
        >>> keep_top(scores, 0.5, scope="global").flat
        array([False,  True, False,  True,  True, False])
        >>> keep_top(scores, {"first": 0.25}).flat
        array([False,  True,  True,  True,  True,  True])
        >>> blocks = LayerValues({"block_0/dense": [0.1, 0.2, 0.3, 0.4], "block_1/dense": [0.5, 0.6, 0.7, 0.8]})
        >>> keep_top(blocks, 0.5, scope="global", uniform=True).flat
        array([False, False,  True,  True, False, False,  True,  True])
    """
    scores = checked_scores(scores)
    shares = _shares(sparsity, scores, scope)
    check_uniform(uniform, scores)
    check_positive(min_units, "min_units")
    check_positive(round_to, "round_to")
    if scope not in SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(map(repr, SCOPES))}, received {scope!r}.")
    sizes = _sizes(scores)
    if scope == "group":
        if uniform:
            check_equal_shares(shares, scores)
        least = _least(scores, min_units)
        kept = {name: size - min(_floor(size * shares[name]), size - least[name]) for name, size in sizes.items()}
    elif uniform:
        kept = _kept_by_kind(scores, min_units, _floor(scores.size * sparsity))
    else:
        goes = _removal_order(scores, min_units)[: _floor(scores.size * sparsity)]
        gone = np.bincount(_group_of_unit(sizes)[goes], minlength=len(sizes))
        kept = {name: size - off for (name, size), off in zip(sizes.items(), gone.tolist(), strict=True)}
    mask = LayerValues({name: _highest(scores[name], round_up(kept[name], round_to)) for name in scores})
    if scope == "global" and sparsity <= 1 - LEAST_SHARE:
        warn_of_thin_groups(mask, f"keep_top: a sparsity of {sparsity:g} over all groups")
    return mask


@public
def keep_above(scores: LayerValues, threshold: float, *, min_units: int = 1) -> LayerValues:
    """Keeps the units, or the weights, whose score is greater than a threshold.

    Args:
        scores: numbers by group name, each `(size of the group,)`, or by kernel, each of the kernel's shape.
        threshold: the score that a unit must exceed, in the unit of the scores.
        min_units: how many units of every group stay at least: the ones with the highest scores. A kernel may lose all
            its weights.

    Returns:
        The mask: bool in the shapes of the scores, True = kept.

    Raises:
        TypeError: if scores are no numbers.
        ValueError: if a score or the threshold is NaN, or `min_units` is no positive integer.

    Example:
        >>> keep_above(LayerValues({"first": [0.1, 0.7, 0.2], "second": [0.05, 0.04]}), 0.15).flat
        array([False,  True,  True,  True, False])
    """
    scores = checked_scores(scores)
    check_positive(min_units, "min_units")
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or math.isnan(threshold):
        raise ValueError(f"threshold: expected a number, received {threshold!r}.")
    least = _least(scores, min_units)
    return LayerValues({name: (values > threshold) | _highest(values, least[name]) for name, values in scores.items()})


@public
def keep_random(
    scores_or_groups: LayerValues | UnitGraph | Mapping[str, int], probability: float, seed: int
) -> LayerValues:
    """Keeps each unit, or weight, with the same probability, independently of the others: a random subset.

    A group that would lose all its units keeps one of them, chosen at random; a kernel may lose all its weights.

    Args:
        scores_or_groups: what says which groups there are: scores, a `UnitGraph`, or sizes by group name. Scores by
            kernel give a mask in the kernels' shapes.
        probability: the chance of a unit to be kept, from 0 to 1.
        seed: an integer; the same seed gives the same mask.

    Returns:
        The mask: bool by group name, True = kept.

    Raises:
        TypeError: if `scores_or_groups` is none of these, or the seed no integer.
        ValueError: if the probability is not from 0 to 1, or a size is not positive.

    Example:
        >>> keep_random({"first": 4, "second": 2}, 0.5, seed=0)
        LayerValues: 2 names, 6 values
          name    shape  dtype  true / total
          first   (4,)   bool          3 / 4
          second  (2,)   bool          1 / 2
    """
    shapes = _shapes_of_any(scores_or_groups)
    check_fraction(probability, "probability")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral):
        raise TypeError(f"seed: expected an integer, received {seed!r}.")
    generator = np.random.default_rng(int(seed))
    mask = {}
    for name, shape in shapes.items():
        size = math.prod(shape)
        on, spare = generator.random(size) < probability, generator.integers(size)
        on[spare] |= len(shape) == 1 and not on.any()
        mask[name] = on.reshape(shape)
    return LayerValues(mask)


def _shares(sparsity: Any, scores: LayerValues, scope: Any) -> dict[str, float]:
    """Returns which fraction of each group goes."""
    if not isinstance(sparsity, Mapping):
        check_fraction(sparsity, "sparsity")
        return dict.fromkeys(scores, sparsity)
    if scope == "global":
        raise ValueError("sparsity: a fraction for each group needs scope='group'; scope='global' takes one number.")
    unknown = [name for name in sparsity if name not in scores]
    if unknown:
        raise ValueError(f"sparsity: there are no scores of these groups. {describe_unknown(unknown, scores)}")
    for name, share in sparsity.items():
        check_fraction(share, f"sparsity: group {name!r}")
    return {name: sparsity.get(name, 0.0) for name in scores}


def _removal_order(scores: LayerValues, min_units: int) -> np.ndarray:
    """Returns the positions of all units that may go, the lowest scores first."""
    sizes = _sizes(scores)
    order = _rising(scores.flat, units=all(values.ndim == 1 for values in scores.values()))
    group_of = _group_of_unit(sizes)[order]
    # How many units of the same group go before this one.
    by_group = np.argsort(group_of, kind="stable")
    starts = np.cumsum([0, *sizes.values()])[:-1]
    before = np.empty(len(order), int)
    before[by_group] = np.arange(len(order)) - starts[group_of[by_group]]
    may_go = [size - least for size, least in zip(sizes.values(), _least(scores, min_units).values(), strict=True)]
    return order[before < np.array(may_go)[group_of]]


def _kept_by_kind(scores: LayerValues, min_units: int, most: int) -> dict[str, int]:
    """Returns how many units of each group stay, as many in all of a kind, if at most `most` of all go."""
    kinds = ranks_of_kinds(scores)
    values, kind_of_step = [], []
    for number, (_, own) in enumerate(kinds):
        may_go = max(0, len(own) - min_units)
        values.extend(own[:may_go])
        kind_of_step.extend([number] * may_go)
    gone, steps = 0, [0] * len(kinds)
    for place in rising_order(np.array(values)).tolist():
        number = kind_of_step[place]
        if gone + len(kinds[number][0]) > most:
            break
        gone, steps[number] = gone + len(kinds[number][0]), steps[number] + 1
    return {name: len(scores[name]) - steps[k] for k, (names, _) in enumerate(kinds) for name in names}


def _group_of_unit(sizes: dict[str, int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), list(sizes.values()))


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns which of `values` are the `count` highest; of equal ones the first goes first."""
    on = np.ones(values.size, bool)
    on[_rising(values.ravel(), units=values.ndim == 1)[: max(0, values.size - count)]] = False
    return on.reshape(values.shape)


def _floor(number: float) -> int:
    # 0.29 * 100 is a little less than 29 in floating point.
    return math.floor(number + 1e-9)


def round_up(count: int, multiple: int) -> int:
    """Returns the least multiple that is no less than `count`."""
    return -(-count // multiple) * multiple


def _sizes(scores: LayerValues) -> dict[str, int]:
    return {name: values.size for name, values in scores.items()}


def _least(scores: LayerValues, min_units: int) -> dict[str, int]:
    """Returns how many must stay: of units `min_units`, of the weights of a kernel (two axes or more) none."""
    return {name: min_units if values.ndim == 1 else 0 for name, values in scores.items()}


def _shapes_of_any(given: Any) -> dict[str, tuple[int, ...]]:
    if isinstance(given, UnitGraph):
        return {name: (size,) for name, size in given.sizes.items()}
    if isinstance(given, LayerValues):
        return checked_scores(given, any_dtype=True).shapes
    if not isinstance(given, Mapping):
        raise TypeError(
            f"scores_or_groups: expected LayerValues, a UnitGraph or sizes by group name, received "
            f"{type(given).__name__}. tfprune.unit_groups(model) gives a UnitGraph."
        )
    for name, size in given.items():
        check_positive(size, f"scores_or_groups: the size of group {name!r}")
    return {name: (int(size),) for name, size in given.items()}


def _rising(values: np.ndarray, *, units: bool) -> np.ndarray:
    """Returns the positions from the lowest to the highest; of equal ones the first comes first.

    Of single weights there are so many that two differ by a millionth by chance; there equal is what is the same.
    """
    return rising_order(values) if units else np.argsort(values, kind="stable")
