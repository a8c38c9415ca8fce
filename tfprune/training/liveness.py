"""Watching units live and die: a callback that measures each unit on a fixed validation set."""

from __future__ import annotations

import json
import numbers
import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfprune import saliency
from tfprune.borders import warn
from tfprune.files import atomic_write, check_writable_folder, run_information
from tfprune.graph import unit_groups
from tfprune.masking import refuse_masked
from tfprune.statistics import exit_means
from tfprune.training.liveness_values import GradientPass
from tfprune.training.scoring import check_enough
from tfprune.training.stepping import StepCounter, refuse_uncompiled
from tfprune.training.tensorboard import SummaryWriter
from tfprune.units import LayerValues

QUANTITIES = (
    "mean_replacement_penalty",
    "mean_replacement",
    "incoming_norm",
    "outgoing_norm",
    "output_gradient",
    "largest_output_gradient",
    "weight_gradient",
)
"""What is measured of each unit; see `LivenessMonitor`."""

VERDICTS = ("frozen", "dead")
HISTOGRAMS = ("outputs", "activations")
EDGES = np.sinh(0.07 * np.arange(-80, 81))
"""Edges of the bins of histograms: 0.07 wide at 0 and wider from there to +-135, since outputs of an attacked unit lie
far out while tanh ends at +-1. No edge lies at +-1. What lies beyond is counted in the outermost bin."""


@dataclass
class LivenessRecord:
    """What a monitor has measured: arrays with one row for each time.

    Attributes:
        groups: how many units each group has, by name; columns are in this order.
        settings: thresholds, the model's name and the versions it was made with.
        step: training steps that were done, `(times,)`.
        epoch: epochs that were done, `(times,)`.
        loss: mean loss on the validation data, `(times,)`.
        values: `(times, units)` by the names in `QUANTITIES`, and bool by those in `VERDICTS`.
        histograms: counts `(times, units, bins)` by the names in `HISTOGRAMS`.
        edges: edges of the bins, `(bins + 1,)`.
    """

    groups: dict[str, int]
    settings: dict[str, Any]
    step: list[int] = field(default_factory=list)
    epoch: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    values: dict[str, list[np.ndarray]] = field(default_factory=dict)
    histograms: dict[str, list[np.ndarray]] = field(default_factory=dict)
    edges: np.ndarray = field(default_factory=lambda: EDGES)

    def __repr__(self) -> str:
        text = f"LivenessRecord of {self.settings.get('model')!r}: {sum(self.groups.values())} units in "
        text += f"{len(self.groups)} groups, measured {len(self.step)} times"
        if not self.step:
            return text
        counts = ", ".join(f"{verdict} {int(self.values[verdict][-1].sum())}" for verdict in VERDICTS)
        return f"{text}, steps {self.step[0]} to {self.step[-1]}; last: loss {self.loss[-1]:.4g}, {counts}"

    def of(self, quantity: str, group: str) -> np.ndarray:
        """Returns a quantity of one group's units over time, `(times, units)`; of a histogram `(times, units, bins)`.

        Raises:
            ValueError: if there is no such quantity or group.
        """
        known = self.values | self.histograms
        if quantity not in known:
            raise ValueError(f"of: expected one of {', '.join(known)}, received {quantity!r}.")
        if group not in self.groups:
            raise ValueError(f"of: expected one of the groups {', '.join(self.groups)}, received {group!r}.")
        names = list(self.groups)
        start = sum(self.groups[name] for name in names[: names.index(group)])
        return np.stack(known[quantity])[:, start : start + self.groups[group]]

    def last(self, quantity: str) -> LayerValues:
        """Returns a quantity as it was measured last, by group name."""
        return LayerValues.from_flat(self.values[quantity][-1], self.groups)

    def save(self, path: str | os.PathLike) -> None:
        """Writes an npz file, whole or not at all; `load` reads it."""
        header = json.dumps({"groups": self.groups, "settings": self.settings})
        arrays = {name: np.stack(own) for name, own in (self.values | self.histograms).items()}
        times = {"step": self.step, "epoch": self.epoch, "loss": self.loss}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, header=np.array(header), edges=self.edges, **times, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike) -> LivenessRecord:
        """Reads what `save` has written.

        Raises:
            ValueError: if there is no such file, or it is another one.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                header = json.loads(str(arrays["header"]))
                return cls(
                    groups=header["groups"],
                    settings=header["settings"],
                    **{name: arrays[name].tolist() for name in ("step", "epoch", "loss")},
                    values={name: list(arrays[name]) for name in (*QUANTITIES, *VERDICTS)},
                    histograms={name: list(arrays[name]) for name in HISTOGRAMS},
                    edges=arrays["edges"],
                )
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is no record of a LivenessMonitor ({error}). Expected a file that it has saved."
            ) from error


class LivenessMonitor(StepCounter):
    """Measures at intervals how alive each unit is, always on the same validation data.

    Of each unit, with the output of a unit what its layer gives out before the nonlinearity:

    - `mean_replacement_penalty` (MRP) and `mean_replacement` (MRS), as in `tfprune.saliency`: means over samples;
    - `incoming_norm` and `outgoing_norm`, L2 norms of the kernels that make and that read it;
    - `output_gradient`, the mean over samples k of the norm (over positions) of d loss_k / d output, and
      `largest_output_gradient`, that of the sample where it is largest;
    - `weight_gradient`, the norm of the gradient of the mean loss by its incoming weights.

    A unit is **frozen** if its output gradient is about 0 on every sample: `largest_output_gradient <= frozen_below`;
    nothing that it learns from can change it then. It is **dead** if its MRP is about 0 on every sample: the mean over
    samples is at most `dead_below`, so that no sample changes by more than the number of samples times that. Heads of
    attention show in no tensor: their output gradient is NaN and they are never frozen; recurrent units are looked at
    after their nonlinearity. The compiled functions are kept, so that only the first measurement traces.

    Args:
        validation_data: inputs and targets, whatever `fit` takes; about 1000 samples.
        every: training steps from one measurement to the next, the first before the first step; None measures before
            the training and after each epoch. With `steps_per_execution` between executions.
        layers: names of groups or layers; None takes all units that can be removed.
        log_dir: a folder for TensorBoard: each quantity of each unit as a scalar, outputs and activations as
            histograms.
        path: an npz file for the record, written after each epoch; `LivenessRecord.load` reads it.
        frozen_below: largest gradient, in units of the loss, that still counts as zero.
        dead_below: largest MRP, in units of the loss, that still counts as zero; rounding alone makes some 2e-7.

    Attributes:
        record: a `LivenessRecord`, None before the first `fit`.
        frozen: which units were frozen when they were measured last, bool by group name. After `fit` there is a warning
            if the weights are no longer those of its last epoch, as `EarlyStopping(restore_best_weights=True)` does.
        dead: likewise, which were dead.

    Raises:
        ValueError: if a number is out of its range or a folder cannot be written to; and when `fit` begins, if data,
            names or loss do not fit.

    Example:
        >>> monitor = LivenessMonitor((x_val, y_val), every=50, path="liveness.npz")             # doctest: +SKIP
        >>> net.fit(x, y, callbacks=[monitor])                                                   # doctest: +SKIP
        >>> monitor.record.of("mean_replacement", "conv1")[:, 3]                                 # doctest: +SKIP

    Reference: U. Evci (2018), chapter 3.
    """

    def __init__(
        self,
        validation_data: Any,
        *,
        every: int | None = None,
        layers: Iterable[str] | str | None = None,
        log_dir: str | os.PathLike | None = None,
        path: str | os.PathLike | None = None,
        frozen_below: float = 1e-8,
        dead_below: float = 1e-6,
    ):
        super().__init__()
        if every is not None and (isinstance(every, bool) or not isinstance(every, numbers.Integral) or every < 1):
            raise ValueError(f"LivenessMonitor: `every` expects a whole number of at least 1, or None; not {every!r}.")
        for name, value in (("frozen_below", frozen_below), ("dead_below", dead_below)):
            if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < np.inf:
                raise ValueError(f"LivenessMonitor: `{name}` expects a number of at least 0, received {value!r}.")
        if path is not None:
            if Path(path).suffix != ".npz":
                raise ValueError(f"LivenessMonitor: `path` expects a file that ends in .npz, received {str(path)!r}.")
            check_writable_folder(Path(path).parent)
        self._log_dir = None if log_dir is None else check_writable_folder(log_dir)
        self._data, self._every, self._layers, self._path = validation_data, every, layers, path
        self._thresholds = {"frozen_below": float(frozen_below), "dead_below": float(dead_below)}
        self._writer: SummaryWriter | None = None
        self.record: LivenessRecord | None = None
        self._measured_at: int | None = None
        self._left: int | None = None

    @property
    def frozen(self) -> LayerValues:
        """Which units were frozen when they were measured last; before `fit` a ValueError."""
        return self._last("frozen")

    @property
    def dead(self) -> LayerValues:
        """Which units were dead when they were measured last; before `fit` a ValueError."""
        return self._last("dead")

    def _last(self, verdict: str) -> LayerValues:
        if self.record is None or not self.record.step:
            raise ValueError(
                f"LivenessMonitor: nothing is {verdict} or not before `fit` has begun; there is no record."
            )
        if self._left is not None and self._left != _fingerprint(self.model):
            warn(
                f"LivenessMonitor: which units are {verdict} was measured at step {self.record.step[-1]} of a training "
                f"that ended after {self._epoch + 1} epochs, but the weights of {self.model.name!r} are others now: a "
                "callback such as EarlyStopping(restore_best_weights=True) has brought them back, or they were loaded "
                "or trained on. A fit with this callback measures again."
            )
        return self.record.last(verdict)

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything and makes ready."""
        self.begin()
        self._measured_at, self._next, self._left = None, 0, None
        model = self.model
        refuse_uncompiled(model, "LivenessMonitor")
        refuse_masked(model)
        check_enough(self._data, model, "LivenessMonitor: `validation_data`", targets="required")
        graph = unit_groups(model)
        self._names = graph.choose(self._layers)
        if not self._names:
            raise ValueError(f"LivenessMonitor: model {model.name!r} has no units that can be removed.\n{graph!r}")
        self._gradients = GradientPass(model, self._data, self._names)
        groups = {name: graph[name].size for name in self._names}
        if self.record is None or self.record.groups != groups:
            settings = {"model": model.name, "every": self._every, **self._thresholds, **run_information()}
            self.record = LivenessRecord(groups, settings)
        if self._log_dir is not None:
            self._writer = SummaryWriter(self._log_dir)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Measures before the first epoch."""
        self.begin_epoch(epoch)
        if self._measured_at is None:
            self._next = self._before_epoch
            self._measure(self._before_epoch, epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Measures where it is time to."""
        step = self.begin_step(batch)
        if self._every is not None and step >= self._next:
            self._measure(step, self._epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measures where it is time to, and saves."""
        step = self.end_epoch()
        if self._every is None or step >= self._next:
            self._measure(step, epoch + 1)
        self._save()
        self._now = _fingerprint(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        """Saves what is left and lets go of the model."""
        self._save()
        self._gradients, self._left = None, self._now
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _save(self) -> None:
        if self._path is not None:
            self.record.save(self._path)
        if self._writer is not None:
            self._writer.flush()

    def _measure(self, step: int, epoch: int) -> None:
        if self._every is not None:
            self._next = step - step % self._every + self._every
        if step == self._measured_at:
            return
        self._measured_at = step
        found = measured(self.model, self._data, self._names, self._gradients)
        values = {name: found[name].flat for name in QUANTITIES}
        values["frozen"] = values["largest_output_gradient"] <= self._thresholds["frozen_below"]
        values["dead"] = values["mean_replacement_penalty"] <= self._thresholds["dead_below"]
        record = self.record
        record.step.append(step)
        record.epoch.append(epoch)
        record.loss.append(found["loss"])
        for name, own in values.items():
            record.values.setdefault(name, []).append(own)
        for name in HISTOGRAMS:
            record.histograms.setdefault(name, []).append(_counts(found[name], record.groups))
        if self._writer is not None:
            self._write(found, values, step)

    def _write(self, found: dict[str, Any], values: dict[str, np.ndarray], step: int) -> None:
        self._writer.scalar("loss", found["loss"], step)
        for quantity, flat in values.items():
            for group, own in LayerValues.from_flat(flat, self.record.groups).items():
                for unit, value in enumerate(own):
                    self._writer.scalar(f"{quantity}/{group}/{unit}", float(value), step)
        for name in HISTOGRAMS:
            for group, rows in found[name].items():
                for unit, own in enumerate(np.asarray(rows).T):
                    self._writer.histogram(f"{name}/{group}/{unit}", own, step)


def measured(model: keras.Model, data: Any, names: tuple[str, ...], gradients: GradientPass) -> dict[str, Any]:
    """Measures all quantities once; the gradients by a pass that was made before."""
    means = exit_means(model, data, layers=names)
    return gradients.measure() | {
        "mean_replacement_penalty": saliency.mean_replacement_penalty(model, data, layers=names, means=means),
        "mean_replacement": saliency.mean_replacement(model, data, layers=names, means=means),
        "incoming_norm": saliency.weight_norm(model, layers=names, order=2),
        "outgoing_norm": saliency.weight_norm(model, layers=names, order=2, which="outgoing"),
    }


def _fingerprint(model: keras.Model) -> int:
    """Returns a number that changes when a weight does."""
    result = 0
    for variable in model.weights:
        if keras.backend.is_float_dtype(variable.dtype):
            result = zlib.crc32(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes(), result)
    return result


def _counts(values: dict[str, np.ndarray], groups: dict[str, int]) -> np.ndarray:
    """Returns histograms of the values of each unit, `(units, bins)`; zeros for units that show nowhere."""
    result = []
    for name, size in groups.items():
        rows = np.clip(values[name], EDGES[0], EDGES[-1]) if name in values else np.zeros((0, size))
        result += [np.histogram(own, EDGES)[0] for own in rows.T]
    return np.stack(result).astype("int32")
