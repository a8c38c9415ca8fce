"""Curves beside what people have: dictionaries of inputs, mixed precision, a second call, another thread."""

import threading

import keras
import numpy as np
import pytest
from conftest import randomise
from keras import layers

import tfprune as tfp
from tfprune.experiments import ablation_curve, dose_curve, removal_curve

RNG = np.random.default_rng(0)
LEFT, RIGHT = RNG.normal(size=(40, 3)).astype("float32"), RNG.normal(size=(40, 2)).astype("float32")
TARGETS = RNG.integers(0, 3, 40)


def net(as_dictionary=False, dtype="float32"):
    left, right = keras.Input((3,), name="left"), keras.Input((2,), name="right")
    h = layers.Concatenate(name="both")([left, right])
    h = layers.Dense(6, "tanh", name="hidden", dtype=dtype)(h)
    out = layers.Dense(3, activation="softmax", name="out", dtype="float32")(h)
    model = randomise(keras.Model({"left": left, "right": right} if as_dictionary else [left, right], out))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def accuracy(targets, outputs):
    return float((np.asarray(outputs).argmax(axis=-1) == targets).mean())


def first_wins(outputs):
    return np.asarray(outputs).argmax(axis=-1) == 0


CURVES = {
    "ablation_curve": lambda model, x: ablation_curve(model, (x, TARGETS), tfp.saliency.weight_norm(model), steps=3),
    "ablation_curve, a function": lambda model, x: ablation_curve(
        model, (x, TARGETS), tfp.saliency.weight_norm(model), steps=3, metric=accuracy
    ),
    "ablation_curve, predict": lambda model, x: ablation_curve(
        model,
        (x, TARGETS),
        tfp.saliency.weight_norm(model),
        steps=3,
        metric=accuracy,
        predict=lambda masked, inputs: masked.predict(keras.tree.pack_sequence_as(x, inputs), verbose=0),
    ),
    "removal_curve": lambda model, x: removal_curve(
        model, (x, TARGETS), tfp.saliency.weight_norm(model), repair="zero", steps=2
    ),
    "dose_curve": lambda model, x: dose_curve(
        model, (x, TARGETS), "hidden[1]", [-2.0, 0.0, 2.0], measured=first_wins, calibration=x
    ),
}


def numbers(found):
    return found.quality if hasattr(found, "quality") else found.values


@pytest.fixture(scope="module")
def expected():
    return {name: numbers(curve(net(), [LEFT, RIGHT])) for name, curve in CURVES.items()}


@pytest.mark.parametrize("curve", CURVES)
def test_dictionaries_of_inputs(curve, expected):
    for x in ({"left": LEFT, "right": RIGHT}, {"right": RIGHT, "left": LEFT}):
        np.testing.assert_allclose(numbers(CURVES[curve](net(True), x)), expected[curve], rtol=1e-4)


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(curve, dtype, expected):
    """Rounded as the model rounds; what counts samples may lose one or two of forty."""
    found = numbers(CURVES[curve](net(dtype=dtype), [LEFT, RIGHT]))
    np.testing.assert_allclose(found, expected[curve], atol=0.06)


@pytest.mark.parametrize("curve", CURVES)
def test_a_second_call_and_another_thread(curve, expected):
    model, found = net(), []
    for _ in range(2):
        found.append(numbers(CURVES[curve](model, [LEFT, RIGHT])))
    thread = threading.Thread(target=lambda: found.append(numbers(CURVES[curve](model, [LEFT, RIGHT]))))
    thread.start()
    thread.join()
    assert len(found) == 3
    for own in found:
        np.testing.assert_allclose(own, expected[curve], rtol=1e-5)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(4), layers.Dense(3, activation="softmax")

    def call(self, x):
        return self.out(self.hidden(x) * float(np.asarray(x).max()))


@pytest.mark.parametrize(
    "use",
    [
        lambda model: ablation_curve(model, (LEFT, TARGETS), {"hidden": np.arange(4.0)}),
        lambda model: removal_curve(model, (LEFT, TARGETS), {"hidden": np.arange(4.0)}, repair="zero"),
        lambda model: dose_curve(model, (LEFT, TARGETS), "hidden[0]", [1.0], measured=first_wins, calibration=LEFT),
        lambda model: tfp.neurons.control(model, "hidden[0]", 1.0),
        lambda model: tfp.neurons.activations(model, LEFT),
    ],
)
def test_a_subclassed_model_is_told_how_to_mend_it(use):
    model = Subclassed()
    model(LEFT)
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises((TypeError, ValueError), match="subclassed model.*Make it functional"):
        use(model)
