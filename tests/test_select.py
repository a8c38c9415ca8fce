import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nets import NETS, paired_net

import tfprune as tfp
from tfprune import (
    LayerValues,
    keep_above,
    keep_budget,
    keep_random,
    keep_top,
    select,
    unit_groups,
)
from tfprune.graph import count_flops, count_parameters

SCORES = LayerValues({"first": [0.1, 0.7, 0.2, 0.9], "second": [0.4, 0.3]})

# Few different values, so that ties are common.
groups = st.dictionaries(
    st.sampled_from("abcde"), st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=12), min_size=1
).map(LayerValues)
sparsities = st.floats(0, 1)


def random_scores(graph, seed=0):
    generator = np.random.default_rng(seed)
    return LayerValues({name: generator.normal(size=size) for name, size in graph.sizes.items()})


# keep_top -------------------------------------------------------------------------------------------------------------


@given(groups, sparsities, st.integers(1, 4))
def test_keep_top_per_group_takes_exactly_so_many_off_and_the_lowest(scores, sparsity, min_units):
    mask = keep_top(scores, sparsity, min_units=min_units)
    assert mask.names == scores.names
    for name, values in scores.items():
        size, on = len(values), mask[name]
        assert on.dtype == np.bool_
        assert on.sum() == max(size - int(np.floor(size * sparsity + 1e-9)), min(min_units, size))
        assert values[on].min() >= values[~on].max(initial=-np.inf)


@pytest.mark.filterwarnings("ignore:keep_top. a sparsity of .* fewer than a tenth")
@given(groups, sparsities, st.integers(1, 4))
def test_keep_top_globally_takes_the_lowest_that_may_go(scores, sparsity, min_units):
    mask = keep_top(scores, sparsity, scope="global", min_units=min_units)
    may_go = sum(max(0, len(values) - min_units) for values in scores.values())
    assert (~mask.flat).sum() == min(int(np.floor(scores.size * sparsity + 1e-9)), may_go)
    highest_off = scores.flat[~mask.flat].max(initial=-np.inf)
    for name, values in scores.items():
        on = mask[name]
        assert on.sum() >= min(min_units, len(values))
        assert values[on].min() >= values[~on].max(initial=-np.inf)
        if on.sum() > min_units:  # Units that could still go score no lower than any that went.
            assert values[on].min() >= highest_off


@pytest.mark.filterwarnings("ignore:keep_top. a sparsity of .* fewer than a tenth")
@given(groups, sparsities, sparsities, st.sampled_from(["group", "global"]))
def test_keep_top_masks_are_nested(scores, one, other, scope):
    low, high = sorted((one, other))
    assert (keep_top(scores, low, scope=scope).flat >= keep_top(scores, high, scope=scope).flat).all()


@pytest.mark.filterwarnings("ignore:keep_top. a sparsity of .* fewer than a tenth")
@given(groups, sparsities, st.integers(1, 5), st.sampled_from(["group", "global"]))
def test_keep_top_rounds_the_kept_count_up(scores, sparsity, multiple, scope):
    plain = keep_top(scores, sparsity, scope=scope)
    mask = keep_top(scores, sparsity, scope=scope, round_to=multiple)
    for name, values in scores.items():
        kept = mask[name].sum()
        assert kept == min(len(values), -(-plain[name].sum() // multiple) * multiple)
        assert (mask[name] >= plain[name]).all()


@given(groups, sparsities, st.randoms(use_true_random=False))
def test_keep_top_follows_a_permutation_where_scores_differ(scores, sparsity, random):
    scores = scores.map(lambda values: values + np.arange(len(values)) / 100)
    orders = {name: random.sample(range(len(values)), len(values)) for name, values in scores.items()}
    moved = LayerValues({name: values[orders[name]] for name, values in scores.items()})
    mask, moved_mask = keep_top(scores, sparsity), keep_top(moved, sparsity)
    for name, order in orders.items():
        assert (moved_mask[name] == mask[name][order]).all()


def test_keep_top_of_equal_scores_takes_the_first_ones_off():
    scores = LayerValues({"first": np.zeros(4), "second": np.zeros(2)})
    assert keep_top(scores, 0.5).flat.tolist() == [False, False, True, True, False, True]
    assert keep_top(scores, 0.5, scope="global").flat.tolist() == [False, False, False, True, True, True]


def test_keep_top_counts_decimal_fractions_as_they_are_written():
    assert (~keep_top(LayerValues({"a": np.arange(100.0)}), 0.29)["a"]).sum() == 29


def test_keep_top_accepts_infinite_scores_integers_and_dicts():
    assert keep_top({"a": [np.inf, 1.0, -np.inf]}, 0.4)["a"].tolist() == [True, True, False]
    assert keep_top({"a": [3, 1, 2]}, 1.0)["a"].tolist() == [True, False, False]


KERNELS = LayerValues({"a": np.array([[3.0, 1.0, 5.0], [2.0, 4.0, 6.0]]), "b": np.full((2, 2, 1), 2.5)})


def test_keep_top_of_kernels_keeps_their_shapes_and_takes_the_lowest_weights_off():
    mask = keep_top(KERNELS, 0.5)
    assert mask["a"].tolist() == [[False, False, True], [False, True, True]]
    assert mask["b"].ravel().tolist() == [False, False, True, True] and mask["b"].shape == (2, 2, 1)
    assert mask["a"].dtype == np.bool_


def test_keep_top_of_kernels_globally():
    mask = keep_top(KERNELS, 0.5, scope="global")
    assert mask["a"].tolist() == [[True, False, True], [False, True, True]]
    assert mask["b"].ravel().tolist() == [False, False, False, True]


@pytest.mark.parametrize("scope", ["group", "global"])
def test_keep_top_may_empty_a_kernel_but_not_a_group_of_units(scope):
    scores = LayerValues({"kernel": np.zeros((2, 2)), "units": np.zeros(3)})
    mask = keep_top(scores, 1.0, scope=scope)
    assert not mask["kernel"].any() and mask["units"].sum() == 1


@given(st.integers(1, 5), st.integers(1, 5), sparsities)
def test_keep_top_takes_exactly_the_share_of_a_kernel_off(rows, columns, sparsity):
    scores = LayerValues({"a": np.random.default_rng(rows).normal(size=(rows, columns))})
    mask = keep_top(scores, sparsity, min_units=3)["a"]
    assert (~mask).sum() == int(np.floor(mask.size * sparsity + 1e-9))
    flat = keep_top(LayerValues({"a": scores["a"].ravel()}), min(sparsity, 1 - 1 / mask.size))["a"]
    assert sparsity > 1 - 1 / mask.size or np.array_equal(mask.ravel(), flat)


@given(groups, st.lists(sparsities, min_size=5, max_size=5), st.integers(1, 3), st.integers(1, 3))
def test_keep_top_takes_a_share_of_each_group(scores, shares, min_units, round_to):
    shares = dict(list(zip(scores, shares, strict=False))[1:])
    mask = keep_top(scores, shares, min_units=min_units, round_to=round_to)
    assert mask.names == scores.names
    for name, values in scores.items():
        alone = keep_top({name: values}, shares.get(name, 0.0), min_units=min_units, round_to=round_to)
        assert mask[name].tolist() == alone[name].tolist()
    assert mask[scores.names[0]].all()


def test_keep_top_of_kernels_takes_a_share_of_each():
    mask = keep_top(KERNELS, {"a": 1.0})
    assert not mask["a"].any() and mask["b"].all()


WIDE = LayerValues({"small": np.linspace(0, 0.1, 40), "large": np.linspace(1, 2, 40), "few": [0.0, 0.01]})


def test_keep_top_names_groups_that_fall_below_a_tenth():
    with pytest.warns(UserWarning, match=r"sparsity of 0.49 .* fewer than a tenth of the units of small \(1 of 40\)\."):
        assert keep_top(WIDE, 0.49, scope="global")["small"].sum() == 1
    assert keep_top(WIDE, 0.42, scope="global")["small"].sum() == 7
    # Asked for.
    assert keep_top(WIDE, 0.95, scope="global")["large"].sum() == 3
    assert keep_top(WIDE, 0.95)["large"].sum() == 2


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sparsity": {"frist": 0.5}, "scores": {"first": [1.0]}}, ValueError, "no scores of these.*mean 'first'"),
        ({"sparsity": {"first": 1.5}}, ValueError, "sparsity: group 'first': expected a fraction from 0 to 1"),
        ({"sparsity": {"first": 0.5}, "scope": "global"}, ValueError, "a fraction for each group needs scope='group'"),
        ({"sparsity": 1.5}, ValueError, "sparsity: expected a fraction from 0 to 1, received 1.5"),
        ({"sparsity": True}, ValueError, "sparsity: expected a fraction"),
        ({"sparsity": float("nan")}, ValueError, "sparsity: expected a fraction"),
        ({"scope": "layer"}, ValueError, "scope: expected one of 'group', 'global', received 'layer'"),
        ({"min_units": 0}, ValueError, "min_units: expected a positive integer, received 0"),
        ({"round_to": 2.0}, ValueError, "round_to: expected a positive integer, received 2.0"),
        ({"scores": {"a": [1.0, np.nan]}}, ValueError, r"unit 1 of group 'a' has NaN \(1 of 2 units\)"),
        ({"scores": {"a": 1.0}}, ValueError, r"group 'a' expects a vector .* received the shape \(\)"),
        ({"scores": {"a": [[1.0, np.nan]]}}, ValueError, r"weight 1 of group 'a' has NaN \(1 of 2 weights\)"),
        ({"scores": {"a": []}}, ValueError, r"received the shape \(0,\)"),
        ({"scores": {"a": [True]}}, TypeError, "holds bool, which is a mask already"),
        ({"scores": np.ones(3)}, TypeError, "scores: expected LayerValues.*received ndarray. A saliency makes them"),
    ],
)
def test_keep_top_refuses(change, error, message):
    arguments = {"scores": SCORES, "sparsity": 0.5, **change}
    with pytest.raises(error, match=message):
        keep_top(arguments.pop("scores"), arguments.pop("sparsity"), **arguments)


# keep_above -----------------------------------------------------------------------------------------------------------


def test_keep_above_keeps_what_is_greater():
    assert keep_above(SCORES, 0.3).flat.tolist() == [False, True, False, True, True, False]


@given(groups, st.integers(-4, 4), st.integers(1, 4))
def test_keep_above_keeps_at_least_so_many_of_the_highest(scores, threshold, min_units):
    mask = keep_above(scores, threshold, min_units=min_units)
    for name, values in scores.items():
        on = mask[name]
        assert on[values > threshold].all()
        assert on.sum() == max((values > threshold).sum(), min(min_units, len(values)))
        assert values[on].min() >= values[~on].max(initial=-np.inf)


@pytest.mark.parametrize("threshold", [float("nan"), "high", None, True])
def test_keep_above_refuses_what_is_no_number(threshold):
    with pytest.raises(ValueError, match="threshold: expected a number"):
        keep_above(SCORES, threshold)


def test_keep_above_of_kernels():
    assert keep_above(KERNELS, 2.5)["a"].tolist() == [[True, False, True], [False, True, True]]
    assert not keep_above(KERNELS, 2.5)["b"].any()


def test_keep_above_refuses_nan_and_min_units():
    with pytest.raises(ValueError, match="has NaN"):
        keep_above({"a": [np.nan]}, 0.0)
    with pytest.raises(ValueError, match="min_units: expected a positive integer, received -1"):
        keep_above(SCORES, 0.0, min_units=-1)


# keep_random ----------------------------------------------------------------------------------------------------------


def test_keep_random_keeps_about_the_probability_and_repeats_with_the_seed():
    mask = keep_random({"a": 4000, "b": 6000}, 0.3, seed=3)
    assert mask.flat.mean() == pytest.approx(0.3, abs=0.02)
    assert mask == keep_random({"a": 4000, "b": 6000}, 0.3, seed=3)
    assert mask != keep_random({"a": 4000, "b": 6000}, 0.3, seed=4)


@given(st.integers(0, 1000))
def test_keep_random_leaves_one_unit_in_each_group(seed):
    mask = keep_random({"a": 3, "b": 1}, 0.0, seed=seed)
    assert mask["a"].sum() == 1 and mask["b"].sum() == 1
    assert keep_random({"a": 3}, 1.0, seed=seed)["a"].all()


def test_keep_random_takes_scores_a_graph_or_sizes(dense_net):
    graph = unit_groups(dense_net)
    expected = keep_random({"first": 5, "second": 4}, 0.5, seed=1)
    assert keep_random(graph, 0.5, seed=1) == expected
    assert keep_random(random_scores(graph), 0.5, seed=1) == expected


def test_keep_random_of_kernels():
    mask = keep_random(LayerValues({"a": np.zeros((40, 50)), "b": np.zeros((2, 1))}), 0.3, seed=2)
    assert mask["a"].shape == (40, 50) and mask["a"].mean() == pytest.approx(0.3, abs=0.03)
    assert not keep_random(KERNELS, 0.0, seed=1).flat.any()


def test_keep_random_refuses():
    with pytest.raises(TypeError, match="expected LayerValues, a UnitGraph or sizes by group name, received list"):
        keep_random([3], 0.5, seed=0)
    with pytest.raises(ValueError, match="the size of group 'a': expected a positive integer, received 0"):
        keep_random({"a": 0}, 0.5, seed=0)
    with pytest.raises(ValueError, match="probability: expected a fraction from 0 to 1, received -0.1"):
        keep_random({"a": 2}, -0.1, seed=0)
    with pytest.raises(TypeError, match="seed: expected an integer, received None"):
        keep_random({"a": 2}, 0.5, seed=None)


# keep_budget ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("what", ["parameters", "flops"])
def test_keep_budget_is_met_within_two_percent_where_the_widths_allow(what, share):
    image = keras.Input((12, 12, 3))
    h = keras.layers.Conv2D(64, 3, activation="relu", name="one")(image)
    h = keras.layers.Conv2D(96, 3, activation="relu", name="two")(h)
    model = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(h)))
    graph = unit_groups(model)
    count = {"parameters": count_parameters, "flops": count_flops}[what]
    mask = keep_budget(model, random_scores(graph), **{what: share})
    assert share - 0.02 <= count(graph, mask) / count(graph) <= share


@pytest.mark.parametrize("name", ["dense_chain", "batch_norm", "lstm_stacked", "nested_twice", "squeeze_excitation"])
def test_keep_budget_takes_the_fewest_of_the_lowest(name):
    model = NETS[name]()
    graph = unit_groups(model)
    scores = random_scores(graph)
    mask = keep_budget(model, scores, parameters=0.6, normalise=None)
    order = [unit for unit in np.argsort(scores.flat) if not mask.flat[unit]]
    assert scores.flat[order].tolist() == sorted(scores.flat[~mask.flat])
    assert count_parameters(graph, mask) <= 0.6 * count_parameters(graph)
    before_last = mask.flat.copy()
    before_last[order[-1]] = True
    assert count_parameters(graph, before_last) > 0.6 * count_parameters(graph)
    assert all(on.any() for on in mask.values())


def test_keep_budget_meets_both_budgets(conv_same_net):
    graph = unit_groups(conv_same_net)
    mask = keep_budget(conv_same_net, random_scores(graph), parameters=0.7, flops=0.6)
    assert count_parameters(graph, mask) <= 0.7 * count_parameters(graph)
    assert count_flops(graph, mask) <= 0.6 * count_flops(graph)


def test_keep_budget_of_everything_keeps_everything(dense_net):
    assert keep_budget(dense_net, random_scores(unit_groups(dense_net)), parameters=1.0).flat.all()


def test_keep_budget_touches_only_groups_with_scores(dense_net):
    mask = keep_budget(dense_net, {"second": [3.0, np.inf, 1.0, -np.inf]}, parameters=0.9)
    assert mask.names == ("second",)
    assert mask["second"].tolist() == [True, True, True, False]


def test_keep_budget_honours_min_units(dense_net):
    graph = unit_groups(dense_net)
    mask = keep_budget(dense_net, random_scores(graph), parameters=0.7, min_units=3)
    assert all(on.sum() >= 3 for on in mask.values())


def wide_net():
    widths = {"one": 40, "two": 32, "three": 24}
    model = keras.Sequential([keras.Input((6,)), *(keras.layers.Dense(n, name=name) for name, n in widths.items())])
    model.add(keras.layers.Dense(3))
    return model


def test_keep_budget_compares_groups_by_their_own_root_mean_square():
    model = wide_net()
    scores = random_scores(unit_groups(model))
    scores = LayerValues({**scores, "two": np.where(np.arange(32) == 5, np.inf, 1e-3 * scores["two"])})
    by_hand = {}
    for name, own in scores.items():
        finite = own[np.isfinite(own)].astype("float64")
        by_hand[name] = own / np.sqrt(np.mean(finite**2))
    mask = keep_budget(model, scores, parameters=0.4)
    assert mask == keep_budget(model, by_hand, parameters=0.4, normalise=None)
    assert mask["two"][5] and 0.3 < mask["two"].mean() < 0.9
    # Whatever unit a group's scores have, from the smallest numbers to the largest.
    for factor in (1e-300, 1e-30, 1e30, 1e290):
        assert mask == keep_budget(model, {**scores, "one": factor * scores["one"]}, parameters=0.4)
    assert mask == keep_budget(model, {**scores, "one": scores["one"].astype("float32")}, parameters=0.4)
    assert keep_budget(model, {"one": np.zeros(40)}, parameters=0.9)["one"].sum() < 40


@pytest.mark.parametrize(("min_share", "parameters"), [(0.1, 0.25), (0.3, 0.4), (0.5, 0.5)])
def test_keep_budget_leaves_a_share_of_each_group(min_share, parameters):
    model = wide_net()
    scores = {**random_scores(unit_groups(model)), "two": np.linspace(-10, -9, 32)}
    mask = keep_budget(model, scores, parameters=parameters, min_share=min_share, normalise=None)
    assert mask["two"].sum() == int(np.ceil(32 * min_share)) and min(own.mean() for own in mask.values()) >= min_share
    assert mask["two"].sum() in (4, 10, 16)


def test_keep_budget_empties_a_group_only_if_asked_and_says_so():
    model = wide_net()
    scores = {**random_scores(unit_groups(model)), "two": np.linspace(-10, -9, 32)}
    with pytest.warns(UserWarning, match=r"keep_budget: .* fewer than a tenth of the units of two \(1 of 32\)\."):
        mask = keep_budget(model, scores, parameters=0.2, min_share=0.0, normalise=None)
    assert mask["two"].sum() == 1


@pytest.mark.parametrize("round_to", [1, 3, 8])
@pytest.mark.parametrize("parameters", [0.3, 0.7])
def test_keep_budget_in_multiples_is_the_first_of_all_steps_that_fits(round_to, parameters):
    model = wide_net()
    graph = unit_groups(model)
    scores = random_scores(graph)
    options = {"parameters": parameters, "normalise": None, "round_to": round_to}
    mask = keep_budget(model, scores, **options)
    order, most = np.argsort(scores.flat), parameters * count_parameters(graph)
    for steps in range(len(order)):
        gone = set(order[:steps])
        slow, start = {}, 0
        for name, own in scores.items():
            left = sum(start + unit not in gone for unit in range(len(own)))
            left = min(len(own), -(-max(left, int(np.ceil(0.1 * len(own)))) // round_to) * round_to)
            slow[name] = np.isin(np.arange(len(own)), np.argsort(own)[len(own) - left :])
            start += len(own)
        if count_parameters(graph, slow) <= most:
            break
    assert mask == LayerValues(slow)
    assert all(own.sum() % round_to == 0 or own.all() for own in mask.values())


@pytest.mark.parametrize("round_to", [1, 2])
def test_keep_budget_in_multiples_keeps_both_sides_equally_wide(round_to):
    model = paired_net()
    mask = keep_budget(model, random_scores(unit_groups(model)), parameters=0.6, round_to=round_to)
    assert all(own.sum() % round_to == 0 or own.all() for own in mask.values()) and not mask.flat.all()
    # It refuses directions of different sizes.
    tfp.remove(model, mask)


def test_keep_budget_keeps_both_sides_equally_wide():
    model = paired_net()
    graph = unit_groups(model)
    scores = random_scores(graph)
    mask = keep_budget(model, scores, parameters=0.5)
    assert mask["a"].sum() == mask["b"].sum() < 4
    assert mask["c"].sum() == mask["d"].sum()
    assert count_parameters(graph, mask) <= 0.5 * count_parameters(graph)
    for name in ("a", "b"):
        assert scores[name][mask[name]].min() > scores[name][~mask[name]].max()


def test_keep_budget_leaves_a_side_whose_partner_has_no_scores():
    model = paired_net()
    scores = {"a": [1.0, 2.0, 3.0, 4.0], "c": np.ones(3), "d": np.ones(3)}
    mask = keep_budget(model, scores, parameters=0.9)
    assert mask["a"].all()
    assert mask["c"].sum() == mask["d"].sum() < 3


@pytest.mark.parametrize(
    ("scores", "budget", "message"),
    [
        (None, {}, "no budget given. Give parameters=0.5"),
        (None, {"parameters": 50}, "parameters: expected a share above 0 and at most 1, received 50"),
        (None, {"flops": 0.0}, "flops: expected a share above 0"),
        (None, {"parameters": True}, "parameters: expected a share"),
        (
            None,
            {"parameters": 0.01},
            r"parameters: a share of 0.01 cannot be reached. With min_units=1, min_share=0.1 and round_to=1 .* share "
            r"of 0\..*smaller floor",
        ),
        (None, {"parameters": 0.5, "round_to": 0}, "round_to: expected a positive integer, received 0"),
        (None, {"parameters": 0.5, "min_share": 1.5}, "min_share: expected a fraction from 0 to 1, received 1.5"),
        (
            None,
            {"parameters": 0.5, "normalise": "layer"},
            "normalise: expected 'group', 'cost' or None, received 'layer'",
        ),
        (None, {"parameters": 0.3, "min_share": 0.8}, "a share of 0.3 cannot be reached.*min_share=0.8"),
        (None, {"flops": 0.01}, "flops: a share of 0.01 cannot be reached"),
        (None, {"parameters": 0.5, "min_units": 0}, "min_units: expected a positive integer"),
        ({"frist": np.ones(5)}, {"parameters": 0.5}, "unknown groups.*did you mean 'first'"),
        ({"first": np.ones(4)}, {"parameters": 0.5}, r"group 'first' expects the shape \(5,\)"),
        ({"first": np.ones((5, 1))}, {"parameters": 0.5}, r"group 'first' expects the shape \(5,\)"),
        ({"first": [1, 2, 3, 4, np.nan]}, {"parameters": 0.5}, "unit 4 of group 'first' has NaN"),
    ],
)
def test_keep_budget_refuses(dense_net, scores, budget, message):
    scores = random_scores(unit_groups(dense_net)) if scores is None else scores
    with pytest.raises(ValueError, match=message):
        keep_budget(dense_net, scores, **budget)


def test_keep_budget_refuses_open_lengths_for_flops_only():
    model = keras.Sequential(
        [keras.Input((None, 3), name="x"), keras.layers.LSTM(4, name="lstm"), keras.layers.Dense(2)]
    )
    scores = {"lstm": np.arange(4.0)}
    assert keep_budget(model, scores, parameters=0.6)["lstm"].sum() < 4
    with pytest.raises(ValueError, match=r"input 'x' .* shape \(None, None, 3\), so the FLOPs of a sample depend"):
        keep_budget(model, scores, flops=0.5)
    with pytest.raises(TypeError, match="expected a keras.Model"):
        keep_budget("net", scores, parameters=0.5)


def test_a_budget_of_flops_says_which_layers_it_cannot_count(monkeypatch):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, name="first"), keras.layers.Dense(2)])
    monkeypatch.setattr(select.budget, "guessed_flops", lambda graph: ("first",))
    with pytest.warns(UserWarning, match="flops: first count too little"):
        mask = keep_budget(model, LayerValues({"first": np.arange(8.0)}), flops=0.5)
    assert 0 < mask["first"].sum() < 8
