"""What a user gets to read: a table of mistakes, each made at every function where it can be made."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfprune as tfp
from tfprune import distinctiveness, experiments, relevance, repair, saliency, schedules, statistics, training
from tfprune.graph import count_flops, register, table, unit_groups

NUM_SAMPLES = 12
X = np.random.default_rng(0).normal(size=(NUM_SAMPLES, 3)).astype("float32")
Y = np.arange(NUM_SAMPLES) % 2
ONE_HOT = np.eye(2, dtype="float32")[Y]


def made(loss="sparse_categorical_crossentropy"):
    net = keras.Sequential(
        [keras.Input((3,)), layers.Dense(4, "relu", name="hidden"), layers.Dense(2, "softmax", name="out")]
    )
    net.compile("sgd", loss=loss)
    return net


@pytest.fixture(scope="module")
def net():
    return made()


def of_weights(name):
    return lambda net, *data, **options: getattr(saliency.weights, name)(net, *data, **options)


def fit(make):
    """A callback, which looks at its arguments when training begins."""
    return lambda net, data, **options: net.fit(*data, callbacks=[make(data, **options)], verbose=0)


# All functions that take a model and data, called as `function(model, data, **options)`.
SALIENCIES = {f"saliency.{name}": getattr(saliency, name) for name in saliency.__all__ if name != "weights"}
WEIGHTS = {
    f"weights.{name}": of_weights(name)
    for name in ("magnitude", "taylor1", "taylor2", "hessian", "loss_change", "random")
}
DISTINCTIVENESS = {
    name: getattr(distinctiveness, name) for name in ("angles", "similar_pairs", "complementary_pairs", "plan", "prune")
}
STATISTICS = {name: getattr(statistics, name) for name in ("unit_statistics", "exit_means")}
SWEEPS = {
    "sweep": lambda net, *data, **options: tfp.sweep(net, *data, np.ones((1, 4)), progress=False, **options),
    "random_subsets": lambda net, *data, **options: experiments.random_subsets(
        net, *data, probability=0.5, num_subsets=2, seed=0, **options
    ),
    "flip_paths": lambda net, *data, **options: experiments.flip_paths(net, *data, num_paths=2, seed=0, **options),
}
OTHERS = {
    "point_gradients": experiments.point_gradients,
    "explain": relevance.explain,
    "compare": lambda net, *data, **options: tfp.compare(net, net, *data, latency_runs=0, **options),
}
CALLBACKS = {
    "SparsifyDuringTraining": fit(
        lambda data, **options: training.SparsifyDuringTraining("group_norm", 0.1, **options)
    ),
    "LivenessMonitor": fit(training.LivenessMonitor),
    "PruneDuringTraining": fit(
        lambda data, **options: training.PruneDuringTraining(
            saliency.weight_norm, schedules.constant(0.5), data, **options
        )
    ),
}
TAKE_DATA = SALIENCIES | WEIGHTS | DISTINCTIVENESS | STATISTICS | SWEEPS | OTHERS
TAKE_LAYERS = SALIENCIES | WEIGHTS | DISTINCTIVENESS | STATISTICS | SWEEPS | CALLBACKS
LOOK_AT_LOSS = {
    name: TAKE_DATA[name]
    for name in (
        *(f"saliency.{own}" for own in ("loss_change", "mean_replacement", "mean_replacement_penalty")),
        *("saliency.on_nodes_gradient", "weights.taylor1", "weights.hessian", "weights.loss_change"),
        *("sweep", "random_subsets", "point_gradients", "compare"),
    )
}
# Where no data are looked at, none can fail.
READ_DATA = {
    name: call
    for name, call in TAKE_DATA.items()
    if name.rpartition(".")[2] not in ("weight_norm", "batch_norm_scale", "random", "magnitude", "nonzero_fraction")
}
READ_DATA["remove"] = lambda net, data: tfp.remove(net, {"hidden": [1, 1, 0, 1]}, repair="mean", data=data)
READ_DATA["remove_dead"] = tfp.remove_dead


def each(calls):
    return pytest.mark.parametrize("call", [pytest.param(call, id=name) for name, call in calls.items()])


@each(TAKE_DATA)
def test_inputs_and_targets_as_two_values(net, call):
    message = r"expected at most \d values by position \(model.*Inputs and targets are one value: (data|x)=\(x, y\)"
    with pytest.raises(TypeError, match=message):
        call(net, X, Y)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda net: tfp.remove(net, {"hidden": [1, 1, 0, 1]}, "mean"),
            TypeError,
            r"\(model, mask\), received 3.*repair",
        ),
        (lambda net: unit_groups(net, X), TypeError, r"at most 1 values by position \(model\), received 2"),
        (lambda net: tfp.remove_dead(net, X, Y), TypeError, r"expected a number, received ndarray.*data=\(x, y\)"),
        (
            lambda net: training.shrink_while_training(net, X, Y, saliency.weight_norm, epochs=1),
            TypeError,
            r"received an array of the shape \(12,\).*data=\(x, y\)",
        ),
        (lambda net: saliency.weight_norm(net, layer="hidden"), TypeError, r"'layer' \(did you mean 'layers'\?\)"),
    ],
)
def test_other_calls_that_do_not_fit(net, call, error, message):
    with pytest.raises(error, match=message):
        call(net)


@each(TAKE_LAYERS)
@pytest.mark.parametrize("several", [True, False])
def test_a_layer_in_the_place_of_its_name(net, call, several):
    layer = net.layers[0]
    with pytest.raises(TypeError, match=r"expected a name or several, received <Dense.*layers=\['hidden'\]"):
        call(net, (X, Y), layers=[layer] if several else layer)


NAMED = {
    "remove": lambda net, layer: tfp.remove(net, {layer: [1, 1, 0, 1]}),
    "zero_weights": lambda net, layer: tfp.zero_weights(net, {layer: np.ones((3, 4), bool)}),
    "with_on_nodes": lambda net, layer: tfp.with_on_nodes(net, [layer]),
    "replacement": lambda net, layer: tfp.with_on_nodes(net, replacement={layer: np.ones(4)}),
    "masks": lambda net, layer: tfp.sweep(net, (X, Y), {layer: [1, 1, 0, 1]}),
    "on_nodes": lambda net, layer: unit_groups(net).on_nodes({layer: [1, 1, 0, 1]}),
    "graph": lambda net, layer: unit_groups(net)[layer],
    "keep_top": lambda net, layer: tfp.keep_top({layer: [1.0, 2.0]}, 0.5),
    "keep_budget": lambda net, layer: tfp.keep_budget(net, {layer: np.ones(4)}, parameters=0.5),
    "merge": lambda net, layer: tfp.remove(
        net, {"hidden": [0, 1, 1, 1]}, repair=repair.merge([repair.Merged(layer, 0, 1)])
    ),
    "by_name": lambda net, layer: relevance.explain(
        net, X, method=relevance.Composite(by_name={layer: relevance.rules.Flat()})
    ),
}


@pytest.mark.parametrize("call", NAMED.values(), ids=list(NAMED))
def test_a_layer_in_the_place_of_a_key(net, call):
    with pytest.raises((TypeError, ValueError, KeyError), match=r"<Dense name=hidden.*(G|g)ive.*'hidden'"):
        call(net, net.layers[0])


def test_masks_of_0_and_1_are_masks(net):
    """The same result as the mask of bool, wherever a mask is taken."""
    on = np.array([True, False, True, True])
    kernel = np.array([[True, False, True, True]] * 3)
    graph, masked = unit_groups(net), tfp.with_on_nodes(net)
    for dtype in (int, "uint8", "int8"):
        own = tfp.LayerValues({"hidden": on.astype(dtype)})
        small, expected = tfp.remove(net, own), tfp.remove(net, {"hidden": on})
        np.testing.assert_array_equal(small(X), expected(X))
        np.testing.assert_array_equal(masked([X, graph.on_nodes(own)]), masked([X, on[None]]))
        np.testing.assert_array_equal(masked([X, on[None].astype(dtype)]), masked([X, on[None]]))
        losses = [
            tfp.sweep(net, (X, Y), masks, progress=False).losses
            for masks in ([own], own, on[None].astype(dtype), on[None], {"hidden": on})
        ]
        assert np.ptp(losses) == 0 and np.isfinite(losses).all()
        zeroed = tfp.zero_weights(net, {"hidden": kernel.astype(dtype)})
        np.testing.assert_array_equal(zeroed.layers[0].kernel, net.layers[0].kernel * kernel)
        assert count_flops(graph, own) == count_flops(graph, on.astype(dtype)) == count_flops(graph, on)
        outputs = experiments.masked_outputs(net, X, on[None].astype(dtype)).outputs[0]
        np.testing.assert_allclose(outputs, expected(X), rtol=1e-5)
        callback = training.PruneDuringTraining(saliency.weight_norm, schedules.constant(0.25), (X, Y), mask=own)
        copy = keras.models.clone_model(net)
        copy.compile("sgd", loss="sparse_categorical_crossentropy")
        copy.fit(X, Y, callbacks=[callback], verbose=0)
        assert callback.mask["hidden"].dtype == bool and callback.mask["hidden"].tolist() == on.tolist()


POSITIONS, SCORES = np.array([0, 1, 2, 3]), np.array([0.0, 1.0, 1.0, 1.0])
TAKE_MASKS = {
    "remove": lambda net, mask: tfp.remove(net, {"hidden": mask}),
    "count_flops": lambda net, mask: count_flops(unit_groups(net), mask),
    "zero_weights": lambda net, mask: tfp.zero_weights(net, {"hidden": np.tile(mask, (3, 1))}),
}


@pytest.mark.parametrize("call", TAKE_MASKS.values(), ids=list(TAKE_MASKS))
def test_positions_and_scores_are_no_masks(net, call):
    with pytest.raises(TypeError, match=r"integers 0 and 1, received int64 with the value 2.*np.isin\(np.arange"):
        call(net, POSITIONS)
    with pytest.raises(TypeError, match=r"integers 0 and 1, received float64. Compare.*values.astype\(bool\)"):
        call(net, SCORES)


ROWS = {
    "sweep": lambda net, mask: tfp.sweep(net, (X, Y), mask[None]),
    "masked_outputs": lambda net, mask: experiments.masked_outputs(net, X, mask[None]),
    "on_nodes": lambda net, mask: unit_groups(net).on_nodes({"hidden": mask}),
}


@pytest.mark.parametrize("call", ROWS.values(), ids=list(ROWS))
def test_positions_are_no_rows(net, call):
    """Rows of floats may hold fractions, so that they are taken."""
    with pytest.raises(TypeError, match="integers 0 and 1, received int64 with the value 2"):
        call(net, POSITIONS)
    call(net, SCORES)


MISSPELT = (
    r"Keras has no such loss for output 'out'. Unknown: 'spase_categorical_crossentropy' "
    r"\(did you mean 'sparse_categorical_crossentropy'"
)
LOSSES = [
    ("spase_categorical_crossentropy", Y, MISSPELT),
    (3, Y, r"expected a name, a function or a keras.losses.Loss for output 'out', received 3 of type int"),
    (
        "categorical_crossentropy",
        Y,
        r"output 'out' has a categorical loss, .* of the shape \(samples, 2\); received the shape \(12,\).*"
        r"to_categorical\(y, 2\), or compile with the loss SparseCategoricalCrossentropy",
    ),
    (keras.losses.CategoricalCrossentropy(), Y[:, None], r"received the shape \(12, 1\).*to_categorical\(y, 2\)"),
    ("sparse_categorical_crossentropy", ONE_HOT, r"received the shape \(12, 2\).*y.argmax\(axis=-1\)"),
    (keras.losses.SparseCategoricalCrossentropy(), Y + 1, r"from 0 to 1; received 2 at index \(1,\)"),
    ("mse", ONE_HOT[:, :1].repeat(3, axis=1), r"targets of the shape \(samples, 2\); received the shape \(12, 3\)"),
]


@each(LOOK_AT_LOSS)
@pytest.mark.parametrize(("loss", "targets", "message"), LOSSES)
def test_losses_and_their_targets(net, call, loss, targets, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        call(net, (X, targets), loss=loss)
    assert len(str(caught.value)) < 1500


@each(LOOK_AT_LOSS)
def test_a_misspelt_loss_that_was_compiled(call):
    with pytest.raises(ValueError, match=MISSPELT):
        call(made("spase_categorical_crossentropy"), (X, Y))


class Torn(Exception):
    """An exception of the user's own."""


class TornPages(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        if number == 2:
            raise Torn("page 7 is torn")
        return X[:4], Y[:4]


@each(READ_DATA)
def test_data_that_raise_in_the_middle(net, call):
    with pytest.raises(Torn, match="page 7 is torn") as caught:
        call(net, TornPages())
    assert caught.value.__notes__ == ["Data, batch 2: this was raised by the data themselves, while they were read."]


@pytest.mark.parametrize(
    ("error", "expected", "message"),
    [
        (Torn("page 7 is torn"), RuntimeError, "Data, batch 2: the dataset raised Torn: page 7 is torn"),
        (OSError("page 7 is torn"), OSError, "Data, batch 2: the dataset raised this: page 7 is torn"),
        (ValueError("page 7 is torn"), ValueError, "Data, batch 2: the dataset raised this: page 7 is torn"),
        (KeyboardInterrupt("page 7"), RuntimeError, "Data, batch 2: the dataset raised KeyboardInterrupt: page 7"),
    ],
)
def test_generators_inside_tensorflow(net, error, expected, message):
    def pages():
        yield X[:4]
        yield X[:4]
        raise error

    data = tf.data.Dataset.from_generator(pages, output_signature=tf.TensorSpec((4, 3)))
    with pytest.raises(expected, match=rf"^{message} \(.*test_messages.py, line \d+\)$") as caught:
        saliency.activation_std(net, data)
    assert type(caught.value) is expected and caught.value.__cause__ is None


def test_operations_that_fail_inside_a_dataset(net):
    data = tf.data.Dataset.from_tensor_slices(X).map(lambda x: tf.debugging.check_numerics(x / 0, "division")).batch(4)
    with pytest.raises(RuntimeError, match="^Data, batch 0: the dataset raised division : Tensor had Inf"):
        saliency.activation_std(net, data)


def test_a_stop_iteration_is_no_end_of_the_data(net):
    class Stops(TornPages):
        def __getitem__(self, number):
            if number == 2:
                raise StopIteration
            return X[:4], Y[:4]

    with pytest.raises(RuntimeError, match="StopIteration"):
        saliency.activation_std(net, Stops())


class OwnDense(layers.Layer):
    """A dense layer whose kernel is called `table`."""

    def __init__(self, width, **options):
        super().__init__(**options)
        self.width = width

    def build(self, input_shape):
        self.table = self.add_weight(shape=(self.width, input_shape[-1]))

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.table))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.width)

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def raises(*values, **options):
    raise ZeroDivisionError("half a unit")


def row(**wrong):
    """A row for OwnDense in which one thing is wrong."""

    def read(step, inputs):
        units, rows = step.emit(step.operation.width), step.contract(inputs)
        axes = {"transposed": (rows, units), "short": (units,), "no ids": (units, "rows")}
        step.weight(step.operation.table, *axes.get(wrong.get("weight"), (units, rows)), rescale=wrong.get("rescale"))
        step.size(wrong.get("size", "width"), units, wrong.get("change", lambda old, kept: int(kept.sum())))
        if "twin" in wrong:
            step.twin(wrong["twin"], units)
        outputs = {"longer": inputs.replaced(-1, rows), "two": [inputs.replaced(-1, units)] * 2}
        return outputs.get(wrong.get("output"), inputs.replaced(-1, units))

    return read


def cut(net):
    return tfp.remove(net, {"own": [1, 0, 1, 1, 1]})


WRONG_ROWS = [
    ({"weight": "transposed"}, unit_groups, r"read the call of 'own': .*expects 5 ids along axis 0, received 6"),
    ({"weight": "short"}, unit_groups, r"read the call of 'own': .*for each of its 2 axes; received 1"),
    ({"weight": "no ids"}, unit_groups, r"read the call of 'own': .*or None along axis 1; received 'rows'"),
    ({"output": "longer"}, unit_groups, r"read the call of 'own': an output .*expects 5 ids along axis 1, received 6"),
    ({"output": "two"}, unit_groups, r"read the call of 'own': .*each of the 1 outputs; received 2"),
    ({"twin": "twin"}, unit_groups, r"read the call of 'own': .*expected the class of a layer, received 'twin'"),
    (
        {"twin": raises.__class__},
        tfp.with_on_nodes,
        r"row for OwnDense has told for 'own' a twin for masked models that",
    ),
    ({"change": raises}, cut, r"row for OwnDense has told for 'own' a change of the size .*ZeroDivisionError: half a"),
    ({"rescale": raises}, cut, r"row for OwnDense has told for 'own' a `rescale` .*ZeroDivisionError: half a unit"),
    ({"size": "witdh"}, cut, r"remove: 'own' \(OwnDense\) cannot be built anew from its get_config\(\): 'witdh'"),
]


@pytest.mark.parametrize(("wrong", "use", "message"), WRONG_ROWS)
def test_rows_of_users_that_are_wrong(monkeypatch, wrong, use, message):
    monkeypatch.setattr(table, "_table", dict(table._table))
    register(OwnDense)(row(**wrong))
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(6, name="first"), OwnDense(5, name="own"), layers.Dense(2)]
    )
    with pytest.raises((TypeError, ValueError), match=message):
        use(model)


def test_a_right_row_still_works(monkeypatch):
    monkeypatch.setattr(table, "_table", dict(table._table))
    register(OwnDense)(row())
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(6, name="first"), OwnDense(5, name="own"), layers.Dense(2)]
    )
    mask = {"own": [1, 0, 1, 1, 1], "first": [1, 1, 0, 0, 1, 1]}
    row_of_mask = unit_groups(model).on_nodes(mask)
    np.testing.assert_allclose(tfp.remove(model, mask)(X), tfp.with_on_nodes(model)([X, row_of_mask]), rtol=1e-5)


def test_a_count_of_operations_that_fails(monkeypatch):
    from tfprune.graph import flops_table, register_flops

    monkeypatch.setattr(flops_table, "_table", dict(flops_table._table))
    register_flops(OwnDense)(raises)
    model = keras.Sequential([keras.Input((3,)), OwnDense(5, name="own"), layers.Dense(2)])
    with pytest.raises(TypeError, match=r"row for OwnDense has told for 'own' how many operations.*half a unit"):
        count_flops(unit_groups(model))


@pytest.fixture
def retraced(caplog):
    """The warnings of TensorFlow that something is traced too often."""
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.WARNING, logger=logger.name):
        yield lambda: [own.getMessage() for own in caplog.records if "retracing" in own.getMessage()]
    logger.removeHandler(caplog.handler)


@pytest.mark.filterwarnings("ignore:data. saliency.least_squares has")
def test_a_session_says_nothing_of_retracing(retraced):
    """Ten calls with batches of other sizes, as in a loop of a notebook."""
    net = made()
    for number in range(10):
        some = slice(0, NUM_SAMPLES - number)
        data = X[some], Y[some]
        for name in ("activation_std", "on_nodes_gradient", "mean_replacement", "least_squares", "relevance"):
            getattr(saliency, name)(net, data)
        saliency.weights.taylor1(net, data)
        tfp.sweep(net, data, np.ones((number + 1, 4)), progress=False)
        relevance.explain(net, data[0])
        experiments.point_gradients(net, data)
        experiments.masked_outputs(net, data[0], np.ones((1, 4)))
        distinctiveness.angles(net, data)
    assert retraced() == []


def test_a_loop_over_models_says_nothing_of_retracing(retraced):
    """A new model each time, as in a loop that prunes."""
    for _ in range(5):
        net = made()
        saliency.on_nodes_gradient(net, (X, Y))
        tfp.compare(net, tfp.remove(net, {"hidden": [1, 1, 0, 1]}), (X, Y), latency_runs=0)
    assert retraced() == []
    retracing = tf.function(lambda x: x + 1)
    for length in range(6):
        retracing(tf.zeros(length))
    assert len(retraced()) > 0, "those of the user come through"
