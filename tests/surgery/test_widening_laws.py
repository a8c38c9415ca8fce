"""widen, on every net of the table and on random ones: it keeps the function, and remove takes it back."""

import random
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import NETS, head_without_softmax, inputs_for, outputs_of
from random_nets import random_net

import tfprune

ACROSS, SUM = "looks across all units", "sums over units without a kernel"
REFUSED = {
    "transformer_block": {"embedding": ACROSS},
    "attention_plain": {"query": SUM},
    "dot": {"left": SUM},
    "layer_norm": {"first": ACROSS, "second": ACROSS},
    "rms_norm": {"first": SUM},
    "unit_norm": {"first": SUM},
    "mixer": {"channels": ACROSS},
    "ops_shapes": {"first": SUM},
    "ops_reductions": {"summed": SUM, "averaged": ACROSS},
    "private_layers": {"stem": ACROSS},
}
"""The groups of the table that cannot grow without a change of what the net computes, and why; all others can."""

COINCIDING = {"conv_channels_first"}
"""Nets in which new units make two axes equally long along which Keras cannot tell where a bias belongs."""

QUICK = [
    *["dense_chain", "dense_rank_3", "einsum_two_new_axes", "einsum_per_unit", "conv_1d", "conv_2d_transpose"],
    *["grouped_conv_block", "grouped_conv_position", "depthwise_conv", "separable_conv", "constant_arrays"],
    *["bidirectional_concat", "encoder_decoder_lstm", "attention_cross", "layer_norm", "rms_norm", "group_norm"],
    *["reshape_tied", "shuffle", "ops_slices", "nested_functional", "nested_in_nested", "called_twice"],
    *["several_outputs", "tied_variables", "mixed_precision", "embedding_mask", "squeeze_excitation"],
]
"""The nets of every run; the others are slow."""


def net_of(name):
    model = NETS[name]()
    return head_without_softmax(model) if name == "softmax_head" else model


def check_widened(model, names, more, tolerance=1e-5):
    """Checks both laws; returns the larger model."""
    graph, inputs = tfprune.unit_groups(model), inputs_for(model)
    before = [variable.numpy() for variable in model.variables]
    sizes = {name: graph[name].size + more(number) for number, name in enumerate(names)}
    wide = tfprune.widen(model, sizes)
    assert tfprune.unit_groups(wide).sizes == {**graph.sizes, **sizes}
    expected = outputs_of(model, inputs)
    assert np.abs(outputs_of(wide, inputs) - expected).max() <= tolerance * np.abs(expected).max()
    back = tfprune.remove(wide, {name: np.arange(size) < graph[name].size for name, size in sizes.items()})
    for one, other, value in zip(model.variables, back.variables, before, strict=True):
        np.testing.assert_array_equal(one.numpy(), value)
        np.testing.assert_array_equal(other.numpy(), value)
    return wide


def zeros_of_new_units(model, wide):
    """Returns for every weight of the larger model that has zeros of new units: the weight, and where they are."""
    graph, larger = tfprune.unit_groups(model), tfprune.unit_groups(wide)
    on = np.concatenate([np.arange(size) < graph[name].size for name, size in larger.sizes.items()])
    found = []
    for weight in larger.records.weights.values():
        value = weight.variable.numpy()
        new = np.zeros(value.shape, bool)
        for axis, ids in enumerate(weight.axes):
            if ids is not None:
                new[(slice(None),) * axis + (~larger.kept(ids, on),)] = True
        if value.ndim > 1 and weight.variable.name != "bias" and (new & (value == 0)).any():
            found.append((weight.variable, new & (value == 0)))
    return found


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in NETS])
def test_the_function_stays_and_removal_takes_it_back(name):
    model = net_of(name)
    graph, refused = tfprune.unit_groups(model), REFUSED.get(name, {})
    for group, reason in refused.items():
        with pytest.raises(ValueError, match=f"units: group '{group}' cannot be widened: .*{reason}"):
            tfprune.widen(model, {group: graph[group].size + 1})
    names = [group for group in graph if group not in refused]
    if not names:
        return
    wide = check_widened(model, names, lambda number: 0 if name in COINCIDING else 1 + number % 3)
    assert wide.count_params() > model.count_params() or name in COINCIDING


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_group_by_itself(name):
    model = net_of(name)
    for group in tfprune.unit_groups(model):
        if group not in REFUSED.get(name, {}) and name not in COINCIDING:
            check_widened(model, [group], lambda _: 4)


@pytest.mark.parametrize("name", ["dense_chain", "conv_2d", "lstm_stacked", "attention_self", "called_twice"])
def test_the_gradient_reaches_new_units(name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    names = [group for group in graph if group not in REFUSED.get(name, {})]
    wide = tfprune.widen(model, {group: graph[group].size + 2 for group in names})
    zeros = zeros_of_new_units(model, wide)
    assert zeros
    inputs = [tf.convert_to_tensor(x) for x in inputs_for(wide, batch=16)]
    with tf.GradientTape() as tape:
        outputs = wide(inputs if len(inputs) > 1 else inputs[0])
        loss = tf.add_n([tf.reduce_sum(tf.square(own)) for own in tf.nest.flatten(outputs)])
    gradients = tape.gradient(loss, [variable.value for variable, _ in zeros])
    for gradient, (variable, new) in zip(gradients, zeros, strict=True):
        # To those who are not read yet nothing comes back: some of the outgoing weights go to others that are new.
        assert (np.abs(gradient.numpy())[new] > 0).any(), variable.path


def check_random_net(model, blocks, seed):
    graph = tfprune.unit_groups(model)
    generator, more = np.random.default_rng(seed), {}
    for name in graph:
        try:
            tfprune.surgery.widening.check_readers(graph, {name: 1}, keeps_function=True)
        except ValueError as error:
            assert ACROSS in str(error) or SUM in str(error), blocks
        else:
            more[name] = int(generator.integers(0, 4))
    check_widened(model, list(more), lambda number: list(more.values())[number])


def without_noise(pick, seed):
    """Draws and checks a net without what Keras itself says of nets in which the mask of missing entries ends."""
    keras.utils.clear_session(free_memory=False)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached to it")
        check_random_net(*random_net(pick), seed)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_random_nets(seed):
    without_noise(random.Random(seed).choice, seed)


@pytest.mark.slow
@settings(max_examples=600, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 10))
def test_many_random_nets(data, seed):
    def pick(options):
        return options[data.draw(st.integers(0, len(options) - 1))]

    without_noise(pick, seed)
