"""Latency of networks without half of their units, beside the share of floating-point operations that is left."""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf
from networks import keep_part, print_table, seconds

import tfprune

NAMES = ["ResNet50", "VGG16", "MobileNetV2"]


def latency(model, batch, runs):
    """Returns the median seconds of one compiled forward pass."""
    x = tf.random.uniform((batch, *model.input_shape[1:]), seed=1)
    forward = tf.function(lambda tensor: model(tensor, training=False))
    return seconds(lambda: forward(x).numpy(), runs, warm=3)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224, help="width and height of the images")
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    shape = (options.size, options.size, 3)
    rows = []
    for name in NAMES:
        model = getattr(keras.applications, name)(input_shape=shape, weights=None, classes=10)
        graph, mask = tfprune.unit_groups(model), keep_part(model)
        flops = [tfprune.graph.count_flops(graph, on) for on in (None, mask)]
        small = tfprune.remove(model, mask)
        for batch in (1, 16):
            times = [latency(one, batch, options.runs) for one in (model, small)]
            rows.append(
                [name, str(batch), flops[0] / 1e9, flops[1] / flops[0], *(1e3 * t for t in times), times[1] / times[0]]
            )
            print(rows[-1], flush=True)
    header = ["network", "batch", "GFLOPs", "FLOPs left", "before ms", "after ms", "time left"]
    print_table(f"Half of the units of every group removed, {options.size} x {options.size}", header, rows)


if __name__ == "__main__":
    main()
