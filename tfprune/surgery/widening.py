"""The inverse of cutting: `widen` puts new units into the groups of a model."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from tfprune.borders import public, warn
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.kernels import row_axes
from tfprune.graph.walk import flat_nodes
from tfprune.layers import MaskedBidirectional, MaskedMultiHeadAttention, MaskedRNN
from tfprune.masking import refuse_masked
from tfprune.surgery.biases import moved_biases
from tfprune.surgery.draws import Draws
from tfprune.surgery.forms import finished
from tfprune.surgery.widened import Widened, position_counts
from tfprune.units import describe_unknown

_INSIDE = (MaskedRNN, MaskedBidirectional, MaskedMultiHeadAttention)
"""Twins of layers that read units by kernels inside themselves; any other layer with a twin looks across units."""


@public
def widen(
    model: keras.Model,
    units: Mapping[str, int],
    *,
    initializer: Any = None,
    outgoing: Any = "zero",
    gamma: float | None = None,
    seed: int = 0,
    keep_optimizer: bool = False,
) -> keras.Model:
    """Puts new units into groups: a new, larger model of plain Keras layers that computes what `model` computes.

    The inverse of `remove`: cutting the new units out again, the last ones of their group, gives back the original's
    weights. The weights by which new units are read are zero, so that they change nothing before training moves them;
    those that make them are drawn, so that training does move them:

        y = W_old f(V_old x) + 0 f(V_new x)

    Where no kernel reads units, new ones would count at once, whatever their weights: those that a layer, RMS or unit
    normalisation, a sum or a dot product goes over cannot be added to. In training, what counts units or looks at a
    batch (dropout, activity regularisers) sees the new ones from the start. A unit whose own function is not defined
    everywhere (a logarithm, a quotient) may be NaN when it is new, which zero weights do not hide.

    Layers that grow are built anew from their configuration; all others are copied with everything that they hold.

    Args:
        model: a Sequential or functional model. It is not changed.
        units: the new number of units by name of the group, at least as many as `unit_groups(model)` has there; groups
            that it leaves out stay as they are.
        initializer: what the kernels that make new units are drawn from, a Keras initializer or its name; None for each
            layer's own. All other weights of new units (biases, batch norms, slopes) are what the layer begins with.
        outgoing: "zero", or what the weights by which new units are read are drawn from, a Keras initializer or its
            name. The model then computes something else, and any group can grow.
        gamma: the scale of new units in batch and group norms; None for what the layer begins with.
        seed: the same seed draws the same numbers.
        keep_optimizer: whether the new model's optimizer gets the old one's moments; those of new weights are zero.

    Returns:
        A model with the same structure, names, policies, flags and regularisers. It is compiled if `model` is, with the
        same loss, fresh metrics and a fresh optimizer of the same settings.

    Raises:
        TypeError: if `model` or a number of units is of the wrong kind.
        ValueError: if a group is unknown, its units have to stay, or it would get smaller; if the function could not be
            kept; if an initializer is unknown; if sides would be unequal that a row of one's own wants equal.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="hidden"), keras.layers.Dense(1)])
        >>> wide = widen(net, {"hidden": 5})
        >>> wide.get_layer("hidden").units, wide.layers[-1].kernel.numpy()[3:].ravel().tolist()
        (5, [0.0, 0.0])

    Reference: the expansion of S. Qiao, Z. Lin, J. Zhang, A. Yuille, "Neural rejuvenation: improving deep network
    training by enhancing computational resource utilization" (2019), without its drawn weights between new units.
    """
    refuse_masked(model)
    draws = Draws(initializer, outgoing, gamma, seed)
    graph = unit_groups(model)
    more = checked_units(graph, units)
    check_readers(graph, more, keeps_function=draws.outgoing is None)
    wide = Widened(graph, more, draws)
    for moved in moved_biases(wide) if draws.outgoing is None else ():
        raise ValueError(f"units: {moved} than the original. Ask for another number of units there.")
    if gamma is not None and any(more.values()) and not draws.num_scales:
        warn(f"gamma: no unit that was added to {', '.join(map(repr, more))} goes through a batch or group norm.")
    return finished(model, wide, keep_optimizer=keep_optimizer)


def checked_units(graph: UnitGraph, units: Any) -> dict[str, int]:
    """Returns how many units are new in each group that is named.

    Raises:
        TypeError: if it is no mapping, or a number no whole one.
        ValueError: if a group is unknown, fixed, or would get smaller, or if two sides would be unequal.
    """
    if not isinstance(units, Mapping):
        raise TypeError(f"units: expected a mapping {{group: number of units}}, received {type(units).__name__}.")
    more = {}
    for name, count in units.items():
        if name not in graph:
            raise ValueError(_unknown(graph, name))
        if isinstance(count, bool | np.bool_) or not isinstance(count, numbers.Integral):
            raise TypeError(
                f"units: expected a whole number for group {name!r}, received {count!r} of type "
                f"{type(count).__name__}. It is the new number of its units, {graph[name].size} now."
            )
        if count < graph[name].size:
            raise ValueError(
                f"units: group {name!r} has {graph[name].size} units, and cannot be widened to {count}. "
                "tfprune.remove(model, mask) takes units out."
            )
        more[name] = int(count) - graph[name].size
    counts = position_counts(graph, more)
    for one, other, reason in graph.records.equal:
        sides = int(counts[graph.columns(one)].sum()), int(counts[graph.columns(other)].sum())
        if sides[0] != sides[1]:
            raise ValueError(
                f"units: {reason}, but there would be {sides[0]} and {sides[1]}. Widen the groups of both sides."
            )
    return more


def _unknown(graph: UnitGraph, name: Any) -> str:
    if name in graph.fixed:
        return f"units: none can be added to {name!r} ({graph.fixed[name][1]}). Groups: {', '.join(graph) or 'none'}."
    if isinstance(name, str) and name in {layer.name for layer in graph.model._flatten_layers()}:
        return f"units: {graph.unknown(name).removeprefix('layers: ')}"
    return f"units: {describe_unknown([name], graph.names)}"


def check_readers(graph: UnitGraph, more: Mapping[str, int], *, keeps_function: bool) -> None:
    """Raises ValueError where new units would be read by something that zeros among its weights do not silence."""
    more = {name: count for name, count in more.items() if count}
    if keeps_function:
        for node in flat_nodes(graph.model):
            twin = graph.records.twins.get(id(node))
            if twin is not None and not issubclass(twin.layer_class, _INSIDE):
                _refuse(graph, more, twin.ids, node.operation, "looks across all units")
        for exit in graph.records.exits:
            if not exit.kernel:
                _refuse(graph, more, [exit.ids], exit.operation, "sums over units without a kernel")
    for exit in graph.records.exits:
        if exit.kernel and not row_axes(graph, exit):
            _refuse(
                graph, more, [exit.ids], exit.operation, "reads units by weights that cannot be told from others", ""
            )


def _refuse(
    graph: UnitGraph,
    more: Mapping[str, int],
    ids: Iterable[np.ndarray],
    operation: Any,
    reason: str,
    mend: str = " Widen other groups, or give outgoing=initializer: then the model computes something else.",
) -> None:
    """Raises ValueError if there are units of groups that grow among `ids`."""
    columns = np.concatenate([graph.columns(own) for own in ids])
    for name in more:
        start, size = graph[name].start, graph[name].size
        if ((columns >= start) & (columns < start + size)).any():
            raise ValueError(
                f"units: group {name!r} cannot be widened: {operation.name!r} ({type(operation).__name__}) {reason}, "
                f"so new ones would change what it gives out.{mend}"
            )
