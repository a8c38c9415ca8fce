"""Layers of masked models: the mask itself, and the stand-ins for layers that look across units."""

import doctest

import keras
import numpy as np
import pytest
import replicas
import tensorflow as tf
from conftest import randomise
from keras import layers, ops
from nets import NETS, inputs_for, outputs_of, random_masks

import tfprune.layers
from tfprune.graph import unit_groups
from tfprune.layers import MaskedLayerNormalization, MaskedMultiHeadAttention, MaskedRNN, MeanReplacement, TakeUnits
from tfprune.masking import with_on_nodes


def test_examples_in_docstrings():
    names = {"np": np, **vars(tfprune.layers)}
    results = doctest.testmod(tfprune.layers.masks, extraglobs=names)
    assert results.attempted > 0 and results.failed == 0


# MeanReplacement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((3, 5), -1), ((3, 4, 5), -1), ((3, 4, 4, 5), -1), ((3, 2, 2, 2, 5), -1), ((3, 5, 4), 1), ((3, 5, 4, 4), 1)],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_formula(shape, axis, rows, generator):
    """Every rank, units last or first; one row for all samples or one each; fractions too."""
    h = generator.normal(size=shape).astype("float32")
    on, means = generator.uniform(size=(rows, 5)).astype("float32"), generator.normal(size=5).astype("float32")
    layer = MeanReplacement(axis=axis)
    layer(h, on)
    layer.replacement.assign(means)
    expected = replicas.mean_replacement(h, on, means, axis)
    np.testing.assert_allclose(layer(h, on), expected, rtol=1e-5, atol=1e-6)


def test_zero_is_removal_and_one_is_nothing(generator):
    h, layer = generator.normal(size=(3, 4, 5)).astype("float32"), MeanReplacement()
    np.testing.assert_array_equal(layer(h, np.ones((1, 5))), h)
    np.testing.assert_array_equal(layer(h, np.zeros((1, 5))), np.zeros_like(h))


def test_gradient_is_the_difference_to_the_replacement(generator):
    """d sum(h) / d on_nodes = h - replacement: Evci's saliency before the loss's own gradient."""
    h, layer = tf.constant(generator.normal(size=(3, 5)).astype("float32")), MeanReplacement()
    on = tf.ones((3, 5))
    layer(h, on)
    layer.replacement.assign(np.arange(5.0))
    with tf.GradientTape() as tape:
        tape.watch(on)
        total = tf.reduce_sum(layer(h, on))
    np.testing.assert_allclose(tape.gradient(total, on), h - np.arange(5.0, dtype="float32"), rtol=1e-6)


def test_symbolic_equals_eager_with_unknown_lengths(generator):
    h, on = keras.Input((None, 5)), keras.Input((5,))
    layer = MeanReplacement()
    model = keras.Model([h, on], layer(h, on))
    assert model.output_shape == (None, None, 5)
    layer.replacement.assign(np.arange(5.0))
    values, row = generator.normal(size=(3, 7, 5)).astype("float32"), generator.uniform(size=(3, 5)).astype("float32")
    np.testing.assert_array_equal(model.predict([values, row], verbose=0), layer(values, row))


@pytest.mark.parametrize(("policy", "dtype"), [("mixed_float16", "float16"), ("float64", "float64")])
def test_precision_follows_the_tensor(policy, dtype):
    """In mixed precision the row is cast to the units' dtype, and the replacement stays in float32."""
    layer = MeanReplacement(dtype=policy)
    result = layer(tf.ones((2, 3), dtype), tf.constant([[1.0, 0.0, 0.5]]))
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[0], [1.0, 0.0, 0.5])
    assert layer.replacement.dtype == ("float64" if policy == "float64" else "float32")


def test_replacement_is_no_trainable_weight():
    layer = MeanReplacement()
    layer.build((None, 5))
    assert layer.trainable_weights == [] and [weight.shape for weight in layer.weights] == [(5,)]
    np.testing.assert_array_equal(layer.replacement, np.zeros(5))


def test_saves_and_loads(tmp_path, generator):
    h, on = keras.Input((5, 4)), keras.Input((5,))
    model = keras.Model([h, on], MeanReplacement(axis=1, name="mask")(h, on))
    model.get_layer("mask").replacement.assign(np.arange(5.0))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("mask").get_config() == model.get_layer("mask").get_config()
    data = [generator.normal(size=(2, 5, 4)).astype("float32"), generator.uniform(size=(2, 5)).astype("float32")]
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))


def test_time_masks_pass():
    h = layers.Embedding(9, 5, mask_zero=True)(np.array([[1, 0, 2]]))
    result = MeanReplacement()(h, np.ones((1, 5)))
    np.testing.assert_array_equal(result._keras_mask, [[True, False, True]])


def test_errors():
    with pytest.raises(ValueError, match="axis 0 is the batch axis. Give the axis of the units"):
        MeanReplacement(axis=0)
    with pytest.raises(ValueError, match=r"on_nodes must have shape \(batch, 5\).*received \(1, 4\)"):
        MeanReplacement()(np.ones((2, 5)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="axis -1 of shape .* has no fixed length"):
        MeanReplacement()(keras.Input((4, None)), keras.Input((None,)))


# TakeUnits ------------------------------------------------------------------------------------------------------------


def test_takes_columns_and_keeps_others_on(tmp_path):
    layer = TakeUnits([2, -1, 0, 2])
    np.testing.assert_array_equal(layer(np.array([[0.1, 0.2, 0.3]])), np.float32([[0.3, 1.0, 0.1, 0.3]]))
    assert TakeUnits.from_config(layer.get_config()).columns == [2, -1, 0, 2]
    assert layer.compute_output_shape((None, 3)) == (None, 4)


# Norms ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [-1, [2]])
def test_layer_norm_over_the_units_that_are_on(axis, generator):
    layer = layers.LayerNormalization(axis=axis, epsilon=1e-2)
    x, on = generator.normal(size=(4, 3, 6)).astype("float32"), random_masks(6, 4)
    on[:, 0] = True
    layer.build(x.shape)
    layer.gamma.assign(generator.uniform(0.5, 1.5, 6))
    layer.beta.assign(generator.normal(size=6))
    result = MaskedLayerNormalization(layer)(x, on_nodes=[on.astype("float32")])
    expected = replicas.layer_norm(x, on, layer.gamma.numpy(), layer.beta.numpy(), 1e-2)
    kept = np.broadcast_to(on[:, None], x.shape)
    np.testing.assert_allclose(result.numpy()[kept], expected[kept], rtol=1e-5, atol=1e-6)


def test_layer_norm_of_no_units_is_finite(generator):
    """A row that empties the layer: finite numbers and gradients, so that no NaN reaches the loss."""
    layer = layers.LayerNormalization()
    x, on = tf.constant(generator.normal(size=(4, 6)).astype("float32")), tf.zeros((1, 6))
    layer.build(x.shape)
    with tf.GradientTape() as tape:
        tape.watch([x, on])
        result = MaskedLayerNormalization(layer)(x, on_nodes=[on])
    assert np.isfinite(result).all()
    assert all(np.isfinite(gradient).all() for gradient in tape.gradient(result, [x, on]))


# Recurrence -----------------------------------------------------------------------------------------------------------


def test_lstm_with_a_row_for_each_sample(generator):
    """Each sample as if the recurrent kernel's rows were cut for it alone."""
    layer = layers.LSTM(5)
    x, on = generator.normal(size=(4, 6, 3)).astype("float32"), random_masks(5, 4)
    layer(x)
    weights = [generator.normal(0.0, 0.5, weight.shape).astype("float32") for weight in layer.weights]
    layer.set_weights(weights)
    result = MaskedRNN(layer)(x, on_nodes=[on.astype("float32")])
    _, expected = replicas.lstm(x, *weights, lambda h, sample, step: h * on[sample])
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    all_on = MaskedRNN(layer)(x, on_nodes=[np.ones((1, 5))])
    np.testing.assert_allclose(all_on, replicas.lstm(x, *weights)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.GRU, layers.LSTM])
@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"unroll": True}, {"return_state": True}])
def test_recurrent_rows_against_zeroed_rows(kind, options, generator):
    """Each sample against a layer with rows zeroed by hand, at the units that are on; a given start is masked too.

    What a GRU's unit that is off holds itself is another matter: it also keeps a part of its last state, masked or not.
    """
    layer = kind(4, return_sequences=True, **options)
    x, on = generator.normal(size=(3, 5, 2)).astype("float32"), random_masks(4, 3)
    layer(x)
    randomise(keras.Sequential([keras.Input((5, 2)), layer]) if not options.get("return_state") else layer)
    count = 2 if kind is layers.LSTM else 1
    start = [generator.normal(size=(3, 4)).astype("float32") for _ in range(count)]
    given = start if count > 1 else start[0]
    together = ops.convert_to_numpy(
        keras.tree.flatten(MaskedRNN(layer)(x, initial_state=given, on_nodes=[on.astype("float32")]))[0]
    )
    recurrent = layer.cell.recurrent_kernel.numpy()
    for k in range(3):
        zeroed = recurrent.copy()
        zeroed[~on[k]] = 0.0
        layer.cell.recurrent_kernel.assign(zeroed)
        alone = keras.tree.flatten(layer(x[k : k + 1], initial_state=[part[k : k + 1] for part in start]))[0].numpy()
        np.testing.assert_allclose(together[k][:, on[k]], alone[0][:, on[k]], rtol=1e-5, atol=1e-6)
        layer.cell.recurrent_kernel.assign(recurrent)


def test_recurrent_twin_shares_and_saves(tmp_path):
    """After loading, twin and net still hold one set of weights."""
    model = NETS["lstm_stacked"]()
    masked = with_on_nodes(model)
    masked.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    assert type(loaded.get_layer("first")) is MaskedRNN
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


def test_dropout_in_training_is_the_layers_own():
    """Recurrent and input dropout: with the same seed twin and layer drop the same."""
    layer = layers.LSTM(4, dropout=0.5, recurrent_dropout=0.3, seed=3)
    x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype("float32")
    layer(x)
    state = layer.seed_generator.state if hasattr(layer, "seed_generator") else layer.cell.seed_generator.state
    before = state.numpy()
    plain = layer(x, training=True)
    state.assign(before)
    np.testing.assert_allclose(MaskedRNN(layer)(x, training=True, on_nodes=[np.ones((1, 4))]), plain, rtol=1e-5)


# Attention ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cross", [False, True])
def test_attention_heads_with_a_row_for_each_sample(cross, generator):
    layer = layers.MultiHeadAttention(3, 2, value_dim=4, output_shape=5)
    query = generator.normal(size=(4, 5, 6)).astype("float32")
    value = generator.normal(size=(4, 7, 6)).astype("float32") if cross else query
    layer(query, value)
    values = [generator.normal(0.0, 0.5, weight.shape).astype("float32") for weight in layer.weights]
    layer.set_weights(values)
    pairs = list(zip(values[::2], values[1::2], strict=True))
    on = random_masks(3, 4)
    result = MaskedMultiHeadAttention(layer)(query, value, on_nodes=[on.astype("float32")])
    np.testing.assert_allclose(result, replicas.attention(query, value, pairs, on), rtol=1e-5, atol=1e-5)


def test_grouped_heads_against_zeroed_rows():
    """A key-value head that is off takes its two query heads along."""
    model = NETS["attention_grouped"]()
    graph, inputs = unit_groups(model), inputs_for(model)
    masked = with_on_nodes(model, "heads/heads")
    heads = model.get_layer("heads")
    assert graph["heads/heads"].size == 2
    on = np.array([False, True])
    result = outputs_of(masked, inputs, on)
    kernel = heads._output_dense.kernel.numpy()
    kernel[:2] = 0.0
    heads._output_dense.kernel.assign(kernel)
    np.testing.assert_allclose(result, outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_attention_twin_keeps_the_arguments_of_the_call(generator):
    """Masks and scores: with all heads on, exactly what the layer gives."""
    layer = layers.MultiHeadAttention(2, 3)
    x = generator.normal(size=(3, 4, 5)).astype("float32")
    allowed = generator.random((3, 4, 4)) > 0.3
    allowed[:, :, 0] = True
    options = {"attention_mask": allowed, "use_causal_mask": True, "return_attention_scores": True}
    expected = layer(x, x, **options)
    found = MaskedMultiHeadAttention(layer)(x, x, on_nodes=[np.ones((1, 2))], **options)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
