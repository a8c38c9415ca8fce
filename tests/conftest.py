"""Quiet logs, fixed seeds and tiny networks for all tests."""

import functools
import os
import subprocess

# Both are read when TensorFlow is imported. Tests run on the CPU unless CUDA_VISIBLE_DEVICES is set by hand.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("MPLBACKEND", "Agg")

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import settings

# No deadline: how long an example takes depends on what else the machine does. The same examples in every run.
settings.register_profile("tfprune", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("tfprune")

# Two workers on two cores: more threads only wait for each other.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)

SEED = 7


def _channels_first_without_onednn():
    """Turns convolutions of the layout NCHW about where TensorFlow has no kernel for them on this processor.

    Without it such a model cannot be run there at all, whoever calls it.
    """
    plain = tf.nn.convolution
    try:
        plain(tf.zeros([1, 1, 2, 2]), tf.zeros([1, 1, 1, 1]), data_format="NCHW")
    except tf.errors.UnimplementedError:

        @functools.wraps(plain)
        def convolution(inputs, *args, data_format=None, **kwargs):
            if data_format != "NCHW":
                return plain(inputs, *args, data_format=data_format, **kwargs)
            turned = plain(tf.transpose(inputs, [0, 2, 3, 1]), *args, data_format="NHWC", **kwargs)
            return tf.transpose(turned, [0, 3, 1, 2])

        tf.nn.convolution = convolution


_channels_first_without_onednn()


@pytest.fixture(autouse=True)
def fixed_seeds():
    keras.utils.set_random_seed(SEED)
    yield
    # Names of layers start anew; a collection of garbage after each test would double the time.
    keras.utils.clear_session(free_memory=False)


def slow_but(fast, values):
    """Parameters of a test, slow but for some."""
    rows = [value if isinstance(value, tuple) else (value,) for value in values]
    return [pytest.param(*row, marks=() if row in fast or row[0] in fast else pytest.mark.slow) for row in rows]


def randomise(model, seed=SEED):
    """Gives every weight a random value, biases and batch-norm statistics too, so that no term is zero by chance."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        if "float" not in str(variable.dtype):
            continue
        if variable.name in ("gamma", "scale", "moving_variance"):
            value = generator.uniform(0.5, 1.5, variable.shape)
        elif variable.name.endswith("kernel"):
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            value = generator.normal(0.0, fan_in**-0.5, variable.shape)
        else:
            value = generator.normal(0.0, 0.5, variable.shape)
        variable.assign(value)
    return model


@pytest.fixture
def generator():
    return np.random.default_rng(SEED)


@pytest.fixture
def dense_net():
    """3 -> 5 relu -> 4 tanh -> 2, compiled."""
    model = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(5, activation="relu", name="first"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(2, name="out"),
        ],
        name="dense_net",
    )
    model.compile(optimizer="sgd", loss="mse")
    return randomise(model)


@pytest.fixture
def conv_same_net():
    """8x8x2 -> conv 'same' 4 -> pool -> conv 'same' 3 -> flatten -> 2: zero padding meets every unit."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2), name="image"),
            keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="first"),
            keras.layers.MaxPooling2D(2, name="pool"),
            keras.layers.Conv2D(3, 3, padding="same", activation="relu", name="second"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(2, name="out"),
        ],
        name="conv_same_net",
    )
    model.compile(optimizer="sgd", loss="mse")
    return randomise(model)


@pytest.fixture
def conv_norm_net():
    """8x8x2 -> conv 'valid' 4 -> batch norm -> relu -> conv 'valid' 3 -> global mean -> 2."""
    image = keras.Input((8, 8, 2), name="image")
    hidden = keras.layers.Conv2D(4, 3, padding="valid", name="first")(image)
    hidden = keras.layers.BatchNormalization(name="norm")(hidden)
    hidden = keras.layers.ReLU(name="relu")(hidden)
    hidden = keras.layers.Conv2D(3, 3, padding="valid", activation="relu", name="second")(hidden)
    hidden = keras.layers.GlobalAveragePooling2D(name="mean")(hidden)
    model = keras.Model(image, keras.layers.Dense(2, name="out")(hidden), name="conv_norm_net")
    model.compile(optimizer="sgd", loss="mse")
    return randomise(model)


@pytest.fixture
def two_input_net():
    """(left: 3, right: 2) -> dense 4 each -> joined -> 1."""
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    joined = keras.layers.Concatenate(name="joined")(
        [
            keras.layers.Dense(4, activation="relu", name="left_dense")(left),
            keras.layers.Dense(4, activation="relu", name="right_dense")(right),
        ]
    )
    model = keras.Model([left, right], keras.layers.Dense(1, name="out")(joined), name="two_input_net")
    model.compile(optimizer="sgd", loss="mse")
    return randomise(model)


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 1 MB, which only root can mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)
