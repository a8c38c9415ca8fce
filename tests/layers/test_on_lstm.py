"""The ordered neurons LSTM: its equations, what a recurrent layer of Keras can do, and its chunks as units."""

import doctest
import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import replicas_on_lstm as replicas
import tensorflow as tf
from conftest import randomise
from keras import layers

import tfprune
from tfprune.layers import ONLSTM, MaskedRNN, ONLSTMCell

FORMS = ["paper", "reverse"]


def filled(layer, width=3, seed=0):
    """A built layer with random weights."""
    layer.build((None, None, width))
    return randomise(layer, seed)


def made(units=6, chunk=2, width=3, **options):
    return filled(ONLSTM(units, chunk, **options), width)


def sequences(generator, batch=4, steps=5, width=3, dtype="float32"):
    return generator.normal(size=(batch, steps, width)).astype(dtype)


def by_hand(layer, x, **options):
    kernel, recurrent, bias = (np.asarray(weight) for weight in layer.get_weights()[:3])
    return replicas.on_lstm(
        x, kernel, recurrent, bias, layer.chunk_size, master_input=layer.cell.master_input, **options
    )


def numbers(tensor):
    return keras.ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("module", ["on_lstm", "on_lstm_cell"])
def test_examples_in_docstrings(module):
    module = importlib.import_module(f"tfprune.layers.{module}")
    results = doctest.testmod(module, extraglobs={"np": np})
    assert results.attempted > 0 and results.failed == 0


# Equations ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-13)])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("units", "chunk"), [(6, 2), (5, 1), (4, 4)])
def test_equations(units, chunk, form, dtype, tolerance, generator):
    """Chunks of several, of one, and one chunk of all."""
    layer = made(units, chunk, master_input=form, return_sequences=True, return_state=True, dtype=dtype)
    x = sequences(generator, dtype=dtype)
    expected = by_hand(layer, x)
    outputs, h, c = layer(x)
    np.testing.assert_allclose(outputs, expected["h"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(h, expected["h"][:, -1], rtol=0, atol=tolerance)
    np.testing.assert_allclose(c, expected["c"][:, -1], rtol=0, atol=tolerance)
    gates = layer.master_gates(x)
    np.testing.assert_allclose(gates.forget, expected["forget"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(gates.input, expected["input"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(gates.forget_distance, 1.0 - expected["forget"].mean(axis=-1), rtol=0, atol=tolerance)
    np.testing.assert_allclose(gates.input_distance, expected["input"].mean(axis=-1), rtol=0, atol=tolerance)


def test_the_two_forms_differ_at_the_ends(generator):
    """Nothing enters the last chunk of the paper's form, not even by rounding; the reverse form opens the first one."""
    x = sequences(generator, steps=9)
    paper, reverse = (made(8, 2, master_input=form, return_state=True) for form in FORMS)
    gates = paper.master_gates(x)
    assert not numbers(gates.input)[..., -1].any()
    assert (np.diff(numbers(gates.input)) < 0).all() and (np.diff(numbers(gates.forget)) > 0).all()
    assert not numbers(paper(x)[2])[:, -2:].any() and numbers(paper(x)[2])[:, :-2].all()
    other = numbers(reverse.master_gates(x).input)
    np.testing.assert_allclose(other[..., 0], 1.0, rtol=1e-6)
    assert (other[..., -1] > 0).all() and numbers(reverse(x)[2]).all()


def test_what_stands_at_the_last_chunk_at_the_start_fades_by_nothing(generator):
    """Its forget gate is one: a state that is given stays, as nothing comes in."""
    layer = made(6, 2, return_state=True, dtype="float64")
    start = [generator.normal(size=(4, 6)) for _ in range(2)]
    c = layer(sequences(generator, dtype="float64"), initial_state=start)[2]
    np.testing.assert_allclose(numbers(c)[:, -2:], start[1][:, -2:], rtol=1e-12)


# What a recurrent layer of Keras can do -------------------------------------------------------------------------------


@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("backwards", [False, True])
def test_masks_and_states_that_go_in_and_out(backwards, unroll, generator):
    layer = made(
        return_sequences=True, return_state=True, go_backwards=backwards, unroll=unroll, master_input="reverse"
    )
    x, start = sequences(generator), [generator.normal(size=(4, 6)).astype("float32") for _ in range(2)]
    mask = generator.random((4, 5)) < 0.6
    mask[:, [0, -1]] = True
    seen, own = (x[:, ::-1], mask[:, ::-1]) if backwards else (x, mask)
    expected = by_hand(layer, seen, start=start, mask=own)
    found = layer(x, initial_state=start, mask=mask)
    np.testing.assert_allclose(found[0], expected["h"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(found[2], expected["c"][:, -1], rtol=0, atol=2e-6)
    gates = layer.master_gates(x, initial_state=start, mask=mask)
    np.testing.assert_allclose(gates.forget, expected["forget"], rtol=0, atol=2e-6)


def test_outputs_of_masked_steps_can_be_zero(generator):
    layer = made(return_sequences=True, zero_output_for_mask=True)
    mask = np.array([[True, False, True, False, True]] * 4)
    found = numbers(layer(sequences(generator), mask=mask))
    assert not found[:, [1, 3]].any() and found[:, [0, 2, 4], :4].all()


def test_the_mask_of_an_embedding_arrives(generator):
    x = keras.Input((5,), dtype="int32")
    h = layers.Embedding(9, 3, mask_zero=True)(x)
    model = randomise(keras.Model(x, ONLSTM(6, 2, name="rnn")(h)))
    words = np.array([[3, 4, 5, 0, 0], [1, 2, 3, 4, 0]])
    alone = model.get_layer("rnn")(model.layers[1](words[:1, :3]))
    np.testing.assert_allclose(model(words)[:1], alone, rtol=1e-6)


def test_stateful_goes_on_where_the_last_batch_ended(generator):
    x = sequences(generator, steps=8)
    plain, stateful = made(return_sequences=True), ONLSTM(6, 2, return_sequences=True, stateful=True)
    stateful.build((4, 4, 3))
    stateful.set_weights(plain.get_weights())
    whole = plain(x)
    np.testing.assert_allclose(stateful(x[:, :4]), whole[:, :4], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(stateful(x[:, 4:]), whole[:, 4:], rtol=1e-6, atol=1e-7)
    stateful.reset_state()
    np.testing.assert_allclose(stateful(x[:, :4]), whole[:, :4], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("merge_mode", ["concat", "sum"])
def test_two_directions(merge_mode, generator):
    both = layers.Bidirectional(ONLSTM(6, 2, return_sequences=True), merge_mode=merge_mode)
    x = sequences(generator)
    both(x)
    randomise(both)
    forward = by_hand(both.forward_layer, x)["h"]
    backward = by_hand(both.backward_layer, x[:, ::-1])["h"][:, ::-1]
    expected = np.concatenate([forward, backward], axis=-1) if merge_mode == "concat" else forward + backward
    np.testing.assert_allclose(both(x), expected, rtol=0, atol=2e-6)


def test_an_rnn_around_the_cell_is_the_layer(generator):
    layer, around = made(), layers.RNN(ONLSTMCell(6, 2))
    x = sequences(generator)
    around(x)
    around.set_weights(layer.get_weights())
    np.testing.assert_array_equal(around(x), layer(x))


def test_activations_and_no_bias(generator):
    layer = made(activation="softsign", recurrent_activation="hard_sigmoid", use_bias=False, return_sequences=True)
    assert layer.cell.bias is None and len(layer.weights) == 2
    assert not np.allclose(layer(sequences(generator)), made(return_sequences=True)(sequences(generator)))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_other_precisions(policy, generator):
    x = sequences(generator)
    layer, exact = (made(return_sequences=True, dtype=own) for own in (policy, "float32"))
    found = layer(x)
    assert found.dtype == (policy.removeprefix("mixed_"))
    np.testing.assert_allclose(tf.cast(found, "float32"), exact(x), rtol=0, atol=2e-2)
    gates = layer.master_gates(x)
    assert gates.forget.dtype == found.dtype and not numbers(tf.cast(gates.input, "float32"))[..., -1].any()


@pytest.mark.slow
def test_saves_and_loads_where_only_the_package_was_imported(tmp_path, generator):
    x = keras.Input((5, 3))
    h = layers.Bidirectional(ONLSTM(6, 2, dropconnect=0.3, return_sequences=True), name="both")(x)
    h = layers.RNN(ONLSTMCell(4, 2, master_input="reverse"), return_sequences=True)(h)
    options = {"recurrent_regularizer": keras.regularizers.L2(0.1), "kernel_constraint": "non_neg", "seed": 3}
    h = ONLSTM(6, 3, dropout=0.1, recurrent_dropout=0.2, activity_regularizer="l2", name="last", **options)(h)
    model = randomise(keras.Model(x, layers.Dense(2)(h)))
    small = tfprune.remove(model, {"both/forward/chunks": [True, False, True], "last/chunks": [False, True]})
    assert small.get_layer("both").backward_layer.levels == (0, 2)
    data = sequences(generator)
    for name, own in (("model", model), ("small", small)):
        own.save(tmp_path / f"{name}.keras")
        np.save(tmp_path / f"{name}.npy", own(data))
    np.save(tmp_path / "x.npy", data)
    program = (
        "import sys, numpy as np, keras, tfprune\n"
        "for name in ('model', 'small'):\n"
        "    model = keras.saving.load_model(f'{sys.argv[1]}/{name}.keras')\n"
        "    print(np.abs(model(np.load(f'{sys.argv[1]}/x.npy')) - np.load(f'{sys.argv[1]}/{name}.npy')).max())\n"
        "print(model.get_layer('last').get_config() | {'dtype': None})\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    one, other, config = done.stdout.splitlines()
    assert float(one) < 1e-6 and float(other) < 1e-6
    assert config == str(small.get_layer("last").get_config() | {"dtype": None})
    assert "'levels': [1]" in config and "'num_levels': 2" in config and "'l2': 0.1" in config.lower()


def test_a_configuration_makes_the_same_layer_again():
    options = {"recurrent_regularizer": keras.regularizers.L2(0.1), "kernel_constraint": "non_neg", "seed": 3}
    for layer in (
        ONLSTM(6, 3, 0.2, "reverse", dropout=0.1, activity_regularizer="l2", go_backwards=True, name="rnn", **options),
        ONLSTM(4, 2, num_levels=5, levels=[3, 1], activation="relu", use_bias=False, dtype="mixed_float16"),
    ):
        again = ONLSTM.from_config(layer.get_config())
        assert again.get_config() == layer.get_config() and again.cell.get_config() == layer.cell.get_config()


@pytest.mark.slow
def test_trains_with_padding_weights_and_a_dataset(generator):
    """The first word counts: learned from batches of a tf.data.Dataset with sample weights."""
    words = generator.integers(1, 5, (64, 6)) * (np.arange(6) < generator.integers(2, 7, (64, 1)))
    targets = words[:, 0] - 1
    model = keras.Sequential(
        [
            layers.Embedding(5, 8, mask_zero=True),
            ONLSTM(12, 3, dropconnect=0.1, dropout=0.1, recurrent_dropout=0.1),
            layers.Dense(4),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, weighted_metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((words, targets, np.ones(64, "float32"))).batch(16)
    model.fit(data, epochs=15, shuffle=False, verbose=0)
    assert model.evaluate(data, verbose=0, return_dict=True)["accuracy"] > 0.95


# Dropout and DropConnect ----------------------------------------------------------------------------------------------


def test_dropconnect_drops_the_same_weights_at_all_steps_and_scales_the_others(generator):
    layer = made(return_sequences=True, dropconnect=0.4, seed=3)
    x, state = sequences(generator), layer.cell.seed_generator.state
    before = state.numpy()
    kernel, recurrent, bias = (numbers(weight) for weight in layer.trainable_weights)
    dropped = numbers(layer.cell.get_connected_kernel())
    kept = dropped != 0
    assert 0.45 < kept.mean() < 0.75
    np.testing.assert_allclose(dropped[kept], recurrent[kept] / 0.6, rtol=1e-6)
    layer.cell.reset_dropout_mask()
    state.assign(before)
    found = layer(x, training=True)
    expected = replicas.on_lstm(x, kernel, dropped, bias, 2)["h"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    assert not np.allclose(layer(x, training=True), found)
    np.testing.assert_allclose(layer(x), by_hand(layer, x)["h"], rtol=0, atol=2e-6)


def test_dropconnect_in_a_compiled_loop_draws_anew_for_every_batch(generator):
    layer, x = made(dropconnect=0.5, seed=1), sequences(generator)
    run = tf.function(lambda x: layer(x, training=True))
    one, other = run(x), run(x)
    assert not np.allclose(one, other)
    assert layer.cell._connected_kernel is None


def test_dropout_of_inputs_and_states(generator):
    """With inputs all dropped but for the scale, only the bias speaks; recurrent dropout alone leaves step one."""
    x = sequences(generator)
    inputs, states = (
        made(return_sequences=True, dropout=0.5, seed=0),
        made(return_sequences=True, recurrent_dropout=0.5),
    )
    plain = numbers(inputs(x))
    assert not np.allclose(inputs(x, training=True), plain)
    found = numbers(states(x, training=True))
    np.testing.assert_allclose(found[:, 0], plain[:, 0], rtol=1e-6)
    assert not np.allclose(found[:, 1:], plain[:, 1:])


def test_twin_and_layer_drop_the_same(generator):
    layer = made(dropout=0.3, recurrent_dropout=0.3, dropconnect=0.3, seed=3)
    x, state = sequences(generator), layer.cell.seed_generator.state
    before = state.numpy()
    plain = layer(x, training=True)
    state.assign(before)
    np.testing.assert_allclose(MaskedRNN(layer)(x, training=True, on_nodes=[np.ones((1, 6))]), plain, rtol=1e-5)


# Chunks as units ------------------------------------------------------------------------------------------------------


def language_model(form="paper", **options):
    """Words -> embedding 4 -> ON-LSTM of 8 in chunks of 2 -> words."""
    x = keras.Input((None,), dtype="int32", name="x")
    h = layers.Embedding(9, 4, mask_zero=True, name="embedding")(x)
    h = ONLSTM(8, 2, master_input=form, return_sequences=True, name="rnn", **options)(h)
    return randomise(keras.Model(x, layers.Dense(9, name="out")(h)))


def words(generator, batch=6, steps=7):
    return generator.integers(1, 9, (batch, steps)).astype("int32")


def test_a_unit_is_a_chunk_and_the_table_says_so():
    graph = tfprune.unit_groups(language_model())
    assert graph.sizes == {"embedding": 4, "rnn/chunks": 4} and "rnn/chunks" in repr(graph)
    group = graph["rnn/chunks"]
    assert group.exits == ("rnn", "out") and graph.choose("rnn") == ("rnn/chunks",)
    np.testing.assert_array_equal(group.members[0].homes[0].units, [0, 0, 1, 1, 2, 2, 3, 3])
    # Two of 8 rows and 4 x 2 of 40 columns of kernels and bias, and two rows of the head. Master gates stay.
    assert group.parameters_per_unit == 4 * 8 + (8 * 40 - 6 * 32) + 8 + 2 * 9


def test_masked_is_the_loop_without_what_is_off(generator):
    """Each sample with its own chunks; what the head reads is masked apart from that."""
    layer = made(8, 2, return_sequences=True)
    x, on = sequences(generator), np.array([[1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    found = numbers(MaskedRNN(layer)(x, on_nodes=[np.repeat(on, 2, axis=1).astype("float32")]))
    for k in range(4):
        expected = by_hand(layer, x[k : k + 1], on=np.repeat(on[k], 2))["h"][0]
        np.testing.assert_allclose(found[k], expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_removed_chunk_leaves_the_master_gates_as_they_are(form, generator):
    """The softmaxes run over all levels; only what the gone chunk's h told the gates is gone."""
    model, x = language_model(form), words(generator)
    recurrent = model.get_layer("rnn").cell.recurrent_kernel
    value = recurrent.numpy()
    value[2:4] = 0.0
    recurrent.assign(value)
    small = tfprune.remove(model, {"rnn/chunks": [True, False, True, True]})
    cell = small.get_layer("rnn").cell
    assert (cell.units, cell.num_levels, cell.levels) == (6, 4, (0, 2, 3))
    assert cell.kernel.shape == (4, 8 + 24)
    before, after = (
        own.get_layer("rnn").master_gates(own.get_layer("embedding")(x), mask=x > 0) for own in (model, small)
    )
    np.testing.assert_allclose(after.forget, before.forget, rtol=0, atol=1e-6)
    np.testing.assert_allclose(after.input_distance, before.input_distance, rtol=0, atol=1e-6)


def test_remove_dead_takes_the_last_chunk_of_the_papers_form_alone(generator):
    x = words(generator)
    for form, left in (("paper", (0, 1, 2)), ("reverse", (0, 1, 2, 3))):
        model = language_model(form)
        small = tfprune.remove_dead(model, tf.data.Dataset.from_tensor_slices(x).batch(4))
        assert small.get_layer("rnn").levels == left and small.get_layer("rnn").num_levels == 4
        np.testing.assert_allclose(small(x), model(x), rtol=0, atol=1e-6)
    graph = tfprune.unit_groups(model)
    gone = model.count_params() - tfprune.remove_dead(language_model(), x).count_params()
    assert gone == graph["rnn/chunks"].parameters_per_unit


def test_a_last_chunk_that_starts_with_something_is_not_dead(generator):
    """A state that goes in stays there for good."""
    h, c, x = keras.Input((6,)), keras.Input((6,)), keras.Input((5, 3))
    state = [layers.Dense(6, name="of_h")(h), layers.Dense(6, name="of_c")(c)]
    model = randomise(keras.Model([x, h, c], layers.Dense(2)(ONLSTM(6, 2, name="rnn")(x, initial_state=state))))
    data = [sequences(generator), *(generator.normal(size=(4, 6)).astype("float32") for _ in range(2))]
    small = tfprune.remove_dead(model, data)
    assert small.get_layer("rnn").levels == (0, 1, 2)
    np.testing.assert_allclose(small(data), model(data), rtol=0, atol=1e-6)


@pytest.mark.parametrize("repair", ["mean", "affine", pytest.param("least_squares", marks=pytest.mark.slow)])
def test_repairs(repair, generator):
    """The mean of what the recurrent kernel reads goes into its bias, master gates included; fits come closer yet."""
    model, x = language_model("reverse"), words(generator, 400)
    mask = {"rnn/chunks": [True, False, True, False]}
    exact = numbers(model(x))
    zero, found = (tfprune.remove(model, mask, repair=own, data=x) for own in ("zero", repair))
    error, before = (np.mean((numbers(own(x)) - exact) ** 2) for own in (found, zero))
    assert error < (0.9 if repair == "mean" else 0.5) * before
    if repair == "mean":
        cell, h = model.get_layer("rnn").cell, by_hand(model.get_layer("rnn"), model.get_layer("embedding")(x))["h"]
        entering = np.concatenate([np.zeros((400, 1, 8)), h[:, :-1]], axis=1).mean(axis=(0, 1))
        off = np.array([2, 3, 6, 7])
        added = entering[off] @ cell.recurrent_kernel.numpy()[off]
        stays = np.r_[np.arange(8), 8 + np.add.outer(np.arange(4) * 8, [0, 1, 4, 5]).ravel()]
        expected = (cell.bias.numpy() + added)[stays]
        np.testing.assert_allclose(found.get_layer("rnn").cell.bias, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_scores_have_one_number_for_each_chunk_and_the_dead_one_the_lowest(generator):
    model = language_model()
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = words(generator, 320)
    data = (x, np.roll(x, -1, axis=1))
    for score in ("on_nodes_gradient", "activation_std", "least_squares"):
        found = getattr(tfprune.saliency, score)(model, data)["rnn/chunks"]
        assert found.shape == (4,) and found.argmin() == 3 and found[3] == pytest.approx(0.0, abs=1e-5), score
    assert tfprune.saliency.loss_change(model, data)["rnn/chunks"][3] == pytest.approx(0.0, abs=1e-7)
    assert tfprune.saliency.zero_fraction(model, data)["rnn/chunks"].shape == (4,)


@pytest.mark.parametrize(
    ("form", "levels"), [("paper", (0, 1, 2, 3, 0, 1, 2, 0)), ("reverse", (0, 1, 2, 3, 0, 1, 2, 3))]
)
def test_new_chunks_share_levels_that_something_enters(form, levels, generator):
    """So the function stays, and training reaches what is new; removal takes it back."""
    model, x = language_model(form), words(generator)
    wide = tfprune.widen(model, {"rnn/chunks": 8})
    assert wide.get_layer("rnn").levels == levels and wide.get_layer("rnn").units == 16
    np.testing.assert_allclose(wide(x), model(x), rtol=0, atol=1e-6)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(wide(x)))
    gradient = numbers(tape.gradient(loss, wide.get_layer("out").kernel.value))
    assert (np.abs(gradient[8:]) > 0).all()
    back = tfprune.remove(wide, {"rnn/chunks": np.arange(8) < 4})
    assert back.get_layer("rnn").levels == (0, 1, 2, 3)
    np.testing.assert_array_equal(back(x), model(x))


def test_inside_a_nested_model_that_is_called_twice(generator):
    """Shared weights, two inputs: both calls lose the same chunks."""
    one, other = keras.Input((5, 3)), keras.Input((5, 3))
    x = keras.Input((5, 3))
    inner = keras.Model(x, ONLSTM(6, 2, master_input="reverse", name="rnn")(x), name="inner")
    model = randomise(keras.Model([one, other], layers.Dense(2)(layers.Concatenate()([inner(one), inner(other)]))))
    data = [sequences(generator), sequences(generator)]
    mask = {"inner/rnn/chunks": np.array([True, False, True])}
    small = tfprune.remove(model, mask)
    masked = tfprune.with_on_nodes(model)([*data, tfprune.unit_groups(model).on_nodes(mask)])
    np.testing.assert_allclose(small(data), masked, rtol=1e-5, atol=1e-6)


# Borders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ONLSTM, ONLSTMCell])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((10, 4), {}, ValueError, "chunk_size: 4 does not divide the 10 units.*Near it 2 and 5 do"),
        ((4, 8), {}, ValueError, "chunk_size: 8 does not divide the 4 units"),
        ((0, 1), {}, ValueError, "units: expected a whole number of at least 1, received 0"),
        ((4, -2), {}, ValueError, "chunk_size: expected a whole number of at least 1, received -2"),
        ((4.0, 2), {}, TypeError, r"units: expected a whole number, received 4\.0"),
        ((4, True), {}, TypeError, "chunk_size: expected a whole number, received True"),
        ((4, 2, 1.0), {}, ValueError, r"dropconnect: expected a share from 0 to below 1, received 1\.0"),
        ((4, 2), {"dropconnect": -0.1}, ValueError, r"dropconnect: expected a share from 0 to below 1, received -0\.1"),
        ((4, 2), {"dropout": "half"}, ValueError, "dropout: expected a share from 0 to below 1, received 'half'"),
        ((4, 2), {"master_input": "bojone"}, ValueError, "master_input: expected 'paper' or 'reverse', received 'bojo"),
        ((4, 2), {"levels": [0, 2]}, ValueError, r"levels: expected one level for each of the 2 chunks.*\[0, 2\]"),
        ((4, 2), {"levels": [0, -1]}, ValueError, r"levels: expected one level for each.*from 0 to.*\[0, -1\]"),
        ((4, 2), {"levels": [0]}, ValueError, "levels: expected one level for each of the 2 chunks"),
        ((4, 2), {"num_levels": 1}, ValueError, "levels: expected one level for each of the 2 chunks"),
        ((4, 2), {"num_levels": 2.5}, TypeError, r"num_levels, levels: expected whole numbers, received 2\.5"),
    ],
)
def test_what_does_not_fit_is_refused(make, arguments, options, error, message):
    with pytest.raises(error, match=message):
        make(*arguments, **options)


def test_gates_of_sequences_that_do_not_fit(generator):
    layer = made(name="rnn")
    with pytest.raises(ValueError, match=r"sequences: 'rnn' expects shape \(batch, steps, 3\), received \(4, 5, 2\)"):
        layer.master_gates(sequences(generator, width=2))
    with pytest.raises(ValueError, match="sequences: 'rnn' expects shape"):
        layer.master_gates(np.zeros((4, 3), "float32"))


def test_a_stateful_layer_is_a_wall():
    x = keras.Input(batch_shape=(2, 4, 3))
    model = keras.Model(x, layers.Dense(2)(ONLSTM(4, 2, stateful=True, name="rnn")(x)))
    assert "keeps its state" in tfprune.unit_groups(model).walls["rnn"]
