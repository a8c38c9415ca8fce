"""A step of ON-LSTM against a step of Keras's LSTM without cuDNN, at the same size: forward and with gradients.

    python benchmarks/neurons_layers.py
    python benchmarks/neurons_layers.py --quick

Every ratio is one of medians within one process, the two taken in turn. Target: at most 2.0.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from tfprune.layers import ONLSTM

# One thread: what several gain depends on what else the machine does.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

TARGET = 2.0
STEPS = 30
SIZES = [(128, 8, 32), (128, 8, 128), (512, 16, 20), (1150, 10, 20)]
"""Units, units in a chunk, sequences in a batch; the last is the paper's."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the two small sizes, fewer repetitions")
    arguments = parser.parse_args()
    keras.utils.set_random_seed(0)
    compare_on_lstm(SIZES[:2] if arguments.quick else SIZES, repeats=10 if arguments.quick else 25)


def compare_on_lstm(sizes: list[tuple[int, int, int]], repeats: int) -> None:
    table = Table(title=f"{STEPS} steps of a recurrent layer, features as many as units")
    for column in ("units", "chunk", "batch", "what", "LSTM ms", "ON-LSTM ms", "ratio", "target"):
        table.add_column(column, justify="right")
    for units, chunk, batch in sizes:
        x = tf.constant(np.random.default_rng(0).normal(size=(batch, STEPS, units)).astype("float32"))
        plain = keras.layers.LSTM(units, return_sequences=True, use_cudnn=False)
        ordered = ONLSTM(units, chunk, return_sequences=True)
        for what, run_of in (("forward", forward), ("gradients", gradients)):
            one, other = medians([run_of(plain, x), run_of(ordered, x)], repeats if units < 1000 else repeats // 3)
            row = (units, chunk, batch, what, f"{1e3 * one:.1f}", f"{1e3 * other:.1f}", f"{other / one:.2f}", TARGET)
            table.add_row(*map(str, row))
    Console(width=120).print(table)


def forward(layer: keras.layers.Layer, x: tf.Tensor) -> Callable:
    run = tf.function(lambda x: layer(x, training=False))
    return lambda: run(x).numpy()


def gradients(layer: keras.layers.Layer, x: tf.Tensor) -> Callable:
    layer(x)

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(layer(x, training=True)))
        return tape.gradient(loss, layer.trainable_weights)

    return lambda: run(x)[0].numpy()


def medians(runs: list[Callable], repeats: int) -> list[float]:
    """Returns the median seconds of each, after one run that traces it; the runs take turns."""
    for run in runs:
        run()
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, own in zip(runs, times, strict=True):
            start = time.perf_counter()
            run()
            own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in times]


if __name__ == "__main__":
    main()
