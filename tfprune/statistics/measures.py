"""Statistics of units at their homes, and at the exits where kernels read them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph import Group, unit_groups
from tfprune.graph.step import Exit
from tfprune.graph.wiring import Wiring, pulled_back
from tfprune.statistics.passes import Moments, Place, measured
from tfprune.units import LayerValues


@dataclass(frozen=True, eq=False)
class UnitStatistics:
    """Statistics of the values of units over samples and positions, float64, shape `(units,)` by group name.

    Attributes:
        mean: the mean of each unit.
        variance: its mean squared deviation from the mean.
        minimum: its least value.
        maximum: its greatest value.
        zero_fraction: the share of its values that are exactly zero, 0 to 1.
        covariance: covariances `(units, units)` by group name; None if not asked for.
        counts: how many values of each unit were seen, by group name.
        skipped: why a group is missing, by group name.
    """

    mean: LayerValues
    variance: LayerValues
    minimum: LayerValues
    maximum: LayerValues
    zero_fraction: LayerValues
    covariance: LayerValues | None
    counts: dict[str, int]
    skipped: dict[str, str]


@dataclass(frozen=True, eq=False)
class ExitStatistics:
    """Mean and covariance of what kernels read.

    Exits that read the same channels share one entry of `moments`.

    Attributes:
        moments: one entry per distinct place, `second` a matrix.
        skipped: why an exit is missing, by the reader's name.
    """

    moments: tuple[Moments, ...]
    skipped: dict[str, str]
    _places: dict[tuple, tuple[int, np.ndarray]] = field(repr=False)

    def __contains__(self, exit: Exit) -> bool:
        return _exit_key(exit) in self._places

    def __getitem__(self, exit: Exit) -> Moments:
        """The moments of the channels that the exit reads."""
        return self.moments[self._place(exit)[0]]

    def index(self, exit: Exit) -> int:
        """Returns which entry of `moments` is the exit's; equal for exits that read the same channels."""
        return self._place(exit)[0]

    def channels(self, exit: Exit) -> np.ndarray:
        """Returns for each position of the exit's axis which of the channels of `self[exit]` it holds."""
        return self._place(exit)[1]

    def _place(self, exit: Exit) -> tuple[int, np.ndarray]:
        if exit not in self:
            reason = self.skipped.get(exit.name, "it was not among the exits asked for")
            raise KeyError(f"There are no statistics at the exit into {exit.name!r}: {reason}.")
        return self._places[_exit_key(exit)]


@public
def unit_statistics(
    model: keras.Model, data: Any, *, layers: Iterable[str] | str | None = None, covariance: bool = False
) -> UnitStatistics:
    """Measures the values of units at their homes, in one pass over the data.

    A unit's values are pooled over samples, over positions (pixels, time steps, masked ones too) and over the layers of
    its group that make it. The heads of attention show in no tensor: their groups are left out and named in `skipped`.
    Sums are of float64 and numerically stable, so that size and order of batches do not matter.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets and sample weights are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        covariance: whether to measure the covariances within each group too. Where a unit has several channels, its
            k-th one is paired with the k-th ones of the others.

    Returns:
        The statistics by group name, in the order of the graph.

    Raises:
        TypeError: if `model` is no Keras model, or `data` of no kind that can be read.
        ValueError: if model, names or data do not fit, or units take values that are NaN or infinite.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[2.0]]), np.array([1.0])])
        >>> statistics = unit_statistics(net, np.array([[0.0], [1.0]]))
        >>> statistics.mean["hidden"], statistics.variance["hidden"]
        (array([2.]), array([1.]))

    Reference: T. F. Chan, G. H. Golub, R. J. LeVeque (1979), "Updating formulae and a pairwise algorithm for computing
    sample variances".
    """
    graph = unit_groups(model)
    names = graph.choose(layers)
    wiring = Wiring(model)
    places = {name: _homes(graph[name], wiring) for name in names}
    skipped = {name: "its units show in no tensor (heads of attention)" for name in names if not places[name]}
    shown = [name for name in names if places[name]]
    found = measured(model, data, [place for name in shown for place in places[name]], covariance)
    moments = dict(zip(shown, _pooled(found, [len(places[name]) for name in shown]), strict=True))
    _check_finite(moments)

    def values(take: Any) -> LayerValues:
        return LayerValues({name: take(own) for name, own in moments.items()})

    return UnitStatistics(
        mean=values(lambda own: own.mean),
        variance=values(lambda own: own.variance),
        minimum=values(lambda own: own.minimum),
        maximum=values(lambda own: own.maximum),
        zero_fraction=values(lambda own: own.zeros / max(own.count, 1)),
        covariance=values(lambda own: own.covariance) if covariance else None,
        counts={name: own.count for name, own in moments.items()},
        skipped=skipped,
    )


@public
def exit_statistics(model: keras.Model, data: Any, exits: Sequence[Exit] | None = None) -> ExitStatistics:
    """Measures mean and covariance of what kernels read, in one pass over the data.

    Rows are pooled over samples and positions. A reader behind layers that only move positions about (Flatten, Reshape,
    Permute, RepeatVector) is served by the statistics in front of them, so that a dense layer on a flattened map of C
    channels needs a C x C matrix. What the recurrent kernel of SimpleRNN, GRU or LSTM reads is the state as it enters
    each step: the initial one is in, the last one is not, and steps that are masked do not count. Heads of attention
    show in no tensor and are left out.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets and sample weights are not looked at.
        exits: some of `unit_groups(model).records.exits`; None takes all that have a kernel.

    Returns:
        The moments; `statistics[exit]` finds those of an exit, `statistics.channels(exit)` which channel each position
        of the exit's axis is.

    Raises:
        TypeError: if `model` is no Keras model, or `data` of no kind that can be read.
        ValueError: if model, exits or data do not fit, or a kernel reads values that are NaN or infinite.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3), keras.layers.Dense(1)])
        >>> exit_statistics(net, np.ones((5, 1))).moments[0].covariance.shape
        (3, 3)
    """
    exits = [exit for exit in unit_groups(model).records.exits if exit.kernel] if exits is None else list(exits)
    return _exit_statistics(model, data, exits, True)


def _exit_statistics(model: keras.Model, data: Any, exits: Sequence[Exit], covariance: bool) -> ExitStatistics:
    graph = unit_groups(model)
    wiring = Wiring(model)
    skipped, indices, places, named = {}, {}, {}, {}
    for exit in exits:
        if exit.tensor is None and not isinstance(exit.operation, keras.layers.RNN):
            skipped[exit.name] = "it reads heads of attention, which show in no tensor"
            continue
        site = pulled_back(graph, wiring, exit)
        index = indices.setdefault(site.key, len(indices))
        places.setdefault(index, Place(site.node, site.tensor, site.operation, site.axis, None))
        named[_exit_key(exit)] = (index, site.channels)
    found = measured(model, data, list(places.values()), covariance)
    moments = _pooled(found, [1] * len(places))
    _check_finite({place.operation.name: own for place, own in zip(places.values(), moments, strict=True)})
    return ExitStatistics(tuple(moments), skipped, named)


@public
def exit_means(model: keras.Model, data: Any, *, layers: Iterable[str] | str | None = None) -> LayerValues:
    """Measures the mean of each unit where kernels read it: what `with_on_nodes` takes as `replacement`.

    The mean over all exits of the unit that show in a tensor, each counting once; units that no kernel reads have the
    mean at their home, and heads of attention, which show in no tensor, have zero.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets and sample weights are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.

    Returns:
        One mean per unit, `(units,)` by group name.

    Raises:
        TypeError: if `model` is no Keras model, or `data` of no kind that can be read.
        ValueError: if model, names or data do not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[2.0]]), np.array([1.0])])
        >>> exit_means(net, np.array([[0.0], [1.0]]))["hidden"]
        array([2.])
    """
    graph = unit_groups(model)
    names = graph.choose(layers)
    exits = [exit for exit in graph.records.exits if exit.kernel and exit.tensor is not None]
    statistics = _exit_statistics(model, data, exits, False)
    total, count = np.zeros(graph.num_units), np.zeros(graph.num_units)
    for exit in exits:
        columns = graph.columns(exit.ids)
        means = statistics[exit].mean[statistics.channels(exit)]
        np.add.at(total, columns[columns >= 0], means[columns >= 0])
        np.add.at(count, columns[columns >= 0], 1)
    means = {name: (total / np.maximum(count, 1))[graph[name].start :][: graph[name].size] for name in names}
    unread = [name for name in names if not count[graph[name].start :][: graph[name].size].all()]
    if unread:
        means |= unit_statistics(model, data, layers=unread).mean
    return LayerValues(means)


def _exit_key(exit: Exit) -> tuple[int, int, int, int]:
    return id(exit.node), id(exit.operation), id(exit.tensor), exit.axis


def _homes(group: Group, wiring: Wiring) -> list[Place]:
    """Returns the places where a group's units show, at every call of the layers that make them, each once."""
    places = {}
    for member in group.members:
        for home in member.homes:
            node = wiring.makers[id(home.tensor)]
            take = occurrences(home.units, group.size)
            places[id(home.tensor), home.axis] = Place(node, home.tensor, node.operation, home.axis, take)
    return list(places.values())


def occurrences(units: np.ndarray, size: int) -> np.ndarray | None:
    """Returns positions `(occurrences, size)`: in each row one position of every unit; None for each position as it is.

    Units with fewer positions than others repeat theirs equally often, so that each keeps its own mean and variance.
    """
    if np.array_equal(units, np.arange(size)):
        return None
    positions = [np.flatnonzero(units == unit) for unit in range(size)]
    rows = math.lcm(*(len(own) for own in positions))
    return np.stack([np.tile(own, rows // len(own)) for own in positions], axis=1)


def _pooled(found: list[Moments], lengths: list[int]) -> list[Moments]:
    """Merges so many neighbours each."""
    result, start = [], 0
    for length in lengths:
        pooled = found[start]
        for other in found[start + 1 : start + length]:
            pooled = pooled.merged(other)
        result.append(pooled)
        start += length
    return result


def _check_finite(moments: dict[str, Moments]) -> None:
    for name, own in moments.items():
        bad = np.flatnonzero(~np.isfinite(own.mean + own.variance))
        if len(bad):
            raise ValueError(
                f"The units of {name!r} take values that are NaN or infinite on these data (unit {bad[0]}, "
                f"{len(bad)} of {len(own.mean)} units). Check the model's weights and the scale of the data."
            )
