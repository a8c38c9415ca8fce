"""Rows of relevance against replicas: maxima over axes, attention without heads, masked recurrent layers, slices."""

from functools import partial

import keras
import numpy as np
import pytest
import replicas_relevance as replicas
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers, ops
from nets import EARLY_KERAS

from tfprune import relevance
from tfprune.layers import ONLSTM
from tfprune.relevance import Composite, explain


def model_of(build, shape=(4, 3), units=2, seed=0):
    """A model in float64: what `build` makes of the input, read by a dense layer."""
    x = keras.Input(shape, dtype="float64", name="x")
    h = build(x)
    h = ops.reshape(h, (-1, int(np.prod(h.shape[1:]))))
    return randomise(keras.Model(x, layers.Dense(units, dtype="float64", name="out")(h)), seed)


def bare(build, shape=(4, 3)):
    x = keras.Input(shape, dtype="float64", name="x")
    return randomise(keras.Model(x, build(x)))


# Operations -----------------------------------------------------------------------------------------------------------

REDUCED = {
    "max": (lambda x: ops.max(x, axis=1), (1,), 1.0),
    "amax": (lambda x: ops.amax(x, axis=-1, keepdims=True), (2,), 1.0),
    "max_over_two": (lambda x: ops.max(x, axis=(1, 2), keepdims=True), (1, 2), 1.0),
    "min": (lambda x: ops.min(x, axis=1), (1,), -1.0),
    "amin": (lambda x: ops.amin(x, axis=(1, 2), keepdims=True), (1, 2), -1.0),
}


@pytest.mark.parametrize("rule", ["gradient", "radial"])
@pytest.mark.parametrize("name", REDUCED)
def test_maxima_and_minima_over_axes(name, rule, generator):
    """A minimum is the maximum of the negatives."""
    build, axes, sign = REDUCED[name]
    model = bare(build)
    x = generator.normal(size=(3, 4, 3))
    start = generator.normal(size=(3, *model.output_shape[1:]))
    composite = Composite(maximum=rule, linear="normalized")
    axis = -1 if model.output_shape[-1] > 1 or len(model.output_shape) == 2 else 1
    found = explain(model, x, method=composite, start=start, target=0, class_axis=axis).inputs
    expected = np.zeros_like(x)
    kept = [k for k in (1, 2) if k not in axes]
    for k in range(3):
        for place in np.ndindex(*(x.shape[axis] for axis in kept)):
            cut = [k, slice(None), slice(None)]
            for own, number in zip(kept, place, strict=True):
                cut[own] = number
            entries, r = x[tuple(cut)], start[k].reshape([x.shape[axis] for axis in kept])[place]
            shares = replicas.maximum(rule, sign * entries.ravel(), r)
            expected[tuple(cut)] = shares.reshape(entries.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


CONSERVING = {
    **{name: build for name, (build, _, _) in REDUCED.items()},
    "max_with_initial": lambda x: ops.max(x, axis=1, initial=0.3),
    "min_with_initial": lambda x: ops.min(x, axis=2, initial=-0.2),
    "sum": lambda x: ops.sum(x, axis=-1),
    "mean": lambda x: ops.mean(x, axis=(1, 2), keepdims=True),
    "minimum_with_constant": lambda x: ops.minimum(x, 0.2),
    "minimum_of_two": lambda x: ops.minimum(x, x[:, ::-1]),
    "item": lambda x: x[:, 1],
    "item_reversed": lambda x: x[:, ::-1],
    "item_new_axis": lambda x: x[:, None, ..., 0],
    "item_stretch": lambda x: x[..., 0:3:2],
    "take": lambda x: ops.take(x, [0, 2, 0], axis=1),
    "squared": lambda x: x * x,
    "doubled": lambda x: x + x,
    "multiplied_with_itself": lambda x: layers.Multiply(dtype="float64")([x, x]),
    "beside_itself": lambda x: layers.Concatenate(dtype="float64")([x, x]),
    "dot_with_itself": lambda x: layers.Dot(1, dtype="float64")([x, x]),
    "attention": lambda x: layers.Attention(dtype="float64")([x, x]),
    "attention_scaled": lambda x: layers.Attention(use_scale=True, dtype="float64")([x, x, x[:, ::-1]]),
    "attention_concat": lambda x: layers.Attention(score_mode="concat", use_scale=True, dtype="float64")([x, x]),
    "additive": lambda x: layers.AdditiveAttention(dtype="float64")([x, x]),
    "additive_causal": lambda x: layers.AdditiveAttention(use_scale=False, dtype="float64")(
        [x, x], use_causal_mask=True
    ),
    "attention_masked": lambda x: layers.Attention(dtype="float64")(
        [x, x], mask=[ops.greater(x[..., 0], 0.0), ops.greater(x[..., 1], -9.0)]
    ),
}


@pytest.mark.parametrize("name", CONSERVING)
def test_conservation_and_gradients(name, generator):
    """Inputs + biases = output; and by the rules of calculus the gradient, also where one value comes twice."""
    if name == "attention_masked" and EARLY_KERAS:
        pytest.skip("this Keras cannot run attention with two masks")
    model = model_of(CONSERVING[name])
    x = generator.normal(size=(3, 4, 3))
    for method in ("lrp", "blame_the_bias"):
        found = explain(model, x, method=method, target=1)
        np.testing.assert_allclose(found.output, model(x)[:, 1], rtol=1e-9)
        np.testing.assert_allclose(found.delta, 0.0, atol=1e-9)
    compared = explain(model, x, method="compare_to_baseline", target=1, baseline=0.5 * x[::-1])
    np.testing.assert_allclose(compared.delta, 0.0, atol=1e-9)
    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        chosen = model(point)[:, 1]
    gradient = tape.gradient(chosen, point)
    np.testing.assert_allclose(explain(model, x, method="gradient", target=1).inputs, gradient, atol=1e-9)


@pytest.mark.parametrize("method", ["lrp", "blame_the_bias"])
@pytest.mark.parametrize("name", ["max", "amin", "additive", "attention_scaled"])
def test_new_rows_can_be_trained_through(name, method, generator):
    """The gradient of a loss on relevance, along a random direction, against finite differences."""
    model = model_of(CONSERVING[name])
    x, direction = generator.normal(size=(2, 4, 3)), generator.normal(size=(2, 4, 3))

    def loss(at):
        return tf.reduce_sum(tf.sin(relevance.tensors(model, at, method=method, target=1).inputs[0]))

    point = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(point)
        value = loss(point)
    exact = np.sum(tape.gradient(value, point) * direction)
    step = 1e-6 * direction
    assert exact == pytest.approx(float(loss(x + step) - loss(x - step)) / 2e-6, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda x: ops.max(x, axis=0, keepdims=True), "joins all samples to one number"),
        (lambda x: ops.mean(x, axis=(0, 1), keepdims=True), "joins all samples.*Name the axes behind"),
        (lambda x: ops.take(x, [0], axis=0), "take is known for fixed indices on an axis behind the samples"),
    ],
)
def test_operations_that_join_samples(build, message):
    with pytest.raises(TypeError, match=message):
        explain(model_of(build), np.ones((1, 4, 3)), target=0)


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["dot", "scaled", "additive"])
def test_attention_without_heads(kind, causal, generator):
    """Output and relevance of the values, with masks for queries and values; query and key take nothing."""
    shapes = {"query": (3, 2), "value": (4, 5), "key": (4, 2)}
    if causal:
        shapes = {"query": (4, 2), "value": (4, 5), "key": (4, 2)}
    inputs = [keras.Input(shape, dtype="float64", name=name) for name, shape in shapes.items()]
    masks = [
        keras.Input((shapes["query"][0],), dtype="bool", name="asked"),
        keras.Input((4,), dtype="bool", name="open"),
    ]
    if kind == "additive":
        layer = layers.AdditiveAttention(dtype="float64", name="attention")
    else:
        layer = layers.Attention(use_scale=kind == "scaled", dtype="float64", name="attention")
    output = layer(inputs, mask=masks, use_causal_mask=causal)
    model = randomise(keras.Model([*inputs, *masks], output))
    options = {"additive": layer.scale.numpy()} if kind == "additive" else {}
    if kind == "scaled":
        options = {"scale": float(layer.scale.numpy())}
    x = [generator.normal(size=(2, *shape)) for shape in shapes.values()]
    asked, opened = generator.random((2, shapes["query"][0])) < 0.7, generator.random((2, 4)) < 0.7
    asked[:, -1], opened[:, 0] = False, True
    start = generator.normal(size=(2, *model.output_shape[1:]))
    found = relevance.tensors(model, [*x, asked, opened], method="lrp", target=0)
    explained = explain(model, [*x, asked, opened], method="lrp", target=0, start=start)
    for k in range(2):
        query, value, key = (array[k] for array in x)
        expected, weights = replicas.attention(query, value, key, opened[k], asked[k], causal=causal, **options)
        np.testing.assert_allclose(found.output[k], expected[:, 0].sum(), rtol=1e-9)
        shares = replicas.attention_relevance(value, weights, start[k], asked[k])
        np.testing.assert_allclose(explained.inputs[1][k], shares, rtol=1e-8, atol=1e-10)
        assert not explained.inputs[0][k].any() and not explained.inputs[2][k].any()


# Masked recurrent layers ----------------------------------------------------------------------------------------------

MASK = np.array([[1, 1, 0, 1, 0], [0, 1, 1, 1, 1], [1, 0, 0, 1, 1]], bool)


def masked_sequence(generator):
    return np.where(MASK[..., None], generator.normal(size=(3, 5, 2)), 0.0)


def test_a_masked_rnn_against_its_replica(generator):
    x = keras.Input((5, 2), dtype="float64", name="x")
    h = layers.Masking(dtype="float64")(x)
    model = randomise(keras.Model(x, layers.SimpleRNN(3, dtype="float64", name="rnn")(h)))
    data = masked_sequence(generator)
    kernel, recurrent, bias = model.get_layer("rnn").get_weights()
    found = explain(model, data, method="blame_the_bias", target=1)
    for k in range(3):
        output = replicas.simple_rnn(data[k], kernel, recurrent, bias, MASK[k])[-1]
        assert found.output[k] == pytest.approx(output[1], rel=1e-9)
        q, biases = replicas.simple_rnn_q(data[k], kernel, recurrent, bias, MASK[k], [0.0, 1.0, 0.0])
        np.testing.assert_allclose(found.inputs[k], q * data[k], rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(found.biases["rnn"][k], biases, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("sequences", [False, True])
def test_outputs_of_masked_steps(sequences, zero, generator):
    """They repeat the last one, or are zero; the last step of the first sample is masked."""
    x = keras.Input((5, 2), dtype="float64", name="x")
    options = {"return_sequences": sequences, "zero_output_for_mask": zero, "dtype": "float64", "name": "rnn"}
    model = randomise(keras.Model(x, layers.SimpleRNN(3, **options)(layers.Masking(dtype="float64")(x))))
    data = masked_sequence(generator)
    found = explain(model, data, method="lrp", target=0)
    weights = model.get_layer("rnn").get_weights()
    for k in range(3):
        outputs = replicas.simple_rnn(data[k], *weights, MASK[k], zero=zero)[:, 0]
        assert found.output[k] == pytest.approx(outputs.sum() if sequences else outputs[-1], rel=1e-9, abs=1e-12)
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-9)


DIRECTIONS = [
    *[(layers.SimpleRNN, merge, True) for merge in ("concat", "sum", "ave", "mul", None)],
    (layers.SimpleRNN, "mul", False),
    (layers.GRU, "concat", True),
    (layers.GRU, "ave", False),
    (layers.LSTM, "sum", True),
    (layers.LSTM, None, False),
    pytest.param(partial(ONLSTM, chunk_size=1), "concat", True, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("source", slow_but(["masking"], ["embedding", "masking"]))
@pytest.mark.parametrize("kind, merge, sequences", DIRECTIONS)
def test_masked_layers_in_both_directions(kind, merge, sequences, source, generator):
    """Conservation, and the output of Keras; what is masked has no relevance."""
    if merge is None and sequences and EARLY_KERAS:
        pytest.skip("this Keras cannot join the masks of two sequences where the batch is open")
    if source == "embedding":
        x = keras.Input((5,), dtype="int32", name="x")
        h = layers.Embedding(6, 2, mask_zero=True, dtype="float64")(x)
        data = np.where(MASK, generator.integers(1, 6, size=MASK.shape), 0)
    else:
        x = keras.Input((5, 2), dtype="float64", name="x")
        h, data = layers.Masking(dtype="float64")(x), masked_sequence(generator)
    inner = kind(3, return_sequences=sequences, dtype="float64")
    h = layers.Bidirectional(inner, merge_mode=merge, dtype="float64")(h)
    h = h if merge else layers.Concatenate(dtype="float64")(h)
    # The mask goes on behind it, too.
    h = layers.SimpleRNN(2, dtype="float64")(h) if sequences else h
    model = randomise(keras.Model(x, layers.Dense(2, dtype="float64", name="out")(h)))
    found = explain(model, data, method="blame_the_bias", target=0)
    np.testing.assert_allclose(found.output, model(data)[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.delta, 0.0, atol=1e-9)
    assert not found.inputs[~MASK].any() and found.inputs[MASK].any()


# Targets --------------------------------------------------------------------------------------------------------------


def channels_first_net():
    x = keras.Input((3, 4), dtype="float64", name="x")
    return randomise(keras.Model(x, layers.Permute((2, 1), dtype="float64")(layers.Dense(5, dtype="float64")(x))))


def test_the_axis_of_classes(generator):
    """Output (samples, classes, positions): the class is summed over positions, as on the last axis."""
    model, x = channels_first_net(), generator.normal(size=(2, 3, 3, 4))[0]
    classes = np.array([4, 1, 0])
    found = explain(model, x, target=classes, class_axis=1)
    out = model(x).numpy()
    np.testing.assert_allclose(found.output, [out[k, c].sum() for k, c in enumerate(classes)], rtol=1e-9)
    turned = keras.Model(model.inputs[0], layers.Permute((2, 1), dtype="float64")(model.outputs[0]))
    np.testing.assert_allclose(found.inputs, explain(turned, x, target=classes).inputs, rtol=1e-9)
    tensors = relevance.tensors(model, x, target=classes, class_axis=1)
    np.testing.assert_allclose(tensors.inputs[0], found.inputs, rtol=1e-9)
    walked = explain(model, x, method="conductance", target=classes, class_axis=1, steps=2)
    np.testing.assert_allclose(walked.delta, 0.0, atol=1e-9)


def test_a_predicted_class_beside_axes_of_length_one(generator):
    x = keras.Input((4,), dtype="float64", name="x")
    h = layers.Dense(5, dtype="float64")(x)
    model = randomise(keras.Model(x, layers.Reshape((5, 1, 1), dtype="float64")(h)))
    found = explain(model, generator.normal(size=(6, 4)), class_axis=1)
    assert found.target.shape == (6,) and len(set(found.target)) > 1
    with pytest.raises(ValueError, match=r"has 1 classes.*Classes are counted along axis 3.*class_axis="):
        explain(model, np.ones((1, 4)), target=2)


@pytest.mark.parametrize(
    "axis, error, message",
    [
        (0, ValueError, r"expected an axis from 1 to 2 .*received 0. Axis 0 holds the samples"),
        (3, ValueError, "received 3"),
        (1.0, TypeError, "expected a whole number, received 1.0"),
        (True, TypeError, "whole number"),
    ],
)
def test_axes_that_do_not_fit(axis, error, message):
    for function in (explain, relevance.tensors):
        with pytest.raises(error, match=message):
            function(channels_first_net(), np.ones((1, 3, 4)), target=0, class_axis=axis)


def test_an_axis_of_open_length():
    x = keras.Input((None, 4), dtype="float64", name="x")
    model = keras.Model(x, layers.Permute((2, 1), dtype="float64")(layers.Dense(5, dtype="float64")(x)))
    with pytest.raises(ValueError, match="axis 2 of output .* has no fixed length"):
        explain(model, np.ones((1, 3, 4)), target=0, class_axis=2)
