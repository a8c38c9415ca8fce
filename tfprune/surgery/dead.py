"""Finds and cuts units that can go at no change of output."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.step import Exit
from tfprune.layers import CountsUnits
from tfprune.masking import refuse_masked
from tfprune.repair import mean
from tfprune.repair.readers import Reading, readings
from tfprune.statistics import exit_statistics
from tfprune.surgery.forms import finished
from tfprune.surgery.removal import cut_out, warn_of_moved_biases
from tfprune.surgery.repairing import rows_of_units


@public
def remove_dead(model: keras.Model, data: Any, tolerance: float = 0.0) -> keras.Model:
    """Cuts out the units that are constant on the data, or that nothing reads, at no change of output.

    A constant goes into the bias of the layers that read it. A unit stays where that would change the output: a
    constant other than zero that a padded convolution reads (the padding is zero, not the constant), and units that a
    layer normalisation counts.

    Args:
        model: a Sequential or functional model. It is not changed.
        data: inputs, whatever `model.fit` takes; targets are not used. "Constant" is meant on these.
        tolerance: largest difference between two values of a unit that still counts as constant, in the unit's own
            unit; 0 means exactly constant.

    Returns:
        A smaller model, compiled as `model` is; one of the same size if there is nothing to remove. At least one unit
        stays in every group.

    Raises:
        TypeError: if the tolerance is no number.
        ValueError: if the tolerance is negative, or the data do not fit.

    Example:
        >>> remove_dead(net, x).count_params() <= net.count_params()    # doctest: +SKIP
        True
    """
    if isinstance(tolerance, bool) or not isinstance(tolerance, numbers.Real):
        raise TypeError(
            f"tolerance: expected a number, received {type(tolerance).__name__}. Inputs and targets are one value: "
            "data=(x, y); targets are not needed."
        )
    if not np.isfinite(tolerance) or tolerance < 0:
        raise ValueError(f"tolerance: expected a number of at least 0, received {tolerance!r}.")
    refuse_masked(model)
    graph = unit_groups(model)
    on = ~_dead_units(graph, data, tolerance)
    _keep_one(graph, on)
    _keep_equal(graph, on)
    # Constants are known from a single sample.
    cut = cut_out(graph, on, mean, data, warns=False)
    warn_of_moved_biases(cut)
    return finished(model, cut)


def _dead_units(graph: UnitGraph, data: Any, tolerance: float) -> np.ndarray:
    """Returns for every unit whether it is unread or a constant that can be folded, at all its exits."""
    dead = np.ones(graph.num_units, bool)
    exits = [exit for exit in graph.records.exits if (graph.columns(exit.ids) >= 0).any()]
    statistics = exit_statistics(graph.model, data, exits)
    for exit in exits:
        columns = graph.columns(exit.ids)
        own = columns >= 0
        gone = unread_units(graph, exit)[columns]
        if exit in statistics:
            moments, channels = statistics[exit], statistics.channels(exit)
            constant = (moments.maximum - moments.minimum <= tolerance)[channels]
            nothing = constant & (np.abs(moments.mean) <= tolerance)[channels]
            gone = gone | nothing | (constant & takes_constants(exit))
        np.logical_and.at(dead, columns[own], gone[own])
    for twin in graph.records.twins.values():
        if issubclass(twin.layer_class, CountsUnits):
            columns = graph.columns(np.concatenate(twin.ids))
            dead[columns[columns >= 0]] = False
    return dead


def unread_units(graph: UnitGraph, exit: Exit) -> np.ndarray:
    """Returns for every unit whether all weights of the exit's reader that multiply it are zero."""
    unread = np.ones(graph.num_units + 1, bool)
    kernels = readings(exit.operation)
    if not kernels:
        return ~unread
    for reading in kernels:
        weights = reading.view(keras.ops.convert_to_numpy(reading.kernel))
        columns = rows_of_units(graph, reading)
        np.logical_and.at(unread, columns, ~weights.any(axis=(0, 2)))
    return unread


def takes_constants(exit: Exit) -> bool:
    """Whether a constant that is not zero can go into a bias of the exit's reader, and does the same there."""
    kernels = readings(exit.operation)
    return bool(kernels) and all(_takes_constant(reading) for reading in kernels)


def _takes_constant(reading: Reading) -> bool:
    layer = reading.layer
    padded = getattr(layer, "padding", "valid") != "valid"
    has_place = reading.bias is not None or "use_bias" in layer.get_config()
    return has_place and not padded and not reading.rows_last and reading.refusal is None


def _keep_one(graph: UnitGraph, on: np.ndarray) -> None:
    for group in graph.values():
        own = on[group.start : group.start + group.size]
        if not own.any():
            own[0] = True


def _keep_equal(graph: UnitGraph, on: np.ndarray) -> None:
    """Keeps more of the shorter side where a layer needs equal numbers of two kinds of units."""
    for one, other, _ in graph.records.equal:
        sides = sorted((graph.columns(ids) for ids in (one, other)), key=lambda side: on[side[side >= 0]].sum())
        counts = [int((on[side] | (side < 0)).sum()) for side in sides]
        fewer, more = (0, 1) if counts[0] <= counts[1] else (1, 0)
        off = sides[fewer][(sides[fewer] >= 0) & ~on[sides[fewer]]]
        on[off[: counts[more] - counts[fewer]]] = True
