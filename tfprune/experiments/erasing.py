"""What is lost as more and more units are erased along a ranking: by masks, and by real removal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfprune.borders import public
from tfprune.data import as_batches, collect
from tfprune.experiments.metrics import Metric, check_metric, measure, measure_model, name_of, refuse_weights, value_of
from tfprune.experiments.records import Record
from tfprune.files import run_information
from tfprune.graph import unit_groups
from tfprune.masking import StandIn, fixed_model, replaced_at_homes
from tfprune.neurons import Directions
from tfprune.objectives import sample_loss
from tfprune.statistics import exit_means
from tfprune.surgery import remove
from tfprune.ties import rising_order
from tfprune.units import LayerValues, check_like

ORDERS = ("top", "bottom", "random")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AblationCurves(Record):
    """A metric of a model as units are erased, one curve per order (several for "random").

    Attributes:
        orders: what each curve erases first: "top", "bottom" or "random"; text, shape `(num_curves,)`.
        erased: what stood in for erased units in each curve: "zero", "mean", ..., or "remove, " and a repair; text,
            shape `(num_curves,)`.
        num_off: how many units are erased at each step, rising from 0, shape `(num_steps + 1,)`.
        values: the metric, in its own unit, shape `(num_curves, num_steps + 1)`.
    """

    orders: np.ndarray
    erased: np.ndarray
    num_off: np.ndarray
    values: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of the ranked units that is erased at each step, 0 to 1, shape `(num_steps + 1,)`."""
        return self.num_off / self.settings["num_units"]

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """The order and the way of erasing of each curve, each pair once, in the order of the curves."""
        return tuple(dict.fromkeys(zip(self.orders.tolist(), self.erased.tolist(), strict=True)))

    def curves(self, order: str, erased: str | None = None) -> np.ndarray:
        """All curves of one order, shape `(num_such, num_steps + 1)`.

        Args:
            order: "top", "bottom" or "random".
            erased: what stood in for the erased units; None where the record has one way only.

        Raises:
            ValueError: if the record has none.
        """
        chosen = (self.orders == order) & ((self.erased == erased) | (erased is None))
        if not chosen.any() or (erased is None and len(set(self.erased[chosen].tolist())) > 1):
            raise ValueError(f"AblationCurves: expected one of the curves {self.kinds}, received {(order, erased)}.")
        return self.values[chosen]

    def area(self, order: str, erased: str | None = None) -> float:
        """The mean height of the curve, in the metric's unit: the area under it over the share that is erased.

        The trapezoidal rule, divided by the largest share; the mean over the curves of "random". For a metric that is
        good when high, the area from the bottom minus that from the top says how much the ranking knows.

        Args:
            order: as for `curves`.
            erased: as for `curves`.
        """
        heights, shares = self.curves(order, erased).mean(axis=0), self.shares
        return float(((heights[1:] + heights[:-1]) / 2 * np.diff(shares)).sum() / (shares[-1] - shares[0]))

    def __repr__(self) -> str:
        rows = [f"{'erased first':14}{'by':24}{'area':>9}{'all on':>9}{'half':>9}{'last':>9}"]
        for order, erased in self.kinds:
            heights = self.curves(order, erased).mean(axis=0)
            half = np.interp(self.shares[-1] / 2, self.shares, heights)
            cells = (self.area(order, erased), heights[0], half, heights[-1])
            rows.append(f"{order:14}{erased:24}" + "".join(f"{cell:9.4g}" for cell in cells))
        title = f"AblationCurves: {self.settings['metric']}, {self.num_off[-1]} of {self.settings['num_units']} units"
        return "\n".join([title, *rows])


@public
def ablation_curve(
    model: keras.Model,
    data: Any,
    ranking: Any,
    *,
    order: str | Sequence[str] = ORDERS,
    replacement: str | Mapping[str, np.ndarray] = "zero",
    steps: int | Sequence[float] = 20,
    metric: Metric = None,
    repeats: int = 3,
    seed: int = 0,
    predict: Callable[[keras.Model, list[np.ndarray]], Any] | None = None,
) -> AblationCurves:
    """Erases more and more units along a ranking and measures what is left; all steps are masks of one sweep.

    Shows whether a ranking knows what matters: from the top the metric should fall at once, from the bottom late, and
    at random between. It is also the robustness of a net against the loss of units, whatever ranks them.

    Args:
        model: a Sequential or functional model. It is not changed.
        data: inputs and targets, whatever `model.fit` takes.
        ranking: scores of the units, higher is more important: LayerValues (of any saliency), or what a ranking of
            `tfprune.neurons` returned. Units of groups that it leaves out stay. Equal scores go by index. Or
            `Directions` of one group, of `neurons.svcca` and its like: directions are then erased where the units show,
            instead of units where they are read.
        order: which units go first, one or several of "top" (those with the highest scores), "bottom", "random".
        replacement: what stands in for an erased unit where it is read: "zero", "mean" (over `data`), or numbers by
            group name, as for `with_on_nodes`.
        steps: in how many equal steps all units go; or the counts (ints) or shares (floats up to 1) to look at.
        metric: None for the compiled loss; the name of a Keras metric or the metric itself, weighted by the sample
            weights if there are any; or a function `(targets, outputs) -> number` of all points at once.
        repeats: how many random orders.
        seed: seed of the random orders.
        predict: what gives the outputs that a function `metric` sees, where `model.predict` is not it (decoding of a
            sequence, say): `predict(masked, inputs)`, with a model that takes the inputs of `model` and whose units
            are erased, and the list of input arrays. It runs once per mask.

    Returns:
        The curves. Printed, they are a table; `plots.ablation_curves` draws them.

    Raises:
        TypeError: if `ranking`, `metric` or `data` are of no kind that can be read.
        ValueError: if names, lengths, orders, steps or replacement do not fit, or scores are NaN or infinite.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.set_weights([np.array([[1.0, 2.0]]), np.zeros(2), np.ones((2, 1)), np.zeros(1)])
        >>> x = np.ones((1, 1))
        >>> curves = ablation_curve(
        ...     net, (x, 3 * x), {"hidden": [0.1, 0.9]}, order=("top", "bottom"), steps=2,
        ...     metric=lambda targets, outputs: float(np.abs(targets - outputs).mean()))
        >>> curves.values.tolist()
        [[0.0, 2.0, 3.0], [0.0, 1.0, 3.0]]

    Reference: A. Morcos et al. (2018), "On the importance of single directions for generalization"; A. Bau et al.
    (2019), "Identifying and controlling important neurons in neural machine translation", section 5.1.
    """
    plan = _Plan(model, ranking, order, steps, repeats, seed)
    check_metric(metric, model)
    if metric is None:
        sample_loss(model)
    _check_predict(metric, predict)
    rows, places = np.unique(plan.masks().reshape(-1, plan.num_units), axis=0, return_inverse=True)
    erased = (
        _Directions(model, ranking, replacement) if plan.is_of_directions else _Units(model, data, replacement, plan)
    )
    if predict is None:
        values = measure(erased.masked, data, rows, metric, loss=model.loss, **erased.options)
    else:
        values = _predicted(model, data, rows, metric, erased.fixed(), predict)
    settings = {"metric": name_of(metric), "num_units": plan.num_units, "groups": list(plan.layers), "seed": seed}
    return AblationCurves(
        settings={**settings, **run_information()},
        orders=np.array(plan.orders),
        erased=np.array([erased.word] * len(plan.orders)),
        num_off=plan.counts,
        values=values[places.ravel()].reshape(len(plan.orders), -1),
    )


@public
def removal_curve(
    model: keras.Model,
    data: Any,
    ranking: Any,
    *,
    order: str | Sequence[str] = ORDERS,
    repair: Any = ("zero", "mean", "least_squares"),
    calibration: Any = None,
    steps: int | Sequence[float] = 10,
    metric: Metric = None,
    repeats: int = 1,
    seed: int = 0,
    predict: Callable[[keras.Model, list[np.ndarray]], Any] | None = None,
) -> AblationCurves:
    """The curve of `ablation_curve` for real removal: units are cut out, the rest is repaired, nothing is trained.

    The last unit of a group stays, since a layer cannot be emptied; so the curves end a little before all units.

    Args:
        model: as for `ablation_curve`.
        data: inputs and targets to measure on.
        ranking: as for `ablation_curve`.
        order: likewise.
        repair: one or several repairs of `tfprune.remove`, by name or the repair itself.
        calibration: what repairs are fitted on; needed by all but "zero". It should not be `data`.
        steps: as for `ablation_curve`.
        metric: likewise; a model is made for every step, order and repair.
        repeats: likewise.
        seed: likewise.
        predict: likewise.

    Returns:
        The curves, one for each repair and order.

    Raises:
        TypeError: as `ablation_curve` and `remove` do.
        ValueError: likewise; or if a repair needs `calibration` and there is none.

    Example:
        >>> removal_curve(net, test, saliency.weight_norm(net), calibration=train)   # doctest: +SKIP

    Reference: as for `ablation_curve`; the repairs are described in `tfprune.repair`.
    """
    plan = _Plan(model, ranking, order, steps, repeats, seed, keep_last=True)
    check_metric(metric, model)
    if metric is None:
        sample_loss(model)
    _check_predict(metric, predict)
    repairs = [repair] if isinstance(repair, str) or not isinstance(repair, Sequence) else list(repair)
    if calibration is None and any(own != "zero" for own in repairs):
        raise ValueError(
            "calibration: every repair but 'zero' is fitted on data. Give inputs, best not those of `data`."
        )
    cells = [(own, mask) for own in repairs for masks in plan.masks() for mask in masks]
    values, full = [], measure_model(model, data, metric, predict=predict)
    for own, mask in tqdm(cells, desc="removal", leave=False, disable=None):
        if mask.all():
            values.append(full)
            continue
        small = remove(model, plan.mask(mask), repair=own, data=None if own == "zero" else calibration)
        values.append(measure_model(small, data, metric, loss=model.loss, predict=predict))
    names = [f"remove, {own if isinstance(own, str) else type(own).__name__}" for own in repairs]
    settings = {"metric": name_of(metric), "num_units": plan.num_units, "groups": list(plan.layers), "seed": seed}
    return AblationCurves(
        settings={**settings, **run_information()},
        orders=np.array(plan.orders * len(repairs)),
        erased=np.repeat(names, len(plan.orders)),
        num_off=plan.counts,
        values=np.array(values).reshape(len(repairs) * len(plan.orders), -1),
    )


class _Plan:
    """Which units go at each step of each curve."""

    def __init__(
        self,
        model: keras.Model,
        ranking: Any,
        order: str | Sequence[str],
        steps: int | Sequence[float],
        repeats: int,
        seed: int,
        keep_last: bool = False,
    ):
        self.is_of_directions = isinstance(ranking, Directions)
        graph = unit_groups(model)
        scores = _one_group(ranking) if self.is_of_directions else check_scores(graph, ranking)
        self.layers = tuple(scores)
        self._sizes = {name: len(own) for name, own in scores.items()}
        self.num_units = scores.size
        orders = [order] if isinstance(order, str) else list(order)
        unknown = [own for own in orders if own not in ORDERS]
        if unknown or not orders:
            raise ValueError(f"order: expected one or several of {', '.join(ORDERS)}, received {order!r}.")
        if not isinstance(repeats, int) or repeats < 1:
            raise ValueError(f"repeats: expected how many random orders to draw, at least 1, received {repeats!r}.")
        generator = np.random.default_rng(seed)
        flat = np.asarray(scores.flat, "float64")
        self.orders, self._ways = [], []
        for own in orders:
            for _ in range(repeats if own == "random" else 1):
                way = generator.permutation(len(flat)) if own == "random" else rising_order(_SIGNS[own] * flat)
                self.orders.append(own)
                self._ways.append(self._without_last(way) if keep_last else way)
        self.counts = _counts(steps, len(self._ways[0]), self.num_units)

    def _without_last(self, way: np.ndarray) -> np.ndarray:
        """Leaves out the unit of each group that would be its last to go."""
        groups = np.repeat(np.arange(len(self._sizes)), list(self._sizes.values()))[way]
        last = [np.flatnonzero(groups == group)[-1] for group in range(len(self._sizes))]
        return np.delete(way, last)

    def masks(self) -> np.ndarray:
        """Returns bool `(num_curves, num_steps + 1, num_units)`, True where a unit is on."""
        masks = np.ones((len(self._ways), len(self.counts), self.num_units), bool)
        for own, way in zip(masks, self._ways, strict=True):
            for row, count in zip(own, self.counts, strict=True):
                row[way[:count]] = False
        return masks

    def mask(self, row: np.ndarray) -> LayerValues:
        """Returns a row as a mask by group name."""
        return LayerValues.from_flat(row, self._sizes)


_SIGNS = {"top": -1.0, "bottom": 1.0}


def check_scores(graph: Any, ranking: Any) -> LayerValues:
    """Returns the scores of a ranking in the order of the graph.

    Args:
        graph: the units of the model.
        ranking: scores by group name, or something with an attribute `scores` that holds them.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is empty, or names, lengths or values do not fit.
    """
    scores = getattr(ranking, "scores", ranking)
    if isinstance(scores, Mapping):
        for name in scores:
            if name not in graph:
                raise ValueError(graph.unknown(name))
        if not len(scores):
            raise ValueError("ranking: it is empty. Give scores of at least one group.")
    elif isinstance(scores, np.ndarray):
        raise TypeError(
            "ranking: expected scores by group name, received an array, as a ranking of plain arrays has it. Give "
            "{group: scores}; tfprune.unit_groups(model) lists the groups."
        )
    return check_like(scores, graph.sizes, "ranking", partial=True)


def _counts(steps: int | Sequence[float], most: int, num_units: int) -> np.ndarray:
    """Returns how many units are off at each step, rising from 0."""
    if isinstance(steps, int | np.integer) and not isinstance(steps, bool):
        if steps < 1:
            raise ValueError(f"steps: expected at least 1, received {steps}.")
        return np.unique(np.round(np.linspace(0, most, min(steps, most) + 1)).astype(int))
    given = np.asarray(steps)
    if given.ndim != 1 or not given.size or given.dtype.kind not in "iuf":
        raise ValueError(f"steps: expected a number of steps, or a list of counts or shares, received {steps!r}.")
    limit = 1.0 if given.dtype.kind == "f" else num_units
    if not np.isfinite(given).all() or given.min() < 0 or given.max() > limit:
        raise ValueError(
            f"steps: expected shares from 0.0 to 1.0, or counts (whole numbers) from 0 to {num_units}, received "
            f"{steps!r}."
        )
    counts = np.round(given * num_units).astype(int) if given.dtype.kind == "f" else given
    return np.unique(np.append(np.minimum(counts, most), 0))


def _check_predict(metric: Metric, predict: Any) -> None:
    if predict is not None and (not callable(predict) or not callable(metric)):
        raise TypeError(
            "predict: its outputs go to `metric`, which must then be a function (targets, outputs) -> number; received "
            f"predict={predict!r}, metric={metric!r}."
        )


def _one_group(ranking: Directions) -> LayerValues:
    """Returns the scores of directions by the name of the one group whose units they combine."""
    if ranking.sizes is None or len(ranking.sizes) != 1:
        received = "no names (they were made of arrays)" if ranking.sizes is None else ", ".join(ranking.sizes)
        raise ValueError(
            f"ranking: directions can be erased if they combine the units of one group; received {received}. Give "
            "neurons.svcca the activations, or the models, with one name in `layers`."
        )
    if not len(ranking):
        raise ValueError("ranking: it has no directions, since the units never change.")
    return LayerValues({next(iter(ranking.sizes)): ranking.scores})


class _Units:
    """Units that are replaced where they are read."""

    def __init__(self, model: keras.Model, data: Any, replacement: str | Mapping[str, np.ndarray], plan: _Plan):
        self.word, self.masked = _word(replacement), model
        means = None
        if isinstance(replacement, Mapping):
            means = check_like(replacement, unit_groups(model).sizes, "replacement", partial=True)
        elif replacement == "mean":
            means = exit_means(model, data, layers=plan.layers)
        self.options = {"layers": plan.layers, "replacement": means}

    def fixed(self) -> tuple[keras.Model, Callable[[np.ndarray], None]]:
        """Returns a model with the inputs of the original, and what puts a mask into it."""
        return fixed_model(self.masked, **self.options)


class _Directions:
    """Directions that are taken out where the units show."""

    def __init__(self, model: keras.Model, ranking: Directions, replacement: str | Mapping[str, np.ndarray]):
        self.word = _word(replacement)
        if isinstance(replacement, Mapping):
            raise ValueError("replacement: of directions it is 'zero' or 'mean'; received numbers by group name.")
        means = ranking.mean if replacement == "mean" else np.zeros_like(ranking.mean)
        off = np.ones(len(ranking), bool)
        stand_in = StandIn(means, off, directions=(ranking.transform, ranking.inverse))
        self._model, self._stand_ins = model, {next(iter(ranking.sizes)): stand_in}
        self.options: dict[str, Any] = {"layers": None, "replacement": None}

    @property
    def masked(self) -> keras.Model:
        """A model whose input `on_nodes` has a column for each direction."""
        return replaced_at_homes(self._model, self._stand_ins, fixed=False).model

    def fixed(self) -> tuple[keras.Model, Callable[[np.ndarray], None]]:
        """Returns a model with the inputs of the original, and what puts a mask into it."""
        return replaced_at_homes(self._model, self._stand_ins)


def _word(replacement: str | Mapping[str, np.ndarray]) -> str:
    if isinstance(replacement, Mapping):
        return "given numbers"
    if replacement not in ("zero", "mean"):
        raise ValueError(f"replacement: expected 'zero', 'mean' or numbers by group name, received {replacement!r}.")
    return replacement


def _predicted(
    model: keras.Model,
    data: Any,
    rows: np.ndarray,
    metric: Callable,
    fixed: tuple[keras.Model, Callable[[np.ndarray], None]],
    predict: Callable,
) -> np.ndarray:
    """Measures masks one by one, by a function that gives the outputs of a model."""
    inputs, targets, weights = collect(as_batches(data, model, targets="required"))
    refuse_weights(weights)
    masked, switch = fixed
    values = []
    for number, row in enumerate(tqdm(rows, desc="masks", leave=False, disable=None)):
        switch(row)
        values.append(value_of(metric, targets, predict(masked, inputs), f"mask {number}"))
    return np.array(values)
