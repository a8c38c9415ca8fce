"""Training of the halved net from each repair and from scratch, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import keras
import real_nets
from rich.table import Table

import tfprune as tfp
from tfprune.experiments import REPAIRS, TrainingAfterRemoval, train_after_removal
from tfprune.experiments.removal import evaluate, fingerprint

SCRATCH = "from scratch"
SPARSITY = 0.5
# A trained net wants smaller steps than one that begins.
RATE_SHARE = 0.2


def training_study(
    net: tuple[keras.Model, real_nets.Data], name: str, seed: int, *, epochs: Sequence[int], calibration, path: Path
) -> TrainingAfterRemoval:
    """Halves every group of a net and trains it from each repair and from scratch.

    Args:
        net: The trained net and its data.
        name: Name of its recipe.
        seed: Seed of shuffling, augmentation and new initial weights.
        epochs: Lengths of the trainings.
        calibration: Inputs for score and repairs.
        path: Record to save to and to resume from.

    Returns:
        The record, with the accuracy of the full net in its settings.
    """
    model, (training, test) = net
    cut: dict[str, keras.Model] = {}

    def start(repair: str) -> keras.Model:
        """A new copy at each call; a repair is made once, however many trainings start from it."""
        if repair not in cut:
            mask = tfp.keep_top(tfp.saliency.least_squares(model, calibration), SPARSITY)
            cut[repair] = tfp.remove(model, mask, repair=repair, data=calibration)
        copy = keras.models.clone_model(cut[repair])
        copy.set_weights(cut[repair].get_weights())
        return real_nets.compile_classifier(copy)

    def scratch() -> keras.Model:
        small = start("zero")
        keras.utils.set_random_seed(seed)
        return real_nets.compile_classifier(keras.models.clone_model(small))

    starts: dict[str, Callable[[], keras.Model]] = {repair: partial(start, repair) for repair in REPAIRS}
    own = fingerprint(model, calibration, test)
    settings = {"net": name, "seed": seed, "saliency": "least_squares", "sparsity": SPARSITY, "fingerprint": own}
    return train_after_removal(
        starts | {SCRATCH: scratch},
        test,
        train=lambda model, start, length: _train(model, start, length, name, seed, training),
        epochs=epochs,
        settings=settings | {"rate_share": RATE_SHARE, "full_accuracy": evaluate(model, test)[1]},
        path=path,
    )


def _train(model: keras.Model, start: str, epochs: int, name: str, seed: int, training) -> None:
    """One training with the recipe of the full net; from a trained start at a smaller rate."""
    recipe = real_nets.RECIPES[name]
    if start != SCRATCH:
        recipe = dataclasses.replace(recipe, learning_rate=recipe.learning_rate * RATE_SHARE)
    num_steps = epochs * (len(training[1]) // recipe.batch_size)
    real_nets.compile_classifier(model, real_nets.make_optimizer(recipe, num_steps))
    model.fit(real_nets.training_pipeline(training, recipe, seed), epochs=epochs, shuffle=False, verbose=0)


def training_table(record: TrainingAfterRemoval) -> Table:
    """Accuracy by start and number of epochs."""
    epochs = sorted(set(record.epochs.tolist()))
    settings = record.settings
    title = (
        f"{settings['net']} net, seed {settings['seed']}, half of every group gone: accuracy after training; "
        f"full net {settings['full_accuracy']:.4f}"
    )
    table = Table("start", *(f"{length:.0f} epochs" for length in epochs), title=title)
    for start in (*REPAIRS, SCRATCH):
        rows = (record.accuracy[record.where(start=start, epochs=length)] for length in epochs)
        table.add_row(start, *(f"{row[0]:.4f}" if row.size else "" for row in rows))
    return table
