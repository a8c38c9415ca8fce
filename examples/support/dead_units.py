"""Nets that are attacked, and one training with or without an attack (Evci 2018, chapter 3)."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import keras
from keras import layers

import tfprune as tfp
from tfprune import datasets

NetKind = Literal["relu_norm", "tanh", "relu"]
LAYER_SIZES = {"conv1": 8, "conv2": 16, "fc1": 64}
DIGITS_SCALE = 3
RECORD_FILE = "liveness.npz"


@dataclasses.dataclass(frozen=True)
class Attacks:
    """Attacks that one picture compares: every unit at every start with every multiplier.

    Attributes:
        name: Name of the picture's files.
        net: Which net is attacked.
        units: Attacked units, such as conv1/0, each in trainings of its own.
        starts: First attacked step.
        multipliers: What the gradient of the unit's incoming weights is multiplied by.
        interval: Steps from one attack to the next.
        title: What the picture shows.
        thesis: What the thesis found there, printed below the table.
    """

    name: str
    net: NetKind
    units: tuple[str, ...]
    starts: tuple[int, ...]
    multipliers: tuple[float, ...]
    interval: int = 10
    title: str = ""
    thesis: str = ""

    def __post_init__(self):
        for unit in self.units:
            layer, place = split_unit(unit)
            if place >= LAYER_SIZES.get(layer, 0):
                raise ValueError(f"attacks {self.name!r}: no unit {unit!r}; numbers of units by layer: {LAYER_SIZES}")
        if not (self.units and self.starts and self.multipliers):
            raise ValueError(f"attacks {self.name!r}: expected at least one unit, start and multiplier")

    def lines(self) -> dict[str, dict[str, float]]:
        """Multiplier, start and interval of each line of the picture, by a name that says what differs."""
        return {
            self._line_name(multiplier, start): {"multiplier": multiplier, "start": start, "interval": self.interval}
            for multiplier in self.multipliers
            for start in self.starts
        }

    def _line_name(self, multiplier: float, start: int) -> str:
        parts = []
        if len(self.multipliers) > 1 or len(self.starts) == 1:
            parts.append(f"gradient x {multiplier:g}")
        if len(self.starts) > 1 or len(self.multipliers) == 1:
            parts.append(f"from step {start}")
        return ", ".join(parts)


def split_unit(unit: str) -> tuple[str, int]:
    """Layer and place of a unit that is written as layer/place."""
    layer, separator, place = unit.rpartition("/")
    if not separator or not layer or not place.isdecimal():
        raise ValueError(f"expected units such as conv1/0, received {unit!r}")
    return layer, int(place)


def small_net(kind: NetKind, image_shape: Sequence[int]) -> keras.Model:
    """Two convolutions of 5 x 5 with 8 and 16 filters, 64 dense units, 10 logits.

    Weights and biases start uniform between -1 / sqrt(n) and 1 / sqrt(n), with n incoming connections. "relu_norm" has
    a batch norm without scale and offset *after* each relu, as the thesis has it.
    """
    inputs = x = keras.Input(tuple(image_shape), name="image")
    for name, units in LAYER_SIZES.items():
        if name == "fc1":
            x = layers.Flatten(name="flatten")(x)
            x = layers.Dense(units, name=name, **_uniform(x.shape[-1]))(x)
        else:
            x = layers.Conv2D(units, 5, name=name, **_uniform(25 * x.shape[-1]))(x)
        x = layers.Activation("tanh" if kind == "tanh" else "relu", name=f"{name}_activation")(x)
        if kind == "relu_norm":
            x = layers.BatchNormalization(center=False, scale=False, momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
        if name != "fc1":
            x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits", **_uniform(64))(x), name=kind)


def _uniform(fan_in: int) -> dict[str, keras.Initializer]:
    limit = fan_in**-0.5
    return {
        name: keras.initializers.RandomUniform(-limit, limit) for name in ("kernel_initializer", "bias_initializer")
    }


@functools.lru_cache(maxsize=1)
def load_data(cifar: str | None, num_validation: int) -> tuple[datasets.Split, datasets.Split, datasets.Split]:
    """Training, validation and test images: CIFAR-10 from a file, or the digits, made three times as wide and high."""
    if cifar is None:
        (x, y), (x_test, y_test) = datasets.digits()
        x, x_test = (images.repeat(DIGITS_SCALE, 1).repeat(DIGITS_SCALE, 2) for images in (x, x_test))
    else:
        (x, y), (x_test, y_test) = datasets.cifar10(cifar)
    if not 0 < num_validation < len(x):
        raise ValueError(f"num_validation: expected a number from 1 to {len(x) - 1}, received {num_validation}.")
    x, x_test = datasets.standardize_channels(x, x), datasets.standardize_channels(x_test, x)
    training, validation = slice(None, -num_validation), slice(-num_validation, None)
    return (x[training], y[training]), (x[validation], y[validation]), (x_test, y_test)


def train(
    net: NetKind,
    seed: int,
    epochs: int,
    layer: str | None = None,
    place: int | None = None,
    multiplier: float | None = None,
    start: int | None = None,
    interval: int | None = None,
    *,
    count: int,
    every: int,
    batch_size: int,
    learning_rate: float,
    num_validation: int,
    cifar: str | None,
    folder: Path,
) -> dict[str, float | list]:
    """One training by plain SGD, watched on the validation images; the record of the units goes to `folder`.

    Args:
        net: Kind of the net.
        seed: Seed of weights and order.
        epochs: Length.
        layer: Layer of the attacked unit; ``None`` attacks none.
        place: Its place in the layer.
        multiplier: What the gradient of its incoming weights is multiplied by.
        start: First attacked step.
        interval: Steps from one attack to the next.
        count: Number of attacks.
        every: Steps from one measurement to the next.
        batch_size: Images of a step.
        learning_rate: Rate of the rest of the net.
        num_validation: Images kept back for the measurements.
        cifar: File of CIFAR-10; ``None`` takes the digits.
        folder: Where the record goes.

    Returns:
        Accuracy and loss on the test images.
    """
    training, validation, test = load_data(cifar, num_validation)
    keras.utils.set_random_seed(seed)
    model = small_net(net, training[0].shape[1:])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(learning_rate), loss, metrics=["accuracy"])
    path = folder / RECORD_FILE
    callbacks = [tfp.training.LivenessMonitor(validation, every=every, path=path)]
    if layer is not None:
        callbacks.append(tfp.training.LearningRateAttack((layer, place), multiplier, start, count, interval))
    model.fit(*training, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=callbacks)
    test_loss, accuracy = model.evaluate(*test, verbose=0)
    return {"accuracy": float(accuracy), "loss": float(test_loss)}
