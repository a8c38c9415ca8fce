"""Whole blocks beside what people bring: adapted preprocessing, dictionaries, words, checkpoints, threads."""

import concurrent.futures
import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers, ops

import tfprune
from tfprune import LayerValues
from tfprune.graph import count_parameters
from tfprune.surgery import remove

WORDS = np.array(["one", "two", "three", "four"])


class FeedForward(layers.Layer):
    """A block of one's own; it is opened."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.norm, self.wide = layers.LayerNormalization(name="norm"), layers.Dense(units, "relu", name="wide")
        self.narrow = layers.Dense(6, name="narrow")

    def build(self, shape):
        self.norm.build(shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], self.wide.units))

    def call(self, x):
        return x + self.narrow(self.wide(self.norm(x)))


def prepared(opened, words):
    """Adapted layers in front, a dictionary of inputs, three blocks behind."""
    table, tokens = keras.Input((5,), name="table"), keras.Input((4,), name="tokens", dtype=WORDS_TYPE[words])
    normalise = layers.Normalization(name="normalise")
    normalise.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, 5)))
    lookup = layers.StringLookup if words else layers.IntegerLookup
    lookup = lookup(vocabulary=WORDS if words else [3, 5, 7, 9], name="lookup")
    embedded = layers.GlobalAveragePooling1D(name="pool")(layers.Embedding(5, 6, name="embedding")(lookup(tokens)))
    x = layers.Dense(6, name="first")(layers.Concatenate(name="both")([normalise(table), embedded]))
    for k in range(3):
        if opened:
            x = FeedForward(7 + k, name=f"block_{k}")(x)
        else:
            y = layers.LayerNormalization(name=f"norm_{k}")(x)
            y = layers.Dense(6, name=f"narrow_{k}")(layers.Dense(7 + k, "relu", name=f"wide_{k}")(y))
            x = layers.Add(name=f"add_{k}")([x, y])
    model = keras.Model({"table": table, "tokens": tokens}, layers.Dense(2, name="out")(x), name="prepared")
    frozen = normalise.get_weights()
    randomise(model)
    normalise.set_weights(frozen)
    return model


WORDS_TYPE = {True: "string", False: "int64"}


def data_for(words, samples=24):
    generator = np.random.default_rng(1)
    tokens = generator.choice(WORDS if words else np.array([3, 5, 7, 11]), (samples, 4))
    x = {
        "table": tf.constant(generator.normal(3.0, 2.0, (samples, 5)).astype("float32")),
        "tokens": tf.constant(tokens if words else tokens.astype("int64")),
    }
    return x, generator.normal(size=(samples, 2)).astype("float32")


KINDS = [(False, False), (True, False), (False, True)]
MODELS = pytest.mark.parametrize(("opened", "words"), KINDS)
SOME_FAST = pytest.mark.parametrize(("opened", "words"), slow_but([(False, True)], KINDS))


def under(masked, x, row):
    return ops.convert_to_numpy(masked([x["table"], x["tokens"], tf.constant(np.atleast_2d(row), "float32")]))


@MODELS
def test_masked_is_removed_and_counted(opened, words, tmp_path):
    model, (x, _) = prepared(opened, words), data_for(words)
    graph = tfprune.unit_groups(model)
    assert graph["blocks"].size == 3
    masked = tfprune.with_on_nodes(model, "blocks")
    for on in ([True, False, True], [False, True, False], [False, False, True]):
        mask = LayerValues({"blocks": on})
        small = remove(model, mask)
        expected = under(masked, x, on)
        np.testing.assert_allclose(small(x), expected, rtol=1e-5, atol=1e-5)
        assert np.abs(expected - model(x)).max() > 1e-2
        assert small.count_params() == count_parameters(graph, mask) < model.count_params()
        np.testing.assert_array_equal(
            small.get_layer("normalise").get_weights()[0], model.get_layer("normalise").get_weights()[0]
        )
    if not opened:
        small.save(tmp_path / "small.keras")
        np.testing.assert_allclose(keras.models.load_model(tmp_path / "small.keras")(x), expected, rtol=1e-5, atol=1e-5)
    tfprune.save(small, tmp_path / "own.keras")
    back = tfprune.load(tmp_path / "own.keras", custom_objects={"FeedForward": FeedForward})
    np.testing.assert_allclose(back(x), expected, rtol=1e-5, atol=1e-5)


@SOME_FAST
def test_scores_budgets_and_repairs(opened, words):
    model, (x, y) = prepared(opened, words), data_for(words, 40)
    graph = tfprune.unit_groups(model)
    scores = tfprune.saliency.loss_change(model, (x, y), layers=[*graph, "blocks"], loss="mse")

    def loss_of(model):
        return float(np.mean((ops.convert_to_numpy(model(x)) - y) ** 2))

    for number in range(3):
        cut = loss_of(remove(model, LayerValues({"blocks": np.arange(3) != number})))
        np.testing.assert_allclose(scores["blocks"][number], cut - loss_of(model), rtol=1e-3, atol=1e-4)
    mask = tfprune.keep_budget(model, scores, parameters=0.6, normalise="cost")
    for repair in ("zero", "least_squares"):
        with pytest.warns(UserWarning, match="300") if repair != "zero" else contextlib.nullcontext():
            small = remove(model, mask, repair=repair, data=x)
        assert small.count_params() == count_parameters(graph, mask) <= 0.6 * model.count_params()


@pytest.mark.parametrize("opened", slow_but([True], [False, True]))
def test_checkpoints_and_early_stopping_with_a_block_off(opened, tmp_path):
    """What was best while a block was off is what comes back, and cut out it is the same."""
    model, (x, y) = prepared(opened, False), data_for(False, 40)
    masked = tfprune.with_on_nodes(model, "blocks")
    masked.compile("adam", "mse")
    row = np.ones((40, 3), "float32")
    row[:, 1] = 0.0
    before = [np.array(own) for own in model.get_layer("out").get_weights()]
    given = {"table": x["table"], "tokens": x["tokens"], "on_nodes": row}
    path = tmp_path / "best.weights.h5"
    record = masked.fit(
        given,
        y,
        epochs=6,
        batch_size=8,
        verbose=0,
        callbacks=[
            keras.callbacks.ModelCheckpoint(path, monitor="loss", save_best_only=True, save_weights_only=True),
            keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True),
        ],
    )
    assert min(record.history["loss"]) < record.history["loss"][0]
    assert np.abs(model.get_layer("out").get_weights()[0] - before[0]).max() > 1e-4
    trained = ops.convert_to_numpy(remove(model, LayerValues({"blocks": [True, False, True]}))(x))
    np.testing.assert_allclose(trained, under(masked, x, row[0]), rtol=1e-5, atol=1e-5)
    for weight in masked.weights:
        weight.assign(weight + 1 if weight.dtype == "float32" else weight)
    masked.load_weights(path)
    np.testing.assert_allclose(under(masked, x, row[0]), trained, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("opened", slow_but([True], [False, True]))
def test_threads_do_not_see_each_other(opened):
    """Eight threads mask, score and cut one model at once: each gets what it would get alone."""
    (x, y), masks = (
        data_for(False),
        [[True, False, True], [False, True, False], [False, True, True], [True, True, False]],
    )

    def work(model, on):
        masked = tfprune.with_on_nodes(model, "blocks")
        small = remove(model, LayerValues({"blocks": on}))
        swept = tfprune.sweep(model, (x, y), np.array([on], float), layers="blocks", loss="mse", progress=False)
        return under(masked, x, on), ops.convert_to_numpy(small(x)), swept.losses[0]

    alone = [work(prepared(opened, False), on) for on in masks]
    model = prepared(opened, False)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda on: work(model, on), masks * 2))
    for found, expected in zip(together, alone * 2, strict=True):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert np.ptp([own[2] for own in alone]) > 0
