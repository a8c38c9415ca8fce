"""The loss of every sample, against NumPy and against what Keras reports."""

import keras
import numpy as np
import pytest
from keras import layers, ops
from nets import NETS, inputs_for

from tfprune.objectives import check_classes, describe_loss, sample_loss


@pytest.fixture
def targets(generator):
    return generator.normal(size=(4, 2)).astype("float32"), generator.normal(size=(4, 2)).astype("float32")


def values(losses):
    return ops.convert_to_numpy(losses)


def test_mean_over_all_but_the_first_axis(dense_net, generator):
    """Also over time steps."""
    y, outputs = generator.normal(size=(2, 4, 5, 2))
    expected = ((y - outputs) ** 2).mean(axis=(1, 2))
    np.testing.assert_allclose(values(sample_loss(dense_net, "mse")(y, outputs)), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        "mae",
        keras.losses.LogCosh(),
        keras.losses.MeanSquaredError(reduction="sum"),
        lambda y, outputs: ops.mean(ops.abs(y - outputs) ** 3, axis=-1),
    ],
)
def test_mean_over_samples_is_the_keras_loss(dense_net, targets, loss):
    y, outputs = targets
    per_sample = values(sample_loss(dense_net, loss)(y, outputs))
    assert per_sample.shape == (4,)
    own = keras.losses.get(loss)
    if isinstance(own, keras.losses.Loss):
        own = type(own).from_config({**own.get_config(), "reduction": "sum_over_batch_size"})
    np.testing.assert_allclose(per_sample.mean(), float(ops.mean(own(y, outputs))), rtol=1e-6)


def test_sparse_targets_and_logits(dense_net, targets):
    _, logits = targets
    labels = np.array([0, 1, 1, 0])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    expected = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(4), labels]
    for own in (labels, labels[:, None]):
        np.testing.assert_allclose(values(sample_loss(dense_net, loss)(own, logits)), expected, rtol=1e-5)


def test_targets_without_the_last_axis_of_one(dense_net):
    """Shape (4,) against outputs (4, 1): no broadcast to (4, 4)."""
    y, outputs = np.arange(4.0), np.ones((4, 1))
    np.testing.assert_allclose(values(sample_loss(dense_net, "mse")(y, outputs)), (y - 1) ** 2)


def test_the_compiled_loss_and_its_weight_are_the_default(dense_net, targets):
    y, outputs = targets
    dense_net.compile(loss="mae", loss_weights=[2.0])
    expected = 2.0 * np.abs(y - outputs).mean(axis=1)
    np.testing.assert_allclose(values(sample_loss(dense_net)(y, outputs)), expected, rtol=1e-6)
    np.testing.assert_allclose(values(sample_loss(dense_net, "mae")(y, outputs)), expected / 2, rtol=1e-6)


@pytest.mark.parametrize("weights", [None, {"one": 2.0, "two": 0.5, "raw": 1.0}])
def test_several_outputs_are_what_evaluate_says(weights, generator):
    """A dictionary of outputs has its own keys, which need not be names of layers."""
    model = NETS["several_outputs"]()
    loss = {"one": "mse", "two": "mae", "raw": keras.losses.Huber()}
    model.compile(loss=loss, loss_weights=weights)
    x = inputs_for(model, 6)
    y = {name: generator.normal(size=(6, n)).astype("float32") for name, n in (("one", 2), ("two", 1), ("raw", 4))}
    reported = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    per_sample = values(sample_loss(model)(y, model.predict(x, verbose=0)))
    assert per_sample.shape == (6,)
    assert per_sample.mean() == pytest.approx(reported, rel=1e-5)


def test_lists_of_losses_and_targets(generator):
    x = keras.Input((3,))
    model = keras.Model(x, [layers.Dense(2, name="a")(x), layers.Dense(1, name="b")(x)])
    y, outputs = ([generator.normal(size=(5, 2)), generator.normal(size=(5, 1))] for _ in range(2))
    mean = [((own - output) ** 2).mean(axis=1) for own, output in zip(y, outputs, strict=True)]
    np.testing.assert_allclose(values(sample_loss(model, "mse")(y, outputs)), mean[0] + mean[1], rtol=1e-6)
    np.testing.assert_allclose(values(sample_loss(model, ["mse", None])(y, outputs)), mean[0], rtol=1e-6)
    np.testing.assert_allclose(values(sample_loss(model, {"b": "mse"})({"b": y[1]}, outputs)), mean[1], rtol=1e-6)


def test_descriptions_tell_losses_apart(dense_net):
    losses = ["mse", "mae", keras.losses.Huber(), keras.losses.Huber(delta=2.0), keras.losses.mean_squared_error]
    descriptions = [describe_loss(dense_net, loss) for loss in losses]
    assert len(set(descriptions)) == len(losses)
    assert describe_loss(dense_net, keras.losses.Huber()) == descriptions[2]
    assert describe_loss(dense_net) == descriptions[0]
    dense_net.compile(loss="mse", loss_weights=[2.0])
    assert describe_loss(dense_net) != descriptions[0]


def test_a_loss_is_needed():
    model = NETS["dense_chain"]()
    with pytest.raises(ValueError, match="model 'dense_chain' is not compiled with a loss and none was given"):
        sample_loss(model)
    model.compile("sgd")
    with pytest.raises(ValueError, match="not compiled with a loss"):
        sample_loss(model)


def test_bad_losses(dense_net, targets):
    y, outputs = targets
    two = NETS["several_outputs"]()
    with pytest.raises(ValueError, match="no output is called 'three'; the outputs are"):
        sample_loss(two, {"three": "mse"})
    with pytest.raises(ValueError, match="has 3 outputs .* but 2 were given"):
        sample_loss(two, ["mse", "mse"])
    with pytest.raises(ValueError, match="none of the outputs .* has a loss"):
        sample_loss(two, {})
    with pytest.raises(ValueError, match="returns one number for a whole batch"):
        sample_loss(dense_net, lambda y, outputs: ops.mean(y - outputs))(y, outputs)
    with pytest.raises(ValueError, match="targets: the model has 3 outputs"):
        sample_loss(two, "mse")(y, [outputs] * 3)


def test_classes_that_do_not_exist_are_refused():
    x = keras.Input((2,))
    model = keras.Model(x, {"a": layers.Dense(3, name="a")(x), "b": layers.Dense(2, name="b")(x)})
    sparse = keras.losses.SparseCategoricalCrossentropy
    targets = {"a": np.array([0, 2, 1]), "b": np.array([0, 5, -1])}
    check_classes(model, targets, {"a": "sparse_categorical_crossentropy"})
    with pytest.raises(
        ValueError, match=r"output 'b' has 2 classes.* from 0 to 1; received 5 at index \(1,\) \(2 of 3"
    ):
        check_classes(model, targets, {"b": sparse(from_logits=True)})
    with pytest.raises(ValueError, match=r"received 5 at index \(1,\) \(1 of 3"):
        check_classes(model, targets, {"b": sparse(ignore_class=-1)})
    with pytest.raises(ValueError, match=r"received 0.5 at index \(0,\)"):
        check_classes(model, {"a": np.array([0.5]), "b": None}, {"a": sparse()})
    check_classes(model, {"a": np.array([[2], [0]]), "b": None}, {"a": sparse()})
    with pytest.raises(ValueError, match=r"output 'a'.*received the shape \(4, 3\). Of one-hot targets.*argmax"):
        check_classes(model, {"a": np.eye(4, 3), "b": None}, {"a": sparse()})
