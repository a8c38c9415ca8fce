"""Linear and Gaussian probes, and control tasks, against slow replicas and their own promises."""

import doctest
import importlib

import numpy as np
import pytest
import replicas_probes as replicas

from tfprune import LayerValues, keep_top
from tfprune.neurons import Activations, control_labels, gaussian_probe, probe, probeless
from tfprune.neurons.fitting import gradient_left
from tfprune.neurons.probes import _class_scores

MODULES = ("class_means", "clusters", "control_tasks", "examples", "fitting", "gaussian", "labelled", "probes")


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    found = doctest.testmod(importlib.import_module(f"tfprune.neurons.{name}"))
    assert found.failed == 0 and found.attempted > 0


def points_and_classes(generator, num_points=120, num_units=5, num_classes=3):
    codes = np.arange(num_points) % num_classes
    points = generator.normal(size=(num_points, num_units)) * [1.0, 3.0, 0.5, 1.0, 2.0][:num_units]
    points[:, 0] += codes
    points[:, 1] -= 2.0 * (codes == 1)
    points[:, 2] = points[:, 0] + 0.3 * generator.normal(size=num_points)
    return points, codes


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("l1, l2", [(0.02, 0.01), (0.0, 0.05), (0.005, 1e-3)])
def test_the_elastic_net_is_at_its_minimum(num_classes, l1, l2, generator):
    points, codes = points_and_classes(generator, num_classes=num_classes)
    found = probe(points, codes, l1=l1, l2=l2)
    rows = points[~found.test]
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    weights, bias = replicas.elastic_net(rows, codes[~found.test], l1, l2)
    np.testing.assert_allclose(found.weights, weights, atol=2e-3)
    # A constant added to all biases changes nothing.
    np.testing.assert_allclose(found.bias - found.bias.mean(), bias - bias.mean(), atol=2e-3)
    assert gradient_left(rows, codes[~found.test], found.weights, found.bias, l1, l2) <= 1e-5
    if l1 == 0.02:
        assert ((found.weights == 0) == (np.abs(weights) < 1e-9)).all() and (found.weights == 0).any()


def test_ridge_against_the_normal_equations(generator):
    points = generator.normal(size=(80, 4))
    numbers = points @ [1.0, 0.0, -2.0, 0.5] + 3.0 + 0.1 * generator.normal(size=80)
    found = probe(points, numbers, task="regression", l2=0.1)
    rows = points[~found.test]
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    weights, bias = replicas.ridge(rows, numbers[~found.test], 0.1)
    np.testing.assert_allclose(found.weights[0], weights, rtol=1e-9)
    np.testing.assert_allclose(found.bias, bias, rtol=1e-9)
    assert found.order.tolist() == [2, 0, 3, 1] and found.classes is None
    left = numbers[found.test] - found.predict(points[found.test])
    spread = numbers[found.test] - numbers[found.test].mean()
    assert found.test_accuracy == pytest.approx(1.0 - (left @ left) / (spread @ spread))
    assert found.majority_accuracy <= 0.0 < found.test_accuracy


def test_the_order_refines_that_of_growing_shares(generator):
    """Units enter in the same groups, but each has a place of its own."""
    weights = generator.normal(size=(3, 30)) ** 3
    weights[1] = 0.0
    scores = _class_scores(np.abs(weights))
    order = np.argsort(-scores, kind="stable")
    start = 0
    for group in replicas.ordering_in_steps(weights):
        assert set(order[start : start + len(group)]) == group
        start += len(group)
    assert start == 30 and len(np.unique(scores)) == 30
    share = np.abs(weights[0]) / np.abs(weights[0]).sum()
    assert scores[share.argmax()] == pytest.approx(1.0 + share.max(), abs=1e-8)


def test_scores_of_equal_and_of_no_weights():
    scores = _class_scores(np.array([[2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    np.testing.assert_allclose(scores, [1.5, 0.5, 0.5, 0.0])
    np.testing.assert_array_equal(_class_scores(np.zeros((2, 3))), np.zeros(3))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_the_fewest_units_that_hold_a_share(share, generator):
    points, codes = points_and_classes(generator)
    found = probe(points, codes, l1=0.01)
    expected = set()
    for label, row in zip(found.classes, np.abs(found.weights), strict=True):
        own = replicas.fewest_units(list(row), share)
        assert set(found.top(share, label)) == own
        expected |= own
    assert set(found.top(share)) == expected
    places = {unit: place for place, unit in enumerate(found.order)}
    assert sorted(found.top(share), key=places.get) == found.top(share).tolist()


def test_layers_by_name_are_one_row_of_units(generator):
    points, codes = points_and_classes(generator)
    whole = probe(points, codes)
    named = probe(Activations({"first": points[:, :2], "second": points[:, 2:]}), codes)
    assert isinstance(named.scores, LayerValues) and named.scores.names == ("first", "second")
    np.testing.assert_array_equal(named.scores.flat, whole.scores)
    np.testing.assert_array_equal(named.order, whole.order)
    mask = keep_top(named.scores, 0.4, scope="global")
    assert mask.flat.sum() == 3 and mask.flat[whole.order[0]]
    assert named.of_class(1).scores.names == ("first", "second")
    np.testing.assert_array_equal(
        named.predict({"first": points[:, :2], "second": points[:, 2:]}), whole.predict(points)
    )
    with pytest.raises(ValueError, match=r"the probe reads \{'first': 2, 'second': 3\} units, received 5"):
        named.predict(points)


def test_the_same_twice_and_labels_of_any_kind(generator):
    points, codes = points_and_classes(generator)
    first, again = (probe(points.astype("float32"), codes, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.weights, again.weights)
    words = probe(points.astype("float32"), np.array(["noun", "verb", "word"])[codes], seed=3)
    np.testing.assert_array_equal(words.weights, first.weights)
    assert words.classes.tolist() == ["noun", "verb", "word"]
    assert words.test_accuracy == np.mean(words.predict(points)[words.test] == words.classes[codes][words.test])
    assert "this probe" in repr(words) and "3 classes" in repr(words)
    shifted = probe(1e3 * points.astype("float32") + 7.0, codes, seed=3)
    np.testing.assert_allclose(shifted.weights, first.weights, atol=1e-3)


def test_constant_units_say_nothing(generator):
    points, codes = points_and_classes(generator)
    found = probe(np.c_[np.full(len(points), 0.1), points], codes)
    assert found.scores[0] == 0.0 and found.order[-1] == 0 and not found.weights[:, 0].any()
    np.testing.assert_allclose(found.weights[:, 1:], probe(points, codes).weights, atol=1e-6)


def test_which_points_are_held_out(generator):
    points, codes = points_and_classes(generator)
    found = probe(points, codes, test=0.2)
    assert [found.test[codes == code].sum() for code in range(3)] == [8, 8, 8]
    given = np.zeros(len(points), bool)
    given[::4] = True
    np.testing.assert_array_equal(probe(points, codes, test=given).test, given)
    rare = np.array([0] * 50 + [1] * 2)
    assert probe(points[:52], rare).test[50:].sum() == 1


def test_selectivity_is_what_a_control_task_cannot_explain(generator):
    """Units that hold the word tell any task of words; units that hold the class alone tell that one."""
    words = np.arange(600) % 12
    labels = words % 2
    by_word = np.eye(12)[words] + 0.03 * generator.normal(size=(600, 12))
    by_class = np.eye(2)[labels] + 0.1 * generator.normal(size=(600, 2))
    memory, real = (probe(points, labels, types=words, seed=1) for points in (by_word, by_class))
    assert memory.test_accuracy == memory.control_accuracy == 1.0 and memory.selectivity == 0.0
    assert real.test_accuracy == 1.0 and real.selectivity > 0.2
    assert "control" in repr(real) and "control" not in repr(probe(by_class, labels))
    control = control_labels(words, labels, seed=1)
    assert all(len(set(control[words == word])) == 1 for word in range(12)) and set(control) == {0, 1}
    assert control_labels(words, np.array(["a", "b"])[labels]).dtype.kind == "U"


def test_a_control_task_without_variety(generator):
    with pytest.warns(UserWarning, match="all 20 points are of different types"):
        control_labels(np.arange(20), np.arange(20) % 2)
    points, labels = generator.normal(size=(20, 3)), np.arange(20) % 2
    with pytest.warns(UserWarning, match="gave all points that are learned from the same label"):
        assert probe(points, labels, types=["x"] * 20).control_accuracy == 1.0


def test_accuracy_with_and_without_some_units(generator):
    points, codes = points_and_classes(generator)
    found = probe(points, codes)
    held, truth = points[found.test], codes[found.test]
    curve = found.ablate(held, truth, shares=[0.0, 0.2, 0.6, 1.0], num_random=3)
    rows = (held - points[~found.test].mean(axis=0)) / points[~found.test].std(axis=0)

    def accuracy(units):
        kept = np.isin(np.arange(5), units)
        return np.mean((rows * kept @ found.weights.T + found.bias).argmax(axis=1) == truth)

    for place, number in enumerate((0, 1, 3, 5)):
        assert curve.only["top"][place] == accuracy(found.order[:number])
        assert curve.without["top"][place] == accuracy(found.order[number:])
        assert curve.only["bottom"][place] == accuracy(found.order[::-1][:number])
        assert curve.without["bottom"][place] == accuracy(found.order[::-1][number:])
    for own in curve.only.values():
        assert own[-1] == curve.whole == found.test_accuracy
    assert curve.only["top"][1] > curve.only["bottom"][1] and "top only" in repr(curve)
    again = found.ablate(held, truth, shares=[0.2], num_random=3)
    assert again.only["random"].shape == (1,)


def test_a_fit_that_does_not_converge_is_warned_of(generator, monkeypatch):
    monkeypatch.setattr("tfprune.neurons.fitting._MAX_ITERATIONS", 1)
    points, codes = points_and_classes(generator)
    with pytest.warns(UserWarning, match="did not converge in 4 x 1 passes"):
        probe(points, codes, l1=1e-4, l2=1e-4)


# Gaussian probe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior_points", [1.0, 5.0])
def test_the_gaussian_probe_against_gaussians_of_each_subset(prior_points, generator):
    points, codes = points_and_classes(generator, num_points=60)
    found = gaussian_probe(points, codes, num_units=4, prior_points=prior_points)
    train, held = points[~found.test], points[found.test]
    picked = replicas.greedy_gaussian(train, codes[~found.test], 4, prior_points)
    assert found.chosen.tolist() == picked
    truth = codes[found.test]
    shares = np.bincount(truth) / len(truth)
    assert found.entropy == pytest.approx(-np.sum(shares * np.log2(shares)))
    for number in range(1, 5):
        logs = replicas.gaussian_log_shares(train, codes[~found.test], held, picked[:number], prior_points)
        told = found.entropy + logs[np.arange(len(truth)), truth].mean() / np.log(2)
        assert found.mutual_information[number - 1] == pytest.approx(told, abs=1e-9)
        assert found.accuracy[number - 1] == np.mean(logs.argmax(axis=1) == truth)
    assert found.scores[picked].tolist() == [4, 3, 2, 1] and found.scores.sum() == 10


def test_the_gaussian_probe_passes_over_what_is_known_already(generator):
    codes = np.arange(400) % 4
    first, second = codes % 2 + 0.4 * generator.normal(size=400), codes // 2 + 0.5 * generator.normal(size=400)
    points = np.stack([np.zeros(400), second, first, first], axis=1)
    found = gaussian_probe(points, codes, num_units=2)
    assert found.chosen.tolist() == [2, 1]
    assert probeless(points, codes, standardise=True).order.tolist()[:2] == [2, 3]
    assert found.mutual_information[1] > found.mutual_information[0] + 0.3
    every = gaussian_probe({"layer": points}, codes)
    assert len(every.chosen) == 3 and every.scores["layer"][0] == 0 and every.order[-1] == 0
    assert np.isfinite(every.mutual_information).all()


def test_the_gaussian_probe_reads_differences_of_spread(generator):
    codes = np.arange(300) % 2
    points = generator.normal(size=(300, 3))
    points[codes == 1, 1] *= 6.0
    found = gaussian_probe(points, codes, num_units=1)
    assert found.chosen[0] == 1 and found.mutual_information[0] > 0.2
    assert probe(points, codes).test_accuracy < found.accuracy[0]


def test_scale_changes_nothing(generator):
    points, codes = points_and_classes(generator, num_points=90)
    plain, scaled = (gaussian_probe(own, codes) for own in (points, points * [1e-3, 1e3, 1.0, 7.0, 1e4] + 5.0))
    np.testing.assert_array_equal(plain.chosen, scaled.chosen)
    np.testing.assert_allclose(plain.mutual_information, scaled.mutual_information, atol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------

POINTS = np.random.default_rng(0).normal(size=(12, 3))
LABELS = np.arange(12) % 2
MEASURES = {"probe": probe, "gaussian_probe": gaussian_probe, "probeless": probeless}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize(
    "points, labels, error, message",
    [
        (POINTS, LABELS[:-1], ValueError, r"one label for each of the 12 points, shape \(12,\), received \(11,\)"),
        (POINTS, np.eye(2)[LABELS], ValueError, "Of one-hot rows make classes by labels.argmax"),
        (POINTS, None, TypeError, "labels are needed: one for each of the 12 points"),
        (POINTS, np.zeros(12, int), ValueError, "two classes or more, received 0 for all 12 points"),
        (POINTS, [0] * 11 + [1], ValueError, "at least 2 points of each class, received one of '1'"),
        (POINTS, LABELS + 0.5, ValueError, "labels name classes, received the number 0.5.*task='regression'"),
        (POINTS, np.where(LABELS, np.nan, 1.0), ValueError, "labels hold nan at point 1"),
        (POINTS, np.array([{}] * 12), TypeError, "whole numbers, bool or text, received the dtype object"),
        (np.where(POINTS > 2, np.nan, POINTS) * np.inf, LABELS, ValueError, "NaN or infinite"),
        (POINTS[0], LABELS, ValueError, r"activations: expected the shape \(points, units\), received \(3,\)"),
        (POINTS[:, :0], LABELS, ValueError, r"activations: empty, its shape is \(12, 0\)"),
        (POINTS[:0], LABELS[:0], ValueError, r"its shape is \(0, 3\)"),
        (POINTS.astype(str), LABELS, TypeError, "activations: expected numbers, received the dtype"),
        ({}, LABELS, ValueError, "activations: empty, there are no layers"),
        ({"a": POINTS, "b": POINTS[:5]}, LABELS, ValueError, "different numbers of points: a 12, b 5"),
        ({"a": POINTS, "b": POINTS * np.nan}, LABELS, ValueError, "activations of 'b' hold nan at point 0, unit 0"),
    ],
)
def test_activations_and_labels_that_do_not_fit(name, points, labels, error, message):
    with pytest.raises(error, match=message):
        MEASURES[name](points, labels)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"task": "clustering"}, ValueError, "task expects 'classification' or 'regression'"),
        ({"l1": -1.0}, ValueError, "l1 expects a number of at least 0"),
        ({"l2": float("nan")}, ValueError, "l2 expects a number of at least 0"),
        ({"l2": 0.0}, ValueError, "l2=0 leaves the weights open"),
        ({"l1": 0.1, "task": "regression"}, ValueError, "ridge regression, which has no l1"),
        ({"types": LABELS, "task": "regression"}, ValueError, "types are for task='classification'"),
        ({"types": LABELS[:3]}, ValueError, r"types expects one for each of the 12 points, received \(3,\)"),
        ({"test": 1.0}, ValueError, "test expects a share between 0 and 1"),
        ({"test": "some"}, TypeError, "test expects a share of the points"),
        ({"test": LABELS}, TypeError, "test expects a share, or an array of bool"),
        ({"test": LABELS[:3] > 0}, ValueError, "one bool for each of the 12 points"),
        ({"test": LABELS > 5}, ValueError, "test holds none of the points"),
        ({"test": LABELS > 0}, ValueError, "holds all points of some class"),
    ],
)
def test_options_of_the_probe_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        probe(POINTS, LABELS, **options)


def test_numbers_that_do_not_fit():
    with pytest.raises(TypeError, match="expects labels that are numbers"):
        probe(POINTS, LABELS.astype(str), task="regression")
    with pytest.raises(ValueError, match="all 12 labels are 1"):
        probe(POINTS, np.ones(12), task="regression")
    with pytest.raises(ValueError, match="labels hold inf"):
        probe(POINTS, np.full(12, np.inf), task="regression")
    found = probe(POINTS, POINTS[:, 0], task="regression")
    with pytest.raises(ValueError, match="reads numbers, not classes"):
        found.of_class(0)


def test_what_is_asked_of_a_probe_must_fit():
    found = probe(POINTS, LABELS)
    with pytest.raises(ValueError, match="no control task, as it was given no types"):
        _ = found.selectivity
    with pytest.raises(ValueError, match="There is no class 7. Classes: 0, 1"):
        found.of_class(7)
    with pytest.raises(ValueError, match="share of the weight mass from 0 to 1, received 1.5"):
        found.top(1.5)
    with pytest.raises(ValueError, match="the probe reads 3 units, received 2"):
        found.predict(POINTS[:, :2])
    for options, message in (
        ({"shares": [2.0]}, "shares of the units from 0 to 1"),
        ({"num_random": 0}, "num_random expects a whole number of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            found.ablate(POINTS, LABELS, **options)
    with pytest.raises(ValueError, match="the probe knows no class 8"):
        found.ablate(POINTS, LABELS + 8)
    with pytest.raises(ValueError, match="one label for each of 12 points"):
        found.ablate(POINTS, LABELS[:2])
    with pytest.raises(TypeError, match="a control task needs types"):
        control_labels(None, LABELS)
    with pytest.raises(ValueError, match="one type for each point"):
        control_labels(np.zeros((2, 2)), LABELS)
    for own in (probe, gaussian_probe):
        with pytest.raises(ValueError, match="no unit changes from point to point"):
            own(np.ones((12, 3)), LABELS)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_units": 0}, "whole number from 1 to 3"),
        ({"num_units": 4}, "whole number from 1 to 3"),
        ({"prior_points": 0.0}, "prior_points expects a number above 0"),
    ],
)
def test_options_of_the_gaussian_probe_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        gaussian_probe(POINTS, LABELS, **options)
