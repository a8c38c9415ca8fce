"""What relevance costs: ratios to one compiled gradient of the same model and batch, all in one process.

A 28 x 28 conv net (32 - 64 - pool - 128 - 10, batch 64) and VGG16 (batch 4). `--small` leaves VGG16 out. And how far
conductance at 50 steps is from that at a great many, on dense nets in float64.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import time

import keras
import networks
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune import relevance
from tfprune.relevance.walk import WALKS

STEPS = 32
TARGETS = {
    "lrp": 1.4,
    "blame_the_bias": 1.2,
    "deconvolution": 1.15,
    "compare_to_baseline": 2.6,
    "integrated_gradients": 1.05,
    "conductance": 1.10,
    "conductance_by_differences": 2.6,
}


def conv_net():
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ],
        name="conv_net",
    )


def vgg16():
    return keras.applications.VGG16(weights=None, classifier_activation=None)


def gradient_of(model):
    """One compiled gradient by the inputs: what everything is compared with."""

    @tf.function
    def gradient(x, classes):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            chosen = tf.gather(model(x, training=False), classes, axis=1, batch_dims=1)
        return tape.gradient(chosen, x)

    return gradient


def interleaved(functions, rounds):
    """Median processor seconds and least wall seconds of each function.

    They take turns, so that a busy machine slows all of them; processor time leaves out what other programs do.
    """
    wall, processor = ({name: [] for name in functions} for _ in range(2))
    for function in functions.values():
        function()
    for _ in range(rounds):
        for name, function in functions.items():
            start, start_processor = time.perf_counter(), time.process_time()
            function()
            wall[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - start_processor)
    return {name: (float(np.median(processor[name])), min(wall[name])) for name in functions}


def compare(model, batch, rounds):
    x = np.random.default_rng(0).normal(size=(batch, *model.input_shape[1:])).astype("float32")
    classes = np.arange(batch, dtype="int32") % model.output_shape[-1]
    gradient, tensor, index = gradient_of(model), tf.constant(x), tf.constant(classes)

    def explain(method):
        return lambda: relevance.explain(model, x, method=method, target=classes, steps=STEPS, units=False)

    functions = {"gradient by GradientTape": lambda: gradient(tensor, index).numpy()}
    functions |= {method: explain(method) for method in TARGETS}
    seconds = interleaved(functions, rounds)
    one, one_wall = seconds.pop("gradient by GradientTape")
    rows = []
    for method, (own, own_wall) in seconds.items():
        per = STEPS if method in WALKS else 1
        unit = f"per step of {STEPS}" if per > 1 else "per call"
        ratios = f"{own / per / one:.2f}", f"{own_wall / per / one_wall:.2f}"
        rows.append((method, *ratios, f"{TARGETS[method]:.2f}", unit))
    title = (
        f"{model.name}, batch {batch}: one gradient takes {one * 1e3:.0f} ms of processor time, {one_wall * 1e3:.0f} "
        f"ms by the clock ({rounds} rounds)"
    )
    networks.print_table(title, ("method", "ratio (processor)", "ratio (clock)", "at most", ""), rows)


def dense_net(activations, seed):
    keras.utils.set_random_seed(seed)
    wide = keras.initializers.VarianceScaling(6.0, mode="fan_in", distribution="normal")
    options = {"kernel_initializer": wide, "bias_initializer": keras.initializers.RandomNormal(stddev=0.3)}
    stack = [
        layers.Dense(width, activation, dtype="float64", name=f"layer_{k}", **options)
        for k, (width, activation) in enumerate(zip((10, 8, 3), activations, strict=True))
    ]
    return keras.Sequential([keras.Input((6,), dtype="float64"), *stack])


def errors(num_nets=3, steps=50, great_many=1000):
    """The largest error over the units of both hidden layers and 20 samples, for several nets; in probability."""
    rows = []
    for activations in (("relu", "sigmoid", "softmax"), ("tanh", "sigmoid", "softmax"), ("relu", "relu", "softmax")):
        found = {"conductance": [], "conductance_by_differences": []}
        for seed in range(num_nets):
            model = dense_net(activations, seed)
            x = np.random.default_rng(seed).normal(size=(20, 6))
            many = relevance.explain(model, x, method="conductance_by_differences", start="softmax", steps=great_many)
            for method, own in found.items():
                few = relevance.explain(model, x, method=method, start="softmax", steps=steps)
                own.append(max(np.abs(few.units[name] - many.units[name]).max() for name in ("layer_0", "layer_1")))
        for method, own in found.items():
            rows.append((" - ".join(activations), method, f"{np.median(own):.1e}", f"{max(own):.1e}", "2e-04"))
    title = f"conductance: error at {steps} steps against {great_many}, {num_nets} nets each"
    networks.print_table(title, ("net", "method", "median", "worst", "at most"), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="the conv net alone")
    parser.add_argument("--rounds", type=int, default=11)
    arguments = parser.parse_args()
    errors()
    keras.utils.set_random_seed(0)
    compare(conv_net(), 64, arguments.rounds)
    if not arguments.small:
        compare(vgg16(), 4, max(3, arguments.rounds // 3))


if __name__ == "__main__":
    main()
