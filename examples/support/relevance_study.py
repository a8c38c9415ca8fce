"""What the relevance example measures: pixel flipping, an unstable net, and training against a background."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune import relevance

NUM_CLASSES = 10
BACKGROUND = 0.6


def image_net(image_shape: tuple[int, ...], seed: int) -> keras.Model:
    """Two convolutions, a maximum, two dense layers; small enough for either size of digits."""
    keras.utils.set_random_seed(seed)
    stack = [
        keras.Input(image_shape, name="image"),
        layers.Conv2D(16, 3, activation="relu", name="conv_1"),
        layers.Conv2D(32, 3, activation="relu", name="conv_2"),
        layers.MaxPooling2D(2, name="pool"),
        layers.Flatten(name="flatten"),
        layers.Dense(64, activation="relu", name="hidden"),
        layers.Dense(NUM_CLASSES, name="logits"),
    ]
    return keras.Sequential(stack, name="digits")


def trained(net: keras.Model, data: tuple, epochs: int) -> keras.Model:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    net.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    net.fit(*data, epochs=epochs, batch_size=64, verbose=0)
    return net


def scores_of(net: keras.Model, x: np.ndarray, methods: list[str], steps: int) -> dict[str, np.ndarray]:
    """Relevance of every pixel for the predicted class, `(samples, height, width)` by method."""
    return {
        method: relevance.explain(net, x, method=method, steps=steps, units=False).inputs.sum(axis=-1)
        for method in methods
    }


def flip_curves(
    net: keras.Model, data: tuple, scores: Mapping[str, np.ndarray], shares: np.ndarray
) -> dict[str, np.ndarray]:
    """Accuracy when the most relevant pixels of each image are turned: x becomes 1 - x."""
    x, y = data
    flat = x.reshape(len(x), -1)
    curves = {}
    for method, relevances in scores.items():
        order = np.argsort(-relevances.reshape(len(x), -1), axis=1, kind="stable")
        accuracies = []
        for share in shares:
            count = round(share * flat.shape[1])
            turned = flat.copy()
            chosen = order[:, :count]
            np.put_along_axis(turned, chosen, 1.0 - np.take_along_axis(flat, chosen, axis=1), axis=1)
            predicted = net.predict(turned.reshape(x.shape), batch_size=512, verbose=0).argmax(axis=1)
            accuracies.append(float((predicted == y).mean()))
        curves[method] = np.array(accuracies)
    return curves


def unstable_net() -> tuple[keras.Model, np.ndarray]:
    """A unit whose value is its bias's: two inputs that all but cancel, at five points that hardly differ."""
    net = keras.Sequential([keras.Input((2,)), layers.Dense(1, activation="relu", name="unit")])
    net.set_weights([np.array([[1.0], [-1.0]]), np.array([5.0])])
    second = 1.0 + np.array([-1e-2, -1e-3, 1e-5, 1e-3, 1e-2])
    return net, np.stack([np.ones(5), second], axis=1).astype("float32")


# Training against a background ----------------------------------------------------------------------------------------


def on_background(data: tuple, *, misleading: bool, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Digits with a bright stripe beside them: its row gives the class away, or another class if `misleading`.

    Returns:
        Images with four more columns, labels, and where the digit is, `(height, width, 1)` of ones and zeros.
    """
    x, y = data
    height, width = x.shape[1:3]
    generator = np.random.default_rng(seed)
    shown = (y + generator.integers(1, NUM_CLASSES, len(y))) % NUM_CLASSES if misleading else y
    beside = np.zeros((len(x), height, 4, 1), "float32")
    # Ten classes on `height` rows and two columns each: row = class // 2, side = class % 2.
    rows = (shown // 2) * height // 5
    for sample, (row, number) in enumerate(zip(rows, shown, strict=True)):
        left = 2 * (number % 2)
        beside[sample, row : row + max(1, height // 5), left : left + 2] = BACKGROUND
    inside = np.concatenate([np.ones((height, width, 1)), np.zeros((height, 4, 1))], axis=1)
    return np.concatenate([x, beside], axis=2), y, inside.astype("float32")


class LookingInside(keras.Model):
    """A model whose loss adds the relevance of what lies outside the digit."""

    def set_outside(self, inside: np.ndarray, weight: float) -> None:
        self.outside, self.weight = tf.constant(1.0 - inside), weight

    def train_step(self, data: tuple) -> dict:
        x, y = data
        with tf.GradientTape() as tape:
            outputs = self(x, training=True)
            loss = self.compute_loss(x, y, outputs)
            found = relevance.tensors(self, x, method="blame_the_bias", target=tf.cast(tf.reshape(y, [-1]), "int32"))
            size = tf.reduce_sum(tf.abs(found.inputs[0]) * self.outside, axis=[1, 2, 3])
            total = loss + self.weight * tf.reduce_mean(size)
        gradients = tape.gradient(total, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.compute_metrics(x, y, outputs)


def background_study(
    data: tuple, test: tuple, *, seeds: tuple[int, ...], epochs: int, weight: float, report: Callable[[str], None]
) -> list[dict]:
    """Accuracy with and without relevance in the loss: where the background gives the class away, and misleads."""
    rows = []
    for seed in seeds:
        x, y, inside = on_background(data, misleading=False, seed=seed)
        helpful, misled = (on_background(test, misleading=kind, seed=seed + 100) for kind in (False, True))
        for with_relevance in (False, True):
            plain = image_net(x.shape[1:], seed)
            net = LookingInside(plain.inputs, plain.outputs) if with_relevance else plain
            if with_relevance:
                net.set_outside(inside, weight)
            trained(net, (x, y), epochs)
            outside = relevance.explain(plain, misled[0], method="blame_the_bias", units=False).inputs
            share = np.abs(outside) * (1.0 - inside)
            rows.append(
                {
                    "seed": seed,
                    "loss": "with relevance" if with_relevance else "plain",
                    "helpful": _accuracy(plain, helpful),
                    "misleading": _accuracy(plain, misled),
                    "relevance_outside": float(share.sum() / np.abs(outside).sum()),
                }
            )
            report(f"seed {seed}, {rows[-1]['loss']}: {rows[-1]['misleading']:.3f} on the misleading test")
    return rows


def _accuracy(net: keras.Model, data: tuple) -> float:
    predicted = net.predict(data[0], batch_size=512, verbose=0).argmax(axis=1)
    return float((predicted == data[1]).mean())
