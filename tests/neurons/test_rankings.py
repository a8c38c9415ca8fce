"""Rankings across models: against loops, for clones at known correlations, for what is dead, and what does not fit."""

import doctest
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from nets import NETS, inputs_for
from replicas_neurons import correlation_scores, worst_errors

import tfprune
from tfprune import neurons
from tfprune.neurons import activations, linear_regression, max_correlation, min_correlation

ALL = [max_correlation, min_correlation, linear_regression]


@pytest.fixture
def three(generator):
    """Models of 4, 3 and 5 neurons on 80 points, with what they have in common."""
    common = generator.normal(size=(80, 3))
    return [
        common @ generator.normal(size=(3, width)) + generator.normal(size=(80, width)) * noise
        for width, noise in ((4, 0.5), (3, 1.0), (5, 0.2))
    ]


def dense(width, seed, name, activation="tanh"):
    layers = [keras.Input((3,), name="x"), keras.layers.Dense(width, activation, name="hidden"), keras.layers.Dense(2)]
    return randomise(keras.Sequential(layers, name=name), seed)


def test_examples():
    for name in ("rankings", "ranking", "covariances"):
        found = doctest.testmod(sys.modules[f"tfprune.neurons.{name}"], extraglobs={"np": np})
        assert found.failed == 0 and found.attempted


@pytest.mark.parametrize(("function", "choose"), [(max_correlation, max), (min_correlation, min)])
def test_correlations_are_those_of_the_loops(three, function, choose):
    scores, partners = correlation_scores(three, choose)
    for ranking, score, partner in zip(function(three), scores, partners, strict=True):
        np.testing.assert_allclose(ranking.scores, score, rtol=1e-10)
        np.testing.assert_array_equal(ranking.partners, partner)
        np.testing.assert_array_equal(ranking.order, np.argsort(-score, kind="stable"))


def test_regressions_are_those_of_least_squares(three):
    for ranking, errors in zip(linear_regression(three), worst_errors(three), strict=True):
        np.testing.assert_allclose(1 - ranking.scores, errors, rtol=1e-9)
        np.testing.assert_array_equal(ranking.order, np.argsort(errors, kind="stable"))


def test_collinear_neurons_are_no_obstacle(three):
    one, other = three[0].astype("float32"), three[2].astype("float32")
    other = np.concatenate([other, other[:, :1] * 3, other[:, 1:2] + other[:, 2:3]], axis=1)
    first, second = linear_regression([one, other])
    errors = worst_errors([one, other])
    np.testing.assert_allclose(first.scores, 1 - errors[0], atol=1e-5)
    np.testing.assert_allclose(second.scores, 1 - errors[1], atol=1e-5)
    (again, _) = linear_regression([np.concatenate([one, one[:, :1]], axis=1), one])
    np.testing.assert_allclose(again.scores, 1.0, atol=1e-6)


def with_correlation(column, rho, generator):
    """A column that correlates with another one by exactly rho."""
    base = (column - column.mean()) / column.std()
    noise = generator.normal(size=len(base))
    noise -= noise.mean() + base * (noise @ base) / len(base)
    return rho * base + np.sqrt(1 - rho**2) * noise / noise.std()


def test_clones_at_known_correlations(generator):
    one = np.linalg.qr(generator.normal(size=(400, 4)) - 0.0)[0]
    one -= one.mean(axis=0)
    wanted = np.array([0.9, -0.3, 0.7])
    other = np.stack([with_correlation(one[:, k], rho, generator) for k, rho in enumerate(wanted)], axis=1) * 7 + 3
    ranking = max_correlation([one, other])[0]
    np.testing.assert_allclose(ranking.scores[:3], np.abs(wanted), atol=0.06)
    assert ranking.scores[0] >= 0.9 - 1e-12
    np.testing.assert_array_equal(ranking.partners[:3], [[1, 0], [1, 1], [1, 2]])
    assert ranking.order[:2].tolist() == [0, 2]


def test_two_models_have_one_answer(three):
    (low, _), (high, _) = min_correlation(three[:2]), max_correlation(three[:2])
    np.testing.assert_array_equal(low.scores, high.scores)
    np.testing.assert_array_equal(low.partners, high.partners)


def test_the_weakest_of_the_models_decides_the_least(generator):
    one, other, third = (generator.normal(size=(300, 2)) for _ in range(3))
    other[:, 0] = third[:, 1] = one[:, 0]
    other[:, 1] = -one[:, 1]
    low, high = min_correlation([one, other, third])[0], max_correlation([one, other, third])[0]
    np.testing.assert_allclose(high.scores, 1.0)
    assert low.scores[0] == pytest.approx(1.0) and low.scores[1] < 0.3
    assert low.partners[1, 0] == 2 and high.partners[1].tolist() == [1, 1]


@pytest.mark.parametrize("function", ALL)
def test_scale_sign_and_shift_of_neurons_do_not_matter(three, function):
    changed = [own * np.resize([2.0, -0.1, 30.0], own.shape[1]) + 50 for own in three]
    for before, after in zip(function(three), function(changed), strict=True):
        np.testing.assert_allclose(after.scores, before.scores, rtol=1e-9)
        np.testing.assert_array_equal(after.order, before.order)


@pytest.mark.parametrize("function", ALL)
def test_permuted_neurons_have_permuted_scores(three, function, generator):
    turned = generator.permutation(4)
    before, after = function(three)[0], function([three[0][:, turned], *three[1:]])[0]
    np.testing.assert_allclose(after.scores, before.scores[turned], rtol=1e-9)
    np.testing.assert_array_equal(after.partners, before.partners[turned])


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_neurons_score_zero_and_come_last(three, function, dtype):
    models = [own.astype(dtype) for own in three]
    models[0][:, 1], models[1][:, 0] = 0.1, 1e6
    rankings = function(models)
    without = function([np.delete(models[0], 1, axis=1), np.delete(models[1], 0, axis=1), models[2]])
    assert rankings[0].scores[1] == rankings[1].scores[0] == 0
    assert rankings[0].order[-1] == 1 and rankings[1].order[-1] == 0
    assert rankings[0].partners[1].tolist() == rankings[1].partners[0].tolist() == [-1, -1]
    np.testing.assert_allclose(np.delete(rankings[0].scores, 1), without[0].scores, rtol=1e-6)
    np.testing.assert_allclose(rankings[2].scores, without[2].scores, rtol=1e-6)


@pytest.mark.parametrize("function", ALL)
def test_constants_come_behind_what_is_like_nothing(function):
    angle = np.arange(100) * 2 * np.pi / 100
    one = np.stack([np.zeros(100), np.sin(angle)], axis=1)
    ranking = function([one, np.cos(angle)[:, None]])[0]
    assert ranking.order.tolist() == [1, 0]
    np.testing.assert_allclose(ranking.scores, [0, 0], atol=1e-12)


@pytest.mark.parametrize("function", ALL)
def test_dead_layers_give_zeros(three, function):
    dead = np.zeros((80, 3), "float32")
    first, second = function([three[0], dead])
    np.testing.assert_array_equal(first.scores, np.zeros(4))
    np.testing.assert_array_equal(second.scores, np.zeros(3))
    np.testing.assert_array_equal(first.order, np.arange(4))
    assert (first.partners == -1).all()


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e30])
def test_very_small_and_very_large_values(three, function, scale):
    ranking = function([(three[0] * scale).astype("float32"), three[1]])[0]
    np.testing.assert_allclose(ranking.scores, function(three[:2])[0].scores, rtol=1e-4)


@pytest.mark.parametrize("function", ALL)
def test_one_point_gives_zeros_and_a_warning(function):
    with pytest.warns(UserWarning, match="1 points for 2 units"):
        rankings = function([np.ones((1, 2)), np.full((1, 2), 3.0)])
    np.testing.assert_array_equal(rankings[0].scores, [0, 0])


@pytest.mark.parametrize("function", ALL)
def test_few_points_warn(function, generator):
    models = [generator.normal(size=(49, 10)), generator.normal(size=(49, 3))]
    with pytest.warns(UserWarning, match="49 points for 10 units"):
        found = function(models)
    assert all(np.isfinite(own.scores).all() for own in found)


@pytest.mark.parametrize("function", ALL)
def test_many_chunks_are_one(three, function, monkeypatch):
    at_once = function(three)
    monkeypatch.setattr("tfprune.neurons.sources._FEWEST_POINTS", 7)
    monkeypatch.setattr("tfprune.neurons.sources._FLOATS_AT_ONCE", 35)
    for one, other in zip(at_once, function(three), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-10)


def test_integers_and_flags_are_numbers(generator):
    flags = generator.random((60, 2)) < 0.5
    ranking = max_correlation([flags, flags[:, ::-1].astype("int8")])[0]
    np.testing.assert_allclose(ranking.scores, 1.0)


@pytest.mark.parametrize("function", ALL)
def test_of_models_as_of_their_arrays(function):
    models = [dense(5, 1, "a"), dense(4, 2, "b"), dense(6, 3, "c")]
    x = np.random.default_rng(0).normal(size=(300, 3)).astype("float32")
    found = function(models, x, progress=False)
    arrays = [activations(own, x, progress=False)["hidden"] for own in models]
    for ranking, array_ranking, model in zip(found, function(arrays), models, strict=True):
        assert ranking.scores.shapes == {"hidden": (model.layers[0].units,)}
        np.testing.assert_allclose(ranking.scores.flat, array_ranking.scores, rtol=1e-6)
        np.testing.assert_array_equal(ranking.order, array_ranking.order)
        np.testing.assert_array_equal(ranking.partners, array_ranking.partners)


def test_a_clone_in_another_model_is_found_and_kept():
    one, other = dense(5, 1, "a"), dense(6, 2, "b")
    kernel, bias = one.layers[0].get_weights()
    theirs = other.layers[0].get_weights()
    theirs[0][:, 4], theirs[1][4] = -kernel[:, 2], -bias[2]
    other.layers[0].set_weights(theirs)
    x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
    ranking = max_correlation([one, other], x, progress=False)[0]
    assert ranking.labels(1) == ["hidden[2]"] and ranking.partners[2].tolist() == [1, 4]
    assert ranking.scores["hidden"][2] == pytest.approx(1.0, abs=1e-6)
    mask = tfprune.keep_top(ranking.scores, 0.8)
    assert np.flatnonzero(mask["hidden"]).tolist() == [2]
    assert tfprune.remove(one, mask).layers[0].units == 1


def test_several_layers_are_one_model():
    models = []
    for seed in (1, 2):
        model = NETS["dense_chain"]()
        models.append(randomise(model, seed))
    x = inputs_for(models[0], 120)[0]
    found = max_correlation(models, x, layers=["third", "first"], progress=False)[0]
    both = [activations(own, x, ["third", "first"], progress=False) for own in models]
    assert found.scores.shapes == {"third": (4,), "first": (5,)}
    again = max_correlation(both)[0]
    assert again.scores.names == ("third", "first")
    np.testing.assert_allclose(found.scores.flat, again.scores.flat, rtol=1e-9)
    joined = [np.concatenate([own["third"], own["first"]], axis=1) for own in both]
    np.testing.assert_allclose(found.scores.flat, max_correlation(joined)[0].scores, rtol=1e-9)
    each = max_correlation(models, x, layers=[["first"], ["second"]], progress=False)
    assert [own.scores.names for own in each] == [("first",), ("second",)]


def test_masked_steps_do_not_count():
    models = [randomise(NETS["embedding_joined"](), seed) for seed in (1, 2)]
    x = inputs_for(models[0], 60)[0]
    found = max_correlation(models, x, layers="lstm", points="steps", progress=False)[0]
    arrays = [activations(own, x, "lstm", points="steps", progress=False)["lstm"] for own in models]
    assert len(arrays[0]) == (x != 0).sum()
    np.testing.assert_allclose(found.scores.flat, max_correlation(arrays)[0].scores, rtol=1e-6)


def test_a_dataset_that_shuffles_is_read_once_for_all_models():
    models = [dense(4, 1, "a"), dense(4, 1, "b")]
    x = np.random.default_rng(0).normal(size=(96, 3)).astype("float32")
    data = tf.data.Dataset.from_tensor_slices(x).shuffle(96, seed=1).batch(32)
    found = max_correlation(models, data, progress=False)[0]
    np.testing.assert_allclose(found.scores.flat, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(found.partners[:, 1], np.arange(4))


def test_inputs_go_by_name_where_models_order_them_differently():
    def build(names, seed):
        inputs = {name: keras.Input((3,), name=name) for name in ("left", "right")}
        h = keras.layers.Dense(4, "tanh", name="hidden")(keras.layers.Concatenate()(list(inputs.values())))
        return randomise(keras.Model([inputs[name] for name in names], keras.layers.Dense(1)(h)), seed)

    models = [build(("left", "right"), 1), build(("right", "left"), 1)]
    generator = np.random.default_rng(0)
    data = {name: generator.normal(size=(60, 3)).astype("float32") for name in ("left", "right")}
    ranking = max_correlation(models, data, progress=False)[0]
    np.testing.assert_allclose(ranking.scores.flat, 1.0, rtol=1e-6)
    np.testing.assert_array_equal(ranking.partners[:, 1], np.arange(4))


def test_mixed_precision_and_convolutions():
    models = [randomise(NETS["mixed_precision"](), seed) for seed in (1, 2)]
    x = inputs_for(models[0], 10)[0]
    found = linear_regression(models, x, layers="first", points="positions", progress=False)[0]
    assert found.scores["first"].shape == (4,) and (found.scores["first"] > 0).all()


def test_arrays_on_disk(three, tmp_path):
    for number, own in enumerate(three):
        np.save(tmp_path / f"{number}.npy", own)
    mapped = [np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)]
    np.testing.assert_array_equal(max_correlation(mapped)[0].scores, max_correlation(three)[0].scores)


def test_nothing_is_written_to_what_was_given(three):
    before = [own.copy() for own in three]
    for function in ALL:
        function(three)
    for own, was in zip(three, before, strict=True):
        np.testing.assert_array_equal(own, was)


X = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")


EVERY = [*ALL, neurons.cka, neurons.svcca, neurons.cca, neurons.pwcca]


@pytest.mark.parametrize("function", EVERY)
def test_one_model_only(function):
    with pytest.raises(ValueError, match=r"expected two.*received 1.*trained from another seed"):
        function([X])
    with pytest.raises(ValueError, match="received 1"):
        function([dense(4, 1, "a")], X)
    with pytest.raises(TypeError, match="expected a list of two or more arrays"):
        function(dense(4, 1, "a"), X)
    with pytest.raises(TypeError, match="received ndarray"):
        function(X)


@pytest.mark.parametrize("function", EVERY)
def test_models_on_different_data(function):
    with pytest.raises(ValueError, match=r"representations\[0\] 40, representations\[1\] 30"):
        function([X, X[:30]])


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_models_that_take_other_data(function):
    with pytest.raises(ValueError, match=r"model 1 \('b'\) takes other data than model 0.*by their arrays"):
        other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1)], name="b")
        function([dense(4, 1, "a"), other], X, progress=False)


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_models_without_data_and_arrays_with(function):
    models = [dense(4, 1, "a"), dense(4, 2, "b")]
    with pytest.raises(TypeError, match="expected what the models run on, received None"):
        function(models)
    with pytest.raises(ValueError, match="only models are run on data"):
        function([X, X], X)
    with pytest.raises(TypeError, match="models alone or arrays alone"):
        function([models[0], X], X)


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_layers_that_do_not_exist(function):
    with pytest.raises(ValueError, match="Did you mean 'hidden'"):
        function([dense(4, 1, "a"), dense(4, 2, "b")], X, layers="hiden")
    with pytest.raises(ValueError, match="one list of names for each of the 2 models"):
        function([dense(4, 1, "a"), dense(4, 2, "b")], X, layers=["hidden", ["hidden"]])


@pytest.mark.parametrize("function", EVERY)
def test_not_finite(function):
    bad = X.copy()
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match=r"representations\[1\]: unit 1 takes values that are NaN"):
        function([X, bad])
    with pytest.raises(ValueError, match="too large to be squared"):
        function([X, X.astype("float64") * 1e200])


@pytest.mark.parametrize("function", EVERY)
def test_no_arrays(function):
    with pytest.raises(ValueError, match=r"empty, its shape is \(0, 3\)"):
        function([X[:0], X[:0]])
    with pytest.raises(ValueError, match=r"expected the shape \(points, units\), received \(2, 20, 3\)"):
        function([X.reshape(2, 20, 3), X])
    with pytest.raises(TypeError, match="expected numbers"):
        function([X.astype(str), X])


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_empty_data(function):
    with pytest.raises(ValueError, match="there are no samples"):
        function([dense(4, 1, "a"), dense(4, 2, "b")], X[:0])


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_layers_of_different_length(function):
    models = [randomise(NETS["conv_1d"](), seed) for seed in (1, 2)]
    x = inputs_for(models[0], 10)[0]
    with pytest.raises(ValueError, match="points of .*'valid' and .*'strided' differ"):
        function(models, x, layers=["valid", "strided"], points="positions", progress=False)
    found = activations(models[0], x, ["valid", "strided"], points="positions", progress=False)
    with pytest.raises(ValueError, match="layers have different numbers of points: valid 140, strided 60"):
        function([found, found])


@pytest.mark.parametrize("function", [max_correlation, neurons.svcca])
def test_other_steps_masked(function):
    model = randomise(NETS["embedding_joined"](), 1)
    x = np.array([[1, 2, 3, 1, 2, 0], [3, 4, 5, 1, 2, 3]] * 20)
    pad = x[:, ::-1]
    found = [activations(model, own, "dense", points="steps", progress=False) for own in (x, pad)]
    with pytest.raises(ValueError, match="differ .*or other masked steps"):
        function(found)


def test_rankings_check_what_they_hold():
    with pytest.raises(ValueError, match="score of unit 1 is nan"):
        neurons.Ranking(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="positions 0 to 1 once"):
        neurons.Ranking(np.array([1.0, 2.0]), np.array([0, 0]))
    with pytest.raises(ValueError, match=r"partners expect the shape \(2, 2\)"):
        neurons.Ranking(np.array([1.0, 2.0]), partners=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one number for each unit"):
        neurons.Ranking(np.zeros((2, 2)))
    assert neurons.Ranking(np.array([0.5, 1.0, 1.0 + 1e-9])).order.tolist() == [1, 2, 0]
    assert repr(neurons.Ranking(np.array([0.5, 1.0]))) == "Ranking of 2 units: [1] 1, [0] 0.5"
