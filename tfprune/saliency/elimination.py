"""The score made for the least-squares repair: backward elimination by the error that remains."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from scipy.linalg.blas import dgemm
from threadpoolctl import threadpool_limits

from tfprune.borders import public
from tfprune.data import as_batches
from tfprune.graph import Group, UnitGraph
from tfprune.graph.kernels import reading_kernel
from tfprune.graph.step import Exit
from tfprune.graph.wiring import Wiring
from tfprune.repair.samples import Fit, warn_of_few_samples
from tfprune.saliency.units import check_data, chosen_groups, weight_norm
from tfprune.statistics import ExitStatistics, exit_statistics, unit_statistics
from tfprune.ties import first_lowest
from tfprune.units import LayerValues

# Keeps the matrix of a place where every unit is dead regular.
_LEAST_RIDGE = 1e-12


@public
def least_squares(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    ridge: float = 1e-6,
) -> LayerValues:
    """Scores each unit by what its removal costs after the best linear repair, given all that went before it.

    Every group by itself is eliminated backwards: at each step the unit goes whose removal adds least to the error of
    what reads the group, when the remaining units stand in for it by linear regression with an intercept:
    `rho_j = sum over readers |w_j|^2 / P_jj`, where `P = (Sigma + ridge I)^-1` is the inverse covariance of what the
    reader reads and `|w_j|^2` runs over outputs and taps; then `w -= P[:, j] w_j / P_jj` and
    `P -= P[:, j] P[j, :] / P_jj`. The sum of the costs so far is the variance that is left unexplained. Outputs that a
    batch normalization follows are weighted by its scale; for recurrent layers the recurrent kernel (all gates) and the
    other readers each count by their share of the variance that they read. Units of other groups that are read beside
    do not stand in, as they may be cut too; channels that cannot be cut do.

    Where no kernel that can be told reads a group (only norms or dot products), its units score the variance of their
    values; heads of attention, which show in no tensor, the sum of their squared incoming weights.

    Comparable between groups as far as what reads them has one scale, as before batch normalizations; a unit's cost
    counts what went before it in its group, so that a budget seldom empties a group.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets are not looked at. 1,000 samples or more; below 300 there is a
            warning.
        layers: names of groups or layers; None takes all units that can be removed.
        ridge: what is added to the diagonal of the covariances, as a share of its mean.

    Returns:
        The cost of each unit at the moment of its removal, made to rise strictly along the order of elimination, shape
        `(units,)` by group name; in squared units of what the readers compute, or as a share for recurrent groups.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if `ridge` is not positive, or model, names or data do not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])
        >>> scores = least_squares(net, np.random.default_rng(0).normal(size=(300, 1)))["hidden"]
        >>> int((scores > 1e-4).sum())        # three functions of one number, all linear: one of them is enough
        1

    Reference: B. Hassibi, D. Stork (1993), "Second order derivatives for network pruning: optimal brain surgeon",
    applied to the least-squares error of each layer that reads the units.
    """
    if not ridge > 0:
        raise ValueError(f"least_squares: `ridge` expects a number above 0, received {ridge!r}.")
    graph, names = chosen_groups(model, layers)
    check_data(data, "least_squares")
    readers = _Readers(model, graph, names, data)
    scores = {}
    for name in names:
        places = readers.of(graph[name])
        if places:
            problems = [_Problem.of(place, graph[name], ridge) for place in places]
            # Updates of rank one are bound by memory: more threads only wait for each other.
            with threadpool_limits(1, user_api="blas"):
                scores[name] = _rising(*eliminated(problems, graph[name].size))
    _warn_of_few(as_batches(data, model, targets="ignore").num_samples, readers.fits)
    left = [name for name in names if name not in scores]
    if left:
        scores |= _without_reader(model, data, left)
    return LayerValues({name: scores[name] for name in names})


def _warn_of_few(num_samples: int | None, fits: list[Fit]) -> None:
    """Warns of too few samples; where their number is not told, by the fewest rows, which are no fewer than samples."""
    if fits:
        least = min(fit.rows for fit in fits)
        warn_of_few_samples("saliency.least_squares", least if num_samples is None else num_samples, fits)


def _without_reader(model: keras.Model, data: Any, names: list[str]) -> dict[str, np.ndarray]:
    statistics = unit_statistics(model, data, layers=names)
    scores = dict(statistics.variance)
    if statistics.skipped:
        scores |= weight_norm(model, layers=statistics.skipped, order=2, squared=True)
    return scores


def _rising(order: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Returns per unit its cost, or just above that of the unit that went before it if that is more."""
    scores, least = np.empty(len(order)), -np.inf
    for unit, cost in zip(order, costs, strict=True):
        least = max(cost, np.nextafter(least, np.inf))
        scores[unit] = least
    return scores


@dataclass(frozen=True, eq=False)
class _Place:
    """What kernels read at one place: the column of `on_nodes` per channel, their covariance, and the sum of W W^T."""

    columns: np.ndarray
    covariance: np.ndarray
    products: np.ndarray


class _Readers:
    """The kernels that read the units of some groups, with what they read."""

    def __init__(self, model: keras.Model, graph: UnitGraph, names: tuple[str, ...], data: Any):
        self._graph = graph
        self._wiring = Wiring(model)
        wanted = np.zeros(graph.num_units, bool)
        for name in names:
            wanted[graph[name].start : graph[name].start + graph[name].size] = True
        exits = {}
        for exit in graph.records.exits:
            columns = graph.columns(exit.ids)
            if exit.kernel and wanted[columns[columns >= 0]].any():
                # Attention reads one tensor three times by kernels that `reading_kernel` gives together.
                exits.setdefault((id(exit.node), id(exit.operation), id(exit.tensor), exit.axis), exit)
        self._statistics: ExitStatistics = exit_statistics(model, data, list(exits.values()))
        self._readings = [own for exit in exits.values() if (own := self._reading(exit)) is not None]

    @property
    def fits(self) -> list[Fit]:
        """The regressions that stand behind the scores, one for each place that kernels read."""
        moments = [(exit.name, self._statistics[exit]) for exit, _, _ in self._readings]
        return [Fit(name, own.count, len(own.mean)) for name, own in moments]

    def _reading(self, exit: Exit) -> tuple[Exit, np.ndarray, np.ndarray] | None:
        """Returns an exit with the columns `(channels,)` and W W^T `(channels, channels)` of what it reads."""
        kernel = reading_kernel(self._graph, exit) if exit in self._statistics else None
        if kernel is None:
            return None
        scale = self._scale(exit, kernel.shape[2])
        kernel = kernel if scale is None else kernel * scale
        # The positions of each channel, pixel by pixel, are further taps of one kernel.
        channels = self._statistics.channels(exit)
        order = np.argsort(channels, kind="stable")
        num_channels = len(self._statistics[exit].mean)
        weights = kernel[order].reshape(num_channels, -1)
        columns = self._graph.columns(exit.ids)[order].reshape(num_channels, -1)[:, 0]
        return exit, columns, weights @ weights.T

    def _scale(self, exit: Exit, num_outputs: int) -> np.ndarray | None:
        """Returns gamma / sigma of the batch normalization that alone reads the linear output of the exit's layer."""
        if len(exit.node.outputs) != 1 or getattr(exit.operation, "activation", None) is not keras.activations.linear:
            return None
        readers = self._wiring.readers.get(id(exit.node.outputs[0]), [])
        norm = readers[0].operation if len(readers) == 1 and readers[0] is not None else None
        if type(norm) is not keras.layers.BatchNormalization or norm.moving_variance.shape != (num_outputs,):
            return None
        scale = 1 / np.sqrt(keras.ops.convert_to_numpy(norm.moving_variance).astype("float64") + norm.epsilon)
        return scale if norm.gamma is None else scale * keras.ops.convert_to_numpy(norm.gamma).astype("float64")

    def of(self, group: Group) -> list[_Place]:
        """Returns the places where kernels read the group."""
        own = [
            reading
            for reading in self._readings
            if ((reading[1] >= group.start) & (reading[1] < group.start + group.size)).any()
        ]
        is_recurrent = any(exit.tensor is None for exit, _, _ in own)
        places: dict[int, _Place] = {}
        for exit, columns, products in own:
            covariance = self._statistics[exit].covariance
            if is_recurrent:
                read = np.sum(products * covariance)
                products = products / read if read > 0 else products
            index = self._statistics.index(exit)
            before = places[index].products if index in places else 0.0
            places[index] = _Place(columns, covariance, before + products)
        return list(places.values())


@dataclass(eq=False)
class _Problem:
    """Backward elimination at one place.

    Attributes:
        inverse: P `(channels, channels)` of the channels that remain, in Fortran order.
        products: W W^T `(channels, channels)` of the weights as they are refitted, likewise.
        channels: the channels of each unit, `(units, most channels of one unit)`, -1 for none.
    """

    inverse: np.ndarray
    products: np.ndarray
    channels: np.ndarray

    @classmethod
    def of(cls, place: _Place, group: Group, ridge: float) -> _Problem:
        """Takes the channels of the group, and those that cannot be cut, out of a place."""
        units = place.columns - group.start
        inside = (units >= 0) & (units < group.size)
        taken = np.flatnonzero(inside | (place.columns < 0))
        covariance = place.covariance[np.ix_(taken, taken)]
        added = max(ridge * np.trace(covariance) / len(taken), _LEAST_RIDGE)
        inverse = np.linalg.inv(covariance + added * np.eye(len(taken)))
        units = np.where(inside, units, -1)[taken]
        most = np.bincount(units[units >= 0]).max()
        channels = np.full((group.size, most), -1)
        for unit in range(group.size):
            own = np.flatnonzero(units == unit)
            channels[unit, : len(own)] = own
        products = place.products[np.ix_(taken, taken)]
        return cls(np.asfortranarray((inverse + inverse.T) / 2), np.asfortranarray(products), channels)

    def costs(self, units: np.ndarray) -> np.ndarray:
        """Returns what the removal of each of some units adds to the squared error, `tr(P_jj^-1 (W W^T)_jj)`."""
        channels = self.channels[units]
        missing = channels < 0
        if missing.all():
            return np.zeros(len(units))
        if channels.shape[1] == 1:
            diagonal = np.diagonal(self.products)[channels[:, 0]] / np.diagonal(self.inverse)[channels[:, 0]]
            return np.where(missing[:, 0], 0.0, np.maximum(diagonal, 0.0))
        missing = missing[:, :, None] | missing[:, None, :]
        rows, columns = channels[:, :, None], channels[:, None, :]
        inverse = np.where(missing, np.eye(channels.shape[1]), self.inverse[rows, columns])
        products = np.where(missing, 0.0, self.products[rows, columns])
        return np.maximum(np.trace(np.linalg.solve(inverse, products), axis1=1, axis2=2), 0.0)

    def remove(self, unit: int) -> None:
        """Takes a unit out; the others stand in for it from now on."""
        own = self.channels[unit]
        own = own[own >= 0]
        if not len(own):
            return
        block = self.inverse[np.ix_(own, own)]
        gain = np.linalg.solve(block, self.inverse[own]).T
        moved = self.products[:, own] - gain @ self.products[np.ix_(own, own)] / 2
        self.products = _subtracted(self.products, np.hstack([gain, moved]), np.hstack([moved, gain]))
        self.inverse = _subtracted(self.inverse, gain, self.inverse[:, own])
        for matrix in (self.products, self.inverse):
            matrix[own], matrix[:, own] = 0.0, 0.0
        self.channels[unit] = -1

    def shrink(self) -> None:
        """Drops the rows of channels that are gone."""
        left = np.flatnonzero(np.diagonal(self.inverse) > 0)
        place = np.full(len(self.inverse) + 1, -1)
        place[left] = np.arange(len(left))
        self.channels = place[self.channels]
        self.inverse = np.asfortranarray(self.inverse[np.ix_(left, left)])
        self.products = np.asfortranarray(self.products[np.ix_(left, left)])


def _subtracted(matrix: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Returns `matrix - left @ right.T`, made in the place of `matrix` if that is in Fortran order."""
    return dgemm(-1.0, left, right, 1.0, matrix, trans_b=True, overwrite_c=True)


def eliminated(problems: list[_Problem], num_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Removes all units, the cheapest first.

    Args:
        problems: one per place where the units are read; they are used up.
        num_units: how many units there are.

    Returns:
        The units in the order of their removal, and what each cost, both `(num_units,)`.
    """
    order, costs = np.empty(num_units, int), np.empty(num_units)
    left = np.arange(num_units)
    shrink_at = num_units // 2
    for step in range(num_units):
        cost = sum(problem.costs(left) for problem in problems)
        cheapest = first_lowest(cost)
        order[step], costs[step] = left[cheapest], cost[cheapest]
        left = np.delete(left, cheapest)
        for problem in problems:
            problem.remove(order[step])
        if len(left) == shrink_at:
            for problem in problems:
                problem.shrink()
            shrink_at //= 2
    return order, costs
