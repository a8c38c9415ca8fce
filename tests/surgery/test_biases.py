"""Biases that Keras takes for those of another axis, where as many units are left as it is long."""

import warnings

import keras
import numpy as np
import pytest
from conftest import randomise
from keras import layers
from nets import inputs_for, outputs_of

import tfprune


def einsum(units, positions, features=6):
    """A bias per unit in front of an axis of features, behind one of positions."""
    x = keras.Input((positions, 4), name="x")
    h = layers.EinsumDense("abc,cde->abde", (None, units, features), bias_axes="d", activation="tanh", name="first")(x)
    h = layers.EinsumDense("abde,def->abf", (None, 5), bias_axes="f", name="join")(h)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h)))


def convolution(units, width):
    x = keras.Input((2, width + 1, width + 1), name="x")
    h = layers.Conv2D(units, 2, data_format="channels_first", activation="sigmoid", name="first")(x)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(layers.Permute((2, 3, 1), name="turn")(h))))


def constant(units, positions):
    x = keras.Input((positions, 9, 3), name="x")
    h = layers.Permute((1, 3, 2), name="turn")(layers.Dense(units, activation="tanh", name="first")(x))
    h = layers.Permute((1, 3, 2), name="back")(h + np.arange(1.0, units + 1, dtype="float32")[:, None])
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h)))


def attention(heads, steps):
    x = keras.Input((steps, 4), name="x")
    h = layers.MultiHeadAttention(heads, 1, name="first")(x, x)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h)))


def timewise(units, positions):
    x = keras.Input((2, positions, 4), name="x")
    inner = layers.EinsumDense("abc,cde->abde", (None, units, 6), bias_axes="d", name="inner")
    h = layers.TimeDistributed(inner, name="first")(x)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(layers.Permute((1, 2, 4, 3), name="turn")(h))))


def cases(*, lengths, others):
    """Every net with the first lengths, and two of them with the others."""
    all_nets = [(make, *own) for make in (einsum, convolution, constant, attention, timewise) for own in lengths]
    return [*all_nets, *((make, *own) for make in (einsum, convolution) for own in others)]


def first_group(model):
    (name,) = [name for name in tfprune.unit_groups(model) if name.startswith("first")][:1]
    return name, tfprune.unit_groups(model)[name].size


def difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


@pytest.mark.parametrize(
    ("make", "units", "length", "left"), cases(lengths=[(4, 3, 3), (3, 3, 2)], others=[(5, 3, 2), (5, 7, 4)])
)
def test_remove_tells_when_the_model_computes_something_else(make, units, length, left):
    model = make(units, length)
    name, size = first_group(model)
    assert size == units
    mask = {name: np.arange(size) < left}
    inputs = inputs_for(model)
    on_nodes = tfprune.unit_groups(model).on_nodes(mask)
    masked = outputs_of(tfprune.with_on_nodes(model), inputs, on_nodes)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        small = tfprune.remove(model, mask)
    told = [str(own.message) for own in told if own.category is UserWarning]
    assert bool(told) == (difference(masked, outputs_of(small, inputs)) > 1e-4) == (length in (units, left))
    for message in told:
        model_named = "original" if units == length else "new model"
        assert (
            "Keras takes for one of axis" in message
            and f"in the {model_named}, where that is as long as its own, 3" in message
        )


@pytest.mark.parametrize(
    ("make", "units", "length", "wanted"), cases(lengths=[(2, 3, 3)], others=[(3, 3, 4), (2, 3, 4)])
)
def test_widen_refuses_to_compute_something_else(make, units, length, wanted):
    model = make(units, length)
    name, _ = first_group(model)
    if length in (units, wanted):
        with pytest.raises(ValueError, match="units: '(first|add.*)' adds a bias that Keras takes"):
            tfprune.widen(model, {name: wanted})
        # Where the function need not stay all numbers are as good.
        assert tfprune.widen(model, {name: wanted}, outgoing="ones").count_params() > model.count_params()
    else:
        inputs = inputs_for(model)
        wide = tfprune.widen(model, {name: wanted})
        assert difference(outputs_of(model, inputs), outputs_of(wide, inputs)) < 1e-5
