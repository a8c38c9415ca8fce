"""Reading graphs: units, groups, members, homes, exits, walls and reasons, on every net of the table."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers, ops
from nets import EARLY_KERAS, NETS, WALLS, head_without_softmax, inputs_for, outputs_of
from replicas import parameters_without_unit

import tfprune
from tfprune import keep_top
from tfprune.graph import register, row_of, table, unit_groups
from tfprune.graph.ids import Ids
from tfprune.graph.probe import is_elementwise

# Sizes of the groups by name, in order, worked out by hand from the definition of each net.
SIZES = {
    "dense_chain": {"first": 5, "second": 6, "third": 4},
    "dense_sequential": {"first": 5, "second": 4},
    "dense_rank_3": {"first": 6, "second": 4},
    "softmax_head": {"hidden": 6},
    "hidden_softmax": {"first": 5, "last": 4},
    "hidden_softmax_layer": {"first": 5, "last": 4},
    "lambda_wall": {"last": 4},
    "einsum_dense": {"first": 6, "second": 5},
    "einsum_two_new_axes": {"split/d": 3, "split/e": 5, "join": 6},
    "einsum_ellipsis": {"first": 5, "second": 6},
    "einsum_per_unit": {"first": 5, "mix": 4, "join": 5},
    "conv_1d": {"valid": 4, "same": 5, "causal": 4, "strided": 6, "dilated": 3},
    "conv_2d": {"valid": 4, "same": 5, "strided": 4, "dilated": 3},
    "conv_3d": {"first": 4, "second": 3},
    "conv_1d_transpose": {"first": 4, "second": 3},
    "conv_2d_transpose": {"first": 5, "second": 4},
    "conv_3d_transpose": {"first": 4, "second": 3},
    "grouped_conv_block": {"first": 4, "last": 3},
    "grouped_conv_position": {"first": 4, "grouped": 3},
    "grouped_conv_depthwise": {"first": 5},
    "grouped_conv_on_inputs": {"position": 3},
    "depthwise_conv": {"first": 4, "last": 3},
    "depthwise_conv_1d": {"first": 5},
    "separable_conv": {"first": 5, "second": 4},
    "separable_conv_1d": {"first": 4, "second": 3},
    "channels_first": {"first": 5, "last": 4},
    "conv_channels_first": {"first": 5, "second": 3},
    "embedding_mask": {"embedding": 5, "dense": 4, "lstm": 4},
    "embedding_mean": {"embedding": 5},
    "embedding_joined": {"one": 5, "dense": 4, "other": 4, "lstm": 5},
    "masking": {"gru": 5, "dense": 4, "both/forward": 3},
    "recurrent_cells": {"simple": 6, "lstm": 4, "both/forward": 3, "gru": 5},
    "simple_rnn": {"first": 6, "second": 4},
    "gru_reset_after": {"first": 6, "second": 4},
    "gru_reset_before": {"first": 6, "second": 4},
    "lstm_stacked": {"first": 6, "second": 4, "third": 5},
    "lstm_states": {"lstm": 6, "of_cell": 3},
    "encoder_decoder_lstm": {"encoder": 6},
    "encoder_decoder_gru": {"encoder": 5},
    "bidirectional_concat": {"first/forward": 4, "second/forward": 3},
    "bidirectional_sum": {"first/forward": 4, "second/forward": 3},
    "bidirectional_ave": {"first/forward": 4, "second/forward": 3},
    "bidirectional_mul": {"first/forward": 4, "second/forward": 3},
    "bidirectional_none": {"both/forward": 4, "of_backward": 4},
    "bidirectional_unequal_activations": {"both/forward": 5},
    "on_lstm": {"first/chunks": 4, "both/forward/chunks": 3, "last/chunks": 2},
    "on_lstm_states": {"embedding": 4, "encoder/chunks": 3, "dense": 3, "of_cell": 3},
    "time_distributed": {"conv": 4, "dense": 5, "rnn": 3},
    "attention_self": {"first": 6, "heads/heads": 3, "heads": 6, "last": 5},
    "attention_cross": {"key": 5, "query": 6, "value": 4, "heads/heads": 3, "heads": 7},
    "attention_masked": {"embedding": 6, "heads/heads": 3, "heads": 6},
    "attention_grouped": {"first": 6, "heads/heads": 2},
    "transformer_block": {"embedding": 6, "heads/heads": 2, "wide": 8},
    "attention_plain": {"query": 4, "value": 5},
    "linear_attention": {"first": 5, "projections": 6, "last": 4},
    "dot": {"left": 5},
    "batch_norm": {"first": 4, "more": 3, "last": 3},
    "layer_norm": {"first": 6, "second": 5},
    "rms_norm": {"first": 6, "second": 4},
    "group_norm": {"first": 3, "second": 5},
    "unit_norm": {"first": 6},
    "normalized_inputs": {"first": 5},
    "prelu": {"first": 4, "second": 3, "dense": 5},
    "pooling": {"first": 4, "second": 3},
    "pooling_1d": {"first": 4, "second": 3},
    "reshape_tied": {"project": 6, "up": 4},
    "reshape_flat": {"first": 5, "second": 6},
    "shuffle": {"first": 4, "grouped": 2, "again": 3},
    "mixer": {"channels": 6, "positions": 5, "last": 4},
    "repeat_vector": {"first": 5, "lstm": 4},
    "concatenate": {"left": 4, "mid": 5, "first": 6},
    "merges": {"left_0": 3, "left_1": 3, "left_2": 3, "left_3": 3, "left_4": 3, "left_5": 3},
    "add_raw_input": {"second": 5},
    "squeeze_excitation": {"expand": 6, "reduce": 3, "project": 4},
    "resized_by_op": {"small": 5, "large": 4},
    "spatial_gate": {"first": 5},
    "ops_arithmetic": {"left": 5},
    "constant_arrays": {"first": 5, "last": 4},
    "split_convolutions": {"first": 3, "first#2": 4, "left": 3, "right": 4},
    "ops_slices": {"first": 3, "first#2": 5, "second": 3, "third": 3, "third#2": 4},
    "ops_shapes": {"first": 5, "second": 6, "third": 4},
    "ops_reductions": {"summed": 5, "averaged": 5},
    "time_distributed_reshape": {"first": 3},
    "several_outputs": {"left": 5, "trunk": 6},
    "siamese": {"first": 6, "second": 4},
    "called_twice": {"one": 5},
    "shared_tower": {"conv": 4},
    "shared_recurrent": {"both/forward": 3, "rows": 4, "lstm": 3},
    "crossed_layers": {"first": 5, "crossed_conv": 4, "crossed_fully": 4, "crossed_dense": 3},
    "shared_weightless": {"left": 4, "right": 5},
    "tied_variables": {"last": 5},
    "nested_sequential": {"inner/a": 5, "inner/b": 4, "last": 5},
    "nested_functional": {"first": 5, "inner/of_u": 4, "inner/side": 3},
    "nested_twice": {"inner/a": 5, "inner/b": 4},
    "nested_equal_names": {"left/a": 5, "left/b": 4, "right/a": 5, "right/b": 5},
    "nested_in_nested": {"middle/inner/a": 5, "middle/inner/b": 4, "middle/c": 4},
    "mixed_precision": {"first": 4, "second": 3},
    "double_precision": {"first": 4, "second": 3},
    "private_layers": {"stem": 4, "wide": 6},
}


def test_the_table_is_whole():
    assert list(SIZES) == list(NETS)


@pytest.mark.parametrize("name", NETS)
def test_every_net(name):
    """Groups and sizes; walls; columns follow each other; members show each unit; parameters entry by entry."""
    graph = unit_groups(NETS[name]())
    assert graph.sizes == SIZES[name]
    assert list(graph.sizes) == list(graph.names) == list(graph)
    assert tuple(graph.walls) == WALLS.get(name, ())
    assert [group.start for group in graph.values()] == np.cumsum([0, *graph.sizes.values()])[:-1].tolist()
    assert graph.num_units == sum(graph.sizes.values())
    for group in graph.values():
        assert group.exits
        for member in group.members:
            for home in member.homes:
                assert set(home.units[home.units >= 0]) == set(range(group.size))
                assert home.tensor.shape[home.axis] == len(home.units) == len(home.own)
        counted = [parameters_without_unit(graph, group.start + unit) for unit in range(group.size)]
        assert group.parameters_per_unit == pytest.approx(np.mean(counted), abs=1e-9)


# Groups ---------------------------------------------------------------------------------------------------------------


def members_of(graph):
    return {name: [member.name for member in group.members] for name, group in graph.items()}


def test_channels_that_meet_are_one_unit():
    assert members_of(unit_groups(NETS["batch_norm"]()))["first"] == ["first", "branch"]
    assert members_of(unit_groups(NETS["squeeze_excitation"]()))["expand"] == ["expand", "gate"]
    assert members_of(unit_groups(NETS["encoder_decoder_lstm"]())) == {"encoder": ["encoder", "decoder"]}
    assert members_of(unit_groups(NETS["dot"]())) == {"left": ["left", "right"]}
    merged = members_of(unit_groups(NETS["merges"]()))
    assert merged == {f"left_{k}": [f"left_{k}", f"right_{k}"] for k in range(6)}


def test_a_slice_may_hold_what_is_no_unit():
    """A dot product is joined to units, and the whole is taken apart: its place is no unit of its own."""
    x = keras.Input((3,))
    h = keras.layers.Dense(5, name="first")(x)
    dot = keras.layers.Dot(1)([keras.layers.Dense(3, name="left")(h), keras.layers.Dense(3, name="right")(h)])
    joined = keras.layers.Concatenate()([dot, h])
    ahead = keras.layers.Dense(4, name="ahead")(joined[:, :2])
    out = keras.layers.Dense(2, name="out")(keras.layers.Concatenate()([ahead, joined[:, 2:]]))
    graph = unit_groups(keras.Model(x, out))
    assert graph.num_units == 12 and sum(graph.sizes.values()) == 12
    assert {name.split("#")[0] for name in graph} == {"first", "left", "ahead"}


def test_a_layer_called_twice_unites_what_it_reads():
    """`shared` reads `one`, `other` and itself: all of them are one group of five units."""
    assert members_of(unit_groups(NETS["called_twice"]())) == {"one": ["one", "other", "shared"]}


def test_exits_are_the_layers_that_contract():
    exits = {name: group.exits for name, group in unit_groups(NETS["batch_norm"]()).items()}
    assert exits == {"first": ("branch", "more", "last"), "more": ("last",), "last": ("out",)}
    exits = {name: group.exits for name, group in unit_groups(NETS["lstm_states"]()).items()}
    assert exits == {"lstm": ("lstm", "of_cell", "out"), "of_cell": ("out",)}
    exits = {name: group.exits for name, group in unit_groups(NETS["nested_in_nested"]()).items()}
    assert exits == {"middle/inner/a": ("middle/inner/b",), "middle/inner/b": ("middle/c",), "middle/c": ("out",)}


@pytest.mark.parametrize(
    ("name", "member", "home"),
    [
        ("batch_norm", "first", "relu_1"),
        ("batch_norm", "branch", "norm_2"),
        ("dense_sequential", "first", "dropout"),
        ("reshape_tied", "project", "relu"),
        ("pooling", "first", "first"),
        ("prelu", "dense", "flat"),
        ("lstm_stacked", "first", "first"),
        ("spatial_gate", "first", "first"),
    ],
)
def test_home_is_behind_the_layers_that_follow_alone(name, member, home):
    model = NETS[name]()
    found = {m.name: m for group in unit_groups(model).values() for m in group.members}[member]
    assert found.homes[0].tensor._keras_history.operation is model.get_layer(home)


def test_heads_have_no_home():
    (member,) = unit_groups(NETS["attention_self"]())["heads/heads"].members
    assert member.homes == ()


def test_a_layer_called_twice_has_a_home_for_each_call_as_far_as_both_are_followed_alike():
    """Behind its own norm and activation if both calls go through them; where one alone is squashed, before that."""
    x, y = keras.Input((3,)), keras.Input((3,))
    shared, norm = keras.layers.Dense(4, name="shared"), keras.layers.BatchNormalization(name="norm")
    other = keras.layers.Dense(2, name="other")
    h = [keras.layers.ReLU()(norm(shared(tensor))) for tensor in (x, y)]
    g = [other(x), keras.layers.Activation("tanh")(other(y))]
    model = keras.Model([x, y], keras.layers.Dense(1)(keras.layers.Concatenate()([*h, *g])))
    members = {m.name: m for group in unit_groups(model).values() for m in group.members}
    tensors = {name: [home.tensor for home in member.homes] for name, member in members.items()}
    assert [[id(own) for own in h], [id(node.outputs[0]) for node in other._inbound_nodes]] == [
        [id(own) for own in tensors["shared"]],
        [id(own) for own in tensors["other"]],
    ]


def test_positions_of_a_tied_reshape_belong_to_one_unit():
    """96 columns, 6 channels: column c shows unit c mod 6."""
    (member,) = unit_groups(NETS["reshape_tied"]())["project"].members
    np.testing.assert_array_equal(member.homes[0].units, np.arange(96) % 6)


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        # Own column and bias (4 + 1), one row of the next kernel (6).
        ("dense_chain", "first", 4 + 1 + 6),
        # 3 x 3 x 2 and bias; 3 x 3 rows of five columns.
        ("conv_2d", "valid", 18 + 1 + 45),
        # In a flatten of 2 x 2 places: 2 x 2 x 4 and bias; four rows of two columns.
        ("conv_2d", "dilated", 16 + 1 + 8),
        # Four gates: (3 + 1) x 4 of kernel and bias, rows and columns of the recurrent kernel 6 x 24 without 5 x 20.
        ("lstm_stacked", "first", 12 + 4 + (6 * 24 - 5 * 20) + 16),
        # Kernel column and four batch-norm numbers at sixteen places, and a kernel row 3 x 3 x 4.
        ("reshape_tied", "project", 16 * (5 + 1 + 4) + 36),
    ],
)
def test_parameters_per_unit_by_hand(name, group, expected):
    assert unit_groups(NETS[name]())[group].parameters_per_unit == expected


# What stays, and why --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "layer", "count", "reason"),
    [
        ("dense_chain", "out", 3, "it is an output of the model"),
        ("hidden_softmax", "gate", 5, "gate: its activation 'softmax' looks across units"),
        ("hidden_softmax_layer", "gate", 5, "softmax: a softmax looks across units"),
        ("lambda_wall", "first", 5, "lambda: its code cannot be followed: tests/nets.py, line "),
        ("add_raw_input", "first", 4, "add: meets something that is not a unit"),
        ("spatial_gate", "gate", 1, "scale: it is stretched over another axis"),
        ("grouped_conv_on_inputs", "block", 4, "block: its groups read something that is not a unit"),
        ("tied_variables", "first", 4, "first: the layers first and second share a variable"),
        ("several_outputs", "right", 4, "it is an output of the model"),
        ("mixer", "back_to_positions", 4, "add: meets something that is not a unit"),
    ],
)
def test_fixed_units_say_why(name, layer, count, reason):
    fixed, why = unit_groups(NETS[name]()).fixed[layer]
    assert fixed == count
    assert why.startswith(reason)


def small_model(read):
    """4 -> dense 6 `first` (sigmoid) -> `read` -> 2."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(read(layers.Dense(6, "sigmoid", name="first")(x))))


def reason_for_first(read):
    graph = unit_groups(small_model(read))
    return None if "first" in graph else graph.fixed["first"][1]


class Counting(layers.Layer):
    def call(self, inputs):
        return inputs * float(ops.convert_to_numpy(ops.max(ops.abs(inputs))) > 0)

    def compute_output_shape(self, shape):
        return shape


@tfprune.graph.closed
class Shut(layers.Dense):
    """A layer that its author keeps shut."""


def with_lora(layer):
    def read(h):
        output = layer(h)
        layer.enable_lora(2)
        return output

    return read


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda h: layers.SpectralNormalization(layers.Dense(3), name="wall")(h), "class SpectralNormalization is not"),
        (lambda h: Counting(name="wall")(h), "its code cannot be followed: graph/test_graph.py, line"),
        (lambda h: Shut(3, name="wall")(h), "it was closed by tfprune.graph.closed"),
        (with_lora(layers.Dense(3, name="wall")), "wall: it has LoRA weights; merge them first"),
        (lambda h: ops.rfft(h)[0], "the class RFFT is not known"),
        (lambda h: ops.roll(h, 1, axis=1), "its units are shifted"),
        (lambda h: ops.reshape(h, (-1, 3)), "a reshape mixes its units"),
        (lambda h: h * np.arange(6, dtype="float32"), None),
        (lambda h: h * keras.Variable(np.arange(6, dtype="float32")), "meets something that is not a unit"),
        (lambda h: ops.clip(h, np.zeros(6, "float32"), 1.0), "its bounds are arrays"),
        (lambda h: ops.log_softmax(h), "a softmax looks across units"),
        (lambda h: ops.softmax(h), None),
        (lambda h: keras.activations.softmax(h), None),
        (lambda h: h[:, ::2], "every so many-th of its units is picked"),
        (lambda h: h[:, 1][:, None], "one of its units is picked by number"),
        (lambda h: h + ops.prod(h, axis=-1, keepdims=True), "it is reduced along its units"),
        (lambda h: h + ops.max(h, axis=-1, keepdims=True), None),
        (lambda h: layers.Normalization(mean=[0.0] * 6, variance=[1.0] * 6, name="norm")(h), "statistics are those of"),
        (lambda h: layers.Reshape((3, 2), name="pairs")(h), None),
        (lambda h: ops.flip(h, axis=1), None),
        (lambda h: -(abs(h) ** 2.0), None),
        (lambda h: ops.where(h > 0.5, h, 0.0), None),
    ],
)
def test_what_cannot_be_followed_stays(read, reason):
    if reason is None:
        assert reason_for_first(read) is None
    else:
        assert reason in reason_for_first(read)


class Unsymbolic(layers.Layer):
    """A layer of a user's own that counts on numbers: its call fails on the tensors of a graph."""

    def call(self, inputs):
        return inputs * float(ops.convert_to_numpy(ops.max(ops.abs(inputs))) > 0)

    def compute_output_shape(self, shape):
        return shape


def _cells():
    return layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], return_sequences=True, name="wall")


WALLS_OF_LAYERS = {
    "stateful": (lambda h: layers.LSTM(4, stateful=True, return_sequences=True, name="wall")(h), "keeps its state"),
    "cells": (lambda h: _cells()(h), "its cell is a StackedRNNCells"),
    "two ways": (lambda h: layers.Bidirectional(_cells(), name="wall")(h), "its directions are no plain SimpleRNN"),
    "rows of LSTM": (lambda h: layers.TimeDistributed(layers.LSTM(4), name="wall")(h[:, :, None]), "it wraps a LSTM"),
    "rows of both": (
        lambda h: layers.TimeDistributed(layers.Bidirectional(layers.GRU(4)), name="wall")(h[:, :, None]),
        "it wraps a Bidirectional",
    ),
    "convolutional": (
        lambda h: layers.Reshape((5, 4))(
            layers.ConvLSTM1D(4, 1, return_sequences=True, name="wall")(layers.Reshape((5, 1, 3))(h))
        ),
        "the class ConvLSTM1D is not known",
    ),
    "dot": (
        lambda h: layers.Dot((2, 2), name="wall")([h, np.ones((2, 5, 3), "float32")]),
        "multiplies with a constant",
    ),
    "attention": (lambda h: layers.Attention(name="wall")([h, np.ones((2, 5, 3), "float32")]), "attends to a constant"),
    "numbers": (lambda h: Unsymbolic(name="wall")(h), "its code cannot be followed: graph/test_graph.py, line"),
}
"""Layers that are not read, and why; each is called on three units at each of five steps."""


def model_around(read):
    """2 x 5 x 3 -> dense 3 `first` -> `read` -> dense 4 `last` -> 2; the batch is fixed, as stateful layers want."""
    x = keras.Input((5, 3), batch_size=2, name="x")
    h = layers.Dense(4, "sigmoid", name="last")(read(layers.Dense(3, "tanh", name="first")(x)))
    return keras.Model(x, layers.Dense(2, name="out")(h))


def check_masked_equals_removed(model, mask):
    graph = unit_groups(model)
    inputs = [np.random.default_rng(5).normal(size=(2, *model.inputs[0].shape[1:])).astype("float32")]
    # Cut before anything runs: a layer may keep a state, which goes along.
    small = tfprune.remove(model, tfprune.LayerValues(mask))
    masked = outputs_of(tfprune.with_on_nodes(model), inputs, graph.on_nodes(mask))
    removed = outputs_of(small, inputs)
    np.testing.assert_allclose(masked, removed, rtol=1e-5, atol=1e-6)
    assert np.abs(masked - outputs_of(model, inputs)).max() > 1e-4


@pytest.mark.parametrize("name", WALLS_OF_LAYERS)
def test_layers_that_are_not_read_are_walls(name):
    """The units before stay, those behind can go."""
    read, reason = WALLS_OF_LAYERS[name]
    model = randomise(model_around(read))
    graph = unit_groups(model)
    assert graph.sizes == {"last": 4}
    assert reason in graph.walls["wall"] and reason in graph.fixed["first"][1]
    check_masked_equals_removed(model, {"last": np.arange(4) == 1})


@pytest.mark.parametrize(
    ("read", "reason"),
    [
        (lambda h: layers.Softmax(name="own")(h), "own: a softmax looks across units"),
        (lambda h: layers.Softmax(axis=(1, 2), name="own")(h), "own: a softmax looks across units"),
        (lambda h: layers.LayerNormalization(axis=(1, 2), name="own")(h), "own: a norm over several axes"),
        *(
            [(lambda h: layers.RMSNormalization(axis=(1, 2), name="own")(h), "own: a norm over several axes")]
            if hasattr(layers, "RMSNormalization")
            else []
        ),
        (lambda h: layers.BatchNormalization(axis=1, name="own")(h), "own: batch statistics are taken along this axis"),
        (lambda h: layers.Softmax(axis=1, name="own")(h), None),
        (lambda h: layers.LayerNormalization(axis=1, name="own")(h), None),
        (lambda h: layers.Masking(name="own")(h), "own: a time step is masked when all its entries agree"),
    ],
)
def test_layers_that_look_along_axes(read, reason):
    model = randomise(model_around(read))
    graph = unit_groups(model)
    if reason is None:
        check_masked_equals_removed(model, {"first": np.arange(3) == 1})
    else:
        assert reason in graph.fixed["first"][1]
        check_masked_equals_removed(model, {"last": np.arange(4) == 1})


OPERATIONS = """
-x | abs(x) | 1.0 - x | 2.0 / x | x % 0.3 | x // 0.3 | x[:, 1] | x[..., 0] | x[:, 1:3] | x[..., 2:] | x[..., -2:]
x[:, None] | x[..., None] | x[:, ::-1] | x[..., ::-1] | x @ ops.transpose(x, (0, 2, 1)) | (x > 0.2) * x
all(x > 0, axis=-1) | any(x > 0, axis=1) | amax(x, axis=-1) | append(x, x, axis=-1) | argmax(x, axis=-1) | argsort(x)
average(x, axis=1) | broadcast_to(x, (2, 5, 3)) | cast(x, "float16") | clip(x, 0.1, 0.5) | concatenate([x, x], axis=1)
concatenate([x, ops.zeros_like(x)], axis=-1) | stack([x, x], axis=1) | cumsum(x, axis=-1) | diff(x, axis=1)
digitize(x, np.array([0.2, 0.5])) | dot(x, np.ones((3, 4), "float32")) | einsum("bij,bkj->bik", x, x) | erf(x)
expand_dims(x, 1) | flip(x) | full_like(x, 2.0) | ones_like(x) | hstack([x, x]) | isnan(x) | logical_not(x > 0.5)
logsumexp(x, axis=1) | logsumexp(x, axis=-1) | matmul(x, np.ones((3, 4), "float32")) | mean(x, axis=(1, 2))
median(x, axis=1) | moveaxis(x, 1, 2) | norm(x, axis=-1) | normalize(x, axis=-1) | pad(x, ((0, 0), (0, 0), (1, 2)))
prod(x, axis=1) | quantile(x, 0.5, axis=1) | repeat(x, 2, axis=-1) | reshape(x, (-1, 15)) | reshape(x, (-1, 3, 5))
roll(x, 1, axis=-1) | slice(x, (0, 1, 1), (2, 2, 2)) | softmax(x, axis=1) | softmax(x) | sort(x, axis=-1)
split(x, 3, axis=-1)[0] | split(x, [2], axis=-1)[1] | unstack(x, axis=-1)[0] | squeeze(x[:, None], 1) | std(x, axis=1)
sum(x, axis=-1) | sum(x, axis=(1, 2)) | swapaxes(x, 1, 2) | take(x, np.array([0, 2]), axis=-1) | take(x, 1, axis=-1)
tensordot(x, np.ones((3, 4), "float32"), axes=1) | tile(x, (1, 1, 2)) | tril(x) | top_k(x, 2)[0] | var(x, axis=-1)
where(x > 0.5, x, -x) | layer_normalization(x) | conv(x, np.ones((2, 3, 4), "float32")) | max_pool(x, 2)
glu(x[..., :2]) | cross(x, x) | one_hot(ops.argmax(x, -1), 3) | map(lambda own: own * 2.0, x) | sparsemax(x)
""".replace("\n", " | ")
"""What users write between layers: as it stands, or the name of a function of `keras.ops`."""


def test_no_operation_stops_the_reading():
    """Each is read, or is a wall, or fixes the units that enter, with a reason: never an exception."""
    for text in filter(None, map(str.strip, OPERATIONS.split(" | "))):
        call = text if text[0] in "-(12x" or text.startswith("abs") else f"ops.{text}"
        x = keras.Input((5, 3), batch_size=2, name="x")
        try:
            result = eval(call, {"ops": ops, "np": np, "x": layers.Dense(3, "sigmoid", name="first")(x)})
        except (AttributeError, TypeError):
            # Earlier versions of Keras lack some, or stumble over tensors without numbers.
            assert EARLY_KERAS, text
            continue
        result = ops.cast(result, "float32")
        if len(result.shape) < 2:
            result = result[:, None]
        graph = unit_groups(keras.Model(x, layers.Dense(2, name="out")(result)))
        found = sum(size for name, size in graph.sizes.items() if name.startswith("first"))
        stays, reason = graph.fixed.get("first", (0, ""))
        assert 0 < found + stays <= 3 and (not stays or reason), text


def test_arrays_are_cut_wherever_they_stand():
    """As one of the tensors of a merge layer, by keyword, in a concatenation, in front of it."""
    per_unit = np.array([0.5, 2.0, -1.0], "float32")
    rows = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("float32")
    reads = [
        lambda h: layers.Multiply(name="own")([h, rows]),
        lambda h: layers.Subtract(name="own")([h, rows]),
        lambda h: layers.Concatenate(axis=1, name="own")([h, rows]),
        lambda h: layers.Concatenate(axis=-1, name="own")([h, rows]),
        lambda h: ops.concatenate([rows, h, rows], axis=1),
        lambda h: ops.multiply(x1=rows, x2=h),
        lambda h: ops.where(h > 0.0, per_unit, h),
        lambda h: ops.subtract(ops.convert_to_tensor(per_unit), h),
        lambda h: ops.power(ops.abs(h), per_unit[None, None]),
        lambda h: h * keras.ops.cast(per_unit, "float32") + np.float32(1.0) + np.ones((5, 1), "float32"),
    ]
    for read in reads:
        model = randomise(model_around(read))
        assert unit_groups(model).sizes == {"first": 3, "last": 4}
        check_masked_equals_removed(model, {"first": np.array([True, False, True])})


def test_a_layer_can_make_units_that_stay_and_units_that_go():
    """Keys and values are units; the one channel of queries is stretched over them and stays."""
    model = NETS["linear_attention"]()
    graph = unit_groups(model)
    assert graph.fixed["projections"] == (1, "weighed: it is stretched over another axis")
    (member,) = graph["projections"].members
    np.testing.assert_array_equal(member.homes[0].units, [-1, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5])
    mask = keep_top(tfprune.saliency.weight_norm(model), 0.5)
    small = tfprune.remove(model, mask)
    assert small.get_layer("projections").filters == 1 + 2 * 3


def test_units_of_a_slice_are_a_group():
    """A convolution cannot read nothing, so one unit of each slice stays."""
    graph = unit_groups(NETS["split_convolutions"]())
    units = {name: np.flatnonzero(graph[name].members[0].homes[0].units >= 0).tolist() for name in ("first", "first#2")}
    assert units == {"first": [0, 1, 2], "first#2": [3, 4, 5, 6]}
    assert graph["first"].exits == ("left",) and graph["first#2"].exits == ("right",)


def test_quantised_layers_are_walls():
    model = NETS["dense_chain"]()
    model.get_layer("third").quantize("int8")
    graph = unit_groups(model)
    assert graph.names == ("first",)
    assert graph.walls == {"third": "it is quantised; remove units first, then quantise"}


def test_a_nested_model_called_with_another_structure_is_a_wall():
    u, v = keras.Input((3,), name="u"), keras.Input((5,), name="v")
    inner = keras.Model([v, u], layers.Dense(4, name="of_u")(u) + layers.Dense(4, name="of_v")(v), name="inner")
    x = keras.Input((3,), name="x")
    h = layers.Dense(3, "relu", name="last")(inner({"u": x, "v": layers.Dense(5, name="first")(x)}))
    graph = unit_groups(keras.Model(x, layers.Dense(2, name="out")(h)))
    assert graph.names == ("last",)
    assert "called with a dictionary" in graph.walls["inner"]


def test_a_shared_literal_size_ties_what_it_reads():
    """One Reshape for two branches has one target shape."""
    x = keras.Input((4,), name="x")
    shared = layers.Reshape((1, 6), name="shared")
    one, other = (shared(layers.Dense(6, "sigmoid", name=name)(x)) for name in ("one", "other"))
    graph = unit_groups(keras.Model(x, [layers.Dense(2)(one), layers.Dense(2)(other)]))
    assert members_of(graph) == {"one": ["one", "other"]}


# The table is open ----------------------------------------------------------------------------------------------------


class OwnDense(layers.Layer):
    """A dense layer whose kernel lies the other way round."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, input_shape):
        self.table = self.add_weight(shape=(self.width, input_shape[-1]), name="kernel")

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.table))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)


def test_register_teaches_a_layer_of_ones_own(monkeypatch):
    monkeypatch.setattr(table, "_table", dict(table._table))
    model = small_model(lambda h: OwnDense(5, name="own")(h))
    assert not unit_groups(model).walls, "it is opened where no row is known"

    @register(OwnDense)
    def own_dense(step, inputs):
        units = step.emit(step.operation.width)
        step.weight(step.operation.table, units, step.contract(inputs))
        step.size("width", units)
        return inputs.replaced(-1, units)

    graph = unit_groups(model)
    assert graph.sizes == {"first": 6, "own": 5}
    assert graph["first"].exits == ("own",) and graph["own"].parameters_per_unit == 6 + 2
    assert row_of(OwnDense(3)).read is own_dense and row_of(3) is None


def test_register_wants_classes():
    with pytest.raises(TypeError, match="expected classes, received .* Pass the class, not an instance"):
        register(layers.ReLU())


def test_a_row_that_does_not_fit_the_call_says_so(monkeypatch):
    monkeypatch.setattr(table, "_table", dict(table._table))
    register(OwnDense)(lambda step: None)
    with pytest.raises(TypeError, match="The row for OwnDense cannot read the call of 'own'"):
        unit_groups(small_model(lambda h: OwnDense(5, name="own")(h)))


# Looking up and printing ----------------------------------------------------------------------------------------------


def test_prints_as_a_table():
    text = repr(unit_groups(NETS["lambda_wall"]()))
    assert "Units of 'lambda_wall': 4 in 1 groups" in text
    assert "parameters per unit" in text
    for line in ("last", "Units that stay", "first", "it is an output of the model"):
        assert line in text
    assert "Cannot be read: lambda: its code cannot be followed: tests/nets.py" in text
    assert max(map(len, text.splitlines())) <= 120


def test_long_lists_of_members_are_cut_short():
    text = repr(unit_groups(NETS["batch_norm"]()))
    assert "branch, more, last" in text
    exits = [layers.Dense(2, name=f"reader_{k}") for k in range(5)]
    x = keras.Input((3,))
    h = layers.Dense(4, name="first")(x)
    assert "reader_0, reader_1, reader_2 and 2 more" in repr(unit_groups(keras.Model(x, [own(h) for own in exits])))


def test_lookups():
    graph = unit_groups(NETS["batch_norm"]())
    assert graph.choose(None) == ("first", "more", "last")
    assert graph.choose("branch") == ("first",)
    assert graph.choose(["last", "first"]) == ("first", "last")
    assert "first" in graph and "branch" not in graph and len(graph) == 3
    with pytest.raises(KeyError, match="'frist' is not a layer of model 'batch_norm'. Did you mean 'first'"):
        graph["frist"]
    with pytest.raises(ValueError, match="units of 'out' cannot be removed .it is an output of the model"):
        graph.choose(["first", "out"])
    with pytest.raises(ValueError, match="layer 'norm_1' makes no units that can be removed"):
        graph.choose("norm_1")


def test_columns_and_kept():
    graph = unit_groups(NETS["concatenate"]())
    ids = graph.records.signals[id(graph.model.get_layer("joined").output)].axes[-1]
    np.testing.assert_array_equal(graph.columns(ids), [0, 1, 2, 3, -1, -1, 4, 5, 6, 7, 8])
    on = np.ones(15, bool)
    on[[1, 4]] = False
    np.testing.assert_array_equal(np.flatnonzero(~graph.kept(ids, on)), [1, 6])


def test_reading_leaves_no_trace():
    """No node is added to any layer, however often a model is read."""
    model = NETS["nested_twice"]()
    before = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    for _ in range(2):
        unit_groups(model)
    assert [len(layer._inbound_nodes) for layer in model._flatten_layers()] == before


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (lambda: "net", TypeError, "expected a keras.Model, received str"),
        (lambda: keras.Sequential([layers.Dense(2)]), ValueError, "not built, so its shapes are unknown"),
        (lambda: Subclassed(name="own"), ValueError, "model 'own' is a subclassed model"),
    ],
)
def test_bad_models(model, error, message):
    with pytest.raises(error, match=message):
        unit_groups(model())


# Activations ----------------------------------------------------------------------------------------------------------


def test_all_activations_of_keras_are_judged():
    """Four look across units; `threshold` has arguments that nobody gave."""
    functions = {
        name: function
        for name, function in vars(keras.activations).items()
        if callable(function) and name not in ("get", "serialize", "deserialize")
    }
    assert len(functions) > 25
    refused = {name for name, function in functions.items() if not is_elementwise(function)}
    assert refused == {"softmax", "log_softmax", "sparsemax", "sparse_softmax", "glu", "threshold"} & set(functions)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (None, True),
        (lambda x: ops.sin(x) + 1.0, True),
        (tf.nn.swish, True),
        (layers.LeakyReLU(), True),
        (layers.Activation("tanh"), True),
        (layers.Activation("softmax"), False),
        (layers.PReLU(), False),
        (lambda x: x / ops.sum(x, axis=-1, keepdims=True), False),
        (lambda x: x - ops.mean(x, axis=0), False),
        (lambda x: x * ops.arange(x.shape[-1], dtype="float32"), False),
        (lambda x: x / x.shape[-1], False),
        (lambda x: x + np.arange(4, dtype="float32"), False),
        (lambda x: ops.where(x > 2.0, ops.max(x), x), False),
        (lambda x: x[:, :2], False),
        (lambda x, y: x, False),
        (lambda x: 1 / 0, False),
    ],
)
def test_probe(function, expected):
    assert is_elementwise(function) is expected


# Ids ------------------------------------------------------------------------------------------------------------------


def test_ids_unite_and_fix():
    ids = Ids()
    one, other, third = ids.new(3), ids.new(3), ids.new(2)
    ids.unite(one, other, "they meet")
    ids.unite(other[:2], third, "they meet")
    ids.fix(third[:1], "it stays")
    labels, reasons = ids.resolve()
    assert labels[one].tolist() == labels[other].tolist() == [1, 2, 3]
    assert labels[third].tolist() == [1, 2]
    assert reasons == {1: "it stays"}


def test_ids_that_meet_nothing_are_fixed():
    ids = Ids()
    one = ids.new(2)
    assert ids.unite(one, None, "it meets an input") is None
    joined = np.array([0, ids.new(1)[0]])
    np.testing.assert_array_equal(ids.unite(ids.new(2), joined, "half of it meets"), [0, 5])
    labels, reasons = ids.resolve()
    assert reasons == {1: "it meets an input", 2: "it meets an input", 4: "half of it meets"}
    with pytest.raises(ValueError, match="Cannot unite"):
        ids.unite(ids.new(2), ids.new(3), "lengths differ")


# The head -------------------------------------------------------------------------------------------------------------


def test_head_without_softmax():
    model = NETS["softmax_head"]()
    logits = head_without_softmax(model)
    inputs = inputs_for(model)
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.softmax(outputs_of(logits, inputs))), outputs_of(model, inputs), rtol=1e-5
    )
    assert np.abs(outputs_of(logits, inputs).sum(axis=1) - 1.0).max() > 0.1
    assert head_without_softmax(NETS["conv_2d"]()).name == "conv_2d"


def test_a_mask_becomes_a_row_in_the_order_of_the_graph():
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, name="first"), layers.Dense(3, name="second"), layers.Dense(1)]
    )
    graph = unit_groups(model)
    row = graph.on_nodes({"second": [True, False, True], "first": [False, True]})
    assert row.tolist() == [[0.0, 1.0, 1.0, 0.0, 1.0]]
    assert graph.on_nodes({"second": [0.5, 0.0, 1.0]}).tolist() == [[1.0, 1.0, 0.5, 0.0, 1.0]]
    with pytest.raises(ValueError, match="'secnd' is not a layer of model .* Did you mean 'second'"):
        graph.on_nodes({"secnd": [True] * 3})


def test_a_member_is_pointed_to_its_group():
    x = keras.Input((3,))
    one, other = layers.Dense(2, name="one")(x), layers.Dense(2, name="other")(x)
    graph = unit_groups(keras.Model(x, layers.Dense(1)(layers.Add()([one, other]))))
    with pytest.raises(KeyError, match="the units of layer 'other' are in the group 'one'"):
        graph["other"]


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda step, inputs: inputs, "must return a tuple of ids or None for each of the 2 axes"),
        (lambda step, inputs: inputs.axes[:1], "must return a tuple of ids or None for each of the 2 axes"),
        (lambda step, inputs: step.emitt(3), "AttributeError: 'Step' object has no attribute 'emitt'"),
    ],
)
def test_a_wrong_row_is_told_with_its_layer(read, message):
    class Odd(layers.Layer):
        def call(self, inputs):
            return inputs

    register(Odd)(read)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Odd(name="odd"), layers.Dense(1)])
    with pytest.raises(TypeError, match=f"The row for Odd cannot read the call of 'odd'.*{message}"):
        unit_groups(model)


def test_what_holds_layers_names_their_groups():
    x = keras.Input((5, 3), name="x")
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(4, name="a"), layers.Dense(6, name="b")], name="inner")
    h = inner(layers.Bidirectional(layers.GRU(4), name="both")(x))
    graph = unit_groups(keras.Model(x, layers.Dense(2, name="out")(h)))
    assert graph.choose("both") == ("both/forward",)
    assert graph.choose(["inner"]) == ("inner/a", "inner/b")
    assert "the units of layer 'both' are in the group 'both/forward'" in graph.unknown("both")
    assert unit_groups(NETS["ops_slices"]()).choose("first") == ("first", "first#2")
    assert unit_groups(NETS["ops_slices"]()).choose("first#1") == ("first",)
