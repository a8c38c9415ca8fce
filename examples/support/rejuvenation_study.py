"""One training, three ways to spend it: as it is, by network slimming, by neural rejuvenation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

import tfprune as tfp
from tfprune import datasets
from tfprune.training import NeuralRejuvenation, SparsifyDuringTraining

NetKind = Literal["vgg", "residual"]
REPAIRS = ("zero", "mean", "least_squares")
CROSSINGS = ("full", "none", "attention")
NUM_CLASSES = 10
FIRST_SCALE = 0.5
NUM_REPAIR_IMAGES = 2000
LEAST_UNITS = 4


def conv_norm(h: Any, width: int, name: str, *, strides: int = 1, relu: bool = True, size: int = 3) -> Any:
    """A convolution, a batch norm whose scales begin at .5 as in the source, and perhaps a relu."""
    h = layers.Conv2D(
        width, size, strides=strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(h)
    h = layers.BatchNormalization(
        momentum=0.9, gamma_initializer=keras.initializers.Constant(FIRST_SCALE), name=f"{name}_norm"
    )(h)
    return layers.ReLU(name=f"{name}_relu")(h) if relu else h


def small_vgg(image_shape: Sequence[int], width: int) -> keras.Model:
    """Six convolutions of w, w, 2w, 2w, 4w, 4w units, a pooling behind each pair, ten logits."""
    inputs = h = keras.Input(tuple(image_shape), name="image")
    for number, factor in enumerate((1, 1, 2, 2, 4, 4), 1):
        h = conv_norm(h, factor * width, f"conv{number}")
        if number in (2, 4):
            h = layers.MaxPooling2D(2, name=f"pool{number}")(h)
    h = layers.GlobalAveragePooling2D(name="mean")(h)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(h), name="vgg")


def small_residual(image_shape: Sequence[int], width: int) -> keras.Model:
    """A first convolution and three blocks of two, of w, 2w and 4w units.

    Where the width changes, the way round a block is a convolution, too.
    """
    inputs = keras.Input(tuple(image_shape), name="image")
    h = conv_norm(inputs, width, "conv0")
    for number, factor in enumerate((1, 2, 4), 1):
        strides = 1 if factor == 1 else 2
        way_round = h
        if strides > 1:
            way_round = conv_norm(h, factor * width, f"way{number}", strides=strides, relu=False, size=1)
        branch = conv_norm(h, factor * width, f"block{number}a", strides=strides)
        branch = conv_norm(branch, factor * width, f"block{number}b", relu=False)
        h = layers.ReLU(name=f"block{number}")(layers.Add(name=f"sum{number}")([way_round, branch]))
    h = layers.GlobalAveragePooling2D(name="mean")(h)
    return keras.Model(inputs, layers.Dense(NUM_CLASSES, name="logits")(h), name="residual")


NETS = {"vgg": small_vgg, "residual": small_residual}


@functools.lru_cache(maxsize=1)
def load_data(path: str | None, num_images: int, num_test: int) -> tuple[datasets.Split, datasets.Split]:
    """Training and test images of CIFAR-10 from a file, or of the digits; at most so many."""
    (x, y), (x_test, y_test) = datasets.digits() if path is None else datasets.cifar10(path=path)
    x, y, x_test, y_test = x[:num_images], y[:num_images], x_test[:num_test], y_test[:num_test]
    return (datasets.standardize_channels(x, x), y), (datasets.standardize_channels(x_test, x), y_test)


class Study:
    """The settings of one training, and the data.

    Args:
        net: which net.
        seed: seed of weights and order of the images.
        path: file of CIFAR-10, or None for the digits.
        options: the other settings of the example, by name.
    """

    def __init__(self, net: NetKind, seed: int, path: str | None, options: dict[str, Any]):
        self.net, self.seed, self.options = net, seed, options
        self.training, self.test = load_data(path, options["num_images"], options["num_test"])
        self.epochs, self.sparse_epochs = options["epochs"], options["sparse_epochs"]
        self.result: dict[str, Any] = {}

    def model(self) -> keras.Model:
        """A fresh net with SGD, a momentum of .9 and a cosine down to zero over all epochs."""
        model = NETS[self.net](self.training[0].shape[1:], self.options["width"])
        steps = self.epochs * -(-len(self.training[0]) // self.options["batch_size"])
        rate = keras.optimizers.schedules.CosineDecay(self.options["learning_rate"], steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(rate, 0.9), loss, metrics=["accuracy"])
        return model

    def fit(self, model: keras.Model, callback: Any, first: int, last: int) -> list[float]:
        """Trains for the epochs from `first` to `last`; returns the utilisation after each."""
        if first == last:
            return []
        fitted = model.fit(
            *self.training,
            batch_size=self.options["batch_size"],
            initial_epoch=first,
            epochs=last,
            callbacks=[callback],
            verbose=0,
        )
        return fitted.history["utilisation"]

    def error(self, model: keras.Model) -> float:
        """Wrong answers on the test images, in percent."""
        return 100.0 * (1.0 - model.evaluate(*self.test, batch_size=250, verbose=0)[1])

    def note(self, name: str, model: keras.Model, utilisation: list[float]) -> None:
        """Takes down the error and the size of a model that is trained."""
        self.result[f"error_{name}"] = self.error(model)
        self.result[f"parameters_{name}"] = model.count_params()
        self.result[f"utilisation_{name}"] = np.array(utilisation)

    def watch(self) -> SparsifyDuringTraining:
        """Looks at the utilisation, and changes nothing."""
        return SparsifyDuringTraining("batch_norm_scale", 0.0)


def train(net: NetKind, seed: int, way: str, path: str | None, **options) -> dict[str, Any]:
    """One training of one net by one way; what it returns is stored."""
    study = Study(net, seed, path, options)
    WAYS[way](study)
    return study.result


def baseline(study: Study) -> None:
    """All epochs without a penalty."""
    model = study.model()
    study.note("baseline", model, study.fit(model, study.watch(), 0, study.epochs))


def slimming(study: Study) -> None:
    """Epochs with the penalty, one cut over all units with each repair, and the epochs that are left."""
    model = study.model()
    sparsify = SparsifyDuringTraining("batch_norm_scale", study.options["strength"], method="gradient")
    utilisation = study.fit(model, sparsify, 0, study.sparse_epochs)
    study.result["error_uncut"] = study.error(model)
    scores = tfp.saliency.batch_norm_scale(model)
    mask = tfp.keep_top(scores, study.options["slimming_sparsity"], scope="global", min_units=LEAST_UNITS)
    for repair in REPAIRS:
        small = tfp.remove(model, mask, repair=repair, data=study.training[0][:NUM_REPAIR_IMAGES], keep_optimizer=True)
        study.result[f"before_{repair}"] = study.error(small)
        study.note(repair, small, utilisation + study.fit(small, study.watch(), study.sparse_epochs, study.epochs))


def rejuvenation(study: Study) -> None:
    """Epochs with the penalty until too little is used, and from there on each way of crossing."""
    model = study.model()
    how = NeuralRejuvenation(
        study.options["strength"],
        utilisation=study.options["utilisation"],
        data=study.training[0][:NUM_REPAIR_IMAGES],
        seed=study.seed,
    )
    utilisation = study.fit(model, how, 0, study.sparse_epochs)
    epoch = len(utilisation)
    study.result["epoch"] = epoch
    study.result["error_unsqueezed"] = study.error(model)
    for crossing in CROSSINGS:
        new = how.rejuvenated(crossing=crossing)
        study.result[f"before_{crossing}"] = study.error(new)
        study.note(crossing, new, utilisation + study.fit(new, study.watch(), epoch, study.epochs))


WAYS = {"baseline": baseline, "slimming": slimming, "rejuvenation": rejuvenation}
