"""Where the units that are compared come from: arrays, activations, or models that are run on the data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfprune.borders import names_of, warn
from tfprune.data import as_batches
from tfprune.graph.walk import functional
from tfprune.neurons.activations import Activations, Reading
from tfprune.neurons.covariances import Covariances
from tfprune.units import LayerValues

POINTS_PER_UNIT = 5
"""With fewer points, chance alone makes units alike: the expected R^2 of noise is units / points."""
_FLOATS_AT_ONCE = 2**23
_FEWEST_POINTS = 1024
# Below so much of its mean, the deviation of a unit is the rounding of the sums.
_ROUNDING = 1e-12


class Source:
    """The units of several models on the same points, chunk by chunk.

    Attributes:
        sizes: for each model its units by group name, or None where it came as an array.
        widths: for each model how many units it has.
        labels: what each one is called in messages.
    """

    sizes: list[dict[str, int] | None]
    labels: list[str]

    @property
    def widths(self) -> list[int]:
        """How many units each model has."""
        raise NotImplementedError

    def chunks(self) -> Iterator[list[np.ndarray]]:
        """Yields arrays `(points, units)`, one for each model."""
        raise NotImplementedError

    def named(self, number: int, scores: np.ndarray) -> np.ndarray | LayerValues:
        """Returns scores of the units of one model by group name, where these are known."""
        sizes = self.sizes[number]
        return scores if sizes is None else LayerValues.from_flat(scores, sizes)

    def covariances(self, *, own: str = "matrix", fourth: bool = False, warns: bool = True) -> Measured:
        """Runs through all points once.

        Raises:
            ValueError: if there are no points, or values are NaN, infinite or too large.
        """
        moments = Covariances(self.widths, own=own, fourth=fourth)
        epsilons = [0.0] * len(self.labels)
        for rows in self.chunks():
            for number, values in enumerate(rows):
                if values.dtype.kind == "f":
                    epsilons[number] = max(epsilons[number], float(np.finfo(values.dtype).eps))
            with np.errstate(over="ignore", invalid="ignore"):
                moments.add(rows)
        if not moments.count:
            raise ValueError(f"{self.labels[0]}: empty, there are no points.")
        for number, label in enumerate(self.labels):
            self._check_finite(moments.means[number] + moments.squares[number], number, label)
        if warns and moments.count < POINTS_PER_UNIT * max(self.widths):
            warn(
                f"There are {moments.count} points for {max(self.widths)} units: with fewer than {POINTS_PER_UNIT} "
                "points a unit, units look alike by chance. Give more data, name fewer layers, or take steps or "
                "positions as points."
            )
        return Measured(moments, epsilons)

    def _check_finite(self, values: np.ndarray, number: int, label: str) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            sizes = self.sizes[number]
            names = None if sizes is None else [f"{name}[{k}]" for name, size in sizes.items() for k in range(size)]
            raise ValueError(
                f"{label}: unit {names[bad[0]] if names else bad[0]} takes values that are NaN, infinite or too large "
                f"to be squared ({len(bad)} of {len(values)} units). Remove or replace such points first."
            )


class Measured:
    """Covariances, and which units are constant as far as their precision tells."""

    def __init__(self, moments: Covariances, epsilons: Sequence[float]):
        self.moments = moments
        self.count = moments.count
        self.deviations = [np.sqrt(np.maximum(squares, 0.0) / moments.count) for squares in moments.squares]
        self.varies = [
            own > max(4 * epsilon, _ROUNDING) * np.abs(mean)
            for own, mean, epsilon in zip(self.deviations, moments.means, epsilons, strict=True)
        ]

    def covariance(self, i: int, j: int) -> np.ndarray:
        """Returns the covariances between the units of two models, `(units of i, units of j)`; 0 for constant units."""
        found = self.moments.products(i, j) / self.count
        if not self.varies[i].all():
            found[~self.varies[i]] = 0.0
        if not self.varies[j].all():
            found[:, ~self.varies[j]] = 0.0
        return found

    def correlation(self, i: int, j: int) -> np.ndarray:
        """Returns the correlations between the units of two models, 0 for constant units."""
        found = self.covariance(i, j)
        found /= self.scales(i)[:, None]
        found /= self.scales(j)
        return np.clip(found, -1.0, 1.0, out=found)

    def scales(self, i: int) -> np.ndarray:
        """Returns the standard deviation of each unit, 1 for those that are constant."""
        return np.where(self.varies[i], self.deviations[i], 1.0)


class _Arrays(Source):
    """Arrays and `Activations`."""

    def __init__(self, representations: Sequence[Any]):
        self.labels = [f"representations[{number}]" for number in range(len(representations))]
        self.sizes, self._blocks = [], []
        samples: dict[int, tuple] = {}
        for number, own in enumerate(representations):
            if isinstance(own, Mapping):
                own = own if isinstance(own, Activations) else Activations(own)
                self.sizes.append(own.sizes)
                self._blocks.append([checked_array(self.labels[number], own[name]) for name in own])
                check_points(self.labels[number], own)
                name = next(iter(own))
                samples[number] = (own.samples[name], own.positions[name])
            else:
                self.sizes.append(None)
                self._blocks.append([checked_array(self.labels[number], own)])
        counts = [len(own[0]) for own in self._blocks]
        if len(set(counts)) > 1:
            each = ", ".join(f"{label} {count}" for label, count in zip(self.labels, counts, strict=True))
            raise ValueError(
                f"representations: the numbers of points differ: {each}. All must be of the same points in the same "
                "order: run the models on the same data, with the same `points`."
            )
        _check_same_points({self.labels[number]: own for number, own in samples.items()})
        _check_order({label: own.data for label, own in zip(self.labels, representations, strict=True) if _known(own)})
        self._count = counts[0]

    @property
    def widths(self) -> list[int]:
        return [sum(block.shape[1] for block in own) for own in self._blocks]

    def chunks(self) -> Iterator[list[np.ndarray]]:
        step = max(_FEWEST_POINTS, _FLOATS_AT_ONCE // max(self.widths))
        for start in range(0, self._count, step):
            parts = [[block[start : start + step] for block in own] for own in self._blocks]
            yield [own[0] if len(own) == 1 else np.concatenate(own, axis=1) for own in parts]


class _Models(Source):
    """Models that are run on the data, batch by batch, each batch through all of them."""

    def __init__(self, models: Sequence[keras.Model], data: Any, layers: Any, points: str, progress: bool):
        per_model = _layers_of_each(layers, len(models))
        self._models, self._data, self._progress = models, data, progress
        self._readings = [Reading(model, own, points) for model, own in zip(models, per_model, strict=True)]
        self.sizes = [own.sizes for own in self._readings]
        self.labels = [f"model {number} ({model.name!r})" for number, model in enumerate(models)]
        self._batches = as_batches(
            data, models[0], batch_size=min(own.samples_at_once for own in self._readings), targets="ignore"
        )

    @property
    def widths(self) -> list[int]:
        return [sum(own.values()) for own in self.sizes]

    def chunks(self) -> Iterator[list[np.ndarray]]:
        total = self._batches.num_samples
        with tqdm(total=total, unit="sample", desc="activations", disable=not self._progress) as bar:
            for batch in self._batches:
                found, points = [], {}
                for label, model, reading in zip(self.labels, self._models, self._readings, strict=True):
                    rows = reading.rows(self._inputs(model, label, batch.inputs))
                    for name, (_, samples, positions) in rows.items():
                        points[f"{label}, {name!r}"] = (samples, positions)
                    found.append([values for values, _, _ in rows.values()])
                _check_same_points(points)
                yield [own[0] if len(own) == 1 else np.concatenate(own, axis=1) for own in found]
                bar.update(len(batch.inputs[0]))

    def _inputs(self, model: keras.Model, label: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """Returns what was read for the first model as another one takes it: by name where all names are the same."""
        first = self._models[0]
        if model is first:
            return inputs
        by_name = {tensor.name: own for tensor, own in zip(first.inputs, inputs, strict=True)}
        names = [tensor.name for tensor in functional(model).inputs]
        given = [by_name[name] for name in names] if set(names) == set(by_name) else list(inputs)
        try:
            batches = as_batches(given, model, batch_size=len(inputs[0]))
        except ValueError as error:
            raise ValueError(
                f"{label} takes other data than model 0: {error} Models that need data of their own are compared by "
                "their arrays: give [activations(one, its_data), activations(other, its_data)]."
            ) from error
        return next(iter(batches)).inputs


def source_of(
    representations: Any, data: Any, layers: Any, points: str, progress: bool, *, exactly: int | None = None
) -> Source:
    """Returns the source behind what the functions of this room take, everything checked that can be checked at once.

    Args:
        representations: two or more arrays `(points, units)` or `Activations`, or as many models.
        data: what the models run on; None for arrays.
        layers: names for all models, or one list of names for each; None for all groups, and for arrays.
        points: what is a point, for models.
        progress: whether to show a progress bar, for models.
        exactly: how many representations there must be; None for two or more.

    Raises:
        TypeError: if it is no sequence, holds other things, or models have no data.
        ValueError: if there are too few or too many, or names or numbers of points do not fit.
    """
    if isinstance(representations, keras.Model | np.ndarray | Mapping) or not isinstance(representations, Sequence):
        raise TypeError(
            f"representations: expected a list of two or more arrays (points, units), Activations or models, received "
            f"{type(representations).__name__}."
        )
    number = len(representations)
    if number < 2 or exactly not in (None, number):
        expected = "two or more" if exactly is None else "two"
        mend = "A neuron is compared with those of another model: give one that was trained from another seed."
        raise ValueError(
            f"representations: expected {expected}, received {number}. "
            + (mend if number < 2 else "Take them in pairs (itertools.combinations).")
        )
    models = [isinstance(own, keras.Model) for own in representations]
    if all(models):
        if data is None:
            raise TypeError("data: expected what the models run on, received None. Pass x or a dataset.")
        return _Models(list(representations), data, layers, points, progress)
    if any(models):
        raise TypeError(
            "representations: expected models alone or arrays alone, received both. activations(model, data) makes "
            "arrays of a model."
        )
    if data is not None or layers is not None:
        raise ValueError("data, layers: only models are run on data; arrays are taken as they are. Leave them out.")
    return _Arrays(representations)


def _layers_of_each(layers: Any, number: int) -> list[Any]:
    """Returns the names of layers for each model; they are given for all at once, or one list for each."""
    if layers is None or isinstance(layers, str) or not isinstance(layers, Iterable):
        return [layers] * number
    layers = list(layers)
    lists = [own is None or isinstance(own, Iterable) and not isinstance(own, str) for own in layers]
    if not any(lists):
        return [names_of(layers, "layers")] * number
    if not all(lists) or len(layers) != number:
        raise ValueError(
            f"layers: expected names for all models, or one list of names for each of the {number} models, received "
            f"{layers!r}."
        )
    return layers


def checked_array(label: str, array: Any) -> np.ndarray:
    """Returns values as an array of numbers `(points, units)`; raises TypeError or ValueError if they are none."""
    array = array if isinstance(array, np.ndarray) else np.asarray(array)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{label}: expected numbers, received the dtype {array.dtype}.")
    if array.ndim != 2:
        raise ValueError(
            f"{label}: expected the shape (points, units), received {array.shape}. Positions are points: "
            "values.reshape(-1, values.shape[-1])."
        )
    if not array.size:
        raise ValueError(f"{label}: empty, its shape is {array.shape}.")
    return array


def check_points(label: str, activations: Activations) -> None:
    """Raises ValueError unless all layers have the same points, one at least."""
    if not len(activations):
        raise ValueError(f"{label}: empty, there are no layers.")
    counts = {name: len(own) for name, own in activations.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise ValueError(
            f"{label}: its layers have different numbers of points: {each}. Take points='samples', or layers of one "
            "length."
        )
    _check_same_points({name: (activations.samples[name], activations.positions[name]) for name in activations})


def _known(representation: Any) -> bool:
    return isinstance(representation, Activations) and representation.data is not None


def _check_order(data: Mapping[str, tuple[str, str]]) -> None:
    """Raises ValueError if the same samples have come in another order; other samples may be meant."""
    for (first, (order, samples)), (other, (other_order, other_samples)) in combinations(data.items(), 2):
        if samples == other_samples and order != other_order:
            raise ValueError(
                f"{first} and {other} are of the same samples in another order: was the dataset shuffled anew? Collect "
                "them from data that keep their order, or give the models and the data themselves."
            )


def _check_same_points(points: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Raises ValueError unless all layers have the same points, each given by its samples and positions."""
    named = iter(points.items())
    first_name, first = next(named, (None, None))
    for name, own in named:
        if own is first or all(np.array_equal(one, other) for one, other in zip(first, own, strict=True)):
            continue
        raise ValueError(
            f"The points of {first_name} and {name} differ ({len(first[0])} and {len(own[0])}, or other masked steps). "
            "Take points='samples', or layers whose positions and masks are the same."
        )
