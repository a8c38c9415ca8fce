"""widen: where new units come, what they begin with, what stays as it was around them, and what is refused."""

import doctest
import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for, outputs_of, paired_net
from replicas_widening import grown, silenced

import tfprune
from tfprune import widen
from tfprune.graph import register, table
from tfprune.surgery import widening

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def numbers(variable):
    return np.asarray(variable.numpy(), "float64")


def assert_old_numbers(found, expected):
    """All numbers that stand fast must be found, and the free ones must have been drawn."""
    assert found.shape == expected.shape
    free = np.isnan(expected)
    np.testing.assert_array_equal(found[~free], expected[~free])
    assert np.isfinite(found).all()
    assert not free.any() or len(np.unique(found[free])) > 1


def dense(width=4, **options):
    x = keras.Input((3,), name="x")
    first = layers.Dense(width, activation="tanh", name="first", **options)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(first(x)), name="dense"))


@pytest.fixture
def data(generator):
    return generator.normal(size=(40, 3)).astype("float32"), generator.normal(size=(40, 2)).astype("float32")


# Where new units come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "gates"), [(layers.SimpleRNN, 1), (layers.GRU, 3), (layers.LSTM, 4)], ids=["SimpleRNN", "GRU", "LSTM"]
)
@pytest.mark.parametrize("units", [1, 3])
def test_recurrent_weights(make, gates, units):
    """A single unit lies on every position of a gate's axis, which does not tell gates from units."""
    x = keras.Input((5, 2), name="x")
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(make(units, name="rnn")(x))))
    wide = widen(model, {"rnn": units + 2})
    kernel, recurrent, bias = map(numbers, model.get_layer("rnn").weights)
    new_kernel, new_recurrent, new_bias = map(numbers, wide.get_layer("rnn").weights)
    assert_old_numbers(new_kernel, grown(kernel, 1, gates, units, 2))
    assert_old_numbers(new_recurrent, silenced(grown(recurrent, 1, gates, units, 2), 0, 1, units, 2))
    expected = grown(bias, -1, gates, units, 2)
    np.testing.assert_array_equal(new_bias[~np.isnan(expected)], expected[~np.isnan(expected)])
    expected = silenced(numbers(model.get_layer("out").kernel), 0, 1, units, 2)
    np.testing.assert_array_equal(numbers(wide.get_layer("out").kernel), expected)
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_behind_a_flatten_new_units_come_at_every_position():
    x = keras.Input((3, 3, 2), name="x")
    h = layers.Flatten(name="flat")(layers.Conv2D(4, 2, activation="relu", name="first")(x))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    wide = widen(model, {"first": 7})
    kernel = numbers(model.get_layer("first").kernel)
    assert_old_numbers(numbers(wide.get_layer("first").kernel), grown(kernel, 3, 1, 4, 3))
    expected = silenced(numbers(model.get_layer("out").kernel), 0, 4, 4, 3)
    np.testing.assert_array_equal(numbers(wide.get_layer("out").kernel), expected)


def test_copies_of_a_unit_stay_together():
    """Behind a depthwise layer with two outputs a channel, and in front of a slice that picks the last one."""
    x = keras.Input((4, 4, 2), name="x")
    h = layers.Conv2D(3, 1, activation="tanh", name="first")(x)
    h = layers.DepthwiseConv2D(2, depth_multiplier=2, name="double")(h)
    h = layers.GlobalAveragePooling2D(name="mean")(h)
    h = layers.Dense(3, activation="tanh", name="second")(h)
    model = randomise(keras.Model(x, layers.Concatenate(name="joined")([layers.Dense(2, name="out")(h), h[:, -1:]])))
    wide = widen(model, {"first": 5, "second": 4})
    double, second = model.get_layer("double"), model.get_layer("second")
    assert_old_numbers(numbers(wide.get_layer("double").kernel), grown(numbers(double.kernel), 2, 1, 3, 2))
    np.testing.assert_array_equal(numbers(wide.get_layer("double").bias)[:6], numbers(double.bias))
    expected = silenced(numbers(second.kernel), 0, 1, 3, 2, inner=2)
    # The last unit of `second` is an output of the model: it stays the last one.
    np.testing.assert_array_equal(numbers(wide.get_layer("second").kernel)[:, [0, 1, 4]], expected)
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_a_new_head_of_attention():
    x = keras.Input((4, 3), name="x")
    attended = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(attended)))
    graph = tfprune.unit_groups(model)
    name = "attention/heads"
    wide = widen(model, {name: graph[name].size + 2})
    old, new = (
        {weight.path.rsplit("/", 2)[-2] + "/" + weight.name: weight for weight in own.weights} for own in (model, wide)
    )
    heads = graph[name].size
    for projection in ("query", "key", "value"):
        expected = grown(numbers(old[f"{projection}/kernel"]), 1, 1, heads, 2)
        assert_old_numbers(numbers(new[f"{projection}/kernel"]), expected)
    expected = silenced(numbers(old["attention_output/kernel"]), 0, 1, heads, 2)
    np.testing.assert_array_equal(numbers(new["attention_output/kernel"]), expected)


def test_numbers_per_unit_of_constants_follow():
    x = keras.Input((3,), name="x")
    per_unit = np.array([2.0, 3.0, 5.0], "float32")
    h = layers.Rescaling([1.0, 2.0, 4.0], [0.5, 0.0, -1.0], name="scaled")(layers.Dense(3, name="first")(x) * per_unit)
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    wide = widen(model, {"first": 5})
    # A new unit gets those of the unit that it stands behind, with which it can do nothing that this one could not.
    assert wide.get_layer("scaled").scale == [1.0, 2.0, 4.0, 4.0, 4.0]
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_numbers_per_copy_of_a_unit_would_lie_otherwise():
    x = keras.Input((4, 3), name="x")
    h = layers.DepthwiseConv1D(2, depth_multiplier=2, name="double")(layers.Dense(3, name="first")(x))
    h = layers.GlobalAveragePooling1D(name="mean")(h * np.arange(1.0, 7.0, dtype="float32"))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    with pytest.raises(ValueError, match="'first' cannot be widened as asked: .*the numbers per unit that 'multiply"):
        widen(model, {"first": 4})


# What new units begin with --------------------------------------------------------------------------------------------


def normed():
    x = keras.Input((3,), name="x")
    first = layers.Dense(4, kernel_initializer=keras.initializers.RandomUniform(2.0, 3.0), name="first")
    h = layers.BatchNormalization(gamma_initializer="zeros", name="norm")(first(x))
    h = layers.PReLU(alpha_initializer=keras.initializers.Constant(0.25), name="prelu")(h)
    return randomise(keras.Model(x, layers.Dense(2, name="out")(h)))


def test_by_default_with_what_the_layers_begin_with():
    wide = widen(normed(), {"first": 9})
    new = {layer.name: [numbers(weight)[..., 4:] for weight in layer.weights] for layer in wide.layers[1:4]}
    assert (new["first"][0] >= 2.0).all() and (new["first"][0] < 3.0).all() and new["first"][0].std() > 0.1
    np.testing.assert_array_equal(new["first"][1], 0.0)
    # gamma, beta, mean and variance.
    np.testing.assert_array_equal(new["norm"], np.repeat([[0.0], [0.0], [0.0], [1.0]], 5, axis=1))
    np.testing.assert_array_equal(new["prelu"], [[0.25] * 5])


def test_initializers_and_gamma_that_are_given():
    initializer = keras.initializers.RandomUniform(-5.0, -4.0, seed=3)
    model = normed()
    wide = widen(model, {"first": 9}, initializer=initializer, outgoing="ones", gamma=0.5)
    kernel = numbers(wide.get_layer("first").kernel)
    assert (kernel[:, 4:] <= -4.0).all() and kernel[:, 4:].std() > 0.1
    np.testing.assert_array_equal(kernel[:, :4], numbers(model.get_layer("first").kernel))
    np.testing.assert_array_equal(numbers(wide.get_layer("norm").gamma)[4:], 0.5)
    np.testing.assert_array_equal(numbers(wide.get_layer("norm").moving_variance)[4:], 1.0)
    np.testing.assert_array_equal(numbers(wide.get_layer("out").kernel)[4:], 1.0)
    assert initializer.seed == 3
    plain = widen(model, {"first": 9}, outgoing="zeros")
    np.testing.assert_array_equal(numbers(plain.get_layer("out").kernel)[4:], 0.0)


def test_a_group_of_norms_gets_gamma_too():
    model = NETS["group_norm"]()
    graph = tfprune.unit_groups(model)
    wide = widen(model, {name: group.size + 1 for name, group in graph.items()}, gamma=7.0)
    scales = [numbers(layer.gamma) for layer in wide.layers if isinstance(layer, layers.GroupNormalization)]
    assert scales and all((own == 7.0).sum() >= 1 for own in scales)


def test_the_same_seed_draws_the_same_and_not_what_the_original_drew():
    x = keras.Input((4, 6), name="x")
    rnn = layers.Bidirectional(layers.LSTM(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1)), name="rnn")
    h = layers.Dense(5, activation="tanh", name="first")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(rnn(h)))
    sizes = {name: size + 2 for name, size in tfprune.unit_groups(model).sizes.items()}
    one, same, other = (widen(model, sizes, seed=seed) for seed in (0, 0, 1))
    for first, second in zip(one.weights, same.weights, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
    kernels = [numbers(own.get_layer("first").kernel)[:, 5:] for own in (one, other)]
    assert np.abs(kernels[0] - kernels[1]).min() > 1e-4
    # With the seed of the original the numbers would be the same ones, in other places.
    assert not np.isin(kernels[0], numbers(model.get_layer("first").kernel)).any()
    assert (
        one.get_layer("first").get_config()["kernel_initializer"]
        == (model.get_layer("first").get_config()["kernel_initializer"])
    )
    forward = [own.get_layer("rnn").forward_layer for own in (one, model)]
    assert forward[0].get_config()["kernel_initializer"] == forward[1].get_config()["kernel_initializer"]


def test_what_is_drawn_elsewhere_stays_as_it_was():
    model = dense()
    random.seed(5)
    expected = random.random()
    random.seed(5)
    widen(model, {"first": 6})
    assert random.random() == expected


def test_an_embedding_that_began_with_an_array():
    x = keras.Input((4,), dtype="int32", name="x")
    table = keras.initializers.Constant(np.arange(45.0).reshape(9, 5) / 45)
    h = layers.Embedding(9, 5, embeddings_initializer=table, name="words")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Flatten(name="flat")(h)))
    wide = widen(model, {"words": 7})
    np.testing.assert_array_equal(numbers(wide.get_layer("words").embeddings)[:, :5], numbers(model.weights[0]))
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5)
    small = tfprune.remove(model, {"words": np.arange(5) != 1})
    assert small.get_layer("words").embeddings.shape == (9, 4)


# What stays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dense_chain", "nested_in_nested", "layer_norm"])
def test_widening_by_nothing_is_the_model(name):
    model = NETS[name]()
    for sizes in ({}, tfprune.unit_groups(model).sizes):
        wide = widen(model, sizes)
        assert wide is not model and wide.get_config() == model.get_config()
        assert not {id(variable) for variable in model.variables} & {id(variable) for variable in wide.variables}
        for one, other in zip(model.variables, wide.variables, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def test_settings_and_flags_stay():
    x = keras.Input((6, 6, 2), name="x")
    first = layers.Conv2D(4, 3, 2, "same", kernel_regularizer="l2", kernel_constraint="non_neg", name="first")
    h = layers.BatchNormalization(momentum=0.7, epsilon=1e-2, name="norm")(first(x))
    h = layers.Dropout(0.3, seed=11, name="drop")(h)
    model = keras.Model(x, layers.Dense(2, dtype="float64", name="out")(layers.Flatten(name="flat")(h)), name="own")
    model.get_layer("norm").trainable = False
    wide = widen(model, {"first": 6})
    assert wide.name == "own" and type(wide) is type(model)
    for old, new in zip(model.layers, wide.layers, strict=True):
        changed = {key for key, value in old.get_config().items() if new.get_config()[key] != value}
        assert changed == ({"filters"} if old is first else set())
        assert old.trainable == new.trainable
    x = np.ones((2, 6, 6, 2), "float32")
    np.testing.assert_array_equal(
        wide.get_layer("drop").seed_generator.state, model.get_layer("drop").seed_generator.state
    )
    assert np.isfinite(np.asarray(wide(x, training=True))).all()


def test_parts_of_a_model_class():
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Dense(4, name="first")(x)), name="own")
    model.trunk = model.get_layer("first")
    with pytest.warns(UserWarning, match="has no attributes trunk"):
        wide = widen(model, {"first": 6})
    assert wide.get_layer("first").units == 6


def test_training_goes_on(data):
    model = dense()
    model.compile(keras.optimizers.Adam(0.03), "mse", metrics=["mae"])
    model.fit(*data, epochs=3, verbose=0)
    wide = widen(model, {"first": 7}, keep_optimizer=True)
    before, after = (own.evaluate(*data, verbose=0, return_dict=True) for own in (model, wide))
    assert after["loss"] == pytest.approx(before["loss"], rel=1e-5)
    assert after["mae"] == pytest.approx(before["mae"], rel=1e-5)
    assert int(wide.optimizer.iterations) == int(model.optimizer.iterations) == 6
    for old, new in zip(model.optimizer.variables[2:], wide.optimizer.variables[2:], strict=True):
        where = tuple(slice(length) for length in old.shape)
        np.testing.assert_array_equal(new.numpy()[where], old.numpy())
        assert np.count_nonzero(new.numpy()) == np.count_nonzero(old.numpy())
    wide.fit(*data, epochs=3, verbose=0)
    assert np.abs(numbers(wide.get_layer("out").kernel)[4:]).min() > 1e-4
    assert wide.evaluate(*data, verbose=0, return_dict=True)["loss"] < before["loss"]
    kernel = numbers(wide.get_layer("first").kernel)
    wide.fit(*data, verbose=0, sample_weight=np.linspace(0.1, 1.0, 40))
    assert np.abs(numbers(wide.get_layer("first").kernel) - kernel).min() > 0


def test_without_compiling_and_with_a_fresh_optimizer(data):
    assert not widen(dense(), {"first": 6}).compiled
    with pytest.raises(ValueError, match="keep_optimizer: model 'dense' is not compiled"):
        widen(dense(), {"first": 6}, keep_optimizer=True)
    model = dense()
    model.compile("adam", "mse")
    model.fit(*data, verbose=0)
    wide = widen(model, {"first": 6})
    assert int(wide.optimizer.iterations) == 0 and wide.optimizer is not model.optimizer


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_policies(policy):
    x = keras.Input((3,), dtype="float64" if policy == "float64" else "float32", name="x")
    h = layers.Dense(4, activation="tanh", dtype=policy, name="first")(x)
    model = randomise(keras.Model(x, layers.Dense(2, dtype=policy, name="out")(h)))
    wide = widen(model, {"first": 9})
    assert [variable.dtype for variable in wide.weights] == [variable.dtype for variable in model.weights]
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("form", ["dataset", "several inputs"])
def test_data_of_other_forms(form, generator):
    model = NETS["several_outputs"]() if form == "several inputs" else dense()
    wide = widen(model, {name: size + 2 for name, size in tfprune.unit_groups(model).sizes.items()})
    x = inputs_for(model, 12)
    given = tf.data.Dataset.from_tensor_slices(x[0]).batch(5) if form == "dataset" else x
    old, new = (keras.tree.flatten(own.predict(given, verbose=0)) for own in (model, wide))
    for one, other in zip(old, new, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class OwnScale(layers.Layer):
    """A layer of a user's own with a kernel that reads, and numbers per unit in its configuration."""

    def __init__(self, factors, width, **kwargs):
        super().__init__(**kwargs)
        self.factors, self.width = factors, width

    def build(self, shape):
        self.table = self.add_weight(name="table", shape=(self.width, shape[-1]), initializer="glorot_uniform")

    def call(self, inputs):
        return (inputs * keras.ops.convert_to_tensor(self.factors, "float32")) @ keras.ops.transpose(self.table)

    def get_config(self):
        return {**super().get_config(), "factors": self.factors, "width": self.width}


@pytest.mark.parametrize("change", ["by flags", "by counts"])
def test_rows_of_ones_own(monkeypatch, change):
    """The weights that read are known by their ids; a change that takes what it is given for flags is found out."""
    changes = {
        "by flags": lambda old, kept: [own for own, flag in zip(old, kept, strict=True) if flag],
        "by counts": lambda old, counts: np.repeat(old, counts).tolist(),
    }
    monkeypatch.setattr(table, "_table", dict(table._table))

    @register(OwnScale)
    def own_scale(step, inputs):
        rows, units = step.contract(inputs), step.emit(step.operation.width)
        step.weight(step.operation.table, units, rows)
        step.size("width", units)
        step.size("factors", rows, changes[change])
        return inputs.replaced(-1, units)

    x = keras.Input((3,), name="x")
    h = OwnScale([1.0, 2.0, 3.0], 4, name="own")(layers.Dense(3, activation="tanh", name="first")(x))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h)))
    if change == "by flags":
        with pytest.raises(ValueError, match=r"'own' .*change at \('factors',\) gives .* shape \(3,\) for 5 units"):
            widen(model, {"first": 5})
        return
    wide = widen(model, {"first": 5, "own": 6})
    expected = silenced(grown(numbers(model.get_layer("own").table), 0, 1, 4, 2), 1, 1, 3, 2)
    assert_old_numbers(numbers(wide.get_layer("own").table), expected)
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ({"first": 3}, ValueError, r"group 'first' has 4 units, and cannot be widened to 3\. tfprune\.remove"),
        ({"firts": 6}, ValueError, r"units: .*firts.*first"),
        ({"out": 3}, ValueError, r"units: none can be added to 'out' \(it is an output of the model\)"),
        ({"x": 3}, ValueError, r"units: layer 'x' makes no units"),
        ({"first": 6.0}, TypeError, r"a whole number for group 'first', received 6\.0 of type float"),
        ({"first": True}, TypeError, r"a whole number for group 'first', received True of type bool"),
        ({"first": [1, 1, 1, 1, 1]}, TypeError, r"a whole number for group 'first', received \[1, 1"),
        ([6], TypeError, r"units: expected a mapping \{group: number of units\}, received list"),
        (6, TypeError, r"units: expected a mapping \{group: number of units\}, received int"),
    ],
)
def test_units_that_do_not_fit(sizes, error, message):
    with pytest.raises(error, match=message):
        widen(dense(), sizes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"initializer": "glorrot"}, ValueError, "initializer: Keras has no initializer 'glorrot'"),
        ({"outgoing": "none"}, ValueError, "outgoing: Keras has no initializer 'none'"),
        ({"outgoing": None}, TypeError, "outgoing: expected a Keras initializer or its name, received None"),
        (
            {"initializer": 3},
            TypeError,
            "initializer: expected a Keras initializer or its name, received 3 of type int",
        ),
        ({"initializer": lambda shape, dtype: np.ones(3)}, ValueError, r"weight 'first/kernel' needs finite numbers"),
        (
            {"initializer": lambda shape, dtype: np.full(shape, np.nan)},
            ValueError,
            r"first/kernel' needs finite numbers",
        ),
        (
            {"initializer": lambda shape, dtype: 1 / 0},
            ValueError,
            r"'first/kernel' .* cannot be drawn: ZeroDivisionError",
        ),
        ({"gamma": "big"}, TypeError, "gamma: expected a number, received 'big' of type str"),
        ({"gamma": np.inf}, ValueError, "gamma: expected a finite number, received inf"),
        ({"seed": 0.5}, TypeError, r"seed: expected a whole number, received 0\.5"),
        ({"seed": -1}, ValueError, "seed: expected a number of at least 0, received -1"),
    ],
)
def test_options_that_do_not_fit(options, error, message):
    with pytest.raises(error, match=message):
        widen(dense(), {"first": 6}, **options)


def test_gamma_without_a_norm_is_told():
    with pytest.warns(UserWarning, match="gamma: no unit that was added to 'first' goes through a batch or group norm"):
        widen(dense(), {"first": 6}, gamma=0.5)


def test_models_that_cannot_be_read():
    with pytest.raises(TypeError, match="expected a keras.Model"):
        widen("model", {"first": 6})
    with pytest.raises(ValueError, match="has an input 'on_nodes' already"):
        widen(tfprune.with_on_nodes(dense()), {"first": 6})


def test_sides_that_must_be_equally_wide():
    model = paired_net()
    with pytest.raises(ValueError, match="first: both sides must be equally wide, but there would be 6 and 4"):
        widen(model, {"a": 6})
    wide = widen(model, {"a": 6, "b": 6})
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_norms_over_units_grow_only_where_the_function_need_not_stay():
    model = NETS["rms_norm"]()
    size = tfprune.unit_groups(model)["first"].size
    with pytest.raises(ValueError, match="'norm' .* sums over units without a kernel"):
        widen(model, {"first": size + 2})
    wide = widen(model, {"first": size + 2}, outgoing="glorot_uniform")
    back = tfprune.remove(wide, {"first": np.arange(size + 2) < size})
    for one, other in zip(model.weights, back.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-6)
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(back, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not hasattr(layers, "ReversibleEmbedding"), reason="this Keras has no ReversibleEmbedding")
def test_tied_embeddings_read_by_what_makes_them():
    x = keras.Input((4,), dtype="int32", name="x")
    table = layers.ReversibleEmbedding(9, 5, name="words")
    h = layers.Dense(6, activation="tanh", name="inside")(table(x))
    model = randomise(keras.Model(x, table(layers.Dense(5, name="back")(h), reverse=True)))
    with pytest.raises(ValueError, match="'words' .* reads units by weights that cannot be told from others"):
        widen(model, {"words": 7})
    wide = widen(model, {"inside": 8})
    inputs = inputs_for(model)
    np.testing.assert_allclose(outputs_of(wide, inputs), outputs_of(model, inputs), rtol=1e-5, atol=1e-6)


def test_the_example():
    assert doctest.testmod(widening, extraglobs={"keras": keras}).failed == 0
