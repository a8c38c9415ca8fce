"""Runs over a model whose units switch off, and the records that they leave.

Each function takes a model and data and returns a frozen record: NumPy arrays and the settings they came from. Records
save to npz files without pickle. Nothing is drawn here; `tfprune.plots` draws from the records.
"""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfprune.data import as_batches, collect
from tfprune.files import atomic_write, run_information
from tfprune.masking import on_nodes_input, sweep, with_on_nodes
from tfprune.objectives import sample_loss

SETTINGS_KEY = "settings"
AnyRecord = TypeVar("AnyRecord", bound="Record")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Record:
    """Base of all records: named read-only arrays, and the settings they came from.

    Attributes:
        settings: What the run was given (probability, seed, ...) and the versions that it ran with; JSON values only.
    """

    settings: dict[str, Any]

    def __post_init__(self):
        for name in self.array_names():
            array = np.array(getattr(self, name))
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def array_names(cls) -> list[str]:
        """Names of the record's arrays."""
        return [field.name for field in dataclasses.fields(cls) if field.name != SETTINGS_KEY]

    def save(self, path: str | os.PathLike) -> None:
        """Write the record to an npz file; the settings go in as a JSON string.

        Args:
            path: File to write, ending in ``.npz``. Its folder must exist.

        Raises:
            ValueError: If the path does not end in ``.npz`` or the folder cannot be written.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"{type(self).__name__}.save: expected a path that ends in .npz, received {path}.")
        description = json.dumps({"record": type(self).__name__, SETTINGS_KEY: self.settings})
        arrays = {name: getattr(self, name) for name in self.array_names()}
        with atomic_write(path) as temporary:
            np.savez_compressed(temporary, **arrays, **{SETTINGS_KEY: np.array(description)})

    @classmethod
    def load(cls: type[AnyRecord], path: str | os.PathLike) -> AnyRecord:
        """Read a record that :meth:`save` wrote.

        Args:
            path: The npz file.

        Returns:
            The record, equal to the one that was saved.

        Raises:
            ValueError: If the file is missing, is no npz file or holds another kind of record.
        """
        if not Path(path).is_file() or not zipfile.is_zipfile(path):
            raise ValueError(f"{cls.__name__}.load: expected an npz file written by save at {path}; there is none.")
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted({*cls.array_names(), SETTINGS_KEY} - set(archive.files))
            if missing:
                raise ValueError(f"{path}: expected a {cls.__name__}, but {missing} are missing; was it saved by save?")
            description = json.loads(str(archive[SETTINGS_KEY]))
            if description["record"] != cls.__name__:
                raise ValueError(
                    f"{path}: expected a {cls.__name__}, received a {description['record']}; "
                    f"use {description['record']}.load."
                )
            arrays = {name: archive[name] for name in cls.array_names()}
        return cls(settings=description[SETTINGS_KEY], **arrays)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RandomSubsets(Record):
    """Loss and gradient of a model at random subsets of its units.

    Attributes:
        masks: Which units were on, bool of shape ``(num_subsets, num_units)``.
        losses: Shape ``(num_subsets,)``.
        gradients: Of the loss with respect to ``on_nodes``, shape ``(num_subsets, num_units)``.
        full_loss: Loss with every unit on, shape ``()``.
    """

    masks: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray
    full_loss: np.ndarray

    @property
    def log_losses(self) -> np.ndarray:
        """Natural logarithm of the losses, shape ``(num_subsets,)``."""
        return _log(self.losses)

    @property
    def log_loss_gradients(self) -> np.ndarray:
        """Gradient of the log loss, which is gradient / loss, shape ``(num_subsets, num_units)``."""
        return self.gradients / self.losses[:, np.newaxis]

    def moments(self) -> dict[str, float]:
        """Means and standard deviations over all subsets (and all units, for gradients), by what they are of."""
        parts = {
            "loss": self.losses,
            "log loss": self.log_losses,
            "gradient": self.gradients,
            "gradient of log loss": self.log_loss_gradients,
        }
        means = {f"mean {name}": float(values.mean()) for name, values in parts.items()}
        return means | {f"std of {name}": float(values.std()) for name, values in parts.items()}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FlipPaths(Record):
    """Losses along paths that flip every unit once, from a random mask to its complement.

    Attributes:
        masks: Bool of shape ``(num_paths, num_units + 1, num_units)``; neighbours differ in one unit.
        losses: Shape ``(num_paths, num_units + 1)``.
    """

    masks: np.ndarray
    losses: np.ndarray

    @property
    def log_losses(self) -> np.ndarray:
        """Natural logarithm of the losses, shape ``(num_paths, num_units + 1)``."""
        return _log(self.losses)

    def covariance(self) -> np.ndarray:
        """Covariance over paths of the log losses at any two steps, shape ``(num_units + 1, num_units + 1)``."""
        return np.cov(self.log_losses, rowvar=False)

    def covariance_standard_error(self) -> np.ndarray:
        """Standard error of each entry of :meth:`covariance`: the spread of the products over paths."""
        centred = self.log_losses - self.log_losses.mean(axis=0)
        products = centred[:, :, np.newaxis] * centred[:, np.newaxis, :]
        return products.std(axis=0, ddof=1) / np.sqrt(len(centred))

    def flips_until_forgotten(self, share: float = 0.1) -> int | None:
        """Number of flips after which the covariance with the start is below a share of the start's variance.

        Args:
            share: The share, between 0 and 1.

        Returns:
            The smallest such number of flips, or None where the covariance never falls so far.
        """
        with_start = self.covariance()[0]
        below = np.flatnonzero(with_start < share * with_start[0])
        return int(below[0]) if below.size else None

    def complement_correlation(self) -> tuple[float, float]:
        """Correlation between the log loss of a mask and that of its complement, with its standard error.

        The first and the last mask of a path are complements. With both sides standardised to ``u`` and ``v``, the
        correlation is ``r = mean(u v)`` and its standard error ``std(u v - r (u^2 + v^2) / 2) / sqrt(n)``, which needs
        no normal distribution.

        Returns:
            The correlation and its standard error.

        Reference:
            Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 21 (influence functions).
        """
        ends = self.log_losses[:, [0, -1]]
        start, end = ((ends - ends.mean(axis=0)) / ends.std(axis=0)).T
        correlation = np.mean(start * end)
        influence = start * end - correlation * (start**2 + end**2) / 2
        return float(correlation), float(influence.std() / np.sqrt(len(influence)))


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PointGradients(Record):
    """Loss, and its gradient with respect to ``on_nodes``, at each single point.

    Attributes:
        points: The points, shape ``(num_points, ...)``.
        losses: Shape ``(num_points,)``.
        gradients: Shape ``(num_points, num_units)``.
    """

    points: np.ndarray
    losses: np.ndarray
    gradients: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MaskedOutputs(Record):
    """Outputs of a model at the same points under several masks.

    Attributes:
        points: The points, shape ``(num_points, ...)``.
        masks: Bool of shape ``(num_masks, num_units)``.
        outputs: Shape ``(num_masks, num_points, ...)``.
    """

    points: np.ndarray
    masks: np.ndarray
    outputs: np.ndarray


def random_subsets(
    model: keras.Model, data: Any, *, probability: float, num_subsets: int, seed: int, **sweep_options: Any
) -> RandomSubsets:
    """Loss and gradient at random subsets of the units, each unit on with the same probability on its own.

    Shows how the loss spreads when units go at random, and by the gradient which unit a subset would miss most. With
    one seed, the units that are on at a lower probability are on at a higher one too, so that differences between
    probabilities are sharper than those between independent draws.

    Args:
        model: The plain model, or one that ``with_on_nodes`` gave.
        data: Whatever ``model.fit`` takes.
        probability: Chance that a unit is on, between 0 and 1.
        num_subsets: How many subsets to draw.
        seed: Seed of the draw.
        **sweep_options: Passed on to :func:`tfprune.sweep`, such as ``loss`` or ``layers``.

    Returns:
        The record of ``num_subsets`` subsets.

    Raises:
        ValueError: If ``probability`` is not between 0 and 1 or ``num_subsets`` is below 1.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "Plotting the Loss".
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"random_subsets: expected a probability between 0 and 1, received {probability}.")
    _check_count("random_subsets", "num_subsets", num_subsets)
    masks = np.random.default_rng(seed).random((num_subsets, _num_units(model, sweep_options))) < probability
    result = sweep(model, data, np.concatenate([masks, np.ones_like(masks[:1])]), **sweep_options)
    settings = {"probability": probability, "num_subsets": num_subsets, "seed": seed, **run_information()}
    return RandomSubsets(
        settings=settings,
        masks=masks,
        losses=result.losses[:-1],
        gradients=result.gradients[:-1],
        full_loss=result.losses[-1],
    )


def flip_paths(model: keras.Model, data: Any, *, num_paths: int, seed: int, **sweep_options: Any) -> FlipPaths:
    """Losses along random paths from a mask to its complement, one unit flipped at each step.

    The start is a random mask (each unit on with probability 1/2), the order of the flips a random permutation. Shows
    over how many flips the loss forgets where it came from.

    Args:
        model: The plain model, or one that ``with_on_nodes`` gave.
        data: Whatever ``model.fit`` takes.
        num_paths: How many paths to walk, at least 2.
        seed: Seed of starts and permutations.
        **sweep_options: Passed on to :func:`tfprune.sweep`, such as ``loss`` or ``layers``.

    Returns:
        The record of ``num_paths`` paths of ``num_units + 1`` masks.

    Raises:
        ValueError: If ``num_paths`` is below 2.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "How much does N flips matter".
    """
    _check_count("flip_paths", "num_paths", num_paths, at_least=2)
    masks = _draw_paths(num_paths, _num_units(model, sweep_options), np.random.default_rng(seed))
    result = sweep(model, data, masks.reshape(-1, masks.shape[-1]), gradients=False, **sweep_options)
    settings = {"num_paths": num_paths, "seed": seed, **run_information()}
    return FlipPaths(settings=settings, masks=masks, losses=result.losses.reshape(masks.shape[:2]))


def point_gradients(model: keras.Model, data: Any, *, loss: Any = None, batch_size: int = 4096) -> PointGradients:
    """Loss, and its gradient with respect to ``on_nodes``, at each single point with every unit on.

    Shows where in the space of inputs a unit lowers the loss (negative) and where it raises it.

    Args:
        model: The plain model, with one input.
        data: Points and targets: whatever ``model.fit`` takes.
        loss: Loss that gives one value per sample; ``None`` takes the compiled one.
        batch_size: How many points go through the model at once.

    Returns:
        The record, one row per point.

    Raises:
        ValueError: If the model has several inputs, or the loss is neither given nor compiled.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "Heatmap of Gradient".
    """
    _check_single_input("point_gradients", model)
    losses_of = sample_loss(model, loss)
    batches = as_batches(data, model, batch_size=batch_size, targets="required")
    masked = with_on_nodes(model)
    num_units = masked.inputs[-1].shape[-1]

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        on_nodes = tf.ones((tf.shape(x)[0], num_units))
        with tf.GradientTape() as tape:
            tape.watch(on_nodes)
            losses = losses_of(y, masked([x, on_nodes], training=False))
        # Each loss depends on its own row of on_nodes alone, so the gradient of the sum keeps the samples apart.
        return losses, tape.gradient(losses, on_nodes)

    collected = [(batch.inputs[0], *step(batch.inputs[0], batch.targets)) for batch in batches]
    points, losses, gradients = (
        np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*collected, strict=True)
    )
    return PointGradients(settings=run_information(), points=points, losses=losses, gradients=gradients)


def masked_outputs(model: keras.Model, points: np.ndarray, masks: np.ndarray) -> MaskedOutputs:
    """Outputs of a model at given points, once for each mask.

    Args:
        model: The plain model, with one input and one output.
        points: Shape ``(num_points, ...)``.
        masks: Bool of shape ``(num_masks, num_units)``.

    Returns:
        The record.

    Raises:
        ValueError: If the model has several inputs, or the masks do not have one column per unit.
    """
    _check_single_input("masked_outputs", model)
    masked = with_on_nodes(model)
    num_units = masked.inputs[-1].shape[-1]
    masks = np.asarray(masks)
    if masks.ndim != 2 or masks.shape[1] != num_units or len(masks) == 0:
        raise ValueError(
            f"masked_outputs: expected masks of shape (num_masks, {num_units}), one column per unit and at least one "
            f"row, received {masks.shape}."
        )
    (points,), _, _ = collect(as_batches(points, model, targets="ignore"))
    rows = (np.broadcast_to(mask.astype(np.float32), (len(points), num_units)) for mask in masks)
    outputs = np.stack([masked.predict([points, row], batch_size=4096, verbose=0) for row in rows])
    return MaskedOutputs(settings=run_information(), points=points, masks=masks, outputs=outputs)


def plane_grid(limit: float, resolution: int) -> np.ndarray:
    """Midpoints of the cells of a square grid in the plane, row by row from the bottom left.

    Args:
        limit: The grid covers ``[-limit, limit]^2``.
        resolution: Number of cells along each side.

    Returns:
        float32 of shape ``(resolution ** 2, 2)``.

    Example:
        >>> plane_grid(1.0, 2).tolist()
        [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    midpoints = ((np.arange(resolution) + 0.5) / resolution * 2.0 - 1.0) * limit
    second, first = np.meshgrid(midpoints, midpoints, indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1).astype(np.float32)


def _draw_paths(num_paths: int, num_units: int, generator: np.random.Generator) -> np.ndarray:
    """Masks (num_paths, num_units + 1, num_units): step k has the first k units of the permutation flipped."""
    starts = generator.random((num_paths, num_units)) < 0.5
    # Unit i flips at step ranks[:, i]: the ranks of a random permutation are one too.
    ranks = generator.permuted(np.tile(np.arange(num_units), (num_paths, 1)), axis=1)
    flipped = ranks[:, np.newaxis, :] < np.arange(num_units + 1)[np.newaxis, :, np.newaxis]
    return starts[:, np.newaxis, :] ^ flipped


def _num_units(model: keras.Model, options: Mapping[str, Any]) -> int:
    """Number of columns of the masks that ``sweep`` takes for the model."""
    if on_nodes_input(model) is None:
        model = with_on_nodes(model, layers=options.get("layers"), replacement=options.get("replacement"))
    return model.inputs[on_nodes_input(model)].shape[-1]


def _check_single_input(function: str, model: keras.Model) -> None:
    if len(model.inputs) != 1:
        names = [tensor.name for tensor in model.inputs]
        raise ValueError(f"{function}: expected a model with one input, received {model.name!r} with inputs {names}.")


def _check_count(function: str, name: str, value: int, *, at_least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{function}: expected {name} as an integer of at least {at_least}, received {value!r}.")


def _log(losses: np.ndarray) -> np.ndarray:
    if not np.all(losses > 0.0):
        raise ValueError(
            f"The log loss needs losses above 0, received {np.count_nonzero(~(losses > 0.0))} that are not; "
            "look at the losses themselves, or use a loss that is positive."
        )
    return np.log(losses)
