"""One unit off at a time, before and after the nonlinearity: against slow loops over units and samples."""

from itertools import product

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SEED, randomise, slow_but
from nets import NETS
from test_saliency import data_for, numpy_of

import tfprune as tfp
from tfprune import saliency
from tfprune.masking import means_before, single_changes
from tfprune.objectives import sample_loss
from tfprune.statistics import exit_means

WIDE = [
    *["dense_sequential", "dense_rank_3", "conv_2d", "pooling", "reshape_flat", "lstm_stacked", "transformer_block"],
    *["batch_norm", "layer_norm", "ops_slices", "several_outputs", "siamese", "nested_twice", "concatenate"],
    *["embedding_mask", "mixer", "hidden_softmax", "shuffle"],
]


def changes_by_loops(model, data, replacement=None):
    """Each unit off in a masked model of its own row: mean change of the loss, and mean absolute change."""
    x, y = data
    masked, loss = tfp.with_on_nodes(model, replacement=replacement), sample_loss(model, "mse")
    num_units = masked.inputs[-1].shape[1]
    inputs = [keras.ops.convert_to_tensor(own) for own in keras.tree.flatten(x)]

    def losses(off):
        row = np.ones((1, num_units), "float32")
        row[0, off] = 0.0
        return numpy_of(loss(y, masked([*inputs, keras.ops.convert_to_tensor(row)])))

    changes = np.stack([losses([unit]) - losses([]) for unit in range(num_units)])
    return changes.mean(1), np.abs(changes).mean(1)


@pytest.mark.parametrize(
    ("name", "replaced"),
    slow_but(
        [(name, False) for name in WIDE if name not in ("lstm_stacked", "transformer_block")]
        + [(name, True) for name in ("dense_sequential", "conv_2d", "embedding_mask", "siamese")],
        product(WIDE, [False, True]),
    ),
)
def test_single_changes(name, replaced):
    model = NETS[name]()
    data = data_for(model, 7)
    replacement = exit_means(model, data[0]).map(lambda means: means + 0.1) if replaced else None
    names = tfp.unit_groups(model).names
    changes = single_changes(model, data, names, loss="mse", replacement=replacement)
    signed, absolute = changes_by_loops(model, data, replacement)
    scale = np.abs(signed).max()
    np.testing.assert_allclose(changes.signed.flat, signed, rtol=1e-3, atol=1e-5 * max(scale, 1))
    np.testing.assert_allclose(changes.absolute.flat, absolute, rtol=1e-3, atol=1e-5 * max(scale, 1))


def test_another_replacement_serves_the_same_compiled_steps():
    """The second call finds what the first one compiled, and must not find its means."""
    model = NETS["conv_2d"]()
    data = data_for(model, 5)
    names = tfp.unit_groups(model).names
    for shift in (0.0, 0.5, -1.0):
        replacement = exit_means(model, data[0]).map(lambda means, shift=shift: means + shift)
        changes = single_changes(model, data, names, loss="mse", replacement=replacement)
        np.testing.assert_allclose(
            changes.absolute.flat, changes_by_loops(model, data, replacement)[1], rtol=1e-3, atol=1e-5
        )
        gradient = saliency.mean_replacement(model, data, loss="mse", means=replacement)
        fresh = keras.models.clone_model(model)
        fresh.set_weights(model.get_weights())
        again = saliency.mean_replacement(fresh, data, loss="mse", means=replacement)
        np.testing.assert_allclose(gradient.flat, again.flat, rtol=1e-5, atol=1e-7)


def test_penalty_weighs_samples():
    model = NETS["dense_sequential"]()
    x, y = data_for(model, 4)
    weights = np.array([0.0, 2.0, 1.0, 0.5], "float32")
    names = tfp.unit_groups(model).names
    whole = single_changes(model, (x, y, weights), names, loss="mse").absolute.flat
    each = [single_changes(model, (x[k : k + 1], y[k : k + 1]), names, loss="mse").absolute.flat for k in range(4)]
    np.testing.assert_allclose(whole, np.average(each, axis=0, weights=weights) * weights.mean(), rtol=1e-4, atol=1e-6)


# Before the nonlinearity ----------------------------------------------------------------------------------------------


def fused_and_apart(activation):
    """The same convolutional net twice: activations inside the layers, and as layers of their own."""

    def build(apart):
        x = keras.Input((7, 7, 2))
        h = x
        for number, layer in enumerate((keras.layers.Conv2D, keras.layers.Conv2D, keras.layers.Dense)):
            h = keras.layers.Flatten()(h) if layer is keras.layers.Dense else h
            own = {"activation": None if apart else activation, "name": f"h{number}"}
            h = layer(5, **own)(h) if layer is keras.layers.Dense else layer(3, 3, padding="same", **own)(h)
            h = keras.layers.Activation(activation, name=f"a{number}")(h) if apart else h
            h = keras.layers.AveragePooling2D(2)(h) if layer is keras.layers.Conv2D else h
        return keras.Model(x, keras.layers.Dense(2, name="out")(h))

    fused, apart = build(False), build(True)
    randomise(fused)
    apart.set_weights(fused.get_weights())
    return fused, apart


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_before_the_nonlinearity(activation):
    """Against a loop over units that replaces values between two halves of the unfused net, and their gradients."""
    fused, apart = fused_and_apart(activation)
    x, y = data_for(fused, 6)
    names = tfp.unit_groups(fused).names
    loss = sample_loss(fused, "mse")
    means = means_before(fused, x)
    scores = saliency.mean_replacement(fused, (x, y), loss="mse", place="before")
    penalties = saliency.mean_replacement_penalty(fused, (x, y), loss="mse", place="before")
    for name in names:
        values = apart.get_layer(name).output
        head, tail = keras.Model(apart.input, values), keras.Model(values, apart.output)
        h = tf.convert_to_tensor(head(x))
        rows = numpy_of(h).reshape(-1, h.shape[-1])
        np.testing.assert_allclose(means[name], rows.mean(0), rtol=1e-4, atol=1e-6)
        with tf.GradientTape() as tape:
            tape.watch(h)
            losses = loss(y, tail(h))
        product = (rows.mean(0) - numpy_of(h)) * numpy_of(tape.gradient(losses, h))
        by_hand = np.abs(product.reshape(len(x), -1, h.shape[-1]).sum(1)).mean(0)
        np.testing.assert_allclose(scores[name], by_hand, rtol=1e-3, atol=1e-6)
        for unit in range(h.shape[-1]):
            replaced = numpy_of(h)
            replaced[..., unit] = rows.mean(0)[unit]
            change = numpy_of(loss(y, tail(replaced.astype("float32")))) - numpy_of(losses)
            np.testing.assert_allclose(penalties[name][unit], np.abs(change).mean(), rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    "name",
    slow_but(
        ["nested_equal_names", "nested_twice"],
        ["nested_equal_names", "nested_twice", "lstm_stacked", "transformer_block", "merges"],
    ),
)
@pytest.mark.parametrize("score", [saliency.mean_replacement, saliency.mean_replacement_penalty])
def test_before_on_nets_of_every_kind(name, score):
    """Each group has its scores; those that cannot be taken before have the ones from after."""
    model = NETS[name]()
    data = data_for(model, 6)
    before, after = (score(model, data, loss="mse", place=place) for place in ("before", "after"))
    assert before.names == after.names == tfp.unit_groups(model).names
    assert np.isfinite(before.flat).all() and before.flat.any()
    if name == "lstm_stacked":
        np.testing.assert_allclose(before.flat, after.flat, rtol=1e-5, atol=1e-8)


def test_saliency_is_the_gradient_of_the_masked_model_sample_by_sample():
    """The identity that makes Evci's score one of Hobson's mask: MRS of sample k is |d loss_k / d on_nodes|."""
    model = NETS["conv_2d"]()
    x, y = data_for(model, 4, seed=SEED + 1)
    means = exit_means(model, x)
    masked, loss = tfp.with_on_nodes(model, replacement=means), sample_loss(model, "mse")
    rows = tf.ones([4, masked.inputs[-1].shape[1]])
    with tf.GradientTape() as tape:
        tape.watch(rows)
        losses = loss(y, masked([tf.convert_to_tensor(x), rows]))
    by_sample = np.abs(numpy_of(tape.gradient(losses, rows)))
    for k in range(4):
        own = saliency.mean_replacement(model, (x[k : k + 1], y[k : k + 1]), loss="mse", means=means)
        np.testing.assert_allclose(own.flat, by_sample[k], rtol=1e-4, atol=1e-7)
