"""As many units in all groups of a kind."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from tfprune import LayerValues, keep_budget, keep_top, unit_groups
from tfprune.graph import count_parameters
from tfprune.select.kinds import kind_of, kinds_of

SIZES = {
    "layer_0/query": 4,
    "layer_0/dense": 12,
    "layer_1/query": 4,
    "layer_1/dense": 12,
    "layer_2/dense": 8,
    "pooled": 6,
}


@st.composite
def scores_of_blocks(draw):
    values = st.integers(-3, 3).map(float)
    return LayerValues({name: draw(st.lists(values, min_size=size, max_size=size)) for name, size in SIZES.items()})


def net_of_blocks():
    inputs = x = keras.Input((5,))
    for number in range(3):
        x = layers.Dense(5, name=f"block_{number}_out")(layers.Dense(8, "relu", name=f"hidden_{number}")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def counts(mask):
    return {name: int(on.sum()) for name, on in mask.items()}


def test_kinds_are_told_by_the_place_below_the_block_and_the_size():
    assert kind_of("transformer_layer_0/feedforward_dense") == kind_of("transformer_layer_11/feedforward_dense")
    assert kind_of("encoder_0/feedforward_dense") == kind_of("decoder_3/feedforward_dense")
    assert kind_of("stage_0/block_1/mlp") == kind_of("stage_2/block_7/mlp")
    assert kind_of("layer_0/conv1") != kind_of("layer_0/conv2")
    assert kind_of("dense") == kind_of("dense_7")
    assert kinds_of(SIZES) == [
        ["layer_0/query", "layer_1/query"],
        ["layer_0/dense", "layer_1/dense"],
        ["layer_2/dense"],
        ["pooled"],
    ]


@pytest.mark.filterwarnings("ignore:keep_top. a sparsity of .* fewer than a tenth")
@given(scores_of_blocks(), st.floats(0, 1), st.integers(1, 3), st.integers(1, 3))
def test_keep_top_globally_keeps_as_many_in_each_of_a_kind(scores, sparsity, min_units, round_to):
    mask = keep_top(scores, sparsity, scope="global", uniform=True, min_units=min_units)
    rounded = keep_top(scores, sparsity, scope="global", uniform=True, min_units=min_units, round_to=round_to)
    for names in kinds_of(SIZES):
        assert len({int(mask[name].sum()) for name in names}) == 1
        assert len({int(rounded[name].sum()) for name in names}) == 1
    most = int(np.floor(scores.size * sparsity + 1e-9))
    off = int((~mask.flat).sum())
    # What is left over is less than one step of the largest kind, if anything may still go.
    assert off <= most
    assert off > most - 2 or all(on.sum() == min(min_units, on.size) for on in mask.values())
    for name, on in mask.items():
        assert on.sum() >= min(min_units, on.size)
        assert scores[name][on].min() >= scores[name][~on].max(initial=-np.inf)


def test_one_strong_block_does_not_keep_more_than_the_others():
    scores = LayerValues(
        {"a_0/dense": np.arange(8.0), "a_1/dense": 100 + np.arange(8.0), "b/other": 50 + np.arange(8.0)}
    )
    free, uniform = (counts(keep_top(scores, 0.5, scope="global", uniform=own, min_units=2)) for own in (False, True))
    assert free == {"a_0/dense": 2, "a_1/dense": 8, "b/other": 2}
    # The means of a_0 and a_1 (50, 51, ...) go in turn with those of b/other, which has one unit where they have two.
    assert uniform["a_0/dense"] == uniform["a_1/dense"] == 4
    assert uniform["b/other"] == 4


def test_infinite_scores_have_a_mean():
    scores = LayerValues({"a_0/dense": [-np.inf, 1.0, 2.0], "a_1/dense": [np.inf, np.inf, np.inf], "b/x": [0.0, 1.0]})
    mask = keep_top(scores, 0.3, scope="global", uniform=True)
    assert mask["a_0/dense"].sum() == mask["a_1/dense"].sum()


def test_by_group_it_changes_nothing():
    scores = LayerValues({name: np.arange(float(size)) for name, size in SIZES.items()})
    for share in (0.0, 0.3, 0.5, 1.0):
        np.testing.assert_array_equal(keep_top(scores, share, uniform=True).flat, keep_top(scores, share).flat)


def test_what_contradicts_it_is_refused():
    scores = LayerValues({name: np.arange(float(size)) for name, size in SIZES.items()})
    assert counts(keep_top(scores, {"layer_0/dense": 0.5, "layer_1/dense": 0.5}, uniform=True))["layer_1/dense"] == 6
    with pytest.raises(ValueError, match="'layer_0/dense' and 'layer_1/dense' are of a kind, but a sparsity of 0.5"):
        keep_top(scores, {"layer_0/dense": 0.5}, uniform=True)
    with pytest.raises(ValueError, match="uniform: 'k' holds scores of single weights"):
        keep_top(LayerValues({"k": np.ones((2, 3))}), 0.5, uniform=True)
    with pytest.raises(TypeError, match="uniform: expected True or False, received 1"):
        keep_top(scores, 0.5, uniform=1)
    with pytest.raises(TypeError, match="uniform: expected True or False, received 'yes'"):
        keep_budget(net_of_blocks(), LayerValues({"hidden_0": np.arange(8.0)}), parameters=0.9, uniform="yes")


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6])
@pytest.mark.parametrize("round_to", [1, 2])
def test_a_budget_keeps_as_many_in_each_of_a_kind(share, round_to):
    net = net_of_blocks()
    graph = unit_groups(net)
    generator = np.random.default_rng(0)
    scores = LayerValues({name: generator.normal(size=size) for name, size in graph.sizes.items()})
    mask = keep_budget(net, scores, parameters=share, uniform=True, round_to=round_to)
    found = counts(mask)
    assert found["hidden_0"] == found["hidden_1"] == found["hidden_2"]
    assert count_parameters(graph, mask) <= share * net.count_params()
    for name, on in mask.items():
        assert scores[name][on].min() >= scores[name][~on].max(initial=-np.inf)
