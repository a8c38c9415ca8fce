"""Curves of ablation and removal, and doses of control."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for

import tfprune as tfp
from tfprune import experiments
from tfprune.experiments import AblationCurves, DoseCurve, ablation_curve, dose_curve, removal_curve


def net():
    x = keras.Input((3,), name="x")
    h = layers.Dense(6, activation="relu", name="first")(x)
    h = layers.Dense(4, activation="tanh", name="second")(h)
    model = randomise(keras.Model(x, layers.Dense(3, activation="softmax", name="classes")(h)))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 3)).astype("float32")
Y = RNG.integers(0, 3, 70)
SCORES = tfp.LayerValues({"first": [0.1, 0.9, 0.4, 0.4, 0.0, 0.7], "second": [0.5, 0.2, 0.4, 0.8]})
ORDER = [1, 9, 5, 6, 2, 3, 8, 7, 0, 4]
"""From the highest score; of the three that are equal the first comes first."""


def share_right(targets, outputs):
    return float((outputs.argmax(axis=-1) == targets).mean())


def by_removal_of_columns(model, off, means):
    """Outputs in float64 when units of `off` are replaced by `means` where kernels read them."""
    h = X.astype("float64")
    start = 0
    for name in ("first", "second", "classes"):
        kernel, bias = (np.asarray(own, "float64") for own in model.get_layer(name).get_weights())
        h = h @ kernel + bias
        if name == "classes":
            return np.exp(h) / np.exp(h).sum(axis=-1, keepdims=True)
        h = np.maximum(h, 0) if name == "first" else np.tanh(h)
        for unit in range(h.shape[1]):
            if start + unit in off:
                h[:, unit] = means[start + unit]
        start += h.shape[1]


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_the_curve_is_that_of_units_replaced_one_after_another(replacement):
    model = net()
    means = np.zeros(10) if replacement == "zero" else tfp.statistics.exit_means(model, X).flat
    for order, way in (("top", ORDER), ("bottom", [4, 0, 7, 2, 3, 8, 6, 5, 9, 1])):
        curves = {
            metric if isinstance(metric, str) else str(metric is None): ablation_curve(
                model, (X, Y), SCORES, order=order, replacement=replacement, steps=10, metric=metric
            )
            for metric in (None, "accuracy", share_right)
        }
        for count in range(11):
            outputs = by_removal_of_columns(model, way[:count], means)
            loss = -np.log(outputs[np.arange(len(Y)), Y]).mean()
            np.testing.assert_allclose(curves["True"].values[0, count], loss, rtol=1e-4)
            right = share_right(Y, outputs)
            np.testing.assert_allclose(curves["accuracy"].values[0, count], right, atol=1e-6)
            np.testing.assert_allclose(curves["False"].values[0, count], right, atol=1e-6)
        assert curves["True"].num_off.tolist() == list(range(11))


def test_areas_are_those_of_trapezoids_and_random_curves_are_drawn_by_the_seed():
    model = net()
    found = ablation_curve(model, (X, Y), SCORES, steps=[0.3, 1.0], repeats=2, seed=3)
    assert found.num_off.tolist() == [0, 3, 10]
    assert found.orders.tolist() == ["top", "bottom", "random", "random"]
    heights = found.curves("random").mean(axis=0)
    expected = 0.3 * (heights[0] + heights[1]) / 2 + 0.7 * (heights[1] + heights[2]) / 2
    np.testing.assert_allclose(found.area("random"), expected)
    again = ablation_curve(model, (X, Y), SCORES, steps=[0.3, 1.0], repeats=2, seed=3)
    np.testing.assert_array_equal(found.values, again.values)
    other = ablation_curve(model, (X, Y), SCORES, steps=[0.3, 1.0], repeats=2, seed=4)
    assert not np.array_equal(found.values[2:], other.values[2:])
    with pytest.raises(ValueError, match="expected one of the curves"):
        found.curves("middle")


def test_any_saliency_is_a_ranking_and_any_data_are_data(tmp_path):
    model = net()
    scores = tfp.saliency.mean_replacement(model, (X, Y))
    expected = ablation_curve(model, (X, Y), scores, steps=4).values
    dataset = tf.data.Dataset.from_tensor_slices((X, Y)).batch(16)
    for metric in (None, "accuracy", share_right):
        wanted = ablation_curve(model, (X, Y), scores, steps=4, metric=metric).values
        np.testing.assert_allclose(
            ablation_curve(model, dataset, scores, steps=4, metric=metric).values, wanted, rtol=1e-5
        )
    ranking = tfp.neurons.Ranking(scores)
    found = ablation_curve(model, (X, Y), ranking, steps=4)
    np.testing.assert_allclose(found.values, expected)
    found.save(tmp_path / "curves.npz")
    loaded = AblationCurves.load(tmp_path / "curves.npz")
    np.testing.assert_array_equal(loaded.values, found.values)
    assert loaded.kinds == (("top", "zero"), ("bottom", "zero"), ("random", "zero"))


def test_predict_gives_what_the_metric_sees_of_the_model_with_units_off():
    model = net()
    seen = []

    def predict(masked, inputs):
        seen.append(masked)
        return masked.predict(inputs[0], verbose=0)

    plain = ablation_curve(model, (X, Y), SCORES, steps=4, metric=share_right, order="top", replacement="mean")
    decoded = ablation_curve(
        model, (X, Y), SCORES, steps=4, metric=share_right, order="top", replacement="mean", predict=predict
    )
    np.testing.assert_allclose(decoded.values, plain.values)
    assert len(seen) == 5 and len({id(own) for own in seen}) == 1
    assert [tensor.name for tensor in seen[0].inputs] == [tensor.name for tensor in model.inputs]


def test_masked_steps_do_not_count_as_in_evaluate():
    x = keras.Input((5,), name="x", dtype="int32")
    h = layers.Embedding(9, 4, mask_zero=True, name="embedding")(x)
    h = layers.LSTM(5, return_sequences=True, name="lstm")(h)
    model = randomise(keras.Model(x, layers.Dense(3, activation="softmax", name="out")(h)))
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    words = RNG.integers(1, 9, (20, 5))
    words[:, 3:] *= RNG.integers(0, 2, (20, 1))
    tags = RNG.integers(0, 3, (20, 5))
    _, accuracy = model.evaluate(words, tags, verbose=0, batch_size=20)
    kept, outputs = words > 0, np.asarray(model(words))
    losses = -np.log(np.take_along_axis(outputs, tags[..., None], axis=-1))[..., 0]
    loss = ((losses * kept).sum(axis=1) / kept.sum(axis=1)).mean()
    scores = tfp.saliency.weight_norm(model)
    for metric, expected in ((None, loss), ("accuracy", accuracy)):
        found = ablation_curve(model, (words, tags), scores, steps=2, metric=metric)
        np.testing.assert_allclose(found.values[:, 0], expected, rtol=1e-4)


def test_sample_weights_count_in_losses_and_metrics_and_warn_where_they_cannot():
    model = net()
    weights = RNG.random(70).astype("float32")
    metric = keras.metrics.SparseCategoricalAccuracy()
    found = ablation_curve(model, (X, Y, weights), SCORES, steps=1, metric=metric, order="top")
    right = by_removal_of_columns(model, [], np.zeros(10)).argmax(axis=-1) == Y
    np.testing.assert_allclose(found.values[0, 0], (right * weights).sum() / weights.sum(), rtol=1e-5)
    with pytest.warns(UserWarning, match="sample weights are not used"):
        ablation_curve(model, (X, Y, weights), SCORES, steps=1, metric=share_right, order="top")


@pytest.mark.parametrize("name", ["conv_2d", "encoder_decoder_lstm", "bidirectional_none", "transformer_block"])
def test_nets_of_every_kind(name):
    model = NETS[name]()
    inputs = inputs_for(model)
    outputs = keras.tree.map_structure(np.asarray, model(inputs if len(inputs) > 1 else inputs[0]))
    scores = tfp.saliency.weight_norm(model)

    def distance(targets, found):
        pairs = zip(keras.tree.flatten(targets), keras.tree.flatten(found), strict=True)
        return float(sum(np.abs(one - other).mean() for one, other in pairs))

    data = (inputs if len(inputs) > 1 else inputs[0], outputs)
    found = ablation_curve(model, data, scores, steps=3, metric=distance, order=("top", "bottom"))
    np.testing.assert_allclose(found.values[:, 0], 0.0, atol=1e-5)
    assert (found.values[:, 1:] > 1e-4).all()
    masks = [np.isin(np.arange(scores.size), np.argsort(-scores.flat, kind="stable")[: found.num_off[1]], invert=True)]
    masked = tfp.with_on_nodes(model)([*inputs, masks[0][None].astype("float32")])
    np.testing.assert_allclose(
        found.values[0, 1], distance(outputs, keras.tree.map_structure(np.asarray, masked)), rtol=1e-3
    )


@pytest.mark.filterwarnings("ignore:data. repair 'mean' has 70 samples")
def test_removal_follows_the_same_order_and_each_repair_its_own_curve():
    model = net()
    found = removal_curve(model, (X, Y), SCORES, repair=["zero", "mean"], calibration=X, steps=4, order="top")
    erased = ablation_curve(model, (X, Y), SCORES, steps=found.num_off.tolist(), order="top")
    # The last unit of each group stays, so that the last step differs.
    assert found.num_off.tolist() == [0, 2, 4, 6, 8]
    np.testing.assert_allclose(found.curves("top", "remove, zero")[0, :-1], erased.values[0, :-1], rtol=1e-4)
    small = tfp.remove(model, SCORES.map(lambda own: own < 0.85), repair="mean", data=X)
    loss, _ = small.evaluate(X, Y, verbose=0, batch_size=70) if small.compiled else (None, None)
    two = removal_curve(model, (X, Y), SCORES, repair="mean", calibration=X, steps=[1], order="top")
    np.testing.assert_allclose(two.values[0, 1], loss, rtol=1e-4)
    with pytest.raises(ValueError, match="calibration: every repair but 'zero' is fitted on data"):
        removal_curve(model, (X, Y), SCORES)


@pytest.mark.parametrize("replacement", ["zero", "mean"])
def test_directions_are_taken_out_where_the_units_show(replacement):
    model, other = net(), net()
    other.set_weights([own + 0.3 for own in other.get_weights()])
    found = tfp.neurons.svcca([model, other], X, layers="first", variance=1.0, progress=False)
    directions = found.directions[0]
    hidden = np.asarray(keras.Model(model.inputs[0], model.get_layer("first").output)(X), "float64")
    head = keras.Sequential([model.get_layer("second"), model.get_layer("classes")])
    mean = directions.mean if replacement == "mean" else 0.0
    count = len(directions)
    options = {"steps": count, "order": ("top", "bottom"), "replacement": replacement}
    curves = ablation_curve(model, (X, Y), directions, metric=share_right, **options)
    losses = ablation_curve(model, (X, Y), directions, **options)
    decoded = ablation_curve(
        model, (X, Y), directions, metric=share_right, predict=lambda own, x: own.predict(x[0], verbose=0), **options
    )
    for number, order in enumerate((np.arange(count), np.arange(count)[::-1])):
        for step in range(count + 1):
            gone = order[:step]
            left = hidden - (hidden - mean) @ directions.transform[:, gone] @ directions.inverse[gone]
            outputs = np.asarray(head(left.astype("float32")))
            np.testing.assert_allclose(curves.values[number, step], share_right(Y, outputs), atol=1e-6)
            loss = -np.log(outputs[np.arange(len(Y)), Y]).mean()
            np.testing.assert_allclose(losses.values[number, step], loss, rtol=1e-3)
    np.testing.assert_allclose(decoded.values, curves.values)


def test_directions_have_their_mean_unless_told_otherwise_and_cannot_be_cut():
    model, other = net(), net()
    other.set_weights([own + 0.3 for own in other.get_weights()])
    found = tfp.neurons.svcca([model, other], X, layers="first", progress=False)
    options = {"steps": 2, "order": "top", "metric": share_right}
    default = ablation_curve(model, (X, Y), found.directions[0], **options)
    assert default.erased.tolist() == ["mean"]
    named = ablation_curve(model, (X, Y), found.directions[0], replacement="mean", **options)
    np.testing.assert_array_equal(default.values, named.values)
    with pytest.raises(ValueError, match="directions cannot be cut out of a network"):
        removal_curve(model, (X, Y), found.directions[0])
    with pytest.raises(TypeError, match=r"those of several models. Take that of this model: found\[0\]"):
        ablation_curve(model, (X, Y), found)
    with pytest.raises(TypeError, match="those of several models"):
        ablation_curve(model, (X, Y), (SCORES, SCORES))


def test_directions_of_several_groups_or_of_arrays_have_no_place():
    several = tfp.neurons.svcca([net(), net()], X, progress=False).directions[0]
    with pytest.raises(ValueError, match="combine the units of one group; received first, second"):
        ablation_curve(net(), (X, Y), several)
    with pytest.raises(ValueError, match="received no names"):
        ablation_curve(net(), (X, Y), tfp.neurons.svcca([X, X]).directions[0])


BAD = {
    "order: expected one or several of top": dict(order="middle"),
    "replacement: expected 'zero', 'mean' or numbers": dict(replacement="noise"),
    "steps: expected at least 1": dict(steps=0),
    "steps: expected shares from 0.0 to 1.0, or counts": dict(steps=[0.5, 1.5]),
    "repeats: expected how many random orders": dict(repeats=0),
    "Keras has no metric 'bleu'": dict(metric="bleu"),
    "expected one finite number of <lambda>": dict(metric=lambda targets, outputs: outputs),
    "nothere": dict(ranking={"nothere": [1.0]}),
    "ranking: it is empty": dict(ranking={}),
    "length|shape": dict(ranking={"first": [1.0]}),
    "NaN": dict(ranking={"second": [1.0, float("nan"), 0.0, 0.0]}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    options = dict(BAD[message])
    ranking = options.pop("ranking", SCORES)
    with pytest.raises(ValueError, match=message):
        ablation_curve(net(), (X, Y), ranking, **options)


def test_what_is_of_no_kind_that_can_be_read():
    with pytest.raises(TypeError, match="ranking: expected scores by group name, received an array"):
        ablation_curve(net(), (X, Y), np.ones(10))
    with pytest.raises(TypeError, match="predict: its outputs go to `metric`"):
        ablation_curve(net(), (X, Y), SCORES, predict=lambda model, inputs: inputs)
    with pytest.raises(TypeError, match="metric: expected None"):
        ablation_curve(net(), (X, Y), SCORES, metric=3)
    with pytest.raises(ValueError, match="target"):
        ablation_curve(net(), X, SCORES, metric="accuracy")


# Doses ----------------------------------------------------------------------------------------------------------------


def test_a_dose_is_the_control_of_its_z_and_success_is_what_was_measured():
    model = net()
    doses = [-2.0, 0.0, 2.0]
    found = dose_curve(
        model, (X, Y), {"first": [0, 1]}, doses, measured=lambda outputs: outputs.argmax(axis=-1), metric="accuracy"
    )
    before = by_removal_of_columns(model, [], np.zeros(10)).argmax(axis=-1)
    for number, dose in enumerate(doses):
        outputs = np.asarray(tfp.neurons.control(model, {"first": [0, 1]}, z=dose, data=X)(X))
        np.testing.assert_allclose(found.success[number], (outputs.argmax(axis=-1) != before).mean())
        np.testing.assert_allclose(found.quality[number], share_right(Y, outputs), atol=1e-6)
    np.testing.assert_allclose(float(found.full_quality), (before == Y).mean(), atol=1e-6)
    full = np.asarray(model(X))[:, 0]

    def measured(outputs):
        return np.where(outputs[:, 0] > np.median(full), "much", "little")

    after = np.asarray(tfp.neurons.control(model, {"first": [0, 1]}, z=2.0, data=X)(X))
    turned = [(measured(after)[measured(full[:, None]) != wanted] == wanted).mean() for wanted in ("much", "little")]
    assert max(turned) > 0
    for wanted, share in zip(("much", "little"), turned, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("error" if share else "ignore", UserWarning)
            found = dose_curve(model, (X, Y), {"first": [0, 1]}, [2.0], measured=measured, wanted=wanted)
        np.testing.assert_allclose(found.success, [share])
    with pytest.warns(UserWarning, match="no example turns to 'one' at any dose.*`measured` gives: little, much"):
        dose_curve(model, (X, Y), {"first": [0]}, [2.0], measured=measured, wanted="one")


def test_doses_of_a_shift_at_positions_of_ones_own(tmp_path):
    x = keras.Input((5, 3), name="x")
    h = layers.GRU(4, return_sequences=True, name="gru")(x)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    model.compile("sgd", "mse")
    steps = RNG.normal(size=(8, 5, 3)).astype("float32")
    targets = np.asarray(model(steps))
    at = RNG.random((8, 5)) < 0.5
    found = dose_curve(
        model,
        (steps, targets),
        "gru[1]",
        [0.0, 1.0],
        measured=lambda outputs: outputs[:, -1, 0] > 0,
        shift={"gru": np.full(4, 0.5)},
        positions=at,
    )
    np.testing.assert_allclose(found.quality[0], 0.0, atol=1e-9)
    moved = np.asarray(
        tfp.neurons.control(model, "gru[1]", shift=0.5, positions="input")([steps, at.astype("float32")])
    )
    np.testing.assert_allclose(found.quality[1], np.square(moved - targets).mean(), rtol=1e-4)
    found.save(tmp_path / "doses.npz")
    assert DoseCurve.load(tmp_path / "doses.npz").labels.tolist() == found.labels.tolist()


DOSES = {
    "doses: expected finite numbers": dict(doses=[float("inf")]),
    "measured: expected one label for each of the 70 examples": dict(measured=lambda outputs: outputs),
    "wanted: every example has the property": dict(measured=lambda outputs: np.ones(70), wanted=1),
    "'input' is for `neurons.control`": dict(positions="input"),
    "positions: expected a row for each of the 70 examples": dict(positions=np.ones((3, 2), bool)),
}


@pytest.mark.parametrize("message", DOSES)
def test_bad_doses(message):
    options = {"doses": [1.0], "measured": lambda outputs: outputs[:, 0] > 0.5, **DOSES[message]}
    with pytest.raises(ValueError, match=message):
        experiments.dose_curve(net(), (X, Y), "first[0]", options.pop("doses"), **options)
