"""The share of nonzero weights of units, and the way from pruned weights to removed units."""

import keras
import numpy as np
import pytest
from conftest import SEED, randomise
from nets import NETS, inputs_for, outputs_of

import tfprune as tfp
from tfprune.saliency.nonzero import nonzero_fraction


def net_with_zeros():
    """Conv 4 -> flatten (2x2 positions) -> 5 -> 2, a part of the weights zero."""
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2), name="image"),
            keras.layers.Conv2D(4, 3, activation="relu", name="conv"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(5, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    randomise(model)
    generator = np.random.default_rng(SEED)
    for name, share in (("conv", 0.5), ("hidden", 0.7), ("out", 0.5)):
        kernel = model.get_layer(name).kernel
        kernel.assign(np.where(generator.random(kernel.shape) < share, 0, kernel.numpy()))
    return model


def slow_shares(model):
    """Shares of nonzero weights by plain loops: `{group: [(incoming, outgoing), ...]}`."""
    conv, hidden, out = (model.get_layer(name).kernel.numpy() for name in ("conv", "hidden", "out"))
    result = {"conv": [], "hidden": []}
    for unit in range(4):
        reading = [hidden[position * 4 + unit, column] for position in range(4) for column in range(5)]
        result["conv"].append((np.mean(conv[..., unit] != 0), np.mean(np.array(reading) != 0)))
    for unit in range(5):
        result["hidden"].append((np.mean(hidden[:, unit] != 0), np.mean(out[unit] != 0)))
    return result


@pytest.mark.parametrize("which", ["incoming", "outgoing", "either", "both"])
def test_against_plain_loops(which):
    model = net_with_zeros()
    lengths = {"conv": (18, 20), "hidden": (16, 2)}
    for name, pairs in slow_shares(model).items():
        first, second = lengths[name]
        expected = {
            "incoming": [one for one, _ in pairs],
            "outgoing": [two for _, two in pairs],
            "either": [min(pair) for pair in pairs],
            "both": [(one * first + two * second) / (first + second) for one, two in pairs],
        }
        np.testing.assert_allclose(nonzero_fraction(model, which=which)[name], expected[which], rtol=1e-12)


@pytest.mark.parametrize("name", ["lstm_stacked", "attention_self", "embedding_mask", "separable_conv"])
def test_full_weights_score_one(name):
    model = NETS[name]()
    scores = nonzero_fraction(model)
    assert {group: len(values) for group, values in scores.items()} == tfp.unit_groups(model).sizes
    np.testing.assert_array_equal(scores.flat, 1.0)


def test_units_without_outgoing_weights_go_at_no_change_and_means_go_on():
    model = net_with_zeros()
    x = np.tile(inputs_for(model, 20)[0], (20, 1, 1, 1))
    reading, making = model.get_layer("out").kernel, model.get_layer("hidden").kernel
    # Nothing reads unit 0; unit 1 is a constant, which mean replacement keeps.
    reading.assign(np.where(np.arange(5)[:, None] == 0, 0, np.abs(reading.numpy()) + 0.1))
    making.assign(np.where(np.arange(5) == 1, 0, np.abs(making.numpy()) + 0.1))
    mask = tfp.keep_above(nonzero_fraction(model, layers="hidden"), 0.0)
    assert mask["hidden"].tolist() == [False, False, True, True, True]
    small = tfp.remove(model, mask, repair="mean", data=x)
    np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(model, [x]), rtol=1e-4, atol=1e-5)
    plain = tfp.remove(model, mask)
    assert np.abs(outputs_of(plain, [x]) - outputs_of(model, [x])).max() > 1e-3


def test_a_larger_share_takes_more_units():
    scores = nonzero_fraction(net_with_zeros())
    counts = [int((~tfp.keep_above(scores, share).flat).sum()) for share in (0.0, 0.2, 0.4, 0.9)]
    assert counts == sorted(counts) and counts[-1] > counts[0]


def test_refused():
    with pytest.raises(ValueError, match="`which` expects one of 'incoming'"):
        nonzero_fraction(net_with_zeros(), which="all")
    with pytest.raises(ValueError, match="Did you mean 'hidden'"):
        nonzero_fraction(net_with_zeros(), layers="hiden")
