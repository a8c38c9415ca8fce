"""Angles between units, and the pairs among them that are much alike or opposite."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune.borders import public
from tfprune.distinctiveness.measuring import checked_groups, vectors_of
from tfprune.distinctiveness.pruning import check_angle
from tfprune.distinctiveness.vectors import SAME_ANGLE
from tfprune.ties import first_lowest, rising_order
from tfprune.units import LayerValues

_MOST_ROWS = 40


@public
def angles(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    vectors: str = "activations",
    centre: str | float = "auto",
) -> LayerValues:
    """Measures the angle between the vectors of each two units of a group: how distinct they are.

    The vector of a unit is its value on every pattern, less a centre: `angle_ij = arccos(<v_i, v_j> / (|v_i| |v_j|))`.
    Units at a small angle do the same up to a factor, those near 180 degrees the opposite. It takes one pass over the
    data that keeps second moments only, so that memory does not grow with the number of patterns.

    Patterns are samples; for convolutions also the positions of the maps, for recurrent layers the steps of time (the
    hidden states), for heads of attention positions and entries of a head.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets are not looked at. Two patterns or more; none for weights.
        layers: names of groups or layers; None takes all units that can be removed.
        vectors: "activations"; or "weights", the incoming weights of each unit, those of all gates and of the recurrent
            kernel included, biases not.
        centre: "auto" takes the middle of the activation: 0.5 for a sigmoid, 0 for tanh, relu and others, moved along
            by a batch normalization behind; a number is taken for all; "mean" makes the cosine a correlation.

    Returns:
        Angles in degrees, `(units, units)` by group name, 0 on the diagonal; 90 to a vector of no length.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if an option or a name is unknown, no unit can be removed, there are fewer than two patterns, or
            values are NaN or infinite.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 1.0], [0.0, 1.0]]), np.zeros(2)])
        >>> angles(net, np.array([[1.0, 0.0], [0.0, 1.0]]))["hidden"].round(6)
        array([[ 0., 45.],
               [45.,  0.]])

    Reference: T. D. Gedeon, D. Harris (1991), "Network reduction techniques".
    """
    graph, names = checked_groups(model, data, layers, vectors, centre)
    found = vectors_of(graph, names, data, vectors, centre)
    return LayerValues({name: own.angles() for name, own in found.items()})


class Pair(NamedTuple):
    """Two units of a group.

    Attributes:
        group: the group's name.
        one: the place of the unit with the longer vector.
        other: the place of the other one.
        angle: between their vectors, in degrees.
        factor: what `one` is to be multiplied with to come closest to `other`.
    """

    group: str
    one: int
    other: int
    angle: float
    factor: float


class Pairs(tuple):
    """Pairs of units in a row. Prints as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        table = Table(title=f"{len(self)} pairs")
        for column in ("group", "unit", "and", "angle", "factor"):
            table.add_column(column, justify="left" if column == "group" else "right")
        for pair in self[:_MOST_ROWS]:
            table.add_row(pair.group, str(pair.one), str(pair.other), f"{pair.angle:.2f}", f"{pair.factor:.4g}")
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(table)
            if len(self) > _MOST_ROWS:
                console.print(f"and {len(self) - _MOST_ROWS} more")
        return capture.get()


@public
def similar_pairs(
    model: keras.Model,
    data: Any = None,
    *,
    threshold: float = 15.0,
    layers: Iterable[str] | str | None = None,
    vectors: str = "activations",
    centre: str | float = "auto",
) -> Pairs:
    """Finds the pairs of units at an angle below a threshold.

    Args:
        model: a Sequential or functional model.
        data: as for `angles`.
        threshold: degrees.
        layers: as for `angles`.
        vectors: as for `angles`.
        centre: as for `angles`.

    Returns:
        The pairs, the smallest angle of each group first; a tuple that prints as a table.

    Raises:
        TypeError: as `angles`.
        ValueError: as `angles`, and if the threshold is no angle from 0 to 180 degrees.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "relu", name="a"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 2.0]]), np.zeros(2)])
        >>> pair = similar_pairs(net, np.array([[1.0], [2.0]]))[0]
        >>> pair.one, pair.other, round(pair.angle, 3), round(pair.factor, 3)
        (1, 0, 0.0, 0.5)
    """
    check_angle("threshold", threshold)
    graph, names = checked_groups(model, data, layers, vectors, centre)
    found = vectors_of(graph, names, data, vectors, centre)
    return Pairs(pair for name, own in found.items() for pair in _pairs(name, own, own.angles() < threshold, 1))


@public
def complementary_pairs(
    model: keras.Model,
    data: Any = None,
    *,
    threshold: float = 165.0,
    layers: Iterable[str] | str | None = None,
    vectors: str = "activations",
    centre: str | float = "auto",
) -> Pairs:
    """Finds the pairs of units at an angle above a threshold.

    Args:
        model: a Sequential or functional model.
        data: as for `angles`.
        threshold: degrees.
        layers: as for `angles`.
        vectors: as for `angles`.
        centre: as for `angles`.

    Returns:
        The pairs, the largest angle of each group first; a tuple that prints as a table.

    Raises:
        TypeError: as `angles`.
        ValueError: as `angles`, and if the threshold is no angle from 0 to 180 degrees.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "tanh", name="a"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, -1.0]]), np.zeros(2)])
        >>> pair = complementary_pairs(net, np.array([[1.0], [2.0]]))[0]
        >>> pair.one, pair.other, round(pair.angle, 3), round(pair.factor, 3)
        (0, 1, 180.0, -1.0)
    """
    check_angle("threshold", threshold)
    graph, names = checked_groups(model, data, layers, vectors, centre)
    found = vectors_of(graph, names, data, vectors, centre)
    return Pairs(pair for name, own in found.items() for pair in _pairs(name, own, own.angles() > threshold, -1))


def _pairs(name: str, own: Any, wanted: np.ndarray, sign: int) -> list[Pair]:
    lengths = own.lengths
    measured, factors = own.angles(), own.factors()
    wanted = np.triu(wanted & np.outer(lengths > 0, lengths > 0), 1)
    pairs = []
    for one, other in np.argwhere(wanted).tolist():
        longer, shorter = (other, one) if first_lowest(-lengths[[one, other]]) else (one, other)
        pairs.append(Pair(name, longer, shorter, float(measured[one, other]), float(factors[longer, shorter])))
    order = rising_order(np.array([sign * pair.angle for pair in pairs]), absolute=SAME_ANGLE)
    return [pairs[number] for number in order.tolist()]
