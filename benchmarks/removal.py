"""How long reading, cutting, widening and a plain rebuild take on the networks of keras.applications, and how exact.

Targets: removing takes at most 1.5 times as long as a plain rebuild (warm, medians of 5); ResNet50, 101 and 152 linear
in their layers; reading at most 0.15 s up to 800 nodes; widening to the size that removing leaves takes as long as
removing. `--all` takes all 40 networks, `--runs` fewer or more runs.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from networks import keep_part, print_table, seconds
from test_applications import ALL, application

import tfprune
from tfprune.graph.walk import nodes_of
from tfprune.surgery.widening import check_readers

FEW = ["MobileNet", "MobileNetV2", "MobileNetV3Small", "ResNet50", "ResNet101", "ResNet152", "DenseNet121"]
FEW += ["ConvNeXtTiny", "EfficientNetB0", "InceptionV3", "VGG16", "Xception", "NASNetMobile", "InceptionResNetV2"]


def outputs(model, *inputs):
    inputs = [keras.ops.convert_to_tensor(x) for x in inputs]
    return np.asarray(model(inputs if len(inputs) > 1 else inputs[0], training=False), "float64")


def widening(small):
    """Returns a call that widens a network of half the units to the size of `small`, where it can; and its error."""
    half = tfprune.remove(small, keep_part(small))
    graph, sizes = tfprune.unit_groups(half), {}
    for name, size in tfprune.unit_groups(small).sizes.items():
        try:
            check_readers(graph, {name: 1}, keeps_function=True)
            sizes[name] = size
        except ValueError as error:
            print(error)
    x = np.random.default_rng(0).uniform(size=(1, *half.input_shape[1:])).astype("float32")
    expected = outputs(half, x)
    difference = np.abs(outputs(tfprune.widen(half, sizes), x) - expected).max() / np.abs(expected).max()
    return (lambda: tfprune.widen(half, sizes)), difference


def measure(name, runs):
    """Returns one row of the table."""
    model = application(name)
    mask = keep_part(model)
    x = np.random.default_rng(0).uniform(size=(1, *model.input_shape[1:])).astype("float32")
    masked = outputs(tfprune.with_on_nodes(model), x, mask.flat[None].astype("float32"))
    small = tfprune.remove(model, mask)
    difference = np.abs(outputs(small, x) - masked).max() / np.abs(masked).max()
    # What was done above has warmed up all but the rebuild.
    read = seconds(lambda: tfprune.unit_groups(model), runs, warm=0)
    remove = seconds(lambda: tfprune.remove(model, mask), runs, warm=0)
    plain = seconds(lambda: keras.models.clone_model(model).set_weights(model.get_weights()), runs)
    widen, error = widening(small)
    wide = seconds(widen, runs, warm=0)
    nodes = sum(1 for _ in nodes_of(model))
    counts = f"{model.count_params():,}", f"{small.count_params():,}"
    keras.backend.clear_session()
    return [name, str(nodes), *counts, read, remove, plain, remove / plain, difference, wide, wide / remove, error]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="all 40 networks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("names", nargs="*", help="networks, instead of the usual ones")
    options = parser.parse_args()
    names = options.names or (ALL if options.all else FEW)
    header = ["network", "nodes", "parameters", "left", "read s", "remove s", "rebuild s", "ratio", "difference"]
    header += ["widen s", "widen / remove", "difference"]
    rows = []
    for name in names:
        rows.append(measure(name, options.runs))
        print("  ".join(str(cell) if not isinstance(cell, float) else f"{cell:.3g}" for cell in rows[-1]), flush=True)
    print_table("Half of the units of every group removed", header, rows)


if __name__ == "__main__":
    main()
