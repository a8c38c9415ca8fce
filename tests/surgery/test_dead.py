"""remove_dead: what goes, what must stay, and that the output does not change."""

import keras
import numpy as np
import pytest
from keras import layers

import tfprune


def changed(model, small, x):
    return float(np.abs(np.asarray(model(x)) - np.asarray(small(x))).max())


@pytest.fixture
def x(generator):
    return generator.normal(size=(50, 6, 6, 2)).astype("float32")


def conv_net(padding, use_bias=True):
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(5, 3, activation="relu", name="first", bias_initializer="uniform"),
            layers.Conv2D(4, 3, padding=padding, use_bias=use_bias, name="second"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )


def set_unit(layer, unit, bias):
    """Makes a unit ignore its input."""
    kernel, old_bias = layer.get_weights()
    kernel[..., unit], old_bias[unit] = 0.0, bias
    layer.set_weights([kernel, old_bias])


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_zero_units_go_even_before_padding(padding, x):
    model = conv_net(padding)
    set_unit(model.get_layer("first"), 1, -1.0)
    small = tfprune.remove_dead(model, x)
    assert small.get_layer("first").filters == 4
    assert changed(model, small, x) < 1e-5


def test_a_constant_goes_into_the_bias(x):
    model = conv_net("valid", use_bias=False)
    set_unit(model.get_layer("first"), 2, 0.7)
    small = tfprune.remove_dead(model, x)
    assert small.get_layer("first").filters == 4
    assert changed(model, small, x) < 1e-5


def test_a_constant_before_padding_stays(x):
    model = conv_net("same")
    set_unit(model.get_layer("first"), 2, 0.7)
    assert tfprune.remove_dead(model, x).get_layer("first").filters == 5


def test_units_that_nothing_reads_go(x):
    model = conv_net("valid")
    kernel, bias = model.get_layer("second").get_weights()
    kernel[:, :, 3] = 0.0
    model.get_layer("second").set_weights([kernel, bias])
    small = tfprune.remove_dead(model, x)
    assert small.get_layer("first").filters == 4
    assert changed(model, small, x) < 1e-5


def test_nothing_dead_nothing_removed(x):
    model = conv_net("valid")
    assert tfprune.remove_dead(model, x).count_params() == model.count_params()


def test_tolerance_counts_small_differences_as_none(x):
    model = conv_net("valid")
    kernel, bias = model.get_layer("first").get_weights()
    kernel[..., 0] *= 1e-4
    bias[0] = 1.0
    model.get_layer("first").set_weights([kernel, bias])
    assert tfprune.remove_dead(model, x).get_layer("first").filters == 5
    small = tfprune.remove_dead(model, x, tolerance=0.01)
    assert small.get_layer("first").filters == 4
    assert changed(model, small, x) < 0.01


def test_layer_norm_counts_its_units(generator):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="relu", name="first"),
            layers.LayerNormalization(),
            layers.Dense(2),
        ]
    )
    set_unit(model.get_layer("first"), 0, -1.0)
    small = tfprune.remove_dead(model, generator.normal(size=(20, 4)))
    assert small.get_layer("first").units == 5


def test_one_unit_stays_in_a_dead_layer(generator):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="relu", name="first"), layers.Dense(2)])
    for unit in range(3):
        set_unit(model.get_layer("first"), unit, -1.0)
    data = generator.normal(size=(20, 4)).astype("float32")
    small = tfprune.remove_dead(model, data)
    assert small.get_layer("first").units == 1
    assert changed(model, small, data) < 1e-6


def test_directions_of_a_bidirectional_stay_equal(generator):
    model = keras.Sequential(
        [keras.Input((5, 3)), layers.Bidirectional(layers.LSTM(4), name="both"), layers.Dense(2, name="head")]
    )
    both = model.get_layer("both")
    kernel, recurrent, bias = both.forward_layer.get_weights()
    columns = np.arange(4) * 4 + 1
    # The cell of unit 1 never takes anything in, so its state stays zero.
    kernel[:, columns], recurrent[:, columns], bias[columns] = 0.0, 0.0, 0.0
    both.forward_layer.set_weights([kernel, recurrent, bias])
    data = generator.normal(size=(20, 5, 3)).astype("float32")
    small = tfprune.remove_dead(model, data)
    assert small.get_layer("both").forward_layer.units == small.get_layer("both").backward_layer.units == 4
    assert changed(model, small, data) < 1e-6


def test_a_negative_tolerance_is_refused(x):
    with pytest.raises(ValueError, match="tolerance: expected a number of at least 0"):
        tfprune.remove_dead(conv_net("valid"), x, tolerance=-1.0)
