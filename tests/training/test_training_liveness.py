"""LivenessMonitor: against plain loops, verdicts on units made dead, files, and the border."""

import json

import keras
import numpy as np
import pytest
import replicas_training as replicas
import tensorflow as tf
from conftest import SEED, randomise
from nets import NETS, inputs_for

from tfprune import saliency
from tfprune.training import LivenessMonitor, LivenessRecord


def dense_net(activation="tanh", **options):
    model = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(6, activation=activation, name="first"),
            keras.layers.Dense(5, activation=activation, name="second"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile(**{"optimizer": keras.optimizers.SGD(0.05), "loss": "mse"} | options)
    return randomise(model)


def data_of(num_samples=24):
    generator = np.random.default_rng(SEED)
    return tuple(generator.normal(size=(num_samples, width)).astype("float32") for width in (3, 2))


def pairs_of(model):
    weights = [np.asarray(w, "float64") for w in model.get_weights()]
    return list(zip(weights[::2], weights[1::2], strict=True))


def slow_values(weights, x, y):
    """All quantities of the hidden units of a tanh net, sample by sample: `{quantity: {layer: (units,)}}`."""
    result = {name: {} for name in ("output_gradient", "largest_output_gradient", "mrp", "mrs", "weight_gradient")}
    whole = replicas.gradients(weights, x, y)
    means = [values.mean(0) for values in replicas.forward(weights, x)]
    for layer in range(len(weights) - 1):
        size = weights[layer][0].shape[1]
        slopes, first_order, changes = (np.zeros((len(x), size)) for _ in range(3))
        for k in range(len(x)):
            one, target = x[k : k + 1], y[k : k + 1]
            # The bias of a dense layer adds to its output, so their gradients are equal.
            slopes[k] = replicas.gradients(weights, one, target)[layer][1]
            values = replicas.forward(weights, one)
            by_activation = slopes[k] / (1 - values[layer + 1][0] ** 2)
            first_order[k] = np.abs((means[layer + 1] - values[layer + 1][0]) * by_activation)
            loss = np.mean((values[-1] - target) ** 2)
            for unit in range(size):
                replaced = values[layer + 1].copy()
                replaced[0, unit] = means[layer + 1][unit]
                output = replicas.forward(weights[layer + 1 :], replaced)[-1]
                changes[k, unit] = abs(np.mean((output - target) ** 2) - loss)
        result["output_gradient"][layer] = np.abs(slopes).mean(0)
        result["largest_output_gradient"][layer] = np.abs(slopes).max(0)
        result["mrp"][layer], result["mrs"][layer] = changes.mean(0), first_order.mean(0)
        result["weight_gradient"][layer] = np.sqrt((whole[layer][0] ** 2).sum(0))
    return result


def test_against_plain_loops():
    x, y = data_of()
    model = dense_net()
    monitor = LivenessMonitor((x, y), every=2)
    x_train, y_train = data_of(40)
    model.fit(x_train, y_train, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[monitor])
    record = monitor.record
    assert record.step == [0, 2, 4] and record.groups == {"first": 6, "second": 5}
    assert "11 units in 2 groups, measured 3 times, steps 0 to 4" in repr(record)
    assert f"frozen {sum(record.of('frozen', group)[-1].sum() for group in record.groups)}, dead" in repr(record)
    twin = dense_net()
    for time in range(3):
        expected = slow_values(pairs_of(twin), x.astype("float64"), y.astype("float64"))
        assert record.loss[time] == pytest.approx(twin.evaluate(x, y, verbose=0), rel=1e-5)
        for layer, group in enumerate(("first", "second")):
            for quantity, name in (("mean_replacement_penalty", "mrp"), ("mean_replacement", "mrs")):
                np.testing.assert_allclose(
                    record.of(quantity, group)[time], expected[name][layer], rtol=1e-3, atol=1e-6
                )
            for name in ("output_gradient", "largest_output_gradient", "weight_gradient"):
                np.testing.assert_allclose(record.of(name, group)[time], expected[name][layer], rtol=1e-4, atol=1e-7)
            kernel, reading = pairs_of(twin)[layer][0], pairs_of(twin)[layer + 1][0]
            np.testing.assert_allclose(record.of("incoming_norm", group)[time], np.linalg.norm(kernel, axis=0))
            np.testing.assert_allclose(record.of("outgoing_norm", group)[time], np.linalg.norm(reading, axis=1))
        chunk = slice(16 * time, 16 * time + 16)
        twin.fit(x_train[chunk], y_train[chunk], batch_size=8, epochs=1, shuffle=False, verbose=0) if time < 2 else None


def test_histograms_count_outputs_and_activations():
    x, y = data_of()
    model = dense_net("relu")
    monitor = LivenessMonitor((x, y))
    model.fit(x, y, epochs=1, verbose=0, callbacks=[monitor])
    h = x @ model.get_layer("first").kernel.numpy() + model.get_layer("first").bias.numpy()
    outputs, activations = (monitor.record.of(name, "first")[-1] for name in ("outputs", "activations"))
    edges = np.sinh(0.07 * np.arange(-80, 81))
    assert np.isclose(edges[[0, 80, 81, -1]], [-135.21, 0.0, 0.07, 135.21], atol=0.01).all()
    for unit in range(6):
        np.testing.assert_array_equal(outputs[unit], np.histogram(h[:, unit], edges)[0])
        np.testing.assert_array_equal(activations[unit], np.histogram(np.maximum(h[:, unit], 0), edges)[0])


def test_verdicts():
    """Unit 0 is off on all samples, unit 1 is read by nothing, unit 2 is a constant that is read."""
    x, y = data_of()
    model = dense_net("relu", optimizer=keras.optimizers.SGD(0.0))
    first, second = model.get_layer("first"), model.get_layer("second")
    first.bias.assign(np.where(np.arange(6) == 0, -100.0, np.where(np.arange(6) == 2, 3.0, first.bias.numpy())))
    first.kernel.assign(np.where(np.arange(6) == 2, 0.0, first.kernel.numpy()))
    second.kernel.assign(np.where(np.arange(6)[:, None] == 1, 0.0, second.kernel.numpy()))
    monitor = LivenessMonitor((x, y), layers="first")
    model.fit(x, y, epochs=1, verbose=0, callbacks=[monitor])
    assert monitor.frozen["first"].tolist() == [True, True, False, False, False, False]
    assert monitor.dead["first"].tolist() == [True, True, True, False, False, False]
    assert monitor.record.of("weight_gradient", "first")[-1][:2].tolist() == [0.0, 0.0]


def test_a_convolution_sums_squares_over_positions():
    model = NETS["conv_2d"]()
    (x,) = inputs_for(model, 12)
    y = np.zeros(model(x).shape, "float32")
    model.compile("sgd", "mse")
    probe = LivenessMonitor((x, y), layers="valid")
    model.fit(x, y, epochs=1, verbose=0, callbacks=[probe])
    layer = model.get_layer("valid")
    linear = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    head = keras.Model(model.inputs[0], layer.input)
    linear.build(layer.input.shape)
    linear.set_weights(layer.get_weights())
    rest = keras.Model(layer.output, model.outputs[0])
    with tf.GradientTape() as tape:
        h = linear(head(x))
        tape.watch(h)
        total = tf.reduce_sum(tf.reduce_mean((rest(layer.activation(h)) - y) ** 2, axis=-1))
    gradient = tape.gradient(total, h).numpy().astype("float64")
    norms = np.sqrt((gradient**2).sum((1, 2)))
    np.testing.assert_allclose(probe.record.of("output_gradient", "valid")[-1], norms.mean(0), rtol=1e-4)
    np.testing.assert_allclose(probe.record.of("largest_output_gradient", "valid")[-1], norms.max(0), rtol=1e-4)


def test_histograms_count_every_call_of_a_shared_layer():
    model = NETS["siamese"]()
    x = inputs_for(model, 12)
    y = np.zeros((12, 2), "float32")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = LivenessMonitor((x, y))
    model.fit(x, y, epochs=1, verbose=0, callbacks=[monitor])
    first = model.get_layer("first")
    activations = np.concatenate([np.asarray(first(own)) for own in x])
    found = {"activations": activations, "outputs": np.log(activations / (1 - activations))}
    edges = np.sinh(0.07 * np.arange(-80, 81))
    for name, values in found.items():
        counts = monitor.record.of(name, "first")[-1]
        for unit in range(6):
            np.testing.assert_array_equal(counts[unit], np.histogram(values[:, unit], edges)[0])


QUICK = ("attention_self", "nested_twice")


@pytest.mark.parametrize("name", [pytest.param(own, marks=() if own in QUICK else pytest.mark.slow) for own in NETS])
def test_every_net(name):
    model = NETS[name]()
    x = inputs_for(model, 12)
    x = x if len(x) > 1 else x[0]
    outputs = model(x)
    if not hasattr(outputs, "shape"):
        pytest.skip("several outputs, several losses")
    y = np.zeros(outputs.shape, "float32")
    model.compile(keras.optimizers.SGD(0.0), "mse")
    monitor = LivenessMonitor((x, y))
    model.fit(x, y, epochs=1, verbose=0, callbacks=[monitor])
    record = monitor.record
    heads = np.concatenate([np.full(size, group == "heads/heads") for group, size in record.groups.items()])
    np.testing.assert_array_equal(np.isnan(record.values["output_gradient"][-1]), heads)
    # Some relus are below zero on all of the few samples.
    still = record.values["weight_gradient"][-1] == 0
    if name.startswith("on_lstm"):
        assert (still | ~monitor.frozen.flat).all()  # The weights of the last chunk do nothing, whatever it gives out.
    else:
        np.testing.assert_array_equal(still, monitor.frozen.flat)
    assert not monitor.frozen.flat.all()
    expected = saliency.mean_replacement(model, (x, y))
    np.testing.assert_allclose(record.last("mean_replacement").flat, expected.flat, rtol=1e-4, atol=1e-7)
    assert record.loss[-1] == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-4)


def test_files(tmp_path):
    x, y = data_of()
    monitor = LivenessMonitor((x, y), layers="second", log_dir=tmp_path / "logs", path=tmp_path / "record.npz")
    dense_net().fit(x, y, epochs=2, verbose=0, callbacks=[monitor])
    record = LivenessRecord.load(tmp_path / "record.npz")
    assert record.step == monitor.record.step == [0, 1, 2] and record.epoch == [0, 1, 2]
    assert record.settings["frozen_below"] == 1e-8 and "tensorflow" in record.settings
    for name in record.values | record.histograms:
        np.testing.assert_array_equal(record.of(name, "second"), monitor.record.of(name, "second"))
    with np.load(tmp_path / "record.npz") as arrays:
        assert json.loads(str(arrays["header"]))["groups"] == {"second": 5}
    (events,) = (tmp_path / "logs").iterdir()
    scalars, histograms = {}, {}
    for event in tf.data.TFRecordDataset(str(events)):
        for value in tf.compat.v1.Event.FromString(event.numpy()).summary.value:
            plugin = value.metadata.plugin_data.plugin_name
            kept = {"scalars": scalars, "histograms": histograms}.get(plugin, {})
            kept.setdefault(value.tag, []).append(tf.make_ndarray(value.tensor))
    np.testing.assert_allclose(
        scalars["mean_replacement/second/3"], record.of("mean_replacement", "second")[:, 3], rtol=1e-6
    )
    assert len(scalars["loss"]) == 3 and histograms["outputs/second/0"][0][:, 2].sum() == 24


def hidden_samples():
    model = dense_net()
    model.compile("sgd", lambda targets, outputs: keras.ops.mean((targets - outputs) ** 2))
    return model


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0}, "`every` expects a whole number"),
        ({"frozen_below": -1.0}, "`frozen_below` expects"),
        ({"dead_below": float("nan")}, "`dead_below` expects"),
        ({"path": "record.txt"}, "ends in .npz"),
        ({"layers": "frist"}, "Did you mean 'first'"),
        ({"data": data_of(3)}, "`validation_data`: 3 samples are too few"),
        ({"data": data_of()[0]}, "LivenessMonitor: `validation_data`: Data: targets are needed"),
        ({"model": hidden_samples()}, "leave the mean to Keras"),
    ],
)
def test_refused_before_any_training(options, match):
    options = dict(options)
    model, data = options.pop("model", None) or dense_net(), options.pop("data", data_of())
    before = model.get_weights()
    with pytest.raises(ValueError, match=match):
        model.fit(*data_of(), verbose=0, callbacks=[LivenessMonitor(data, **options)])
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("option", ["log_dir", "path"])
def test_an_unwritable_folder_is_refused_at_once(tmp_path, option):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written to"):
        LivenessMonitor(data_of(), **{option: tmp_path / "file" / "record.npz"})


def test_load_refuses_other_files(tmp_path):
    np.savez(tmp_path / "other.npz", x=np.ones(3))
    for name in ("other.npz", "missing.npz"):
        with pytest.raises(ValueError, match="is no record of a LivenessMonitor"):
            LivenessRecord.load(tmp_path / name)


def test_there_is_no_verdict_before_training():
    monitor = LivenessMonitor(data_of())
    for verdict in ("dead", "frozen"):
        with pytest.raises(ValueError, match="before `fit` has begun"):
            getattr(monitor, verdict)
