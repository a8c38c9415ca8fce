"""Relevance at layers in full shape: by rules, by conductance, by integrated gradients."""

import keras
import numpy as np
import pytest
import replicas_relevance as replicas
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers

from tfprune import relevance, saliency
from tfprune.relevance import explain

DOUBLE = {"dtype": "float64"}


def conv_chain():
    """Each layer cuts the net in two."""
    return randomise(
        keras.Sequential(
            [
                keras.Input((8, 8, 2), dtype="float64"),
                layers.Conv2D(4, 3, activation="relu", name="conv_1", **DOUBLE),
                layers.Conv2D(3, 3, activation="softplus", name="conv_2", **DOUBLE),
                layers.MaxPooling2D(2, name="pool", **DOUBLE),
                layers.Dropout(0.5, name="drop", **DOUBLE),
                layers.Flatten(name="flat", **DOUBLE),
                layers.Dense(3, name="out", **DOUBLE),
            ]
        )
    )


def part_behind(model, name):
    """The part of a chain behind a layer, as a model of its own."""
    x = h = keras.Input(model.get_layer(name).output.shape[1:], dtype="float64")
    names = [layer.name for layer in model.layers]
    for layer in model.layers[names.index(name) + 1 :]:
        h = layer(h)
    return keras.Model(x, h)


@pytest.mark.parametrize("name", ["conv_1", "conv_2", "pool", "drop"])
@pytest.mark.parametrize("method", ["lrp", "blame_the_bias", "gradient", "compare_to_baseline"])
def test_a_layer_is_the_input_of_what_lies_behind_it(method, name, generator):
    """Relevance there is that of the inputs of the part behind it; units are its sums over positions."""
    model = conv_chain()
    x, baseline = generator.normal(size=(3, 8, 8, 2)), generator.normal(size=(8, 8, 2))
    compare = method == "compare_to_baseline"
    options = {"method": method, "target": [0, 2, 1]}
    front = keras.Model(model.inputs[0], model.get_layer(name).output)
    given = {"baseline": baseline} if compare else {}
    inner = {"baseline": front(baseline[None]).numpy()[0]} if compare else {}
    found = explain(model, x, layers=[name], **given, **options)
    behind = explain(part_behind(model, name), front(x).numpy(), **inner, **options)
    assert found.at.names == (name,)
    np.testing.assert_allclose(found.at[name], behind.inputs, rtol=1e-7, atol=1e-10)
    if name in found.units:
        np.testing.assert_allclose(found.at[name].sum(axis=(1, 2)), found.units[name], rtol=1e-7, atol=1e-10)
    tensors = relevance.tensors(model, tf.constant(x), layers=name, **given, **options)
    np.testing.assert_allclose(tensors.at[name], found.at[name], rtol=1e-9)


def test_each_call_of_a_shared_layer_and_each_output(generator):
    x = keras.Input((4, 3), name="x", **DOUBLE)
    shared = layers.Dense(3, activation="tanh", name="shared", **DOUBLE)
    once = shared(x)
    output, state = layers.GRU(2, return_sequences=True, return_state=True, name="gru", **DOUBLE)(shared(once))
    h = layers.Concatenate(**DOUBLE)([layers.Flatten(**DOUBLE)(output), state])
    model = randomise(keras.Model(x, layers.Dense(2, name="out", **DOUBLE)(h)))
    found = explain(model, generator.normal(size=(2, 4, 3)), target=0, layers=["shared", "gru"])
    shapes = {name: array.shape for name, array in found.at.items()}
    assert shapes == {"shared@1": (2, 4, 3), "shared@2": (2, 4, 3), "gru:1": (2, 4, 2), "gru:2": (2, 2)}
    behind = found.biases["out"].sum(axis=1)
    both = found.at["gru:1"].sum(axis=(1, 2)) + found.at["gru:2"].sum(axis=1)
    np.testing.assert_allclose(both + behind, found.output, rtol=1e-8)
    behind += found.biases["gru"].sum(axis=1)
    np.testing.assert_allclose(found.at["shared@2"].sum(axis=(1, 2)) + behind, found.output, rtol=1e-8)
    bias = model.get_layer("shared").get_weights()[1]
    assert np.abs(bias).min() > 0
    first = found.at["shared@1"].sum(axis=(1, 2))
    assert (np.abs(first - found.at["shared@2"].sum(axis=(1, 2))) > 1e-6).all()


def test_a_layer_that_changes_nothing_has_only_what_passes_through_it(generator):
    """Beside a branch that goes past it, with which it shares its value."""
    x = keras.Input((3,), name="x", **DOUBLE)
    h = layers.Dense(3, name="first", **DOUBLE)(x)
    past = layers.Add(name="sum", **DOUBLE)([h, layers.Dropout(0.5, name="drop", **DOUBLE)(h)])
    model = randomise(keras.Model(x, layers.Dense(2, name="out", **DOUBLE)(past)))
    found = explain(model, generator.normal(size=(2, 3)), target=0, layers=["first", "drop", "sum"])
    np.testing.assert_allclose(found.at["first"], found.at["sum"], rtol=1e-9)
    np.testing.assert_allclose(found.at["drop"], 0.5 * found.at["sum"], rtol=1e-9)


def test_layers_inside_a_model_by_path(generator):
    inner_x = keras.Input((3,), **DOUBLE)
    inner = keras.Model(inner_x, layers.Dense(3, "tanh", name="a", **DOUBLE)(inner_x), name="inner")
    x = keras.Input((3,), name="x", **DOUBLE)
    model = randomise(keras.Model(x, layers.Dense(2, name="out", **DOUBLE)(inner(inner(x)))))
    found = explain(model, generator.normal(size=(2, 3)), target=1, layers=["inner/a", "inner"])
    assert found.at.names == ("inner/a@1", "inner/a@2", "inner@1", "inner@2")
    for number in (1, 2):
        np.testing.assert_array_equal(found.at[f"inner/a@{number}"], found.at[f"inner@{number}"])
    np.testing.assert_allclose(found.at["inner@2"].sum(axis=1) + found.biases["out"].sum(axis=1), found.output)


def test_what_does_not_lead_to_the_output_and_a_softmax(generator):
    """Zeros for the first; a softmax from whose logits relevance starts has that of its logits."""
    x = keras.Input((3,), name="x", **DOUBLE)
    aside = layers.Dense(4, name="aside", **DOUBLE)(x)
    end = layers.Dense(2, "softmax", name="out", **DOUBLE)(layers.Dense(3, "relu", name="hidden", **DOUBLE)(x))
    model = randomise(keras.Model(x, [aside, end]))
    data = generator.normal(size=(2, 3))
    for method in ("lrp", "conductance", "integrated_gradients"):
        found = explain(model, data, method=method, target=1, output=1, layers=["aside", "out"], steps=2)
        np.testing.assert_array_equal(found.at["aside"], np.zeros((2, 4)))
        explained = found.output - (0.0 if found.baseline_output is None else found.baseline_output)
        np.testing.assert_allclose(found.at["out"], np.stack([np.zeros(2), explained], axis=1), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "given, error, message",
    [
        ("conv_3", ValueError, "layers: .*did you mean 'conv_2'"),
        ([3], TypeError, "expected names of layers, received 3"),
        ("input", ValueError, "is an input; its relevance is in `.inputs`"),
    ],
)
def test_layers_that_do_not_fit(given, error, message):
    model = conv_chain()
    given = model._functional.inputs[0].name if given == "input" else given
    for function in (explain, relevance.tensors):
        with pytest.raises(error, match=message):
            function(model, np.ones((1, 8, 8, 2)), target=0, layers=given)


# Ways from a baseline -------------------------------------------------------------------------------------------------


def sigmoid(z):
    return 1.0 / (1.0 + np.exp(-z))


FUNCTIONS = {
    "relu": (lambda z: np.maximum(z, 0.0), lambda z: 1.0 * (z > 0)),
    "sigmoid": (sigmoid, lambda z: sigmoid(z) * (1.0 - sigmoid(z))),
    "tanh": (np.tanh, lambda z: 1.0 - np.tanh(z) ** 2),
    "linear": (lambda z: z, lambda z: np.ones_like(z)),
}


def dense_chain(activations):
    stack = [
        layers.Dense(width, activation, name=f"layer_{k}", **DOUBLE)
        for k, (width, activation) in enumerate(zip((7, 6, 3), activations, strict=True))
    ]
    return randomise(keras.Sequential([keras.Input((5,), dtype="float64"), *stack]))


@pytest.mark.parametrize(
    "activations, steps, tolerance",
    [
        (("relu", "sigmoid", "linear"), 50, 2e-4),
        (("relu", "sigmoid", "linear"), 51, 2e-4),
        (("tanh", "sigmoid", "linear"), 16, 2e-6),
        (("tanh", "tanh", "linear"), 2, 5e-2),
    ],
)
def test_conductance_against_a_great_many_steps(activations, steps, tolerance, generator):
    """Units, and each number of a layer; a relu counts, too."""
    model = dense_chain(activations)
    weights = [layer.get_weights() for layer in model.layers]
    x, baseline = generator.normal(size=(3, 5)), 0.3 * generator.normal(size=5)
    options = {"method": "conductance", "baseline": baseline, "target": 1, "steps": steps}
    found = explain(model, x, layers=["layer_0", "layer_1"], **options)
    for k in range(3):
        functions = [FUNCTIONS[name] for name in activations]
        expected = replicas.conductance(weights, functions, x[k], baseline, 1, 4000)
        for number in range(2):
            name = f"layer_{number}"
            np.testing.assert_allclose(found.units[name][k], expected[number], atol=tolerance)
            np.testing.assert_allclose(found.at[name][k], found.units[name][k], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.delta, found.output - found.baseline_output - found.inputs.sum(axis=1), atol=1e-9)


def test_conductance_by_differences_sees_where_relus_switch(generator):
    """Two layers of relus: far nearer to a great many steps than gradients at points; the sum is kept in any case."""
    model = dense_chain(("relu", "relu", "linear"))
    weights = [layer.get_weights() for layer in model.layers]
    functions = [FUNCTIONS[name] for name in ("relu", "relu", "linear")]
    x, baseline = generator.normal(size=(6, 5)), 0.3 * generator.normal(size=5)
    options = {"baseline": baseline, "target": 1, "layers": ["layer_0", "layer_1"]}
    exact = np.stack([replicas.conductance(weights, functions, one, baseline, 1, 8000)[0] for one in x])
    errors = {}
    for method in ("conductance", "conductance_by_differences"):
        found = explain(model, x, method=method, steps=50, **options)
        errors[method] = np.abs(found.units["layer_0"] - exact).max()
        np.testing.assert_allclose(found.at["layer_0"], found.units["layer_0"], rtol=1e-9, atol=1e-12)
    assert errors["conductance_by_differences"] < 1e-3
    assert errors["conductance_by_differences"] < 0.2 * errors["conductance"]
    for steps in (1, 3):
        found = explain(model, x, method="conductance_by_differences", steps=steps, **options)
        rise = found.output - found.baseline_output
        np.testing.assert_allclose(found.delta, 0.0, atol=1e-9)
        for array in (found.inputs, found.units["layer_0"], found.at["layer_1"]):
            np.testing.assert_allclose(array.sum(axis=1), rise, atol=1e-9)


def test_conductance_at_a_convolution(generator):
    """In full shape, summed over positions what the units conduct; all together the rise of the output."""
    model = conv_chain()
    x = generator.normal(size=(2, 8, 8, 2))
    found = explain(model, x, method="conductance", target=1, steps=40, layers=["conv_1", "conv_2"])
    for name, shape in (("conv_1", (2, 6, 6, 4)), ("conv_2", (2, 4, 4, 3))):
        assert found.at[name].shape == shape
        np.testing.assert_allclose(found.at[name].sum(axis=(1, 2)), found.units[name], rtol=1e-7, atol=1e-9)
    rise = found.output - found.baseline_output
    np.testing.assert_allclose(found.units["conv_2"].sum(axis=1), rise, atol=0.02 * np.abs(rise).max())


@pytest.mark.parametrize("name", ["conv_1", "pool"])
def test_integrated_gradients_at_a_layer(name, generator):
    """Those of the part behind it, between what the layer gives out at the baseline and at x."""
    model = conv_chain()
    x, baseline = generator.normal(size=(2, 8, 8, 2)), generator.normal(size=(8, 8, 2))
    front = keras.Model(model.inputs[0], model.get_layer(name).output)
    options = {"method": "integrated_gradients", "target": [2, 0], "steps": 24}
    found = explain(model, x, baseline=baseline, layers=name, **options)
    inner = front(baseline[None]).numpy()[0]
    behind = explain(part_behind(model, name), front(x).numpy(), baseline=inner, **options)
    np.testing.assert_allclose(found.at[name], behind.inputs, rtol=1e-7, atol=1e-10)
    assert found.units.size == 0
    rise = found.output - found.baseline_output
    np.testing.assert_allclose(found.at[name].sum(axis=(1, 2, 3)), rise, atol=0.03 * np.abs(rise).max())


def test_chunks_do_not_matter_at_layers(generator, monkeypatch):
    model, x = conv_chain(), generator.normal(size=(5, 8, 8, 2))
    whole = {
        m: explain(model, x, method=m, target=0, layers="conv_1", steps=2) for m in ("lrp", "integrated_gradients")
    }
    monkeypatch.setattr("tfprune.graph.walk._MOST_SAMPLES_AT_ONCE", 2)
    for method, one in whole.items():
        again = explain(model, x, method=method, target=0, layers="conv_1", steps=2)
        np.testing.assert_allclose(again.at["conv_1"], one.at["conv_1"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("merge_mode", "method"),
    slow_but([("concat", "lrp")], [("concat", "lrp"), ("concat", "conductance"), ("sum", "lrp"), (None, "lrp")]),
)
def test_each_direction_shows_its_own_units(merge_mode, method, generator):
    """Side by side in one tensor, they are told apart; together they are the layer's."""
    x = keras.Input((5, 3))
    h = keras.layers.Bidirectional(keras.layers.LSTM(4), merge_mode=merge_mode, name="both")(x)
    h = keras.layers.Concatenate(name="joined")(h) if merge_mode is None else h
    model = randomise(keras.Model(x, keras.layers.Dense(2, name="out")(h)))
    data = generator.normal(size=(6, 5, 3)).astype("float32")
    found = relevance.explain(model, data, method=method, target=0, layers=["joined" if merge_mode is None else "both"])
    assert all(values.shape == (6, 4) for name, values in found.units.items() if name.startswith("both/"))
    (whole,) = found.at.values()
    if merge_mode != "sum":
        parts = np.concatenate([found.units["both/forward"], found.units["both/backward"]], axis=1)
        np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6)
    score = {"lrp": saliency.relevance, "conductance": saliency.conductance}[method]
    scores = score(model, data, target=0, signed=True)
    together = whole if merge_mode == "sum" else whole[:, :4] + whole[:, 4:]
    np.testing.assert_allclose(scores["both/forward"], together.mean(axis=0), rtol=1e-3, atol=1e-5)
