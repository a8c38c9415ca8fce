"""Records of runs: named read-only arrays and the settings they came from, saved as npz without pickle."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from tfprune.files import atomic_write

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


def _log(losses: np.ndarray) -> np.ndarray:
    if not np.all(losses > 0.0):
        raise ValueError(
            f"The log loss needs losses above 0, received {np.count_nonzero(~(losses > 0.0))} that are not; "
            "look at the losses themselves, or use a loss that is positive."
        )
    return np.log(losses)
