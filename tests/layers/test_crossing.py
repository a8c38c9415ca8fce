"""Crossed layers: against plain loops and plain layers, and as Keras layers."""

import doctest

import keras
import numpy as np
import pytest
import replicas_sparsifying as replicas
from conftest import randomise
from nets import NETS, inputs_for, outputs_of

import tfprune as tfp
from tfprune.layers import CROSSINGS, CrossedConv, CrossedDense
from tfprune.layers import crossing as module

INPUTS, OUTPUTS = [True, False, True, False, False], [False, True, True, False]
ALL = pytest.mark.parametrize("crossing", CROSSINGS)


def blocks_of(layer):
    kinds = [("s", "s"), ("r", "r"), ("r", "s"), ("s", "r")]
    return {kind: kernel.numpy().astype("float64") for kind, kernel in zip(kinds, layer.kernels, strict=False)}


def whole(layer):
    """All kernels as one, like that of a plain layer."""
    kernel = np.zeros((*layer.taps, len(layer.survived_inputs), len(layer.survived_outputs)), "float32")
    for own, rows, columns in layer.blocks():
        kernel[..., rows[:, None], columns] = own.numpy()
    return kernel


def data(*shape):
    return np.random.default_rng(2).normal(size=shape).astype("float32")


@ALL
def test_dense_equals_plain_loops(crossing):
    x = data(3, 5)
    layer = CrossedDense(4, INPUTS, OUTPUTS, crossing=crossing, cross_initializer="glorot_normal", activation="tanh")
    layer(x)
    layer.bias.assign(data(4))
    sums = replicas.crossed_dense(x.astype("float64"), blocks_of(layer), INPUTS, OUTPUTS, crossing)
    np.testing.assert_allclose(layer(x), np.tanh(sums + layer.bias.numpy()), rtol=1e-5, atol=1e-6)
    assert len(layer.kernels) == (2 if crossing == "none" else 4)


FORMS = {
    "conv_1d": ((7, 5), (3,), {"padding": "causal", "dilation_rate": 2}),
    "conv_2d": ((6, 5, 5), (3, 2), {"padding": "same", "strides": 2}),
    "conv_2d_first": ((5, 6, 5), (3, 2), {"data_format": "channels_first", "strides": (2, 1)}),
    "conv_3d": ((3, 4, 3, 5), (2, 2, 2), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_convolutions_equal_plain_ones(form):
    shape, size, options = FORMS[form]
    x = data(2, *shape)
    plain_class = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}[len(size)]
    full = CrossedConv(4, size, INPUTS, OUTPUTS, crossing="full", cross_initializer="he_normal", **options)
    plain = plain_class(4, size, **options)
    full(x), plain(x)
    plain.kernel.assign(whole(full))
    np.testing.assert_allclose(full(x), plain(x), rtol=1e-4, atol=1e-5)
    none = CrossedConv(4, size, INPUTS, OUTPUTS, crossing="none", **options)
    none(x)
    plain.kernel.assign(whole(none))
    np.testing.assert_allclose(none(x), plain(x), rtol=1e-4, atol=1e-5)
    # Attention, where all its parts are known from plain convolutions.
    attention = CrossedConv(4, size, INPUTS, OUTPUTS, cross_initializer="he_normal", **options)
    attention(x)
    same = (np.array(INPUTS)[:, None] == np.array(OUTPUTS)).astype("float32")
    parts = []
    for mask in (same, 1 - same):
        plain.kernel.assign(whole(attention) * mask)
        parts.append(np.asarray(plain(x), "float64"))
    expected = parts[0] + 2 / (1 + np.exp(-parts[0])) * parts[1]
    np.testing.assert_allclose(attention(x), expected, rtol=1e-4, atol=1e-5)


def test_as_they_begin_all_crossings_compute_the_same():
    x = data(3, 5)
    made = [CrossedDense(4, INPUTS, OUTPUTS, crossing=crossing) for crossing in CROSSINGS]
    for layer in made:
        layer(x)
        for own, first in zip(layer.kernels[:2], made[0].kernels[:2], strict=True):
            own.assign(first)
    one, *others = [np.asarray(layer(x)) for layer in made]
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-6)
    assert np.abs(one).max() > 0.1


def test_without_one_kind_nothing_crosses():
    x = data(3, 5)
    yes, no = [True], [False]
    for inputs, outputs in ((5 * yes, OUTPUTS), (INPUTS, 4 * no), (5 * yes, 4 * yes), (5 * yes, 4 * no)):
        for crossing in CROSSINGS:
            layer = CrossedDense(4, inputs, outputs, crossing=crossing, cross_initializer="he_normal")
            assert layer(x).shape == (3, 4)
            sums = replicas.crossed_dense(x.astype("float64"), blocks_of(layer), inputs, outputs, crossing)
            np.testing.assert_allclose(layer(x), sums, rtol=1e-5, atol=1e-6)


def test_saved_loaded_and_trained(tmp_path):
    model = NETS["crossed_layers"]()
    (x,) = inputs_for(model)
    model.compile("adam", "mse", run_eagerly=True)
    before = [w.numpy() for w in model.trainable_weights]
    model.fit(x, np.ones((len(x), 2)), epochs=2, verbose=0)
    moved = [np.abs(one - two.numpy()).max() > 0 for one, two in zip(before, model.trainable_weights, strict=True)]
    assert all(moved)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(loaded, [x]), outputs_of(model, [x]))
    layer = loaded.get_layer("crossed_conv")
    assert layer.crossing == "attention" and layer.survived_outputs == [True, False, True, False]


def test_kinds_of_which_all_units_go_leave_a_model_that_trains():
    model = NETS["crossed_layers"]()
    (x,) = inputs_for(model)
    mask = tfp.LayerValues({"first": np.array([1, 1, 0, 0, 0], bool), "crossed_conv": np.array([0, 1, 0, 1], bool)})
    small = tfp.remove(model, mask)
    assert small.get_layer("crossed_conv").survived_inputs == [True, True]
    assert small.get_layer("crossed_conv").survived_outputs == [False, False]
    masked = tfp.with_on_nodes(model)
    on = tfp.unit_groups(model).on_nodes(mask)
    np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(masked, [x], on), rtol=1e-5, atol=1e-6)
    small.compile("sgd", "mse", run_eagerly=True)
    assert np.isfinite(small.fit(x, np.ones((len(x), 2)), verbose=0).history["loss"][0])


def test_scores_and_widening():
    model = NETS["crossed_layers"]()
    kernel = whole(model.get_layer("crossed_conv")).astype("float64")
    scores = (
        tfp.saliency.weight_norm(model)["crossed_conv"]
        - tfp.saliency.weight_norm(model, which="incoming")["crossed_conv"]
    )
    assert not scores.any()
    norms = tfp.saliency.weight_norm(model, layers="first", which="outgoing")["first"]
    np.testing.assert_allclose(norms, np.abs(kernel).sum((0, 1, 3)), rtol=1e-5)
    wide = tfp.widen(model, {"first": 7, "crossed_conv": 6})
    assert wide.get_layer("crossed_conv").survived_inputs == [True] * 3 + [False] * 4
    (x,) = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, [x]), outputs_of(model, [x]), rtol=1e-5, atol=1e-6)


def test_operations_of_blocks():
    layer = CrossedDense(4, INPUTS, OUTPUTS, crossing="none", use_bias=False)
    x = keras.Input((3,))
    model = randomise(keras.Model(x, keras.layers.Dense(2)(layer(keras.layers.Dense(5)(x)))))
    assert tfp.graph.flops_by_layer(tfp.unit_groups(model))[layer.name] == 2 * (2 * 2 + 3 * 2)


def test_mixed_precision():
    layer = CrossedConv(4, (2, 2), INPUTS, OUTPUTS, dtype="mixed_bfloat16", cross_initializer="he_normal")
    x = data(2, 4, 4, 5)
    assert str(layer(x).dtype) in ("bfloat16", "<dtype: 'bfloat16'>") and "float32" in str(layer.bias.dtype)
    exact = CrossedConv(4, (2, 2), INPUTS, OUTPUTS)
    exact(x)
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(keras.ops.cast(layer(x), "float32"), exact(x), atol=0.1)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: CrossedDense(4, INPUTS, OUTPUTS, crossing="half"), "`crossing` expects one of 'full', 'none'"),
        (lambda: CrossedDense(3, INPUTS, OUTPUTS), "`survived_outputs` expects 3 flags.*received 4"),
        (lambda: CrossedDense(4, INPUTS, OUTPUTS)(data(2, 6)), "`survived_inputs` expects 6 flags.*received 5"),
    ],
)
def test_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_examples():
    assert doctest.testmod(module, extraglobs={"np": np}).failed == 0
