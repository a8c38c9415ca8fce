"""Models that read words: every room takes strings where the model does, beside numbers, in arrays and datasets."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise, slow_but
from keras import layers, ops

import tfprune
from tfprune import LayerValues, distinctiveness, experiments, neurons, saliency, schedules, statistics
from tfprune.surgery import remove
from tfprune.training import LivenessMonitor, PruneDuringTraining, SparsifyDuringTraining, shrink_while_training

WORDS = ["good", "bad", "film", "plot", "long", "never"]
SENTENCES = np.array([[" ".join(np.random.default_rng(k).choice(WORDS, 5))] for k in range(320)])
TARGETS = np.random.default_rng(0).normal(size=(320, 2)).astype("float32")


def sentences():
    """Sentences, split into words and embedded."""
    inputs = keras.Input((1,), dtype="string", name="sentence")
    split = layers.TextVectorization(output_sequence_length=6, name="split")
    split.adapt(SENTENCES)
    x = layers.Embedding(split.vocabulary_size(), 5, name="embedding")(split(inputs))
    x = layers.Conv1D(7, 3, activation="relu", name="wide")(x)
    x = layers.Dense(6, "relu", name="deep")(layers.GlobalMaxPooling1D()(x))
    return randomise(keras.Model(inputs, layers.Dense(2, name="out")(x)))


def table():
    """A word beside numbers, in a dictionary."""
    word, size = keras.Input((1,), dtype="string", name="word"), keras.Input((3,), name="size")
    one_hot = layers.StringLookup(vocabulary=WORDS, output_mode="one_hot", name="lookup")(word)
    normalise = layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 4.0, 9.0], name="normalise")
    x = layers.Concatenate()([one_hot, normalise(size)])
    x = layers.Dense(6, "relu", name="deep")(layers.Dense(7, "relu", name="wide")(x))
    model = keras.Model({"word": word, "size": size}, layers.Dense(2, name="out")(x))
    kept = model.get_layer("normalise").get_weights()
    randomise(model)
    model.get_layer("normalise").set_weights(kept)
    return model


NETS = {"sentences": sentences, "table": table}


def made(name, samples=None):
    """A compiled net, its inputs as NumPy has them and as Keras wants them, and targets."""
    model = NETS[name]()
    model.compile("sgd", "mse")
    plain = SENTENCES
    if name == "table":
        words = np.array([[own[0].split()[0]] for own in SENTENCES])
        plain = {"word": words, "size": np.random.default_rng(1).normal(2.0, 2.0, (320, 3)).astype("float32")}
    plain = keras.tree.map_structure(lambda own: own[:samples], plain)
    return model, plain, keras.tree.map_structure(tf.constant, plain), TARGETS[:samples]


def half(model):
    return LayerValues({name: np.arange(size) % 2 == 0 for name, size in tfprune.unit_groups(model).sizes.items()})


def numbers(tensor):
    return ops.convert_to_numpy(tensor)


BOTH = pytest.mark.parametrize("name", NETS)


@BOTH
def test_masked_is_removed_and_swept(name, tmp_path):
    model, plain, x, y = made(name, 40)
    mask = half(model)
    assert {"wide", "deep"} <= set(mask)
    row = tfprune.unit_groups(model).on_nodes(mask).astype("float32")
    masked, small = tfprune.with_on_nodes(model), remove(model, mask)
    given = [x["word"], x["size"]] if name == "table" else [x]
    by_name = dict(zip([own.name for own in masked.inputs], [None] * 3, strict=False))
    order = [own for own in by_name if own != "on_nodes"]
    given = [x[own] for own in order] if name == "table" else given
    expected = numbers(masked([*given, tf.constant(row)]))
    np.testing.assert_allclose(small(x), expected, rtol=1e-5, atol=1e-5)
    assert np.abs(expected - model(x)).max() > 1e-2
    swept = tfprune.sweep(model, (plain, y), row, progress=False)
    np.testing.assert_allclose(swept.losses, np.mean((expected - y) ** 2), rtol=1e-4)
    small.save(tmp_path / "small.keras")
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "small.keras")(x), expected, rtol=1e-5, atol=1e-5)


@BOTH
def test_every_kind_of_data_gives_the_same_scores(name):
    model, plain, x, y = made(name, 40)
    expected = saliency.activation_std(model, (plain, y))
    objects = keras.tree.map_structure(lambda own: own.astype(object) if own.dtype.kind == "U" else own, plain)
    coded = keras.tree.map_structure(lambda own: np.char.encode(own) if own.dtype.kind == "U" else own, plain)
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    assert np.ptp(expected["wide"]) > 0
    for data in (plain, x, objects, coded, (x, y), dataset, dataset.map(lambda x, y: x)):
        found = saliency.activation_std(model, data)
        for group, own in expected.items():
            np.testing.assert_allclose(found[group], own, rtol=1e-4, atol=1e-6)


SALIENCIES = sorted(set(saliency.__all__) - {"weights", "batch_norm_scale"})


@pytest.mark.filterwarnings("ignore:data. saliency.least_squares has")
@pytest.mark.parametrize("score", SALIENCIES)
@pytest.mark.parametrize("name", slow_but(["sentences"], NETS))
def test_saliencies(name, score):
    model, plain, _, y = made(name, 40)
    options = {"seed": 0} if score == "random" else {}
    data = {"weight_norm": (), "random": ()}.get(score, ((plain, y),))
    function = getattr(saliency, score)
    if score == "conductance" or (score, name) == ("relevance", "table"):
        with pytest.raises((ValueError, TypeError), match="integers or words.*Explain the part"):
            function(model, *data, **options)
        return
    scores = function(model, *data, **options)
    assert {group: len(own) for group, own in scores.items()} == tfprune.unit_groups(model).sizes
    assert all(np.isfinite(own).all() for own in scores.values())
    # No weight is zero.
    assert np.ptp(scores.flat) > 0 or score == "nonzero_fraction"


@pytest.mark.filterwarnings("ignore:.*300")
@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
@BOTH
def test_repairs(name, repair):
    model, plain, x, _ = made(name)
    mask = half(model)
    errors = [
        float(np.mean((numbers(remove(model, mask, repair=own, data=plain)(x)) - numbers(model(x))) ** 2))
        for own in ("zero", repair)
    ]
    assert errors[1] < errors[0]


def looked_at(model, plain, y):
    """What looks at units and has the same numbers for words as for the tokens that the words become."""
    return {
        "unit_statistics": lambda: statistics.unit_statistics(model, plain).mean["deep"],
        "activations": lambda: neurons.activations(model, plain, "deep")["deep"],
        "ablation_curve": lambda: (
            experiments.ablation_curve(
                model, (plain, y), saliency.weight_norm(model), order="top", steps=3, metric="mae"
            ).values
        ),
        "removal_curve": lambda: (
            experiments.removal_curve(
                model, (plain, y), saliency.weight_norm(model), order="top", steps=3, calibration=plain, repair="mean"
            ).values
        ),
        "angles": lambda: distinctiveness.angles(model, plain, layers="deep")["deep"],
        "control": lambda: numbers(
            neurons.control(model, {"deep": [0, 2]}, value=0.5).predict(tensors(plain), verbose=0)
        ),
        "dead": lambda: numbers(tfprune.remove_dead(model, plain)(tensors(plain))),
    }


def tensors(plain):
    return keras.tree.map_structure(tf.constant, plain)


def behind(name, model, plain):
    """The same net without the layer that reads words, and what that layer gives out."""
    layer = model.get_layer("split" if name == "sentences" else "lookup")
    x = tensors(plain)
    if name == "sentences":
        return keras.Model(layer.output, model.output), numbers(layer(x))
    return keras.Model([layer.output, model.input["size"]], model.output), [numbers(layer(x["word"])), plain["size"]]


@pytest.mark.filterwarnings("ignore:.*300")
@BOTH
def test_every_room_sees_what_it_sees_behind_the_words(name):
    model, plain, _, y = made(name, 60)
    rest, coded = behind(name, model, plain)
    rest.compile("sgd", "mse")
    expected = looked_at(rest, coded, y)
    for what, function in looked_at(model, plain, y).items():
        np.testing.assert_allclose(function(), expected[what](), rtol=1e-4, atol=1e-5, err_msg=what)


@BOTH
def test_training_and_callbacks(name, tmp_path):
    model, plain, x, y = made(name)
    pruning = PruneDuringTraining(saliency.activation_std, schedules.constant(0.5), plain)
    model.fit(
        x,
        y,
        epochs=2,
        verbose=0,
        callbacks=[
            pruning,
            LivenessMonitor((plain, y)),
            keras.callbacks.ModelCheckpoint(tmp_path / "last.keras"),
            keras.callbacks.EarlyStopping("loss"),
        ],
    )
    small = remove(model, pruning.mask)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(small(x), model(x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(keras.models.load_model(tmp_path / "last.keras")(x), model(x), rtol=1e-5, atol=1e-5)
    sparse, _, x, y = made(name)
    sparse.fit(x, y, verbose=0, callbacks=[SparsifyDuringTraining("group_norm", 3.0)])
    by_epoch = schedules.by_epoch({1: 0.25, 2: 0.5})
    shrunk = shrink_while_training(made(name)[0], (x, y), by_epoch, saliency.activation_std, epochs=2)
    assert shrunk.model.count_params() < model.count_params()


@BOTH
def test_compared_and_exported(name, tmp_path):
    model, plain, x, y = made(name, 40)
    small = remove(model, half(model))
    found = tfprune.compare(model, small, data=(plain, y))
    assert "loss" in repr(found) or "parameters" in repr(found)
    tfprune.export.saved_model(small, tmp_path / "exported")
    served = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(served.serve(x), small(x), rtol=1e-5, atol=1e-5)


def test_numbers_for_words_and_words_for_numbers():
    model, plain, _, _ = made("table", 10)
    with pytest.raises(TypeError, match="input 'word' has the dtype float32, expected strings"):
        saliency.activation_std(model, {"word": np.ones((10, 1), "float32"), "size": plain["size"]})
    with pytest.raises(TypeError, match="input 'size' has the dtype .*expected numbers"):
        saliency.activation_std(model, {"word": plain["word"], "size": plain["word"]})
    with pytest.raises(TypeError, match="input 'word' has the dtype object, expected strings"):
        saliency.activation_std(model, {"word": np.array([["good"], [None]] * 5), "size": plain["size"]})
