"""Train the nets behind the figures on real data, and keep them as .keras files.

    python examples/real_nets.py --mnist mnist.npz --cifar cifar10.npz --nets thesis lstm --seeds 0 1 2

Each net is trained once: a net whose files are in the output folder already is skipped. Beside ``thesis_0.keras``
lies ``thesis_0.json`` with its settings, seed, versions, test accuracy and training time. Without ``--mnist`` or
``--cifar`` Keras downloads the images.

All nets give logits. The images of MNIST come in [0, 1]; rows are the 28 pixels of one line. The residual net wants
its images shifted and scaled per channel: use :func:`load_data`, which returns what each net was trained on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune import datasets
from tfprune.files import atomic_write, check_writable_folder, run_information

Data = tuple[datasets.Split, datasets.Split]


@dataclass(frozen=True)
class Recipe:
    """How one kind of net is built and trained."""

    build: Callable[..., keras.Model]
    data: str
    epochs: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adam"
    augment: bool = False


def compile_classifier(model: keras.Model, optimizer: keras.optimizers.Optimizer | str = "adam") -> keras.Model:
    """Compile a net whose output are logits."""
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
    )
    # An optimizer without its variables would be saved as such, and loading would warn.
    model.optimizer.build(model.trainable_variables)
    return model


def thesis_net(activation: str = "relu", seed: int = 0) -> keras.Model:
    """The thesis's convolutional net for MNIST, 20,522 parameters (Evci 2018, section 2)."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(8, 5, activation=activation, name="conv1"),
            layers.MaxPooling2D(2, name="pool1"),
            layers.Conv2D(16, 5, activation=activation, name="conv2"),
            layers.MaxPooling2D(2, name="pool2"),
            layers.Flatten(name="flatten"),
            layers.Dense(64, activation=activation, name="fc1"),
            layers.Dense(10, name="logits"),
        ],
        name="thesis_net",
    )


def residual_net(seed: int = 0) -> keras.Model:
    """A residual net for CIFAR-10: three stages of two blocks, 175,258 trainable parameters."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3))
    x = _convolution(inputs, 16, name="stem")
    x = layers.ReLU(name="stem_relu")(x)
    for stage, filters in enumerate((16, 32, 64)):
        for block in range(2):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _residual_block(x, filters, stride=stride, name=f"stage{stage}_block{block}")
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="residual_net")


def _convolution(x, filters: int, *, name: str, size: int = 3, stride: int = 1):
    x = layers.Conv2D(filters, size, stride, "same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)


def _residual_block(x, filters: int, *, stride: int, name: str):
    inner = layers.ReLU(name=f"{name}_relu1")(_convolution(x, filters, stride=stride, name=f"{name}_conv1"))
    inner = _convolution(inner, filters, name=f"{name}_conv2")
    if stride != 1 or x.shape[-1] != filters:
        x = _convolution(x, filters, size=1, stride=stride, name=f"{name}_shortcut")
    return layers.ReLU(name=f"{name}_relu2")(layers.Add(name=f"{name}_add")([x, inner]))


def lstm_net(seed: int = 0) -> keras.Model:
    """An LSTM that reads MNIST row by row, 48,970 parameters."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((28, 28)), layers.LSTM(96, name="lstm"), layers.Dense(10, name="logits")], name="lstm_net"
    )


def gru_net(seed: int = 0) -> keras.Model:
    """A GRU that reads MNIST row by row."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [keras.Input((28, 28)), layers.GRU(96, name="gru"), layers.Dense(10, name="logits")], name="gru_net"
    )


def attention_net(seed: int = 0) -> keras.Model:
    """Two blocks of self-attention over the rows of MNIST."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((28, 28))
    # A bias per row and feature is the learned position of the row.
    position = keras.initializers.RandomNormal(stddev=0.1)
    x = layers.EinsumDense("brp,pf->brf", (28, 48), bias_axes="rf", bias_initializer=position, name="embedding")(inputs)
    for block, num_heads in enumerate((4, 8)):
        attended = layers.MultiHeadAttention(num_heads, 48 // num_heads, name=f"attention{block}")(x, x)
        x = layers.Add(name=f"add{block}")([x, attended])
        x = layers.LayerNormalization(name=f"norm{block}")(x)
        inner = layers.Dense(96, activation="relu", name=f"inner{block}")(x)
        x = layers.Add(name=f"inner_add{block}")([x, layers.Dense(48, name=f"outer{block}")(inner)])
        x = layers.LayerNormalization(name=f"inner_norm{block}")(x)
    x = layers.GlobalAveragePooling1D(name="pool")(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="attention_net")


RECIPES = {
    "thesis": Recipe(thesis_net, "mnist", epochs=5, batch_size=32, learning_rate=1e-3),
    "lstm": Recipe(lstm_net, "mnist_rows", epochs=6, batch_size=64, learning_rate=2e-3),
    "residual": Recipe(
        residual_net, "cifar10", epochs=17, batch_size=128, learning_rate=0.1, optimizer="sgd", augment=True
    ),
    "gru": Recipe(gru_net, "mnist_rows", epochs=6, batch_size=64, learning_rate=2e-3),
    "attention": Recipe(attention_net, "mnist_rows", epochs=8, batch_size=64, learning_rate=2e-3),
}


def load_data(name: str, *, mnist: str | None = None, cifar: str | None = None) -> Data:
    """What a net was trained and tested on.

    Args:
        name: Name of a recipe, such as ``"thesis"``.
        mnist: Path of the MNIST file, or None to download.
        cifar: Path of the CIFAR-10 file, or None to download.

    Returns:
        ``(x_train, y_train), (x_test, y_test)`` in the form that the net takes.
    """
    kind = RECIPES[name].data
    if kind == "cifar10":
        (x_train, y_train), (x_test, y_test) = datasets.cifar10(cifar)
        standardize = datasets.standardize_channels
        return (standardize(x_train, x_train), y_train), (standardize(x_test, x_train), y_test)
    (x_train, y_train), (x_test, y_test) = datasets.mnist(mnist)
    if kind == "mnist_rows":
        x_train, x_test = x_train[..., 0], x_test[..., 0]
    return (x_train, y_train), (x_test, y_test)


def shift_and_flip(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shift a CIFAR image by up to four pixels and mirror every second one."""
    padded = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
    return tf.image.random_flip_left_right(tf.image.random_crop(padded, [32, 32, 3])), label


def training_pipeline(split: datasets.Split, recipe: Recipe, seed: int) -> tf.data.Dataset:
    """Shuffled and batched training data, augmented where the recipe says so."""
    pipeline = tf.data.Dataset.from_tensor_slices(split).shuffle(len(split[1]), seed=seed)
    if recipe.augment:
        pipeline = pipeline.map(shift_and_flip, num_parallel_calls=2)
    return pipeline.batch(recipe.batch_size, drop_remainder=True).prefetch(2)


def make_optimizer(recipe: Recipe, num_steps: int) -> keras.optimizers.Optimizer:
    """Warm-up over the first tenth of the steps, then a cosine down to zero."""
    warm_up = num_steps // 10
    rate = keras.optimizers.schedules.CosineDecay(
        recipe.learning_rate / 10,
        decay_steps=num_steps - warm_up,
        warmup_target=recipe.learning_rate,
        warmup_steps=warm_up,
    )
    if recipe.optimizer == "adam":
        return keras.optimizers.Adam(rate, clipnorm=1.0)
    optimizer = keras.optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=5e-3)
    # Decay pulls kernels to zero; scales and offsets of the batch norms must stay free.
    optimizer.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    return optimizer


def train(name: str, seed: int, data: Data, *, epochs: int | None = None) -> tuple[keras.Model, dict]:
    """Train one net.

    Args:
        name: Name of a recipe.
        seed: Seed of the initial weights, of the shuffling and of the augmentation.
        data: What :func:`load_data` returns.
        epochs: Number of epochs instead of the recipe's.

    Returns:
        The trained net and a record of its settings and results.
    """
    recipe, (training, test) = RECIPES[name], data
    epochs = recipe.epochs if epochs is None else epochs
    model = recipe.build(seed=seed)
    steps = len(training[1]) // recipe.batch_size
    compile_classifier(model, make_optimizer(recipe, epochs * steps))
    start = time.perf_counter()
    # The pipeline shuffles by itself.
    model.fit(training_pipeline(training, recipe, seed), epochs=epochs, shuffle=False, verbose=2)
    seconds = time.perf_counter() - start
    # The schedule is spent; who trains on sets a rate of their own.
    compile_classifier(model)
    loss, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    record = {
        "net": name,
        "seed": seed,
        "epochs": epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "optimizer": recipe.optimizer,
        "augment": recipe.augment,
        "trainable_parameters": int(sum(np.prod(weight.shape) for weight in model.trainable_weights)),
        "test_accuracy": accuracy,
        "test_loss": loss,
        "seconds": seconds,
        **run_information(),
    }
    return model, record


def save(model: keras.Model, record: dict, folder: Path) -> None:
    """Write the net and, last, its record: where the record lies, the net is whole."""
    stem = f"{record['net']}_{record['seed']}"
    with atomic_write(folder / f"{stem}.keras") as path:
        model.save(path)
    with atomic_write(folder / f"{stem}.json") as path:
        Path(path).write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mnist", help="npz file of MNIST")
    parser.add_argument("--cifar", help="npz file of CIFAR-10, plain or JPEG")
    parser.add_argument("--nets", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="instead of each net's own number")
    parser.add_argument("--output", type=Path, default=Path("output/real_nets"))
    arguments = parser.parse_args()
    check_writable_folder(arguments.output)
    for name in arguments.nets:
        missing = [seed for seed in arguments.seeds if not (arguments.output / f"{name}_{seed}.json").is_file()]
        data = load_data(name, mnist=arguments.mnist, cifar=arguments.cifar) if missing else None
        for seed in missing:
            model, record = train(name, seed, data, epochs=arguments.epochs)
            save(model, record, arguments.output)
            print(
                f"{name}_{seed}: test accuracy {record['test_accuracy']:.4f} in {record['seconds']:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()
