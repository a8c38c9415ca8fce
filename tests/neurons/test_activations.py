"""Activations: against the values of the layers themselves, for every kind of point, in memory and in files."""

import doctest
import json
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomise
from nets import NETS, inputs_for

import tfprune
from tfprune import neurons
from tfprune.neurons import Activations, activations
from tfprune.statistics import unit_statistics

SAMPLE = [
    *["dense_chain", "conv_2d", "conv_channels_first", "grouped_conv_position", "grouped_conv_block"],
    *["einsum_two_new_axes", "bidirectional_sum", "batch_norm", "mixed_precision"],
]


def quiet(*args, **options):
    return activations(*args, progress=False, **options)


def x_for(model, batch=12):
    arrays = inputs_for(model, batch)
    return arrays if len(arrays) > 1 else arrays[0]


def values_of(model, tensor, x):
    value = keras.Model(model.inputs, tensor)(x if isinstance(x, list) else [x])
    return np.asarray(keras.ops.convert_to_numpy(value), "float64")


def test_examples():
    names = {"np": np, "keras": keras}
    assert doctest.testmod(sys.modules["tfprune.neurons.activations"], extraglobs=names).failed == 0


@pytest.mark.parametrize("name", SAMPLE)
def test_units_at_home(name):
    """Unit by unit, the mean over its channels, for positions and their mean for samples."""
    model = NETS[name]()
    x = x_for(model)
    by_position, by_sample = quiet(model, x, points="positions"), quiet(model, x)
    graph = tfprune.unit_groups(model)
    assert tuple(by_position) == graph.names and by_sample.sizes == graph.sizes
    for group in graph.values():
        (home,) = group.members[0].homes
        rows = np.moveaxis(values_of(model, home.tensor, x), home.axis, -1)
        rows, units = rows.reshape(len(rows), -1, rows.shape[-1]), home.units
        expected = np.stack([rows[..., units == unit].mean(axis=-1) for unit in range(group.size)], axis=-1)
        found = by_position[group.name]
        np.testing.assert_allclose(found, expected.reshape(-1, group.size), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(by_sample[group.name], expected.mean(axis=1), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(by_position.samples[group.name], np.repeat(np.arange(12), rows.shape[1]))
        np.testing.assert_array_equal(by_position.positions[group.name], np.tile(np.arange(rows.shape[1]), 12))


def test_steps_are_the_first_axis(generator):
    inputs = keras.Input((3, 6, 6, 2))
    maps = keras.layers.TimeDistributed(keras.layers.Conv2D(4, 3, activation="relu", name="conv"), name="conv")(inputs)
    pooled = keras.layers.TimeDistributed(keras.layers.GlobalAveragePooling2D())(maps)
    model = randomise(keras.Model(inputs, keras.layers.Dense(2)(pooled)))
    x = generator.normal(size=(5, 3, 6, 6, 2)).astype("float32")
    found = quiet(model, x, points="steps")
    expected = values_of(model, maps, x).mean(axis=(2, 3)).reshape(15, 4)
    (name,) = found
    np.testing.assert_allclose(found[name], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.positions[name], np.tile([0, 1, 2], 5))


def sequence_net(masked):
    """Tokens or numbers with padding -> LSTM -> dense at each step."""
    if masked == "embedding":
        inputs = keras.Input((None,), dtype="int32", name="tokens")
        h = keras.layers.Embedding(9, 4, mask_zero=True, name="embedding")(inputs)
    else:
        inputs = keras.Input((None, 2), name="values")
        h = keras.layers.Masking(0.0, name="masking")(inputs)
    h = keras.layers.LSTM(5, return_sequences=True, name="lstm")(h)
    h = keras.layers.Dense(3, "tanh", name="dense")(h)
    return randomise(keras.Model(inputs, keras.layers.Dense(2, name="out")(h)))


def padded(masked, generator):
    """Three sequences of 4, 2 and 1 steps."""
    kept = np.arange(4) < np.array([4, 2, 1])[:, None]
    if masked == "embedding":
        return np.where(kept, generator.integers(1, 9, (3, 4)), 0), kept
    return np.where(kept[..., None], generator.normal(size=(3, 4, 2)), 0).astype("float32"), kept


@pytest.mark.parametrize("masked", ["embedding", "masking"])
def test_masked_steps_are_no_points(masked, generator):
    model = sequence_net(masked)
    x, kept = padded(masked, generator)
    expected = {name: values_of(model, model.get_layer(name).output, x) for name in ("lstm", "dense")}
    for points in ("steps", "positions"):
        found = quiet(model, x, points=points)
        for name in ("lstm", "dense"):
            np.testing.assert_allclose(found[name], expected[name][kept], rtol=1e-5)
            np.testing.assert_array_equal(found.samples[name], [0, 0, 0, 0, 1, 1, 2])
            np.testing.assert_array_equal(found.positions[name], [0, 1, 2, 3, 0, 1, 0])
    means = quiet(model, x)["dense"]
    for sample in range(3):
        own = expected["dense"][sample, kept[sample]]
        np.testing.assert_allclose(means[sample], own.mean(axis=0), rtol=1e-5)


def test_lengths_that_differ_between_batches(generator):
    model = sequence_net("embedding")
    x, kept = padded("embedding", generator)
    data = tf.data.Dataset.from_generator(
        lambda: iter([x, x[1:, :2]]), output_signature=tf.TensorSpec([None, None], "int64")
    )
    found = quiet(model, data, "lstm", points="steps")
    expected = values_of(model, model.get_layer("lstm").output, x)
    np.testing.assert_allclose(found["lstm"], [*expected[kept], *expected[1:][kept[1:]]], rtol=1e-5)
    assert found.samples["lstm"].tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3, 4]


def test_samples_that_are_masked_whole(generator):
    model = sequence_net("embedding")
    x = np.array([[1, 2, 3, 0], [0, 0, 0, 0], [4, 0, 0, 0]])
    found = quiet(model, x, "dense")
    assert found.samples["dense"].tolist() == [0, 2] and found["dense"].shape == (2, 3)
    with pytest.raises(ValueError, match="'dense' has no points, as every step of every sample is masked"):
        quiet(model, x[1:2], "dense")


@pytest.mark.parametrize("kind", ["dataset", "pydataset", "tuple"])
def test_any_data_in_any_batches(dense_net, kind, generator):
    x = generator.normal(size=(50, 3)).astype("float32")

    class Parts(keras.utils.PyDataset):
        def __len__(self):
            return 5

        def __getitem__(self, index):
            return x[10 * index :][:10], np.zeros(10)

    parts = tf.data.Dataset.from_tensor_slices((x, np.zeros(50))).batch(7)
    data = {"dataset": parts, "pydataset": Parts(), "tuple": (x, np.zeros(50), np.ones(50))}[kind]
    expected = values_of(dense_net, dense_net.get_layer("second").output, x)
    np.testing.assert_allclose(quiet(dense_net, data)["second"], expected, rtol=1e-5, atol=1e-6)


def test_several_inputs(two_input_net):
    left, right = inputs_for(two_input_net, 6)
    found = quiet(two_input_net, {"right": right, "left": left})
    np.testing.assert_array_equal(found["left_dense"], quiet(two_input_net, [left, right])["left_dense"])
    assert found.sizes == {"left_dense": 4, "right_dense": 4}


def test_a_layer_called_twice_has_the_points_of_both_calls():
    model = NETS["siamese"]()
    left, right = inputs_for(model, 6)
    by_call, means = quiet(model, [left, right], points="positions"), quiet(model, [left, right])
    for name, depth in (("first", 1), ("second", 2)):
        both = []
        for x in (left, right):
            value = model.get_layer("first")(x)
            both.append(np.asarray(value if depth == 1 else model.get_layer("second")(value)))
        expected = np.stack(both, axis=1)
        np.testing.assert_allclose(by_call[name], expected.reshape(12, -1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(means[name], expected.mean(axis=1), rtol=1e-5, atol=1e-6)
        assert by_call.samples[name][:4].tolist() == [0, 0, 1, 1]


def test_a_nested_model_called_twice_has_the_points_of_both_calls():
    model = NETS["nested_twice"]()
    left, right = inputs_for(model, 6)
    found = quiet(model, [left, right], points="positions")["inner/b"]
    inner = model.get_layer("inner")
    expected = np.stack([np.asarray(inner(x)) for x in (left, right)], axis=1)
    np.testing.assert_allclose(found, expected.reshape(12, -1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["conv_2d", "siamese", "shared_tower", "shared_recurrent"])
def test_the_mean_of_the_points_is_that_of_the_statistics(name):
    model = NETS[name]()
    x = x_for(model)
    means = unit_statistics(model, x).mean
    for name, own in quiet(model, x, points="positions").items():
        if "/forward" not in name:  # Statistics are of both directions, points of one.
            np.testing.assert_allclose(own.mean(axis=0), means[name], rtol=1e-4, atol=1e-6)


def test_layers_that_make_no_group(dense_net):
    x = x_for(dense_net)
    found = quiet(dense_net, x, ["out", "first"])
    assert tuple(found) == ("out", "first")
    np.testing.assert_allclose(found["out"], dense_net(x), rtol=1e-5)
    conv = NETS["conv_2d"]()
    x = x_for(conv)
    pooled = values_of(conv, conv.get_layer("pool").output, x)
    np.testing.assert_allclose(quiet(conv, x, "pool")["pool"], pooled.mean(axis=(1, 2)), rtol=1e-4, atol=1e-6)


def test_members_of_a_group_are_looked_at_each_by_itself():
    x = keras.Input((3,), name="x")
    one, other = keras.layers.Dense(4, name="one"), keras.layers.Dense(4, name="other")
    model = randomise(keras.Model(x, keras.layers.Dense(2)(keras.layers.Add()([one(x), other(x)]))))
    data = x_for(model)
    found = quiet(model, data, ["one", "other"])
    for layer in (one, other):
        np.testing.assert_allclose(found[layer.name], layer(data), rtol=1e-5)


def test_the_directions_of_a_bidirectional_layer_are_looked_at_each_by_itself():
    model = NETS["bidirectional_concat"]()
    x = x_for(model)
    found = quiet(model, x, ["first/forward", "first/backward"], points="steps")
    value = values_of(model, model.get_layer("first").output, x).reshape(-1, 8)
    np.testing.assert_allclose(found["first/forward"], value[:, :4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["first/backward"], value[:, 4:], rtol=1e-5, atol=1e-6)
    assert tuple(quiet(model, x, "first")) == ("first/forward",)


def test_nested_layers_by_their_path():
    model = NETS["nested_sequential"]()
    x = x_for(model)
    found = quiet(model, x, "inner/b")["inner/b"]
    np.testing.assert_allclose(found, model.get_layer("inner")(x), rtol=1e-5, atol=1e-6)
    assert tuple(quiet(model, x, "inner")) == ("inner/a", "inner/b")


def test_a_nested_model_without_groups_shows_what_it_gives_out():
    inner = keras.Sequential([keras.Input((3,)), keras.layers.ReLU()], name="inner")
    x = keras.Input((3,), name="x")
    model = keras.Model(x, keras.layers.Dense(2)(inner(keras.layers.Dense(3, name="hidden")(x))))
    data = x_for(model)
    np.testing.assert_allclose(quiet(model, data, "inner")["inner"], inner(model.get_layer("hidden")(data)), rtol=1e-5)


def test_heads_of_attention_are_named():
    model = NETS["attention_self"]()
    found = quiet(model, x_for(model))
    assert found.skipped == {"heads/heads": "its units show in no tensor (heads of attention)"}
    with pytest.raises(ValueError, match="nothing to look at.*heads of attention"):
        quiet(model, x_for(model), "heads/heads")


def test_precision():
    half = NETS["mixed_precision"]()
    assert {own.dtype for own in quiet(half, x_for(half)).values()} == {np.dtype("float32")}
    double = NETS["double_precision"]()
    assert {own.dtype for own in quiet(double, x_for(double)).values()} == {np.dtype("float64")}


def test_data_in_many_chunks_are_those_at_once(dense_net, generator):
    x = generator.normal(size=(9000, 3)).astype("float32")
    found = quiet(dense_net, x)["first"]
    np.testing.assert_allclose(found, values_of(dense_net, dense_net.get_layer("first").output, x), rtol=1e-5)


def test_new_weights_count_in_a_pass_that_was_compiled_before(dense_net):
    x = x_for(dense_net)
    before = quiet(dense_net, x)["first"]
    dense_net.get_layer("first").bias.assign_add(np.full(5, 100.0))
    assert (quiet(dense_net, x)["first"] > before + 90).all()


def test_a_bar_shows_how_far_it_is(dense_net, capsys):
    activations(dense_net, x_for(dense_net))
    assert "12/12" in capsys.readouterr().err
    quiet(dense_net, x_for(dense_net))
    assert capsys.readouterr().err == ""


class TestFolder:
    def test_is_read_back_as_it_was(self, tmp_path, generator):
        model = sequence_net("embedding")
        x, _ = padded("embedding", generator)
        expected = quiet(model, x, ["out", "dense"], points="steps")
        found = quiet(model, x, ["out", "dense"], points="steps", path=tmp_path / "found")
        for own in (found, Activations.load(tmp_path / "found")):
            assert tuple(own) == ("out", "dense") and own.points == "steps" and own.skipped == {}
            assert own.data == expected.data and len(own.data) == 2
            for name in own:
                assert isinstance(own[name], np.memmap) and own[name].dtype == np.float32
                np.testing.assert_array_equal(own[name], expected[name])
                np.testing.assert_array_equal(own.samples[name], expected.samples[name])
                np.testing.assert_array_equal(own.positions[name], expected.positions[name])
        index = json.loads((tmp_path / "found" / "activations.json").read_text())
        assert index["versions"]["keras"] == keras.__version__

    def test_grows_batch_by_batch(self, dense_net, tmp_path, generator):
        x = generator.normal(size=(1200, 3)).astype("float32")
        found = quiet(dense_net, tf.data.Dataset.from_tensor_slices(x).batch(100), path=tmp_path / "found")
        np.testing.assert_allclose(found["second"], quiet(dense_net, x)["second"], rtol=1e-5, atol=1e-6)
        assert found["second"].shape == (1200, 4) and found.samples["second"][-1] == 1199

    def test_an_older_one_is_replaced(self, dense_net, tmp_path):
        x = x_for(dense_net)
        old = quiet(dense_net, x, path=tmp_path / "found")
        before = old["first"].copy()
        new = quiet(dense_net, x[:5], "second", path=tmp_path / "found")
        assert tuple(new) == ("second",) and len(new["second"]) == 5
        np.testing.assert_array_equal(old["first"], before)
        assert [own.name for own in tmp_path.iterdir()] == ["found"]

    def test_nothing_stays_of_what_was_broken_off(self, dense_net, tmp_path):
        def rows():
            yield np.ones((4, 3), "float32")
            raise KeyError("gone")

        data = tf.data.Dataset.from_generator(rows, output_signature=tf.TensorSpec([None, 3]))
        old = quiet(dense_net, x_for(dense_net), path=tmp_path / "found")
        with pytest.raises(KeyError, match="gone"):
            quiet(dense_net, data, path=tmp_path / "found")
        assert [own.name for own in tmp_path.iterdir()] == ["found"]
        np.testing.assert_array_equal(Activations.load(tmp_path / "found")["first"], old["first"])

    def test_other_things_are_not_overwritten(self, dense_net, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        with pytest.raises(ValueError, match="exists and holds something else than activations"):
            quiet(dense_net, x_for(dense_net), path=tmp_path / "mine")
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
        with pytest.raises(ValueError, match="does not exist. Make it first"):
            quiet(dense_net, x_for(dense_net), path=tmp_path / "no" / "such")

    def test_what_cannot_be_read(self, dense_net, tmp_path):
        with pytest.raises(ValueError, match="is no folder of activations"):
            Activations.load(tmp_path)
        quiet(dense_net, x_for(dense_net), path=tmp_path / "found")
        (tmp_path / "found" / "1.values.npy").unlink()
        with pytest.raises(ValueError, match="damaged or missing.*Collect the activations again"):
            Activations.load(tmp_path / "found")

    def test_rankings_take_it(self, dense_net, tmp_path, generator):
        x = generator.normal(size=(100, 3)).astype("float32")
        other = randomise(keras.models.clone_model(dense_net), 3)
        stored = [quiet(own, x, "first", path=tmp_path / str(k)) for k, own in enumerate((dense_net, other))]
        found = neurons.max_correlation(stored)[0]
        expected = neurons.max_correlation([dense_net, other], x, layers="first", progress=False)[0]
        np.testing.assert_allclose(found.scores.flat, expected.scores.flat, rtol=1e-6)


def test_names_and_options(dense_net):
    x = x_for(dense_net)
    with pytest.raises(ValueError, match="'frist' is not a layer.*Did you mean 'first'"):
        quiet(dense_net, x, "frist")
    with pytest.raises(TypeError, match="Give the layer's name"):
        quiet(dense_net, x, [dense_net.get_layer("first")])
    with pytest.raises(ValueError, match="points: expected one of 'samples', 'steps', 'positions', received 'tokens'"):
        quiet(dense_net, x, points="tokens")
    with pytest.raises(ValueError, match="points='steps': 'first' has one value for each sample"):
        quiet(dense_net, x, points="steps")
    with pytest.raises(TypeError, match="data are needed"):
        quiet(dense_net, None)
    with pytest.raises(ValueError, match="there are no samples"):
        quiet(dense_net, x[:0])
    with pytest.raises(TypeError, match="at most 3 values by position"):
        activations(dense_net, x, "first", "samples")
    with pytest.raises(ValueError, match="nothing to look at .*no units that can be removed.*Name layers: out"):
        quiet(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")]), x)


def test_values_that_are_not_finite(dense_net):
    dense_net.get_layer("first").kernel.assign(np.full((3, 5), 3e38))
    with pytest.raises(ValueError, match="'first' take values that are NaN or infinite"):
        quiet(dense_net, np.full((4, 3), 100.0))


def test_arrays_from_elsewhere():
    found = Activations({"a": [[1.0, 2.0]], "b": np.ones((4, 3))})
    assert found.sizes == {"a": 2, "b": 3} and found.samples["b"].tolist() == [0, 1, 2, 3]
    assert "b: 4 points, 3 units, float64" in repr(found) and len(found) == 2
    with pytest.raises(KeyError, match="did you mean 'a'|Known names: a, b"):
        found["c"]
    with pytest.raises(ValueError, match=r"'a' expects the shape \(points, units\), received \(2,\)"):
        Activations({"a": [1.0, 2.0]})
    with pytest.raises(ValueError, match="'a' has 1 points, but numbers for 2 of them"):
        Activations({"a": [[1.0, 2.0]]}, samples={"a": np.arange(2)})
    with pytest.raises(TypeError, match="expected arrays by name, received list"):
        Activations([[1.0]])
