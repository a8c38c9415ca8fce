"""Scores of all units against the naive way: MRS against one forward and backward pass, MRP against one pass per unit.

Every ratio is of medians within one process, on warm, compiled functions. Scores of weights: saliency_weights.py.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from networks import seconds, thesis_net
from rich.console import Console
from rich.table import Table

import tfprune as tfp
from tfprune.objectives import sample_loss
from tfprune.statistics import exit_means

NUM_SAMPLES = 1000
BATCH = 250


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions")
    repeats = parser.parse_args().repeats
    table = Table(title=f"{NUM_SAMPLES} samples, medians of {repeats} runs, milliseconds")
    for column in ("net", "units", "forward + backward", "MRS", "MRS with its means", "forward per unit", "MRP"):
        table.add_column(column)
    for name, build in (("thesis net", thesis_net), ("3 x 512 dense", dense_net)):
        keras.utils.set_random_seed(0)
        table.add_row(name, *measure(build(), repeats))
    Console(width=120).print(table)


def dense_net() -> keras.Model:
    hidden = [keras.layers.Dense(512, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((784,)), *hidden, keras.layers.Dense(10)])


def measure(model: keras.Model, repeats: int) -> list[str]:
    """Returns the columns of the table behind the name of the net."""
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(NUM_SAMPLES, *model.input_shape[1:])).astype("float32")
    y = generator.integers(0, 10, NUM_SAMPLES)
    data, means = (x, y), exit_means(model, x)
    gradient = seconds(gradients_of(model, x, y), repeats)
    given = seconds(lambda: tfp.saliency.mean_replacement(model, data, means=means), repeats)
    whole = seconds(lambda: tfp.saliency.mean_replacement(model, data), repeats)
    naive, expected = penalties_by_passes(model, x, y, means)
    per_unit = seconds(naive, 1)
    fast = seconds(lambda: tfp.saliency.mean_replacement_penalty(model, data, means=means), repeats)
    found = tfp.saliency.mean_replacement_penalty(model, data, means=means).flat
    print(f"largest difference of the penalties: {np.abs(found - expected()).max():.1e} of {found.max():.1e}")
    num_units = tfp.unit_groups(model).num_units
    return [
        str(num_units),
        f"{1e3 * gradient:.1f}",
        f"{1e3 * given:.1f} ({given / gradient:.2f} x)",
        f"{1e3 * whole:.1f} ({whole / gradient:.2f} x)",
        f"{1e3 * per_unit:.0f}",
        f"{1e3 * fast:.1f} ({per_unit / fast:.1f} times faster)",
    ]


def gradients_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> Callable:
    """One compiled forward and backward pass over all samples, batch by batch."""
    per_sample = sample_loss(model)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(per_sample(y, model(x, training=False)))
        return tape.gradient(loss, model.trainable_variables)

    batches = [(tf.constant(x[k : k + BATCH]), tf.constant(y[k : k + BATCH])) for k in range(0, len(x), BATCH)]
    return lambda: [step(*batch) for batch in batches]


def penalties_by_passes(model: keras.Model, x: np.ndarray, y: np.ndarray, means) -> tuple[Callable, Callable]:
    """One compiled forward pass of the mean-replaced model for each unit, and the scores that this gives."""
    masked, per_sample = tfp.with_on_nodes(model, replacement=means), sample_loss(model)
    num_units = masked.inputs[-1].shape[1]
    inputs, targets = tf.constant(x), tf.constant(y)

    @tf.function
    def losses(row):
        return per_sample(targets, masked([inputs, row]))

    scores = np.zeros(num_units)

    def run() -> None:
        whole = losses(tf.ones([1, num_units]))
        for unit in range(num_units):
            row = 1.0 - tf.one_hot([unit], num_units)
            scores[unit] = tf.reduce_mean(tf.abs(losses(row) - whole)).numpy()

    return run, lambda: scores


if __name__ == "__main__":
    main()
