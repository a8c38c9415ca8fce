"""PruneDuringTraining: against plain loops, under every way to compile, and at the border."""

import keras
import numpy as np
import pytest
import replicas_training as replicas
import tensorflow as tf
from conftest import SEED, randomise
from nets import NETS, inputs_for, outputs_of
from telling import telling

import tfprune as tfp
from tfprune import saliency, schedules
from tfprune.training import PruneDuringTraining

# Most of these look at what is held, not at how good a repair is.
pytestmark = pytest.mark.filterwarnings("ignore:data. repair .* samples; below 300")
HALF = schedules.constant(0.5)


def dense_net(**options):
    model = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(2, name="out"),
        ],
        name="dense_net",
    )
    model.compile(**{"optimizer": keras.optimizers.SGD(0.1, 0.9), "loss": "mse"} | options)
    return randomise(model)


def data_of(num_samples=32, seed=SEED):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(num_samples, 3)).astype("float32"), generator.normal(size=(num_samples, 2)).astype(
        "float32"
    )


def norm(model, data=None, **options):
    return saliency.weight_norm(model, **options)


def pairs_of(model):
    weights = [np.asarray(w, "float64") for w in model.get_weights()]
    return list(zip(weights[::2], weights[1::2], strict=True))


def off_units(mask):
    return {number: np.flatnonzero(~mask[name]) for number, name in enumerate(("first", "second"))}


def held_entries(model, mask):
    """All numbers of the dense net that `remove` would cut."""
    keep = replicas.keep_of_units(pairs_of(model), off_units(mask))
    entries = [w[~k] for pair, own in zip(pairs_of(model), keep, strict=True) for w, k in zip(pair, own, strict=True)]
    return np.concatenate([own.ravel() for own in entries])


def assert_equals_removed(model, mask, x, **options):
    small = tfp.remove(model, mask)
    assert small.count_params() < model.count_params()
    np.testing.assert_allclose(
        outputs_of(small, x if isinstance(x, list) else [x]),
        outputs_of(model, x if isinstance(x, list) else [x]),
        **{"rtol": 1e-5, "atol": 1e-5} | options,
    )


# Against plain loops --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "weight_decay": 0.05}],
    ids=["plain", "momentum", "nesterov", "decay"],
)
def test_equals_training_with_masked_gradients(options):
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(0.1, **options))
    start = pairs_of(model)
    prune = PruneDuringTraining(norm, schedules.constant(0.5, start=3), x, repair="zero")
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[prune])
    batches = [(x[k : k + 8].astype("float64"), y[k : k + 8].astype("float64")) for k in (0, 8, 16, 24)] * 2
    keep = replicas.keep_of_units(start, off_units(prune.mask))
    decay = options.pop("weight_decay", 0.0)
    expected = replicas.train(start, batches, rate=0.1, decay=decay, keep=keep, prune_at=3, **options)
    assert [record.step for record in prune.history] == [3]
    for own, other in zip(pairs_of(model), expected, strict=True):
        for one, two in zip(own, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert not held_entries(model, prune.mask).any()


def test_mean_repair_at_the_pruning_step():
    """What reads the units that go gets their means; nothing is trained in between."""
    x, y = data_of(40)
    model = dense_net(optimizer=keras.optimizers.SGD(0.0))
    start = pairs_of(model)
    prune = PruneDuringTraining(norm, HALF, x, repair="mean")
    model.fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    values = replicas.forward(start, x.astype("float64"))
    for layer, units in off_units(prune.mask).items():
        expected = start[layer + 1][1] + values[layer + 1].mean(0)[units] @ start[layer + 1][0][units]
        kept = np.setdiff1d(np.arange(len(expected)), off_units(prune.mask).get(layer + 1, []))
        np.testing.assert_allclose(pairs_of(model)[layer + 1][1][kept], expected[kept], rtol=1e-5)
    reference = tfp.remove(randomise(dense_net()), prune.mask, repair=tfp.repair.mean, data=np.tile(x, (10, 1)))
    np.testing.assert_allclose(outputs_of(reference, [x]), outputs_of(model, [x]), rtol=1e-4, atol=1e-5)


def test_history_says_what_happened():
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(0.0))
    loss = model.evaluate(x, y, verbose=0)
    prune = PruneDuringTraining(norm, schedules.by_epoch({1: 0.2, 3: 0.5}), (x, y), min_units=3)
    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[prune])
    first, second = prune.history
    assert (first.step, first.epoch, first.sparsity, first.off) == (4, 1, 0.2, {"first": 1, "second": 1})
    assert (second.step, second.epoch, second.sparsity, second.off) == (12, 3, 0.5, {"first": 3, "second": 2})
    assert second.total == {"first": 6, "second": 5}
    assert first.loss_before == pytest.approx(loss, rel=1e-5)
    assert second.loss_before == pytest.approx(first.loss_after, rel=1e-5)
    assert second.loss_after == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)


def test_what_is_off_stays_off_though_its_score_rises():
    x, y = data_of()
    calls = []

    def fickle(model, data):
        calls.append(1)
        sign = 1.0 if len(calls) % 2 else -1.0
        return tfp.LayerValues({"first": sign * np.arange(6.0), "second": sign * np.arange(5.0)})

    prune = PruneDuringTraining(fickle, schedules.by_epoch({0: 0.2, 1: 0.4, 2: 0.6}), x, repair="zero")
    masks = []
    watch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: masks.append(prune.mask.flat))
    dense_net().fit(x, y, epochs=3, verbose=0, callbacks=[prune, watch])
    assert [int((~mask).sum()) for mask in masks] == [2, 4, 6]
    for before, after in zip(masks, masks[1:], strict=False):
        assert not (after & ~before).any()


def test_global_scope():
    x, y = data_of()
    scores = tfp.LayerValues({"first": np.arange(6.0), "second": np.arange(5.0) + 100})
    prune = PruneDuringTraining(lambda model, data: scores, schedules.constant(0.6), x, scope="global", min_units=2)
    dense_net().fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    assert prune.history[0].off == {"first": 4, "second": 2}


# Ways to compile ------------------------------------------------------------------------------------------------------


def muon():
    if not hasattr(keras.optimizers, "Muon"):
        pytest.skip(f"Keras {keras.__version__} has no Muon")
    return keras.optimizers.Muon(0.05)


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.05),
    "adamw": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.1),
    "muon": muon,
    "averages": lambda: keras.optimizers.SGD(0.05, 0.9, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
    "averages_at_the_end": lambda: keras.optimizers.SGD(0.05, 0.9, use_ema=True, ema_momentum=0.9),
    "accumulated": lambda: keras.optimizers.SGD(0.05, 0.9, gradient_accumulation_steps=2),
    "clipped": lambda: keras.optimizers.SGD(0.05, 0.9, global_clipnorm=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_holds_bit_for_bit(name):
    x, y = data_of()
    model = dense_net(optimizer=OPTIMIZERS[name]())
    prune = PruneDuringTraining(norm, schedules.constant(0.5, start=5), x, repair="zero")
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if prune.history:
                seen.append(np.abs(held_entries(model, prune.mask)).max())

    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[prune, Watch()])
    assert len(seen) == 11 and max(seen) == 0.0
    assert not held_entries(model, prune.mask).any()
    assert_equals_removed(model, prune.mask, x)


def test_ways_to_compile_agree():
    x, y = data_of(48)
    results = []
    for given in ({"jit_compile": False}, {"jit_compile": True}, {"steps_per_execution": 3}, {"run_eagerly": True}):
        model = dense_net(optimizer=keras.optimizers.Adam(0.01), **given)
        prune = PruneDuringTraining(norm, schedules.constant(0.4, start=3), x, repair="zero")
        model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[prune])
        assert not held_entries(model, prune.mask).any() and prune.history[0].step == 3
        results.append(np.concatenate([w.ravel() for w in model.get_weights()]))
        np.testing.assert_allclose(results[-1], results[0], rtol=1e-3, atol=1e-5)


def test_mixed_precision_and_datasets():
    inputs = keras.Input((3,))
    h = keras.layers.Dense(8, dtype="mixed_float16", use_bias=False, name="first")(inputs)
    h = keras.layers.ReLU()(keras.layers.BatchNormalization(name="norm")(h))
    h = keras.layers.Dense(6, "sigmoid", dtype="mixed_float16", name="second")(h)
    model = randomise(keras.Model(inputs, keras.layers.Dense(2, name="out")(h)))
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01))
    model.compile(optimizer, "mse", jit_compile=True)
    x, y = data_of()
    prune = PruneDuringTraining(saliency.mean_replacement, schedules.by_epoch({1: 0.3, 2: 0.5}), (x, y))
    stream = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(32, seed=1).batch(8)
    model.fit(stream, epochs=4, shuffle=False, verbose=0, callbacks=[prune])
    assert prune.history[-1].off == {"first": 4, "second": 3}
    off = ~prune.mask["first"]
    norm_layer = model.get_layer("norm")
    for weight in (model.get_layer("first").kernel, norm_layer.gamma, norm_layer.beta):
        assert not np.asarray(weight)[..., off].any() and np.asarray(weight)[..., ~off].all()
    assert not np.asarray(model.get_layer("second").kernel)[off].any()
    assert_equals_removed(model, prune.mask, x, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["conv_2d", "simple_rnn", "attention_self"])
def test_layers(name):
    """The training model computes what the cut one does, whatever reads the units."""
    model = NETS[name]()
    x = inputs_for(model, 16)
    targets = keras.tree.map_structure(lambda out: np.zeros(out.shape, "float32"), model(x if len(x) > 1 else x[0]))
    model.compile(keras.optimizers.Adam(0.01), "mse")
    x_in = x if len(x) > 1 else x[0]
    prune = PruneDuringTraining(norm, HALF, x_in, repair="zero")
    model.fit(x_in, targets, epochs=2, verbose=0, callbacks=[prune])
    assert not prune.mask.flat.all()
    assert_equals_removed(model, prune.mask, x)


def test_units_that_a_layer_normalization_counts_are_left_out():
    model = NETS["transformer_block"]()
    x = inputs_for(model, 12)[0]
    model.compile("sgd", "mse")
    prune = PruneDuringTraining(norm, HALF, x, repair="zero")
    model.fit(x, np.zeros(model(x).shape), epochs=1, verbose=0, callbacks=[prune])
    assert prune.left_out and set(prune.left_out).isdisjoint(prune.mask)
    assert "a norm or another statistic counts its units" in next(iter(prune.left_out.values()))
    assert_equals_removed(model, prune.mask, [x])
    with pytest.raises(ValueError, match="cannot be held off while the model keeps its size"):
        again = PruneDuringTraining(norm, HALF, x, layers=list(prune.left_out))
        model.fit(x, np.zeros(model(x).shape), epochs=1, verbose=0, callbacks=[again])


def test_user_constraints_still_hold():
    model = dense_net()
    model.get_layer("first").kernel.constraint = keras.constraints.UnitNorm(axis=0)
    x, y = data_of()
    prune = PruneDuringTraining(norm, HALF, x)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[prune])
    lengths = np.linalg.norm(model.get_layer("first").kernel.numpy(), axis=0)
    np.testing.assert_allclose(lengths, prune.mask["first"].astype(float), atol=1e-5)


def test_nothing_is_left_behind():
    x, y = data_of()
    model = dense_net()
    # At tanh(0) = 0 a unit without weights would get no gradient.
    model.get_layer("first").activation = keras.activations.sigmoid
    prune = PruneDuringTraining(norm, HALF, x)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    assert "apply" not in vars(model.optimizer)
    mask = prune.mask
    model.fit(x, y, epochs=1, verbose=0)
    assert held_entries(model, mask).any()  # Without the callback nothing holds them.
    with telling("5 of 11 were off .* 2 are off .* trained without this callback"):
        assert prune.mask["first"].all() and prune.mask["second"].sum() == 3


# Weights --------------------------------------------------------------------------------------------------------------


def magnitude(model, data=None, layers=None):
    return saliency.weights.magnitude(model, layers=layers)


def test_weights_are_held():
    x, y = data_of()
    model = dense_net(optimizer=muon())
    prune = PruneDuringTraining(magnitude, schedules.by_epoch({1: 0.25, 2: 0.5}), x)
    model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[prune])
    assert prune.history[-1].off == {"first": 9, "second": 15, "out": 5}
    for name, kept in prune.mask.items():
        kernel = model.get_layer(name).kernel.numpy()
        assert not kernel[~kept].any() and kernel[kept].all()
    zeroed = tfp.zero_weights(model, prune.mask) if hasattr(tfp, "zero_weights") else model
    np.testing.assert_array_equal(outputs_of(zeroed, [x]), outputs_of(model, [x]))


def test_weights_equal_training_with_masked_gradients():
    x, y = data_of()
    model = dense_net()
    start = pairs_of(model)
    prune = PruneDuringTraining(magnitude, schedules.constant(0.5, start=2), x, layers=["second"])
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[prune])
    assert prune.mask.names == ("second",)
    keep = replicas.keep_of_units(start, {})
    keep[1] = (prune.mask["second"], keep[1][1])
    batches = [(x[k : k + 8].astype("float64"), y[k : k + 8].astype("float64")) for k in (0, 8, 16, 24)] * 2
    expected = replicas.train(start, batches, rate=0.1, momentum=0.9, keep=keep, prune_at=2)
    for own, other in zip(pairs_of(model), expected, strict=True):
        for one, two in zip(own, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_zeros_of_a_loaded_model_are_weights_that_are_off():
    x, y = data_of()
    model = dense_net()
    kernel = model.get_layer("first").kernel
    kernel.assign(np.where(np.arange(18).reshape(3, 6) % 3, kernel.numpy(), 0.0))
    prune = PruneDuringTraining(magnitude, lambda step: 0.0, x)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    assert int((~prune.mask["first"]).sum()) == 6 and not kernel.numpy()[~prune.mask["first"]].any()
    with pytest.raises(ValueError, match="is for units; single weights know 'zero' alone"):
        model.fit(x, y, verbose=0, callbacks=[PruneDuringTraining(magnitude, HALF, x, repair="mean")])


# Saving and taking up -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", ["epochs", "steps"])
def test_a_training_taken_up_from_a_saved_model_ends_alike(tmp_path, counts):
    x, y = data_of()
    table = {1: 0.2, 3: 0.4, 5: 0.6}
    schedule = schedules.by_epoch(table)
    if counts == "steps":
        schedule = schedules.polynomial(0.2, 0.6, begin=2, end=18, frequency=4)

    def fit(model, prune, **options):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, **options)
        return np.concatenate([w.ravel() for w in model.get_weights()]), prune.mask

    whole, prune = dense_net(optimizer=keras.optimizers.Adam(0.01)), PruneDuringTraining(norm, schedule, x)
    expected, mask = fit(whole, prune, epochs=6, callbacks=[prune])
    model, prune = dense_net(optimizer=keras.optimizers.Adam(0.01)), PruneDuringTraining(norm, schedule, x)
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "model.keras")
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, epochs=4, callbacks=[prune, checkpoint])
    loaded, again = keras.models.load_model(tmp_path / "model.keras"), PruneDuringTraining(norm, schedule, x)
    found, own = fit(loaded, again, initial_epoch=4, epochs=6, callbacks=[again])
    assert own == mask and len(again.history) < len(prune.history) + 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_given_mask_is_off_from_the_beginning():
    x, y = data_of()
    model = dense_net()
    mask = tfp.LayerValues({"first": np.arange(6) != 2})
    prune = PruneDuringTraining(norm, lambda step: 0.0, x, mask=mask)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    assert prune.mask["first"].tolist() == mask["first"].tolist() and prune.mask["second"].all()
    assert not prune.history and not held_entries(model, prune.mask).any()


def test_a_second_fit_goes_on():
    x, y = data_of()
    model = dense_net()
    prune = PruneDuringTraining(norm, schedules.by_epoch({0: 0.5}), x)
    for _ in range(2):
        model.fit(x, y, epochs=1, verbose=0, callbacks=[prune])
    assert len(prune.history) == 1 and not held_entries(model, prune.mask).any()


# Border ---------------------------------------------------------------------------------------------------------------


def fit_with(model=None, *, saliency=norm, schedule=HALF, data=None, fit_data=None, **options):
    x, y = data_of()
    prune = PruneDuringTraining(saliency, schedule, x if data is None else data, **options)
    model = dense_net() if model is None else model
    before = model.get_weights()
    try:
        model.fit(*(fit_data or (x, y)), epochs=2, verbose=0, callbacks=[prune])
    finally:
        assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


def without_bias():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2, use_bias=False)])
    model.compile("sgd", "mse")
    return model


def hidden_samples():
    model = dense_net()
    model.compile("sgd", lambda targets, outputs: keras.ops.mean((targets - outputs) ** 2))
    return model


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"schedule": lambda step: 0.5 - 0.1 * step}, "it falls from 0.5"),
        ({"schedule": lambda step: 1.5}, "after 0 steps expects a number of at least 0 and below 1"),
        ({"saliency": lambda model, data: {"nowhere": np.ones(3)}}, "names that are no groups.*'nowhere'"),
        ({"saliency": lambda model, data: {"first": np.ones(3)}}, r"the shape \(3,\) of float64, expected one number"),
        ({"saliency": lambda model, data: {"first": np.full(6, np.nan)}}, "NaN for 6 of 6 entries of 'first'"),
        ({"saliency": lambda model, data: {"nowhere": np.ones((3, 6))}}, "names that are no kernels"),
        ({"data": np.ones((3, 3), "float32")}, "3 samples are too few for means"),
        ({"data": np.full((30, 3), np.nan)}, "NaN"),
        (
            {"model": hidden_samples(), "saliency": saliency.mean_replacement, "data": data_of()},
            "leave the mean to Kera",
        ),
        ({"model": without_bias()}, "have none, and a model cannot get any during fit"),
        ({"mask": {"first": np.zeros(6, bool)}}, "all 6 units of group 'first' are off"),
        ({"mask": {"frist": np.ones(6, bool)}}, "did you mean 'first'"),
        ({"layers": "frist"}, "Did you mean 'first'"),
        ({"scope": "all"}, "`scope` expects one of 'group', 'global'"),
        ({"min_units": 0}, "`min_units` expects"),
        ({"repair": "means"}, "repair: expected a repair, or its name"),
    ],
)
def test_refused_before_any_training(options, match):
    with pytest.raises(ValueError, match=match):
        fit_with(**options)


def test_refused_types():
    with pytest.raises(TypeError, match="`saliency` expects a function"):
        PruneDuringTraining("magnitude", HALF, np.ones((20, 3)))
    with pytest.raises(TypeError, match="schedules.constant"):
        PruneDuringTraining(norm, 0.5, np.ones((20, 3)))
    with pytest.raises(TypeError, match="must return LayerValues of scores"):
        fit_with(saliency=lambda model, data: 3.0)


def test_a_schedule_that_falls_where_the_length_is_not_known():
    x, y = data_of()

    def stream():
        yield from ((x[k : k + 8], y[k : k + 8]) for k in range(0, 32, 8))

    prune = PruneDuringTraining(norm, lambda step: 0.5 if step < 2 else 0.1, x)
    with pytest.raises(ValueError, match="it falls from 0.5 to 0.1 after 2 steps"):
        dense_net().fit(stream(), epochs=1, shuffle=False, verbose=0, callbacks=[prune])


@pytest.mark.parametrize("swapped", [True, False])
def test_a_saliency_that_is_none_is_told_without_its_contents(swapped):
    wrong = tfp.schedules.constant(0.5) if swapped else np.zeros((50, 50))
    message = "swapped" if swapped else "object of type ndarray.$"
    with pytest.raises(TypeError, match=message):
        tfp.training.PruneDuringTraining(wrong, tfp.saliency.weight_norm, None)


def test_no_mask_yet():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(1)])
    with pytest.raises(TypeError, match="mask: expected LayerValues.*received None"):
        tfp.remove(model, None)
