"""Angles, pairs and the pruner: against slow loops, exact where it says so, and as published where it says so."""

import doctest
import importlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slow_but
from keras import layers
from replicas_distinctiveness import angle_matrix, gedeon_dense, lstm_states

import tfprune as tfp
from tfprune import distinctiveness

X = np.random.default_rng(3).normal(size=(60, 5)).astype("float32")
SEQUENCES = np.random.default_rng(4).normal(size=(24, 6, 3)).astype("float32")
IMAGES = np.random.default_rng(5).normal(size=(12, 7, 7, 2)).astype("float32")


def random_net(*steps, shape):
    """A Sequential with random biases and statistics, too."""
    net = keras.Sequential([keras.Input(shape), *steps])
    generator = np.random.default_rng(11)
    for variable in net.weights:
        if "float" not in variable.dtype:
            continue
        positive = variable.name in ("gamma", "moving_variance")
        scale = 0.5 if variable.name.endswith("kernel") else 0.3
        drawn = generator.uniform(0.5, 1.5, variable.shape) if positive else generator.normal(0, scale, variable.shape)
        variable.assign(drawn)
    return net


def set_columns(layer, **changes):
    """Changes weights of a layer by name, as `name=function of the array`."""
    for name, change in changes.items():
        variable = getattr(layer, name, None)
        variable = getattr(layer.cell, name) if variable is None else variable
        values = variable.numpy()
        change(values)
        variable.assign(values)


def copy_unit(layer, source, target, factor=1.0, gates=1):
    """Makes unit `target` a copy of unit `source`: every incoming weight and the bias times `factor`."""
    for variable in (
        layer.weights
        if not hasattr(layer, "cell")
        else (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias)
    ):
        values = variable.numpy()
        size = values.shape[-1] // gates
        for gate in range(gates):
            values[..., gate * size + target] = factor * values[..., gate * size + source]
        variable.assign(values)


def largest_change(net, small, x):
    return float(np.abs(net(tf.constant(x)) - small(tf.constant(x))).max())


def activations(net, layer, x):
    return np.asarray(keras.Model(net.inputs, net.get_layer(layer).output)([tf.constant(x)]))


def dense_net(activation, units=6):
    return random_net(layers.Dense(units, activation, name="hidden"), layers.Dense(2, name="out"), shape=(5,))


# --- angles


@pytest.mark.parametrize(("activation", "centre"), [("relu", 0.0), ("tanh", 0.0), ("sigmoid", 0.5), ("linear", 0.0)])
def test_angles_agree_with_the_double_loop(activation, centre):
    net = dense_net(activation)
    values = activations(net, "hidden", X)
    found = distinctiveness.angles(net, X)["hidden"]
    np.testing.assert_allclose(found, angle_matrix(values, centre), atol=1e-5)
    given = distinctiveness.angles(net, X, centre=0.2)["hidden"]
    np.testing.assert_allclose(given, angle_matrix(values, np.float32(0.2)), atol=1e-4)
    mean = distinctiveness.angles(net, X, centre="mean")["hidden"]
    correlations = np.corrcoef(values.T)
    np.testing.assert_allclose(np.cos(np.radians(mean)), correlations, atol=1e-5)


def test_angles_of_maps_run_over_positions():
    net = random_net(
        layers.Conv2D(4, 3, activation="relu", name="conv"), layers.Flatten(), layers.Dense(2), shape=(7, 7, 2)
    )
    values = activations(net, "conv", IMAGES).reshape(-1, 4)
    np.testing.assert_allclose(distinctiveness.angles(net, IMAGES)["conv"], angle_matrix(values, 0.0), atol=1e-5)


@pytest.mark.parametrize("return_sequences", [True, False])
def test_angles_of_hidden_states_run_over_steps(return_sequences):
    pool = [layers.GlobalAveragePooling1D()] if return_sequences else []
    net = random_net(
        layers.LSTM(4, return_sequences=return_sequences, name="lstm"), *pool, layers.Dense(2), shape=(6, 3)
    )
    values = lstm_states(net.get_layer("lstm"), SEQUENCES).reshape(-1, 4)
    np.testing.assert_allclose(distinctiveness.angles(net, SEQUENCES)["lstm"], angle_matrix(values, 0.0), atol=1e-3)


@pytest.mark.parametrize(
    "make",
    [lambda: layers.MultiHeadAttention(3, 4, name="heads"), lambda: layers.GroupQueryAttention(4, 4, 2, name="heads")],
)
def test_angles_of_heads(make):
    given = keras.Input((5, 8))
    heads = make()
    net = keras.Model(given, layers.Dense(2, name="out")(heads(given, given)))
    x = np.random.default_rng(0).normal(size=(6, 5, 8)).astype("float32")
    from tfprune.layers import attended_heads

    entries = np.asarray(attended_heads(heads, tf.constant(x), tf.constant(x))[0])
    found = distinctiveness.angles(net, x)["heads/heads"]
    number = len(found)
    # In grouped attention neighbouring query heads share a unit.
    values = entries.reshape(6, 5, number, -1, 4).transpose(0, 1, 3, 4, 2).reshape(-1, number)
    np.testing.assert_allclose(found, angle_matrix(values, 0.0), atol=1e-3)


def test_angles_of_weights():
    net = dense_net("relu")
    expected = angle_matrix(net.get_layer("hidden").kernel.numpy(), 0.0)
    np.testing.assert_allclose(distinctiveness.angles(net, vectors="weights")["hidden"], expected, atol=1e-5)


def test_angles_of_recurrent_weights_take_all_gates():
    net = random_net(layers.LSTM(3, name="lstm"), layers.Dense(2), shape=(6, 3))
    cell = net.get_layer("lstm").cell
    rows = np.concatenate([cell.kernel.numpy(), cell.recurrent_kernel.numpy()]).reshape(6, 4, 3).reshape(24, 3)
    np.testing.assert_allclose(
        distinctiveness.angles(net, vectors="weights")["lstm"], angle_matrix(rows, 0.0), atol=1e-5
    )


def test_angles_do_not_depend_on_batches():
    net = dense_net("sigmoid")
    whole = distinctiveness.angles(net, X)["hidden"]
    parts = tf.data.Dataset.from_tensor_slices(X[::-1]).batch(7)
    np.testing.assert_allclose(distinctiveness.angles(net, parts)["hidden"], whole, atol=1e-6)


def test_centre_moves_with_a_batch_norm():
    net = random_net(
        layers.Dense(4, "sigmoid", name="hidden"), layers.BatchNormalization(), layers.Dense(2), shape=(5,)
    )
    values = activations(net, "hidden", X)
    norm = net.layers[1]
    norm.gamma.assign(np.abs(norm.gamma.numpy()))
    np.testing.assert_allclose(distinctiveness.angles(net, X)["hidden"], angle_matrix(values, 0.5), atol=1e-3)


# --- pairs and the report


def test_pairs_are_listed_and_print():
    net = dense_net("tanh")
    copy_unit(net.layers[0], 0, 3)
    copy_unit(net.layers[0], 1, 4, -1.0)
    similar = distinctiveness.similar_pairs(net, X)
    opposite = distinctiveness.complementary_pairs(net, X)
    assert [(pair.one, pair.other) for pair in similar] == [(0, 3)]
    assert [(pair.one, pair.other) for pair in opposite] == [(1, 4)]
    assert similar[0].factor == pytest.approx(1.0) and opposite[0].factor == pytest.approx(-1.0)
    assert similar[0].angle == pytest.approx(0.0, abs=1e-4) and opposite[0].angle == pytest.approx(180.0, abs=1e-4)
    assert "1 pairs" in repr(similar) and "180.00" in repr(opposite)


def test_report_prints_who_goes_where():
    net = dense_net("tanh")
    copy_unit(net.layers[0], 0, 3)
    set_columns(net.layers[0], kernel=lambda w: w.__setitem__((slice(None), 5), 0.0))
    found = distinctiveness.plan(net, X)
    assert [(own.unit, own.reason) for own in found.removals] == [(5, "constant"), (3, "similar")]
    text = repr(found)
    assert "2 of 6 units go" in text and "similar" in text and "constant" in text
    assert found.mask["hidden"].tolist() == [True, True, True, False, True, False]
    assert found.cut().layers[0].units == 4


# --- exact


CASES = [
    ("relu", 1.0, "similar"),
    ("relu", 2.5, "similar"),
    ("linear", -0.4, "complementary"),
    ("tanh", 1.0, "similar"),
    ("tanh", -1.0, "complementary"),
    ("sigmoid", 1.0, "similar"),
    ("sigmoid", -1.0, "complementary"),
]


@pytest.mark.parametrize(("activation", "factor", "reason"), CASES)
def test_dense_is_exact(activation, factor, reason):
    net = dense_net(activation)
    copy_unit(net.layers[0], 0, 3, factor)
    found = distinctiveness.plan(net, X, similar=1.0, complementary=179.0)
    assert [own.reason for own in found.removals] == [reason]
    small = found.cut()
    assert small.layers[0].units == 5 and largest_change(net, small, X) < 1e-5
    assert (
        largest_change(net, distinctiveness.plan(net, X, similar=1.0, complementary=179.0, transfer="none").cut(), X)
        > 1e-2
    )


@pytest.mark.parametrize(("activation", "factor", "reason"), CASES)
@pytest.mark.parametrize("padding", ["valid", "same"])
def test_convolution_is_exact(activation, factor, reason, padding):
    net = random_net(
        layers.Conv2D(4, 3, activation=activation, name="conv"),
        layers.Conv2D(3, 3, padding=padding, activation="tanh", name="next"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(2),
        shape=(7, 7, 2),
    )
    copy_unit(net.layers[0], 0, 3, factor)
    found = distinctiveness.plan(net, IMAGES, similar=0.5, complementary=179.5, layers="conv")
    # One minus a sigmoid needs a constant, and the padding of the reader is none.
    possible = not (padding == "same" and activation == "sigmoid" and factor < 0)
    assert [own.reason for own in found.removals] == [reason] * possible
    small = found.cut()
    assert small.layers[0].filters == 4 - possible and largest_change(net, small, IMAGES) < 1e-5


def clone_gates(layer, gates, source, target, sign=1.0):
    """Makes the state of unit `target` that of `source`, or its negative: the candidate's weights change sign."""
    copy_unit(layer, source, target, gates=gates)
    candidate = {1: 0, 3: 2, 4: 2}[gates]
    size = layer.units
    for variable in (layer.cell.kernel, layer.cell.recurrent_kernel, layer.cell.bias):
        values = variable.numpy()
        values[..., candidate * size + target] *= sign
        variable.assign(values)


RECURRENT = [(layers.SimpleRNN, 1), (layers.GRU, 3), (layers.LSTM, 4)]


@pytest.mark.parametrize(
    ("sign", "return_sequences"),
    slow_but([(1.0, False), (-1.0, True)], [(1.0, True), (1.0, False), (-1.0, True), (-1.0, False)]),
)
@pytest.mark.parametrize(("make", "gates"), RECURRENT)
def test_recurrent_is_exact(make, gates, sign, return_sequences):
    pool = [layers.GlobalAveragePooling1D()] if return_sequences else []
    net = random_net(make(5, return_sequences=return_sequences, name="rnn"), *pool, layers.Dense(2), shape=(6, 3))
    clone_gates(net.layers[0], gates, 1, 4, sign)
    found = distinctiveness.plan(net, SEQUENCES, similar=0.5, complementary=179.5)
    assert [own.reason for own in found.removals] == ["similar" if sign > 0 else "complementary"]
    small = found.cut()
    assert small.layers[0].units == 4 and largest_change(net, small, SEQUENCES) < 1e-5
    # The recurrent weights of the removed unit went along.
    assert small.layers[0].cell.recurrent_kernel.shape == (4, 4 * gates)


@pytest.mark.parametrize("merge_mode", ["concat", "sum"])
def test_bidirectional_is_exact_and_stays_even(merge_mode):
    net = random_net(
        layers.Bidirectional(layers.LSTM(4), merge_mode=merge_mode, name="both"), layers.Dense(2), shape=(6, 3)
    )
    wrapper = net.get_layer("both")
    clone_gates(wrapper.forward_layer, 4, 0, 2)
    # Unit k of one direction goes with unit k of the other.
    clone_gates(wrapper.backward_layer, 4, 0, 2)
    small = distinctiveness.prune(net, SEQUENCES, similar=0.5, complementary=179.5)
    assert small.get_layer("both").forward_layer.units == 3 == small.get_layer("both").backward_layer.units
    assert largest_change(net, small, SEQUENCES) < 1e-5


def test_bidirectional_with_one_pair_on_one_side_keeps_it():
    net = random_net(layers.Bidirectional(layers.LSTM(4), name="both"), layers.Dense(2), shape=(6, 3))
    clone_gates(net.get_layer("both").forward_layer, 4, 0, 2)
    assert distinctiveness.plan(net, SEQUENCES, similar=0.5, complementary=179.5).removals == ()


def test_recurrent_behind_batch_norm_is_exact():
    """The recurrent kernel reads the state, the dense layer what the norm makes of it: other factors for each."""
    net = random_net(
        layers.LSTM(5, name="lstm"), layers.BatchNormalization(), layers.Dropout(0.3), layers.Dense(2), shape=(6, 3)
    )
    clone_gates(net.layers[0], 4, 1, 4, -1.0)
    small = distinctiveness.prune(net, SEQUENCES, similar=0.5, complementary=179.5)
    assert small.layers[0].units == 4 and largest_change(net, small, SEQUENCES) < 1e-5


def test_batch_norm_and_dropout_are_passed_through():
    net = random_net(
        layers.Dense(6, "sigmoid", name="hidden"),
        layers.BatchNormalization(),
        layers.Dropout(0.5),
        layers.Dense(4, name="second"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Dense(2),
        shape=(5,),
    )
    copy_unit(net.layers[0], 0, 3)
    copy_unit(net.layers[0], 1, 4, -1.0)
    found = distinctiveness.plan(net, X, layers="hidden", similar=0.5, complementary=179.5)
    assert len(found.removals) == 2
    assert largest_change(net, found.cut(), X) < 1e-5


def test_two_readers_that_see_a_unit_differently_are_both_served():
    given = keras.Input((5,))
    hidden = layers.Dense(4, name="hidden")(given)
    left = layers.Dense(2, name="left")(layers.BatchNormalization(name="norm")(hidden))
    right = layers.Dense(2, name="right")(hidden)
    net = keras.Model(given, layers.Add()([left, right]))
    net.get_layer("norm").set_weights(
        [np.array(w, "float32") for w in ([1, 2, 0.5, 3], [1, -1, 0, 2], [0.3] * 4, [1, 2, 3, 4])]
    )
    copy_unit(net.get_layer("hidden"), 0, 2, -3.0)
    found = distinctiveness.plan(net, X, similar=0.5, complementary=179.5)
    assert len(found.removals) == 1 and largest_change(net, found.cut(), X) < 1e-4


def test_unit_stays_where_a_reader_cannot_replace_it():
    """Scaled clones in front of a relu on one branch and a sigmoid on the other: no factor serves the sigmoid."""
    given = keras.Input((5,))
    hidden = layers.Dense(4, name="hidden")(given)
    left = layers.Dense(2, name="left")(layers.Activation("relu")(hidden))
    right = layers.Dense(2, name="right")(layers.Activation("sigmoid")(layers.Rescaling(3.0)(hidden)))
    net = keras.Model(given, layers.Add()([left, right]))
    copy_unit(net.get_layer("hidden"), 0, 2, -1.0)
    found = distinctiveness.plan(net, X, similar=0.5, complementary=179.5)
    # relu(-x) is no multiple of relu(x), though -x is one of x.
    assert found.removals == ()


def test_heads_are_merged_row_by_row():
    given = keras.Input((5, 8))
    heads = layers.MultiHeadAttention(3, 4, name="heads")
    net = keras.Model(given, layers.Dense(2, name="out")(heads(given, given)))
    for variable in heads.weights:
        values = variable.numpy() + np.float32(0.1)
        if "output" not in variable.path:
            values[..., 2, :] = values[..., 0, :]
        variable.assign(values)
    x = np.random.default_rng(0).normal(size=(6, 5, 8)).astype("float32")
    small = distinctiveness.prune(net, x, similar=0.5)
    assert small.get_layer("heads").num_heads == 2 and largest_change(net, small, x) < 1e-5


# --- constants


def test_constant_units_go_into_the_bias():
    net = dense_net("sigmoid")
    set_columns(net.layers[0], kernel=lambda w: w.__setitem__((slice(None), [1, 2]), 0.0))
    set_columns(net.layers[0], bias=lambda b: b.__setitem__(2, 0.0))
    found = distinctiveness.plan(net, X, similar=0.0, complementary=180.0)
    # Unit 2 is 0.5 throughout: its vector has no length, but it is a constant all the same.
    assert {own.unit: own.reason for own in found.removals} == {1: "constant", 2: "insignificant"}
    assert found.cut().layers[0].units == 4 and largest_change(net, found.cut(), X) < 1e-5


@pytest.mark.parametrize(("padding", "bias", "left"), [("valid", 0.7, 3), ("same", 0.7, 4), ("same", -0.7, 3)])
def test_constant_maps(padding, bias, left):
    """Padding is zero, so that a constant in front of it stays unless it is zero too."""
    net = random_net(
        layers.Conv2D(4, 3, activation="relu", name="conv"),
        layers.Conv2D(3, 3, padding=padding, name="next"),
        layers.Flatten(),
        layers.Dense(2),
        shape=(7, 7, 2),
    )
    set_columns(net.layers[0], kernel=lambda w: w.__setitem__((..., 1), 0.0), bias=lambda b: b.__setitem__(1, bias))
    small = distinctiveness.prune(net, IMAGES, layers="conv", similar=0.0, complementary=180.0)
    assert small.layers[0].filters == left and largest_change(net, small, IMAGES) < 1e-5


@pytest.mark.parametrize(("candidate", "recurrent", "left"), [(0.0, 0.5, 4), (0.8, 0.5, 5), (0.8, 0.0, 4)])
def test_constant_states(candidate, recurrent, left):
    """A constant state is zero at the first step: it stays if the recurrent kernel reads it and it is not zero."""
    net = random_net(layers.LSTM(5, name="lstm"), layers.Dense(2), shape=(6, 3))
    cell = net.layers[0].cell
    for variable, values in (
        (cell.kernel, 0.0),
        (cell.recurrent_kernel, 0.0),
        (cell.bias, (20.0, -20.0, candidate, 20.0)),
    ):
        array = variable.numpy().reshape(*variable.shape[:-1], 4, 5)
        array[..., 2] = values
        if variable is cell.recurrent_kernel:
            array[2] = recurrent
        variable.assign(array.reshape(variable.shape))
    if recurrent:
        array = cell.recurrent_kernel.numpy()
        array[:, [2, 7, 12, 17]] = 0.0
        cell.recurrent_kernel.assign(array)
    small = distinctiveness.prune(net, SEQUENCES, similar=0.0, complementary=180.0)
    assert small.layers[0].units == left and largest_change(net, small, SEQUENCES) < 1e-5


# --- chains, stars, groups


def spread_net(directions):
    """Linear units whose vectors are at given angles in a plane."""
    kernel = np.array([np.cos(np.radians(directions)), np.sin(np.radians(directions))])
    net = random_net(layers.Dense(len(directions), name="hidden"), layers.Dense(2), shape=(2,))
    net.layers[0].set_weights([kernel, np.zeros(len(directions))])
    return net, np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], "float32")


@pytest.mark.parametrize(
    ("directions", "goes_to"),
    [
        ([0.0, 10.0, 20.0], {0: 1, 2: 1}),
        ([0.0, 10.0, 20.0, 30.0], {0: 1, 2: 1}),
        ([0.0, 10.0, 20.0, 30.0, 40.0], {0: 1, 2: 1, 4: 3}),
        ([0.0, 14.0, 60.0], {1: 0}),
        ([0.0, 8.0, 352.0, 172.0, 90.0], {1: 0, 2: 0, 3: 0}),
    ],
)
def test_chains_and_stars_lean_on_kept_units(directions, goes_to):
    net, x = spread_net(directions)
    found = distinctiveness.plan(net, x)
    assert {own.unit: own.partners[0] for own in found.removals} == goes_to
    assert not set(goes_to) & set(goes_to.values())
    assert all(own.deviation < 15.0 for own in found.removals)


def test_a_sum_that_is_constant_goes_only_if_asked_for():
    net = dense_net("linear", units=5)
    layer = net.layers[0]
    values, bias = layer.kernel.numpy(), layer.bias.numpy()
    values[:, 4], bias[4] = -values[:, 0] - values[:, 1], 2.0 - bias[0] - bias[1]
    layer.kernel.assign(values)
    layer.bias.assign(bias)
    # Five inputs: the other three are independent.
    assert distinctiveness.plan(net, X, similar=1.0, complementary=179.0).removals == ()
    (gone,) = distinctiveness.plan(net, X, similar=1.0, complementary=179.0, groups_of=3).removals
    assert {gone.unit, *gone.partners} == {0, 1, 4} and gone.reason == "combination"
    np.testing.assert_allclose(gone.factors, [-1.0, -1.0], atol=1e-5)
    assert gone.offset == pytest.approx(2.0, abs=1e-5)
    small = distinctiveness.prune(net, X, similar=1.0, complementary=179.0, groups_of=3)
    assert small.layers[0].units == 4 and largest_change(net, small, X) < 1e-4
    published = distinctiveness.plan(net, X, similar=1.0, complementary=179.0, groups_of=3, transfer="gedeon")
    assert sorted(own.unit for own in published.removals) == [0, 1, 4]
    np.testing.assert_array_equal(published.cut().layers[1].kernel, net.layers[1].kernel.numpy()[[2, 3]])


def test_a_group_of_four_needs_groups_of_four():
    net = dense_net("linear", units=5)
    layer = net.layers[0]
    values, bias = layer.kernel.numpy(), layer.bias.numpy()
    values[:, 4], bias[4] = values[:, :3].sum(axis=1), bias[:3].sum()
    layer.kernel.assign(values)
    layer.bias.assign(bias)
    options = {"similar": 0.5, "complementary": 179.5}
    assert distinctiveness.plan(net, X, groups_of=3, **options).removals == ()
    (gone,) = distinctiveness.plan(net, X, groups_of=4, **options).removals
    assert {gone.unit, *gone.partners} == {0, 1, 2, 4}
    assert largest_change(net, distinctiveness.prune(net, X, groups_of=4, **options), X) < 1e-4


def test_all_units_alike_leave_one():
    net = dense_net("tanh")
    for unit in range(1, 6):
        copy_unit(net.layers[0], 0, unit)
    small = distinctiveness.prune(net, X)
    assert small.layers[0].units == 1 and largest_change(net, small, X) < 1e-5
    for transfer in ("exact", "gedeon", "none"):
        dead = dense_net("relu")
        dead.layers[0].set_weights([np.zeros((5, 6)), -np.ones(6)])
        assert distinctiveness.prune(dead, X, transfer=transfer).layers[0].units == 1


# --- as published


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_gedeon_is_what_the_paper_says_and_no_more(activation):
    net = dense_net(activation, units=7)
    copy_unit(net.layers[0], 0, 3, 0.98)
    copy_unit(net.layers[0], 1, 4, -1.0)
    centre = 0.5 if activation == "sigmoid" else 0.0
    values = activations(net, "hidden", X)
    alive, outgoing = gedeon_dense(values, net.layers[1].kernel.numpy(), centre, 5.0, 175.0)
    found = distinctiveness.plan(net, X, similar=5.0, complementary=175.0, transfer="gedeon")
    assert {own.unit for own in found.removals} == {1, 3, 4}
    small = found.cut()
    assert small.layers[0].units == sum(alive) == 4
    np.testing.assert_allclose(small.layers[1].kernel.numpy(), outgoing, atol=1e-6)
    np.testing.assert_array_equal(small.layers[1].bias.numpy(), net.layers[1].bias.numpy())


def test_gedeon_keeps_what_has_taken_over_others():
    """Unit 1 goes to unit 0, which is opposite to unit 2: unit 0 cannot cancel with it any more."""
    net = random_net(layers.Dense(4, use_bias=False, name="a"), layers.Dense(1), shape=(2,))
    angles = np.deg2rad([0.0, 10.0, 172.0, 75.0])
    net.layers[0].set_weights([np.stack([np.cos(angles), np.sin(angles)]) * [2.0, 1.0, 1.0, 1.0]])
    found = distinctiveness.plan(net, np.eye(2), transfer="gedeon")
    assert [(gone.unit, gone.partners, gone.both) for gone in found.removals] == [(1, (0,), False)]
    outgoing = net.layers[1].kernel.numpy()
    small = found.cut()
    np.testing.assert_allclose(small.layers[1].kernel, outgoing[[0, 2, 3]] + [outgoing[1], [0.0], [0.0]], rtol=1e-6)


def test_plan_says_which_units_are_held():
    """A scaled filter in front of batch norm and padding: its constant has no place at the border."""
    net = random_net(
        layers.Conv2D(4, 3, padding="same", name="first"),
        layers.BatchNormalization(),
        layers.Conv2D(2, 3, padding="same"),
        shape=(7, 7, 2),
    )
    copy_filter = {"kernel": lambda own: np.copyto(own[..., 1], 2 * own[..., 0]), "bias": lambda own: own.fill(0)}
    set_columns(net.layers[0], **copy_filter)
    found = distinctiveness.plan(net, IMAGES, similar=1.0, complementary=179.0)
    assert found.held == {"first": (0, 1)} and not found.removals
    assert "first: the units 0, 1 are near each other and stay" in repr(found)
    loose = distinctiveness.plan(net, IMAGES, similar=1.0, complementary=179.0, transfer="none")
    assert loose.held == {} and len(loose.removals) == 1


def test_gedeon_folds_constants_and_drops_short_vectors():
    net = dense_net("sigmoid")
    set_columns(net.layers[0], kernel=lambda w: w.__setitem__((slice(None), [1, 2]), 0.0))
    set_columns(net.layers[0], bias=lambda b: b.__setitem__(2, 0.0))
    level = float(activations(net, "hidden", X)[0, 1])
    small = distinctiveness.prune(net, X, similar=0.0, complementary=180.0, transfer="gedeon")
    expected = net.layers[1].bias.numpy() + level * net.layers[1].kernel.numpy()[1]
    np.testing.assert_allclose(small.layers[1].bias.numpy(), expected, atol=1e-6)
    np.testing.assert_array_equal(small.layers[1].kernel.numpy(), net.layers[1].kernel.numpy()[[0, 3, 4, 5]])


def test_none_carries_nothing_over():
    net = dense_net("tanh")
    copy_unit(net.layers[0], 0, 3)
    small = distinctiveness.prune(net, X, similar=1.0, complementary=179.0, transfer="none")
    rows = np.flatnonzero(distinctiveness.plan(net, X, similar=1.0, complementary=179.0).mask["hidden"])
    np.testing.assert_array_equal(small.layers[1].kernel.numpy(), net.layers[1].kernel.numpy()[rows])


def test_weights_decide_who_goes():
    net = dense_net("relu")
    layer = net.layers[0]
    copy_unit(layer, 0, 3, 2.0)
    layer.bias.assign(layer.bias.numpy() + np.array([0, 0, 0, 0.4, 0, 0], "float32"))
    options = {"vectors": "weights", "similar": 1.0, "complementary": 179.0}
    (gone,) = distinctiveness.plan(net, transfer="gedeon", **options).removals
    assert {gone.unit, *gone.partners} == {0, 3}
    (exact,) = distinctiveness.plan(net, X, **options).removals
    values = activations(net, "hidden", X).astype("float64")
    kept, removed = values[:, exact.partners[0]], values[:, exact.unit]
    assert exact.factors[0] == pytest.approx(kept @ removed / (kept @ kept), rel=1e-5)


# --- several layers at once, and what cannot be merged


def test_whole_models_are_pruned_at_once():
    net = random_net(
        layers.Conv1D(4, 2, activation="relu", name="conv"),
        layers.LSTM(5, return_sequences=True, name="lstm"),
        layers.GRU(4, name="gru"),
        layers.Dense(6, "sigmoid", name="hidden"),
        layers.Dense(2),
        shape=(6, 3),
    )
    copy_unit(net.get_layer("conv"), 0, 3, 2.0)
    clone_gates(net.get_layer("lstm"), 4, 1, 4, -1.0)
    clone_gates(net.get_layer("gru"), 3, 0, 2)
    copy_unit(net.get_layer("hidden"), 0, 5, -1.0)
    net.compile("adam", "mse")
    before = [w.numpy() for w in net.weights]
    found = distinctiveness.plan(net, SEQUENCES, similar=0.5, complementary=179.5)
    assert {name: int((~kept).sum()) for name, kept in found.mask.items()} == {
        "conv": 1,
        "lstm": 1,
        "gru": 1,
        "hidden": 1,
    }
    assert largest_change(net, found.cut(), SEQUENCES) < 1e-5
    assert found.cut().loss == "mse"
    for one, other in zip(before, net.weights, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


def test_layers_that_count_units_are_told():
    net = random_net(layers.Dense(4, name="hidden"), layers.LayerNormalization(), layers.Dense(2), shape=(5,))
    copy_unit(net.layers[0], 0, 3)
    found = distinctiveness.plan(net, X)
    assert found.removals == () and "layer normalization" in found.skipped["hidden"]
    assert "nothing goes" in repr(found)
    gru = random_net(layers.GRU(4, reset_after=False, name="gru"), layers.Dense(2), shape=(6, 3))
    assert "reset_after" in distinctiveness.plan(gru, SEQUENCES).skipped["gru"]


# --- borders


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similar": -1.0}, "similar: expected an angle from 0 to 180"),
        ({"complementary": 181.0}, "complementary: expected an angle from 0 to 180"),
        ({"similar": float("nan")}, "similar: expected an angle"),
        ({"similar": 100.0, "complementary": 90.0}, "thresholds cross"),
        ({"transfer": "some"}, "transfer: expected one of 'exact', 'gedeon', 'none'"),
        ({"vectors": "biases"}, "vectors: expected one of"),
        ({"centre": "median"}, "centre: expected 'auto', 'mean' or a finite number"),
        ({"centre": float("inf")}, "centre: expected"),
        ({"vectors": "weights", "centre": 0.5}, "vectors of weights have none"),
        ({"layers": "hiden"}, "Did you mean 'hidden'"),
        ({"layers": "out"}, "cannot be removed"),
        ({"tolerance": 1.0}, "tolerance: expected a share"),
        ({"groups_of": 1}, "groups_of: expected a whole number of at least 2"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        distinctiveness.prune(dense_net("relu"), X, **options)


@pytest.mark.parametrize("function", [distinctiveness.angles, distinctiveness.similar_pairs, distinctiveness.prune])
def test_bad_data_are_refused(function):
    net = dense_net("relu")
    with pytest.raises(TypeError, match="data: expected inputs"):
        function(net)
    with pytest.raises(ValueError, match="at least 2 patterns, received 1"):
        function(net, X[:1])
    with pytest.raises(ValueError, match="at least 2 patterns, received 1"):
        function(net, tf.data.Dataset.from_tensor_slices(X[:1]).batch(1))
    with pytest.raises(ValueError, match="NaN"):
        function(net, np.full((4, 5), np.nan, "float32"))
    with pytest.raises(ValueError):
        function(net, X[:0])
    with pytest.raises(ValueError, match="no units that can be removed"):
        function(keras.Sequential([keras.Input((5,)), layers.Dense(2)]), X)


def test_bad_thresholds_of_pairs_are_refused():
    for function in (distinctiveness.similar_pairs, distinctiveness.complementary_pairs):
        with pytest.raises(ValueError, match="threshold: expected an angle from 0 to 180"):
            function(dense_net("relu"), X, threshold=190)


def test_exact_by_weights_needs_data():
    with pytest.raises(TypeError, match="transfer 'exact'"):
        distinctiveness.prune(dense_net("relu"), vectors="weights")


@pytest.mark.parametrize("name", ["angles", "pruning"])
def test_documented_numbers(name):
    # The function `angles` hides the module of its name.
    module = importlib.import_module(f"tfprune.distinctiveness.{name}")
    assert doctest.testmod(module, extraglobs={"keras": keras, "np": np, "tfprune": tfp}).failed == 0
