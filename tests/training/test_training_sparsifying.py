"""SparsifyDuringTraining: against plain loops, under every way to compile, beside others, and at the border."""

import warnings

import keras
import numpy as np
import pytest
import replicas_sparsifying as replicas
import tensorflow as tf
from conftest import randomise
from nets import NETS, inputs_for, outputs_of
from test_training_pruning import data_of, dense_net, norm, pairs_of

import tfprune as tfp
from tfprune import saliency, schedules
from tfprune.training import PruneDuringTraining, SparsifyDuringTraining
from tfprune.training.penalties import PenalisedUnits

pytestmark = pytest.mark.filterwarnings("ignore:SparsifyDuringTraining. after .* no unit is within")

layers = keras.layers
RATE, STRENGTH = 0.1, 0.05
METHODS = pytest.mark.parametrize("method", ["proximal", "gradient"])


EAGER = {"run_eagerly": True}
"""Where a step or two are made, to trace them takes longer."""


def plain_sgd(**options):
    return keras.optimizers.SGD(RATE, **options)


def fit(model, callbacks, x, y, **options):
    return model.fit(x, y, **{"batch_size": 32, "shuffle": False, "verbose": 0, "callbacks": callbacks} | options)


def stepped(pairs, plain, method):
    """What one step of SGD becomes with the penalty: `pairs` before, `plain` after a step without it."""
    if method == "proximal":
        return replicas.shrunk(plain, RATE * STRENGTH)
    slopes = replicas.pull(pairs, STRENGTH)
    return [tuple(w - RATE * g for w, g in zip(*own, strict=True)) for own in zip(plain, slopes, strict=True)]


def assert_pairs(found, expected):
    for own, other in zip(found, expected, strict=True):
        for one, two in zip(own, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


# Against plain loops --------------------------------------------------------------------------------------------------

WAYS = {
    "plain": (plain_sgd, EAGER),
    "traced": (plain_sgd, {"jit_compile": False}),
    "compiled": (plain_sgd, {"jit_compile": True}),
    "scaled": (lambda: keras.optimizers.LossScaleOptimizer(plain_sgd()), EAGER),
    "scaled_loss": (lambda: plain_sgd(loss_scale_factor=256.0), EAGER),
}


@METHODS
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=[pytest.mark.slow] * (way in ("traced", "compiled"))) for way in WAYS]
)
def test_one_step_equals_plain_loops(way, method):
    x, y = data_of()
    optimizer, options = WAYS[way]
    without, model = (dense_net(optimizer=optimizer(), **options) for _ in range(2))
    start = pairs_of(without)
    fit(without, [], x, y)
    fit(model, [SparsifyDuringTraining("group_norm", STRENGTH, method=method)], x, y)
    expected = stepped(start, pairs_of(without), method)
    assert_pairs(pairs_of(model), expected)
    assert np.abs(expected[0][0] - pairs_of(without)[0][0]).max() > 1e-3


@pytest.mark.parametrize("method", ["proximal", pytest.param("gradient", marks=pytest.mark.slow)])
def test_accumulated_gradients_make_one_step_of_two_batches(method):
    x, y = data_of()
    whole = dense_net(optimizer=plain_sgd(), **EAGER)
    halves = dense_net(optimizer=plain_sgd(gradient_accumulation_steps=2))
    for model, size in ((whole, 32), (halves, 16)):
        fit(model, [SparsifyDuringTraining("group_norm", STRENGTH, method=method)], x, y, batch_size=size)
    assert_pairs(pairs_of(halves), pairs_of(whole))


@pytest.mark.parametrize("method", ["proximal", pytest.param("gradient", marks=pytest.mark.slow)])
def test_several_steps_at_once_are_single_ones(method):
    x, y = data_of()
    found = []
    for count in (1, 4):
        model = dense_net(optimizer=plain_sgd(momentum=0.9), steps_per_execution=count)
        sparsify = SparsifyDuringTraining("group_norm", STRENGTH, method=method)
        fit(model, [sparsify], x, y, batch_size=4, epochs=2)
        found.append(pairs_of(model))
    assert_pairs(found[1], found[0])


def test_steps_with_infinite_gradients_are_left_out():
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.LossScaleOptimizer(plain_sgd()), **EAGER)
    start = pairs_of(model)
    fit(model, [SparsifyDuringTraining("group_norm", STRENGTH)], x, np.full_like(y, np.inf))
    assert_pairs(pairs_of(model), start)


def test_rows_of_an_embedding_that_were_not_looked_up_are_pulled_as_well():
    def make():
        x = keras.Input((2,), dtype="int32")
        h = layers.GlobalAveragePooling1D()(layers.Embedding(5, 4, name="table")(x))
        model = randomise(keras.Model(x, layers.Dense(2, use_bias=False, name="out")(h)))
        model.compile(plain_sgd(), "mse", **EAGER)
        return model

    without, model = make(), make()
    table, out = (w.numpy().astype("float64") for w in model.weights)
    x, y = np.array([[0, 1], [1, 3]]), np.ones((2, 2))
    fit(without, [], x, y)
    fit(model, [SparsifyDuringTraining("group_norm", STRENGTH, method="gradient")], x, y)
    lengths = np.sqrt((table**2).sum(0) + (out**2).sum(1))
    expected = without.weights[0].numpy() - RATE * STRENGTH * np.sqrt(5 + 2) * table / lengths
    np.testing.assert_allclose(model.weights[0].numpy(), expected, rtol=1e-4, atol=1e-6)


def norm_net(seed=3, **options):
    """Two convolutions with batch norms, and a third behind a sum that two norms go into."""
    x = keras.Input((6, 6, 2), name="image")
    h = layers.Conv2D(5, 3, use_bias=False, name="first")(x)
    h = layers.ReLU(name="relu_1")(layers.BatchNormalization(name="norm_1")(h))
    stream = layers.BatchNormalization(name="norm_2")(layers.Conv2D(4, 3, padding="same", name="second")(h))
    branch = layers.Conv2D(4, 3, padding="same", name="third")(layers.ReLU(name="relu_2")(stream))
    branch = layers.BatchNormalization(name="norm_3")(branch)
    h = layers.ReLU(name="relu_3")(layers.Add(name="add")([stream, branch]))
    h = layers.Dense(3, activation="tanh", name="head")(layers.GlobalAveragePooling2D(name="mean")(h))
    model = randomise(keras.Model(x, layers.Dense(2, name="out")(h), name="norm_net"), seed)
    model.compile(**{"optimizer": plain_sgd(), "loss": "mse"} | options)
    return model


def images_of(count=32, seed=5):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, 6, 6, 2)).astype("float32"), generator.normal(size=(count, 2)).astype(
        "float32"
    )


def scales_of(model, names=("norm_1", "norm_2", "norm_3")):
    return [model.get_layer(name).gamma.numpy().astype("float64") for name in names]


@METHODS
def test_scales_are_pulled_as_by_their_absolute_values(method):
    x, y = images_of()
    without, model = norm_net(**EAGER), norm_net(**EAGER)
    first, *pair = scales_of(model)
    fit(without, [], x, y)
    sparsify = SparsifyDuringTraining("batch_norm_scale", STRENGTH, method=method)
    fit(model, [sparsify], x, y)
    plain = scales_of(without)
    # One norm: soft thresholding, or the sign. Two norms of the same units: their length, times the root of two.
    if method == "proximal":
        expected = [np.maximum(plain[0] - RATE * STRENGTH, 0)]
        length = np.sqrt(plain[1] ** 2 + plain[2] ** 2)
        expected += [own * (1 - RATE * STRENGTH * np.sqrt(2) / length) for own in plain[1:]]
    else:
        expected = [plain[0] - RATE * STRENGTH * np.sign(first)]
        length = np.sqrt(pair[0] ** 2 + pair[1] ** 2)
        expected += [
            new - RATE * STRENGTH * np.sqrt(2) * old / length for new, old in zip(plain[1:], pair, strict=True)
        ]
    for own, other in zip(scales_of(model), expected, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.get_layer("third").kernel, without.get_layer("third").kernel, rtol=1e-6)
    assert sparsify.left_out == {"head": "no trainable scale of a batch normalization lies behind all of its units"}


# A unit's weights are those that `remove` would cut -------------------------------------------------------------------

KINDS = ["grouped_conv_position", "lstm_stacked", "attention_self", "siamese", "batch_norm"]
MORE_KINDS = ["dense_rank_3", "separable_conv", "depthwise_conv", "gru_reset_after", "nested_twice", "on_lstm"]
MORE_KINDS += ["concatenate", "embedding_mask"]


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_KINDS)])
def test_the_weights_of_a_unit_are_those_that_remove_would_cut(name):
    model = NETS[name]()
    units = PenalisedUnits(model, "group_norm", None)
    norms = units.norms().numpy()
    trained = [n for n, variable in enumerate(model.weights) if variable.trainable and "seed" not in variable.name]
    marked = tfp.remove(model, tfp.LayerValues({}))
    first = 0
    for variable in marked.weights:
        if "float" in str(variable.dtype):
            variable.assign(np.arange(first, first + variable.shape.num_elements()).reshape(variable.shape))
        first += variable.shape.num_elements()
    numbers = np.concatenate([w.numpy().astype("float64").ravel() for w in model.weights])
    allowed = np.concatenate([np.full(w.shape.num_elements(), n in trained) for n, w in enumerate(model.weights)])
    for group, size in units.sizes.items():
        if size < 2:
            continue
        mask = tfp.LayerValues({group: np.arange(size) != 1})
        small = tfp.remove(marked, mask)
        left = np.concatenate([w.numpy().ravel() for w in small.weights if "float" in str(w.dtype)]).astype(int)
        gone = np.setdiff1d(np.flatnonzero(allowed), left)
        place = units.graph[group].start + 1
        assert units.counts[place] == len(gone)
        assert norms[place] == pytest.approx(np.sqrt((numbers[gone] ** 2).sum()), rel=1e-5)


# So that cutting costs nothing ----------------------------------------------------------------------------------------

QUICK = ["siamese"]
GRAPHS = ["mixed_precision", "embedding_mask", "nested_twice", "merges", "several_outputs", "transformer_block"]


@pytest.mark.filterwarnings("ignore:remove. 'heads' adds a bias")
@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in GRAPHS)])
def test_what_is_zero_can_be_cut_at_no_change(name):
    model = NETS[name]()
    inputs = inputs_for(model, batch=16)
    targets = [np.zeros(tensor.shape) for tensor in keras.tree.flatten(model(inputs if len(inputs) > 1 else inputs[0]))]
    model.compile(keras.optimizers.Adam(0.02), ["mse"] * len(targets) if len(targets) > 1 else "mse", jit_compile=False)
    sparsify = SparsifyDuringTraining("group_norm", 3.0)
    x = inputs if len(inputs) > 1 else inputs[0]
    y = targets if len(targets) > 1 else targets[0]
    weights = np.linspace(0.5, 1.5, 16) if len(targets) == 1 else None
    fit(model, [sparsify], x, y, epochs=4, batch_size=2, sample_weight=weights)
    off = sparsify.history[-1].off
    assert sum(off.values()) > 0 and sparsify.history[-1].utilisation < 1
    small = tfp.remove(model, sparsify.mask)
    np.testing.assert_allclose(outputs_of(small, inputs), outputs_of(model, inputs), rtol=1e-3, atol=1e-4)
    assert small.count_params() / model.count_params() == pytest.approx(sparsify.history[-1].utilisation)


def test_datasets_and_weights_of_classes():
    x, _ = data_of()
    y = (x[:, 0] > 0).astype("int64")
    model = keras.Sequential([keras.Input((3,)), layers.Dense(8, "relu", name="hidden"), layers.Dense(2, "softmax")])
    randomise(model).compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
    sparsify = SparsifyDuringTraining("group_norm", 2.0)
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    model.fit(stream, epochs=6, shuffle=False, verbose=0, class_weight={0: 1.0, 1: 3.0}, callbacks=[sparsify])
    off = int((~sparsify.mask["hidden"]).sum())
    assert 0 < off < 8 and sparsify.history[-1].off == {"hidden": off}
    small = tfp.remove(model, sparsify.mask)
    np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(model, [x]), rtol=1e-5, atol=1e-6)


def test_scales_of_zero_leave_constants_to_the_repair():
    x, y = images_of()
    model = norm_net(optimizer=keras.optimizers.SGD(1e-3), **EAGER)
    sparsify = SparsifyDuringTraining("batch_norm_scale", 130.0, layers="first")
    fit(model, [sparsify], x, y, batch_size=8, epochs=2)
    mask = sparsify.mask
    assert 0 < int((~mask["first"]).sum()) < 5
    expected = outputs_of(model, [x])
    differences = {}
    for repair in ("zero", "mean"):
        small = tfp.remove(model, mask, repair=repair, data=np.tile(x, (10, 1, 1, 1)))
        differences[repair] = np.abs(outputs_of(small, [x]) - expected).max()
    assert differences["mean"] < 0.3 * differences["zero"]


# Strength, logs, and what is noted ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (None, [0.2, 0.2, 0.2]),
        (schedules.by_epoch({1: 0.25, 2: 0.5}), [0.0, 0.05, 0.1]),
        (lambda step: 2.0 if step >= 1 else 0.0, [0.0, 0.4, 0.4]),
        ("rising", [0.0, 0.2, 0.4]),
    ],
)
def test_the_strength_follows_its_schedule(schedule, expected):
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(1e-6), **EAGER)
    sparsify = SparsifyDuringTraining("group_norm", 0.2, schedule)
    history = fit(model, [sparsify], x, y, epochs=3).history
    assert [record.strength for record in sparsify.history] == pytest.approx(expected)
    assert [record.epoch for record in sparsify.history] == [1, 2, 3]
    assert history["utilisation"] == [1.0] * 3 and history["sparsity"] == [0.0] * 3


def test_a_penalty_that_pushed_nothing_to_zero_says_so():
    x, y = data_of()
    told = []
    for strength in (1e-4, 2.0, 0.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            fit(dense_net(**EAGER), [SparsifyDuringTraining("group_norm", strength)], x, y, batch_size=8, epochs=4)
        told.append([str(own.message) for own in caught if "no unit is within 0.01 of zero" in str(own.message)])
    assert [len(own) for own in told] == [1, 0, 0]
    assert "after 4 epochs" in told[0][0] and "Give a strength above 0.0001" in told[0][0]


def test_a_rising_strength_waits_while_the_utilisation_falls():
    x, y = data_of()
    model = dense_net(**EAGER)
    sparsify = SparsifyDuringTraining("group_norm", 0.5, "rising")
    fit(model, [sparsify], x, y, batch_size=8, epochs=5)
    before = 1.0
    for record, following in zip(sparsify.history, sparsify.history[1:], strict=False):
        rises = before - record.utilisation < 0.01
        assert following.strength - record.strength == pytest.approx(0.5 if rises else 0.0, abs=1e-6)
        before = record.utilisation
    assert before < 1


def test_logs_reach_the_callbacks_behind(tmp_path):
    x, y = data_of()
    model = dense_net()
    sparsify = SparsifyDuringTraining("group_norm", 0.5, resource="flops")
    fit(model, [sparsify, keras.callbacks.CSVLogger(tmp_path / "log.csv")], x, y, batch_size=4, epochs=3)
    header, *rows = (tmp_path / "log.csv").read_text().split()
    shares = [float(row.split(",")[header.split(",").index("utilisation")]) for row in rows]
    assert shares == [record.utilisation for record in sparsify.history] and shares[-1] < 1
    graph = tfp.unit_groups(model)
    left = tfp.graph.count_flops(graph, sparsify.mask) / tfp.graph.count_flops(graph)
    assert shares[-1] == pytest.approx(left) == sparsify.utilisation_of(sparsify.mask)


# Beside others --------------------------------------------------------------------------------------------------------


def test_beside_pruning():
    x, y = data_of()
    model = dense_net()
    prune = PruneDuringTraining(norm, schedules.by_epoch({0: 0.2}), x, repair="zero")
    sparsify = SparsifyDuringTraining("group_norm", 0.1)
    fit(model, [sparsify, prune], x, y, batch_size=4, epochs=3)
    assert "apply" not in vars(model.optimizer) and not prune.mask["first"].all()
    assert not (sparsify.mask["first"] & ~prune.mask["first"]).any()
    assert sum(sparsify.history[-1].off.values()) >= 2
    small = tfp.remove(model, sparsify.mask)
    np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(model, [x]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_weights_that_come_back_and_checkpoints(first, tmp_path):
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(0.05))
    model.compile(model.optimizer, "mse", jit_compile=False)
    sparsify = SparsifyDuringTraining("group_norm", 1.0)
    others = [
        keras.callbacks.EarlyStopping("val_loss", mode="max", patience=9, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.ReduceLROnPlateau("val_loss", patience=1),
    ]
    order = [sparsify, *others] if first else [*others, sparsify]
    history = fit(model, order, x, y, batch_size=4, epochs=4, validation_data=(x, 3 + y)).history
    best = int(np.argmax(history["val_loss"])) + 1
    for number in range(1, 5):
        saved = keras.models.load_model(tmp_path / f"{number}.keras")
        off = {name: int((~on).sum()) for name, on in sparsify.mask_of(saved).items()}
        assert off == sparsify.history[number - 1].off
        if number == best:
            assert {name: int((~on).sum()) for name, on in sparsify.mask.items()} == off
    small = tfp.remove(model, sparsify.mask)
    np.testing.assert_allclose(outputs_of(small, [x]), outputs_of(model, [x]), rtol=1e-5, atol=1e-6)


def test_a_second_fit_goes_on_and_nothing_is_left_behind():
    x, y = data_of()
    model = dense_net(**EAGER)
    sparsify = SparsifyDuringTraining("group_norm", 0.5)
    for _ in range(2):
        fit(model, [sparsify], x, y, batch_size=8, epochs=2)
        assert "apply" not in vars(model.optimizer)
    assert [record.epoch for record in sparsify.history] == [1, 2, 1, 2]
    left, twin = (dense_net(optimizer=plain_sgd(), **EAGER) for _ in range(2))
    fit(left, [SparsifyDuringTraining("group_norm", 0.0)], x, y)
    fit(twin, [], x, y)
    assert_pairs(pairs_of(left), pairs_of(twin))


def test_frozen_weights_stay():
    x, y = data_of()
    model = dense_net()
    model.get_layer("first").trainable = False
    model.compile(keras.optimizers.SGD(0.1), "mse", **EAGER)
    before = model.get_layer("first").get_weights()
    fit(model, [SparsifyDuringTraining("group_norm", 1.0)], x, y, batch_size=4, epochs=2)
    for one, two in zip(before, model.get_layer("first").get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert not model.get_layer("second").bias.numpy().all()


# Network slimming -----------------------------------------------------------------------------------------------------


def slimming_net():
    def block(h, width):
        h = layers.Conv2D(width, 3, padding="same", use_bias=False)(h)
        return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(h))

    x = keras.Input((8, 8, 1))
    h = block(layers.MaxPooling2D()(block(x, 12)), 16)
    model = keras.Model(x, layers.Dense(10)(layers.GlobalAveragePooling2D()(h)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, 0.9), loss, metrics=["accuracy"], jit_compile=False)
    return model


def test_repairs_lift_network_slimming_before_fine_tuning():
    (x, y), (test_x, test_y) = tfp.datasets.digits()
    model = slimming_net()
    sparsify = SparsifyDuringTraining("batch_norm_scale", 0.01, method="gradient")
    model.fit(x, y, batch_size=32, epochs=6, verbose=0, callbacks=[sparsify])
    mask = tfp.keep_top(saliency.batch_norm_scale(model), 0.2, scope="global")
    accuracy = {"full": model.evaluate(test_x, test_y, verbose=0)[1]}
    for repair in ("zero", "mean", "least_squares"):
        small = tfp.remove(model, mask, repair=repair, data=x)
        accuracy[repair] = small.evaluate(test_x, test_y, verbose=0)[1]
    assert accuracy["full"] > 0.7
    assert accuracy["zero"] + 0.1 < accuracy["mean"] < accuracy["least_squares"] - 0.05
    assert accuracy["least_squares"] > accuracy["full"] - 0.2


# Border ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"penalty": "l1"}, "`penalty` expects one of 'batch_norm_scale', 'group_norm', received 'l1'"),
        ({"strength": -1e-4}, "`strength` expects a finite number of at least 0, received -0.0001"),
        ({"strength": float("nan")}, "`strength` expects a finite number"),
        ({"strength": None}, "`strength` expects a finite number"),
        ({"method": "subgradient"}, "`method` expects one of 'proximal', 'gradient'"),
        ({"threshold": 1.0}, "`threshold` expects a number of at least 0 and below 1"),
        ({"resource": "seconds"}, "`resource` expects one of 'parameters', 'flops'"),
        ({"schedule": "falling"}, "`schedule` knows by name only 'rising', received 'falling'"),
    ],
)
def test_refused_at_once(options, match):
    with pytest.raises(ValueError, match=match):
        SparsifyDuringTraining(**{"penalty": "group_norm", "strength": 0.1} | options)
    with pytest.raises(TypeError, match="one of tfprune.schedules or a function"):
        SparsifyDuringTraining("group_norm", 0.1, 0.5)


def subclassed():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    ("make", "options", "match"),
    [
        (dense_net, {"penalty": "batch_norm_scale"}, "cannot act on 'first', 'second'.*Use penalty='group_norm'"),
        (norm_net, {"penalty": "batch_norm_scale", "layers": ["first", "head"]}, "cannot act on 'head'.*group_norm"),
        (dense_net, {"layers": "frist"}, "Did you mean 'first'"),
        (dense_net, {"schedule": lambda step: -1.0}, "a finite number of at least 0.*after 0 steps it gives -1.0"),
        (dense_net, {"schedule": lambda step: 0.0 if step < 1 else "much"}, "after 1 steps it gives 'much'"),
        (subclassed, {}, "subclassed model"),
    ],
)
def test_refused_when_fit_begins(make, options, match):
    model = make(**EAGER) if make is not subclassed else make()
    data = images_of() if make is norm_net else data_of()
    with pytest.raises(ValueError, match=match):
        fit(
            model, [SparsifyDuringTraining(**{"penalty": "group_norm", "strength": 0.1} | options)], *data, batch_size=8
        )


def test_flops_of_open_lengths_are_refused():
    model = keras.Sequential([keras.Input((None, 3)), layers.LSTM(4), layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="depend on the data"):
        fit(model, [SparsifyDuringTraining("group_norm", 0.1, resource="flops")], np.ones((4, 5, 3)), np.ones((4, 2)))


def test_weights_that_are_not_finite():
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(1e30), **EAGER)
    with pytest.raises(ValueError, match="weights of the units of 'first', 'second' are NaN or infinite"):
        fit(model, [SparsifyDuringTraining("group_norm", 0.1)], x, y, batch_size=4)


def test_nothing_is_known_before_fit():
    sparsify = SparsifyDuringTraining("group_norm", 0.1)
    assert sparsify.mask is None
    with pytest.raises(ValueError, match="`fit` has not begun"):
        sparsify.utilisation_of(tfp.LayerValues({}))
    with pytest.raises(ValueError, match="is not compiled"):
        sparsify.set_model(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
        sparsify.on_train_begin()
