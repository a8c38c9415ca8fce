"""Loss and gradient of many masks at once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfprune.borders import public
from tfprune.data import Batch, as_batches
from tfprune.files import atomic_write, check_writable_folder
from tfprune.graph import unit_groups
from tfprune.graph.finite import check_finite_weights
from tfprune.masking.build import ON_NODES, masked_already, masked_model, on_nodes_input
from tfprune.masking.steps import MaskedSteps, Steps, pieces, tensors_of
from tfprune.objectives import check_classes, describe_loss, sample_loss
from tfprune.units import LayerValues, check_flags, check_like

_SECONDS_BETWEEN_SAVES = 5.0


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        losses: mean loss over the points for each mask, shape `(num_masks,)`, in the loss's own unit.
        gradients: derivative of that loss by each entry of the mask, `(num_masks, num_units)`; None if not asked for.
        num_points: how many points the means are over.
    """

    losses: np.ndarray
    gradients: np.ndarray | None
    num_points: int


@public
def sweep(
    model: keras.Model,
    data: Any,
    masks: Any,
    *,
    loss: Any = None,
    gradients: bool = True,
    layers: Iterable[str] | str | None = None,
    replacement: LayerValues | None = None,
    save_to: str | os.PathLike | None = None,
    progress: bool = True,
) -> Sweep:
    """Computes the loss, and its gradient with respect to `on_nodes`, for many masks at once.

    What lies before the first mask runs once per point; masks and points are taken in chunks, so memory stays bounded
    whatever their number.

    Args:
        model: a model, or one that `with_on_nodes` made.
        data: inputs and targets, whatever `model.fit` takes (without `on_nodes`).
        masks: array `(num_masks, num_units)` of bool or float, or a sequence of LayerValues, one per mask.
        loss: a Keras loss; None takes the one that the model was compiled with.
        gradients: False leaves the gradients out, which takes about half the time.
        layers: which units have a column, as for `with_on_nodes`; not for a model that is masked already.
        replacement: what stands in for a unit that is off, as for `with_on_nodes`; likewise.
        save_to: a file in which the state is kept while the sweep runs. If it exists, the sweep goes on from there.
        progress: whether to show a progress bar.

    Returns:
        The losses, shape `(num_masks,)`, and gradients, shape `(num_masks, num_units)`.

    Raises:
        ValueError: if masks, data, loss or names do not fit; or if `save_to` holds another sweep.

    Example:
        >>> result = sweep(net, (x, y), np.ones((1, 20)), loss="sparse_categorical_crossentropy")   # doctest: +SKIP
        >>> result.losses.shape, result.gradients.shape                                             # doctest: +SKIP
        ((1,), (1, 20))
    """
    sample_loss(model, loss)
    position = on_nodes_input(model)
    if position is not None and (layers is not None or replacement is not None):
        raise ValueError("layers, replacement: the model is masked already; give them to with_on_nodes instead.")
    check_finite_weights(model)
    sizes = _sizes(model, position, layers)
    rows = _checked_masks(masks, sizes)
    if save_to is not None:
        check_writable_folder(Path(save_to).parent)
    runner = _runner(model, loss, gradients, layers, replacement)
    batches = as_batches(data, runner.inputs, batch_size=runner.points_at_once, targets="required")
    what = repr((rows.shape, gradients, sizes, describe_loss(model, loss)))
    state = _State.start(rows, gradients, what, runner.weights, save_to)
    parts = pieces(batches, runner.points_at_once, lambda targets: check_classes(model, targets, loss))
    return _run(runner, parts, batches.num_samples, rows, state, progress)


def _sizes(model: keras.Model, position: int | None, layers: Any) -> dict[str, int]:
    if position is not None:
        return {ON_NODES: model.inputs[position].shape[1]}
    graph = unit_groups(model)
    return {name: graph[name].size for name in graph.choose(layers, blocks=True)}


def _checked_masks(masks: Any, sizes: dict[str, int]) -> np.ndarray:
    """Returns the masks as a float32 array `(num_masks, num_units)`."""
    num_units = sum(sizes.values())
    if isinstance(masks, Mapping):
        masks = [masks]
    named = masks if isinstance(masks, Sequence) else ()
    if set(sizes) == {ON_NODES} and any(isinstance(own, Mapping) and ON_NODES not in own for own in named):
        raise ValueError(
            f"masks: the model is masked already, so its {num_units} units have no names here. Pass the model that it "
            "was made of, or rows (num_masks, num_units): unit_groups(model).on_nodes(mask) makes one."
        )
    if isinstance(masks, Sequence) and len(masks) and all(isinstance(mask, Mapping) for mask in masks):
        masks = np.stack([check_like(mask, sizes, f"masks[{k}]").flat for k, mask in enumerate(masks)])
    rows = np.asarray(masks)
    if rows.dtype.kind not in "biuf":
        raise TypeError(f"masks: expected bool or numbers, received dtype {rows.dtype}.")
    if rows.ndim != 2 or rows.shape[1] != num_units or not len(rows):
        raise ValueError(
            f"masks: expected shape (num_masks, {num_units}), one column per unit of {', '.join(sizes)} and at least "
            f"one mask; received {rows.shape}. A single mask is masks[None]."
        )
    if rows.dtype.kind in "iu":
        check_flags(rows, "masks: an array of integers")
    rows = rows.astype("float32")
    if not np.isfinite(rows).all():
        bad = int(np.argwhere(~np.isfinite(rows))[0][0])
        raise ValueError(f"masks: mask {bad} holds NaN or infinity; a mask is 0 (off) to 1 (on).")
    return rows


class _Runner(Steps):
    """The compiled steps of one kind of sweep over one model."""

    def __init__(self, masked: keras.Model, per_sample: Callable, gradients: bool):
        super().__init__(masked, per_sample)
        self.weights = masked.weights
        self.gradients = gradients
        self.step = self.compiled(self._step)

    def _step(self, boundary: tuple, targets: Any, weights: Any, masks: Any) -> tuple[Any, Any]:
        """Returns sums over the points: losses `(masks,)` and gradients `(masks, num_units)`."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(masks)
            losses = tf.reduce_sum(self.losses(boundary, targets, weights, masks), axis=1)
        if not self.gradients:
            return losses, losses
        return losses, tape.gradient(losses, masks, unconnected_gradients=tf.UnconnectedGradients.ZERO)


_runners = MaskedSteps(_Runner, 4)


def _runner(model: keras.Model, loss: Any, gradients: bool, layers: Any, replacement: Any) -> _Runner:
    """Returns the compiled steps: those of an earlier sweep of the same kind, if any."""
    layers = layers if layers is None or isinstance(layers, str) else tuple(layers)
    build = masked_model if on_nodes_input(model) is None else masked_already
    return _runners.get(model, loss, layers, replacement, gradients, build=build)[1]


@dataclass
class _State:
    """Sums so far, and how far the sweep has come; kept in a file on request."""

    losses: np.ndarray
    gradients: np.ndarray | None
    fingerprint: str
    path: Path | None
    num_points: int = 0
    batches_done: int = 0
    masks_done: int = 0
    batches_begun: int = 0
    data: str = ""

    @classmethod
    def start(cls, rows: np.ndarray, gradients: bool, what: str, weights: list[Any], path: Any) -> _State:
        digest = hashlib.sha256(rows.tobytes())
        digest.update(what.encode())
        for variable in weights if path is not None else ():
            digest.update(keras.ops.convert_to_numpy(variable).tobytes())
        sums = np.zeros(len(rows)), np.zeros(rows.shape) if gradients else None
        state = cls(*sums, digest.hexdigest(), None if path is None else Path(path))
        if state.path is not None and state.path.exists():
            state._resume()
        return state

    def _resume(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as saved:
                saved = dict(saved)
            fingerprint = str(saved["fingerprint"])
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f"save_to: {self.path} is not the state of a sweep; give another file.") from error
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"save_to: {self.path} holds another sweep (other masks, weights, loss or options). Delete it, or give "
                "another file."
            )
        self.losses = saved["losses"]
        self.gradients = saved["gradients"] if self.gradients is not None else None
        numbers = (int(number) for number in saved["progress"])
        self.num_points, self.batches_done, self.masks_done, self.batches_begun = numbers
        self.data = str(saved["data"])

    def save(self) -> None:
        if self.path is None:
            return
        arrays = {"losses": self.losses, "fingerprint": np.array(self.fingerprint), "data": np.array(self.data)}
        if self.gradients is not None:
            arrays["gradients"] = self.gradients
        progress = np.array([self.num_points, self.batches_done, self.masks_done, self.batches_begun])
        with atomic_write(self.path) as temporary, open(temporary, "wb") as file:
            np.savez(file, progress=progress, **arrays)

    def refuse_other_data(self, data: str) -> None:
        """Raises ValueError if `data`, the digest of the batches begun, is not that of the saved state."""
        if data != self.data:
            raise ValueError(
                f"save_to: {self.path} holds a sweep over other data. Delete it, or give another file. (Data that come "
                "in another order at every pass cannot be resumed.)"
            )

    def add(self, start: int, losses: np.ndarray, gradients: np.ndarray) -> None:
        stop = start + len(losses)
        self.losses[start:stop] += losses
        if self.gradients is not None:
            self.gradients[start:stop] += gradients
        self.masks_done = stop


def _run(
    runner: _Runner, parts: Iterable[Batch], num_samples: int | None, rows: np.ndarray, state: _State, progress: bool
) -> Sweep:
    total = None if num_samples is None else num_samples * len(rows)
    done = state.num_points * len(rows)
    data, number = "", -1
    saved_at = time.monotonic()
    with tqdm(total=total, initial=done, unit="point", unit_scale=True, desc="sweep", disable=not progress) as bar:
        try:
            for number, batch in enumerate(parts):
                data = data if state.path is None else _digest(data, batch)
                if number + 1 == state.batches_begun:
                    state.refuse_other_data(data)
                if number < state.batches_done:
                    continue
                state.data, state.batches_begun = data, number + 1
                saved_at = _one_batch(runner, batch, rows, state, bar, saved_at)
        except BaseException:
            # Whatever stops the sweep, what is done is kept; a failing disk must not hide the first error.
            with suppress(OSError):
                state.save()
            raise
    if number + 1 < state.batches_begun:
        state.refuse_other_data(data)
    state.save()
    gradients = None if state.gradients is None else state.gradients / state.num_points
    return Sweep(state.losses / state.num_points, gradients, state.num_points)


def _digest(before: str, batch: Batch) -> str:
    """Returns a digest of a batch and of those before it, whose digest is `before`."""
    digest = hashlib.sha256(before.encode())
    for array in tf.nest.flatten(tuple(batch)):
        digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _one_batch(runner: _Runner, batch: Any, rows: np.ndarray, state: _State, bar: tqdm, saved_at: float) -> float:
    num_points = len(batch.inputs[0])
    inputs, targets, weights = tensors_of(batch)
    boundary = runner.before(inputs)
    at_once = runner.begin(num_points, len(rows))
    for start in range(state.masks_done, len(rows), at_once):
        # Every part has the same shape, so that the step is compiled once: the last one begins earlier.
        begin = min(start, len(rows) - at_once)
        losses, gradients = runner.step(boundary, targets, weights, tf.convert_to_tensor(rows[begin : begin + at_once]))
        new = slice(start - begin, None)
        state.add(start, losses.numpy()[new], gradients.numpy()[new])
        bar.update((state.masks_done - start) * num_points)
        if time.monotonic() - saved_at > _SECONDS_BETWEEN_SAVES:
            state.save()
            saved_at = time.monotonic()
    state.num_points += num_points
    state.batches_done += 1
    state.masks_done = 0
    return saved_at
