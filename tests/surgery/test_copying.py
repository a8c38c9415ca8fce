"""Layers of which nothing is cut: copied with all that they hold, whatever their get_config says."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers, ops

import tfprune
from tfprune import LayerValues
from tfprune.surgery import remove

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class ClassToken(layers.Layer):
    """Its constructor takes what get_config does not give."""

    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, self.dim), name="token", initializer="normal")

    def call(self, x):
        return ops.concatenate([ops.broadcast_to(self.token, (ops.shape(x)[0], 1, self.dim)), x], axis=1)


class Positions(layers.Layer):
    """Computes in build what no variable holds."""

    def build(self, shape):
        self.table = np.sin(np.arange(shape[1] * shape[2])).reshape(shape[1:]).astype("float32")

    def call(self, x):
        return x + self.table


class Block(layers.Layer):
    """Holds lists and dictionaries of layers, lists of those, and a Sequential model."""

    def __init__(self, dim):
        super().__init__()
        self.first = [layers.Dense(dim), {"gate": layers.Dense(dim, "sigmoid")}]
        self.inside = keras.Sequential([keras.Input((None, dim)), layers.Dense(dim, "tanh"), layers.Dense(dim)])
        self.norm = layers.LayerNormalization()
        self.drop = layers.Dropout(0.5)

    def call(self, x, training=False):
        h = self.first[0](x) * self.first[1]["gate"](x)
        return self.norm(x + self.drop(self.inside(h), training=training))

    def get_config(self):
        raise NotImplementedError("nobody wrote it")


class InClosures(layers.Layer):
    """Its functions refer to its weights: a lambda, a partial and a bound method."""

    def __init__(self, dim):
        super().__init__()
        self.scale = self.add_weight(shape=(dim,), name="scale", initializer="normal")
        self.times = lambda x: x * self.scale
        self.shifted = functools.partial(self.plus, amount=2.0)
        self.method = self.times_again

    def plus(self, x, amount):
        return x + amount * self.scale

    def times_again(self, x):
        return x * self.scale

    def call(self, x):
        return self.method(self.shifted(self.times(x)))


class Raw(layers.Layer):
    """A TensorFlow variable and a mutable table, which Keras does not know of, and an object with a weight in it."""

    def __init__(self, dim):
        super().__init__()
        self.raw = tf.Variable(1.5)
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.float32, 0.5)
        self.table.insert(tf.constant([0], "int64"), [2.0])

        class Held:
            pass

        self.held = Held()
        self.held.weight = self.add_weight(shape=(dim,), name="held", initializer="ones")
        self.held.owner = self

    def call(self, x):
        return x * ops.convert_to_tensor(self.raw) * self.held.weight + ops.reshape(
            self.table.lookup(tf.constant([0], "int64")), (1,)
        )


class Inner(keras.Model):
    """A subclassed model, compiled for itself."""

    def __init__(self, dim):
        super().__init__()
        self.many = [layers.Dense(dim) for _ in range(2)]
        self.compile("adam", "mse")

    def call(self, x):
        for layer in self.many:
            x = layer(x)
        return x


OWN = {"token": ClassToken, "positions": lambda dim: Positions(), "block": Block, "closures": InClosures}
OWN |= {"raw": Raw, "model": Inner}


def around(layer, wide=8):
    x = keras.Input((5, wide), name="x")
    h = layers.Dense(12, "tanh", name="hidden")(layer(x))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(h))))
    return model


def outputs(model, x):
    return np.asarray(model(ops.convert_to_tensor(x), training=False))


@pytest.mark.parametrize("name", OWN)
def test_layers_without_a_configuration_are_copied(name, generator):
    model = around(OWN[name](8))
    x = generator.normal(size=(6, 5, 8)).astype("float32")
    original = outputs(model, x)
    mask = LayerValues({"hidden": np.arange(12) < 5})
    small = remove(model, mask)
    row = tfprune.unit_groups(model).on_nodes(mask)
    masked = tfprune.with_on_nodes(model)([ops.convert_to_tensor(x), ops.convert_to_tensor(row)])
    np.testing.assert_allclose(outputs(small, x), masked, atol=1e-6)
    assert type(small.layers[1]) is type(model.layers[1]) and small.layers[1] is not model.layers[1]
    assert [v.path for v in small.layers[1].variables] == [v.path for v in model.layers[1].variables]
    small.compile("sgd", "mse")
    before = outputs(small, x)
    small.fit(x, np.ones((6, 2)), epochs=3, verbose=0)
    assert np.abs(outputs(small, x) - before).max() > 1e-4
    np.testing.assert_array_equal(outputs(model, x), original)


def test_what_a_copied_layer_refers_to_is_its_own():
    model = around(InClosures(8))
    old, new = model.layers[1], remove(model, LayerValues({})).layers[1]
    assert new.times.__closure__[0].cell_contents is new
    assert new.shifted.func.__self__ is new and new.method.__self__ is new
    model = around(Raw(8))
    old, new = model.layers[1], remove(model, LayerValues({})).layers[1]
    assert new.raw is not old.raw and new.held.owner is new and new.held.weight is new._trainable_variables[0]
    new.table.insert(tf.constant([0], "int64"), [9.0])
    assert old.table.lookup(tf.constant([0], "int64")).numpy() == [2.0]


def test_a_copied_layer_trains_exports_and_saves_its_weights(generator, tmp_path):
    small = remove(around(Block(8)), LayerValues({"hidden": np.arange(12) < 5}))
    x = generator.normal(size=(6, 5, 8)).astype("float32")
    small.save_weights(tmp_path / "small.weights.h5")
    other = remove(around(Block(8)), LayerValues({"hidden": np.arange(12) < 5}))
    other.layers[1].norm.gamma.assign(np.zeros(8))
    other.load_weights(tmp_path / "small.weights.h5")
    np.testing.assert_array_equal(outputs(other, x), outputs(small, x))
    tfprune.export.saved_model(small, tmp_path / "exported")
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(loaded.serve(x), outputs(small, x), atol=1e-6)


class Compiled(layers.Layer):
    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), name="scale", initializer="ones")
        self.function = tf.function(lambda x: x * self.scale)

    def call(self, x):
        return self.function(x)


def test_what_cannot_be_copied_is_shared_and_said(generator, tmp_path):
    x = generator.normal(size=(6, 5, 8)).astype("float32")
    model = around(Compiled())
    calls = len(model.layers[1]._inbound_nodes)
    with pytest.warns(UserWarning, match=r"'compiled' \(Compiled\) cannot be copied \(function: .*both models share"):
        small = remove(model, LayerValues({"hidden": np.arange(12) < 12}))
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-6)
    assert len(model.layers[1]._inbound_nodes) == calls
    assert small.layers[1].scale is model.layers[1].scale


class Counted(layers.Layer):
    def __new__(cls, number):
        return super().__new__(cls, number)

    def __init__(self, number):
        super().__init__()
        self.number = number

    def call(self, x):
        return self.number * x


def test_classes_that_cannot_be_made_empty_are_shared_and_said(generator):
    tfprune.graph.closed(Counted)
    model = around(Counted(2.0))
    x = generator.normal(size=(6, 5, 8)).astype("float32")
    with pytest.warns(UserWarning, match=r"'counted' \(Counted\) cannot be copied \(TypeError: .*number"):
        small = remove(model, LayerValues({"hidden": np.arange(12) < 12}))
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-6)


def test_a_saved_model_as_a_layer_is_shared_and_said(generator, tmp_path):
    inner = randomise(keras.Sequential([keras.Input((5, 8)), layers.Dense(8)]))
    inner.export(tmp_path / "inner", verbose=False)
    model = around(layers.TFSMLayer(str(tmp_path / "inner"), call_endpoint="serve"))
    x = generator.normal(size=(6, 5, 8)).astype("float32")
    with pytest.warns(UserWarning, match=r"TFSMLayer\) cannot be copied"):
        small = remove(model, LayerValues({"hidden": np.arange(12) < 12}))
    np.testing.assert_allclose(outputs(small, x), outputs(model, x), atol=1e-6)


@pytest.mark.parametrize("loaded", [False, True])
def test_adapted_layers_in_a_model_that_was_saved(loaded, generator, tmp_path):
    """All pretrained networks with a normalisation in front are loaded so."""
    image = keras.Input((6, 6, 3), name="image")
    normal, words = layers.Normalization(axis=-1), layers.StringLookup(output_mode="one_hot")
    normal.adapt(generator.normal(5.0, 3.0, (40, 6, 6, 3)))
    words.adapt(np.array(["yes", "no", "perhaps"]))
    text = keras.Input((1,), dtype="string", name="text")
    h = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu", name="conv")(normal(image)))
    h = layers.Concatenate()([h, layers.Dense(4, name="dense")(words(text))])
    model = keras.Model({"image": image, "text": text}, layers.Dense(2, name="out")(h))
    if loaded:
        model.save(tmp_path / "model.keras")
        model = keras.models.load_model(tmp_path / "model.keras")
    data = {"image": generator.normal(5.0, 3.0, (7, 6, 6, 3)).astype("float32")}
    data["text"] = np.array([["yes"], ["no"], ["no"], ["never"], ["perhaps"], ["yes"], ["no"]], dtype=object)
    data = {name: ops.convert_to_tensor(value) for name, value in data.items()}
    whole = remove(model, LayerValues({"conv": np.ones(8, bool)}))
    np.testing.assert_allclose(whole(data), model(data), atol=1e-6)
    small = remove(model, LayerValues({"conv": np.arange(8) < 4, "dense": np.arange(4) < 2}))
    small.save(tmp_path / "small.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "small.keras")(data), small(data), atol=1e-6)


# Parts of one model that hold each other ------------------------------------------------------------------------------


class Tied(layers.Layer):
    """Reads an embedding backwards; nobody can read that."""

    def __init__(self, embedding):
        super().__init__()
        self.embedding = embedding

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings))


class TiedByVariable(layers.Layer):
    def __init__(self, table):
        super().__init__()
        self.table = table

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.table))


@pytest.mark.parametrize(
    ("tie", "reason"),
    [(Tied, "holds a weight of these units"), (lambda layer: TiedByVariable(layer.embeddings), "share a variable")],
)
def test_weights_that_a_closed_layer_holds_too_stay(tie, reason, generator):
    tfprune.graph.closed(Tied, TiedByVariable)
    x = keras.Input((5,), dtype="int32", name="x")
    embedding = layers.Embedding(9, 8, name="embedding")
    h = layers.Dense(12, "tanh", name="hidden")(embedding(x))
    h = layers.Dense(8, name="back")(h)
    model = randomise(keras.Model(x, tie(embedding)(h)))
    graph = tfprune.unit_groups(model)
    assert graph.names == ("hidden",)
    assert reason in graph.fixed["embedding"][1]
    data = generator.integers(0, 9, (4, 5))
    small = remove(model, LayerValues({"hidden": np.arange(12) < 12}))
    np.testing.assert_allclose(outputs(small, data), outputs(model, data), atol=1e-6)
    held = {id(variable) for variable in small.layers[-1].variables}
    assert held == {id(small.get_layer("embedding").embeddings)}


class Named(keras.Model):
    """A functional model whose class keeps a part of it, made in another order than it is called."""

    def __init__(self):
        x = keras.Input((4,), name="x")
        late, early = layers.Dense(6, "tanh", name="late"), layers.Dense(6, "tanh", name="early")
        late.build((None, 6))
        encoder = keras.Model(x, late(early(x)), name="encoder")
        super().__init__(x, layers.Dense(2, name="out")(encoder.output))
        self.encoder = encoder
        self.early = early


def test_a_functional_subclass_that_keeps_parts(generator):
    model = randomise(Named())
    model.build(None)
    x = generator.normal(size=(6, 4)).astype("float32")
    graph = tfprune.unit_groups(model)
    mask = LayerValues({name: np.arange(size) % 2 == 0 for name, size in graph.sizes.items()})
    with (
        pytest.warns(UserWarning, match="no attributes encoder, early, which hold parts"),
        pytest.warns(UserWarning, match="plain keras.Model, without the methods"),
    ):
        small = remove(model, mask)
    masked = tfprune.with_on_nodes(model)([ops.convert_to_tensor(x), ops.convert_to_tensor(mask.flat[None], "float32")])
    np.testing.assert_allclose(outputs(small, x), masked, atol=1e-6)


class Chain(keras.Sequential):
    def train_step(self, *args):
        return super().train_step(*args)


def test_a_sequential_subclass_keeps_its_class():
    model = randomise(Chain([keras.Input((3,)), layers.Dense(4, name="hidden"), layers.Dense(2)]))
    assert type(remove(model, LayerValues({"hidden": np.arange(4) < 2}))) is Chain


# Settings of single weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_single_weights_stay_frozen(sparsity):
    model = randomise(
        keras.Sequential([keras.Input((3,)), layers.Dense(4, name="hidden"), layers.Dense(2, name="out")])
    )
    model.get_layer("hidden").kernel.trainable = False
    model.get_layer("out").bias.trainable = False
    small = remove(model, tfprune.keep_top(tfprune.saliency.weight_norm(model), sparsity))
    assert [v.trainable for v in small.weights] == [v.trainable for v in model.weights] == [False, True, True, False]


@pytest.mark.parametrize("repair", ["zero", "mean", "affine", "least_squares"])
@pytest.mark.parametrize(
    "tail", [layers.LSTM, None, *(pytest.param(own, marks=pytest.mark.slow) for own in (layers.GRU, layers.SimpleRNN))]
)
@pytest.mark.parametrize("front", slow_but(["masking"], ["embedding", "masking"]))
def test_sequences_with_masks_are_cut_with_every_repair(front, tail, repair, generator):
    if front == "embedding":
        first = [keras.Input((5,)), layers.Embedding(9, 8, mask_zero=True, name="embedding")]
        x = generator.integers(0, 9, (400, 5))
    else:
        first = [keras.Input((5, 3)), layers.Masking()]
        x = generator.normal(size=(400, 5, 3)).astype("float32") * (generator.random((400, 5, 1)) > 0.3)
    middle = layers.GlobalAveragePooling1D() if tail is None else tail(6, name="recurrent")
    model = keras.Sequential([*first, middle, layers.Dense(4, "tanh", name="hidden"), layers.Dense(2, name="out")])
    randomise(model)
    mask = tfprune.keep_top(tfprune.saliency.weight_norm(model), 0.5)
    small = remove(model, mask, repair=repair, data=x)
    if repair == "zero":
        row = ops.convert_to_tensor(mask.flat[None], "float32")
        masked = tfprune.with_on_nodes(model)([ops.convert_to_tensor(x), row])
        np.testing.assert_allclose(outputs(small, x), masked, atol=1e-6)
    else:
        error, plain = (
            np.square(outputs(own, x) - outputs(model, x)).mean() for own in (small, remove(model, mask, repair="zero"))
        )
        assert error < plain


def test_states_of_recurrent_layers_go_on(generator):
    x = keras.Input(batch_shape=(2, 5, 3), name="x")
    h = layers.LSTM(4, stateful=True, return_sequences=True, name="lstm")(x)
    model = keras.Model(x, layers.Dense(2)(layers.Dense(6, "tanh", name="hidden")(h)))
    data = generator.normal(size=(2, 5, 3)).astype("float32")
    model(data)
    whole = remove(model, LayerValues({"hidden": np.ones(6, bool)}))
    for _ in range(2):
        np.testing.assert_allclose(whole(data), model(data), atol=1e-6)
