"""Memory and time of a call on a model that is new each time, as loops over seeds and over prunings have it.

Prints a table: what a call adds to the resident memory over the second half of the calls, and how many models are alive
at the end. What a plain Keras model and a plain `tf.function` add by themselves is in the first rows; every call holds
it. `--quick` takes fewer calls.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import gc
import logging
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import tfprune

LOSS = "sparse_categorical_crossentropy"
NUM_PARTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the calls")
    parser.add_argument("--calls", type=int, default=200, help="fresh models per row")
    parser.add_argument("--only", nargs="*", help="some of the rows")
    arguments = parser.parse_args()
    # The table has plain functions that are traced anew in each call, of which TensorFlow would warn.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    keras.utils.set_random_seed(0)
    num_calls = max(NUM_PARTS, arguments.calls // (10 if arguments.quick else 1))
    table = Table(title=f"{num_calls} fresh models each")
    for column in ("call", "MB after each quarter", "kB per call, second half", "ms CPU per call", "models alive"):
        table.add_column(column, justify="left" if column == "call" else "right")
    for name, call in calls().items():
        if not arguments.only or name in arguments.only:
            table.add_row(name, *measured(call, num_calls))
    Console(width=120).print(table)


def calls() -> dict[str, Callable[[keras.Model], object]]:
    """What is called, by name; each takes a fresh model."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 4)).astype("float32"), rng.integers(0, 3, 64)
    many = rng.normal(size=(300, 4)).astype("float32")
    masks = rng.random((10, 14)) < 0.5
    units, weights = tfprune.saliency, tfprune.saliency.weights

    def half(model: keras.Model) -> tfprune.LayerValues:
        return tfprune.keep_top(units.weight_norm(model), 0.5)

    return {
        "(plain model)": lambda model: model,
        "(plain tf.function)": lambda model: tf.function(lambda inputs: model(inputs), autograph=False)(x),
        "with_on_nodes": tfprune.with_on_nodes,
        "sweep": lambda model: tfprune.sweep(model, (x, y), masks, loss=LOSS, progress=False),
        "on_nodes_gradient": lambda model: units.on_nodes_gradient(model, (x, y), loss=LOSS),
        "mean_replacement": lambda model: units.mean_replacement(model, (x, y), loss=LOSS),
        "mean_replacement, before": lambda model: units.mean_replacement(model, (x, y), loss=LOSS, place="before"),
        "mean_replacement_penalty": lambda model: units.mean_replacement_penalty(model, (x, y), loss=LOSS),
        "activation_std": lambda model: units.activation_std(model, x),
        "least_squares": lambda model: units.least_squares(model, many),
        "distinctiveness": lambda model: units.distinctiveness(model, x),
        "relevance": lambda model: units.relevance(model, (x, y)),
        "weights.taylor1": lambda model: weights.taylor1(model, (x, y), loss=LOSS),
        "weights.hessian": lambda model: weights.hessian(model, (x, y), loss=LOSS),
        "explain": lambda model: tfprune.relevance.explain(model, x),
        "remove, zero": lambda model: tfprune.remove(model, half(model)),
        "remove, mean": lambda model: tfprune.remove(model, half(model), repair="mean", data=many),
        "remove, least squares": lambda model: tfprune.remove(model, half(model), repair="least_squares", data=many),
        "remove_dead": lambda model: tfprune.remove_dead(model, x),
        "compare": lambda model: tfprune.compare(model, tfprune.remove(model, half(model)), x, latency_runs=0),
    }


def fresh_model() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )


def measured(call: Callable[[keras.Model], object], num_calls: int) -> tuple[str, ...]:
    """Returns the columns of one row."""
    gc.collect()
    known = num_models()
    levels, start = [], time.process_time()
    for _ in range(NUM_PARTS):
        for _ in range(num_calls // NUM_PARTS):
            call(fresh_model())
        gc.collect()
        levels.append(resident())
    each = (time.process_time() - start) * 1e3 / num_calls
    growth = (levels[-1] - levels[NUM_PARTS // 2 - 1]) * 1024 / (num_calls / 2)
    line = " ".join(f"{level:,.0f}" for level in levels)
    return line, f"{growth:,.0f}", f"{each:,.0f}", str(num_models() - known)


def resident() -> float:
    """Memory of this process that is not swapped out, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def num_models() -> int:
    return sum(isinstance(own, keras.Model) for own in gc.get_objects())


if __name__ == "__main__":
    main()
