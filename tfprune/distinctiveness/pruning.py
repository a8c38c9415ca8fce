"""The distinctiveness pruner of Gedeon and Harris: the public functions."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.distinctiveness.grouping import TRANSFERS, Criteria, Readers, removals
from tfprune.distinctiveness.measuring import check_data, checked_groups, reader_vectors, vectors_of
from tfprune.distinctiveness.planning import Plan, balanced
from tfprune.distinctiveness.vectors import Vectors
from tfprune.graph import UnitGraph
from tfprune.graph.step import Exit
from tfprune.layers import CountsUnits
from tfprune.repair.readers import readings
from tfprune.surgery.dead import takes_constants, unread_units
from tfprune.units import LayerValues


@public
def plan(
    model: keras.Model,
    data: Any = None,
    *,
    similar: float = 15.0,
    complementary: float = 165.0,
    transfer: str = "exact",
    vectors: str = "activations",
    centre: str | float = "auto",
    layers: Iterable[str] | str | None = None,
    tolerance: float = 1e-3,
    groups_of: int = 2,
) -> Plan:
    """Decides what `prune` takes out, and says so: a report that prints, with the mask and the repair in it.

    Args:
        model: as for `prune`, and so are all others.
        data: see there.
        similar: see there.
        complementary: see there.
        transfer: see there.
        vectors: see there.
        centre: see there.
        layers: see there.
        tolerance: see there.
        groups_of: see there.

    Returns:
        The plan; `.cut()` gives the smaller model.

    Raises:
        TypeError: as `prune`.
        ValueError: as `prune`.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "relu", name="a"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 2.0]]), np.zeros(2)])
        >>> (gone,) = plan(net, np.array([[1.0], [2.0]])).removals
        >>> gone.unit, gone.reason, gone.partners, round(gone.factors[0], 6)
        (0, 'similar', (1,), 0.5)
    """
    criteria = checked_criteria(similar, complementary, transfer, tolerance, groups_of)
    graph, names = checked_groups(model, data, layers, vectors, centre)
    if vectors == "weights" and transfer == "exact":
        check_data(model, data, "the transfer 'exact' (choose 'gedeon' or 'none' to do without)")
    skipped = {name: reason for name in names if (reason := _obstacle(graph, name, transfer)) is not None}
    names = tuple(name for name in names if name not in skipped)
    measured = vectors_of(graph, names, data, vectors, centre)
    readers = _readers(graph, names, data, transfer)
    angles = dict.fromkeys(names)
    if vectors == "weights" and transfer == "exact":
        # Weights say who goes, activations by what factor others stand in.
        angles = {name: own.angles() for name, own in measured.items()}
        measured = vectors_of(graph, names, data, "activations", "auto")
    found = [
        own for name in names for own in removals(name, measured[name], readers[name], criteria, angles=angles[name])
    ]
    found = balanced(graph, found)
    gone = {(own.group, own.unit) for own in found}
    mask = {name: [(name, unit) not in gone for unit in range(group.size)] for name, group in graph.items()}
    held = {
        name: units for name in names if (units := _held(measured[name], angles[name], np.array(mask[name]), criteria))
    }
    return Plan(model, criteria, tuple(found), LayerValues(mask), skipped, held, readers)


def _held(vectors: Vectors, angles: np.ndarray | None, kept: np.ndarray, criteria: Criteria) -> tuple[int, ...]:
    """Returns the units that stay beside one that stays, at an angle at which one of both should go."""
    if criteria.transfer != "exact":
        return ()
    angles = vectors.angles() if angles is None else angles
    pairs = (angles < criteria.similar) | (angles > criteria.complementary)
    pairs &= np.outer(kept & (vectors.lengths > 0), kept & (vectors.lengths > 0))
    np.fill_diagonal(pairs, False)
    return tuple(np.flatnonzero(pairs.any(axis=0)).tolist())


@public
def prune(
    model: keras.Model,
    data: Any = None,
    *,
    similar: float = 15.0,
    complementary: float = 165.0,
    transfer: str = "exact",
    vectors: str = "activations",
    centre: str | float = "auto",
    layers: Iterable[str] | str | None = None,
    tolerance: float = 1e-3,
    groups_of: int = 2,
) -> keras.Model:
    """Cuts out units that do what others do already: those whose vectors point the same way, or the opposite way.

    The vector of a unit is its value over all patterns, less the middle of its activation. Units that do nothing, or
    always the same, go as well. Every angle is one to a unit that is *kept* (15 and 15 degrees do not make 15): of a
    chain or a star the unit with most neighbours stays.

    Transfers of the removed units' outgoing weights:

    - "exact": `w_keep += k w_removed` with `k = <v_keep, v_removed> / <v_keep, v_keep>`, and the bias gets
      `(c_removed - k c_keep) w_removed`, c the centres. Of a complementary pair *one* goes (k is negative). A clone, a
      scaled relu clone, a negated tanh unit, one minus a sigmoid, and a constant leave the output as it was. Recurrent
      weights go along. Where a reader sees a unit otherwise than its home shows it (behind another normalization,
      or as a state that starts at zero), k is measured there; a unit that its readers cannot replace (a constant other
      than zero in front of padding, or read by its own recurrent kernel) stays.
    - "gedeon": as published: `w_keep += w_removed` for similar units, both units of a complementary pair go, and so
      does an insignificant one, all three without any further correction; a constant goes into the bias.
    - "none": the same units go as with "gedeon", and nothing is carried over.

    Args:
        model: a Sequential or functional model. It is not changed.
        data: inputs, whatever `model.fit` takes; targets are not used. Two patterns or more; with vectors="weights" and
            another transfer than "exact" none are needed.
        similar: degrees; two units at a smaller angle are similar. 0 turns this off.
        complementary: degrees; two units at a larger angle are complementary. 180 turns this off.
        transfer: "exact", "gedeon" or "none".
        vectors: "activations", or "weights" to compare incoming weights, as `angles` does.
        centre: as for `angles`.
        layers: names of groups or layers; None takes all units that can be removed.
        tolerance: a vector shorter than this share of its group's longest is insignificant; a unit whose standard
            deviation is less than this share of its vector's length is constant.
        groups_of: 3 or more looks also for units that so many together cancel, or sum to a constant: one of them goes
            to the others ("exact"; any factors), or all of them go ("gedeon"; factors of one). Takes time that grows
            with the cube of a layer's width.

    Returns:
        A smaller model, compiled as `model` is; at least one unit stays in every group. `plan` gives the report.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if thresholds are outside 0 to 180 or cross, an option or a name is unknown, no unit can be removed,
            there are fewer than two patterns, or data are NaN or infinite.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, "relu", name="a"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[1.0, 2.0]]), np.zeros(2)])
        >>> net.layers[1].set_weights([np.array([[1.0], [1.0]]), np.zeros(1)])
        >>> small = prune(net, np.array([[1.0], [2.0]]))
        >>> small.layers[0].units, float(small.layers[1].kernel[0, 0])
        (1, 1.5)

    Reference: T. D. Gedeon, D. Harris (1991), "Network reduction techniques"; T. D. Gedeon (1995), "Indicators of
    hidden neuron functionality: the weight matrix versus neuron behaviour".
    """
    return plan(
        model,
        data,
        similar=similar,
        complementary=complementary,
        transfer=transfer,
        vectors=vectors,
        centre=centre,
        layers=layers,
        tolerance=tolerance,
        groups_of=groups_of,
    ).cut()


def checked_criteria(similar: Any, complementary: Any, transfer: Any, tolerance: Any, groups_of: Any) -> Criteria:
    """Returns the criteria.

    Raises:
        ValueError: if a threshold lies outside 0 to 180 degrees, the two cross, or an option is out of its range.
    """
    for name, angle in (("similar", similar), ("complementary", complementary)):
        check_angle(name, angle)
    if similar > complementary:
        raise ValueError(
            f"similar, complementary: the thresholds cross: {similar} is above {complementary} degrees, so that pairs "
            "in between would be both. Expected similar <= complementary, such as 15 and 165."
        )
    if transfer not in TRANSFERS:
        raise ValueError(f"transfer: expected one of {', '.join(map(repr, TRANSFERS))}, received {transfer!r}.")
    if not _is_number(tolerance) or not 0 <= tolerance < 1:
        raise ValueError(f"tolerance: expected a share from 0 to below 1, received {tolerance!r}.")
    if isinstance(groups_of, bool) or not isinstance(groups_of, numbers.Integral) or groups_of < 2:
        raise ValueError(f"groups_of: expected a whole number of at least 2, received {groups_of!r}.")
    return Criteria(float(similar), float(complementary), float(tolerance), int(groups_of), transfer)


def check_angle(name: str, angle: Any) -> None:
    """Raises ValueError if an angle is no number from 0 to 180 degrees."""
    if not _is_number(angle) or not 0 <= angle <= 180:
        raise ValueError(f"{name}: expected an angle from 0 to 180 degrees, received {angle!r}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _obstacle(graph: UnitGraph, name: str, transfer: str) -> str | None:
    """Returns why the weights of a group's units cannot be given away, or None."""
    if transfer == "none":
        return None
    reason = None
    for exit in _exits(graph, name):
        kernels = readings(exit.operation)
        own = [reading for reading in kernels if not reading.own_state or exit.tensor is None]
        if not exit.kernel and transfer == "exact":
            reason = f"{exit.name!r} reads them without a kernel, so that nothing can stand in for one"
        elif exit.kernel and not kernels:
            reason = f"the kernel of {exit.name!r} has a form that no repair knows"
        elif exit.tensor is None and any(reading.refusal for reading in own):
            reason = (
                next(reading.refusal for reading in own if reading.refusal) + " (transfer='none' cuts all the same)"
            )
    for twin in graph.records.twins.values() if transfer == "exact" else ():
        columns = graph.columns(np.concatenate(twin.ids))
        if issubclass(twin.layer_class, CountsUnits) and _own(graph, name, columns).any():
            reason = "a layer normalization takes its statistics over them"
    return reason


def _own(graph: UnitGraph, name: str, columns: np.ndarray) -> np.ndarray:
    start = graph[name].start
    return (columns >= start) & (columns < start + graph[name].size)


def _exits(graph: UnitGraph, name: str) -> list[Exit]:
    return [exit for exit in graph.records.exits if _own(graph, name, graph.columns(exit.ids)).any()]


def _readers(graph: UnitGraph, names: tuple[str, ...], data: Any, transfer: str) -> dict[str, Readers]:
    """Returns how the units of each group are read; only the exact transfer asks for it."""
    if transfer != "exact":
        return {name: Readers({}, np.ones(graph[name].size, bool), {}) for name in names}
    seen = reader_vectors(graph, names, data)
    result = {}
    for name in names:
        size = graph[name].size
        constants, vectors, intercepts = np.ones(size, bool), {}, {}
        for exit in _exits(graph, name):
            if not exit.kernel:
                continue
            unread = unread_units(graph, exit)[graph[name].start : graph[name].start + size]
            # The state that a recurrent kernel reads starts at zero, so no constant equals it.
            takes = exit.tensor is not None or not isinstance(exit.operation, keras.layers.RNN)
            takes = takes and takes_constants(exit)
            constants &= unread | takes
            reader = exit.node.operation.name
            if (reader, name) in seen:
                vectors[reader] = _where_read(seen[reader, name], unread)
                intercepts[reader] = intercepts.get(reader, True) and takes
        result[name] = Readers(vectors, constants, intercepts)
    return result


def _where_read(seen: Vectors, unread: np.ndarray) -> Vectors:
    """Returns the vectors with those set to zero that are multiplied by weights of zero."""
    on = (~unread).astype("float64")
    return Vectors(seen.mean * on, seen.covariance * np.outer(on, on), seen.centre, seen.count)
