"""Neurons held at a value or shifted, against loops in float64."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for, outputs_of
from replicas import lstm

from tfprune import LayerValues, neurons, unit_groups, with_on_nodes
from tfprune.masking import has_values_before, masked_before
from tfprune.neurons import activations, class_shift, control


def sequence_net():
    x = keras.Input((6,), name="x", dtype="int32")
    h = layers.Embedding(9, 3, mask_zero=True, name="embedding")(x)
    h = layers.LSTM(4, return_sequences=True, name="lstm")(h)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h)))


WORDS = np.array([[1, 2, 3, 4, 5, 6], [7, 8, 1, 2, 0, 0]])


@pytest.mark.parametrize("positions", [None, [1, -2], "input"])
@pytest.mark.parametrize("relative", [False, True])
def test_a_recurrent_layer_goes_on_from_what_stands_in(positions, relative):
    model = sequence_net()
    off, number = np.array([False, True, False, True]), 0.7
    wanted = {None: list(range(-1, 6)), "input": [0, 3]}.get(str(positions) if positions else None, [1, 4])
    rows = np.zeros((2, 6))
    rows[:, [0, 3]] = 1

    def change(h, sample, step):
        return np.where(off, h + number if relative else number, h) if step in wanted else h

    embedded = model.get_layer("embedding").get_weights()[0][WORDS]
    hidden, _ = lstm(embedded, *model.get_layer("lstm").get_weights(), change, WORDS > 0)
    kernel, bias = (np.asarray(own, "float64") for own in model.get_layer("out").get_weights())
    how = {"shift": number} if relative else {"value": number}
    built = control(model, {"lstm": [1, 3]}, positions=positions, **how)
    found = np.asarray(built([WORDS, rows] if positions == "input" else WORDS))
    kept = WORDS > 0  # Keras gives anything at masked steps.
    np.testing.assert_allclose(found[kept], (hidden @ kernel + bias)[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("positions", [[1, -1], "input"])
def test_positions_where_the_number_of_steps_is_open(positions):
    x = keras.Input((None, 3), name="x")
    model = randomise(keras.Model(x, layers.Dense(2)(layers.LSTM(4, return_sequences=True, name="lstm")(x))))
    built = control(model, "lstm[1]", 1.0, positions=positions)
    rows = np.zeros((2, 5), "float32")
    rows[:, [1, 4]] = 1
    steps = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    given = [steps, rows] if positions == "input" else [steps]
    signature = [tf.TensorSpec([None, None, *own.shape[2:]]) for own in given]
    run = tf.function(lambda *own: built(list(own) if len(own) > 1 else own[0]), input_signature=signature)
    expected = np.asarray(built(given if len(given) > 1 else steps))
    np.testing.assert_allclose(np.asarray(run(*given)), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(expected, np.asarray(model(steps)), atol=1e-5)


def test_z_is_measured_where_the_neurons_show_and_masked_steps_do_not_count():
    model = sequence_net()
    hidden = activations(model, WORDS, "lstm", points="steps", progress=False)["lstm"]
    assert len(hidden) == 10
    level = hidden.mean(axis=0) + 1.5 * hidden.std(axis=0)
    by_z = np.asarray(control(model, "lstm[2]", z=1.5, data=WORDS)(WORDS))
    np.testing.assert_allclose(by_z, np.asarray(control(model, "lstm[2]", float(level[2]))(WORDS)), atol=1e-5)
    found = activations(model, WORDS, points="positions", progress=False)
    np.testing.assert_allclose(by_z, np.asarray(control(model, "lstm[2]", z=1.5, data=found)(WORDS)), atol=1e-5)


def test_values_by_name_masks_and_labels_mean_the_same():
    model = NETS["dense_chain"]()
    (x,) = inputs_for(model)
    name = unit_groups(model).names[0]
    size = unit_groups(model)[name].size
    values = {name: np.arange(size) / 3}
    expected = np.asarray(control(model, {name: [0, 2]}, values)(x))
    mask = np.isin(np.arange(size), [0, 2])
    for same in ([f"{name}[0]", f"{name}[2]"], {name: mask}, LayerValues({name: mask})):
        np.testing.assert_array_equal(np.asarray(control(model, same, values)(x)), expected)
    np.testing.assert_array_equal(np.asarray(control(model, {name: [0]}, shift=0.0)(x)), np.asarray(model(x)))


@pytest.mark.parametrize("name", ["lstm_states", "encoder_decoder_lstm", "bidirectional_none", "recurrent_cells"])
def test_states_that_are_given_out_are_replaced_too(name):
    model = NETS[name]()
    inputs = inputs_for(model)
    for group in unit_groups(model):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "neurons: the units of .* are made by several layers")
            built = control(model, {group: list(range(unit_groups(model)[group].size))}, shift=0.0)
        np.testing.assert_allclose(outputs_of(built, inputs), outputs_of(model, inputs), atol=1e-5)


def test_a_state_is_replaced_where_a_dense_layer_reads_it():
    x = keras.Input((5, 3))
    _, h, _ = layers.LSTM(4, return_state=True, name="lstm")(x)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    kernel, bias = model.get_layer("out").get_weights()
    built = control(model, {"lstm": range(4)}, 0.25)
    found = np.asarray(built(np.ones((2, 5, 3), "float32")))
    np.testing.assert_allclose(found, np.tile(0.25 * kernel.sum(axis=0) + bias, (2, 1)), rtol=1e-5)


NOT_THE_SAME = {
    "einsum_per_unit": "their kernel per unit has a bias",
    "depthwise_conv_1d": "their kernel per unit has a bias",
    "channels_first": "a norm behind a transposition moves zero",
    "time_distributed": "a norm behind their activation, inside TimeDistributed, moves zero",
    "batch_norm": "a norm that others share moves zero",
    "layer_norm": "its lengths are those of what is left",
    "group_norm": "its lengths are those of what is left",
    "mixer": "its lengths are those of what is left",
    "constant_arrays": "constants are added to them",
    "recurrent_cells": "a mask ends the states c, too",
    "lstm_states": "a mask ends the states c, too",
    "attention_grouped": "what attention gives out is tied to them",
}
"""Where a unit that is held at zero is not a masked one, and why."""


QUICK = (
    *["dense_chain", "conv_2d", "einsum_two_new_axes", "grouped_conv_position", "embedding_mask", "masking"],
    *["lstm_stacked", "lstm_states", "on_lstm", "time_distributed", "attention_self", "batch_norm", "mixer", "siamese"],
    *["shared_tower", "shared_recurrent", "split_convolutions", "nested_twice", "nested_in_nested", "mixed_precision"],
)
EVERY_NET = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in NETS]


@pytest.mark.parametrize("name", EVERY_NET)
def test_held_at_zero_is_masked(name):
    """Units of one layer that show: a mask acts where they are read, and sees the same zero."""
    model = NETS[name]()
    graph, inputs = unit_groups(model), inputs_for(model)
    alike = []
    for group in graph.values():
        if len(group.members) > 1 or not group.members[0].homes:
            continue
        off, mask = np.arange(group.size) % 2 == 0, np.ones((1, graph.num_units), "float32")
        mask[0, group.start :][: group.size][off] = 0.0
        held = outputs_of(control(model, {group.name: off}, 0.0), inputs)
        masked = outputs_of(with_on_nodes(model), [*inputs, mask])
        alike.append(np.allclose(held, masked, rtol=1e-3, atol=1e-4))
    assert all(alike) is (name not in NOT_THE_SAME)


def shows_what_its_layer_gives(group, graph):
    """Whether the units of one layer alone show in what it gives out, without an activation."""
    (member, *others) = group.members
    given = {id(node.outputs[0]) for node in member.operation._inbound_nodes}
    linear = getattr(member.operation, "activation", None) in (None, keras.activations.linear)
    made = member.homes and given.issuperset(id(home.tensor) for home in member.homes)
    return not others and made and linear and has_values_before(graph, group.name)


@pytest.mark.parametrize("name", EVERY_NET)
def test_held_is_replaced_before_a_linear_activation(name, generator):
    """`place="before"` and holding meet where there is no activation, one group at a time of a mask of all."""
    model = NETS[name]()
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense | layers.Conv2D | layers.EinsumDense):
            layer.activation = keras.activations.linear
    graph, inputs = unit_groups(model), inputs_for(model)
    chosen = [group for group in graph.values() if has_values_before(graph, group.name)]
    if not any(shows_what_its_layer_gives(group, graph) for group in chosen):
        pytest.skip("no units show in what their layers give out")
    values = LayerValues({group.name: generator.normal(size=group.size) for group in chosen})
    names = [f"{own.name}#1" if f"{own.name}#2" in graph else own.name for own in chosen]
    masked = masked_before(model, names, values).model
    for group in chosen:
        if shows_what_its_layer_gives(group, graph):
            off = np.arange(group.size) % 2 == 0
            held = outputs_of(control(model, {group.name: off}, LayerValues({group.name: values[group.name]})), inputs)
            mask = np.concatenate([~off if own is group else np.ones(own.size) for own in chosen])
            found = outputs_of(masked, [*inputs, mask[None].astype("float32")])
            tolerance = 1e-2 if name == "mixed_precision" else 1e-4
            np.testing.assert_allclose(found, held, rtol=1e-3, atol=tolerance)


def test_every_call_of_a_recurrent_layer_goes_on_from_what_stands_in(generator):
    x, y = keras.Input((6, 3), name="x"), keras.Input((6, 3), name="y")
    shared = layers.LSTM(4, return_sequences=True, name="shared")
    model = randomise(keras.Model([x, y], layers.Dense(2, name="out")(layers.Concatenate()([shared(x), shared(y)]))))
    given = [generator.normal(size=(5, 6, 3)).astype("float32") for _ in range(2)]
    off, number = np.array([False, True, True, False]), 0.4
    hidden = [lstm(own, *shared.get_weights(), lambda h, sample, step: np.where(off, number, h))[0] for own in given]
    kernel, bias = model.get_layer("out").get_weights()
    found = np.asarray(control(model, {"shared": off}, number)(given))
    np.testing.assert_allclose(found, np.concatenate(hidden, axis=-1) @ kernel + bias, rtol=1e-4, atol=1e-5)


def two_directions(merge_mode="concat"):
    x = keras.Input((6, 3), name="x")
    both = layers.Bidirectional(layers.LSTM(4, return_sequences=True), merge_mode=merge_mode, name="both")(x)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(both)))


HELD = {
    "one direction": {"both/forward": ([1, 3], [0.7, -0.2])},
    "the other": {"both/backward": ([0], [0.4])},
    "both, at different values": {"both/forward": ([1], [0.7]), "both/backward": ([1, 2], [0.1, -0.6])},
}


@pytest.mark.parametrize("how", ["value", "z", "shift"])
@pytest.mark.parametrize("held", HELD)
def test_each_direction_is_held_alone(held, how, generator):
    model, x = two_directions(), generator.normal(size=(5, 6, 3)).astype("float32")
    weights = model.get_layer("both").get_weights()
    hidden, numbers = [], {}
    for number, name in enumerate(["both/forward", "both/backward"]):
        steps, own = x[:, :: 1 - 2 * number], weights[3 * number : 3 * number + 3]
        units, wanted = HELD[held].get(name, ([], []))
        free, level = lstm(steps, *own)[0].reshape(-1, 4), np.zeros(4)
        level[units] = wanted
        stands = {"value": level, "z": free.mean(axis=0) + level * free.std(axis=0), "shift": level}[how]
        off = np.isin(np.arange(4), units)

        def change(h, sample, step, off=off, stands=stands):
            return np.where(off, stands + (h if how == "shift" else 0.0), h)

        hidden.append(lstm(steps, *own, change)[0][:, :: 1 - 2 * number])
        numbers |= {name: level} if units else {}
    kernel, bias = model.get_layer("out").get_weights()
    chosen = {name: units for name, (units, _) in HELD[held].items()}
    built = control(model, chosen, **{how: LayerValues(numbers)}, data=x if how == "z" else None)
    expected = np.concatenate(hidden, axis=-1) @ kernel + bias
    np.testing.assert_allclose(np.asarray(built(x)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("merge_mode", ["sum", "ave", "mul"])
def test_directions_that_are_merged_are_held_together(merge_mode, generator):
    model, x = two_directions(merge_mode), generator.normal(size=(5, 6, 3)).astype("float32")
    merged = np.array(model.get_layer("both")(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        built = control(model, "both/forward[2]", z=1.5, data=x)
    merged[..., 2] = merged[..., 2].mean() + 1.5 * merged[..., 2].std()
    np.testing.assert_allclose(np.asarray(built(x)), np.asarray(model.get_layer("out")(merged)), atol=1e-5)
    with pytest.raises(ValueError, match=f"merged by '{merge_mode}'.*Name its group.*'both/forward'"):
        control(model, "both/backward[2]", 1.0)


def test_the_model_is_left_alone_saved_and_loaded(tmp_path):
    model = sequence_net()
    before = [own.copy() for own in model.get_weights()]
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    built = control(model, "lstm[0]", 1.0)
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    built.save(tmp_path / "controlled.keras")
    loaded = keras.models.load_model(tmp_path / "controlled.keras")
    np.testing.assert_array_equal(np.asarray(loaded(WORDS)), np.asarray(built(WORDS)))


def test_a_class_shift_moves_means_and_falls_along_a_ranking():
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(50, 3)), np.array(["past", "now"] * 25)
    shift = class_shift({"hidden": values}, labels, source="past", target="now", beta=1.0)
    moved = values[labels == "past"] + shift["hidden"]
    np.testing.assert_allclose(moved.mean(axis=0), values[labels == "now"].mean(axis=0))
    scaled = class_shift(
        {"hidden": values}, labels, source="past", target="now", ranking={"hidden": np.array([0.1, 3.0, 1.0])}
    )
    np.testing.assert_allclose(scaled["hidden"] / shift["hidden"], [1e-3, 8.0, np.sqrt(8e-3)])


def test_a_group_of_several_layers_warns_which_one_is_replaced():
    x = keras.Input((3,))
    h = layers.Add()([layers.Dense(2, name="one")(x), layers.Dense(2, name="other")(x)])
    model = randomise(keras.Model(x, layers.Dense(1)(h)))
    with pytest.warns(UserWarning, match="made by several layers.*one, other.*Only what 'one' gives is replaced"):
        control(model, "one[0]", 1.0)
    control(model, "other[0]", 1.0)


NET = NETS["dense_chain"]
NAME = unit_groups(NETS["dense_chain"]()).names[0]
BAD = {
    "exactly one of value, z and shift, received none of them": dict(neurons={NAME: 0}),
    "exactly one of value, z and shift, received value, z": dict(neurons={NAME: 0}, value=1.0, z=1.0),
    "z needs `data`": dict(neurons={NAME: 0}, z=1.0),
    "has the units 0 to": dict(neurons={NAME: 99}, value=1.0),
    "nothere": dict(neurons={"nothere": 0}, value=1.0),
    "there is none": dict(neurons={NAME: []}, value=1.0),
    "NaN or infinite": dict(neurons={NAME: 0}, value=float("nan")),
    "expects one number, or one for each": dict(neurons={NAME: 0}, value={NAME: [1.0, 2.0]}),
    "has no axis of steps": dict(neurons={NAME: 0}, value=1.0, positions=[0]),
    "expected numbers of steps": dict(neurons={NAME: 0}, value=1.0, positions="first"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        control(NET(), **BAD[message])


def test_neurons_of_no_kind_that_can_be_read():
    with pytest.raises(TypeError, match=r"expected \{group: units\} or labels such as 'hidden\[3\]', received 3"):
        control(NET(), 3, 1.0)
    with pytest.raises(TypeError, match="expects numbers of units, or a mask of bool"):
        control(NET(), {NAME: 0.5}, 1.0)


def test_steps_that_do_not_exist_and_rankings():
    with pytest.raises(ValueError, match="show at 6 steps, 0 to 5 or -1 to -6; received -7"):
        control(sequence_net(), "lstm[1]", 1.0, positions=[0, -7])
    with pytest.raises(TypeError, match=r"Say how many: ranking.labels\(10\)"):
        control(NET(), neurons.Ranking(LayerValues({NAME: np.ones(3)})), 1.0)


def test_heads_of_attention_cannot_be_held():
    model = NETS["attention_self"]()
    heads = next(name for name, group in unit_groups(model).items() if not group.members[0].homes)
    with pytest.raises(ValueError, match="heads of attention, which show in no tensor"):
        control(model, {heads: 0}, 1.0)


SHIFTS = {
    "expected one for each of the 4 points": dict(labels=[0, 1], source=0, target=1),
    "target: no point has the label 7": dict(labels=[0, 1, 0, 1], source=0, target=7),
    "beta: expected a number above 0": dict(labels=[0, 1, 0, 1], source=0, target=1, beta=0.0),
}


@pytest.mark.parametrize("message", SHIFTS)
def test_bad_shifts(message):
    with pytest.raises(ValueError, match=message):
        neurons.class_shift({"hidden": np.ones((4, 2))}, **SHIFTS[message])
