"""Too few samples for least squares are told, with rows against columns, wherever it is used and whatever data are."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from telling import telling

import tfprune as tfp
from tfprune.repair.samples import Fit, warn_of_few_samples
from tfprune.saliency import least_squares
from tfprune.training import PruneDuringTraining, shrink_while_training


def conv_net():
    """8x8x2 -> conv 6 (6x6) -> flatten -> 5 -> 3: of half the units, 108 columns stay behind the flatten."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            keras.layers.Conv2D(6, 3, activation="tanh", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="tanh", name="wide"),
            keras.layers.Dense(3, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    return randomise(model)


def data_of(count):
    generator = np.random.default_rng(1)
    return tuple(generator.normal(size=(count, *shape)).astype("float32") for shape in ((8, 8, 2), (3,)))


class Batches(keras.utils.PyDataset):
    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return -(-len(self.x) // 32)

    def __getitem__(self, index):
        return self.x[32 * index : 32 * index + 32], np.zeros((len(self.x[32 * index : 32 * index + 32]), 3))


KINDS = {
    "array": lambda x: x,
    "dataset": lambda x: tf.data.Dataset.from_tensor_slices(x).batch(32),
    "PyDataset": Batches,
}
HALF = tfp.LayerValues({"conv": np.arange(6) % 2 == 0, "wide": np.arange(5) < 3})


@pytest.mark.parametrize("kind", KINDS)
def test_a_score(kind):
    model = conv_net()
    with telling("saliency.least_squares has 50 samples; .* at 'out': 50 rows for 5 columns"):
        least_squares(model, KINDS[kind](data_of(50)[0]))
    # 1,800 rows of pixels are no samples.
    least_squares(model, KINDS[kind](data_of(300)[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
def test_a_repair(repair, kind):
    model = conv_net()
    fewest = {
        "mean": "2000.$",
        # Units are guessed at every pixel; the kernel behind the flatten is refitted as a whole.
        "affine": "Rows are fewest at 'out': 50 rows for 3 columns",
        "least_squares": "Rows are fewest at 'wide': 50 rows for 108 columns",
    }
    with telling(f"repair '{repair}' has 50 samples; below 300.*{fewest[repair]}") as told:
        tfp.remove(model, HALF, repair=repair, data=KINDS[kind](data_of(50)[0]))
    assert len(told) == 1 and told[0].filename == __file__
    tfp.remove(model, HALF, repair=repair, data=KINDS[kind](data_of(300)[0]))
    tfp.remove_dead(model, KINDS[kind](data_of(50)[0]))


def test_recurrent_layers():
    model = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, name="lstm"), keras.layers.Dense(2)])
    mask = tfp.LayerValues({"lstm": np.arange(4) < 2})
    with telling("repair 'least_squares' has 20 samples"):
        tfp.remove(model, mask, repair="least_squares", data=np.ones((20, 5, 3)))


def weight_norm(model, data):
    return tfp.saliency.weight_norm(model)


def test_training_tells_it_once():
    model, (x, y) = conv_net(), data_of(50)
    prune = PruneDuringTraining(weight_norm, tfp.schedules.by_epoch({0: 0.3, 1: 0.5}), x)
    with telling("repair 'least_squares' has 50 samples") as told:
        model.fit(x, y, epochs=2, verbose=0, callbacks=[prune])
    assert len(told) == 1 and len(prune.history) == 2
    with telling("repair 'least_squares' has 50 samples"):
        shrink_while_training(
            model, (x, y), tfp.schedules.by_epoch({1: 0.5}), weight_norm, epochs=2, fit_options={"verbose": 0}
        )


def test_the_fewest_rows_against_columns_are_told():
    fits = [Fit("a", 100, 10), Fit("b", 90, 30), Fit("c", 30, 2)]
    with telling(r"data: x has 30 samples; .* against 2000\. Rows are fewest at 'b': 90 rows"):
        warn_of_few_samples("x", 30, fits)
    warn_of_few_samples("x", 300, fits)
