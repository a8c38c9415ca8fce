"""From scores to masks: which units, or weights, are kept. A mask is a `LayerValues` of bool, True = on = kept."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.flops import Costs, guessed_flops
from tfprune.units import LayerValues, check_like

SCOPES = ("group", "global")
_HIGHEST = 1e300


def keep_top(
    scores: LayerValues, sparsity: float, *, scope: str = "group", min_units: int = 1, round_to: int = 1
) -> LayerValues:
    """Keeps the units, or the weights, with the highest scores.

    With scope "group", `floor(n * sparsity)` of the `n` units of each group go, the lowest scores first. With scope
    "global" so many of all units go, the lowest scores of all groups first: scores must then be comparable between
    groups. Of equal scores the one that stands first goes first, so that exactly the wanted number goes. A kernel of
    weights counts as a group.

    Args:
        scores: numbers by group name, each `(size of the group,)`, or by kernel, each of the kernel's shape; infinite
            ones are allowed.
        sparsity: the fraction of units that go, from 0 to 1.
        scope: "group" or "global".
        min_units: how many units of every group stay at least; a smaller group stays whole. A kernel may lose all its
            weights.
        round_to: the number that stays in a group is rounded up to a multiple of this, but to no more than there are:
            hardware often likes multiples of 8. Fewer units than wanted go then.

    Returns:
        The mask: bool in the shapes of the scores, True = kept.

    Raises:
        TypeError: if scores are no numbers.
        ValueError: if a score is NaN, or an argument is out of its range.

    Example:
        >>> scores = LayerValues({"first": [0.1, 0.7, 0.2, 0.9], "second": [0.4, 0.3]})
        >>> keep_top(scores, 0.5).flat
        array([False,  True, False,  True,  True, False])
        >>> keep_top(scores, 0.5, scope="global").flat
        array([False,  True, False,  True,  True, False])
    """
    scores = _checked_scores(scores)
    _check_fraction(sparsity, "sparsity")
    _check_positive(min_units, "min_units")
    _check_positive(round_to, "round_to")
    if scope not in SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(map(repr, SCOPES))}, received {scope!r}.")
    sizes = _sizes(scores)
    if scope == "group":
        least = _least(scores, min_units)
        kept = {name: size - min(_floor(size * sparsity), size - least[name]) for name, size in sizes.items()}
    else:
        goes = _removal_order(scores, min_units)[: _floor(scores.size * sparsity)]
        gone = np.bincount(_group_of_unit(sizes)[goes], minlength=len(sizes))
        kept = {name: size - off for (name, size), off in zip(sizes.items(), gone.tolist(), strict=True)}
    return LayerValues({name: _highest(scores[name], _up(kept[name], round_to)) for name in scores})


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
    scores = _checked_scores(scores)
    _check_positive(min_units, "min_units")
    if isinstance(threshold, bool) or not isinstance(threshold, numbers.Real) or math.isnan(threshold):
        raise ValueError(f"threshold: expected a number, received {threshold!r}.")
    least = _least(scores, min_units)
    return LayerValues({name: (values > threshold) | _highest(values, least[name]) for name, values in scores.items()})


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
    _check_fraction(probability, "probability")
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


def keep_budget(
    model: keras.Model,
    scores: LayerValues,
    *,
    parameters: float | None = None,
    flops: float | None = None,
    min_units: int = 1,
) -> LayerValues:
    """Takes the units with the lowest scores of all groups away until the model fits into a budget.

    What would be left is counted exactly, without building a model, so the result lies below the budget by no more
    than the last unit is worth. Scores must be comparable between groups. Where a layer needs equal numbers of two
    kinds of units (the directions of a Bidirectional), those go in pairs, the lowest with the lowest, by their mean
    score.

    Args:
        model: a Sequential or functional model.
        scores: numbers by group name, each `(size of the group,)`; groups without scores stay whole.
        parameters: the share of the model's parameters that may stay, such as 0.5.
        flops: the share of its floating-point operations that may stay. If both are given, both are met.
        min_units: how many units of every group stay at least.

    Returns:
        The mask of the groups that have scores: bool by group name, True = kept.

    Raises:
        TypeError: if scores are no numbers, or `model` is no Keras model.
        ValueError: if no budget is given or a share is not above 0 and at most 1; if scores do not fit the model; if
            the budget cannot be reached; if FLOPs are wanted of a model that leaves lengths open.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, name="hidden"), keras.layers.Dense(2)])
        >>> keep_budget(net, LayerValues({"hidden": np.arange(20.0)}), parameters=0.5)["hidden"].sum()
        9
    """
    scores = _checked_scores(scores)
    _check_positive(min_units, "min_units")
    wanted = {"parameters": parameters, "flops": flops}
    _check_shares(wanted)
    graph = unit_groups(model)
    # Infinite scores are allowed, so that only names and lengths are checked here.
    check_like(scores.map(np.isfinite), graph.sizes, "scores", partial=True)
    scores = LayerValues({name: scores[name] for name in graph if name in scores})
    costs = Costs(graph, flops=flops is not None)
    guessed = guessed_flops(graph) if flops is not None else ()
    if guessed:
        warnings.warn(
            f"flops: {', '.join(guessed)} count too little, as their class has no row; teach it with "
            "tfprune.graph.register_flops.",
            stacklevel=2,
        )

    def cost(on: np.ndarray) -> dict[str, int]:
        known = {"parameters": costs.parameters(on)}
        return known if flops is None else {**known, "flops": sum(costs.flops(on).values())}

    whole = cost(np.ones(graph.num_units, bool))
    most = {what: share * whole[what] for what, share in wanted.items() if share is not None}
    steps = _removal_steps(graph, scores, min_units)
    on = _fewest_steps(graph.num_units, steps, lambda on: all(cost(on)[what] <= most[what] for what in most))
    if on is None:
        _refuse_budget(cost(_after(graph.num_units, steps)), whole, wanted, min_units)
    return LayerValues({name: on[graph[name].start :][: graph[name].size] for name in scores})


def _fewest_steps(num_units: int, steps: list[np.ndarray], fits: Callable[[np.ndarray], bool]) -> np.ndarray | None:
    """Returns the mask after the fewest steps that fit, or None. What is left only shrinks, so a bisection finds it."""
    if not fits(_after(num_units, steps)):
        return None
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(_after(num_units, steps[:middle])) else (middle + 1, high)
    return _after(num_units, steps[:low])


def _after(num_units: int, steps: list[np.ndarray]) -> np.ndarray:
    on = np.ones(num_units, bool)
    if steps:
        on[np.concatenate(steps)] = False
    return on


def _removal_steps(graph: UnitGraph, scores: LayerValues, min_units: int) -> list[np.ndarray]:
    """Returns the columns that go at each step, the lowest scores first; never more of a group than may go."""
    value = np.full(graph.num_units, np.nan)
    group_of = np.zeros(graph.num_units, int)
    spare = []
    for number, name in enumerate(scores):
        group = graph[name]
        # Finite, so that the mean of two that go together is a number.
        value[group.start : group.start + group.size] = np.clip(scores[name], -_HIGHEST, _HIGHEST)
        group_of[group.start : group.start + group.size] = number
        spare.append(group.size - min_units)
    together = _linked(graph, value)
    together.sort(key=lambda columns: (float(value[columns].mean()), int(columns[0])))
    steps = []
    for columns in together:
        numbers_of = group_of[columns].tolist()
        if all(spare[number] >= numbers_of.count(number) for number in numbers_of):
            for number in numbers_of:
                spare[number] -= 1
            steps.append(columns)
    return steps


def _linked(graph: UnitGraph, value: np.ndarray) -> list[np.ndarray]:
    """Returns the units that have a score, those together that must go together; those without a partner stay."""
    partners = {column: [column] for column in np.flatnonzero(~np.isnan(value)).tolist()}
    for one, other, _ in graph.records.equal:
        sides = []
        for ids in (one, other):
            columns = np.unique(graph.columns(ids))
            columns = columns[columns >= 0]
            columns = columns[~np.isnan(value[columns])]
            sides.append(columns[np.argsort(value[columns], kind="stable")].tolist())
        paired = min(map(len, sides))
        for left, right in zip(sides[0][:paired], sides[1][:paired], strict=True):
            if left in partners and right in partners and partners[left] is not partners[right]:
                partners[left].extend(partners[right])
                partners.update(dict.fromkeys(partners[right], partners[left]))
        for column in (*sides[0][paired:], *sides[1][paired:]):
            for alone in partners.pop(column, []):
                partners.pop(alone, None)
    return [np.array(columns) for columns in {id(own): own for own in partners.values()}.values()]


def _refuse_budget(least: dict[str, int], whole: dict[str, int], wanted: dict, min_units: int) -> None:
    for what, share in wanted.items():
        if share is not None and least[what] > share * whole[what]:
            raise ValueError(
                f"{what}: a share of {share} cannot be reached. With min_units={min_units} of each group that has "
                f"scores {least[what]:,} of {whole[what]:,} {what} remain, a share of {least[what] / whole[what]:.3f}. "
                "Give a larger share, or scores for more groups."
            )


def _removal_order(scores: LayerValues, min_units: int) -> np.ndarray:
    """Returns the positions of all units that may go, the lowest scores first."""
    sizes = _sizes(scores)
    order = np.argsort(scores.flat, kind="stable")
    group_of = _group_of_unit(sizes)[order]
    # How many units of the same group go before this one.
    by_group = np.argsort(group_of, kind="stable")
    starts = np.cumsum([0, *sizes.values()])[:-1]
    before = np.empty(len(order), int)
    before[by_group] = np.arange(len(order)) - starts[group_of[by_group]]
    may_go = [size - least for size, least in zip(sizes.values(), _least(scores, min_units).values(), strict=True)]
    return order[before < np.array(may_go)[group_of]]


def _group_of_unit(sizes: dict[str, int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)), list(sizes.values()))


def _highest(values: np.ndarray, count: int) -> np.ndarray:
    """Returns which of `values` are the `count` highest; of equal ones the first goes first."""
    on = np.ones(values.size, bool)
    on[np.argsort(values, axis=None, kind="stable")[: max(0, values.size - count)]] = False
    return on.reshape(values.shape)


def _floor(number: float) -> int:
    # 0.29 * 100 is a little less than 29 in floating point.
    return math.floor(number + 1e-9)


def _up(count: int, multiple: int) -> int:
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
        return _checked_scores(given, any_dtype=True).shapes
    if not isinstance(given, Mapping):
        raise TypeError(
            f"scores_or_groups: expected LayerValues, a UnitGraph or sizes by group name, received "
            f"{type(given).__name__}. tfprune.unit_groups(model) gives a UnitGraph."
        )
    for name, size in given.items():
        _check_positive(size, f"scores_or_groups: the size of group {name!r}")
    return {name: (int(size),) for name, size in given.items()}


def _checked_scores(scores: Any, *, any_dtype: bool = False) -> LayerValues:
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores: expected LayerValues, or a dict of arrays by group name, received {type(scores).__name__}. A "
            "saliency makes them, such as tfprune.saliency.weight_norm(model)."
        )
    scores = scores if isinstance(scores, LayerValues) else LayerValues(scores)
    for name, values in scores.items():
        if not values.ndim or not values.size:
            raise ValueError(
                f"scores: group {name!r} expects a vector with one score for each unit, or an array with one for each "
                f"weight of a kernel; received the shape {values.shape}."
            )
        if values.dtype == np.bool_ and not any_dtype:
            raise TypeError(f"scores: group {name!r} holds bool, which is a mask already; expected numbers.")
        bad = np.flatnonzero(np.isnan(values)) if values.dtype.kind == "f" else np.zeros(0, int)
        if len(bad):
            one = "unit" if values.ndim == 1 else "weight"
            raise ValueError(
                f"scores: {one} {bad[0]} of group {name!r} has NaN ({len(bad)} of {values.size} {one}s). A {one} must "
                "have a score; look at the data and at the loss that the scores were made from."
            )
    return scores


def _check_fraction(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a fraction from 0 to 1, received {value!r}.")


def _check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, received {value!r}.")


def _check_shares(wanted: dict[str, float | None]) -> None:
    if all(share is None for share in wanted.values()):
        raise ValueError("keep_budget: no budget given. Give parameters=0.5, flops=0.5 or both.")
    for what, share in wanted.items():
        if share is not None and (isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share <= 1):
            raise ValueError(f"{what}: expected a share above 0 and at most 1, received {share!r}.")
