"""Angles of 1024 units against the source's double loop and one BLAS product; memory; pruning a 2 x 256 LSTM.

Every ratio is of times within one process, on warm, compiled functions. The double loop is timed on some of its pairs.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import resource
import time
from collections.abc import Callable

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune import distinctiveness

NUM_UNITS, NUM_INPUTS = 1024, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="timed repetitions")
    parser.add_argument("--patterns", type=int, default=60_000, help="patterns of the angles")
    parser.add_argument("--pairs", type=int, default=20, help="pairs on which the double loop is timed")
    options = parser.parse_args()
    table = Table(title=f"{NUM_UNITS} units over {options.patterns:,} patterns, medians of {options.repeats} runs")
    for column in ("what", "seconds", "CPU seconds", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in (*angle_rows(options), *prune_rows(options.repeats)):
        table.add_row(*row)
    Console(width=140).print(table)


def angle_rows(options: argparse.Namespace) -> list[tuple[str, ...]]:
    keras.utils.set_random_seed(0)
    steps = [keras.layers.Dense(NUM_UNITS, "relu", name="wide"), keras.layers.Dense(2)]
    net = keras.Sequential([keras.Input((NUM_INPUTS,)), *steps])
    x = np.random.default_rng(0).normal(size=(options.patterns, NUM_INPUTS)).astype("float32")
    distinctiveness.angles(net, x[:1000])
    before = peak_bytes()
    distinctiveness.angles(net, x)
    memory = peak_bytes() - before
    ours = measured(lambda: distinctiveness.angles(net, x), options.repeats)
    values = np.maximum(x @ net.layers[0].kernel.numpy() + net.layers[0].bias.numpy(), 0)
    wide = values.astype("float64")
    # With the same array on both sides NumPy would make one triangle only.
    other = wide.copy()
    product = measured(lambda: wide.T @ other, options.repeats)
    triangle = measured(lambda: wide.T @ wide, options.repeats)
    loops = {
        "columns of (patterns, units)": double_loop(values, options.pairs),
        "rows of (units, patterns)": double_loop(np.asfortranarray(values), options.pairs),
    }
    rows = [
        ("angles", ours, ""),
        ("one product in float64", product, f"angles take {ours[1] / product[1]:.2f} x its CPU time"),
    ]
    rows.append(("one triangle of it", triangle, f"angles take {ours[1] / triangle[1]:.2f} x its CPU time"))
    for name, loop in loops.items():
        rows.append((f"double loop over {name}, extrapolated", loop, f"{loop[1] / ours[1]:.0f} times slower"))
    found = [(what, f"{wall:.2f}", f"{cpu:.2f}", ratio) for what, (wall, cpu), ratio in rows]
    return [*found, (f"memory: {memory / 1e6:.0f} MB above a pass over 1000 patterns", "", "", "")]


def measured(function: Callable, repeats: int) -> tuple[float, float]:
    """Returns medians of the seconds on the clock and of the seconds of all cores: others may use the machine too."""
    function()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return tuple(np.median(times, axis=0).tolist())


def double_loop(values: np.ndarray, pairs: int) -> tuple[float, float]:
    """Returns the seconds that all pairs would take: the angle between two vectors as scripts write it."""
    chosen = np.random.default_rng(0).integers(0, NUM_UNITS, (pairs, 2))

    def some() -> None:
        for one, other in chosen:
            unit_one = values[:, one] / np.linalg.norm(values[:, one])
            unit_other = values[:, other] / np.linalg.norm(values[:, other])
            np.degrees(np.arccos(np.clip(np.dot(unit_one, unit_other), -1.0, 1.0)))

    return tuple(part * NUM_UNITS**2 / pairs for part in measured(some, 3))


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def prune_rows(repeats: int) -> list[tuple[str, ...]]:
    keras.utils.set_random_seed(0)
    steps = [keras.layers.LSTM(256, return_sequences=True), keras.layers.LSTM(256), keras.layers.Dense(64, "relu")]
    net = keras.Sequential([keras.Input((11, 1)), *steps, keras.layers.Dense(2)])
    x = np.random.default_rng(0).random((260, 11, 1)).astype("float32")
    first, small = time.perf_counter(), distinctiveness.prune(net, x)
    first = time.perf_counter() - first
    wall, cpu = measured(lambda: distinctiveness.prune(net, x), repeats)
    sizes = ", ".join(str(layer.units) for layer in small.layers[:3])
    what = f"pruning LSTM 256, LSTM 256, dense 64 on 260 x 11 steps (left: {sizes})"
    return [(what, f"{wall:.2f}", f"{cpu:.2f}", ""), ("the same, first call", f"{first:.2f}", "", "")]


if __name__ == "__main__":
    main()
