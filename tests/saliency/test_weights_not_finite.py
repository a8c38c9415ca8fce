"""Weights that are NaN or infinite are told, by the layer's name, wherever something is computed from them."""

import inspect

import keras
import numpy as np
import pytest
from conftest import randomise

import tfprune as tfp
from tfprune import distinctiveness, saliency, statistics
from tfprune.graph.finite import check_finite_weights
from tfprune.training import LivenessMonitor, PruneDuringTraining, shrink_while_training

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(320, 3)).astype("float32")
Y = GENERATOR.normal(size=(320, 2)).astype("float32")
ONE = schedule = tfp.schedules.constant(0.5)


def own_scores(model, data=None):
    return tfp.LayerValues({name: np.arange(size) for name, size in tfp.unit_groups(model).sizes.items()})


def net_with_norm():
    """3 -> 5 -> batch norm -> 4 -> 2, compiled: every score of units is to be had."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, activation="tanh", name="first"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    return randomise(model)


def fit(model, callback):
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[callback])


def half(model):
    return tfp.keep_top(own_scores(model), 0.5)


BORDERS = {
    # Enumerated, so that a score which is added is looked at too.
    **{f"saliency.{name}": getattr(saliency, name) for name in saliency.__all__ if name != "weights"},
    **{
        f"weights.{name}": own
        for name, own in vars(saliency.weights).items()
        if inspect.isfunction(own) and own.__module__ == saliency.weights.__name__ and not name.startswith("_")
    },
    **{
        f"statistics.{name}": getattr(statistics, name)
        for name in ("unit_statistics", "exit_statistics", "exit_means")
        if hasattr(statistics, name)
    },
    **{
        f"distinctiveness.{name}": getattr(distinctiveness, name)
        for name in ("angles", "similar_pairs", "complementary_pairs", "plan", "prune")
    },
    "distinctiveness of weights": lambda model, data: distinctiveness.angles(model, vectors="weights"),
    "sweep": lambda model, data: tfp.sweep(model, data, np.ones((1, 9))),
    "remove_dead": lambda model, data: tfp.remove_dead(model, data[0]),
    **{
        f"remove {repair}": lambda model, data, repair=repair: tfp.remove(
            model, half(model), repair=repair, data=data[0]
        )
        for repair in ("mean", "affine", "least_squares")
    },
    "PruneDuringTraining": lambda model, data: fit(model, PruneDuringTraining(own_scores, ONE, data, repair="zero")),
    "LivenessMonitor": lambda model, data: fit(model, LivenessMonitor(data)),
    "shrink_while_training": lambda model, data: shrink_while_training(
        model, data, ONE, own_scores, epochs=1, repair="zero", fit_options={"verbose": 0}
    ),
}


@pytest.mark.parametrize("name", BORDERS)
def test_the_layer_is_named(name):
    model = net_with_norm()
    kernel = model.get_layer("second").kernel
    value = kernel.numpy()
    value[2, 1], value[4, 3] = np.nan, -np.inf
    kernel.assign(value)
    message = r"weight 'kernel' of layer '.*second' has 2 of 20 numbers .* first nan at kernel\[2, 1\].*clipnorm"
    with pytest.raises(ValueError, match=message):
        BORDERS[name](model, (X, Y))


@pytest.mark.parametrize("place", ["moving_variance", "nested", "bfloat16", "infinite"])
def test_wherever_the_weight_is(place):
    model = net_with_norm()
    if place == "nested":
        inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="deep")], name="inner")
        model = keras.Sequential([keras.Input((3,)), inner, keras.layers.Dense(2)])
        variable, label = inner.layers[0].bias, "inner/deep"
    elif place == "bfloat16":
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, dtype="bfloat16", name="short")])
        variable, label = model.layers[0].kernel, "short"
    elif place == "moving_variance":
        variable, label = model.get_layer("norm").moving_variance, "norm"
    else:
        variable, label = model.get_layer("out").kernel, "out"
    check_finite_weights(model)
    values = keras.ops.convert_to_numpy(variable).astype("float32")
    values.flat[-1] = np.inf if place == "infinite" else np.nan
    variable.assign(values)
    with pytest.raises(ValueError, match=f"of layer '.*{label}' has 1 of {values.size} numbers that are NaN or inf"):
        check_finite_weights(model)


def test_large_weights_and_zero_repair_are_no_matter():
    model = net_with_norm()
    kernel = model.get_layer("second").kernel
    # Their sum overflows.
    kernel.assign(np.full(kernel.shape, 3e38, "float32"))
    check_finite_weights(model)
    kernel.assign(np.full(kernel.shape, np.nan, "float32"))
    small = tfp.remove(model, half(model))
    assert np.isnan(small.get_layer("second").kernel.numpy()).all()
    assert tfp.remove(model, tfp.LayerValues({}), repair="mean", data=X).count_params() == model.count_params()
