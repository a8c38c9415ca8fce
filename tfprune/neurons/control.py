"""Models whose neurons are held at a value, or shifted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.data import as_batches
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.finite import check_finite_weights
from tfprune.masking import StandIn, group_of, member_of, refuse_masked, replaced_at_homes
from tfprune.neurons.activations import Activations, Reading
from tfprune.neurons.covariances import Covariances
from tfprune.neurons.ranking import units_of_labels
from tfprune.ties import rising_order
from tfprune.units import LayerValues, check_like

Neurons = Mapping[str, Any] | Iterable[str] | str


@public
def control(
    model: keras.Model,
    neurons: Neurons,
    value: float | Mapping[str, Any] | None = None,
    *,
    z: float | Mapping[str, Any] | None = None,
    shift: float | Mapping[str, Any] | None = None,
    positions: Sequence[int] | str | None = None,
    data: Any = None,
) -> keras.Model:
    """Builds a model some of whose neurons are held at a value, or shifted; the weights are shared.

    To see what a neuron does, one makes it do it: held at a high or a low value it should bring about, or suppress,
    what it stands for. Exactly one of `value`, `z` and `shift` says what stands in for a neuron's activation a:

        value: v          z: mean + z * std          shift: a + s

    A neuron is replaced where it shows: behind the batch norm and the activation that follow its layer alone, at all
    positions, so that all that reads it sees what stands in. A recurrent layer goes on from it as well, its initial
    state included.

    Args:
        model: a Sequential or functional model. It is not changed.
        neurons: which: `{group or layer: unit, units or a mask of bool}`, or labels such as "hidden[3]", as
            `ranking.labels(10)` gives them. Of a Bidirectional they are those of the direction that is named, or,
            where both are added, averaged or multiplied, what both give together at a step (their
            states go on as they were).
        value: one number for all, or `(units,)` by name.
        z: likewise, in standard deviations from the mean of each neuron over `data`.
        shift: likewise, added; `class_shift` makes it of the means of two classes.
        positions: steps of the sequence at which it happens, counted from the end (of the padded sequence) if negative;
            "input" for one more input of the model, `positions`, `(batch, steps)`, 1 where it happens; None for all.
            What a layer gives out as its last state is then left alone.
        data: for `z`: inputs over which mean and standard deviation are taken, steps that Keras masks left out; or
            `Activations` of the model.

    Returns:
        A functional model with the inputs and outputs of `model`, not compiled. Names and weights are the model's own.

    Raises:
        TypeError: if `model` is no Keras model, or neurons or numbers are of no kind that can be read.
        ValueError: if a neuron does not exist, or shows in no tensor; if not exactly one of value, z and shift is
            given, or one is NaN, infinite or of another length; if `z` has no `data`; or if there are `positions` and
            the neurons have no steps.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.set_weights([np.array([[1.0, 2.0]]), np.zeros(2), np.ones((2, 1)), np.zeros(1)])
        >>> control(net, {"hidden": 1}, 10.0)(np.ones((1, 1))).numpy().tolist()
        [[11.0]]
        >>> control(net, "hidden[1]", z=2.0, data=np.array([[0.0], [2.0]]))(np.ones((1, 1))).numpy().tolist()
        [[7.0]]

    Reference: A. Bau et al. (2019), "Identifying and controlling important neurons in neural machine translation",
    section 6; O. Antverg, Y. Belinkov (2022), "On the pitfalls of analyzing individual neurons in language models",
    section 4.2, for the shift.
    """
    given = {name: own for name, own in (("value", value), ("z", z), ("shift", shift)) if own is not None}
    if len(given) != 1:
        raise ValueError(
            f"control: expected exactly one of value, z and shift, received {', '.join(given) or 'none of them'}."
        )
    refuse_masked(model)
    graph = unit_groups(model)
    chosen = check_neurons(graph, neurons)
    ((what, numbers),) = given.items()
    values = {name: _numbers(numbers, name, len(off), what) for name, off in chosen.items()}
    if what == "z":
        mean, std = _means(model, data, chosen)
        values = {name: mean[name] + own * std[name] for name, own in values.items()}
    _check_positions(positions)
    stand_ins = {name: StandIn(values[name], off, relative=what == "shift") for name, off in chosen.items()}
    return replaced_at_homes(model, stand_ins, positions).model


def check_neurons(graph: UnitGraph, neurons: Neurons) -> dict[str, np.ndarray]:
    """Returns which units are meant, bool `(units,)` by the name of a group or a layer.

    Args:
        graph: the units of a model.
        neurons: as for `control`.

    Raises:
        TypeError: if it is of no such kind.
        ValueError: if it is empty, or a name is unknown, or a unit does not exist.
    """
    if hasattr(neurons, "labels") and not isinstance(neurons, Mapping):
        raise TypeError("neurons: received a ranking, which has all units. Say how many: ranking.labels(10).")
    if isinstance(neurons, str) or not isinstance(neurons, Mapping):
        neurons = units_of_labels(neurons, "neurons")
    chosen = {}
    for name, units in neurons.items():
        chosen[name] = _as_mask(units, name, group_of(graph, member_of(graph, name)).size)
    if not any(own.any() for own in chosen.values()):
        raise ValueError("neurons: there is none. Give {group: units}, such as {'hidden': [3, 7]}.")
    return chosen


def _as_mask(units: Any, name: str, size: int) -> np.ndarray:
    units = np.atleast_1d(np.asarray(units))
    if units.dtype.kind == "b" and units.shape == (size,):
        return units
    if units.size and (units.dtype.kind not in "iu" or units.ndim != 1):
        raise TypeError(
            f"neurons: {name!r} expects numbers of units, or a mask of bool ({size},), received {units.dtype} of shape "
            f"{units.shape}."
        )
    bad = [int(unit) for unit in units if not 0 <= unit < size]
    if bad:
        raise ValueError(f"neurons: {name!r} has the units 0 to {size - 1}; received {bad[0]}.")
    mask = np.zeros(size, bool)
    mask[units.astype(int)] = True
    return mask


def _numbers(given: Any, name: str, size: int, what: str) -> np.ndarray:
    own = given.get(name) if isinstance(given, Mapping) else given
    array = np.asarray(own)
    if own is None or array.dtype.kind not in "iuf" or array.shape not in ((), (size,)):
        raise ValueError(
            f"{what}: {name!r} expects one number, or one for each of its {size} units, ({size},); received {own!r}."
        )
    if not np.isfinite(array).all():
        raise ValueError(f"{what}: {name!r} has numbers that are NaN or infinite.")
    return np.broadcast_to(array.astype("float64"), (size,))


def _means(model: keras.Model, data: Any, names: Iterable[str]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Returns mean and standard deviation of units over all positions that Keras does not mask, by name."""
    if data is None:
        raise ValueError("control: z needs `data`, over which the mean and the standard deviation are taken.")
    if isinstance(data, Activations):
        moments = {name: Covariances([data[name].shape[1]], own="squares") for name in names}
        for name, own in moments.items():
            own.add([data[name]])
    else:
        check_finite_weights(model)
        reading = Reading(model, list(names), "positions")
        moments = {name: Covariances([size], own="squares") for name, size in reading.sizes.items()}
        for batch in as_batches(data, model, batch_size=reading.samples_at_once, targets="ignore"):
            for name, (values, _, _) in reading.rows(batch.inputs).items():
                moments[name].add([values])
        reading.check_counts({name: own.count for name, own in moments.items()})
    means = {name: own.means[0] for name, own in moments.items()}
    return means, {name: np.sqrt(own.squares[0] / own.count) for name, own in moments.items()}


def _check_positions(positions: Any) -> None:
    if positions is None or (isinstance(positions, str) and positions == "input"):
        return
    array = np.asarray(positions)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise ValueError(
            f"positions: expected numbers of steps, such as [0, -1], or 'input', or None; received {positions!r}."
        )


@public
def class_shift(
    activations: Mapping[str, np.ndarray],
    labels: Any,
    *,
    source: Any,
    target: Any,
    beta: float = 8.0,
    ranking: Any = None,
) -> LayerValues:
    """What `control(shift=...)` adds to bring neurons from one class to another: a multiple of the difference of means.

        shift_j = beta_j * (mean of j over the points of `target` - mean of j over those of `source`)

    Args:
        activations: arrays `(points, units)` by name, such as `neurons.activations` gives.
        labels: the class of every point, `(points,)`.
        source: the class to leave.
        target: the class to reach.
        beta: the multiple; 1 moves the mean of one class onto that of the other.
        ranking: scores of the units by name, higher is more important, or a `Ranking`: `beta` then falls along it
            geometrically to 0.001, so that the last neurons hardly move. None for the same `beta` everywhere.

    Returns:
        The shifts, `(units,)` by name.

    Raises:
        ValueError: if labels do not fit the points, a class has no points, or beta is not above 0.

    Example:
        >>> shift = class_shift({"hidden": np.array([[0.0, 1.0], [2.0, 1.0]])}, [0, 1], source=0, target=1, beta=2.0)
        >>> shift["hidden"].tolist()
        [4.0, 0.0]

    Reference: O. Antverg, Y. Belinkov (2022), "On the pitfalls of analyzing individual neurons in language models",
    section 4.2.
    """
    if not isinstance(activations, Mapping) or not len(activations):
        raise TypeError(
            f"activations: expected arrays (points, units) by name, received {type(activations).__name__}. "
            "neurons.activations(model, data) makes them."
        )
    labels = np.asarray(labels)
    if not beta > 0:
        raise ValueError(f"beta: expected a number above 0, received {beta!r}.")
    differences = {}
    for name, values in activations.items():
        if labels.shape != (len(values),):
            raise ValueError(
                f"labels: expected one for each of the {len(values)} points of {name!r}, received the shape "
                f"{labels.shape}."
            )
        means = []
        for what, which in (("source", source), ("target", target)):
            if not (labels == which).any():
                raise ValueError(
                    f"{what}: no point has the label {which!r}; there are {sorted(set(labels.tolist()))[:10]}."
                )
            means.append(np.asarray(values)[labels == which].mean(axis=0, dtype="float64"))
        differences[name] = means[1] - means[0]
    differences = LayerValues(differences)
    return LayerValues.from_flat(_betas(differences, beta, ranking) * differences.flat, differences)


def _betas(differences: LayerValues, beta: float, ranking: Any) -> np.ndarray:
    if ranking is None:
        return np.full(differences.size, beta)
    scores = check_like(getattr(ranking, "scores", ranking), differences.shapes, "ranking")
    betas = np.empty(differences.size)
    betas[rising_order(-np.asarray(scores.flat, "float64"))] = np.geomspace(beta, 1e-3, differences.size)
    return betas
