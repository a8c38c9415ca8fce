"""A curve of ablation against the forward passes that it stands for.

Target: 20 steps of one order at most 1.3 times 20 forward passes over the same points.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from networks import print_table, residual_net, seconds, thesis_net

import tfprune
from tfprune.compiling import compiled
from tfprune.experiments import ablation_curve

STEPS = 20
TARGET = 1.3


def tagger():
    """An embedding, two LSTMs of 64 and a softmax at every step."""
    words = keras.Input((20,), dtype="int32")
    h = layers.Embedding(1000, 64)(words)
    for number in (1, 2):
        h = layers.LSTM(64, return_sequences=True, name=f"lstm_{number}")(h)
    return keras.Model(words, layers.Dense(30, name="tags")(h), name="tagger")


def accuracy(targets, outputs):
    return float((outputs.argmax(axis=-1) == targets).mean())


def main():
    rows = []
    for model, num_points in ((thesis_net(), 2000), (residual_net(), 1000), (tagger(), 1000)):
        generator = np.random.default_rng(0)
        shape = (num_points, *model.input_shape[1:])
        words = model.name == "tagger"
        x = generator.integers(0, 1000, shape) if words else generator.uniform(size=shape).astype("float32")
        y = generator.integers(0, model.output_shape[-1], (num_points, *model.output_shape[1:-1]))
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        scores = tfprune.saliency.weight_norm(model)
        step = compiled(lambda batch, model=model: model(batch, training=False))
        batches = [tf.convert_to_tensor(x[start : start + 250]) for start in range(0, num_points, 250)]

        def passes(batches=batches, step=step):
            for _ in range(STEPS):
                for batch in batches:
                    step(batch)

        plain = seconds(passes, 3)
        for metric in (None, accuracy):
            curve = seconds(
                lambda metric=metric, model=model, x=x, y=y, scores=scores: ablation_curve(
                    model, (x, y), scores, order="top", steps=STEPS, metric=metric
                ),
                3,
            )
            name = "loss" if metric is None else "a function"
            rows.append([model.name, name, f"{plain:.2f}", f"{curve:.2f}", f"{curve / plain:.2f}", f"{TARGET}"])
            print("  ".join(rows[-1]), flush=True)
    header = ["network", "metric", "20 passes, s", "curve, s", "ratio", "target"]
    print_table(f"ablation_curve with {STEPS} steps", header, rows)


if __name__ == "__main__":
    main()
