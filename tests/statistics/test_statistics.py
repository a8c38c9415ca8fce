"""Statistics: against NumPy on whole arrays, in any batches, at homes and at exits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SEED, randomise
from nets import EARLY_KERAS, NETS, inputs_for
from replicas_saliency import entering_states

from tfprune import unit_groups
from tfprune.graph.kernels import reading_kernel
from tfprune.statistics import Moments, exit_means, exit_statistics, unit_statistics

TOLERANCE = 1e-5

SAMPLE = [
    *[
        "dense_chain",
        "conv_2d",
        "conv_channels_first",
        "grouped_conv_position",
        "depthwise_conv",
        "einsum_two_new_axes",
    ],
    *["embedding_mask", "lstm_stacked", "encoder_decoder_lstm", "bidirectional_sum", "time_distributed"],
    *["transformer_block", "batch_norm", "group_norm", "prelu", "shuffle", "reshape_tied", "mixer", "concatenate"],
    *[
        "called_twice",
        "siamese",
        "shared_tower",
        "shared_recurrent",
        "nested_twice",
        "nested_in_nested",
        "ops_slices",
        "mixed_precision",
    ],
]


def x_for(model, batch=12):
    arrays = inputs_for(model, batch)
    return arrays if len(arrays) > 1 else arrays[0]


def values_of(model, tensors, x):
    outputs = keras.Model(model.inputs, list(tensors))(x if isinstance(x, list) else [x])
    return [np.asarray(keras.ops.convert_to_numpy(value), "float64") for value in keras.tree.flatten(outputs)]


def rows_along(values, axis):
    return np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])


def test_moments_merge_like_one_array(generator):
    rows = generator.normal(3.0, 2.0, (50, 3))

    def moments(rows):
        centred = rows - rows.mean(0)
        return Moments(len(rows), rows.mean(0), centred.T @ centred, rows.min(0), rows.max(0), (rows == 0).sum(0))

    merged = moments(rows[:7]).merged(moments(rows[7:30])).merged(moments(rows[30:]))
    np.testing.assert_allclose(merged.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(merged.covariance, np.cov(rows.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(merged.variance, rows.var(0), rtol=1e-12)
    np.testing.assert_array_equal(merged.maximum, rows.max(0))


@pytest.mark.parametrize("name", SAMPLE)
def test_units_at_home(name):
    """Against the homes' values in NumPy, unit by unit; groups inside nested models are left to the next test."""
    model = NETS[name]()
    x = x_for(model)
    graph = unit_groups(model)
    statistics = unit_statistics(model, x, covariance=True)
    assert set(statistics.skipped) | set(statistics.mean) == set(graph)
    for group in graph.values():
        homes = {(id(home.tensor), home.axis): home for member in group.members for home in member.homes}
        if "/" in group.name or not homes:
            continue
        read = values_of(model, [home.tensor for home in homes.values()], x)
        for unit in range(group.size):
            own = np.concatenate(
                [
                    rows_along(value, home.axis)[:, home.units == unit].ravel()
                    for value, home in zip(read, homes.values(), strict=True)
                ]
            )
            expected = (own.mean(), own.var(), own.min(), own.max(), (own == 0).mean())
            fields = ("mean", "variance", "minimum", "maximum", "zero_fraction")
            found = [getattr(statistics, field)[group.name][unit] for field in fields]
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=TOLERANCE)
        np.testing.assert_allclose(
            np.diagonal(statistics.covariance[group.name]), statistics.variance[group.name], rtol=1e-9, atol=1e-12
        )


def test_a_layer_called_twice_pools_both_calls():
    """A unit that is off at the first call alone is not off."""
    x, y = keras.Input((3,), name="x"), keras.Input((3,), name="y")
    shared, relu = keras.layers.Dense(4, name="shared"), keras.layers.ReLU(name="relu")
    h = keras.layers.Concatenate()([relu(shared(tensor)) for tensor in (x, y)])
    model = randomise(keras.Model([x, y], keras.layers.Dense(1)(h)))
    left, right = inputs_for(model, 10)
    shared.bias.assign([0.0, 0.0, 0.0, 10.0])
    shared.kernel.assign(np.eye(3, 4))
    left[:, 0], right[:, 0] = -1.0, 1.0
    rows = np.maximum(np.concatenate([left, right]) @ np.eye(3, 4) + [0, 0, 0, 10], 0.0)
    statistics = unit_statistics(model, [left, right])
    assert statistics.counts["shared"] == 20
    np.testing.assert_allclose(statistics.zero_fraction["shared"], (rows == 0).mean(axis=0))
    assert statistics.zero_fraction["shared"][0] == 0.5
    np.testing.assert_allclose(statistics.variance["shared"], rows.var(axis=0), rtol=1e-4, atol=1e-9)


def test_a_nested_model_called_twice_pools_both_calls():
    model = NETS["nested_twice"]()
    left, right = inputs_for(model, 10)
    inner = model.get_layer("inner")
    own = np.concatenate([keras.ops.convert_to_numpy(inner(x)) for x in (left, right)]).astype("float64")
    statistics = unit_statistics(model, [left, right], covariance=True)
    assert statistics.counts["inner/b"] == 20
    np.testing.assert_allclose(statistics.mean["inner/b"], own.mean(0), rtol=TOLERANCE)
    np.testing.assert_allclose(statistics.covariance["inner/b"], np.cov(own.T, bias=True), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", SAMPLE)
def test_exits_hold_what_their_readers_read(name):
    """Mean and variance at each position of an exit's axis, whatever the statistics were pulled back through."""
    model = NETS[name]()
    x = x_for(model)
    graph = unit_groups(model)
    statistics = exit_statistics(model, x)
    for exit in graph.records.exits:
        if not exit.kernel or exit.tensor is None or "/" in exit.name:
            continue
        (value,) = values_of(model, [exit.tensor], x)
        moments, channels = statistics[exit], statistics.channels(exit)
        assert channels.shape == exit.ids.shape
        # What the statistics pool, an exit behind a Flatten has apart: the mean over the positions of each channel.
        means = rows_along(value, exit.axis).mean(0)
        pooled = np.array([means[channels == channel].mean() for channel in range(len(moments.mean))])
        np.testing.assert_allclose(moments.mean, pooled, rtol=1e-4, atol=TOLERANCE)
        np.testing.assert_allclose(moments.covariance, moments.covariance.T, rtol=1e-12)


def test_a_flattened_map_needs_a_matrix_of_its_channels():
    model = NETS["conv_2d"]()
    x = x_for(model, 30)
    graph = unit_groups(model)
    exit = next(exit for exit in graph.records.exits if exit.name == "out")
    statistics = exit_statistics(model, x, [exit])
    (value,) = values_of(model, [model.get_layer("dilated").output], x)
    assert len(exit.ids) == 12 and statistics[exit].covariance.shape == (3, 3)
    np.testing.assert_array_equal(statistics.channels(exit), np.tile(np.arange(3), 4))
    np.testing.assert_allclose(statistics[exit].covariance, np.cov(rows_along(value, 3).T, bias=True), rtol=1e-4)


def test_channels_first_is_flattened_channels_last():
    """Flatten moves the channels to the back (a CPU cannot run such a convolution, so the map comes from Permute)."""
    x = keras.Input((4, 2))
    hidden = keras.layers.Permute((2, 1))(keras.layers.Dense(3, name="hidden")(x))
    flat = keras.layers.Flatten(data_format="channels_first")(hidden)
    model = randomise(keras.Model(x, keras.layers.Dense(2, name="out")(flat)))
    exit = next(exit for exit in unit_groups(model).records.exits if exit.name == "out")
    data = inputs_for(model, 6)[0]
    statistics = exit_statistics(model, data, [exit])
    np.testing.assert_array_equal(statistics.channels(exit), np.tile(np.arange(3), 4))
    (value,) = values_of(model, [model.get_layer("hidden").output], data)
    np.testing.assert_allclose(statistics[exit].mean, value.reshape(-1, 3).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layer_class", [keras.layers.SimpleRNN, keras.layers.GRU, keras.layers.LSTM])
@pytest.mark.parametrize("backwards", [False, True])
def test_states_as_they_enter_each_step(layer_class, backwards):
    x = keras.Input((5, 3))
    layer = layer_class(4, go_backwards=backwards, name="rnn")
    model = randomise(keras.Model(x, keras.layers.Dense(2)(layer(x))))
    data = inputs_for(model, 9)[0]
    exit = next(exit for exit in unit_groups(model).records.exits if exit.tensor is None)
    forward = data[:, ::-1] if backwards else data

    def run(steps):
        return keras.ops.convert_to_numpy(layer(steps[:, ::-1] if backwards else steps))

    rows = entering_states(run, forward, 4).reshape(-1, 4)
    moments = exit_statistics(model, data, [exit])[exit]
    assert moments.count == 45
    np.testing.assert_allclose(moments.mean, rows.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), rtol=1e-4, atol=1e-6)


def test_masked_steps_do_not_count():
    model = NETS["embedding_mask"]()
    x = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 0, 0, 0, 0]], "int32")
    exit = next(exit for exit in unit_groups(model).records.exits if exit.tensor is None)
    assert exit_statistics(model, x, [exit])[exit].count == 5


@pytest.mark.parametrize("name", ["conv_2d", "lstm_stacked", "batch_norm", "nested_twice"])
def test_batches_do_not_matter(name, generator):
    model = NETS[name]()
    arrays = inputs_for(model, 23)
    order = generator.permutation(23)
    shuffled = tuple(array[order] for array in arrays)
    structure = (lambda *parts: (parts,)) if len(arrays) > 1 else (lambda part: part)
    stream = tf.data.Dataset.from_tensor_slices(shuffled).map(structure).batch(4)
    whole, parts = (unit_statistics(model, data, covariance=True) for data in (x_for(model, 23), stream))
    for field in ("mean", "variance", "minimum", "maximum", "zero_fraction", "covariance"):
        one, other = getattr(whole, field), getattr(parts, field)
        np.testing.assert_allclose(one.flat, other.flat, rtol=TOLERANCE, atol=TOLERANCE)
    at_once, streamed = (exit_statistics(model, data).moments for data in (x_for(model, 23), stream))
    for one, other in zip(at_once, streamed, strict=True):
        assert one.count == other.count
        np.testing.assert_allclose(one.covariance, other.covariance, rtol=TOLERANCE, atol=TOLERANCE)


def test_a_large_offset_does_not_drown_the_variance():
    """Single sums of squares would have no digit left."""
    net = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, dtype="float64", name="hidden"), keras.layers.Dense(1)]
    )
    net.layers[0].set_weights([np.array([[1.0]]), np.array([1e8])])
    if EARLY_KERAS:
        pytest.skip("in a graph this Keras rounds double precision to single")
    x = np.random.default_rng(SEED).normal(size=(400, 1)).astype("float32")
    variance = unit_statistics(net, x).variance["hidden"]
    np.testing.assert_allclose(variance, x.astype("float64").var(), rtol=1e-6)


def test_new_weights_count_in_a_pass_that_was_compiled_before(dense_net):
    x = inputs_for(dense_net, 8)[0]
    before = unit_statistics(dense_net, x).mean["first"]
    dense_net.get_layer("first").bias.assign_add(np.full(5, 100.0))
    after = unit_statistics(dense_net, x).mean["first"]
    assert (after > before + 90).all()


def test_heads_of_attention_are_named():
    model = NETS["attention_self"]()
    x = x_for(model)
    statistics = unit_statistics(model, x)
    assert "heads" in statistics.skipped["heads/heads"] and "heads/heads" not in statistics.mean
    exits = exit_statistics(model, x)
    inner = next(exit for exit in unit_groups(model).records.exits if exit.tensor is None)
    assert inner not in exits
    with pytest.raises(KeyError, match="heads of attention"):
        exits[inner]


def test_means_at_exits_are_those_behind_a_pool():
    image = keras.Input((8, 8, 2))
    hidden = keras.layers.Conv2D(4, 3, activation="relu", name="first")(image)
    pooled = keras.layers.MaxPooling2D(2)(hidden)
    model = randomise(keras.Model(image, keras.layers.Conv2D(2, 3)(pooled)))
    x = x_for(model, 20)
    (value,) = values_of(model, [pooled], x)
    np.testing.assert_allclose(exit_means(model, x)["first"], rows_along(value, 3).mean(0), rtol=1e-4)
    assert (exit_means(model, x)["first"] > unit_statistics(model, x).mean["first"]).all()


@pytest.mark.parametrize("name", sorted(set(NETS) - {"attention_grouped"}))
def test_kernels_have_one_row_per_position(name):
    model = NETS[name]()
    graph = unit_groups(model)
    for exit in graph.records.exits:
        kernel = reading_kernel(graph, exit)
        assert (kernel is not None) == exit.kernel
        if kernel is not None:
            assert kernel.ndim == 3 and len(kernel) == len(exit.ids) and np.abs(kernel).sum() > 0


@pytest.mark.parametrize("name", ["grouped_conv_position", "separable_conv", "conv_2d_transpose", "einsum_ellipsis"])
def test_kernels_predict_what_one_position_adds(name):
    """A one in the middle of a map of zeros adds every tap of its row once."""
    model = NETS[name]()
    graph = unit_groups(model)
    exit = next(exit for exit in graph.records.exits if exit.name in ("grouped", "second"))
    kernel = reading_kernel(graph, exit)
    shape = (1, *[5] * (len(exit.tensor.shape) - 2), len(kernel))
    linear = type(exit.operation).from_config({**exit.operation.get_config(), "activation": "linear"})
    linear.build(shape)
    linear.set_weights(exit.operation.get_weights())
    for position in range(len(kernel)):
        value = np.zeros(shape, "float32")
        value[(0, *[2] * (len(shape) - 2), position)] = 1.0
        added = keras.ops.convert_to_numpy(linear(value) - linear(np.zeros_like(value)))
        np.testing.assert_allclose(added.reshape(-1, kernel.shape[2]).sum(0), kernel[position].sum(0), atol=1e-4)


def test_no_data(dense_net):
    with pytest.raises(TypeError, match="data are needed"):
        unit_statistics(dense_net, None)


def test_infinite_values_are_refused(dense_net):
    dense_net.get_layer("first").kernel.assign(np.full((3, 5), 3e38))
    with pytest.raises(ValueError, match="'first' take values that are NaN or infinite"):
        unit_statistics(dense_net, 100 * inputs_for(dense_net, 4)[0])


def test_unknown_layer(dense_net):
    with pytest.raises(ValueError, match="Did you mean 'first'"):
        unit_statistics(dense_net, inputs_for(dense_net, 4)[0], layers="frist")
