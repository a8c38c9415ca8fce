"""The data and the net of the thesis's experiments on MNIST, with scikit-learn's digits in their place by default."""

from __future__ import annotations

import keras
import numpy as np
import real_nets

from tfprune import datasets

Data = tuple[datasets.Split, datasets.Split]


def load_data(mnist: str | None) -> Data:
    """MNIST from a file, or the digits: ``(x_train, y_train), (x_test, y_test)``, images in [0, 1]."""
    return datasets.mnist(mnist) if mnist else datasets.digits()


def thesis_net(x: np.ndarray, activation: str, seed: int) -> keras.Model:
    """The thesis's net for images like ``x``; for the small digits with kernels of 3 x 3 and padding."""
    if x.shape[1:] == (28, 28, 1):
        return real_nets.thesis_net(activation, seed)
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Conv2D(8, 3, padding="same", activation=activation, name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(16, 3, padding="same", activation=activation, name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation=activation, name="fc1"),
            layers.Dense(10, name="logits"),
        ],
        name="thesis_net",
    )


def make_optimizer(name: str) -> keras.optimizers.Optimizer:
    """The thesis's plain SGD with rate 0.01, or Adam with 0.001."""
    return {"sgd": lambda: keras.optimizers.SGD(0.01), "adam": lambda: keras.optimizers.Adam(1e-3)}[name]()


def sample(split: datasets.Split, count: int, seed: int) -> datasets.Split:
    """Some of the data, drawn at random."""
    chosen = np.random.default_rng(seed).permutation(len(split[1]))[:count]
    return split[0][chosen], split[1][chosen]


class Losses(keras.callbacks.Callback):
    """The loss of every so many batches, as `fit` reports it: the mean since the epoch began."""

    def __init__(self, every: int):
        super().__init__()
        self._every, self._step = every, 0
        self.steps: list[int] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self._every == 0:
            self.steps.append(self._step)
            self.losses.append(float(logs["loss"]))
