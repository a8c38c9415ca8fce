"""Conductance of units: against loops, complete over every layer that cuts the net in two, whatever the net."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import replicas_probes as replicas
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for
from replicas import lstm

import tfprune as tfp
from tfprune.relevance import conductance, explain

DOUBLE = {"dtype": "float64"}


def test_examples_in_docstrings():
    found = doctest.testmod(importlib.import_module("tfprune.relevance.conductance"))
    assert found.failed == 0 and found.attempted > 0


def tail(model, number):
    """The slopes of output 1 behind a layer whose values go through `Dense(tanh)` and `Dense`."""
    (w, b), (v, _) = (model.layers[k].get_weights() for k in (number, number + 1))

    def slopes(values):
        hidden = np.tanh(values @ w + b)
        return w @ ((1.0 - hidden**2) * v[:, 1])

    return slopes


def double_net(shape, *stack):
    head = [layers.Dense(4, "tanh", name="tanh", **DOUBLE), layers.Dense(2, name="out", **DOUBLE)]
    return randomise(keras.Sequential([keras.Input(shape, dtype="float64"), *stack, *head]))


def dense_case():
    model = double_net((3,), layers.Dense(5, "sigmoid", name="units", **DOUBLE))
    (w, b), slopes = model.layers[0].get_weights(), tail(model, 1)
    return model, lambda x: 1.0 / (1.0 + np.exp(-(x @ w + b))), slopes, lambda parts: parts


def convolution_case():
    stack = [layers.Conv2D(3, 2, activation="relu", name="units", **DOUBLE), layers.Flatten(**DOUBLE)]
    model = double_net((4, 4, 2), *stack)
    (w, b), slopes = model.layers[0].get_weights(), tail(model, 2)
    return (
        model,
        lambda x: replicas.convolution(x, w, b),
        lambda values: slopes(values.ravel()).reshape(values.shape),
        lambda parts: parts.sum(axis=(0, 1)),
    )


def lstm_case():
    stack = [
        layers.LSTM(3, return_sequences=True, name="units", **DOUBLE),
        layers.GlobalAveragePooling1D(**DOUBLE),
    ]
    model = double_net((3, 2), *stack)
    (w, u, b), slopes = model.layers[0].get_weights(), tail(model, 2)
    return (
        model,
        lambda x: lstm(x[None], w, u, b)[0][0],
        lambda values: np.tile(slopes(values.mean(axis=0)) / len(values), (len(values), 1)),
        lambda parts: parts.sum(axis=0),
    )


CASES = {"dense": dense_case, "convolution": convolution_case, "lstm": lstm_case}


@pytest.mark.parametrize("method", ["conductance", "conductance_by_differences"])
@pytest.mark.parametrize("name", CASES)
def test_against_a_great_many_steps(name, method, generator):
    """The units of one layer, and that they make up all of F(x) - F(baseline)."""
    model, values, slopes, by_unit = CASES[name]()
    x = 2.0 * generator.normal(size=(2, *model.input_shape[1:]))
    baseline = 0.3 * generator.normal(size=model.input_shape[1:])
    found = conductance(model, x, baseline=baseline, target=1, steps=24, method=method)
    expected = np.stack([by_unit(replicas.conductance(values, slopes, one, baseline, 200)) for one in x])
    np.testing.assert_allclose(found.units["units"], expected, atol=3e-4)
    change = found.output - found.baseline_output
    assert np.abs(change).max() > 1e-2
    np.testing.assert_allclose(expected.sum(axis=1), change, atol=1e-4)
    tolerance = 1e-12 if method == "conductance_by_differences" else 1e-4
    for layer in ("units", "tanh"):
        np.testing.assert_allclose(found.units[layer].sum(axis=1) + found.delta[layer], change, atol=1e-12)
        np.testing.assert_allclose(found.delta[layer], 0.0, atol=tolerance)
    np.testing.assert_allclose(found.scores["units"], np.abs(found.units["units"]).mean(axis=0), rtol=1e-12)


# Nets, and those of their layers that cut them in two.
CUTS = {
    "batch_norm": ["first", "last"],
    "bidirectional_concat": ["first/forward", "first/backward", "second/forward", "second/backward"],
    "encoder_decoder_lstm": ["decoder"],
    "grouped_conv_block": ["first", "grouped", "last"],
    "mixed_precision": ["first", "second"],
    "nested_in_nested": ["middle/inner/a", "middle/inner/b", "middle/c"],
    "nested_twice": ["inner/a", "inner/b"],
    "shuffle": ["first", "grouped", "again"],
    "softmax_head": ["hidden"],
    "squeeze_excitation": ["expand", "project"],
}


SLOW = {"bidirectional_concat", "encoder_decoder_lstm", "grouped_conv_block", "shuffle", "squeeze_excitation"}


@pytest.mark.parametrize("name", [pytest.param(own, marks=[pytest.mark.slow] * (own in SLOW)) for own in CUTS])
def test_layers_that_cut_a_net_in_two_are_complete(name):
    model = NETS[name]()
    x = inputs_for(model)
    target = None if name == "softmax_head" else lambda outputs: tf.reduce_sum(outputs, range(1, len(outputs.shape)))
    found = conductance(model, x if len(x) > 1 else x[0], target=target, steps=16, method="conductance_by_differences")
    assert list(found.delta) == [own for own in found.units if own in CUTS[name]] == CUTS[name]
    whole = np.abs(found.output - found.baseline_output).mean()
    for own in found.delta.values():
        assert np.abs(own).mean() < 1e-4 * whole
    graph = tfp.unit_groups(model)
    assert [len(own) for own in found.scores.values()] == [graph[own].size for own in graph.names]


def test_other_layers_have_no_shortfall_to_report():
    model = NETS["concatenate"]()
    found = conductance(model, inputs_for(model), target=0, steps=2)
    assert not found.delta and "no cut of the net" in repr(found)


def test_a_softmax_is_explained_from_its_logits(generator):
    x, k = generator.normal(size=(4, 3)).astype("float32"), np.array([0, 1, 1, 0])
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, "tanh", name="hidden"), layers.Dense(2, "softmax")])
    randomise(model)
    found = conductance(model, x, target=k)
    kernel, bias = model.layers[1].get_weights()
    hidden = np.tanh(x @ model.layers[0].get_weights()[0] + model.layers[0].get_weights()[1])
    np.testing.assert_allclose(found.output, (hidden @ kernel + bias)[np.arange(4), k], rtol=1e-5)
    assert "missing" in repr(found) and list(found.delta) == ["hidden"]


@pytest.mark.parametrize("kind", ["dataset", "sequence", "with targets"])
def test_data_of_any_kind(kind, dense_net, generator):
    x = generator.normal(size=(6, 3)).astype("float32")

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return x[3 * index :][:3], x[3 * index :][:3, :2]

    data = {"dataset": tf.data.Dataset.from_tensor_slices(x).batch(4), "sequence": Batches(), "with targets": (x, x)}
    expected = conductance(dense_net, x, target=0, layers="second")
    found = conductance(dense_net, data[kind], target=0, layers="second")
    assert found.units.names == ("second",) and found.scores.names == ("second",)
    np.testing.assert_allclose(found.units["second"], expected.units["second"], rtol=1e-5, atol=1e-6)


def test_several_inputs(two_input_net, generator):
    x = [generator.normal(size=(5, size)).astype("float32") for size in (3, 2)]
    found = conductance(two_input_net, x, target=0, method="conductance_by_differences")
    both = found.units["left_dense"].sum(axis=1) + found.units["right_dense"].sum(axis=1)
    np.testing.assert_allclose(both, found.output - found.baseline_output, atol=1e-5)
    assert not found.delta


def test_as_a_ranking_and_as_a_saliency(conv_norm_net, generator):
    x = generator.normal(size=(5, 8, 8, 2)).astype("float32")
    found = conductance(conv_norm_net, x, steps=16)
    np.testing.assert_allclose(found.scores.flat, tfp.saliency.conductance(conv_norm_net, x, steps=16).flat, rtol=1e-5)
    assert tfp.keep_top(found.scores, 0.5).flat.sum() == 4
    assert tfp.neurons.conductance is conductance


@pytest.mark.parametrize(
    "name",
    [
        "shuffle",
        *(pytest.param(own, marks=pytest.mark.slow) for own in ("grouped_conv_block", "grouped_conv_on_inputs")),
    ],
)
def test_scores_where_a_unit_has_several_channels(name):
    """They raised, as the channels that show were taken for as many as the kernel's."""
    model = NETS[name]()
    x = inputs_for(model)[0]
    found = conductance(model, x, target=0, steps=2)
    scores = tfp.saliency.conductance(model, x, target=0, steps=2)
    np.testing.assert_allclose(scores.flat, found.scores.flat, rtol=1e-5)
    scores = tfp.saliency.relevance(model, x, target=0)
    assert scores.names == found.scores.names and (scores.flat > 0).all()


def test_units_of_both_directions(generator):
    """They are a cut together. By differences it raised: each direction was cut out twice."""
    both = layers.Bidirectional(layers.SimpleRNN(2, name="rnn"), name="both")
    model = randomise(keras.Sequential([keras.Input((2, 3)), both, layers.Dense(2, "tanh"), layers.Dense(1)]))
    x = generator.normal(size=(3, 2, 3)).astype("float32")
    found, other = (conductance(model, x, steps=32, method=f"conductance{own}") for own in ("", "_by_differences"))
    assert found.units.names[:2] == other.units.names[:2] and len(found.delta) == len(found.units) == 3
    for name in found.units.names:
        np.testing.assert_allclose(other.units[name], found.units[name], atol=2e-3)
        np.testing.assert_allclose(other.delta[name], 0.0, atol=1e-5)


@pytest.mark.parametrize("after", ["concatenate", "chain"])
def test_units_of_a_layer_that_is_called_twice(after, generator):
    """Both calls count: side by side they are a cut; one behind the other the same way passes twice."""
    left, right = keras.Input((3,)), keras.Input((3,))
    shared = layers.Dense(3, "tanh", name="shared")
    ends = (
        layers.Concatenate()([shared(left), shared(right)])
        if after == "concatenate"
        else shared(shared(layers.Dense(3, name="first")(left)))
    )
    model = randomise(keras.Model([left, right] if after == "concatenate" else left, layers.Dense(1, name="out")(ends)))
    x = [generator.normal(size=(4, 3)).astype("float32") for _ in model.inputs]
    found = conductance(model, x, method="conductance_by_differences")
    change = found.output - found.baseline_output
    if after == "concatenate":
        np.testing.assert_allclose(found.delta["shared"], 0.0, atol=1e-5)
        assert np.abs(change).max() > 0.1
    else:
        assert list(found.delta) == ["first"]
        np.testing.assert_allclose(found.units["shared"].sum(axis=1), 2.0 * change, rtol=1e-4, atol=1e-5)
    if after == "concatenate":
        units = explain(model, x, method="blame_the_bias").units["shared"]
        kernel, parts = model.get_layer("out").get_weights()[0][:, 0], [shared(own).numpy() for own in x]
        np.testing.assert_allclose(units, parts[0] * kernel[:3] + parts[1] * kernel[3:], rtol=1e-4, atol=1e-6)


def test_a_sum_that_is_not_complete_is_warned_of():
    """A relu behind the layer switches between two steps: the output rises by 0.3, Simpson's rule sees 1/6."""
    model = keras.Sequential(
        [keras.Input((1,)), layers.Dense(1, name="first"), layers.Dense(1, "relu", name="second"), layers.Dense(1)]
    )
    one = np.ones((1, 1))
    model.set_weights([one, np.zeros(1), one, np.array([-0.7]), one, np.zeros(1)])
    with pytest.warns(UserWarning, match="units of 'first' .* 0.3 on average, only to within 0.13 in 2 steps.*by_diff"):
        found = conductance(model, one, steps=2)
    assert found.units["first"].item() == pytest.approx(1 / 6, abs=1e-6)
    assert found.delta["first"].item() == pytest.approx(0.3 - 1 / 6, abs=1e-6)
    exact = conductance(model, one, steps=2, method="conductance_by_differences")
    assert exact.delta["first"].item() == pytest.approx(0.0, abs=1e-6)


def test_bad_input(dense_net):
    x = np.ones((2, 3))
    for options, error, message in (
        ({"method": "lrp"}, ValueError, "method expects one of 'conductance', 'conductance_by_differences'"),
        ({"layers": "thrid"}, ValueError, "'thrid' is not a layer"),
        ({"steps": 0}, ValueError, "steps: expected a whole number"),
        ({"target": 2}, ValueError, "has 2 classes, 0 to 1; received 2"),
        ({"baseline": np.ones(4)}, ValueError, r"baseline: expected one sample \(3,\)"),
        ({"output": "other"}, ValueError, "output: Unknown: 'other'"),
    ):
        with pytest.raises(error, match=message):
            conductance(dense_net, x, **options)
    with pytest.raises(ValueError, match="NaN"):
        conductance(dense_net, x * np.nan)
    with pytest.raises(ValueError, match="has no units that can be removed"):
        conductance(keras.Sequential([keras.Input((3,)), layers.Dense(2)]), x)
    with pytest.raises(ValueError, match="the model reads integers"):
        conductance(NETS["embedding_mean"](), inputs_for(NETS["embedding_mean"]())[0], target=0)


def test_a_baseline_that_is_masked_away():
    """All steps of zeros are masked, and the mean over none is NaN."""
    model = keras.Sequential(
        [keras.Input((3, 2)), layers.Masking(), layers.GRU(2, return_sequences=True), layers.GlobalAveragePooling1D()]
    )
    with pytest.raises(ValueError, match="baseline: .* NaN or infinite. Where a layer masks steps"):
        explain(model, np.ones((1, 3, 2), "float32"), target=0, method="integrated_gradients")
