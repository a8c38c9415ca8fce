"""The score by angles: against a slow greedy choice, aware of redundancy, and for any schedule."""

import doctest
import importlib

import keras
import numpy as np
import pytest
from keras import layers
from replicas_distinctiveness import angle_matrix, farthest_first

from tfprune import keep_top, remove, saliency

X = np.random.default_rng(3).normal(size=(50, 4)).astype("float32")


def net(units=6, activation="tanh", seed=1):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(units, activation, name="hidden"), layers.Dense(2)])
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(generator.normal(0, 0.7, variable.shape))
    return model


def with_kernel(model, take, factors):
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([kernel[:, take] * factors, bias[take] * factors])
    return model


@pytest.mark.parametrize("complementary", [True, False])
def test_scores_agree_with_the_slow_choice(complementary):
    model = net()
    values = np.asarray(keras.Model(model.inputs, model.layers[0].output)([keras.ops.convert_to_tensor(X)]))
    expected = farthest_first(angle_matrix(values, 0.0), np.linalg.norm(values, axis=0), complementary)
    found = saliency.distinctiveness(model, X, complementary=complementary)["hidden"]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_one_of_each_family_stays():
    """Three units, each in three versions: at two thirds off, one of each is left, whatever its sign or scale."""
    model = with_kernel(net(9), [0, 1, 2] * 3, np.array([1, 1, 1, -1, -1, 1, 1, -1, -1.0]))
    scores = saliency.distinctiveness(model, X)
    mask = keep_top(scores, 2 / 3)
    assert sorted(np.flatnonzero(mask["hidden"]) % 3) == [0, 1, 2]
    assert (np.sort(scores["hidden"])[:6] < 1e-3).all() and np.sort(scores["hidden"])[6] > 10
    small = remove(model, mask, repair="affine", data=np.tile(X, (6, 1)))
    np.testing.assert_allclose(small(X), model(X), atol=1e-3)


def test_opposite_units_are_alike_only_if_asked_for():
    model = with_kernel(net(), [0, 0, 1, 2, 3, 4], np.array([1, -1, 1, 1, 1, 1.0]))
    assert saliency.distinctiveness(model, X)["hidden"][:2].min() < 1e-3
    assert saliency.distinctiveness(model, X, complementary=False)["hidden"][:2].min() > 10


def test_order_of_units_does_not_matter():
    model, order = net(), np.array([3, 1, 5, 0, 4, 2])
    scores = saliency.distinctiveness(model, X)["hidden"]
    moved = saliency.distinctiveness(with_kernel(net(), order, np.ones(6)), X)["hidden"]
    np.testing.assert_allclose(moved, scores[order], atol=1e-3)


def test_dead_units_score_zero_and_weights_need_no_data():
    model = net(activation="relu")
    kernel, bias = model.layers[0].get_weights()
    kernel[:, 2], bias[2] = 0.0, -1.0
    model.layers[0].set_weights([kernel, bias])
    assert saliency.distinctiveness(model, X)["hidden"][2] == 0.0
    found = saliency.distinctiveness(model, vectors="weights")["hidden"]
    lengths = np.linalg.norm(kernel, axis=0)
    alive = np.delete(np.arange(6), 2)
    expected = farthest_first(angle_matrix(kernel[:, alive], 0.0), lengths[alive], True)
    np.testing.assert_allclose(found[alive], expected, atol=1e-3)


def test_bad_data_are_refused():
    with pytest.raises(TypeError, match="data: expected inputs"):
        saliency.distinctiveness(net())
    with pytest.raises(ValueError, match="at least 2 patterns"):
        saliency.distinctiveness(net(), X[:1])


def test_documented_numbers():
    module = importlib.import_module("tfprune.saliency.distinctiveness")
    assert doctest.testmod(module, extraglobs={"keras": keras, "np": np}).failed == 0
