"""Networks with random weights for the benchmarks, and how time is measured."""

import statistics
import sys
import time
from pathlib import Path

import keras
import numpy as np
from keras import layers

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import tfprune  # noqa: E402
from tfprune import LayerValues  # noqa: E402


def thesis_net():
    """The thesis's net for MNIST: two convolutions and a dense layer, 20,522 parameters."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 5, activation="relu", name="conv1"),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 5, activation="relu", name="conv2"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="fc1"),
            layers.Dense(10, name="logits"),
        ],
        name="thesis",
    )


def residual_net(blocks=2):
    """A CIFAR-10 residual net of widths 16, 32, 64 with batch norm: about 175,000 parameters."""
    image = keras.Input((32, 32, 3))
    h = layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image)
    h = layers.ReLU()(layers.BatchNormalization()(h))
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            name = f"stage_{stage}_block_{block}"
            branch = layers.Conv2D(width, 3, stride, "same", use_bias=False, name=f"{name}_inside")(h)
            branch = layers.ReLU()(layers.BatchNormalization()(branch))
            branch = layers.Conv2D(width, 3, padding="same", use_bias=False, name=f"{name}_back")(branch)
            branch = layers.BatchNormalization()(branch)
            if h.shape[-1] != width:
                h = layers.Conv2D(width, 1, stride, use_bias=False, name=f"{name}_shortcut")(h)
                h = layers.BatchNormalization()(h)
            h = layers.ReLU()(layers.Add()([h, branch]))
    h = layers.GlobalAveragePooling2D()(h)
    return keras.Model(image, layers.Dense(10, name="out")(h), name="residual")


def keep_part(model, sparsity=0.5, seed=0):
    """Returns a mask that switches a part of every group off, at random."""
    generator = np.random.default_rng(seed)
    sizes = tfprune.unit_groups(model).sizes
    return LayerValues({name: generator.permutation(size) >= int(size * sparsity) for name, size in sizes.items()})


def seconds(function, runs=5, warm=1):
    """Returns the median time of some runs after others that do not count."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def peak_gigabytes():
    """Returns the most memory that this process has held."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_table(title, header, rows):
    """Prints rows of strings and numbers, right-aligned but for the first column."""
    rows = [header, *([str(cell) if not isinstance(cell, float) else f"{cell:.3g}" for cell in row] for row in rows)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(header))]
    print(f"\n{title}")
    for row in rows:
        print(
            "  ".join(
                cell.ljust(w) if not k else cell.rjust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
        )
