"""Masked models: what they compute, on every net of the table, and everything that a Keras model can do."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers, ops
from nets import NETS, inputs_for, outputs_of, random_masks

from tfprune.graph import unit_groups
from tfprune.masking import ON_NODES, on_nodes_input, with_on_nodes
from tfprune.units import LayerValues

FLOAT32_TOLERANCE = 1e-6
FLOAT16_TOLERANCE = 2e-3


def relative_difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


def disturb_what_is_off(graph, mask, generator):
    """Gives every weight that goes with a unit that is off another value; returns how many numbers changed."""
    disturbed = 0
    for weight in graph.records.weights.values():
        off = np.zeros(tuple(weight.variable.shape), bool)
        for axis, ids in enumerate(weight.axes):
            if ids is not None:
                off[(slice(None),) * axis + (np.flatnonzero(~graph.kept(ids, mask)),)] = True
        values = ops.convert_to_numpy(weight.variable)
        noise = generator.uniform(0.5, 1.5, values.shape).astype(values.dtype)
        weight.variable.assign(np.where(off, noise, values))
        disturbed += int(off.sum())
    return disturbed


def check_weights_are_shared(model, masked):
    own = {id(variable) for variable in model.weights}
    more = [variable for variable in masked.weights if id(variable) not in own]
    assert own <= {id(variable) for variable in masked.weights}
    assert all(variable.path.endswith("replacement") and not variable.trainable for variable in more)
    assert {id(variable) for variable in masked.trainable_weights} == {id(v) for v in model.trainable_weights}


# On every net ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", slow_but(list(NETS)[::2], NETS))
def test_every_net(name):
    """All on is the original, which stays as it was; rows act on their own sample alone; a unit that is off is gone.

    Gone means: whatever the weights hold that a cut would take away, the output does not change by a bit.
    """
    model, tolerance = NETS[name](), FLOAT16_TOLERANCE if name == "mixed_precision" else FLOAT32_TOLERANCE
    inputs = inputs_for(model)
    before, original = [ops.convert_to_numpy(variable) for variable in model.weights], outputs_of(model, inputs)
    config = str(model.get_config())
    graph, masked = unit_groups(model), with_on_nodes(model)
    check_weights_are_shared(model, masked)
    masks = random_masks(graph.num_units, 4, groups=graph.values())

    assert relative_difference(original, outputs_of(masked, inputs, np.ones(graph.num_units))) <= tolerance
    together = outputs_of(masked, inputs, masks)
    assert relative_difference(original, together) > 1e-3
    apart = [outputs_of(masked, [own[k : k + 1] for own in inputs], masks[k]) for k in range(4)]
    assert relative_difference(together, np.concatenate(apart)) <= tolerance

    after = [ops.convert_to_numpy(variable) for variable in model.weights]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    np.testing.assert_array_equal(outputs_of(model, inputs), original)
    assert str(model.get_config()) == config

    alone = outputs_of(masked, inputs, masks[0])
    assert disturb_what_is_off(graph, masks[0], np.random.default_rng(1)) > 0
    np.testing.assert_array_equal(outputs_of(masked, inputs, masks[0]), alone)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETS if name != "tied_variables"])
def test_every_net_saves_and_loads(name, tmp_path):
    """Variables that two layers share are left out: Keras itself does not restore them."""
    model = NETS[name]()
    masked, inputs = with_on_nodes(model), inputs_for(model)
    mask = random_masks(unit_groups(model).num_units, 1)[0]
    masked.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras", safe_mode=False)
    np.testing.assert_array_equal(outputs_of(loaded, inputs, mask), outputs_of(masked, inputs, mask))


# Against kernels whose rows are zeroed by hand ------------------------------------------------------------------------


def zero_rows(variable, off, axis):
    values = ops.convert_to_numpy(variable).copy()
    values[(slice(None),) * axis + (np.flatnonzero(off),)] = 0.0
    variable.assign(values)


def test_dense_net_equals_rows_zeroed_by_hand():
    model = NETS["dense_chain"]()
    inputs, mask = inputs_for(model), random_masks(15, 1)[0]
    masked = outputs_of(with_on_nodes(model), inputs, mask)
    for reader, off in (("second", ~mask[:5]), ("third", ~mask[5:11]), ("out", ~mask[11:])):
        zero_rows(model.get_layer(reader).kernel, off, 0)
    assert relative_difference(masked, outputs_of(model, inputs)) < FLOAT32_TOLERANCE


def test_conv_net_equals_rows_zeroed_by_hand():
    """Also behind a flatten, where each channel has one row per place."""
    model = NETS["conv_2d"]()
    graph, inputs = unit_groups(model), inputs_for(model)
    mask = LayerValues.from_flat(random_masks(graph.num_units, 1, seed=2)[0], graph.sizes)
    masked = outputs_of(with_on_nodes(model), inputs, mask.flat)
    for made, reader in (("valid", "same"), ("same", "strided"), ("strided", "dilated")):
        zero_rows(model.get_layer(reader).kernel, ~mask[made], 2)
    places = model.get_layer("out").kernel.shape[0] // 3
    zero_rows(model.get_layer("out").kernel, np.tile(~mask["dilated"], places), 0)
    assert relative_difference(masked, outputs_of(model, inputs)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", ["simple_rnn", "gru_reset_after", "lstm_stacked"])
def test_recurrent_net_equals_rows_zeroed_by_hand(name):
    """A unit is off at the next layer's kernel and at the layer's own recurrent kernel.

    GRU with reset_after=False is left out: its candidate reads r * h, whose rows are those of the recurrent kernel too.
    """
    model = NETS[name]()
    graph, inputs = unit_groups(model), inputs_for(model)
    mask = LayerValues.from_flat(random_masks(graph.num_units, 1, seed=3)[0], graph.sizes)
    masked = outputs_of(with_on_nodes(model), inputs, mask.flat)
    names = [*graph.names, "out"]
    for made, reader in zip(names[:-1], names[1:], strict=True):
        zero_rows(model.get_layer(made).cell.recurrent_kernel, ~mask[made], 0)
        layer = model.get_layer(reader)
        zero_rows(layer.cell.kernel if isinstance(layer, layers.RNN) else layer.kernel, ~mask[made], 0)
    assert relative_difference(masked, outputs_of(model, inputs)) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("kind", ["attention", "dot"])
def test_a_tensor_that_is_read_several_times_is_masked_once(kind):
    """As query, key and value: a fraction of a unit enters each of them once, not squared."""
    x = keras.Input((4, 3), name="x")
    h = layers.Dense(6, "sigmoid", name="first")(x)
    read = layers.MultiHeadAttention(2, 3, name="heads")(h, h) if kind == "attention" else layers.Dot(2)([h, h])
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(read)))
    (data,), half = inputs_for(model), np.linspace(0.2, 1.0, 6, dtype="float32")
    masked = outputs_of(with_on_nodes(model, "first"), [data], half)
    rest = keras.Model(h, model.outputs[0])
    expected = outputs_of(rest, [ops.convert_to_numpy(model.get_layer("first")(data)) * half])
    assert relative_difference(expected, masked) < FLOAT32_TOLERANCE


def test_a_time_mask_that_is_passed_by_hand_is_kept():
    x, missing = keras.Input((5, 3), name="x"), keras.Input((5,), dtype="bool", name="missing")
    h = layers.LSTM(4, name="lstm")(layers.Dense(4, "sigmoid", name="dense")(x), mask=missing)
    model = randomise(keras.Model([x, missing], layers.Dense(2, name="out")(h)))
    generator = np.random.default_rng(0)
    inputs = [generator.normal(size=(4, 5, 3)).astype("float32"), generator.random((4, 5)) > 0.5]
    mask = random_masks(8, 1)[0]
    masked = outputs_of(with_on_nodes(model), inputs, mask)
    zero_rows(model.get_layer("lstm").cell.kernel, ~mask[:4], 0)
    zero_rows(model.get_layer("lstm").cell.recurrent_kernel, ~mask[4:], 0)
    zero_rows(model.get_layer("out").kernel, ~mask[4:], 0)
    assert relative_difference(masked, outputs_of(model, inputs)) < FLOAT32_TOLERANCE


def test_a_dictionary_of_inputs_to_a_nested_model():
    u, v = keras.Input((3,), name="u"), keras.Input((5,), name="v")
    both = layers.Dense(4, "sigmoid", name="of_u")(u) + layers.Dense(4, name="of_v")(v)
    inner = keras.Model({"v": v, "u": u}, {"sum": both}, name="inner")
    x = keras.Input((3,), name="x")
    h = inner({"u": x, "v": layers.Dense(5, "tanh", name="first")(x)})["sum"]
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    inputs, mask = inputs_for(model), np.arange(9) % 2 == 0
    masked = outputs_of(with_on_nodes(model), inputs, mask)
    zero_rows(inner.get_layer("of_v").kernel, ~mask[:5], 0)
    zero_rows(model.get_layer("out").kernel, ~mask[5:], 0)
    assert relative_difference(masked, outputs_of(model, inputs)) < FLOAT32_TOLERANCE


def test_training_flag_of_a_nested_model():
    """A backbone called with training=False behaves in training as it does in the original."""
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="a"), layers.BatchNormalization()], name="inner")
    x = keras.Input((4,), name="x")
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(inner(x, training=False))))
    masked, data = with_on_nodes(model), tf.constant(inputs_for(model)[0])
    in_training = masked([data, tf.ones((1, 5))], training=True)
    np.testing.assert_allclose(in_training, model(data, training=True), rtol=1e-5)


# Everything that a Keras model can do ---------------------------------------------------------------------------------


@pytest.fixture
def problem(conv_norm_net, generator):
    """A masked net, data for it with all on, and targets."""
    masked = with_on_nodes(conv_norm_net)
    masked.compile("sgd", "mse")
    x = generator.normal(size=(12, 8, 8, 2)).astype("float32")
    y = generator.normal(size=(12, 2)).astype("float32")
    return conv_norm_net, masked, x, np.ones((12, 7), "float32"), y


def test_evaluate_and_predict(problem):
    model, masked, x, ones, y = problem
    np.testing.assert_allclose(masked.evaluate([x, ones], y, verbose=0), model.evaluate(x, y, verbose=0), rtol=1e-5)
    np.testing.assert_allclose(masked.predict([x, ones], verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


def test_fit_trains_the_original(problem):
    model, masked, x, ones, y = problem
    before = model.evaluate(x, y, verbose=0)
    history = masked.fit([x, ones], y, epochs=3, verbose=0)
    assert history.history["loss"][-1] < history.history["loss"][0]
    after = model.evaluate(x, y, verbose=0)
    assert after != before
    np.testing.assert_allclose(after, masked.evaluate([x, ones], y, verbose=0), rtol=1e-5)


def test_fit_with_a_dataset_leaves_weights_of_off_units_alone(problem):
    model, masked, x, ones, y = problem
    off = ones.copy()
    off[:, 1] = 0.0
    before = ops.convert_to_numpy(model.get_layer("second").kernel)
    data = tf.data.Dataset.from_tensor_slices(((x, off), y)).batch(4)
    masked.fit(data, epochs=2, shuffle=False, verbose=0)
    after = ops.convert_to_numpy(model.get_layer("second").kernel)
    np.testing.assert_array_equal(after[:, :, 1], before[:, :, 1])
    assert np.abs(after[:, :, 0] - before[:, :, 0]).max() > 1e-5


@pytest.mark.parametrize(
    "name", ["layer_norm", "bidirectional_concat", "attention_masked", "nested_twice", "batch_norm"]
)
def test_saves_and_loads(name, tmp_path):
    test_every_net_saves_and_loads(name, tmp_path)


def test_saves_replacements_and_compilation(problem, tmp_path):
    model, _, x, ones, y = problem
    replacement = LayerValues({"first": [1.0, 2.0, 3.0, 4.0], "second": [-1.0, 0.5, 2.0]})
    masked = with_on_nodes(model, replacement=replacement)
    masked.compile("sgd", "mse")
    masked.fit([x, ones], y, verbose=0)
    masked.save(tmp_path / "masked.keras")
    loaded = keras.saving.load_model(tmp_path / "masked.keras")
    off = np.zeros_like(ones)
    np.testing.assert_allclose(loaded.predict([x, off], verbose=0), masked.predict([x, off], verbose=0), rtol=1e-6)
    assert loaded.evaluate([x, off], y, verbose=0) == pytest.approx(masked.evaluate([x, off], y, verbose=0), rel=1e-6)


@pytest.mark.parametrize("name", ["dense_chain", "lstm_stacked", "attention_self"])
def test_exports(name, tmp_path):
    model = NETS[name]()
    masked, inputs = with_on_nodes(model), inputs_for(model)
    masks = random_masks(unit_groups(model).num_units, 4).astype("float32")
    masked.export(tmp_path / "saved_model", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "saved_model"))
    served = loaded.serve([*map(tf.constant, inputs), tf.constant(masks)])
    assert relative_difference(outputs_of(masked, inputs, masks), np.asarray(served, "float64").reshape(4, -1)) < 1e-6


@pytest.fixture
def float64():
    policy = keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy(policy)


@pytest.mark.parametrize("name", ["dense_chain", "conv_2d", "lstm_stacked", "layer_norm", "attention_cross"])
def test_gradient_against_finite_differences(float64, name):
    """At a mask of fractions, of the loss sum(outputs ** 2) of one sample; all steps in one batch."""
    model = NETS[name]()
    num_units = unit_groups(model).num_units
    masked, inputs = with_on_nodes(model), inputs_for(model, 1)
    on = np.random.default_rng(0).uniform(0.2, 1.0, (1, num_units))
    step = 1e-5
    rows = np.concatenate([on + step * np.eye(num_units), on - step * np.eye(num_units)])
    repeated = [tf.constant(np.repeat(x, len(rows), axis=0)) for x in inputs]
    outputs = ops.convert_to_numpy(masked([*repeated, tf.constant(rows)]))
    losses = (outputs.reshape(len(rows), -1) ** 2).sum(axis=1)
    differences = (losses[:num_units] - losses[num_units:]) / (2 * step)
    row = tf.constant(on)
    with tf.GradientTape() as tape:
        tape.watch(row)
        value = tf.reduce_sum(masked([*map(tf.constant, inputs), row]) ** 2)
    gradient = tape.gradient(value, row).numpy()[0]
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-8 * np.abs(gradient).max())


def test_gradient_per_sample(dense_net):
    """With one row per sample, each row's gradient is that of its own sample."""
    masked, x = with_on_nodes(dense_net), tf.constant(inputs_for(dense_net)[0])
    rows = tf.ones((4, 9))
    with tf.GradientTape() as tape:
        tape.watch(rows)
        total = tf.reduce_sum(masked([x, rows]) ** 2)
    together = tape.gradient(total, rows).numpy()
    for k in range(4):
        row = tf.ones((1, 9))
        with tf.GradientTape() as tape:
            tape.watch(row)
            total = tf.reduce_sum(masked([x[k : k + 1], row]) ** 2)
        np.testing.assert_allclose(tape.gradient(total, row)[0], together[k], rtol=1e-5, atol=1e-6)


# Subsets and replacements ---------------------------------------------------------------------------------------------


def test_a_subset_of_layers_has_only_their_columns():
    model = NETS["dense_chain"]()
    inputs, rows = inputs_for(model), random_masks(15, 1)[0]
    whole, part = with_on_nodes(model), with_on_nodes(model, layers=["third", "first"])
    assert part.inputs[-1].shape == (None, 9)
    rows[5:11] = True
    columns = np.r_[0:5, 11:15]
    np.testing.assert_array_equal(outputs_of(part, inputs, rows[columns]), outputs_of(whole, inputs, rows))


def test_one_layer_may_be_given_by_its_name_alone():
    model = NETS["dense_chain"]()
    assert with_on_nodes(model, layers="second").inputs[-1].shape == (None, 6)


def test_a_member_stands_for_its_group():
    masked = with_on_nodes(NETS["batch_norm"](), layers="branch")
    assert masked.inputs[-1].shape == (None, 4)


def test_layers_that_are_always_on_get_no_mask():
    model = NETS["lstm_stacked"]()
    masked = with_on_nodes(model, layers="third")
    assert [layer.name for layer in masked.layers if "on_nodes" in layer.name] == [ON_NODES, "out_on_nodes"]
    assert type(masked.get_layer("first")) is layers.LSTM


def test_replacement_stands_in(dense_net):
    """All of `first` off: the next layer reads the replacement; half off: a mixture."""
    means = {"first": [0.5, -1.0, 2.0, 0.0, 1.0]}
    masked = with_on_nodes(dense_net, replacement=LayerValues(means))
    (x,) = inputs_for(dense_net)
    first, second, out = (dense_net.get_layer(name) for name in ("first", "second", "out"))
    for amount in (0.0, 0.5):
        h = ops.convert_to_numpy(first(x))
        mixture = amount * h + (1 - amount) * np.array(means["first"])
        expected = ops.convert_to_numpy(out(second(mixture.astype("float32"))))
        row = np.r_[np.full(5, amount), np.ones(4)]
        np.testing.assert_allclose(outputs_of(masked, [x], row), expected, rtol=1e-5, atol=1e-6)


def test_replacement_may_leave_groups_out(dense_net):
    """A group without a replacement is plainly removed."""
    (x,) = inputs_for(dense_net)
    masked = with_on_nodes(dense_net, replacement=LayerValues({"first": np.ones(5)}))
    plain = with_on_nodes(dense_net)
    row = np.r_[np.ones(5), np.zeros(4)]
    np.testing.assert_array_equal(outputs_of(masked, [x], row), outputs_of(plain, [x], row))


def test_on_nodes_input_is_found(dense_net):
    assert on_nodes_input(dense_net) is None
    assert on_nodes_input(with_on_nodes(dense_net)) == 1
    assert on_nodes_input("no model") is None


# Bad input ------------------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda net: (keras.Sequential([layers.Dense(3)]),), ValueError, "not built"),
        (lambda net: (Subclassed(),), ValueError, "subclassed model .* not built, .*Call it on data once"),
        (lambda net: (net.layers[0],), TypeError, "expected a keras.Model, received Dense"),
        (lambda net: (with_on_nodes(net),), ValueError, "an input 'on_nodes' already"),
        (
            lambda net: (net, ["frist"]),
            ValueError,
            "'frist' is not a layer of model 'dense_net'. Did you mean 'first'?",
        ),
        (lambda net: (net, ["out"]), ValueError, "units of 'out' cannot be removed .*output of the model"),
        (lambda net: (net, []), ValueError, "no units that can be switched off"),
        (lambda net: (net, None, LayerValues({"frist": np.ones(5)})), ValueError, "replacement has unknown groups"),
        (lambda net: (net, None, LayerValues({"first": np.ones(4)})), ValueError, r"'first' expects the shape \(5,\)"),
        (lambda net: (net, None, LayerValues({"first": [np.nan] * 5})), ValueError, "finite values, received nan"),
        (
            lambda net: (net, ["second"], LayerValues({"first": np.ones(5)})),
            ValueError,
            "replacement has unknown groups",
        ),
    ],
)
def test_bad_input(dense_net, make, error, message):
    with pytest.raises(error, match=message):
        with_on_nodes(*make(dense_net))


def test_a_layer_without_units_is_no_group(conv_norm_net):
    with pytest.raises(ValueError, match="layer 'relu' makes no units that can be removed"):
        with_on_nodes(conv_norm_net, layers="relu")


def test_a_model_without_removable_units():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")])
    with pytest.raises(ValueError, match="no units that can be switched off"):
        with_on_nodes(model)


def test_a_row_of_the_wrong_length(dense_net):
    with pytest.raises(ValueError, match="expected shape=\\(None, 9\\)"):
        with_on_nodes(dense_net)([tf.zeros((4, 3)), tf.ones((1, 8))])


@pytest.mark.parametrize("cell", [layers.SimpleRNN, layers.GRU, layers.LSTM])
def test_replacement_reaches_into_the_recurrence(cell, generator):
    model = randomise(keras.Sequential([keras.Input((4, 3)), cell(5, name="cell"), layers.Dense(2)]))
    means = LayerValues({"cell": generator.normal(size=5)})
    masked = with_on_nodes(model, replacement=means)
    x = generator.normal(size=(6, 4, 3)).astype("float32")
    off = np.ones((1, 5), "float32")
    off[0, 2] = 0.0
    # By hand: what the constant adds through the unit's own recurrent row and through the head goes into the biases.
    by_hand = keras.models.clone_model(model)
    by_hand.set_weights(model.get_weights())
    inner, head = by_hand.layers[0].cell, by_hand.layers[1]
    recurrent, bias = (np.array(ops.convert_to_numpy(own)) for own in (inner.recurrent_kernel, inner.bias))
    part = bias[1] if bias.ndim == 2 else bias
    part += means["cell"][2] * recurrent[2]
    recurrent[2] = 0.0
    inner.recurrent_kernel.assign(recurrent)
    inner.bias.assign(bias)
    kernel, head_bias = head.get_weights()
    head_bias = head_bias + means["cell"][2] * kernel[2]
    kernel[2] = 0.0
    head.set_weights([kernel, head_bias])
    np.testing.assert_allclose(masked([x, off]), by_hand(x), atol=1e-5)
