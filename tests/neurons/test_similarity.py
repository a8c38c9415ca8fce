"""Similarity of layers: against the big decompositions, what it may not depend on, and directions that can go."""

import doctest
import sys

import keras
import numpy as np
import pytest
from conftest import randomise
from nets import NETS, inputs_for
from replicas_neurons import canonical_correlations, hsic, pearson, projection_weighted, unbiased_hsic
from replicas_neurons import cka as slow_cka

from tfprune.neurons import Directions, activations, cca, cka, pwcca, svcca
from tfprune.neurons.covariances import Covariances

SAME = [lambda pair: cca(pair).similarity, lambda pair: svcca(pair).similarity, pwcca, cka]


@pytest.fixture
def pair(generator):
    """Layers of 6 and 4 units on 90 points with two common factors; away from zero, of different scales."""
    common = generator.normal(size=(90, 2))
    one = common @ generator.normal(size=(2, 6)) + 0.4 * generator.normal(size=(90, 6))
    other = common @ generator.normal(size=(2, 4)) + 0.7 * generator.normal(size=(90, 4))
    return [one * [1, 5, 0.2, 1, 2, 0.5] + 3, other + [0, 10, -5, 1]]


def test_examples():
    for name in ("similarity", "directions"):
        assert doctest.testmod(sys.modules[f"tfprune.neurons.{name}"], extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 1.0])
def test_canonical_correlations_are_those_of_the_big_decomposition(pair, share):
    expected = canonical_correlations(*pair, share)
    found = svcca(pair, variance=share)
    np.testing.assert_allclose(found.correlations, expected, atol=1e-9)
    assert found.similarity == pytest.approx(expected.mean(), abs=1e-9)


def test_all_directions_alike(pair):
    expected = canonical_correlations(*pair)
    np.testing.assert_allclose(cca(pair).correlations, expected, atol=1e-9)
    assert len(expected) == 4


def test_the_fewest_directions_that_reach_the_share():
    """Variances 98, 1, 1: two directions reach 99 %, and not one."""
    angle = np.arange(64) * 2 * np.pi / 64
    one = np.stack([np.sqrt(98) * np.sin(angle), np.sin(2 * angle), np.sin(3 * angle)], axis=1)
    assert len(svcca([one, one]).correlations) == 2
    assert len(svcca([one, one], variance=0.98).correlations) == 1
    assert len(svcca([one, one], variance=0.9901).correlations) == 3


def test_projection_weights_are_those_of_the_paper(pair):
    assert pwcca(pair) == pytest.approx(projection_weighted(*pair), abs=1e-9)
    assert pwcca(pair[::-1]) == pytest.approx(projection_weighted(*pair[::-1]), abs=1e-9)
    assert abs(pwcca(pair) - pwcca(pair[::-1])) > 1e-3


@pytest.mark.parametrize(("debiased", "estimate"), [(False, hsic), (True, unbiased_hsic)])
def test_alignment_is_that_of_the_kernels(pair, debiased, estimate):
    assert cka(pair, debiased=debiased) == pytest.approx(slow_cka(*pair, estimate), abs=1e-10)
    assert cka(pair[::-1], debiased=debiased) == pytest.approx(cka(pair, debiased=debiased), abs=1e-12)


@pytest.mark.parametrize("debiased", [False, True])
def test_many_chunks_are_one(pair, debiased, monkeypatch):
    at_once, canonical = cka(pair, debiased=debiased), svcca(pair)
    monkeypatch.setattr("tfprune.neurons.sources._FEWEST_POINTS", 7)
    monkeypatch.setattr("tfprune.neurons.sources._FLOATS_AT_ONCE", 42)
    assert cka(pair, debiased=debiased) == pytest.approx(at_once, abs=1e-12)
    np.testing.assert_allclose(svcca(pair).directions[1].transform, canonical.directions[1].transform, rtol=1e-7)


def test_covariances_far_from_zero(generator):
    rows = generator.normal(size=(100, 3)) + 1e6
    moments = Covariances([3, 3], fourth=True)
    for start in range(0, 100, 9):
        moments.add([rows[start : start + 9], rows[start : start + 9]])
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(moments.products(0, 1), centred.T @ centred, rtol=1e-7)
    assert moments.squared_lengths(0, 1) == pytest.approx(np.square(np.square(centred).sum(axis=1)).sum(), rel=1e-7)


def rotation(size, generator):
    return np.linalg.qr(generator.normal(size=(size, size)))[0]


@pytest.mark.parametrize("measure", SAME)
def test_a_layer_is_like_itself_turned_scaled_and_moved(pair, measure, generator):
    turned = pair[0] @ rotation(6, generator) * 3 - 7
    assert measure([pair[0], turned]) == pytest.approx(1.0, abs=1e-9)
    assert measure([pair[1], turned]) == pytest.approx(measure(pair[::-1]), abs=1e-9)
    if measure is not pwcca:
        # Its weights sum up over the units of the first layer.
        assert measure([turned, pair[1]]) == pytest.approx(measure(pair), abs=1e-9)


def test_what_linear_maps_change(pair, generator):
    """CCA and the weights of the other layer do not see them, the rest does."""
    changed = [pair[0], pair[1] @ (np.diag([30.0, 1, 1, 0.1]) @ generator.normal(size=(4, 4)))]
    np.testing.assert_allclose(cca(changed).correlations, cca(pair).correlations, atol=1e-9)
    assert pwcca(changed) == pytest.approx(pwcca(pair), abs=1e-9)
    assert abs(cka(changed) - cka(pair)) > 1e-3 and abs(pwcca(changed[::-1]) - pwcca(pair[::-1])) > 1e-3


def test_without_bias_independent_layers_have_nothing_in_common(generator):
    """The mean over draws is 0 within three of its standard errors; the biased one is far above."""
    draws = [[generator.normal(size=(30, 20)) + 2, np.exp(generator.normal(size=(30, 15)))] for _ in range(120)]
    unbiased = np.array([cka(own, debiased=True) for own in draws])
    assert abs(unbiased.mean()) < 3 * unbiased.std() / np.sqrt(len(draws))
    with pytest.warns(UserWarning, match="30 points for 20 units"):
        assert cka(draws[0]) > 0.3


def test_the_unbiased_alignment_of_a_layer_with_itself_is_one(pair):
    assert cka([pair[0], pair[0]], debiased=True) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("measure", SAME)
def test_dead_layers_are_like_nothing(pair, measure):
    dead = np.full((90, 3), 0.1, "float32")
    assert measure([pair[0], dead]) == measure([dead, pair[0]]) == measure([dead, dead]) == 0.0


def test_constant_and_doubled_units_change_no_canonical_correlation(pair):
    one = np.concatenate([pair[0], np.full((90, 1), 5.0), pair[0][:, :2] * 3], axis=1)
    np.testing.assert_allclose(cca([one, pair[1]]).correlations, cca(pair).correlations, atol=1e-8)
    doubled = one.astype("float32")
    np.testing.assert_allclose(cca([doubled, pair[1]]).correlations, cca(pair).correlations, atol=1e-5)


@pytest.mark.parametrize("measure", [cca, svcca])
@pytest.mark.parametrize("number", [0, 1])
def test_directions_are_canonical_variates(pair, measure, number):
    found = measure(pair)
    own = found.directions[number]
    values = own.values(pair[number])
    np.testing.assert_allclose(values.T @ values / 90, np.eye(len(own)), atol=1e-8)
    np.testing.assert_allclose(own.inverse @ own.transform, np.eye(len(own)), atol=1e-8)
    others = found.directions[1 - number].values(pair[1 - number])
    for k, score in enumerate(own.scores):
        assert pearson(values[:, k], others[:, k]) == pytest.approx(score, abs=1e-8)
    assert own.order.tolist() == list(range(len(own)))


def test_the_inverse_is_the_pseudo_inverse_of_principal_directions(pair):
    own = svcca(pair).directions[0]
    np.testing.assert_allclose(own.inverse, np.linalg.pinv(own.transform), atol=1e-8)


@pytest.mark.parametrize("measure", [cca, svcca])
def test_a_direction_that_is_taken_out_leaves_the_others_as_they_were(pair, measure):
    own = measure(pair).directions[0]
    left = own.without(pair[0], [0, 2])
    before, after = own.values(pair[0]), own.values(left)
    np.testing.assert_allclose(after[:, [0, 2]], 0, atol=1e-8)
    np.testing.assert_allclose(np.delete(after, [0, 2], axis=1), np.delete(before, [0, 2], axis=1), atol=1e-8)
    np.testing.assert_allclose(left.mean(axis=0), pair[0].mean(axis=0))
    np.testing.assert_array_equal(own.without(pair[0], []), pair[0])


def test_all_directions_taken_out_leave_what_was_not_kept(pair):
    own = svcca([pair[0], pair[0]], variance=0.9).directions[0]
    left = own.without(pair[0], own.order)
    assert len(own) < 6
    assert left.var(axis=0).sum() == pytest.approx(
        np.linalg.eigvalsh(np.cov(pair[0].T, bias=True))[: 6 - len(own)].sum()
    )


def test_directions_check_what_they_are_given(pair):
    own = svcca(pair).directions[1]
    assert isinstance(own, Directions) and own.sizes is None
    with pytest.raises(ValueError, match=r"expected the shape \(points, 4\).*received \(90, 6\)"):
        own.values(pair[0])
    with pytest.raises(ValueError, match=f"there are {len(own)} of them, from 0; received {len(own)}"):
        own.without(pair[1], [len(own)])
    assert repr(own).startswith(f"{len(own)} directions among 4 units, canonical correlations 0.")


@pytest.mark.parametrize("share", [0, 1.5, True, "0.9"])
def test_shares_of_the_variance(pair, share):
    with pytest.raises(ValueError, match="variance: expected a share above 0 and up to 1"):
        svcca(pair, variance=share)


def test_only_pairs(pair):
    with pytest.raises(ValueError, match="expected two, received 3. Take them in pairs"):
        svcca([*pair, pair[0]])
    with pytest.raises(ValueError, match="debiased: expected at least 4 points, received 3"):
        cka([pair[0][:3], pair[1][:3]], debiased=True)


def test_few_points_warn_and_give_numbers(generator):
    few = [generator.normal(size=(8, 10)), generator.normal(size=(8, 12))]
    for measure in SAME:
        with pytest.warns(UserWarning, match="8 points for 12 units"):
            assert 0 <= measure(few) <= 1
    with pytest.warns(UserWarning, match="1 points for 12 units"):
        assert svcca([few[0][:1], few[1][:1]]).similarity == 0.0


def test_of_models_as_of_their_arrays():
    models = [randomise(NETS["conv_2d"](), seed) for seed in (1, 2)]
    x = inputs_for(models[0], 30)[0]
    options = {"layers": [["valid"], ["same"]], "points": "positions", "progress": False}
    arrays = [
        activations(own, x, name, points="positions", progress=False)[name]
        for own, name in zip(models, ("valid", "same"), strict=True)
    ]
    found, expected = svcca(models, x, **options), svcca(arrays)
    np.testing.assert_allclose(found.correlations, expected.correlations, atol=1e-6)
    assert found.directions[0].sizes == {"valid": 4} and found.directions[1].sizes == {"same": 5}
    for debiased in (False, True):
        assert cka(models, x, debiased=debiased, **options) == pytest.approx(cka(arrays, debiased=debiased), abs=1e-6)


def test_two_layers_of_one_model(dense_net):
    x = np.random.default_rng(0).normal(size=(100, 3)).astype("float32")
    found = cka([dense_net, dense_net], x, layers=[["first"], ["second"]], progress=False)
    values = keras.Model(dense_net.inputs, [layer.output for layer in dense_net.layers[:2]])([x])
    assert found == pytest.approx(slow_cka(*(np.asarray(own) for own in values)), abs=1e-6)
