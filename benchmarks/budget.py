"""What a budget costs by scores as they are, by scores normalised per group, and with a floor for each group.

MobileNetV2 (alpha 0.35) on digits of 32 x 32 (the embedded ones enlarged, or MNIST padded) is trained a little, cut to
40 % of its FLOPs and repaired by least squares, and trained for one more epoch: test accuracies, and how many groups
keep less than a tenth. Target: with the defaults of `keep_budget` no score loses the net.
"""

import argparse
import os
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(__file__))

import keras
import numpy as np
from networks import print_table

import tfprune as tfp

SCORES = ("least_squares", "on_nodes_gradient", "mean_replacement", "weight_norm")
WAYS = ((None, 0.0), (None, 0.1), ("group", 0.0), ("group", 0.1))


def padded(split, count):
    x, y = split
    if x.shape[1] == 8:
        return x[:count].repeat(4, axis=1).repeat(4, axis=2), y[:count]
    return np.pad(x[:count], ((0, 0), (2, 2), (2, 2), (0, 0))), y[:count]


def compiled(model, rate):
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def trained(data, epochs):
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(input_shape=(32, 32, 1), alpha=0.35, weights=None, classes=10)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # The statistics of so short a training would lag behind.
            layer.momentum = 0.9
    compiled(model, 2e-3).fit(*data, batch_size=64, epochs=epochs, verbose=0)
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", help="an npz file; without it the embedded digits are taken")
    parser.add_argument("--samples", type=int, default=8000, help="training images")
    parser.add_argument("--epochs", type=int, default=8, help="epochs before the cut")
    options = parser.parse_args()
    training, test = tfp.datasets.mnist(options.mnist) if options.mnist else tfp.datasets.digits()
    data, held = padded(training, options.samples), padded(test, 2000)
    model = trained(data, options.epochs)
    some = tuple(own[:1000] for own in data)
    # Groups that fall below a tenth are a column of the table.
    warnings.filterwarnings("ignore", message="keep_budget: .* fewer than a tenth")

    def accuracy(own):
        return own.evaluate(*held, batch_size=500, verbose=0)[1]

    rows = [["(whole net)", "", "", 0, model.count_params(), accuracy(model), ""]]
    for name in SCORES:
        scores = getattr(tfp.saliency, name)(model, some)
        for normalise, share in WAYS:
            mask = tfp.keep_budget(model, scores, flops=0.4, normalise=normalise, min_share=share)
            small = tfp.remove(model, mask, repair="least_squares", data=some[0])
            after = accuracy(small)
            keras.utils.set_random_seed(1)
            compiled(small, 1e-3).fit(*data, batch_size=64, epochs=1, verbose=0)
            thin = sum(own.mean() < 0.1 for own in mask.values())
            rows.append([name, str(normalise), share, thin, small.count_params(), after, accuracy(small)])
            print("  ".join(map(str, rows[-1])), flush=True)
    header = ["scores", "normalise", "min_share", "groups below a tenth", "parameters", "after the cut", "one epoch on"]
    print_table("keep_budget, 40 % of the FLOPs", header, rows)


if __name__ == "__main__":
    main()
