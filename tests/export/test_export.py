import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from keras import layers, ops
from nets import NETS

from tfprune import compare, export, graph, unit_groups
from tfprune.export.inputs import random_inputs
from tfprune.surgery import remove


def halved(model):
    graph = unit_groups(model)
    return remove(model, {group.name: np.arange(group.size) % 2 == 0 for group in graph.values()})


# What is written ------------------------------------------------------------------------------------------------------

# Several inputs and outputs, integers, loops, masks of time steps, nesting, norms.
EXPORTED = [
    *["dense_chain", "conv_2d", "batch_norm", "embedding_mask", "lstm_states", "encoder_decoder_gru"],
    *["attention_self", "several_outputs", "nested_functional", "ops_slices"],
    pytest.param("on_lstm", marks=pytest.mark.slow),
]


def interpreter_of(path):
    with warnings.catch_warnings():
        # Not every version of TensorFlow announces that its interpreter will move into a package of its own.
        warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is deprecated", category=UserWarning)
        return tf.lite.Interpreter(model_path=str(path))


def test_saved_model_of_a_dictionary_of_inputs(tmp_path):
    """Also where the names are in another order than the alphabet's."""
    left, right = keras.Input((1,), name="word"), keras.Input((3,), name="size")
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([left, right]))
    model = keras.Model({"word": left, "size": right}, outputs)
    export.saved_model(model, tmp_path / "saved")
    x = {"word": tf.ones((4, 1)), "size": tf.fill((4, 3), 2.0)}
    loaded = tf.saved_model.load(tmp_path / "saved")
    np.testing.assert_allclose(loaded.serve(x), model(x), rtol=1e-6)


@pytest.mark.parametrize("name", EXPORTED)
def test_saved_model_of_a_cut_model_computes_the_same(name, tmp_path):
    small = halved(NETS[name]())
    path = export.saved_model(small, tmp_path / "net")
    inputs = random_inputs(small, 5, seed=9)
    structure = keras.tree.pack_sequence_as(small._inputs_struct, list(map(tf.constant, inputs)))
    loaded = tf.saved_model.load(str(path))
    outputs = keras.tree.flatten(loaded.serve(structure))
    for one, other in zip(keras.tree.flatten(small(structure)), outputs, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5 * np.abs(one).max(), rtol=0)


@pytest.mark.parametrize("name", EXPORTED)
def test_tflite_of_a_cut_model_computes_the_same(name, tmp_path):
    small = halved(NETS[name]())
    path = export.tflite(small, tmp_path / "net.tflite")
    assert [file.name for file in tmp_path.iterdir()] == ["net.tflite"]
    interpreter = interpreter_of(path)
    (signature,) = interpreter.get_signature_list().values()
    assert sorted(signature["inputs"]) == sorted(tensor.name for tensor in small.inputs)
    inputs = random_inputs(small, 1, seed=9)
    outputs = interpreter.get_signature_runner()(**{t.name: x for t, x in zip(small.inputs, inputs, strict=True)})
    expected = small(keras.tree.pack_sequence_as(small._inputs_struct, list(map(tf.constant, inputs))))
    for name, one in zip(small.output_names, keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(outputs[name], one, atol=1e-5 * np.abs(one).max(), rtol=0)


def test_tflite_keeps_open_lengths_open(tmp_path):
    model = keras.Sequential([keras.Input((None, 3), name="x"), layers.GRU(4), layers.Dense(2, name="out")])
    path = export.tflite(model, tmp_path / "net.tflite")
    run = interpreter_of(path).get_signature_runner()
    for length in (3, 11):
        x = np.random.default_rng(length).normal(size=(1, length, 3)).astype("float32")
        np.testing.assert_allclose(run(x=x)["out"], model(x), atol=1e-6)


def test_tflite_refuses_what_it_has_no_operation_for(tmp_path):
    x = keras.Input((4, 4, 4, 2), name="x")
    model = keras.Model(x, layers.AveragePooling3D(2, name="pool")(x), name="volumes")
    with pytest.raises(ValueError, match="model 'volumes' cannot be exported.*no operation of its own for AvgPool3D"):
        export.tflite(model, tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_tflite_refuses_other_precisions_with_a_way_out(tmp_path):
    model = NETS["double_precision"]()
    with pytest.raises(ValueError, match="Layers compute in float64: build the model in float32"):
        export.tflite(model, tmp_path / "net.tflite")
    assert export.saved_model(model, tmp_path / "net").is_dir()


def test_tflite_numbers_its_signature_where_names_clash(tmp_path):
    one, other = keras.Input((2,), name="a b"), keras.Input((3,), name="a.b")
    model = keras.Model([one, other], layers.Concatenate(name="joined")([other, one]))
    path = export.tflite(model, tmp_path / "net.tflite")
    run = interpreter_of(path).get_signature_runner()
    outputs = run(input_0=np.ones((1, 2), "float32"), input_1=np.zeros((1, 3), "float32"))
    assert outputs["joined"].tolist() == [[0, 0, 0, 1, 1]]


def test_exports_replace_what_was_there(dense_net, tmp_path):
    for write, name in ((export.saved_model, "net"), (export.tflite, "net.tflite")):
        first = write(dense_net, tmp_path / name)
        second = write(halved(dense_net), tmp_path / name)
        assert first == second and second.exists()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net", "net.tflite"]


def test_exports_leave_a_stateful_model_as_it_was(tmp_path):
    model = keras.Sequential([keras.Input((3, 2), batch_size=4), layers.LSTM(3, stateful=True, name="lstm")])
    x = np.ones((4, 3, 2), "float32")
    model(x)
    before = [state.numpy() for state in model.layers[0].states]
    export.saved_model(model, tmp_path / "net")
    for state, value in zip(model.layers[0].states, before, strict=True):
        assert np.array_equal(state.numpy(), value) and value.any()
    with pytest.raises(ValueError, match="TFLite: layer 'lstm' .* is stateful.*initial_state"):
        export.tflite(model, tmp_path / "net.tflite")


# Errors ---------------------------------------------------------------------------------------------------------------

WRITERS = pytest.mark.parametrize("write", [export.saved_model, export.tflite])


@WRITERS
def test_exports_refuse_what_is_no_built_model(write, tmp_path):
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="expected a keras.Model, received str"):
        write("net", tmp_path / "net")
    with pytest.raises(ValueError, match="is a subclassed model"):
        write(Own(), tmp_path / "net")
    with pytest.raises(ValueError, match="Sequential model that is not built"):
        write(keras.Sequential([layers.Dense(2)]), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


@WRITERS
def test_exports_refuse_a_folder_that_is_not_there(write, dense_net, tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        write(dense_net, tmp_path / "nowhere" / "net")


@WRITERS
def test_exports_write_nothing_if_the_file_computes_something_else(write, tmp_path):
    x = keras.Input((3,), name="x")
    noise = layers.Lambda(lambda t: t + tf.random.uniform(tf.shape(t)), output_shape=(3,))
    model = keras.Model(x, layers.Identity(name="out")(noise(x)), name="noisy")
    with pytest.raises(ValueError, match="output 'out' of model 'noisy' differs by .* when loaded back.*tolerance="):
        write(model, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []
    write(model, tmp_path / "net", tolerance=2.0)


def test_exports_refuse_nan(dense_net, tmp_path):
    dense_net.layers[0].kernel.assign(np.full((3, 5), np.nan))
    with pytest.raises(ValueError, match="differs by nan"):
        export.tflite(dense_net, tmp_path / "net.tflite")


def test_exports_say_which_model_cannot_be_written(tmp_path):
    x = keras.Input((3,), name="x")
    own = layers.Lambda(lambda t: tf.numpy_function(lambda v: v, [t], tf.float32), output_shape=(3,))
    model = keras.Model(x, own(x), name="python_inside")
    with pytest.raises(ValueError, match="TFLite: model 'python_inside' cannot be exported; nothing was written"):
        export.tflite(model, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


# Random inputs --------------------------------------------------------------------------------------------------------


def test_random_inputs_fit_what_reads_them():
    text, image = keras.Input((6,), name="text"), keras.Input((4, None, 3), name="image")
    flag = keras.Input((2,), dtype="int32", name="flag")
    inner = keras.Sequential([keras.Input((6,)), layers.Embedding(5, 2), layers.Flatten()], name="inner")
    parts = [inner(text), layers.GlobalAveragePooling2D()(image), ops.cast(flag, "float32")]
    model = keras.Model([text, image, flag], layers.Concatenate()(parts))
    words, pictures, flags = random_inputs(model, 200)
    assert words.dtype == np.float32 and set(np.unique(words)) == {0, 1, 2, 3, 4}
    assert pictures.shape == (200, 4, 8, 3) and abs(pictures.mean()) < 0.1
    assert flags.dtype == np.int32 and set(np.unique(flags)) == {0, 1}


# compare --------------------------------------------------------------------------------------------------------------


def classifier(**compiled):
    x = keras.Input((3,), name="x")
    h = layers.Dense(8, "relu", name="hidden")(x)
    model = randomise(keras.Model(x, layers.Dense(4, "softmax", name="out")(h), name="classifier"))
    if compiled:
        model.compile(optimizer="sgd", **compiled)
    return model


@pytest.fixture
def data(generator):
    return generator.normal(size=(70, 3)).astype("float32"), generator.integers(0, 4, 70)


def test_compare_measures_both_models(data):
    model = classifier(loss="sparse_categorical_crossentropy")
    small = halved(model)
    report = compare(model, small, data)
    assert list(report) == [
        *["parameters", "FLOPs", "file size", "latency, 1 sample", "latency, 32 samples"],
        *["loss", "accuracy", "largest output difference"],
    ]
    assert (report["parameters"].original, report["parameters"].small) == (68, 36)
    assert report["parameters"].ratio == pytest.approx(36 / 68)
    assert report["FLOPs"].small == (2 * 3 * 4 + 4) + (2 * 4 * 4 + 4 + 5 * 4)
    assert 10_000 < report["file size"].small < report["file size"].original
    assert report["latency, 1 sample"].original > 0 and report["latency, 32 samples"].unit == "ms"
    one, other = (np.asarray(own(data[0])) for own in (model, small))
    for row, own in (("original", one), ("small", other)):
        loss = -np.log(own[np.arange(70), data[1]]).mean()
        assert getattr(report["loss"], row) == pytest.approx(loss, rel=1e-5)
        assert getattr(report["accuracy"], row) == pytest.approx((own.argmax(1) == data[1]).mean())
    difference = report["largest output difference"]
    assert difference.original is None
    assert difference.small == pytest.approx(np.abs(one - other).max(), rel=1e-5)
    assert difference.ratio == pytest.approx(np.abs(one - other).max() / one.max(), rel=1e-5)
    assert report.notes == ()


def test_compare_prints_as_a_table_and_is_a_value(data):
    model = classifier()
    report = compare(model, halved(model), latency_runs=0)
    assert report == compare(model, halved(model), latency_runs=0)
    text = repr(report)
    for part in (
        "original",
        "small",
        "ratio",
        "parameters",
        "68",
        "36",
        "0.5294",
        "Loss left out: no data were given.",
    ):
        assert part in text
    assert "latency" not in text
    with pytest.raises(AttributeError):
        report.rows = ()
    with pytest.raises(KeyError, match="'loss' was not compared. Rows: parameters, FLOPs.*no data"):
        report["loss"]


def test_compare_leaves_the_models_as_they_were(data):
    model = classifier(loss="sparse_categorical_crossentropy", metrics=[keras.metrics.SparseCategoricalAccuracy()])
    small = halved(model)
    before = [variable.numpy() for own in (model, small) for variable in (*own.variables, *own.metrics_variables)]
    optimizer, metrics = model.optimizer, model.metrics_names
    compare(model, small, data, latency_runs=1)
    after = [variable.numpy() for own in (model, small) for variable in (*own.variables, *own.metrics_variables)]
    assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    assert model.optimizer is optimizer and model.metrics_names == metrics


def test_compare_uses_the_compiled_metrics_of_the_original(data):
    model = classifier(
        loss="sparse_categorical_crossentropy", metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")]
    )
    report = compare(model, remove_and_forget(model), data, latency_runs=0)
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    assert report["top2"].original == pytest.approx(expected["top2"])
    assert report["loss"].original == pytest.approx(expected["loss"], rel=1e-5)
    assert "accuracy" not in report


def remove_and_forget(model):
    """A cut model that is not compiled."""
    small = halved(model)
    return keras.Model(small.inputs, small.outputs)


def test_compare_says_why_there_is_no_loss(data):
    model, small = classifier(), halved(classifier())
    assert "is not compiled. Compile it, or pass loss=" in compare(model, small, data, latency_runs=0).notes[0]
    assert "no targets" in compare(model, small, data[0], latency_runs=0).notes[0]
    report = compare(model, small, data, loss="sparse_categorical_crossentropy", latency_runs=0)
    assert report["loss"].original > 0 and 0 <= report["accuracy"].original <= 1


def test_compare_weighs_samples_and_reads_datasets(data):
    model = classifier(loss="sparse_categorical_crossentropy")
    weights = np.linspace(0, 2, 70)
    arrays = compare(model, halved(model), (*data, weights), latency_runs=0)
    dataset = tf.data.Dataset.from_tensor_slices((*data, weights)).batch(16)
    batches = compare(model, halved(model), dataset, latency_runs=0)
    assert arrays["loss"].small != pytest.approx(compare(model, halved(model), data, latency_runs=0)["loss"].small)
    assert batches["loss"].small == pytest.approx(arrays["loss"].small, rel=1e-5)
    assert batches["largest output difference"].small == pytest.approx(arrays["largest output difference"].small)


def test_compare_several_inputs_and_outputs():
    model = NETS["several_outputs"]()
    model.compile(optimizer="sgd", loss={"one": "mse", "two": "mae"}, loss_weights={"one": 1.0, "two": 0.5})
    inputs = random_inputs(model, 9)
    targets = {"one": np.zeros((9, 2)), "two": np.zeros((9, 1)), "raw": np.zeros((9, 4))}
    report = compare(model, halved(model), (inputs, targets), latency_runs=1)
    outputs = model(list(map(tf.constant, inputs)))
    expected = np.square(outputs["one"]).mean() + 0.5 * np.abs(outputs["two"]).mean()
    assert report["loss"].original == pytest.approx(expected, rel=1e-5)


def test_compare_takes_open_lengths_from_the_data():
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4, name="lstm"), layers.Dense(2)])
    small = halved(model)
    report = compare(model, small, np.ones((3, 5, 3), "float32"), latency_runs=0)
    longer = compare(model, small, np.ones((3, 10, 3), "float32"), latency_runs=0)
    assert longer["FLOPs"].original == pytest.approx(2 * report["FLOPs"].original, rel=0.05)
    assert any("[(5, 3)]" in note for note in report.notes)


def test_compare_a_model_for_fixed_batches():
    model = keras.Sequential([keras.Input((3, 2), batch_size=4), layers.LSTM(4, stateful=True), layers.Dense(1)])
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    report = compare(model, twin, latency_runs=1)
    assert report["largest output difference"].small == 0
    assert "latency, 4 samples" in report and "latency, 1 sample" not in report


def test_compare_passes_nan_on(dense_net):
    small = halved(dense_net)
    small.layers[-1].bias.assign([np.nan, 0.0])
    assert np.isnan(compare(dense_net, small, latency_runs=0)["largest output difference"].small)


class OwnKernel(layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return x @ self.table


def test_compare_says_where_flops_are_guessed():
    graph.closed(OwnKernel)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="first"), OwnKernel(name="own")])
    assert "FLOPs: too few for own" in compare(model, model, latency_runs=0).notes[0]


def test_compare_refuses_models_that_are_not_alike(dense_net, two_input_net, data):
    with pytest.raises(
        ValueError, match=r"the inputs of the models differ in shape: 'dense_net' has \[\(3,\)\].*two_input"
    ):
        compare(dense_net, two_input_net)
    with pytest.raises(ValueError, match=r"the outputs of the models differ in shape: 'dense_net' has \[\(2,\)\]"):
        compare(dense_net, classifier())
    with pytest.raises(TypeError, match="expected a keras.Model, received NoneType"):
        compare(dense_net, None)
    with pytest.raises(ValueError, match="latency_runs: expected an integer of at least 0, received -1"):
        compare(dense_net, dense_net, latency_runs=-1)
    with pytest.raises(ValueError, match="expects the shape"):
        compare(dense_net, dense_net, data[0][:, :2])
    with pytest.raises(ValueError, match="NaN"):
        compare(dense_net, dense_net, np.full((3, 3), np.nan))
