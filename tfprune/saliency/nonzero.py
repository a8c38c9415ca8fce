"""The score of units by how many of their weights are not zero: from pruned weights to removed units."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.saliency.units import by_group, chosen_groups, made_by, read_by
from tfprune.units import LayerValues

_WHICH = ("incoming", "outgoing", "either", "both")


@public
def nonzero_fraction(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    which: str = "either",
) -> LayerValues:
    """Scores each unit by the share f_nz of its weights that are not zero: how many a pruning of weights has left it.

    `keep_above(nonzero_fraction(model), f_nz)` takes out the units that have at most the share f_nz of their incoming
    or of their outgoing weights left; `remove(model, mask, repair="mean", data=x)` cuts them out and puts their means
    into the next biases. What counts as incoming and outgoing is as for `weight_norm`; a unit that no kernel reads is
    judged by its incoming weights.

    Comparable between groups as a share; it does not say what a layer is worth.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        which: "incoming", "outgoing", "either" for the smaller of the two shares, "both" for the share of all its
            weights together.

    Returns:
        One share from 0 to 1 per unit, `(units,)` by group name.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if `which` or a name is unknown, or no unit can be removed.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 0.0], [2.0, 3.0]]), np.zeros(2)])
        >>> nonzero_fraction(net)["hidden"]
        array([1. , 0.5])

    Reference: U. Evci (2018), section 2.4: units are removed whose f_nz is small, with bias propagation.
    """
    if which not in _WHICH:
        raise ValueError(
            f"nonzero_fraction: `which` expects one of {', '.join(map(repr, _WHICH))}, received {which!r}."
        )
    graph, names = chosen_groups(model, layers)
    incoming, outgoing = (_counts(rows, graph.num_units) for rows in (made_by(graph), read_by(graph)))
    if which == "both":
        share = _share(incoming[0] + outgoing[0], incoming[1] + outgoing[1])
    elif which == "either":
        share = np.minimum(_share(*incoming), _share(*outgoing))
    else:
        share = _share(*(incoming if which == "incoming" else outgoing))
    return by_group(graph, names, share)


def _counts(rows: Iterable[tuple[np.ndarray, np.ndarray]], num_units: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each unit how many weights are not zero, and how many there are."""
    nonzero, total = np.zeros(num_units), np.zeros(num_units)
    for columns, weights in rows:
        own = columns >= 0
        np.add.at(nonzero, columns[own], np.count_nonzero(weights, axis=1)[own])
        np.add.at(total, columns[own], weights.shape[1])
    return nonzero, total


def _share(nonzero: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Returns the quotient; 1 where there are no weights to judge by."""
    return np.where(total > 0, nonzero / np.maximum(total, 1), 1.0)
