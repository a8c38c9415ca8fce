"""Many masks at once against one after the other: loss and gradient on the circle net and on a small conv net.

Prints tables; every ratio is of medians within one process. `--quick` takes a tenth of everything.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfprune import datasets
from tfprune.masking import sweep, with_on_nodes

NUM_POINTS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the masks, fewer repetitions")
    parser.add_argument("--repeats", type=int, default=5, help="timed repetitions of the fast ways")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    part = 10 if arguments.quick else 1
    compare_on_circle(1000 // part, arguments.repeats)
    grow_on_circle([10_000 // part, 30_000 // part, 100_000 // part])
    leave_one_out_on_digits(arguments.repeats)


def timed(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_of(function: Callable, repeats: int) -> float:
    return statistics.median(timed(function) for _ in range(repeats))


def circle_net() -> keras.Model:
    """The source's net: 20 units that read a point of the plane, and a softmax over two classes."""
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(20, activation="relu", name="hidden"),
            keras.layers.Dense(2, activation="softmax", name="classes"),
        ]
    )


def one_after_the_other(masked: keras.Model, x: np.ndarray, y: np.ndarray, *, compiled: bool) -> Callable:
    """Returns a function of masks that gives losses and gradients by a GradientTape for each mask."""
    x, y = tf.constant(x), tf.constant(y)

    def step(on: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(on)
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, masked([x, on])))
        return loss, tape.gradient(loss, on)

    step = tf.function(step) if compiled else step

    def run(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [step(tf.constant(mask[None])) for mask in masks]
        return np.array([loss.numpy() for loss, _ in found]), np.array([gradient.numpy()[0] for _, gradient in found])

    return run


def compare_on_circle(num_masks: int, repeats: int) -> None:
    """Times the three ways on the same masks and checks that they agree."""
    model = circle_net()
    x, y = datasets.circle(NUM_POINTS, seed=0)
    masks = (np.random.default_rng(0).random((num_masks, 20)) < 0.5).astype("float32")
    masked = with_on_nodes(model)
    loops = {
        "eager GradientTape per mask": (one_after_the_other(masked, x, y, compiled=False), num_masks // 5, 1),
        "compiled step per mask": (one_after_the_other(masked, x, y, compiled=True), num_masks, 3),
    }

    def at_once() -> object:
        return sweep(model, (x, y), masks, loss="sparse_categorical_crossentropy", progress=False)

    first = timed(at_once)
    fast = median_of(at_once, repeats)
    result = at_once()
    table = Table(title=f"Circle net, {num_masks} masks x {NUM_POINTS} points, losses and gradients")
    for column in ("way", "first call s", "microseconds per mask", "ratio", "largest difference"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, (run, count, times) in loops.items():
        loop_first = timed(lambda run=run: run(masks[:1]))
        slow = median_of(lambda run=run, count=count: run(masks[:count]), times) / count
        losses, gradients = run(masks[:count])
        difference = max(
            np.abs(losses - result.losses[:count]).max(), np.abs(gradients - result.gradients[:count]).max()
        )
        ratio = slow / (fast / num_masks)
        table.add_row(name, f"{loop_first:.2f}", f"{slow * 1e6:,.1f}", f"{ratio:,.0f}", f"{difference:.1e}")
        if difference > 1e-5:
            raise SystemExit(f"{name}: results differ by {difference:.1e}")
    table.add_row("sweep", f"{first:.2f}", f"{fast / num_masks * 1e6:,.1f}", "1", "")
    Console(width=120).print(table)


def grow_on_circle(numbers: list[int]) -> None:
    """Times one sweep after another with more and more masks; memory is the peak of the whole process."""
    model = circle_net()
    x, y = datasets.circle(NUM_POINTS, seed=0)
    table = Table(title=f"Circle net, {NUM_POINTS} points, more and more masks")
    for column in ("masks", "first call s", "s", "microseconds per mask", "peak memory MB"):
        table.add_column(column, justify="right")
    for number in numbers:
        masks = np.random.default_rng(number).random((number, 20)) < 0.5

        def run(masks: np.ndarray = masks) -> object:
            return sweep(model, (x, y), masks, loss="sparse_categorical_crossentropy", progress=False)

        first, second = timed(run), timed(run)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        table.add_row(f"{number:,}", f"{first:.2f}", f"{second:.2f}", f"{second / number * 1e6:.1f}", f"{peak:,.0f}")
    Console(width=120).print(table)


def leave_one_out_on_digits(repeats: int) -> None:
    """Every unit of a conv net off once: what lies before the first mask runs once."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="first"),
            keras.layers.MaxPooling2D(2, name="pool"),
            keras.layers.Conv2D(24, 3, padding="same", activation="relu", name="second"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(32, activation="relu", name="third"),
            keras.layers.Dense(10, activation="softmax", name="classes"),
        ]
    )
    (x, y), _ = datasets.digits()
    x, y = x[:NUM_POINTS], y[:NUM_POINTS]
    masked = with_on_nodes(model)
    masks = (1.0 - np.eye(masked.inputs[-1].shape[1])).astype("float32")
    loop = one_after_the_other(masked, x, y, compiled=True)

    def at_once() -> object:
        return sweep(model, (x, y), masks, loss="sparse_categorical_crossentropy", progress=False)

    first, fast = timed(at_once), median_of(at_once, repeats)
    loop_first, slow = timed(lambda: loop(masks[:1])), median_of(lambda: loop(masks), 3)
    result, (losses, gradients) = at_once(), loop(masks)
    difference = max(np.abs(losses - result.losses).max(), np.abs(gradients - result.gradients).max())
    table = Table(title=f"Conv net on digits, {len(masks)} leave-one-out masks x {len(x)} points, losses and gradients")
    for column in ("way", "first call s", "milliseconds per mask", "ratio", "largest difference"):
        table.add_column(column, justify="left" if column == "way" else "right")
    each = 1e3 / len(masks)
    table.add_row(
        "compiled step per mask", f"{loop_first:.2f}", f"{slow * each:.2f}", f"{slow / fast:.1f}", f"{difference:.1e}"
    )
    table.add_row("sweep", f"{first:.2f}", f"{fast * each:.2f}", "1", "")
    Console(width=120).print(table)
    if difference > 1e-5:
        raise SystemExit(f"results differ by {difference:.1e}")


if __name__ == "__main__":
    main()
