"""Rankings by the means of classes, clusters and top examples."""

import keras
import numpy as np
import pytest
import replicas_probes as replicas
from conftest import randomise

import tfprune as tfp
from tfprune import LayerValues, keep_top, neurons
from tfprune.neurons import Activations, activations, clusters, probeless, selectivity, top_examples

POINTS = np.random.default_rng(0).normal(size=(12, 3))


@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_probeless_against_all_pairs_of_classes(num_classes, generator):
    points, labels = generator.normal(size=(40, 6)), np.arange(40) % num_classes
    expected = replicas.probeless(points, labels)
    np.testing.assert_allclose(probeless(points, labels).scores, expected, rtol=1e-10)
    scaled = points * [1.0, 10.0, 0.1, 3.0, 1.0, 2.0]
    found = probeless(scaled, labels, standardise=True)
    np.testing.assert_allclose(found.scores, expected / points.std(axis=0), rtol=1e-10)
    constant = probeless({"all": np.c_[points, np.full(40, 3.7)]}, labels, standardise=True)
    assert constant.order[-1] == 6 and constant.scores["all"][6] == pytest.approx(0.0, abs=1e-12)


def test_selectivity_against_loops(generator):
    points, labels = np.maximum(generator.normal(size=(60, 8)), 0.0), np.array(list("abcd"))[np.arange(60) % 4]
    points[:, 3] = 0.0
    points[:, 5] *= labels == "c"
    found = selectivity({"first": points[:, :4], "second": points[:, 4:]}, labels)
    np.testing.assert_allclose(found.scores.flat, replicas.selectivity(points, labels), rtol=1e-10)
    assert found.scores["first"][3] == 0.0 and found.scores["second"][1] == 1.0 and found.preferred[5] == "c"
    assert found.order[0] == 5 and found.order[-1] == 3
    np.testing.assert_allclose(found.means[2], points[labels == "c"].mean(axis=0), rtol=1e-12)
    order = generator.permutation(8)
    np.testing.assert_allclose(selectivity(points[:, order], labels).scores, found.scores.flat[order], rtol=1e-12)


def test_each_class_counts_once_however_many_points_it_has():
    """(3 - mean of 1 and 0) / (3 + 0.5), not weighted by the forty points of one."""
    points = np.r_[[[3.0]] * 2, [[1.0]] * 40, [[0.0]] * 2]
    assert selectivity(points, [0] * 2 + [1] * 40 + [2] * 2).scores[0] == pytest.approx(2.5 / 3.5)


def test_activity_below_zero_is_warned_of():
    points = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [-0.5, -1.0, 0.0], [-0.5, -1.0, 0.0]])
    with pytest.warns(UserWarning, match="2 of 3 units have means below 0.*1 of them score 0.*probeless"):
        found = selectivity(points, [0, 0, 1, 1])
    np.testing.assert_allclose(found.scores, [3.0, 0.0, 1.0])


def test_selectivity_inside_a_convolutional_net(conv_norm_net, generator):
    """The mean over positions comes first, and the ranking serves as a mask."""
    x, labels = generator.normal(size=(20, 8, 8, 2)).astype("float32"), np.arange(20) % 2
    found = selectivity(activations(conv_norm_net, x, progress=False), labels)
    maps = keras.Model(conv_norm_net.input, conv_norm_net.get_layer("relu").output).predict(x, verbose=0)
    expected = replicas.selectivity(maps.mean(axis=(1, 2)).astype("float64"), labels)
    np.testing.assert_allclose(found.scores["first"], expected, rtol=1e-4)
    small = tfp.remove(conv_norm_net, tfp.keep_top(found.scores, 0.5))
    assert small.get_layer("first").filters == 2


# Clusters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_clusters_against_joining_the_nearest_two(threshold, generator):
    base = generator.normal(size=(30, 4))
    points = base[:, [0, 1, 2, 0, 1, 3, 0, 2, 0]] * [1, -2, 1, 3, 1, 1, -1, 0.5, 1.0]
    points[:, 3:] += 0.7 * generator.normal(size=(30, 6))
    points = np.c_[points, 5.0 - 2.0 * points[:, 0], np.full(30, 0.3)]
    found = clusters(points, threshold=threshold)
    expected = replicas.clusters(points, threshold + 1e-9)
    assert [set(own.tolist()) for own in found.members] == expected
    assert found.num_clusters == len(expected) == found.mask.sum() == len(found.representatives)
    for code, own in enumerate(found.members):
        assert (found.labels[own] == code).all() and found.representatives[code] in own
    assert found.labels[0] == found.labels[9]
    assert found.linkage.shape == (10, 4)


def test_a_representative_is_most_like_the_others(generator):
    shared = generator.normal(size=200)
    points = np.stack([shared + scale * generator.normal(size=200) for scale in (0.6, 0.1, 0.6, 0.6)], axis=1)
    assert clusters(points).representatives.tolist() == [1]
    assert clusters(np.c_[shared, -shared, shared]).representatives.tolist() == [0]
    assert clusters(shared[:, None]).num_clusters == 1


def test_clones_go_at_no_change(generator):
    """One of each cluster is kept; the others are affine functions of it, which the repair restores."""
    x = generator.normal(size=(300, 4)).astype("float32")
    model = randomise(
        keras.Sequential(
            [keras.Input((4,)), keras.layers.Dense(6, "tanh", name="hidden"), keras.layers.Dense(2, name="out")]
        )
    )
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 3:], bias[3:] = -kernel[:, :3], -bias[:3]
    model.get_layer("hidden").set_weights([kernel, bias])
    found = clusters(activations(model, x, progress=False), threshold=1e-6)
    assert (
        found.mask["hidden"].tolist() == [True] * 3 + [False] * 3 and found.labels["hidden"].tolist() == [0, 1, 2] * 2
    )
    small = tfp.remove(model, found.mask, repair="affine", data=x)
    np.testing.assert_allclose(small.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-3)


# Top examples ---------------------------------------------------------------------------------------------------------

SENTENCES = [["the", "(", "cat"], ["a", "dog"], ["(", "("], ["end"]]
VALUES = np.array([[0.1, 0.9, -0.2, 0.0, 0.3, 0.9, 0.5, -1.0], [1.0, 0, 0, 0, 0, 0, 0, 2.0]]).T


def test_sentences_count_by_their_strongest_token():
    found = top_examples(VALUES, SENTENCES, [0, 1], num_examples=3)
    assert [own.number for own in found[0]] == [0, 2, 1]
    assert [own.position for own in found[0]] == [1, 0, 1]
    assert [own.value for own in found[0]] == [0.9, 0.9, 0.3]
    np.testing.assert_array_equal(found[0][0].values, VALUES[:3, 0])
    assert [own.tokens for own in found[1]] == [("end",), ("the", "(", "cat"), ("a", "dog")]
    assert list(found) == [0, 1] and len(found) == 2
    assert "the [(] cat" in repr(found)
    lowest = top_examples(VALUES, SENTENCES, 0, num_examples=2, which="lowest")
    assert [own.number for own in lowest[0]] == [3, 0]
    absolute = top_examples(VALUES, SENTENCES, 0, num_examples=9, which="absolute")
    assert [own.number for own in absolute[0]] == [3, 0, 2, 1]


def test_points_that_are_examples_each(generator):
    points = np.array([[0.0], [3.0], [2.0]])
    found = top_examples(points, ["one", "two", "three"], 0, num_examples=2)
    assert [own.tokens for own in found[0]] == [("two",), ("three",)]
    images = top_examples(points, generator.normal(size=(3, 4, 4)), 0, num_examples=1)
    assert images[0][0].tokens == ("example 1",)


def test_units_of_a_net_that_masks_its_padding():
    """Masked steps are no points, so that sentences go in as they are."""
    model = keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(9, 3, mask_zero=True),
            keras.layers.LSTM(5, return_sequences=True, name="lstm"),
            keras.layers.Dense(2),
        ]
    )
    randomise(model)
    texts = [[1, 2, 3], [4], [5, 6, 7, 8]]
    x = np.zeros((3, 4), "int32")
    for row, text in zip(x, texts, strict=True):
        row[: len(text)] = text
    points = activations(model, x, "lstm", points="steps", progress=False)
    found = top_examples(points, texts, {"lstm": [2, 4]}, num_examples=3)
    states = keras.Model(model.inputs[0], model.get_layer("lstm").output).predict(x, verbose=0)
    for unit in (2, 4):
        best = [states[k, : len(text), unit].max() for k, text in enumerate(texts)]
        assert [own.number for own in found["lstm", unit]] == np.argsort(-np.array(best)).tolist()
        for own in found["lstm", unit]:
            np.testing.assert_allclose(own.values, states[own.number, : len(own.tokens), unit], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="example 0 has 1 tokens, but 3 points"):
        top_examples(points, [texts[1], texts[0], texts[2]], {"lstm": 2})


def test_labels_of_a_ranking_name_units_and_its_scores_are_selected_from():
    scores = LayerValues({"lstm": np.array([0.1, 0.9])})
    ranking = neurons.Ranking(scores)
    assert ranking.labels(1) == ["lstm[1]"]
    named = top_examples({"lstm": VALUES}, SENTENCES, ranking.labels(1), num_examples=2)
    assert repr(named) == repr(top_examples({"lstm": VALUES}, SENTENCES, {"lstm": [1]}, num_examples=2))
    assert keep_top(ranking, 0.5)["lstm"].tolist() == keep_top(scores, 0.5)["lstm"].tolist() == [False, True]
    with pytest.raises(TypeError, match="scores: expected LayerValues"):
        keep_top(neurons.Ranking(np.array([0.1, 0.9])), 0.5)
    with pytest.raises(TypeError, match="top_examples: units: expected .* received 3"):
        top_examples({"lstm": VALUES}, SENTENCES, 3)


def test_examples_are_drawn():
    found = top_examples({"lstm": VALUES}, [["<b>", "$", "&"], *SENTENCES[1:]], {"lstm": [0, 1]}, num_examples=2)
    text = found._repr_html_()
    assert text.count("<tr>") == 4 and "&lt;b&gt;" in text and "<b>" not in text and "lstm[1]: highest" in text
    page = found.html(page=True)
    assert page.startswith("<!DOCTYPE html>") and 'charset="utf-8"' in page and text in page
    drawn = [own.get_text() for own in found.figure(("lstm", 0)).axes[0].texts]
    assert drawn == ["0: 0.9", "<b>", "$", "&", "2: 0.9", "(", "("]


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: clusters(POINTS, threshold=1.5), ValueError, "threshold expects a distance from 0 to 1"),
        (lambda: clusters(POINTS[:1]), ValueError, "no correlation over one point"),
        (lambda: clusters(POINTS * np.nan), ValueError, "NaN or infinite"),
        (lambda: selectivity(POINTS, np.zeros(12, int)), ValueError, "selectivity: expected labels of two classes"),
        (lambda: selectivity(POINTS, np.zeros(5, int)), ValueError, "one label for each of the 12 points"),
        (lambda: top_examples(VALUES, SENTENCES, 2), ValueError, "there is no unit 2: expected 0 to 1"),
        (lambda: top_examples(VALUES, SENTENCES, [-1]), ValueError, "there is no unit -1"),
        (lambda: top_examples(VALUES, SENTENCES, [0.5]), TypeError, "units are whole numbers from 0 to 1"),
        (lambda: top_examples(VALUES, SENTENCES, {"a": 0}), TypeError, "units expects whole numbers"),
        (
            lambda: top_examples({"a": VALUES}, SENTENCES, 0),
            TypeError,
            "units: expected {group: units} or labels such as",
        ),
        (lambda: top_examples({"a": VALUES}, SENTENCES, {"b": 0}), ValueError, "Unknown: 'b'"),
        (lambda: top_examples({"a": VALUES}, SENTENCES, {"a": 5}), ValueError, "there is no unit 5 of 'a'"),
        (lambda: top_examples(VALUES, SENTENCES[:-1], 0), ValueError, "received 3 examples with 7"),
        (lambda: top_examples(VALUES, ["the cat", "a dog"], 0), ValueError, "Cut text into tokens: sentence.split()"),
        (lambda: top_examples(VALUES, "the cat", 0), TypeError, "a sequence of examples, received str"),
        (lambda: top_examples(VALUES, [], 0), ValueError, "there are no examples"),
        (lambda: top_examples(VALUES * np.nan, SENTENCES, 0), ValueError, "NaN or infinite"),
        (lambda: top_examples(VALUES, SENTENCES, 0, num_examples=0), ValueError, "num_examples expects a whole number"),
        (lambda: top_examples(VALUES, SENTENCES, 0, which="most"), ValueError, "which expects 'highest'"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_arrays_of_another_kind_do_as_well():
    named = Activations({"a": VALUES.astype("float32")})
    found = top_examples(named, SENTENCES[:1] + [["x"]] * 5, {"a": 1}, num_examples=1)
    assert found["a", 1][0].tokens == ("x",) and found["a", 1][0].number == 5
