"""remove: what of a model stays as it was around the units that go, and what is refused."""

import keras
import numpy as np
import pytest
from conftest import randomise
from keras import layers
from nets import NETS, inputs_for, outputs_of, paired_net

import tfprune
from tfprune import LayerValues
from tfprune.surgery import remove

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def mask_of(model, keep=0.6):
    """Keeps the first units of every group."""
    sizes = tfprune.unit_groups(model).sizes
    return LayerValues({name: np.arange(size) < max(1, int(size * keep)) for name, size in sizes.items()})


def dense(first=None, x=None, **options):
    """3 -> 6 -> 2; `first` makes the layer with the units."""
    x = keras.Input((3,), name="x") if x is None else x
    first = layers.Dense(6, activation="relu", name="first") if first is None else first
    return randomise(keras.Model(x, layers.Dense(2, name="out")(first(x)), **options))


@pytest.fixture
def data(generator):
    return generator.normal(size=(40, 3)).astype("float32"), generator.normal(size=(40, 2)).astype("float32")


def named(model):
    """All layers, those of nested models included; layers inside other layers have names that Keras makes up."""
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from named(layer)


# Names and structure --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["dense_sequential", "nested_functional", "nested_in_nested", "nested_twice", "several_outputs", "siamese"]
    + ["encoder_decoder_lstm", "attention_cross", "bidirectional_sum", "ops_slices", "time_distributed"],
)
def test_names_classes_and_structure_stay(name):
    model = NETS[name]()
    small = remove(model, mask_of(model))
    assert small.name == model.name
    assert type(small) is type(model)
    old, new = list(named(model)), list(named(small))
    assert [layer.name for layer in old] == [layer.name for layer in new]
    assert [type(layer) for layer in old] == [type(layer) for layer in new]
    assert not {id(layer) for layer in old} & {id(layer) for layer in new}
    assert [tensor.name for tensor in small.inputs] == [tensor.name for tensor in model.inputs]
    assert [variable.path.split("/")[-1] for variable in small.weights] == [
        variable.path.split("/")[-1] for variable in model.weights
    ]
    structures = [getattr(one, "_functional", None) or one for one in (model, small)]
    old, new = (keras.tree.map_structure(lambda _: 0, one._outputs_struct) for one in structures)
    assert old == new


def test_inputs_keep_what_they_were_told():
    x = keras.Input((3,), name="x")
    extra = keras.Input((4,), name="extra", optional=True, dtype="float16")
    whole = keras.Input((5,), name="ids", sparse=True)
    joined = layers.Concatenate()([layers.Dense(6, name="first")(x), layers.Dense(4, name="second")(whole)])
    model = keras.Model({"x": x, "extra": extra, "ids": whole}, layers.Dense(2)(joined))
    small = remove(model, mask_of(model))
    kept = {tensor.name: tensor for tensor in small.inputs}
    assert kept["extra"].dtype == "float16" and kept["ids"].sparse
    inputs = {layer.name: layer for layer in small.layers if isinstance(layer, layers.InputLayer)}
    assert inputs["extra"].optional and not inputs["x"].optional
    assert set(small.input) == {"x", "extra", "ids"}


def test_a_sequential_model_that_was_built_on_data_forgets_the_size_of_the_batch(generator):
    model = keras.Sequential([layers.Dense(5, name="first"), layers.Dense(2)])
    model(np.zeros((7, 3), "float32"))
    small = remove(randomise(model), mask_of(model))
    assert small.input_shape == (None, 3)
    x = generator.normal(size=(4, 3)).astype("float32")
    assert outputs_of(small, [x]).shape == (4, 2)


def test_a_layer_used_inside_and_outside_a_nested_model_stays_one():
    shared = layers.Dense(4, activation="tanh", name="shared")
    u = keras.Input((3,))
    inner = keras.Model(u, layers.Dense(3, name="inside")(shared(u)), name="inner")
    x = keras.Input((3,))
    model = randomise(keras.Model(x, layers.Dense(2)(layers.Concatenate()([shared(x), inner(x)]))))
    small = remove(model, LayerValues({"shared": np.array([True, False, True, True])}))
    assert small.get_layer("shared") is small.get_layer("inner").get_layer("shared")
    assert len(small.weights) == len(model.weights) == 6


def test_tied_variables_stay_tied():
    model = NETS["tied_variables"]()
    small = remove(model, LayerValues({"last": np.arange(5) < 3}))
    assert small.get_layer("first").kernel is small.get_layer("second").kernel
    assert len(small.weights) == len(model.weights)
    small.get_layer("first").kernel.assign(np.zeros((4, 4)))
    assert not small.get_layer("second").kernel.numpy().any()


def test_lambdas_keep_what_they_refer_to(generator):
    factors = generator.normal(size=3).astype("float32")
    x = keras.Input((3,))
    h = layers.Lambda(lambda tensor: tensor * factors, name="scaled")(x)
    model = randomise(keras.Model(x, layers.Dense(2)(layers.Dense(6, "tanh", name="first")(h))))
    data = [generator.normal(size=(5, 3)).astype("float32")]
    masked = outputs_of(tfprune.with_on_nodes(model), data, mask_of(model).flat)
    np.testing.assert_allclose(outputs_of(remove(model, mask_of(model)), data), masked, atol=1e-6)


class WithStep(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, data):
        return {"own": 17.0}


class WithConstructor(keras.Model):
    def __init__(self, width):
        x = keras.Input((3,))
        super().__init__(x, layers.Dense(2)(layers.Dense(width, name="first")(x)))

    def train_step(self, data):
        return {"loss": 18.0}


def test_a_model_class_with_its_own_training_step_stays(data):
    x = keras.Input((3,), name="x")
    model = WithStep(x, layers.Dense(2)(layers.Dense(6, name="first")(x)))
    model.compile("sgd", "mse")
    small = remove(model, mask_of(model))
    assert type(small) is WithStep
    assert small.fit(*data, verbose=0).history == {"own": [17.0]}


def test_a_model_class_with_its_own_constructor_becomes_a_plain_model():
    model = WithConstructor(6)
    with pytest.warns(UserWarning, match="WithConstructor has a constructor of its own"):
        small = remove(model, mask_of(model))
    assert type(small) is type(dense())
    assert small.get_layer("first").units == 3


# Settings of layers ---------------------------------------------------------------------------------------------------


def test_settings_of_layers_stay():
    first = layers.Conv2D(
        6,
        3,
        strides=2,
        padding="same",
        kernel_regularizer=keras.regularizers.L1L2(1e-3, 1e-2),
        bias_regularizer="l2",
        activity_regularizer=keras.regularizers.L2(1e-4),
        kernel_constraint=keras.constraints.MaxNorm(3.0),
        kernel_initializer=keras.initializers.HeNormal(seed=5),
        bias_initializer="ones",
        name="first",
    )
    x = keras.Input((6, 6, 2))
    h = layers.BatchNormalization(momentum=0.7, epsilon=1e-2, beta_regularizer="l1", name="norm")(first(x))
    h = layers.Dropout(0.3, noise_shape=(None, 1, 1, None), seed=11, name="drop")(h)
    model = keras.Model(x, layers.Dense(2)(layers.Flatten()(h)))
    small = remove(model, mask_of(model))
    for old, new in zip(model.layers, small.layers, strict=True):
        changed = {key for key, value in old.get_config().items() if new.get_config()[key] != value}
        assert changed == ({"filters"} if old is first else set())
    assert float(small.losses[0]) > 0
    assert len(small.losses) == len(model.losses)


def test_settings_that_are_plain_functions_stay(generator):
    """They are in no registry, so a configuration alone could not bring them back."""
    first = layers.Dense(
        6,
        activation=lambda z: keras.ops.tanh(z) + 0.5,
        kernel_regularizer=lambda w: 0.25 * keras.ops.sum(w**2),
        kernel_constraint=lambda w: w,
        name="first",
    )
    try:
        model = dense(first)
    except ValueError as error:
        assert "Invalid value for attribute `regularizer`" in str(error)
        pytest.skip("Keras 3.8 takes no plain function as a regularizer")
    small = remove(model, mask_of(model))
    new = small.get_layer("first")
    assert new.activation is first.activation and new.kernel_constraint is first.kernel_constraint
    assert float(small.losses[0]) == pytest.approx(0.25 * np.sum(new.kernel.numpy() ** 2), rel=1e-5)
    x = [generator.normal(size=(5, 3)).astype("float32")]
    masked = outputs_of(tfprune.with_on_nodes(model), x, mask_of(model).flat)
    np.testing.assert_allclose(outputs_of(small, x), masked, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64", "float16"])
def test_policies_stay_whatever_the_global_one(policy):
    x = keras.Input((3,), dtype="float64" if policy == "float64" else "float32")
    h = layers.Dense(6, dtype=policy, name="first")(x)
    model = keras.Model(x, layers.Dense(2, dtype="float32", name="out")(h))
    keras.config.set_dtype_policy("bfloat16")
    try:
        small = remove(model, mask_of(model))
    finally:
        keras.config.set_dtype_policy("float32")
    for old, new in zip(model.layers, small.layers, strict=True):
        assert new.dtype_policy.name == old.dtype_policy.name or isinstance(old, layers.InputLayer)
        assert new.compute_dtype == old.compute_dtype or isinstance(old, layers.InputLayer)
        assert [variable.dtype for variable in new.weights] == [variable.dtype for variable in old.weights]


@pytest.mark.parametrize("frozen", [["a"], ["inner"], ["norm"], ["inner", "out"], ["both"], [""]])
def test_frozen_stays_frozen_and_the_rest_does_not(frozen):
    x = keras.Input((4, 3))
    inner = keras.Sequential([keras.Input((4, 3)), layers.Dense(5, name="a"), layers.Dense(4, name="b")], name="inner")
    h = layers.BatchNormalization(name="norm")(inner(x))
    h = layers.Bidirectional(layers.LSTM(3), name="both")(h)
    model = keras.Model(x, layers.Dense(2, name="out")(h))
    for layer in list(model._flatten_layers()):
        if layer.name in frozen or (frozen == [""] and layer is model):
            layer.trainable = False
    flags = [layer.trainable for layer in model._flatten_layers()]
    assert not all(flags)
    small = remove(model, mask_of(model))
    assert [layer.trainable for layer in small._flatten_layers()] == flags
    assert len(small.trainable_variables) == len(model.trainable_variables)


def test_random_generators_go_on_where_they_were(data):
    h = keras.Input((3,), name="x")
    out = layers.Dense(2)(layers.GaussianNoise(0.3)(layers.Dropout(0.4)(layers.Dense(6, name="first")(h))))
    model = randomise(keras.Model(h, out))
    for _ in range(3):
        model(data[0], training=True)
    small = remove(model, LayerValues({"first": np.ones(6, bool)}))
    for _ in range(2):
        np.testing.assert_allclose(small(data[0], training=True), model(data[0], training=True), atol=1e-6)


# Compiled models ------------------------------------------------------------------------------------------------------


class Unregistered(keras.metrics.Metric):
    def __init__(self, factor, name="unregistered"):
        super().__init__(name=name)
        self.factor = factor
        self.total = self.add_weight(name="total", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.total.assign_add(self.factor * keras.ops.mean(keras.ops.abs(y_true - y_pred)))

    def result(self):
        return self.total


class Copyable(Unregistered):
    def get_config(self):
        return {"factor": self.factor, "name": self.name}


def checked_evaluation(model, x, y):
    """Cuts and evaluates; the masked model, evaluated by hand, must have the same mean absolute error."""
    small = remove(model, mask_of(model))
    assert small.compiled
    return small, small.evaluate(x, y, verbose=0, return_dict=True)


def test_a_model_that_is_not_compiled_stays_so():
    small = remove(dense(), mask_of(dense()))
    assert not small.compiled


def test_compiled_with_strings(data):
    model = dense()
    model.compile("adam", "mse", metrics=["mae", "mse"], weighted_metrics=["mae"], steps_per_execution=2)
    small, found = checked_evaluation(model, *data)
    errors = outputs_of(small, [data[0]]) - data[1]
    assert found["loss"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert found["mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    assert small.steps_per_execution == 2
    assert isinstance(small.optimizer, keras.optimizers.Adam) and small.optimizer is not model.optimizer


def test_compiled_with_functions_and_unregistered_classes(data):
    model = dense()
    model.compile(
        keras.optimizers.SGD(0.03, momentum=0.8),
        lambda y, z: 3.0 * keras.ops.mean((y - z) ** 2),
        metrics=[Copyable(2.0)],
    )
    model.fit(*data, epochs=1, verbose=0)
    small, found = checked_evaluation(model, *data)
    errors = outputs_of(small, [data[0]]) - data[1]
    assert found["loss"] == pytest.approx(3 * np.mean(errors**2), rel=1e-4)
    assert found["unregistered"] > 0
    assert small.optimizer.get_config()["momentum"] == 0.8
    assert int(small.optimizer.iterations) == 0
    assert float(model.optimizer.learning_rate) == pytest.approx(0.03)


def test_a_metric_that_cannot_be_copied_is_shared_and_said_so(data):
    model = dense()
    model.compile("sgd", "mse", metrics=[Unregistered(2.0)])
    with pytest.warns(UserWarning, match="metric 'unregistered' cannot be copied"):
        remove(model, mask_of(model))


def test_compiled_with_losses_by_output(generator):
    model = NETS["several_outputs"]()
    model.compile(
        "sgd",
        loss={"one": "mse", "two": keras.losses.Huber(0.3), "raw": "mae"},
        loss_weights={"one": 2.0, "two": 0.5, "raw": 1.0},
        metrics={"two": ["mae"]},
    )
    x = inputs_for(model, 20)
    y = {name: generator.normal(size=(20, width)) for name, width in {"one": 2, "two": 1, "raw": 4}.items()}
    small = remove(model, mask_of(model))
    found = small.evaluate(x, y, verbose=0, return_dict=True)
    outputs = {name: np.asarray(value) for name, value in small(x).items()}
    error = np.abs(outputs["two"] - y["two"])
    huber = np.where(error < 0.3, 0.5 * error**2, 0.3 * error - 0.045).mean()
    squares, raw = np.mean((outputs["one"] - y["one"]) ** 2), np.mean(np.abs(outputs["raw"] - y["raw"]))
    assert found["loss"] == pytest.approx(2 * squares + 0.5 * huber + raw, rel=1e-4)
    assert small.fit(x, y, epochs=1, verbose=0).history["loss"][0] > 0


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(1e-2, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.1),
    "momentum": lambda: keras.optimizers.SGD(1e-2, momentum=0.9, nesterov=True),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-2, momentum=0.5, centered=True),
    "adagrad": lambda: keras.optimizers.Adagrad(1e-2),
    "averaged": lambda: keras.optimizers.Adam(1e-2, use_ema=True, ema_overwrite_frequency=3),
    "schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(1e-2, 100), momentum=0.9),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2), initial_scale=64.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_of_the_optimizer_are_cut_like_the_weights(name, data):
    model = dense()
    model.compile(OPTIMIZERS[name](), "mse")
    model.fit(*data, batch_size=10, epochs=1, verbose=0)
    mask = LayerValues({"first": np.array([True, False, True, False, True, True])})
    small = remove(model, mask, keep_optimizer=True)
    assert len(model.optimizer.variables) == len(small.optimizer.variables)
    cut = 0
    for slot, new in zip(model.optimizer.variables, small.optimizer.variables, strict=True):
        # Not every version of Keras names each slot after its weight; here shapes tell them apart.
        expected = slot.numpy()
        if slot.shape in ((3, 6), (6,)):
            expected = expected[..., mask["first"]]
        elif slot.shape == (6, 2):
            expected = expected[mask["first"]]
        cut += expected.shape != slot.shape
        assert path_of(new) == path_of(slot)
        np.testing.assert_array_equal(new, expected, err_msg=slot.path)
    assert cut >= 3
    # In Keras 3.8 an optimizer around another one does not count.
    assert int(getattr(small.optimizer, "inner_optimizer", small.optimizer).iterations) == 4


def path_of(slot):
    """The optimizer inside another one gets a longer path when it is built by training."""
    return slot.path.removeprefix("loss_scale_optimizer/") if "adam" in slot.path else slot.path


def test_moments_of_another_shape_start_anew(data):
    model = dense(layers.Dense(200, name="first"))
    model.compile(keras.optimizers.Adafactor(1e-2), "mse")
    model.fit(*data, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match="moments of Adafactor are not shaped like the weights"):
        small = remove(model, mask_of(model), keep_optimizer=True)
    assert np.isfinite(small.fit(*data, epochs=1, verbose=0).history["loss"][0])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_nothing_had_happened(name, data):
    """A unit that nothing reads and that reads nothing can go without a trace in the others' training."""
    model = dense()
    first, out = model.get_layer("first"), model.get_layer("out")
    for variable, unit in ((first.kernel, np.s_[:, 2]), (first.bias, np.s_[2]), (out.kernel, np.s_[2])):
        value = variable.numpy()
        value[unit] = 0.0
        variable.assign(value)
    model.compile(OPTIMIZERS[name](), "mse")
    model.fit(*data, batch_size=10, epochs=1, shuffle=False, verbose=0)
    kept = np.arange(6) != 2
    small = remove(model, LayerValues({"first": kept}), keep_optimizer=True)
    for one in (model, small):
        one.fit(*data, batch_size=10, epochs=1, shuffle=False, verbose=0)
    np.testing.assert_allclose(small.get_layer("first").kernel, first.kernel.numpy()[:, kept], atol=1e-6)
    np.testing.assert_allclose(small.get_layer("out").kernel, out.kernel.numpy()[kept], atol=1e-6)


def test_training_in_mixed_precision_goes_on(data):
    x = keras.Input((3,))
    h = layers.Dense(6, "relu", dtype="mixed_float16", name="first")(x)
    model = randomise(keras.Model(x, layers.Dense(2, dtype="float32")(h)))
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-2)), "mse")
    model.fit(*data, epochs=2, verbose=0)
    small = remove(model, mask_of(model), keep_optimizer=True)
    assert isinstance(small.optimizer, keras.optimizers.LossScaleOptimizer)
    before = small.evaluate(*data, verbose=0)
    assert small.fit(*data, epochs=20, verbose=0).history["loss"][-1] < before


def test_without_keep_optimizer_it_starts_anew(data):
    model = dense()
    model.compile("adam", "mse")
    model.fit(*data, epochs=1, verbose=0)
    assert int(remove(model, mask_of(model)).optimizer.iterations) == 0
    with pytest.raises(ValueError, match="model .* is not compiled, so it has no optimizer"):
        remove(dense(), mask_of(dense()), keep_optimizer=True)


# Layers of one's own --------------------------------------------------------------------------------------------------


class Scaled(layers.Layer):
    """A dense layer whose weights have other names; registered below."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width

    def build(self, shape):
        self.table = self.add_weight(shape=(shape[-1], self.width), name="table")
        self.scale = self.add_weight(shape=(self.width,), name="scale")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.table) * self.scale

    def get_config(self):
        return {**super().get_config(), "width": self.width}


@tfprune.graph.register(Scaled)
def scaled(step, inputs):
    rows, units = step.contract(inputs), step.emit(step.operation.width)
    step.weight(step.operation.table, rows, units)
    step.weight(step.operation.scale, units)
    step.size("width", units)
    return inputs.replaced(-1, units)


class Silent(Scaled):
    """Does not say its width."""

    def get_config(self):
        return layers.Layer.get_config(self)


tfprune.graph.register(Silent)(scaled)


def test_registered_layers_are_cut(generator):
    model = dense(Scaled(6, name="first"))
    x = [generator.normal(size=(5, 3)).astype("float32")]
    small = remove(model, mask_of(model))
    assert small.get_layer("first").width == 3
    masked = outputs_of(tfprune.with_on_nodes(model), x, mask_of(model).flat)
    np.testing.assert_allclose(outputs_of(small, x), masked, atol=1e-6)


def test_layers_that_cannot_be_built_anew_are_named():
    model = dense(Silent(6, name="first"))
    with pytest.raises(ValueError, match=r"'first' \(Silent\) cannot be built anew from its get_config\(\)"):
        remove(model, mask_of(model))


class Walled(layers.Layer):
    """Not in the table, and without a get_config that says all."""

    def __init__(self, factor):
        super().__init__(name="walled")
        self.factor = factor

    def call(self, inputs):
        return self.factor * inputs


def test_unknown_layers_are_opened(generator):
    x = keras.Input((3,))
    h = Walled(2.0)(layers.Dense(4, name="before")(x))
    model = keras.Model(x, layers.Dense(2)(layers.Dense(5, name="goes")(h)))
    assert tfprune.unit_groups(model).names == ("before", "goes")
    small = remove(model, mask_of(model))
    data = [generator.normal(size=(5, 3)).astype("float32")]
    masked = outputs_of(tfprune.with_on_nodes(model), data, mask_of(model).flat)
    np.testing.assert_allclose(outputs_of(small, data), masked, atol=1e-6)


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        ({"frist": np.ones(5, bool)}, ValueError, "unknown groups.*first"),
        ({"first": np.ones((3, 5), bool)}, ValueError, r"shape \(3, 5\).*zero_weights\(model, mask\)"),
        ({"out": np.ones(2, bool)}, ValueError, "units of 'out' cannot be removed"),
        ({"first": np.ones(4, bool)}, ValueError, r"first.*5"),
        ({"first": np.zeros(5, bool)}, ValueError, "all 5 units of group 'first' are off.*Keep at least one"),
        ({"first": np.ones(5)}, TypeError, "bool"),
        (np.ones(9, bool), TypeError, "mapping"),
        (None, TypeError, "received None"),
    ],
)
def test_masks_that_do_not_fit(mask, error, message, dense_net):
    with pytest.raises(error, match=message):
        remove(dense_net, mask)


def test_sides_of_unequal_width():
    model = paired_net()
    graph = tfprune.unit_groups(model)
    one, other, _ = graph.records.equal[0]
    mask = np.ones(graph.num_units, bool)
    mask[graph.columns(one)[0]] = False
    with pytest.raises(ValueError, match="first: both sides .*3 and 4 would stay. Keep equal numbers"):
        remove(model, LayerValues.from_flat(mask, graph.sizes))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = layers.Dense(4, name="first")

    def call(self, inputs):
        return self.first(inputs)


class Counting(Subclassed):
    def call(self, inputs):
        return self.first(inputs) * float(np.asarray(inputs).max())


def test_models_whose_graph_cannot_be_read(dense_net):
    mask = LayerValues({"first": np.arange(5) < 3})
    with pytest.raises(ValueError, match=r"subclassed model \(Subclassed\) that is not built.*Call it on data once"):
        remove(Subclassed(), mask)
    counting = Counting()
    counting(np.zeros((1, 3), "float32"))
    reason = r"code cannot be followed: surgery/test_surgery.py, line \d+.*keras.Model\(inputs, model.call\(inputs\)\)"
    with pytest.raises(ValueError, match=reason):
        remove(counting, mask)
    with pytest.raises(ValueError, match="not built, so its shapes are unknown"):
        remove(keras.Sequential([layers.Dense(3)]), mask)
    with pytest.raises(TypeError, match="expected a keras.Model, received Dense"):
        remove(layers.Dense(3), mask)
    with pytest.raises(ValueError, match="has an input 'on_nodes' already"):
        remove(tfprune.with_on_nodes(dense_net), mask)


def test_a_subclassed_model_made_functional_as_the_message_says(generator):
    subclassed = Subclassed()
    inputs = keras.Input((3,))
    model = keras.Model(inputs, subclassed.call(inputs))
    assert tfprune.unit_groups(model).fixed["first"][0] == 4


def test_data_that_do_not_fit(dense_net):
    mask = LayerValues({"first": np.arange(5) < 3})
    for data, message in (
        (np.zeros((0, 3)), "empty"),
        (np.full((300, 3), np.inf), "infinite|finite"),
        (np.zeros((300, 7)), r"expects the shape"),
        ([np.zeros((300, 3)), np.zeros((300, 3))], "input"),
        ("words", "data|array|input"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            remove(dense_net, mask, repair="mean", data=data)
