"""What the units of a model do on data, as arrays: one row for each point, one column for each unit."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfprune.borders import public
from tfprune.data import as_batches
from tfprune.graph.finite import check_finite_weights
from tfprune.neurons.places import LOOKS, chosen_places
from tfprune.neurons.storage import Folder, Memory, read_folder
from tfprune.statistics.passes import Pass, Place, pass_of
from tfprune.units import describe_unknown


class Activations(Mapping[str, np.ndarray]):
    """Activations by name of group or layer, each `(points, units)`: column j is unit j of the group.

    Made by `activations`, read back by `Activations.load`, or made of arrays that come from elsewhere.

    Args:
        values: arrays `(points, units)` by name.
        samples: for each name the number of the sample that each point is from, `(points,)`; None numbers them through.
        positions: for each name the place of the point within its sample, `(points,)`; None for zeros.
        points: what is a point: "samples", "steps" or "positions".
        skipped: why a group is missing, by group name.

    Raises:
        TypeError: if `values` is no mapping.
        ValueError: if an array has not two axes, or numbers do not fit its points.

    Example:
        >>> found = Activations({"hidden": np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])})
        >>> found["hidden"].shape, found.samples["hidden"]
        ((3, 2), array([0, 1, 2]))
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        *,
        samples: Mapping[str, np.ndarray] | None = None,
        positions: Mapping[str, np.ndarray] | None = None,
        points: str = "samples",
        skipped: Mapping[str, str] | None = None,
    ):
        if not isinstance(values, Mapping):
            raise TypeError(f"Activations: expected arrays by name, received {type(values).__name__}.")
        # Arrays in files stay there.
        self._values = {name: own if isinstance(own, np.ndarray) else np.asarray(own) for name, own in values.items()}
        for name, own in self._values.items():
            if own.ndim != 2:
                raise ValueError(f"Activations: {name!r} expects the shape (points, units), received {own.shape}.")
        self.points = points
        self.samples = {name: np.arange(len(own)) for name, own in self._values.items()} if samples is None else samples
        self.positions = (
            {name: np.zeros(len(own), int) for name, own in self._values.items()} if positions is None else positions
        )
        self.skipped = dict(skipped or {})
        for what in (self.samples, self.positions):
            for name, own in self._values.items():
                if len(what[name]) != len(own):
                    raise ValueError(
                        f"Activations: {name!r} has {len(own)} points, but numbers for {len(what[name])} of them."
                    )

    @classmethod
    def load(cls, path: str | os.PathLike) -> Activations:
        """Reads what `activations(..., path=path)` has written; the arrays stay in their files (memory-mapped).

        Args:
            path: the folder.

        Raises:
            ValueError: if there is no such folder, or it holds something else.
        """
        return cls(**read_folder(path))

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units by name."""
        return {name: own.shape[1] for name, own in self._values.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._values[name]
        except KeyError:
            raise KeyError(describe_unknown([name], self._values)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        rows = [f"  {name}: {len(own)} points, {own.shape[1]} units, {own.dtype}" for name, own in self.items()]
        return "\n".join([f"Activations (points are {self.points})", *rows])


@public
def activations(
    model: keras.Model,
    data: Any,
    layers: Iterable[str] | str | None = None,
    *,
    points: str = "samples",
    path: str | os.PathLike | None = None,
    progress: bool = True,
) -> Activations:
    """Collects what units do on data: for each group an array with one row for each point and a column for each unit.

    The data go through the model once, in chunks. A group is looked at where its units show (their home: behind the
    batch norm and the activation that follow its first layer alone), another layer where it gives out its first output.
    Where a unit has several channels (grouped convolutions), its activation is their mean. Of a `Bidirectional` layer
    the group shows the forward direction; `name/backward` names the other one.

    Steps that Keras masks (`Masking`, `Embedding(mask_zero=True)`) are no points, as far as Keras hands the mask on: a
    convolution drops it. A sample of which every step is masked is no point either. A layer that is called several
    times is looked at where it gives out its units, and has the points of all its calls, sample by sample.

    Args:
        model: a Sequential or functional model.
        data: whatever `model.fit` takes; targets and sample weights are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        points: what is a point. "samples": each sample, with the mean over its positions (pixels, steps). "steps": each
            step of a sequence, the first axis behind that of the samples, with the mean over what else there is.
            "positions": each position of each sample.
        path: a folder to write to, where the arrays then stay (memory-mapped). It is written whole or not at all; an
            older one that this function has written is replaced.
        progress: whether to show a progress bar.

    Returns:
        The activations, float32 (float64 where the layer computes in it), in the order of the data.

    Raises:
        TypeError: if `model` is no Keras model, or `data` of no kind that can be read.
        ValueError: if model, names, options or data do not fit, units take values that are NaN or infinite, a layer has
            no steps, all of them are masked, or `path` holds something else.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.layers[0].set_weights([np.array([[2.0, -1.0]]), np.array([0.0, 1.0])])
        >>> activations(net, np.array([[0.0], [1.0], [2.0]]), progress=False)["hidden"]
        array([[ 0.,  1.],
               [ 2.,  0.],
               [ 4., -1.]], dtype=float32)
    """
    reading = Reading(model, layers, points)
    sink = Memory() if path is None else Folder(path)
    batches = as_batches(data, model, batch_size=reading.samples_at_once, targets="ignore")
    with sink, tqdm(total=batches.num_samples, unit="sample", desc="activations", disable=not progress) as bar:
        start = 0
        for batch in batches:
            for name, (values, samples, positions) in reading.rows(batch.inputs).items():
                sink.add(name, values, samples + start, positions)
            start += len(batch.inputs[0])
            bar.update(len(batch.inputs[0]))
        reading.check_counts(sink.counts)
        found = sink.finish(points, reading.skipped)
    return Activations(**found)


class Reading:
    """The rows of activations that a model has, batch by batch.

    Args:
        model: a Sequential or functional model.
        layers: names of groups or layers; None takes all groups.
        points: "samples", "steps" or "positions".

    Attributes:
        sizes: number of units by name.
        skipped: why a group is missing, by group name.
    """

    def __init__(self, model: keras.Model, layers: Iterable[str] | str | None, points: str):
        if points not in LOOKS:
            raise ValueError(f"points: expected one of {', '.join(map(repr, LOOKS))}, received {points!r}.")
        by_name, self.skipped = chosen_places(model, layers)
        check_finite_weights(model)
        if points == "steps":
            _check_steps(by_name)
        self._lengths = {name: len(places) for name, places in by_name.items()}
        self.sizes = {name: _num_units(places[0]) for name, places in by_name.items()}
        self._pass: Pass = pass_of(model, [own for places in by_name.values() for own in places], LOOKS[points])
        self._pooled = points == "samples"
        self.samples_at_once = self._pass.samples_at_once

    def rows(self, inputs: list[np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Returns by name the values `(points, units)` of one batch, and the sample and the position of each point."""
        found = iter(self._pass.compiled([tf.convert_to_tensor(own) for own in inputs]))
        result = {}
        for name, length in self._lengths.items():
            calls = [(value.numpy(), count.numpy()) for _ in range(length) for value, count in next(found)]
            values, counts = _joined(calls, self._pooled)
            samples, positions = np.nonzero(counts)
            whole = counts.all()
            rows = values.reshape(-1, values.shape[-1]) if whole else values[samples, positions]
            _check_finite(name, rows)
            result[name] = rows, samples, positions
        return result

    def check_counts(self, counts: Mapping[str, int]) -> None:
        """Raises ValueError if a layer has had no point."""
        for name, count in counts.items():
            if not count:
                raise ValueError(
                    f"data: {name!r} has no points, as every step of every sample is masked. Check the padding, and "
                    "what Masking or Embedding(mask_zero=True) takes for it."
                )


def _joined(calls: list[tuple[np.ndarray, np.ndarray]], pooled: bool) -> tuple[np.ndarray, np.ndarray]:
    """Puts together what several calls of one layer have shown."""
    if len(calls) == 1:
        return calls[0]
    if not pooled:
        return tuple(np.concatenate(parts, axis=1) for parts in zip(*calls, strict=True))
    count = sum(own for _, own in calls)
    total = sum(value * own[..., None] for value, own in calls)
    return (total / np.maximum(count, 1)[..., None]).astype(calls[0][0].dtype), count


def _num_units(place: Place) -> int:
    return place.tensor.shape[place.axis] if place.take is None else place.take.shape[1]


def _check_steps(by_name: Mapping[str, list[Place]]) -> None:
    for name, places in by_name.items():
        for place in places:
            if len(place.tensor.shape) < 3:
                raise ValueError(
                    f"points='steps': {name!r} has one value for each sample, shape {tuple(place.tensor.shape)}, and "
                    "no steps. Take points='samples', or name layers that keep the steps (return_sequences=True)."
                )


def _check_finite(name: str, rows: np.ndarray) -> None:
    bad = ~np.isfinite(rows)
    if bad.any():
        units = np.flatnonzero(bad.any(axis=0))
        raise ValueError(
            f"The units of {name!r} take values that are NaN or infinite on these data (unit {units[0]}, {len(units)} "
            f"of {rows.shape[1]} units). Check the model's weights and the scale of the data."
        )
