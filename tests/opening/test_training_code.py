"""Code that does something else in training: masks and the opened graph do not, and say so."""

import threading
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import tfprune
from tfprune.graph.opened import other_in_training


class Noisy(layers.Layer):
    def call(self, x, training=None):
        return x + keras.random.normal(ops.shape(x)) if training else x


class Quiet(layers.Layer):
    """What training changes is in layers of Keras, which are told."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense, self.drop, self.norm = layers.Dense(4), layers.Dropout(0.5), layers.BatchNormalization()

    def call(self, x, training=None):
        return self.norm(self.drop(self.dense(x), training=training))


class Whole(keras.Model):
    def __init__(self):
        super().__init__(name="whole")
        self.quiet, self.out = Quiet(name="quiet"), layers.Dense(2)

    def call(self, x, training=None):
        x = self.quiet(x)
        return self.out(x * 2.0 if training else x)


def functional(block):
    x = keras.Input((4,))
    return keras.Model(x, layers.Dense(2, name="out")(block(layers.Dense(5, name="first")(x))))


def subclassed():
    model = Whole()
    model(np.zeros((1, 4), "float32"))
    return model


def test_two_threads_open_one_model_at_once():
    model, found = functional(Quiet(name="quiet")), []
    threads = [threading.Thread(target=lambda: found.append(tfprune.unit_groups(model).sizes)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [{"first": 5, "quiet/dense": 4}] * 6
    assert "symbolic_call" not in vars(model.get_layer("quiet")) and type(model.get_layer("quiet")) is Quiet


class Shuffled(layers.Layer):
    def call(self, x):
        return x + np.random.default_rng().normal(size=x.shape[1:]).astype("float32")


def test_why_a_functional_model_is_not_opened_is_told():
    wall = tfprune.unit_groups(functional(Shuffled(name="shuffled"))).walls["shuffled"]
    assert wall.startswith("its code cannot be followed: shuffled/add ") and "random" in wall


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: functional(Noisy(name="noisy")), ("noisy",)),
        (lambda: functional(Quiet(name="quiet")), ()),
        (subclassed, ("whole",)),
    ],
)
def test_code_that_looks_at_training_is_told(make, names):
    model = make()
    tfprune.unit_groups(model)
    assert other_in_training(model) == names
    mask = tfprune.keep_top(tfprune.saliency.weight_norm(model), 0.5)
    kept = tfprune.remove(model, mask, form="copy")
    if names:
        with pytest.warns(
            UserWarning, match=f"in training, the code of '{names[0]}' does something else, which the masked"
        ):
            tfprune.with_on_nodes(model)
        with pytest.warns(UserWarning, match="which the result in the form 'graph' does not do"):
            tfprune.remove(model, mask, form="graph")
        x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        assert np.abs(kept(x, training=True) - kept(x, training=False)).max() > 1e-3, "a copy keeps the code"
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tfprune.with_on_nodes(model)
