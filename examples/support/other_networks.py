"""Networks that others designed: how they are trained, and what is measured of one of their layers."""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from real_nets import Data, compile_classifier

import tfprune as tfp
from tfprune import datasets, experiments, neurons
from tfprune.files import atomic_write

NetName = Literal["mobilenet", "transformer"]
MODEL_FILE = "model.keras"
CURVES_FILE = "curves.npz"
SALIENCIES = {"mean_replacement": tfp.saliency.mean_replacement, "weight_norm": tfp.saliency.weight_norm}
RANKINGS = {
    "max_correlation": neurons.max_correlation,
    "min_correlation": neurons.min_correlation,
    "linear_regression": neurons.linear_regression,
}
DIRECTIONS = "svcca"
# The applications take images of at least 32 x 32 pixels with three channels.
DIGITS_SCALE = 4
# That of the application, .999, needs thousands of steps before its statistics are those of the data.
BATCH_NORM_MOMENTUM = 0.8


@dataclasses.dataclass(frozen=True)
class Network:
    """One kind of network.

    Attributes:
        build: Makes it: `(image shape, weights) -> model` with ten logits.
        prepare: Turns images in [0, 1] into what it takes.
        layer: Group of units that is ranked and erased by default.
        learning_rate: Where Adam starts.
        title: What tables and pictures call it.
    """

    build: Callable[[Sequence[int], str | None], keras.Model]
    prepare: Callable[[np.ndarray], np.ndarray]
    layer: str
    learning_rate: float
    title: str


def mobilenet(image_shape: Sequence[int], weights: str | None = None) -> keras.Model:
    """MobileNetV2 of keras.applications at a width of 0.35, with a new head of ten logits.

    Args:
        image_shape: Height, width and channels.
        weights: "imagenet", a file of weights without the head, or None for random ones.
    """
    if weights not in (None, "imagenet") and not os.path.isfile(weights):
        raise ValueError(f"weights: expected 'imagenet' or a file, received {weights!r}, where there is no file.")
    with warnings.catch_warnings():
        # The weights were trained on larger images, which is what is wanted here.
        warnings.filterwarnings("ignore", message="`input_shape` is undefined or non-square")
        body = keras.applications.MobileNetV2(
            tuple(image_shape), alpha=0.35, include_top=False, weights=weights, pooling="avg"
        )
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = BATCH_NORM_MOMENTUM
    return keras.Model(body.input, layers.Dense(10, name="logits")(body.output), name="mobilenet")


def transformer(image_shape: Sequence[int], weights: None = None) -> keras.Model:
    """One encoder block over the rows of an image: attention, then two dense layers, each with a shortcut and a norm.

    Args:
        image_shape: Number of rows, and features of a row.
        weights: There are none; the block is trained from random ones.
    """
    width, num_heads, inner = 32, 4, 64
    inputs = keras.Input(tuple(image_shape))
    # A bias per row and feature is the learned position of the row.
    position = keras.initializers.RandomNormal(stddev=0.1)
    x = layers.EinsumDense(
        "brp,pf->brf", (image_shape[0], width), bias_axes="rf", bias_initializer=position, name="embedding"
    )(inputs)
    attended = layers.MultiHeadAttention(num_heads, width // num_heads, name="attention")(x, x)
    x = layers.LayerNormalization(name="norm")(layers.Add(name="add")([x, attended]))
    outer = layers.Dense(width, name="outer")(layers.Dense(inner, activation="relu", name="feed_forward")(x))
    x = layers.LayerNormalization(name="outer_norm")(layers.Add(name="outer_add")([x, outer]))
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="transformer")


def to_application(images: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] with three channels; small grey ones are made larger."""
    if images.shape[-1] == 1:
        images = images.repeat(DIGITS_SCALE, 1).repeat(DIGITS_SCALE, 2).repeat(3, 3)
    return (2 * images - 1).astype("float32")


def to_rows(images: np.ndarray) -> np.ndarray:
    """The rows of each image as a sequence, shape `(images, rows, width * channels)`."""
    return images.reshape(*images.shape[:2], -1)


NETWORKS: dict[str, Network] = {
    "mobilenet": Network(mobilenet, to_application, "block_6_expand", 3e-3, "MobileNetV2"),
    "transformer": Network(transformer, to_rows, "feed_forward", 3e-3, "encoder block"),
}


@functools.lru_cache(maxsize=2)
def load_data(net: NetName, cifar: str | None, num_training: int, num_test: int) -> Data:
    """Training and test images as a net takes them: CIFAR-10 from a file, or scikit-learn's digits."""
    parts = datasets.digits() if cifar is None else datasets.cifar10(cifar)
    prepare = NETWORKS[net].prepare
    return tuple((prepare(x[:most]), y[:most]) for (x, y), most in zip(parts, (num_training, num_test), strict=True))


def train(
    net: NetName,
    seed: int,
    epochs: int,
    *,
    batch_size: int,
    weights: str | None,
    cifar: str | None,
    num_training: int,
    num_test: int,
    folder: Path,
) -> dict[str, float]:
    """Trains one net, all its layers, by Adam with a rate that falls to zero; the net goes to `folder`.

    Args:
        net: Which net.
        seed: Seed of the new weights and of the order of the images.
        epochs: Length.
        batch_size: Images of a step.
        weights: What MobileNetV2 starts from.
        cifar: File of CIFAR-10; None takes the digits.
        num_training: Training images at most.
        num_test: Test images at most.
        folder: Where the net goes.

    Returns:
        Accuracies on training and test images, and the number of parameters.
    """
    training, test = load_data(net, cifar, num_training, num_test)
    keras.utils.set_random_seed(seed)
    network = NETWORKS[net]
    model = network.build(training[0].shape[1:], weights)
    steps = epochs * -(-len(training[0]) // batch_size)
    rate = keras.optimizers.schedules.CosineDecay(network.learning_rate, steps)
    compile_classifier(model, keras.optimizers.Adam(rate))
    model.fit(*training, epochs=epochs, batch_size=batch_size, verbose=0)
    # The schedule is spent; the net is kept as one that is ready to be measured.
    compile_classifier(model)
    scores = [model.evaluate(*part, batch_size=250, verbose=0)[1] for part in (training, test)]
    with atomic_write(folder / MODEL_FILE) as path:
        model.save(path)
    return {"training_accuracy": scores[0], "accuracy": scores[1], "parameters": model.count_params()}


@functools.lru_cache(maxsize=4)
def load_net(trainings: Path, net: NetName, seed: int) -> keras.Model:
    """A net that `train` has left."""
    (run,) = experiments.load_grid(trainings).where(net=net, seed=seed)
    return keras.models.load_model(run.folder / MODEL_FILE)


@functools.lru_cache(maxsize=4)
def activations(trainings: Path, net: NetName, seed: int, layer: str, data: tuple) -> neurons.Activations:
    """Activations of one layer on the training images: each pixel or row is a point."""
    (images, _), _ = load_data(net, *data)
    return neurons.activations(load_net(trainings, net, seed), images, layer, points="positions", progress=False)


def rank(trainings: Path, net: NetName, seed: int, seeds: Sequence[int], ranking: str, layer: str, data: tuple) -> Any:
    """Scores of the units of one layer, from training images alone.

    Args:
        trainings: Folder of the trained nets.
        net: Which net.
        seed: The training whose units are ranked.
        seeds: All trainings of the net: rankings across models compare with these.
        ranking: A saliency, a ranking across models or "svcca", which ranks directions.
        layer: Group of the units.
        data: What `load_data` takes behind the net.

    Returns:
        `LayerValues`, `neurons.Ranking` or `neurons.Directions`.
    """
    if ranking in SALIENCIES:
        return SALIENCIES[ranking](load_net(trainings, net, seed), load_data(net, *data)[0], layers=layer)
    own = list(seeds).index(seed)
    if ranking == DIRECTIONS:
        pair = [seeds[own], seeds[(own + 1) % len(seeds)]]
        return neurons.svcca([activations(trainings, net, one, layer, data) for one in pair]).directions[0]
    return RANKINGS[ranking]([activations(trainings, net, one, layer, data) for one in seeds])[own]


def measure(
    net: NetName,
    seed: int,
    ranking: str,
    layer: str,
    *,
    seeds: list[int],
    replacement: str,
    steps: int,
    repeats: int,
    cifar: str | None,
    num_training: int,
    num_test: int,
    folder: Path,
) -> dict[str, Any]:
    """Erases the units of one layer along one ranking; the curves go to `folder`.

    Args:
        net: Which net.
        seed: Which training of it.
        ranking: As `rank` takes it.
        layer: Group of the units.
        seeds: All trainings of the net.
        replacement: What stands in for an erased unit, "zero" or "mean".
        steps: In how many steps all units go.
        repeats: Number of random orders.
        cifar: File of CIFAR-10; None takes the digits.
        num_training: Training images at most.
        num_test: Test images at most.
        folder: Where the curves go; the trained nets lie beside its parent.

    Returns:
        The area of each order, and the scores.
    """
    trainings, data = folder.parent.parent / "trainings", (cifar, num_training, num_test)
    found = rank(trainings, net, seed, seeds, ranking, layer, data)
    curves = experiments.ablation_curve(
        load_net(trainings, net, seed),
        load_data(net, *data)[1],
        found,
        replacement=replacement,
        steps=steps,
        metric="accuracy",
        repeats=repeats,
    )
    curves.save(folder / CURVES_FILE)
    scores = getattr(found, "scores", found)
    flat = np.asarray(getattr(scores, "flat", scores) if isinstance(scores, tfp.LayerValues) else scores)
    return {"areas": [curves.area(order) for order in ("top", "bottom", "random")], "scores": flat}


def cut(
    net: NetName,
    seed: int,
    ranking: str,
    layer: str,
    *,
    seeds: list[int],
    repairs: list[str],
    shares: list[float],
    cifar: str | None,
    num_training: int,
    num_test: int,
    folder: Path,
) -> dict[str, Any]:
    """Cuts the units with the lowest scores out of one layer, with each repair; the curves go to `folder`.

    Args:
        net: Which net.
        seed: Which training of it.
        ranking: As `rank` takes it, but "svcca": directions cannot be cut out.
        layer: Group of the units.
        seeds: All trainings of the net.
        repairs: Names of repairs, fitted on the training images.
        shares: Shares of the units that go.
        cifar: File of CIFAR-10; None takes the digits.
        num_training: Training images at most.
        num_test: Test images at most.
        folder: Where the curves go; the trained nets lie beside its parent.

    Returns:
        The accuracy of each repair at share 0 and at each of the shares.
    """
    trainings, data = folder.parent.parent / "trainings", (cifar, num_training, num_test)
    training, test = load_data(net, *data)
    curves = experiments.removal_curve(
        load_net(trainings, net, seed),
        test,
        rank(trainings, net, seed, seeds, ranking, layer, data),
        order="bottom",
        repair=repairs,
        calibration=training[0],
        steps=shares,
        metric="accuracy",
    )
    curves.save(folder / CURVES_FILE)
    return {"accuracies": curves.values.tolist(), "num_off": curves.num_off.tolist()}
