"""Relevance inside losses: its gradients against finite differences, and training with it; relevance as a score."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers

import tfprune as tfp
from tfprune import saliency
from tfprune.relevance import Composite, explain, rules, tensors

MULTIPLIERS = {"linear": "gradient", "flow": "multipliers"}
COMPARING = {**MULTIPLIERS, "nonlinearity": "slope_of_differences", "product": "product_of_differences"}

COMPOSITES = {
    "normalized": Composite(linear=rules.Normalized(epsilon=0.05)),
    "inputs_only": Composite(linear=rules.Normalized(epsilon=0.05, biases=False)),
    "gamma": Composite(linear=rules.Gamma()),
    "alpha_beta": Composite(linear=rules.AlphaBeta()),
    "z_plus": Composite(linear=rules.ZPlus()),
    "w_square": Composite(linear=rules.WSquare()),
    "z_box": Composite(by_name={"first": rules.ZBox(low=-3.0, high=3.0, epsilon=0.05)}),
    "radial": Composite(maximum="radial"),
    "guided": Composite(linear="gradient", nonlinearity="guided", flow="sensitivity"),
    "gradient_times_input": "gradient_times_input",
    "blame_the_bias": "blame_the_bias",
    "larger_maximum": Composite(maximum="larger_maximum", **COMPARING),
    "folded_maximum": Composite(maximum="folded_maximum", **COMPARING),
}


def small_net(activation):
    """A convolution, a maximum, a dense layer: every kind of step, in float64."""
    return randomise(
        keras.Sequential(
            [
                keras.Input((6, 2), dtype="float64"),
                layers.Conv1D(3, 2, activation=activation, dtype="float64", name="first"),
                layers.MaxPooling1D(2, dtype="float64"),
                layers.Flatten(dtype="float64"),
                layers.Dense(4, activation=activation, dtype="float64", name="second"),
                layers.Dense(2, dtype="float64", name="out"),
            ]
        )
    )


@pytest.mark.parametrize("activation", slow_but(["tanh"], ["relu", "tanh"]))
@pytest.mark.parametrize("name", COMPOSITES)
def test_gradients_of_relevance(name, activation, generator):
    """By inputs and weights, along a random direction, against finite differences."""
    model, method = small_net(activation), COMPOSITES[name]
    x = tf.Variable(generator.normal(size=(2, 6, 2)))
    comparing = not isinstance(method, str) and method.needs_baseline
    baseline = tf.constant(generator.normal(size=(1, 6, 2))) if comparing else None
    weight = tf.constant(generator.normal(size=(2, 6, 2)))
    variables = [x, *(variable.value for variable in model.trainable_variables)]

    def loss():
        found = tensors(model, x, method=method, target=1, baseline=baseline)
        biases = tf.add_n(
            [tf.reduce_sum(tf.sin(share)) for share in found.biases.values()] or [tf.zeros([], "float64")]
        )
        return tf.reduce_sum(weight * found.inputs[0]) + tf.reduce_sum(found.inputs[0] ** 2) + biases

    with tf.GradientTape() as tape:
        value = loss()
    gradients = tape.gradient(value, variables, unconnected_gradients="zero")
    for variable, gradient in zip(variables, gradients, strict=True):
        direction = generator.normal(size=variable.shape)
        start, step = variable.numpy(), 1e-6
        values = []
        for sign in (1.0, -1.0):
            variable.assign(start + sign * step * direction)
            values.append(loss().numpy())
        variable.assign(start)
        numeric, exact = (values[0] - values[1]) / (2 * step), np.sum(gradient.numpy() * direction)
        assert exact == pytest.approx(numeric, rel=2e-5, abs=2e-6)
    assert any(np.abs(gradient.numpy()).max() > 1e-3 for gradient in gradients[1:])


@pytest.mark.parametrize("compiled", [True, False])
def test_training_with_relevance_in_a_train_step(compiled, generator):
    """Two inputs say the same; a loss on the relevance of the first makes the net listen to the second."""

    class Guided(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
                found = tensors(self, x, method="blame_the_bias", target=tf.cast(y[:, 0], "int32"))
                loss = loss + 3.0 * tf.reduce_mean(tf.square(found.inputs[0][:, 0]))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
            return {"total": loss}

    inputs = keras.Input((2,))
    model = Guided(inputs, layers.Dense(2)(layers.Dense(8, "tanh")(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.02), loss, run_eagerly=not compiled)
    x = np.repeat(generator.choice([-1.0, 1.0], size=(64, 1)), 2, axis=1).astype("float32")
    y = (x[:, :1] > 0).astype("int64")
    history = model.fit(x, y, epochs=40 if compiled else 2, batch_size=32, verbose=0).history["total"]
    assert history[-1] < history[0]
    if compiled:
        relevance = np.abs(explain(model, x, method="blame_the_bias", target=y[:, 0]).inputs).mean(axis=0)
        assert relevance[0] < 0.2 * relevance[1]
        assert (model(x).numpy().argmax(axis=1) == y[:, 0]).all()


def test_tensors_refuse_what_is_no_rule(dense_net):
    with pytest.raises(ValueError, match="only `explain` gives it"):
        tensors(dense_net, np.ones((1, 3), "float32"), method="conductance")
    with pytest.raises(ValueError, match="did you mean 'lrp'"):
        tensors(dense_net, np.ones((1, 3), "float32"), method="lpr")


# Relevance as a score -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", [saliency.relevance, saliency.conductance], ids=lambda score: score.__name__)
def test_scores_by_group(score, conv_norm_net, generator):
    x = generator.normal(size=(5, 8, 8, 2)).astype("float32")
    scores = score(conv_norm_net, x)
    method = "conductance" if score is saliency.conductance else "blame_the_bias"
    options = {"steps": 16} if method == "conductance" else {}
    units = explain(conv_norm_net, x, method=method, **options).units
    assert scores.names == ("first", "second")
    for name, values in scores.items():
        np.testing.assert_allclose(values, np.abs(units[name]).mean(axis=0), rtol=1e-5)
    signed = score(conv_norm_net, x, layers="second", signed=True)
    np.testing.assert_allclose(signed["second"], units["second"].mean(axis=0), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("score", [saliency.relevance, saliency.conductance], ids=lambda score: score.__name__)
def test_permuting_units_permutes_scores_and_idle_units_score_nothing(score, dense_net, generator):
    x = generator.normal(size=(6, 3)).astype("float32")
    second, out = dense_net.get_layer("second"), dense_net.get_layer("out")
    kernel = out.get_weights()[0]
    kernel[2] = 0.0
    out.set_weights([kernel, out.get_weights()[1]])
    before = score(dense_net, x, target=0)
    assert before["second"].argmin() == 2 and before["second"][2] < 1e-7
    order = [3, 1, 0, 2]
    weights = second.get_weights()
    second.set_weights([weights[0][:, order], weights[1][order]])
    out.set_weights([kernel[order], out.get_weights()[1]])
    after = score(dense_net, x, target=0)
    np.testing.assert_allclose(after["second"], before["second"][order], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(after["first"], before["first"], rtol=1e-4)


def test_members_of_a_group_add_up(generator):
    """Two layers whose units meet in an addition are one group."""
    x = keras.Input((3,), name="x")
    h = layers.Add()([layers.Dense(4, name="left")(x), layers.Dense(4, name="right")(x)])
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(layers.ReLU()(h))))
    data = generator.normal(size=(5, 3)).astype("float32")
    units = explain(model, data, method="blame_the_bias").units
    scores = saliency.relevance(model, data)
    np.testing.assert_allclose(scores["left"], np.abs(units["left"] + units["right"]).mean(axis=0), rtol=1e-5)
    assert tfp.keep_top(scores, sparsity=0.5)["left"].sum() == 2


@pytest.mark.parametrize("score", [saliency.relevance, saliency.conductance], ids=lambda score: score.__name__)
def test_scores_where_the_classes_lie_on_another_axis(score, generator):
    x = keras.Input((3,), name="x")
    h = layers.Dense(6, "tanh", name="hidden")(x)
    flat = layers.Dense(4, name="out")(h)
    model = randomise(keras.Model(x, [flat, layers.Reshape((4, 1))(flat)]))
    data = generator.normal(size=(5, 3)).astype("float32")
    plain, turned = (keras.Model(model.inputs[0], output) for output in model.outputs)
    expected = score(plain, data, target=2)
    np.testing.assert_allclose(score(turned, data, target=2, class_axis=1).flat, expected.flat, rtol=1e-5)


def test_bad_scores(dense_net):
    with pytest.raises(TypeError, match="saliency.relevance needs data"):
        saliency.relevance(dense_net)
    with pytest.raises(ValueError, match="take method='conductance'"):
        saliency.relevance(dense_net, np.ones((1, 3)), method="integrated_gradients")
    with pytest.raises(ValueError, match="on_nodes"):
        saliency.conductance(tfp.with_on_nodes(dense_net), np.ones((1, 3)))
