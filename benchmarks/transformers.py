"""What opening costs: a backbone of keras_hub as large as BERT-base, with random weights (needs `tfprune[hub]`).

Targets: reading it under 3 s; cutting half of its feed-forward units under 1.5 x building it; a masked forward pass at
most 1.15 x the plain one (compiled both, by turns); least squares on its feed-forward layers with 128 sequences of 128
tokens under 2 GB above the model, in a process of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_hub
import numpy as np
import tensorflow as tf
from networks import print_table

import tfprune as tfp

LENGTH, VOCABULARY = 128, 30_522
SIZES = {
    "base": {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "intermediate_dim": 3072},
    "small": {"num_layers": 4, "num_heads": 4, "hidden_dim": 256, "intermediate_dim": 1024},
}


def bert(size):
    return keras_hub.models.BertBackbone(vocabulary_size=VOCABULARY, max_sequence_length=LENGTH, **SIZES[size])


def tokens(count):
    generator = np.random.default_rng(0)
    return {
        "token_ids": generator.integers(0, VOCABULARY, (count, LENGTH)).astype("int32"),
        "segment_ids": np.zeros((count, LENGTH), "int32"),
        "padding_mask": np.ones((count, LENGTH), "int32"),
    }


def feed_forward(model, sparsity=0.5):
    """Half of the feed-forward units off, those of least norm."""
    scores = tfp.saliency.weight_norm(model)
    mask = tfp.keep_top(scores, sparsity)
    return tfp.LayerValues({name: own for name, own in mask.items() if "feedforward" in name})


def timed(function, *arguments, **options):
    start = time.perf_counter()
    result = function(*arguments, **options)
    return time.perf_counter() - start, result


def print_reading(size, rounds):
    rows = []
    for _ in range(rounds):
        build, model = timed(bert, size)
        read, graph = timed(tfp.unit_groups, model)
        mask = feed_forward(model)
        cut, small = timed(tfp.remove, model, mask)
        rows.append((build, read, cut, cut / build))
        kept = (model.count_params(), small.count_params(), tfp.form_of(small).name, len(graph))
    medians = [statistics.median(column) for column in zip(*rows, strict=True)]
    header = ["build s", "read s (target < 3)", "cut s", "cut / build (target < 1.5)", "parameters", "after", "form"]
    print_table(f"Reading and cutting, {size}", header, [[*medians, f"{kept[0]:,}", f"{kept[1]:,}", kept[2]]])


def print_forward(size, rounds, batch=8):
    model = bert(size)
    masked = tfp.with_on_nodes(model)
    inputs = {name: tf.constant(own) for name, own in tokens(batch).items()}
    flat = [*(inputs[tensor.name] for tensor in masked.inputs[:-1]), tf.ones((1, masked.inputs[-1].shape[1]))]
    plain = tf.function(lambda: model(inputs, training=False))
    under = tf.function(lambda: masked(flat, training=False))
    plain(), under()
    ratios, seconds = [], []
    for _ in range(rounds):
        spent = []
        for run in (plain, under):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
        ratios.append(spent[1] / spent[0])
        seconds.append(spent[0])
    rows = [[size, batch, statistics.median(seconds), statistics.median(ratios)]]
    print_table("A masked forward pass", ["size", "batch", "plain CPU s", "ratio (target <= 1.15)"], rows)


def resident_gigabytes(which):
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 2**20


def peak_of_least_squares(size):
    """Prints how far the memory grows above the model while its feed-forward layers are refitted, and the seconds."""
    model = bert(size)
    mask, data = feed_forward(model), tokens(128)
    before = resident_gigabytes("VmRSS")
    seconds, small = timed(tfp.remove, model, mask, repair="least_squares", data=data)
    small_gigabytes = sum(np.prod(own.shape) for own in small.weights) * 4 / 2**30
    print(resident_gigabytes("VmHWM") - before - small_gigabytes, seconds)


def print_least_squares(size):
    command = [sys.executable, __file__, "--peak", "--size", size]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    gigabytes, seconds = map(float, done.stdout.split()[-2:])
    rows = [[size, gigabytes, seconds]]
    header = ["size", "GB above both models (target < 2)", "s"]
    print_table("Least squares on the feed-forward layers, 128 x 128 tokens", header, rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=list(SIZES), default="base")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["reading", "forward", "least_squares"])
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    if options.peak:
        peak_of_least_squares(options.size)
        return
    if options.only in (None, "reading"):
        print_reading(options.size, options.rounds)
    if options.only in (None, "forward"):
        print_forward(options.size, options.rounds)
    if options.only in (None, "least_squares"):
        print_least_squares(options.size)


if __name__ == "__main__":
    main()
