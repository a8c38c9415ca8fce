"""A budget of parameters or FLOPs: the lowest scores of all groups go until the model fits."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping

import keras
import numpy as np

from tfprune.borders import public, warn
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.flops import Costs, guessed_flops
from tfprune.select.checks import LEAST_SHARE, check_fraction, check_positive, checked_scores, warn_of_thin_groups
from tfprune.select.kinds import check_uniform, kinds_of
from tfprune.select.masks import round_up
from tfprune.ties import rising_order
from tfprune.units import LayerValues, check_like

NORMALISATIONS = ("group", "cost", None)
_HIGHEST = 1e300


@public
def keep_budget(
    model: keras.Model,
    scores: LayerValues,
    *,
    parameters: float | None = None,
    flops: float | None = None,
    normalise: str | None = "group",
    min_share: float = LEAST_SHARE,
    min_units: int = 1,
    round_to: int = 1,
    uniform: bool = False,
) -> LayerValues:
    """Takes the units with the lowest scores of all groups away until the model fits into a budget.

    What would be left is counted exactly, without building a model, so the result lies below the budget by no more
    than the last unit is worth (with `round_to`, the last multiple of it in each group). Where a layer needs equal
    numbers of two kinds of units (as a row of one's own may say), those go in pairs, the lowest with the lowest, by
    their mean score.

    Scores that say what one unit is worth do not say what a whole group is, and groups that look cheap unit by unit are
    emptied: hence the defaults of `normalise` and `min_share`. A MobileNetV2 (alpha 0.35, 32x32 digits, accuracy .910)
    at 40 % of its FLOPs, by test accuracy after the cut with repair "least_squares" and after one more epoch:

    | scores | as they are, no floor | the defaults |
    |---|---|---|
    | least_squares | .845, .919 | .846, .919 |
    | on_nodes_gradient | .104, .161 | .815, .911 |
    | mean_replacement | .104, .104 | .805, .897 |
    | weight_norm | .104, .241 | .708, .821 |

    Args:
        model: a Sequential or functional model.
        scores: numbers by group name, each `(size of the group,)`; groups without scores stay whole.
        parameters: the share of the model's parameters that may stay, such as 0.5.
        flops: the share of its floating-point operations that may stay. If both are given, both are met.
        normalise: "group" divides the scores of each group by their root mean square, so that groups are compared by
            how far their units differ; None compares scores as they are, which must then be comparable between groups,
            as each saliency says of its own; "cost" divides them by what one unit of the group alone would save of
            the budget (of FLOPs if both are given), each block by its own: for `loss_change` of units and of whole
            blocks, so that depth and width share one budget.
        min_share: the share of every group's units that stays at least. With less than a tenth, groups that fall below
            a tenth are named in a warning.
        min_units: how many units of every group stay at least.
        round_to: the number that stays in a group is a multiple of this, or all of them: hardware often likes multiples
            of 8. The budget is still met.
        uniform: whether as many units stay in all groups of a kind: those of one size whose names differ in nothing but
            the block, such as all `.../feedforward_intermediate_dense` of a transformer. The lowest units of all groups
            of a kind go at once, by their mean score. Constructors that say one width for all blocks need it (the form
            "class" of `remove`). Whole blocks go by layers: all of one layer or none.

    Returns:
        The mask of the groups that have scores: bool by group name, True = kept.

    Raises:
        TypeError: if scores are no numbers, `model` is no Keras model, or `uniform` is no bool.
        ValueError: if no budget is given or a share is not above 0 and at most 1; if scores do not fit the model; if
            the budget cannot be reached; if FLOPs are wanted of a model that leaves lengths open; if an option is out
            of its range.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, name="hidden"), keras.layers.Dense(2)])
        >>> keep_budget(net, LayerValues({"hidden": np.arange(20.0)}), parameters=0.5)["hidden"].sum()
        9
    """
    scores = checked_scores(scores)
    check_uniform(uniform, scores)
    check_positive(min_units, "min_units")
    check_positive(round_to, "round_to")
    check_fraction(min_share, "min_share")
    if normalise not in NORMALISATIONS:
        raise ValueError(f"normalise: expected 'group', 'cost' or None, received {normalise!r}.")
    wanted = {"parameters": parameters, "flops": flops}
    _check_shares(wanted)
    graph = unit_groups(model)
    # Infinite scores are allowed, so that only names and lengths are checked here.
    check_like(scores.map(np.isfinite), graph.sizes_with_blocks, "scores", partial=True)
    scores = LayerValues({name: scores[name] for name in graph.sizes_with_blocks if name in scores})
    cost = _cost_of(graph, flops is not None)
    whole = cost(np.ones(graph.num_columns, bool))
    most = {what: share * whole[what] for what, share in wanted.items() if share is not None}
    least = {name: max(min_units, _ceil(min_share * len(own))) for name, own in scores.items()}
    if normalise == "cost":
        scores = _by_cost(graph, scores, lambda on: cost(on)["flops" if flops is not None else "parameters"])
    elif normalise is not None:
        scores = scores.map(_normalised)
    steps = _removal_steps(graph, scores, least, uniform)
    after = _Rounded(graph, steps, round_to)
    number = _fewest_steps(len(steps), lambda count: all(cost(after(count))[what] <= most[what] for what in most))
    if number is None:
        floor = f"min_units={min_units}, min_share={min_share:g} and round_to={round_to}"
        _refuse_budget(cost(after(len(steps))), whole, wanted, floor)
    on = after(number)
    mask = LayerValues({name: on[graph[name].start :][: graph[name].size] for name in scores})
    warn_of_thin_groups(mask, "keep_budget: the budget")
    return mask


def _cost_of(graph: UnitGraph, flops: bool) -> Callable[[np.ndarray], dict[str, int]]:
    """Returns a function of the units that are on: what each kind of budget counts."""
    costs = Costs(graph, flops=flops)
    guessed = guessed_flops(graph) if flops else ()
    if guessed:
        warn(
            f"flops: {', '.join(guessed)} count too little, as their class has no row; teach it with "
            "tfprune.graph.register_flops."
        )

    def cost(on: np.ndarray) -> dict[str, int]:
        known = {"parameters": costs.parameters(on)}
        return {**known, "flops": sum(costs.flops(on).values())} if flops else known

    return cost


def _by_cost(graph: UnitGraph, scores: LayerValues, cost: Callable[[np.ndarray], int]) -> LayerValues:
    """Returns scores per what a unit alone would save: its group's first one stands for all, but blocks differ."""
    on = np.ones(graph.num_columns, bool)
    whole, result = cost(on), {}
    for name, values in scores.items():
        start = graph[name].start
        saved = []
        for column in range(start, start + (len(values) if name not in graph.sizes else 1)):
            on[column] = False
            saved.append(max(whole - cost(on), 1))
            on[column] = True
        result[name] = values / np.array(saved)
    return LayerValues(result)


def _normalised(values: np.ndarray) -> np.ndarray:
    """Returns scores divided by the root mean square of those that are finite."""
    values = values.astype("float64")
    finite = np.abs(values[np.isfinite(values)])
    largest = finite.max(initial=0.0)
    if not largest:
        return values
    # Squares of very large or very small scores would leave the range of numbers.
    return values / largest / np.sqrt(np.mean((finite / largest) ** 2))


def _ceil(number: float) -> int:
    # 0.1 * 30 is a little more than 3 in floating point.
    return math.ceil(number - 1e-9)


class _Rounded:
    """The units that are on after so many steps, so that multiples of a number stay in each group.

    Args:
        graph: the units.
        steps: the columns that go at each step.
        multiple: what the number of units that stay in a group is rounded up to; what went last comes back.
    """

    def __init__(self, graph: UnitGraph, steps: list[np.ndarray], multiple: int):
        self._num_columns, self._multiple = graph.num_columns, multiple
        self._columns = np.concatenate([np.zeros(0, int), *steps])
        self._ends = np.cumsum([0, *map(len, steps)])
        sizes = list(graph.sizes_with_blocks.values())
        self._sizes = np.array(sizes, int)
        self._group_of = np.repeat(np.arange(len(sizes)), sizes)[self._columns]
        # How many of the same group go before.
        self._before = np.empty(len(self._columns), int)
        for number in range(len(sizes)):
            own = np.flatnonzero(self._group_of == number)
            self._before[own] = np.arange(len(own))

    def __call__(self, count: int) -> np.ndarray:
        """Returns bool `(num_columns,)`."""
        end = self._ends[count]
        gone = np.bincount(self._group_of[:end], minlength=len(self._sizes))
        may_go = self._sizes - np.minimum(round_up(self._sizes - gone, self._multiple), self._sizes)
        on = np.ones(self._num_columns, bool)
        on[self._columns[:end][self._before[:end] < may_go[self._group_of[:end]]]] = False
        return on


def _fewest_steps(num_steps: int, fits: Callable[[int], bool]) -> int | None:
    """Returns the fewest steps that fit, or None. What is left only shrinks, so a bisection finds it."""
    if not fits(num_steps):
        return None
    low, high = 0, num_steps
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle + 1, high)
    return low


def _removal_steps(graph: UnitGraph, scores: LayerValues, least: Mapping[str, int], uniform: bool) -> list[np.ndarray]:
    """Returns the columns that go at each step, the lowest scores first; never more of a group than may go."""
    value = np.full(graph.num_columns, np.nan)
    group_of = np.zeros(graph.num_columns, int)
    spare = []
    for number, name in enumerate(scores):
        group = graph[name]
        # Finite, so that the mean of two that go together is a number.
        value[group.start : group.start + group.size] = np.clip(scores[name], -_HIGHEST, _HIGHEST)
        group_of[group.start : group.start + group.size] = number
        spare.append(group.size - least[name])
    together = _linked(graph, value)
    if uniform:
        together = _of_a_kind(graph, scores, value, together)
    together.sort(key=lambda columns: int(columns[0]))
    order = rising_order(np.array([value[columns].mean() for columns in together]))
    steps = []
    for columns in (together[number] for number in order.tolist()):
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
            sides.append(columns[rising_order(value[columns])].tolist())
        paired = min(map(len, sides))
        for left, right in zip(sides[0][:paired], sides[1][:paired], strict=True):
            if left in partners and right in partners and partners[left] is not partners[right]:
                partners[left].extend(partners[right])
                partners.update(dict.fromkeys(partners[right], partners[left]))
        for column in (*sides[0][paired:], *sides[1][paired:]):
            for alone in partners.pop(column, []):
                partners.pop(alone, None)
    return [np.array(columns) for columns in {id(own): own for own in partners.values()}.values()]


def _of_a_kind(graph: UnitGraph, scores: LayerValues, value: np.ndarray, linked: list[np.ndarray]) -> list[np.ndarray]:
    """Returns the units that go together if as many are to go in all groups of a kind: the lowest of each, and so on.

    Units that have none to go with, in one of the groups, stay.
    """
    sets = {column: set(own.tolist()) for own in linked for column in own.tolist()}
    for columns in graph.layers_of_blocks.values() if graph.blocks_name in scores else ():
        sets.update(dict.fromkeys(columns, set(columns)))
    for names in kinds_of({name: values.size for name, values in scores.items() if name in graph.sizes}):
        ranked = []
        for name in names:
            columns = [column for column in range(graph[name].start, graph[name].start + graph[name].size)]
            columns = np.array([column for column in columns if column in sets], int)
            ranked.append(columns[rising_order(value[columns])].tolist())
        fewest = min(map(len, ranked))
        for rank in range(fewest):
            joined = set().union(*(sets[own[rank]] for own in ranked))
            sets.update(dict.fromkeys(joined, joined))
        for column in (column for own in ranked for column in own[fewest:]):
            for alone in sets.get(column, ()):
                sets[alone] = set()
    return [np.array(sorted(own)) for own in {id(own): own for own in sets.values() if own}.values()]


def _refuse_budget(least: dict[str, int], whole: dict[str, int], wanted: dict, floor: str) -> None:
    for what, share in wanted.items():
        if share is not None and least[what] > share * whole[what]:
            raise ValueError(
                f"{what}: a share of {share} cannot be reached. With {floor} of each group that has scores "
                f"{least[what]:,} of {whole[what]:,} {what} remain, a share of {least[what] / whole[what]:.3f}. "
                "Give a larger share, a smaller floor, or scores for more groups."
            )


def _check_shares(wanted: dict[str, float | None]) -> None:
    if all(share is None for share in wanted.values()):
        raise ValueError("keep_budget: no budget given. Give parameters=0.5, flops=0.5 or both.")
    for what, share in wanted.items():
        if share is not None and (isinstance(share, bool) or not isinstance(share, numbers.Real) or not 0 < share <= 1):
            raise ValueError(f"{what}: expected a share above 0 and at most 1, received {share!r}.")
