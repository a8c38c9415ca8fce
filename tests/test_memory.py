"""What was made for a model goes with it, and leaves no trace on its layers."""

import copy
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from nets import NETS, inputs_for
from tensorflow.python.framework.func_graph import FuncGraph

import tfprune
from tfprune import experiments, export, graph, neurons, saliency, statistics, training
from tfprune.cache import Recent
from tfprune.saliency import weights

NUM_UNITS = 9
LOSS = "sparse_categorical_crossentropy"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 3)).astype("float32")
Y = (X[:, 0] > 0).astype("int64")
MASKS = RNG.random((6, NUM_UNITS)) < 0.5


def fresh_model():
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, activation="relu", name="first"),
            keras.layers.Dense(4, activation="tanh", name="second"),
            keras.layers.Dense(2, activation="softmax", name="classes"),
        ]
    )
    model.compile("sgd", LOSS, metrics=["accuracy"])
    return model


def _residual():
    x = y = keras.Input((3,))
    for _ in range(2):
        y = keras.layers.Add()([y, keras.layers.Dense(3)(y)])
    return keras.Model(x, y)


def half(model):
    return tfprune.keep_top(saliency.weight_norm(model), 0.5)


def removed(repair):
    return lambda model: tfprune.remove(model, half(model), repair=repair, data=X)


def fitted(make):
    def fit(model):
        callback = make(model)
        model.fit(X, Y, epochs=2, batch_size=100, verbose=0, callbacks=[callback])
        return callback

    return fit


# By name of the function: of the package, or of one of its rooms.
CALLS = {
    "compare": lambda model: tfprune.compare(model, tfprune.remove(model, half(model)), (X, Y), latency_runs=1),
    "keep_budget": lambda model: tfprune.keep_budget(model, saliency.weight_norm(model), parameters=0.5),
    "keep_layers": lambda model: tfprune.keep_layers(_residual(), {"blocks": np.arange(2.0)}, 1),
    "keep_random": lambda model: tfprune.keep_random(tfprune.unit_groups(model), 0.5, seed=0),
    "remove": removed("zero"),
    "remove, mean": removed("mean"),
    "remove, affine": removed("affine"),
    "remove, least_squares": removed("least_squares"),
    "remove_dead": lambda model: tfprune.remove_dead(model, X),
    "sweep": lambda model: tfprune.sweep(model, (X, Y), MASKS, progress=False),
    "sweep, masked already": lambda model: tfprune.sweep(
        tfprune.with_on_nodes(model), (X, Y), MASKS, loss=LOSS, progress=False
    ),
    "unit_groups": tfprune.unit_groups,
    "widen": lambda model: tfprune.widen(model, {"first": 7}),
    "with_on_nodes": tfprune.with_on_nodes,
    "with_on_nodes, called": lambda model: tfprune.with_on_nodes(model)([X, MASKS[:1].astype("float32")]),
    "zero_weights": lambda model: tfprune.zero_weights(
        model, weights.magnitude(model).map(lambda values: values > 0.1)
    ),
    "saliency.activation_std": lambda model: saliency.activation_std(model, X),
    "saliency.batch_norm_scale": None,
    "saliency.conductance": lambda model: saliency.conductance(model, X[:20], steps=4),
    "saliency.distinctiveness": lambda model: saliency.distinctiveness(model, X),
    "saliency.least_squares": lambda model: saliency.least_squares(model, X),
    "saliency.loss_change": lambda model: saliency.loss_change(model, (X, Y)),
    "saliency.mean_replacement": lambda model: saliency.mean_replacement(model, (X, Y)),
    "saliency.mean_replacement, before": lambda model: saliency.mean_replacement(model, (X, Y), place="before"),
    "saliency.mean_replacement_penalty": lambda model: saliency.mean_replacement_penalty(model, (X, Y)),
    "saliency.nonzero_fraction": saliency.nonzero_fraction,
    "saliency.on_nodes_gradient": lambda model: saliency.on_nodes_gradient(model, (X, Y)),
    "saliency.random": lambda model: saliency.random(model, seed=0),
    "saliency.relevance": lambda model: saliency.relevance(model, (X, Y)),
    "saliency.weight_norm": saliency.weight_norm,
    "saliency.zero_fraction": lambda model: saliency.zero_fraction(model, X),
    "weights.hessian": lambda model: weights.hessian(model, (X, Y)),
    "weights.loss_change": lambda model: weights.loss_change(model, (X, Y)),
    "weights.magnitude": weights.magnitude,
    "weights.random": lambda model: weights.random(model, seed=0),
    "weights.taylor1": lambda model: weights.taylor1(model, (X, Y)),
    "weights.taylor2": lambda model: weights.taylor2(model, (X, Y)),
    "statistics.unit_statistics": lambda model: statistics.unit_statistics(model, X),
    "statistics.exit_statistics": lambda model: statistics.exit_means(model, X),
    "graph.count_flops": lambda model: graph.count_flops(tfprune.unit_groups(model)),
    "relevance.explain": lambda model: tfprune.relevance.explain(model, X),
    "relevance.explain, a function": lambda model: tfprune.relevance.explain(
        model, X, target=lambda outputs: outputs[:, 0] * model.count_params()
    ),
    "distinctiveness.prune": lambda model: tfprune.distinctiveness.prune(model, X, similar=40.0),
    "neurons.activations": lambda model: neurons.activations(model, X, progress=False),
    "neurons.max_correlation": lambda model: neurons.max_correlation([model, model], X, progress=False),
    "experiments.random_subsets": lambda model: experiments.random_subsets(
        model, (X, Y), probability=0.5, num_subsets=4, seed=0, progress=False
    ),
    "experiments.ablation_curve": lambda model: experiments.ablation_curve(
        model, (X, Y), saliency.weight_norm(model), steps=3, metric="accuracy"
    ),
    "experiments.ablation_curve, predict": lambda model: experiments.ablation_curve(
        model,
        (X, Y),
        saliency.weight_norm(model),
        steps=3,
        metric=lambda targets, outputs: float(outputs.mean()),
        predict=lambda own, inputs: np.asarray(own(inputs[0])),
    ),
    "experiments.dose_curve": lambda model: experiments.dose_curve(
        model, (X, Y), "first[0]", [1.0], measured=lambda outputs: outputs.argmax(axis=-1)
    ),
    "neurons.conductance": lambda model: neurons.conductance(model, X[:20], layers="first"),
    "neurons.control": lambda model: neurons.control(model, "first[0]", z=1.0, data=X),
    "experiments.point_gradients": lambda model: experiments.point_gradients(model, (X, Y)),
    "training.PruneDuringTraining": fitted(
        lambda model: training.PruneDuringTraining(
            saliency.mean_replacement, tfprune.schedules.by_epoch({1: 0.4}), (X, Y)
        )
    ),
    "training.SparsifyDuringTraining": fitted(lambda model: training.SparsifyDuringTraining("group_norm", 0.1)),
    "training.NeuralRejuvenation": lambda model: fitted(
        lambda model: training.NeuralRejuvenation(0.1, penalty="group_norm", utilisation=0.99, crossing="attention")
    )(model).rejuvenated(),
    "training.LivenessMonitor": fitted(lambda model: training.LivenessMonitor((X, Y))),
    "training.LearningRateAttack": fitted(lambda model: training.LearningRateAttack(("first", 0), 10.0, 1, 2)),
}

NO_MODELS = {"form_of", "keep_above", "keep_top", "load", "save"}
"""Public functions that see no model, or leave nothing of one behind but a file."""


@pytest.fixture(scope="module", autouse=True)
def frozen_rest():
    """Keeps the collector away from all that exists already, which would take it a second each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def operations_of(model):
    found = {id(layer): layer for layer in model._flatten_layers()}
    graphs = [own for own in found.values() if hasattr(own, "operations")]
    found.update({id(own): own for each in graphs for own in each.operations})
    return list(found.values())


def records_of_calls(model):
    return [(len(own._inbound_nodes), len(own._outbound_nodes)) for own in operations_of(model)]


def num_graphs():
    return sum(type(own) is FuncGraph for own in gc.get_objects())


def left_over(call, make):
    """Returns what of a model is alive, and how many graphs were traced and are kept, when it should be gone.

    The call must leave no record of itself on the model's layers.
    """
    gc.collect()
    known = num_graphs()
    model = make()
    before = records_of_calls(model)
    call(model)
    assert records_of_calls(model) == before
    alive = [weakref.ref(own) for own in (*operations_of(model), *model.variables)]
    del model
    gc.collect()
    return [own() for own in alive if own() is not None], num_graphs() - known


def test_every_function_has_a_row():
    rows = {name.split(",")[0] for name in CALLS}
    public = {name for name in tfprune.__all__ if callable(getattr(tfprune, name)) and name[0].islower()}
    public |= {f"saliency.{name}" for name in saliency.__all__ if name != "weights"}
    public |= {f"weights.{name}" for name in weights.__all__ if name[0].islower()}
    assert public - rows - NO_MODELS == set()


@pytest.mark.filterwarnings("ignore:(SparsifyDuringTraining|NeuralRejuvenation). after 2 epochs")
@pytest.mark.parametrize("name", [name for name, call in CALLS.items() if call is not None])
def test_nothing_outlives_its_model_or_stays_on_its_layers(name):
    alive, graphs = left_over(CALLS[name], fresh_model)
    assert alive == []
    # Two graphs of the data's are what a plain fit leaves, too.
    assert graphs <= (2 if name.startswith("training.") else 0)


def test_batch_norm_scale_and_exports_let_go(tmp_path):
    def make():
        inputs = keras.Input((3,))
        normed = keras.layers.BatchNormalization()(keras.layers.Dense(4)(inputs))
        return keras.Model(inputs, keras.layers.Dense(2)(normed))

    def call(model):
        saliency.batch_norm_scale(model)
        export.saved_model(model, tmp_path / "saved")

    assert left_over(call, make)[0] == []


def test_a_second_call_finds_what_the_first_one_traced():
    model = fresh_model()
    first = saliency.mean_replacement(model, (X, Y))
    held = vars(model._functional)["_tfprune_made"]
    entries = dict(held.entries)
    again = saliency.mean_replacement(model, (X, Y))
    assert vars(model._functional)["_tfprune_made"].entries == entries
    np.testing.assert_array_equal(first.flat, again.flat)


def test_a_model_that_gets_another_layer_is_traced_anew():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(2)])
    saliency.activation_std(model, X)
    model.add(keras.layers.Dense(2, kernel_initializer="zeros", bias_initializer="ones"))
    scores = saliency.on_nodes_gradient(model, (X, X[:, :2]), loss="mse")
    assert [len(own) for own in scores.values()] == [4, 2]
    np.testing.assert_array_equal(scores.flat, np.zeros(6))


@pytest.mark.parametrize("name", sorted(NETS))
def test_masking_leaves_the_layers_of_a_model_as_they_were(name):
    model = NETS[name]()
    before = records_of_calls(model)
    masked = tfprune.with_on_nodes(model)
    assert records_of_calls(model) == before
    assert {id(variable) for variable in model.variables} <= {id(variable) for variable in masked.variables}
    weak = weakref.ref(masked)
    del masked
    gc.collect()
    assert weak() is None


def test_the_weights_are_shared_both_ways():
    model = fresh_model()
    masked = tfprune.with_on_nodes(model)
    ones = np.ones((1, NUM_UNITS), "float32")
    np.testing.assert_allclose(masked([X, ones]), model(X), rtol=1e-6)
    model.get_layer("first").kernel.assign(RNG.normal(size=(3, 5)))
    masked.get_layer("second").bias.assign(RNG.normal(size=4))
    np.testing.assert_allclose(masked([X, ones]), model(X), rtol=1e-6)
    model.get_layer("second").trainable = False
    assert len(masked.get_layer("second").trainable_variables) == 0
    assert len(masked.trainable_variables) == len(model.trainable_variables) == 4


def test_a_masked_model_is_saved_and_copied_by_itself(tmp_path):
    model = fresh_model()
    saliency.mean_replacement(model, (X, Y))
    masked = tfprune.with_on_nodes(model)
    tfprune.sweep(masked, (X, Y), MASKS, loss=LOSS, progress=False)
    rows = MASKS[:1].astype("float32")
    for number, copied in enumerate((keras.models.clone_model(masked), copy.deepcopy(masked))):
        copied.set_weights(masked.get_weights())
        np.testing.assert_allclose(copied([X, rows]), masked([X, rows]), rtol=1e-6)
        copied.save(tmp_path / f"{number}.keras")
        loaded = keras.models.load_model(tmp_path / f"{number}.keras")
        np.testing.assert_allclose(loaded([X, rows]), masked([X, rows]), rtol=1e-6)


def test_only_the_last_few_are_kept():
    recent, model, other = Recent(2), fresh_model(), fresh_model()
    made = []

    def make(name):
        return lambda: made.append(name) or name

    for own, key in ((model, "a"), (other, "a"), (model, "a"), (model, "b"), (other, "a"), (model, "a")):
        assert recent.get(own, key, make(key)) == recent.last == key
    assert made == ["a", "a", "b", "a", "a"]


def test_what_is_kept_of_a_model_that_is_gone_makes_room():
    recent, model = Recent(1), fresh_model()
    weak = weakref.ref(recent.get(model, "key", lambda: keras.layers.Dense(1)))
    del model
    gc.collect()
    assert weak() is None
    model = fresh_model()
    assert recent.get(model, "key", lambda: 3) == 3


@pytest.mark.parametrize(
    "name",
    [pytest.param("lstm_stacked", marks=pytest.mark.slow), "attention_self", "embedding_mask", "siamese", "conv_2d"],
)
def test_sweeps_of_other_nets_leave_nothing(name):
    def call(model):
        arrays = inputs_for(model)
        outputs = [np.asarray(own) for own in tf.nest.flatten(model(arrays if len(arrays) > 1 else arrays[0]))]
        data = (tuple(arrays) if len(arrays) > 1 else arrays[0], outputs if len(outputs) > 1 else outputs[0])
        saliency.mean_replacement(model, data, loss="mse")
        saliency.loss_change(model, data, loss="mse")

    assert left_over(call, NETS[name]) == ([], 0)
