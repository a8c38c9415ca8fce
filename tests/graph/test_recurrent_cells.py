"""An RNN around a cell is read, scored, repaired and counted as the layer that is named after the cell."""

import keras
import numpy as np
import pytest
from conftest import randomise
from keras import layers

import tfprune
from tfprune.graph import flops_by_layer

PAIRS = {
    "simple": (layers.SimpleRNN, layers.SimpleRNNCell, {}),
    "gru": (layers.GRU, layers.GRUCell, {}),
    "gru reset before": (layers.GRU, layers.GRUCell, {"reset_after": False}),
    "lstm": (layers.LSTM, layers.LSTMCell, {}),
    "lstm without bias": (layers.LSTM, layers.LSTMCell, {"use_bias": False}),
}


def net(own, two_ways):
    """4 steps x 3 -> `own` around 5 units -> dense 4 -> mean over time -> 2."""
    x = keras.Input((4, 3), name="x")
    h = layers.Bidirectional(own, name="rnn")(x) if two_ways else own(x)
    h = layers.Dense(4, "sigmoid", name="dense")(h)
    h = layers.GlobalAveragePooling1D(name="mean")(h)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    model.compile(loss="mse")
    return model


def both(name, two_ways):
    layer, cell, options = PAIRS[name]
    plain = net(layer(5, return_sequences=True, name="rnn", **options), two_ways)
    return plain, net(layers.RNN(cell(5, **options), return_sequences=True, name="rnn"), two_ways)


@pytest.mark.parametrize(
    ("name", "two_ways"),
    [
        ("lstm", False),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("gru", "lstm without bias")),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in PAIRS if not name.startswith("lstm")),
    ],
)
def test_like_the_layer(name, two_ways, generator):
    plain, around = both(name, two_ways)
    graph, other = tfprune.unit_groups(plain), tfprune.unit_groups(around)
    assert graph.sizes == other.sizes and graph.fixed == other.fixed and not other.walls
    data = generator.normal(size=(320, 4, 3)), generator.normal(size=(320, 2))
    for score in (tfprune.saliency.weight_norm, tfprune.saliency.activation_std, tfprune.saliency.on_nodes_gradient):
        np.testing.assert_allclose(score(around, data).flat, score(plain, data).flat, rtol=1e-5)
    counted, expected = (flops_by_layer(own) for own in (other, graph))
    assert counted == expected
    mask = tfprune.keep_top(tfprune.saliency.weight_norm(plain), 0.5)
    # No mean can be folded into a GRU whose candidate reads r * h.
    for repair in ("zero" if "before" in name else "mean", "least_squares"):
        small, expected = (tfprune.remove(model, mask, repair=repair, data=data[0]) for model in (around, plain))
        assert small.count_params() == expected.count_params() < plain.count_params()
        for one, two in zip(small.get_weights(), expected.get_weights(), strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
