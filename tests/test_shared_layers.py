"""Layers that are called several times, each call followed by something else: what looks at units sees every call."""

import functools
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers

import tfprune as tfp
from tfprune import experiments, neurons, relevance, statistics
from tfprune.graph import register
from tfprune.training import LivenessMonitor

GENERATOR = np.random.default_rng(0)
STEPS = [GENERATOR.normal(size=(40, 5, 3)).astype("float32") for _ in range(2)]


def joined(*tensors, size=2):
    return layers.Dense(size, name="out")(layers.Concatenate(name="joined")(list(tensors)))


def two_sequences():
    return [keras.Input((5, 3), name="x"), keras.Input((5, 3), name="y")]


def test_a_recurrent_unit_that_is_still_at_the_first_call_is_not_dead():
    """Nothing outside reads unit 0; the first sequences are zero, so that its states stay zero there."""
    inputs, gru = two_sequences(), layers.GRU(4, use_bias=False, name="gru")
    model = randomise(keras.Model(inputs, joined(*(gru(x) for x in inputs))))
    kernel, bias = model.get_layer("out").get_weights()
    kernel[[0, 4]] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    data = [np.zeros_like(STEPS[0]), STEPS[1]]
    for given in (data, data[::-1]):
        small = tfp.remove_dead(model, given)
        assert small.count_params() == model.count_params()
        np.testing.assert_allclose(np.asarray(small(given)), np.asarray(model(given)), atol=1e-5)
    means = [own.mean for own in statistics.exit_statistics(model, data).moments]
    assert any(np.allclose(own, 0.0) for own in means) and not all(np.allclose(own, 0.0) for own in means)


def test_angles_are_those_of_all_states_of_all_calls():
    inputs, gru = two_sequences(), layers.GRU(3, name="gru")
    model = randomise(keras.Model(inputs, joined(*(gru(x) for x in inputs))))
    inner = keras.Sequential([keras.Input((5, 3)), layers.GRU(3, name="gru")], name="inner")
    nested = keras.Model(inputs, joined(*(inner(x) for x in inputs)))
    nested.set_weights(model.get_weights())
    found, expected = (tfp.saliency.distinctiveness(own, STEPS) for own in (model, nested))
    np.testing.assert_allclose(found["gru"], expected["inner/gru"], rtol=1e-3)


def test_within_time_distributed_and_alone():
    x, y = keras.Input((4, 3), name="x"), keras.Input((3,), name="y")
    shared = layers.Dense(5, name="shared")
    inside = layers.ReLU()(layers.TimeDistributed(shared, name="inside")(x))
    alone = layers.Activation("tanh")(shared(y))
    model = randomise(keras.Model([x, y], joined(layers.GlobalAveragePooling1D()(inside), alone)))
    given = [STEPS[0][:, :4], STEPS[1][:, 0]]
    by_layer = relevance.explain(model, given).units
    plain = [np.asarray(shared(own)) for own in given]
    assert by_layer["inside"].shape == (40, 5)
    found = neurons.activations(model, given, points="positions", progress=False)["inside"]
    expected = np.concatenate([plain[0].reshape(40, -1, 5), plain[1][:, None]], axis=1)
    np.testing.assert_allclose(found, expected.reshape(-1, 5), rtol=1e-4, atol=1e-5)


def test_homes_of_two_wrappers_around_one_layer_are_both_before_the_norm():
    inputs, shared = two_sequences(), layers.Dense(4, name="shared")
    one, other = (layers.TimeDistributed(shared, name=f"rows_{k}")(x) for k, x in enumerate(inputs))
    ways = [layers.GlobalAveragePooling1D()(layers.BatchNormalization()(one)), layers.GlobalMaxPooling1D()(other)]
    (group,) = tfp.unit_groups(keras.Model(inputs, joined(*ways))).values()
    assert [id(home.tensor) for home in group.members[0].homes] == [id(one), id(other)]


class WithoutConfig(layers.Layer):
    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def call(self, x):
        return self.scale * x


FOLLOWERS = {
    "partial functions": lambda k: layers.Activation(functools.partial(keras.activations.leaky_relu, negative_slope=k)),
    "lambdas": lambda k: layers.Activation(lambda x: k * keras.ops.tanh(x)),
    "no configuration": WithoutConfig,
    "slopes": lambda k: layers.LeakyReLU(negative_slope=k),
}


@pytest.mark.parametrize("kind", FOLLOWERS)
def test_followers_that_differ_are_told_apart_without_a_word(kind):
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    shared = layers.Dense(4, name="shared")
    calls = [shared(x), shared(y)]
    model = keras.Model([x, y], joined(*(FOLLOWERS[kind](k)(h) for k, h in zip((0.1, 0.5), calls, strict=True))))
    tfp.graph.closed(WithoutConfig)
    register(WithoutConfig, follows=True)(lambda step, x: x.axes)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        graph = tfp.unit_groups(model)
    assert graph.sizes == {"shared": 4}
    for group in graph.values():
        assert [id(home.tensor) for home in group.members[0].homes] == [id(own) for own in calls]


@pytest.mark.parametrize("how", ["value", "shift", "z"])
def test_a_sequence_in_two_calls_is_held_as_in_one(how):
    """The state that the first call gives out starts the second one."""
    x = keras.Input((5, 3), name="x")
    gru = layers.GRU(4, return_sequences=True, return_state=True, name="gru")
    _, state = gru(x[:, :3])
    last, _ = gru(x[:, 3:], initial_state=state)
    two = randomise(keras.Model(x, layers.Dense(2, name="out")(last[:, -1])))
    whole = layers.GRU(4, return_sequences=True, name="gru")(x)
    one = keras.Model(x, layers.Dense(2, name="out")(whole[:, -1]))
    one.set_weights(two.get_weights())
    data = neurons.activations(one, STEPS[0], "gru", points="steps", progress=False) if how == "z" else None
    held = [neurons.control(model, "gru[1]", **{how: 0.7}, data=data) for model in (one, two)]
    found, expected = (np.asarray(model(STEPS[0])) for model in held[::-1])
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - np.asarray(one(STEPS[0]))).max() > 1e-2


def test_calls_of_several_lengths_have_no_positions_of_one_input():
    x, y = keras.Input((5, 3), name="x"), keras.Input((6, 3), name="y")
    gru = layers.GRU(4, return_sequences=True, name="gru")
    model = keras.Model([x, y], joined(*(layers.GlobalAveragePooling1D()(gru(own)) for own in (x, y))))
    with pytest.raises(ValueError, match="'gru' show at 5 and 6 steps.*Give numbers of steps"):
        neurons.control(model, "gru[0]", 1.0, positions="input")
    held = neurons.control(model, "gru[0]", 1.0, positions=[0, -1])
    assert np.isfinite(np.asarray(held([STEPS[0], np.ones((40, 6, 3), "float32")]))).all()


def test_a_merged_direction_is_not_called_a_head():
    x = keras.Input((5, 3), name="x")
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True), merge_mode="sum", name="both")
    model = keras.Model(x, layers.Dense(2, name="out")(both(x)))
    with pytest.raises(ValueError, match="both/backward: its units show in no tensor .a direction that is merged"):
        neurons.activations(model, STEPS[0], "both/backward", progress=False)


def test_two_groups_of_one_recurrent_layer_are_held_together():
    x = keras.Input((5, 3), name="x")
    h = layers.GRU(4, return_sequences=True, name="gru")(x)
    parts = [layers.Dense(3, name="left")(h[..., :2]), layers.Dense(3, name="right")(h[..., 2:])]
    model = randomise(keras.Model(x, joined(*(layers.GlobalAveragePooling1D()(part) for part in parts))))
    graph = tfp.unit_groups(model)
    mask = graph.on_nodes({"gru": np.array([False, True]), "gru#2": np.array([True, False])})
    masked = np.asarray(tfp.with_on_nodes(model)([STEPS[0], mask]))
    held = neurons.control(model, {"gru": [0], "gru#2": [1]}, 0.0)
    np.testing.assert_allclose(np.asarray(held(STEPS[0])), masked, rtol=1e-4, atol=1e-5)


def test_what_shows_behind_a_norm_is_not_put_into_the_recurrence():
    x = keras.Input((5, 3), name="x")
    gru, norm = layers.GRU(4, return_sequences=True, name="gru"), layers.BatchNormalization(name="norm")
    pool = layers.GlobalAveragePooling1D()
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(pool(norm(gru(x))))))
    with pytest.warns(UserWarning, match="the units of 'gru' show behind 'norm'.*inside the recurrence they go on"):
        held = neurons.control(model, "gru[1]", z=2.0, data=STEPS[0])
    h = np.array(norm(gru(STEPS[0])))
    h[..., 1] = h[..., 1].mean() + 2.0 * h[..., 1].std()
    expected = model.get_layer("out")(h.mean(axis=1))
    np.testing.assert_allclose(np.asarray(held(STEPS[0])), np.asarray(expected), rtol=1e-3, atol=1e-4)


def test_gradients_of_both_directions_count_once():
    x = keras.Input((5, 3), name="x")
    both = layers.Bidirectional(layers.GRU(3, return_sequences=True), name="both")
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(layers.Flatten()(both(x)))))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    targets = np.zeros((40, 2), "float32")
    monitor = LivenessMonitor((STEPS[0], targets))
    model.fit(STEPS[0], targets, epochs=1, verbose=0, callbacks=[monitor])
    with tf.GradientTape() as tape:
        h = both(STEPS[0])
        tape.watch(h)
        outputs = model.get_layer("out")(tf.reshape(h, [40, -1]))
        total = tf.reduce_sum(tf.reduce_mean((outputs - targets) ** 2, axis=-1))
    squares = (tape.gradient(total, h).numpy().astype("float64") ** 2).sum(axis=1)
    norms = np.sqrt(squares[:, :3] + squares[:, 3:])
    np.testing.assert_allclose(monitor.record.of("output_gradient", "both/forward")[-1], norms.mean(0), rtol=1e-4)


@pytest.mark.filterwarnings("ignore:data. repair")
@pytest.mark.parametrize("repair", ["zero", "mean", "affine", "least_squares"])
def test_repairs_where_a_call_gets_the_state_of_another(repair):
    inputs, gru = two_sequences(), layers.GRU(3, return_sequences=True, return_state=True, name="gru")
    first, state = gru(inputs[0])
    second, _ = gru(inputs[1], initial_state=state)
    ways = layers.GlobalAveragePooling1D()(first), layers.GlobalMaxPooling1D()(second)
    model = randomise(keras.Model(inputs, joined(*ways)))
    small = tfp.remove(model, {"gru": np.arange(3) > 0}, repair=repair, data=STEPS)
    whole, left = np.asarray(model(STEPS)), np.asarray(small(STEPS))
    assert small.get_layer("gru").units == 2 and np.isfinite(left).all()
    if repair == "zero":
        mask = tfp.unit_groups(model).on_nodes({"gru": np.arange(3) > 0})
        np.testing.assert_allclose(left, np.asarray(tfp.with_on_nodes(model)([*STEPS, mask])), atol=1e-5)
    if repair == "least_squares":
        cut = np.asarray(tfp.remove(model, {"gru": np.arange(3) > 0})(STEPS))
        assert np.square(left - whole).mean() < np.square(cut - whole).mean()


def test_masked_outputs_of_several_outputs_are_refused():
    x = keras.Input((3,), name="x")
    h = layers.Dense(4, name="hidden")(x)
    model = keras.Model(x, [layers.Dense(1, name="one")(h), layers.Dense(2, name="two")(h)])
    with pytest.raises(ValueError, match="expected a model with one output, received 2: one, two"):
        experiments.masked_outputs(model, np.zeros((2, 3), "float32"), np.ones((1, 4)))
