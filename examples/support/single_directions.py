"""Nets that learn true or randomised labels, and what their single units are worth (Morcos 2018)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

import keras
import numpy as np
from keras import layers

import tfprune as tfp
from tfprune import datasets, experiments, neurons

NetKind = Literal["dense", "conv"]
NormKind = Literal["plain", "batch_norm"]
REPLACEMENTS = ("zero", "mean")
NUM_CLASSES = 10
DENSE_WIDTHS = (128, 128)
# Width and stride of each convolution, for images of less than 16 pixels a side and for larger ones.
SMALL_CONVOLUTIONS = ((16, 1), (32, 2), (32, 1))
LARGE_CONVOLUTIONS = ((32, 2), (64, 2), (64, 2))
# Moving averages must follow nets that are trained for a few hundred steps only.
NORM_MOMENTUM = 0.9


def build(net: NetKind, norm: NormKind, image_shape: tuple[int, ...]) -> keras.Model:
    """Two dense layers, or three convolutions whose feature maps are the units; relu, and logits at the end.

    Args:
        net: Which of the two.
        norm: Whether a batch norm stands before each relu.
        image_shape: Height, width and channels.
    """
    x = inputs = keras.Input(image_shape)
    if net == "dense":
        x = layers.Flatten()(x)
        own = [layers.Dense(width, name=f"dense{k}") for k, width in enumerate(DENSE_WIDTHS, 1)]
    else:
        sizes = SMALL_CONVOLUTIONS if min(image_shape[:2]) < 16 else LARGE_CONVOLUTIONS
        own = [
            layers.Conv2D(width, 3, stride, padding="same", name=f"conv{k}")
            for k, (width, stride) in enumerate(sizes, 1)
        ]
    for number, layer in enumerate(own, 1):
        x = layer(x)
        if norm == "batch_norm":
            x = layers.BatchNormalization(momentum=NORM_MOMENTUM, name=f"norm{number}")(x)
        x = layers.ReLU(name=f"relu{number}")(x)
    if net == "conv":
        x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(x), name=f"{net}_{norm}")


@functools.lru_cache(maxsize=1)
def load_data(data: str, path: str | None, num_train: int | None) -> tuple[datasets.Split, datasets.Split]:
    """Training and test images by the name of the data set; only the first `num_train` of the training images."""
    if data == "digits":
        (x, y), test = datasets.digits()
    elif data == "mnist":
        (x, y), test = datasets.mnist(path)
    else:
        (x, y), (x_test, y_test) = datasets.cifar10(path)
        x, test = datasets.standardize_channels(x, x), (datasets.standardize_channels(x_test, x), y_test)
    if num_train is not None and not NUM_CLASSES <= num_train <= len(x):
        raise ValueError(f"num_train: expected a number from {NUM_CLASSES} to {len(x)}, received {num_train}.")
    return (x[:num_train], y[:num_train]), test


def randomise(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Labels of which a share, chosen by chance, is drawn anew from all classes; some of these stay true by chance.

    The same seed chooses the same points first, so that a larger share randomises more of them.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(labels))[: round(share * len(labels))]
    drawn = generator.integers(0, NUM_CLASSES, len(labels))
    result = labels.copy()
    result[chosen] = drawn[chosen]
    return result


class StopWhenFit(keras.callbacks.Callback):
    """Ends a training when the mean loss on its data is low enough, with the net as it is used: batch norms at rest.

    Args:
        data: The training data.
        limit: Loss in nats.
    """

    def __init__(self, data: datasets.Split, limit: float):
        super().__init__()
        self.data = data
        self.limit = limit

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        # The mean over the epoch is cheap and nearly always above what the net has reached at its end.
        if logs["loss"] <= self.limit and self.model.evaluate(*self.data, batch_size=500, verbose=0)[0] <= self.limit:
            self.model.stop_training = True


def study(
    net: NetKind,
    norm: NormKind,
    share: float,
    seed: int,
    *,
    epochs: int,
    fit_loss: float,
    batch_size: int,
    learning_rate: float,
    steps: int,
    repeats: int,
    num_train: int | None,
    num_points: int | None,
    data: str,
    path: str | None,
    folder: Path,
) -> dict[str, float | int | np.ndarray]:
    """Trains one net and measures its units on its training data with the labels that it was given.

    Args:
        net: Kind of the net.
        norm: With batch norm or without.
        share: Share of the labels that is randomised.
        seed: Seed of the weights, the order of the images and the random labels.
        epochs: The most epochs.
        fit_loss: Training ends at this loss on the training data, in nats.
        batch_size: Images of a step.
        learning_rate: Of Adam.
        steps: Points of a curve of ablation.
        repeats: Random orders.
        num_train: How many training images; None for all.
        num_points: On how many of them units are measured; None for all.
        data: Name of the data set.
        path: Its file.
        folder: Where the curves go, one record for each replacement.

    Returns:
        Accuracies and epochs; for each group the selectivity of each unit, whether it is ever active, and the change of
        the loss when it alone is replaced.
    """
    (x, y), test = load_data(data, path, num_train)
    y = randomise(y, share, seed)
    model = build(net, norm, x.shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    stop = StopWhenFit((x, y), fit_loss)
    history = model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[stop])
    train_loss, train_accuracy = model.evaluate(x, y, batch_size=500, verbose=0)
    _, test_accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    points = x[:num_points], y[:num_points]
    activity = neurons.activations(model, points[0], progress=False)
    selectivity = neurons.selectivity(activity, points[1])
    for replacement in REPLACEMENTS:
        curves = experiments.ablation_curve(
            model,
            points,
            selectivity,
            replacement=replacement,
            steps=steps,
            metric="accuracy",
            repeats=repeats,
            seed=seed,
        )
        curves.save(folder / f"{replacement}.npz")
    changes = {
        "zero": tfp.saliency.loss_change(model, points),
        "mean": tfp.saliency.mean_replacement_penalty(model, points, absolute=False),
    }
    return {
        "train_loss": float(train_loss),
        "train_accuracy": float(train_accuracy),
        "test_accuracy": float(test_accuracy),
        "epochs_taken": len(history.epoch),
        "groups": list(activity),
        **{f"selectivity/{name}": np.asarray(scores) for name, scores in selectivity.scores.items()},
        **{f"active/{name}": (values > 0).any(axis=0) for name, values in activity.items()},
        **{f"{by}/{name}": np.asarray(own) for by, scores in changes.items() for name, own in scores.items()},
    }
