"""Scores of units from weights and from activations."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.kernels import making_kernels, reading_kernel
from tfprune.statistics import unit_statistics
from tfprune.units import LayerValues

_DIRECTIONS = ("incoming", "outgoing", "both")


def chosen_groups(
    model: keras.Model, layers: Iterable[str] | str | None, *, blocks: bool = False
) -> tuple[UnitGraph, tuple[str, ...]]:
    """Reads a model and returns its units with the names of the groups to score; `blocks` as for `UnitGraph.choose`.

    Raises:
        ValueError: if there is nothing to score, a name is unknown, or a weight is NaN or infinite.
    """
    graph = unit_groups(model)
    check_finite_weights(model)
    names = graph.choose(layers, blocks=blocks)
    if not names:
        raise ValueError(
            f"model {model.name!r} has no units that can be removed, so there is nothing to score.\n{graph!r}"
        )
    return graph, names


def check_data(data: Any, score: str) -> None:
    """Raises TypeError if a score that looks at data gets none."""
    if data is None:
        raise TypeError(
            f"saliency.{score} needs data: saliency.{score}(model, data), with x, (x, y), a tf.data.Dataset or a "
            "PyDataset. Scores that need none: weight_norm, batch_norm_scale, random."
        )


@public
def weight_norm(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    order: int = 1,
    squared: bool = False,
    which: str = "incoming",
) -> LayerValues:
    """Scores each unit by the norm of its weights: L1 is sum |w|, L2 is sqrt(sum w^2), L2 squared is sum w^2.

    The steadiest of the cheap scores; it knows nothing of the data. Incoming weights are the kernels that make the unit
    in all layers of its group, all gates of a recurrent layer and its recurrent kernel included, and for a head of
    attention its query, key and value projections; biases and norms do not count. Outgoing weights are the kernels that
    read the unit, at every position; where a norm or a dot product reads it, there are none.

    Not comparable between groups: a norm grows with the number of weights, and each layer has its own scale.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        order: 1 or 2.
        squared: with order 2, whether to leave out the square root.
        which: "incoming", "outgoing", or "both" taken together as one vector.

    Returns:
        One norm per unit, `(units,)` by group name, in the unit of the weights (squared, if `squared`).

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if an option or a name is unknown, or no unit can be removed.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, -2.0], [3.0, 0.5]]), np.zeros(2)])
        >>> weight_norm(net)["hidden"]
        array([4. , 2.5])

    Reference: H. Li et al. (2017), "Pruning filters for efficient ConvNets", section 3.1 (L1); U. Evci (2018), table
    4.1 (L1 and L2 squared).
    """
    if order not in (1, 2) or (squared and order == 1):
        raise ValueError(
            f"weight_norm: expected order=1, or order=2 with squared=False or True; received order={order!r}, "
            f"squared={squared!r}."
        )
    if which not in _DIRECTIONS:
        raise ValueError(
            f"weight_norm: `which` expects one of {', '.join(map(repr, _DIRECTIONS))}, received {which!r}."
        )
    graph, names = chosen_groups(model, layers)
    rows = [*(made_by(graph) if which != "outgoing" else ()), *(read_by(graph) if which != "incoming" else ())]
    total = np.zeros(graph.num_units)
    for columns, weights in rows:
        powers = np.sum(np.abs(weights) ** order, axis=1)
        np.add.at(total, columns[columns >= 0], powers[columns >= 0])
    total = np.sqrt(total) if order == 2 and not squared else total
    return by_group(graph, names, total)


def by_group(graph: UnitGraph, names: Iterable[str], columns: np.ndarray) -> LayerValues:
    """Cuts a vector with one entry per unit of the graph, `(num_units,)`, into groups."""
    return LayerValues({name: columns[graph[name].start :][: graph[name].size] for name in names})


def made_by(graph: UnitGraph) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `(columns, weights)`, weights `(positions, numbers)`, of the kernels that make units."""
    for variable, axis, ids in making_kernels(graph):
        values = np.moveaxis(keras.ops.convert_to_numpy(variable).astype("float64"), axis, 0)
        yield graph.columns(ids), values.reshape(len(values), -1)


def read_by(graph: UnitGraph) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `(columns, weights)` of the kernels that read units, each kernel once however often it is called."""
    seen = set()
    for exit in graph.records.exits:
        kernel = reading_kernel(graph, exit)
        if kernel is None:
            continue
        columns, weights = graph.columns(exit.ids), kernel.reshape(len(kernel), -1)
        key = id(exit.operation), exit.tensor is None, exit.axis, columns.tobytes(), weights.tobytes()
        if key not in seen:
            seen.add(key)
            yield columns, weights


@public
def random(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    seed: int | None = None,
) -> LayerValues:
    """Scores each unit by a random number: the yardstick that every other score has to beat.

    Comparable between groups.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        seed: a whole number for the same scores at every call, whatever `layers` is; None for other ones at each call.

    Returns:
        Numbers drawn evenly from 0 to 1, `(units,)` by group name, independent between groups.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if `seed` is negative, a name is unknown, or no unit can be removed.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(9, name="hidden"), keras.layers.Dense(1)])
        >>> random(net, seed=1) == random(net, seed=1), random(net, seed=1) == random(net, seed=2)
        (True, False)
    """
    if seed is not None and seed < 0:
        raise ValueError(f"random: `seed` expects a whole number of at least 0, or None; received {seed!r}.")
    graph, names = chosen_groups(model, layers)
    entropy = np.random.SeedSequence().entropy if seed is None else seed
    return LayerValues(
        {name: np.random.default_rng([entropy, zlib.crc32(name.encode())]).random(graph[name].size) for name in names}
    )


@public
def activation_std(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    outgoing: bool = False,
) -> LayerValues:
    """Scores each unit by the standard deviation of its value over samples and positions.

    A unit that never changes can go into the next bias; taking out one of standard deviation s changes what reads it by
    at most s times the norm of its outgoing weights, in the root mean square. Heads of attention show in no tensor;
    they are scored by the L2 norm of their incoming weights instead.

    Not comparable between groups: each layer has its own scale.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        outgoing: whether to multiply by the L2 norm of the unit's outgoing weights.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the activations.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names or data do not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 0.0]]), np.array([0.0, 5.0])])
        >>> activation_std(net, np.array([[-1.0], [1.0]]))["hidden"]
        array([1., 0.])

    Reference: "Prune first or train first", the comment on the standard deviation of a node.
    """
    graph, names = chosen_groups(model, layers)
    check_data(data, "activation_std")
    statistics = unit_statistics(model, data, layers=names)
    scores = {name: np.sqrt(values) for name, values in statistics.variance.items()}
    if statistics.skipped:
        scores |= weight_norm(model, layers=statistics.skipped, order=2)
    if outgoing:
        norms = weight_norm(model, layers=names, order=2, which="outgoing")
        scores = {name: scores[name] * norms[name] for name in names}
    return LayerValues({name: scores[name] for name in names})


@public
def zero_fraction(model: keras.Model, data: Any = None, *, layers: Iterable[str] | str | None = None) -> LayerValues:
    """Scores each unit by the share of its values that are not zero: 1 - APoZ.

    Made for relu; where an activation never gives an exact zero, all units score 1, and so do heads of attention, which
    show in no tensor.

    Comparable between groups as a share; it does not say what a layer is worth.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.

    Returns:
        One score from 0 (always zero) to 1 (never) per unit, `(units,)` by group name.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names or data do not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "relu", name="a"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 1.0]]), np.array([0.0, 5.0])])
        >>> zero_fraction(net, np.array([[-1.0], [1.0]]))["a"]
        array([0.5, 1. ])

    Reference: H. Hu et al. (2016), "Network trimming", equation 1 (average percentage of zeros).
    """
    graph, names = chosen_groups(model, layers)
    check_data(data, "zero_fraction")
    shares = unit_statistics(model, data, layers=names).zero_fraction
    return LayerValues({name: 1 - shares[name] if name in shares else np.ones(graph[name].size) for name in names})


@public
def batch_norm_scale(model: keras.Model, data: Any = None, *, layers: Iterable[str] | str | None = None) -> LayerValues:
    """Scores each unit by the scale |gamma| that batch normalization gives it, the mean of them where several do.

    Made for networks trained with an L1 penalty on the scales. Groups that no batch normalization with a scale follows
    get no scores: they are missing from the result, and so from the mask that is made of it.

    Comparable between groups where the same penalty was put on all scales in training, as in the source; otherwise not.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of groups or layers; None takes all units that a batch normalization scales.

    Returns:
        One scale per unit, `(units,)` by group name.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if a name is unknown, or units asked for have no batch normalization.

    Example:
        >>> norm = keras.layers.BatchNormalization()
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="a"), norm, keras.layers.Dense(1)])
        >>> norm.gamma.assign([0.5, -2.0])                                                       # doctest: +ELLIPSIS
        <...
        >>> batch_norm_scale(net)["a"]
        array([0.5, 2. ])

    Reference: Z. Liu et al. (2017), "Learning efficient convolutional networks through network slimming".
    """
    graph, names = chosen_groups(model, layers)
    total, count = np.zeros(graph.num_units), np.zeros(graph.num_units)
    for layer in model._flatten_layers():
        gamma = getattr(layer, "gamma", None) if isinstance(layer, keras.layers.BatchNormalization) else None
        weight = graph.records.weights.get(id(gamma))
        if weight is None or weight.axes[0] is None:
            continue
        columns = graph.columns(weight.axes[0])
        scales = np.abs(keras.ops.convert_to_numpy(gamma).astype("float64"))
        np.add.at(total, columns[columns >= 0], scales[columns >= 0])
        np.add.at(count, columns[columns >= 0], 1)
    scaled = [name for name in names if (by_group(graph, [name], count)[name] > 0).all()]
    without = [name for name in names if name not in scaled]
    if not scaled or (layers is not None and without):
        raise ValueError(
            f"batch_norm_scale: no batch normalization with a scale follows the units of {', '.join(without)}. Name "
            "other layers, or use another score for these, such as weight_norm."
        )
    return by_group(graph, scaled, total / np.maximum(count, 1))
