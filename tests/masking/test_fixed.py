"""Models whose mask stands in a weight, outputs under many masks, and units replaced where they show."""

import keras
import numpy as np
import pytest
from keras import layers
from nets import NETS, flat_outputs, inputs_for, outputs_of, random_masks

from tfprune import unit_groups, with_on_nodes
from tfprune.graph.walk import functional, run
from tfprune.masking import OutputsUnderMasks, StandIn, fixed_model, member_of, outputs_under_masks, replaced_at_homes
from tfprune.statistics import exit_means

KINDS = (
    "dense_chain",
    "conv_2d",
    "channels_first",
    "embedding_mask",
    "lstm_states",
    "encoder_decoder_lstm",
    "bidirectional_none",
    "on_lstm_states",
    "transformer_block",
    "batch_norm",
    "layer_norm",
    "concatenate",
    "merges",
    "time_distributed",
)


def arrays(outputs):
    return [np.asarray(own) for own in keras.tree.flatten(outputs)]


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_in_a_weight_and_outputs_under_masks_are_those_of_on_nodes(name):
    model = NETS[name]()
    inputs = inputs_for(model)
    graph = unit_groups(model)
    masks = random_masks(graph.num_units, 3).astype("float32")
    means = exit_means(model, inputs)
    masked = with_on_nodes(model, replacement=means)
    fixed, switch = fixed_model(model, replacement=means)
    found = {}
    for part in outputs_under_masks(model, inputs, masks, replacement=means):
        assert isinstance(part, OutputsUnderMasks)
        for number, own in enumerate(zip(*part.outputs, strict=True)):
            found.setdefault(part.first + number, []).append(own)
    for number, mask in enumerate(masks):
        expected = outputs_of(masked, inputs, mask)
        switch(mask)
        np.testing.assert_allclose(outputs_of(fixed, inputs), expected, rtol=1e-5, atol=1e-5)
        joined = [np.concatenate(pieces) for pieces in zip(*found[number], strict=True)]
        np.testing.assert_allclose(flat_outputs(joined), expected, rtol=1e-5, atol=1e-5)
        assert not np.allclose(expected, outputs_of(model, inputs), atol=1e-6)


def by_hand(model, inputs, replace):
    """Runs a model node by node; `replace` takes a symbolic tensor and its value and gives another value."""

    def call(node, args, kwargs):
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        return [replace(own, value) for own, value in zip(node.outputs, outputs, strict=True)]

    return arrays(run(functional(model), [keras.ops.convert_to_tensor(x) for x in inputs], call))


@pytest.mark.parametrize(
    "name", ["dense_chain", "conv_2d", "channels_first", "batch_norm", "layer_norm", "concatenate", "shared_tower"]
)
@pytest.mark.parametrize("relative", [False, True])
def test_what_stands_in_is_seen_by_all_readers(name, relative):
    model = NETS[name]()
    inputs, graph = inputs_for(model), unit_groups(model)
    generator = np.random.default_rng(0)
    for group in graph.values():
        if len(group.members) > 1:
            continue
        member = member_of(graph, group.name)
        off = np.arange(group.size) % 2 == 0
        values = generator.normal(size=group.size)
        homes = {id(home.tensor): home for home in member.homes}

        def replace(own, value, homes=homes, off=off, values=values):
            if id(own) not in homes:
                return value
            axis = homes[id(own)].axis
            h = np.moveaxis(np.array(value), axis, -1)
            for position, unit in enumerate(homes[id(own)].units):
                if unit >= 0 and off[unit]:
                    h[..., position] = values[unit] + (h[..., position] if relative else 0.0)
            return keras.ops.convert_to_tensor(np.moveaxis(h, -1, axis))

        built = replaced_at_homes(model, {group.name: StandIn(values, off, relative=relative)}).model
        expected = flat_outputs(by_hand(model, inputs, replace))
        np.testing.assert_allclose(outputs_of(built, inputs), expected, rtol=1e-4, atol=1e-5)
        assert not np.allclose(expected, outputs_of(model, inputs), atol=1e-6)


@pytest.mark.parametrize("name", ["dense_chain", "lstm_states", "simple_rnn", "conv_2d"])
def test_all_directions_off_is_all_units_off_and_each_is_a_projection(name):
    model = NETS[name]()
    inputs, graph = inputs_for(model), unit_groups(model)
    group = next(iter(graph.values()))
    size = group.size
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0] * 2
    stand_in = StandIn(np.full(size, 0.3), np.ones(size, bool), directions=(basis, np.linalg.inv(basis)))
    units = StandIn(np.full(size, 0.3), np.ones(size, bool))
    rotated = replaced_at_homes(model, {group.name: stand_in})
    plain = replaced_at_homes(model, {group.name: units})
    expected = outputs_of(plain.model, inputs)
    np.testing.assert_allclose(outputs_of(rotated.model, inputs), expected, rtol=1e-4, atol=1e-4)
    rotated.switch(np.ones(size))
    np.testing.assert_allclose(outputs_of(rotated.model, inputs), outputs_of(model, inputs), atol=1e-5)
    rotated.switch(np.arange(size) > 0)
    assert not np.allclose(outputs_of(rotated.model, inputs), expected, atol=1e-5)


def test_the_model_with_an_input_switches_as_the_weight_does():
    model = NETS["lstm_states"]()
    inputs, graph = inputs_for(model), unit_groups(model)
    name = graph.names[0]
    off = np.arange(graph[name].size) == 1
    stand_in = {name: StandIn(np.full(graph[name].size, 0.5), off)}
    fixed, asked = replaced_at_homes(model, stand_in), replaced_at_homes(model, stand_in, fixed=False)
    assert asked.switch is None
    expected = outputs_of(fixed.model, inputs)
    rows = np.tile(~off, (len(inputs[0]), 1)).astype("float32")
    np.testing.assert_allclose(flat_outputs(arrays(asked.model([*inputs, rows]))), expected, atol=1e-6)


def test_units_inside_a_nested_model_that_is_called_twice():
    inner_x = keras.Input((3,))
    inner = keras.Model(
        inner_x, layers.Dense(2, name="out")(layers.Dense(4, "tanh", name="hidden")(inner_x)), name="inner"
    )
    x, z = keras.Input((3,), name="x"), keras.Input((3,), name="z")
    model = keras.Model([x, z], layers.Dense(1, name="head")(layers.Add()([inner(x), inner(z)])))
    inputs = inputs_for(model)
    built = replaced_at_homes(model, {"inner/hidden": StandIn(np.full(4, 2.0), np.ones(4, bool))}).model
    kernel, bias = (np.asarray(own, "float64") for own in inner.get_layer("out").get_weights())
    inner_output = np.full((1, 4), 2.0) @ kernel + bias
    kernel, bias = (np.asarray(own, "float64") for own in model.get_layer("head").get_weights())
    expected = np.repeat(2 * inner_output @ kernel + bias, len(inputs[0]), axis=0)
    np.testing.assert_allclose(outputs_of(built, inputs), expected, rtol=1e-5)


def test_directions_of_units_with_several_positions_are_refused():
    with pytest.raises(ValueError, match="directions: they are of 2 units; the layer has 2 units, at 4 positions"):
        StandIn(np.zeros(2), np.ones(2, bool), directions=(np.eye(2), np.eye(2))).along(np.array([0, 1, 0, 1]))
