"""Scores of single weights on the thesis's net: how many gradients the second-order ones cost, and the exact change.

Prints one table; every ratio is of medians within one process, the ways taking turns. `--quick` repeats less and leaves
the exact change out.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfprune.graph.weights import kernel_weights
from tfprune.objectives import sample_loss
from tfprune.saliency import weights

NUM_SAMPLES = 1000
MOST = 4.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, no exact change")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    generator = np.random.default_rng(0)
    model = thesis_net()
    data = generator.random((NUM_SAMPLES, 28, 28, 1), "float32"), generator.integers(0, 10, NUM_SAMPLES)
    ways = {
        "taylor1": partial(weights.taylor1, model, data),
        "hessian": partial(weights.hessian, model, data),
        "taylor2": partial(weights.taylor2, model, data),
        "taylor2, 1 probe": partial(weights.taylor2, model, data, curvature=weights.Probes(1)),
        "magnitude": partial(weights.magnitude, model, data),
        "product, double backward": product(model, data, forward=False),
        "product, forward over reverse": product(model, data, forward=True),
    }
    medians, first = measured(ways, 7 if arguments.quick else 25)
    table = Table(title=f"Thesis net, {model.count_params():,} parameters, {NUM_SAMPLES} samples")
    for column in ("score", "first call s", "ms", "ratio to taylor1"):
        table.add_column(column, justify="left" if column == "score" else "right")
    for name, median in medians.items():
        ratio = median / medians["taylor1"]
        table.add_row(name, f"{first[name]:.2f}", f"{median * 1e3:.2f}", f"{ratio:.3f}")
    if not arguments.quick:
        for layer in ("conv_1", "conv_2", "logits"):
            size = weights.magnitude(model, layers=layer).size
            each = measured({layer: partial(weights.loss_change, model, data, layers=layer)}, 1)[0][layer] / size
            table.add_row(f"loss_change of {layer}, each weight", "", f"{each * 1e3:.2f}", "")
    Console(width=120).print(table)
    worst = max(medians["hessian"], medians["taylor2"]) / medians["taylor1"]
    if worst > MOST:
        raise SystemExit(f"Second order costs {worst:.1f} gradients, more than {MOST}.")


def thesis_net() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Conv2D(8, 5, activation="relu", name="conv_1"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(16, 5, activation="relu", name="conv_2"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu", name="dense"),
            keras.layers.Dense(10, name="logits"),
        ]
    )
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def measured(ways: dict[str, Callable], repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the median time of each way and the time of its first call; the ways take turns."""
    first = {name: timed(way) for name, way in ways.items()}
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append(timed(way))
    return {name: statistics.median(own) for name, own in times.items()}, first


def timed(function: Callable) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def product(model: keras.Model, data: tuple, *, forward: bool) -> Callable:
    """A Hessian-vector product by the plainest compiled code, to compare the two ways of making one."""
    variables = [kernel.variable for kernel in kernel_weights(model).values()]
    loss, (x, y) = sample_loss(model), map(tf.constant, data)

    def slope(values: list) -> list:
        with tf.GradientTape() as tape:
            tape.watch(values)
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                total = tf.reduce_mean(loss(y, model(x, training=False)))
        return tape.gradient(total, values)

    @tf.function(autograph=False)
    def run() -> list:
        values = [tf.convert_to_tensor(variable.value) for variable in variables]
        vectors = [-value for value in values]
        if forward:
            with tf.autodiff.ForwardAccumulator(values, vectors) as accumulator:
                found = slope(values)
            return [accumulator.jvp(own) for own in found]
        with tf.GradientTape() as tape:
            tape.watch(values)
            found = slope(values)
        return tape.gradient(found, values, output_gradients=vectors)

    return lambda: [own.numpy() for own in run()]


if __name__ == "__main__":
    main()
