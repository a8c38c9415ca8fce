"""What is lost as more and more units are erased along a ranking: by masks, and by real removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfprune.borders import public
from tfprune.data import as_batches, collect
from tfprune.experiments.ablation_plan import ORDERS, Plan
from tfprune.experiments.ablation_records import AblationCurves
from tfprune.experiments.metrics import (
    Metric,
    check_metric,
    is_function,
    measure,
    measure_model,
    name_of,
    refuse_weights,
    value_of,
)
from tfprune.files import run_information
from tfprune.graph import unit_groups
from tfprune.masking import StandIn, fixed_model, replaced_at_homes
from tfprune.neurons import Directions
from tfprune.objectives import sample_loss
from tfprune.statistics import exit_means
from tfprune.surgery import remove
from tfprune.units import check_like


@public
def ablation_curve(
    model: keras.Model,
    data: Any,
    ranking: Any,
    *,
    order: str | Sequence[str] = ORDERS,
    replacement: str | Mapping[str, np.ndarray] | None = None,
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
            `tfprune.neurons` returned. Units of groups that it leaves out stay. Equal scores go by index. Scores of
            whole blocks, by the name of their group, are taken too; a block that goes leaves the identity. Or
            `Directions` of one group, of `neurons.svcca` and its like: directions are then erased where the units show,
            instead of units where they are read.
            Scores of several groups are put into one order: some (class selectivity, norms) are no measure between
            layers, and silent units, which score lowest, go first at no cost. Rank one group at a time there.
        order: which units go first, one or several of "top" (those with the highest scores), "bottom", "random".
        replacement: what stands in for an erased unit where it is read: "zero" (None), "mean" (over `data`), or numbers
            by group name, as for `with_on_nodes`. Of directions d, "mean" (None) takes (h - mean) d d^+ out of h, as
            `Directions.without` does, and "zero" takes out h d d^+, as in the source.
        steps: in how many equal steps all units go; or the counts (ints) or shares (floats up to 1) to look at.
        metric: None for the compiled loss (of sequences the mean over those steps of a sample that Keras does not mask,
            where `evaluate` has every step of a batch weigh the same); the name of a Keras metric or the metric itself,
            weighted by the sample weights if there are any; or a function `(targets, outputs) -> number` of all points
            at once.
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
    plan = Plan(model, ranking, order, steps, repeats, seed)
    check_metric(metric, model)
    if metric is None:
        sample_loss(model)
    _check_predict(metric, predict)
    rows, places = np.unique(plan.masks().reshape(-1, plan.num_units), axis=0, return_inverse=True)
    if replacement is None:
        replacement = "mean" if plan.is_of_directions else "zero"
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
    if isinstance(ranking, Directions):
        raise ValueError(
            "ranking: directions cannot be cut out of a network, units can; received directions. ablation_curve erases "
            "directions."
        )
    plan = Plan(model, ranking, order, steps, repeats, seed, keep_last=True)
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


def _check_predict(metric: Metric, predict: Any) -> None:
    if predict is not None and (not callable(predict) or not is_function(metric)):
        raise TypeError(
            "predict: its outputs go to `metric`, which must then be a function (targets, outputs) -> number; received "
            f"predict={predict!r}, metric={metric!r}."
        )


class _Units:
    """Units that are replaced where they are read."""

    def __init__(self, model: keras.Model, data: Any, replacement: str | Mapping[str, np.ndarray], plan: Plan):
        self.word, self.masked = _word(replacement), model
        means = None
        if isinstance(replacement, Mapping):
            means = check_like(replacement, unit_groups(model).sizes, "replacement", partial=True)
        elif replacement == "mean":
            # Where a block goes the identity is left: there is no mean.
            with_means = [name for name in plan.layers if name in unit_groups(model).sizes]
            means = exit_means(model, data, layers=with_means) if with_means else None
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
