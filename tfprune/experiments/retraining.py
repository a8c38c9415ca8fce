"""What training after the cut gives, from each repair and from scratch."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfprune.experiments.removal import Rows, evaluate, text_column
from tfprune.files import run_information


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TrainingAfterRemoval(Rows):
    """Smaller models trained from several starts, each row a training of its own.

    Attributes:
        start: What the training started from: a repair, or "from scratch".
        epochs: Length of the training; 0 is the start itself.
        accuracy: On the test data after the training, from 0 to 1.
        loss: On the test data.
        seconds: Time of the training.
    """

    start: np.ndarray = text_column()
    epochs: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    seconds: np.ndarray


def train_after_removal(
    starts: Mapping[str, Callable[[], keras.Model]],
    data: tuple[np.ndarray, np.ndarray],
    *,
    train: Callable[[keras.Model, str, int], Any],
    epochs: Sequence[int],
    settings: Mapping[str, Any],
    path: Path | None = None,
) -> TrainingAfterRemoval:
    """Trains each start for each number of epochs and tests it.

    Two trainings of different length are two runs: a schedule of rates that ends at zero fits each.

    Args:
        starts: Name -> function that gives a new compiled model with the metric "accuracy".
        data: ``(x, y)`` to test on.
        train: Function ``(model, name of the start, num_epochs)`` that trains the model in place.
        epochs: Numbers of epochs, in the order of work; the start itself (0) is always tested.
        settings: What the starts were made from, for the record. A file with another ``fingerprint`` is refused.
        path: npz file to save to and to resume from.

    Returns:
        The record, with all rows that the file holds.

    Raises:
        ValueError: If a model has no accuracy, or the file comes from other settings.
    """
    record = TrainingAfterRemoval.resume(path, {**settings, **run_information()})
    cells = [(name, length) for length in (0, *epochs) for name in starts]
    cells = [(name, length) for name, length in cells if not record.where(start=name, epochs=length).any()]
    for name, length in tqdm(cells, desc="training", leave=False, disable=None):
        model = starts[name]()
        start = time.perf_counter()
        if length:
            train(model, name, length)
        seconds = time.perf_counter() - start
        loss, accuracy = evaluate(model, data)
        record = record.with_row(start=name, epochs=length, accuracy=accuracy, loss=loss, seconds=seconds)
        if path is not None:
            record.save(path)
    return record
