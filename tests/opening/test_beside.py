"""Every room of the package on models that are opened: the same numbers as by hand, or a word on what to do."""

import keras
import numpy as np
import pytest
from blocks import LENGTH, NETS, difference, flat, made, mask_of, masked_outputs, outputs_of, tensors
from keras import ops

import tfprune
from tfprune import LayerValues, distinctiveness, experiments, neurons, relevance, saliency, schedules, statistics
from tfprune.graph import count_flops
from tfprune.training import LivenessMonitor, PruneDuringTraining, SparsifyDuringTraining

pytestmark = pytest.mark.filterwarnings("ignore:.*in training, the code of")

# A functional model with blocks that reads tokens, one of open length, a subclassed one, one that takes a dictionary.
BESIDE = {
    "text_classification": "block/ffn/wide",
    "gated_feed_forward": "glu/gate",
    "subclassed_recurrent": "tail/bend",
    "two_towers": "user/wide",
    "tensorflow_transformer": "block/up",
    "with_a_shut_layer": "rows/two",
}
OF_STEPS = ("gated_feed_forward", "subclassed_recurrent")
FAST = ("two_towers",)
SALIENCIES = [name for name in saliency.__all__ if name not in ("weights", "batch_norm_scale")]


def case(name, samples=12):
    """A compiled net and data for it."""
    model = made(name)
    x = NETS[name].inputs(samples, LENGTH)
    shape = model(tensors(x)).shape
    y = np.random.default_rng(1).normal(size=tuple(shape)).astype("float32")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss="mse")
    return model, x, y


def of_all(names=BESIDE):
    return [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", of_all())
def test_sweep_equals_masked_losses(name):
    model, x, y = case(name)
    graph = tfprune.unit_groups(model)
    masks = np.random.default_rng(0).random((3, graph.num_units)) < 0.6
    swept = tfprune.sweep(model, (x, y), masks, gradients=False, progress=False)
    masked = tfprune.with_on_nodes(model)
    for row, loss in zip(masks, swept.losses, strict=True):
        expected = np.mean((masked_outputs(masked, x, row) - y.reshape(len(y), -1)) ** 2)
        assert loss == pytest.approx(expected, rel=1e-4)
    assert np.ptp(swept.losses) > 0


@pytest.mark.parametrize("name", of_all())
def test_loss_change_equals_a_masked_loss(name):
    model, x, y = case(name)
    graph = tfprune.unit_groups(model)
    scores = saliency.loss_change(model, (x, y))
    group = BESIDE[name]
    row = np.ones(graph.num_units, bool)
    row[graph[group].start + 2] = False
    masked, targets = tfprune.with_on_nodes(model), y.reshape(len(y), -1)
    losses = [np.mean((masked_outputs(masked, x, on) - targets) ** 2) for on in (row, np.ones(graph.num_units))]
    assert scores[group][2] == pytest.approx(losses[0] - losses[1], rel=2e-3, abs=1e-6)


def refused(name, score):
    """What a score says of a net that it cannot score, as for every other net."""
    explains = score in ("relevance", "conductance")
    if name == "with_a_shut_layer" and score == "relevance":
        return "relevance knows no layer of the class OwnRows"
    if name == "tensorflow_transformer" and score == "relevance":
        return "relevance knows no layer of the class Sized"
    if name == "text_classification" and score == "conductance":
        return "reads integers"
    return "there is no predicted class" if explains and name in OF_STEPS else None


@pytest.mark.filterwarnings("ignore:data. saliency.least_squares has")
@pytest.mark.parametrize("score", SALIENCIES)
@pytest.mark.parametrize("name", of_all())
def test_saliencies(name, score):
    model, x, y = case(name)
    graph = tfprune.unit_groups(model)
    before = [np.array(ops.convert_to_numpy(own)) for own in model.variables]
    data = None if score == "random" else (x, y)
    compute = getattr(saliency, score)
    why = refused(name, score)
    if why is not None:
        with pytest.raises((ValueError, TypeError), match=why):
            compute(model, data)
        return
    scores = compute(model, data, **({"seed": 0} if score == "random" else {}))
    assert set(scores) <= set(graph) and BESIDE[name] in scores
    for group, values in scores.items():
        assert values.shape == (graph[group].size,) and np.isfinite(values).all()
    if score not in ("zero_fraction", "nonzero_fraction"):
        assert np.ptp(scores[BESIDE[name]]) > 0
    kept = tfprune.keep_top(scores, 0.5)
    assert tfprune.remove(model, kept).count_params() < model.count_params()
    for one, other in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(one, ops.convert_to_numpy(other))


@pytest.mark.filterwarnings("ignore:data. repair .* has")
@pytest.mark.parametrize("name", of_all())
def test_repairs(name):
    model, x, _ = case(name, 64)
    group = BESIDE[name]
    expected, size = outputs_of(model, x), tfprune.unit_groups(model).sizes[group]
    mask = LayerValues({group: np.arange(size) % 2 == 0})
    errors = {}
    for repair in ("zero", "mean", "affine", "least_squares"):
        errors[repair] = np.mean((outputs_of(tfprune.remove(model, mask, repair=repair, data=x), x) - expected) ** 2)
    assert errors["least_squares"] < errors["zero"] / 1.5
    assert errors["affine"] < errors["zero"]
    assert 0 < errors["mean"] != errors["zero"]


@pytest.mark.parametrize("name", of_all())
def test_statistics_are_those_of_the_activations(name):
    model, x, _ = case(name)
    group = BESIDE[name]
    found = statistics.unit_statistics(model, x)
    seen = neurons.activations(model, x, layers=[group], progress=False)
    values = seen[group]
    assert found.mean[group].shape == (values.shape[-1],)
    # Padded steps do not count, and numbers over positions are means of them.
    if name == "two_towers":
        np.testing.assert_allclose(
            found.mean[group], values.reshape(-1, values.shape[-1]).mean(0), rtol=1e-4, atol=1e-5
        )
    assert (statistics.exit_means(model, x)[group] != 0).any()


@pytest.mark.parametrize("name", of_all())
def test_relevance_is_conserved_or_names_what_it_does_not_know(name):
    model, x, _ = case(name)
    try:
        found = relevance.explain(model, x, method="lrp", target=0)
    except (ValueError, TypeError, NotImplementedError) as error:
        assert "register" in str(error) or "relevance" in str(error), error
        return
    total = sum(np.asarray(own).reshape(len(own), -1).sum(-1) for own in keras.tree.flatten(found.inputs))
    total = total + sum(np.asarray(own).reshape(len(own), -1).sum(-1) for own in found.biases.values())
    np.testing.assert_allclose(total + found.delta, found.output, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", of_all())
def test_distinctiveness_prunes_a_clone(name):
    model, x, _ = case(name, 40)
    group = BESIDE[name]
    layer = next(own for own in model._flatten_layers() if own.name == group.split("/")[-1])
    if name == "gated_feed_forward":
        # A unit is gated by another layer's unit: both are doubled.
        block = model.get_layer("glu")
        for own in (block.gate, block.up):
            kernel = ops.convert_to_numpy(own.kernel).copy()
            kernel[:, 1] = kernel[:, 0]
            own.kernel.assign(kernel)
    else:
        weights = [np.array(own) for own in layer.get_weights()]
        for own in weights:
            own[..., 1] = own[..., 0]
        layer.set_weights(weights)
    expected = outputs_of(model, x)
    small = distinctiveness.prune(model, x, similar=1.0, complementary=179.9, layers=[group])
    # Units that are never on go, too.
    assert size_in(small, group) < size_in(model, group)
    assert difference(expected, outputs_of(small, x)) < 1e-4


@pytest.mark.parametrize("name", of_all())
def test_control_at_zero_is_a_mask(name):
    model, x, _ = case(name)
    group = BESIDE[name]
    if name == "gated_feed_forward":
        pytest.skip("the gate shows before it is multiplied")
    graph = tfprune.unit_groups(model)
    row = np.ones(graph.num_units, bool)
    row[[graph[group].start + 1, graph[group].start + 3]] = False
    controlled = neurons.control(model, {group: [1, 3]}, 0.0)
    expected = masked_outputs(tfprune.with_on_nodes(model), x, row)
    assert difference(expected, outputs_of(controlled, x)) < 1e-5
    assert difference(outputs_of(model, x), expected) > 1e-3


@pytest.mark.parametrize("name", of_all())
def test_ablation_curve_ends_where_all_units_are_off(name):
    model, x, y = case(name)
    graph = tfprune.unit_groups(model)
    group = BESIDE[name]
    scores = LayerValues({group: np.arange(graph[group].size, dtype=float)})
    curves = experiments.ablation_curve(model, (x, y), scores, order="top", steps=[0.5, 1.0])
    row = np.ones(graph.num_units, bool)
    row[graph[group].start : graph[group].start + graph[group].size] = False
    expected = np.mean((masked_outputs(tfprune.with_on_nodes(model), x, row) - y.reshape(len(y), -1)) ** 2)
    assert np.ravel(curves.curves("top")[0])[-1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.filterwarnings("ignore:data. repair .* has")
@pytest.mark.parametrize("name", of_all())
def test_callbacks(name):
    model, x, y = case(name)
    group = BESIDE[name]
    prune = PruneDuringTraining(saliency.weight_norm, schedules.constant(0.5), (x, y))
    monitor = LivenessMonitor((x, y))
    model.fit(x, y, epochs=2, batch_size=6, verbose=0, callbacks=[prune, monitor])
    small = tfprune.remove(model, prune.mask)
    assert not prune.mask[group].all()
    assert difference(outputs_of(model, x), outputs_of(small, x)) < 1e-4
    sparse = SparsifyDuringTraining("group_norm", 0.05)
    model.fit(x, y, epochs=1, batch_size=6, verbose=0, callbacks=[sparse])


@pytest.mark.filterwarnings("ignore:data. repair .* has")
@pytest.mark.parametrize("name", of_all())
def test_checkpoints_and_early_stopping(name, tmp_path):
    """What Keras keeps of a model that is pruned while it trains is what is cut out of it afterwards."""
    model, x, y = case(name)
    prune = PruneDuringTraining(saliency.weight_norm, schedules.constant(0.5), (x, y))
    callbacks = [
        prune,
        keras.callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", monitor="loss", save_weights_only=True),
        keras.callbacks.EarlyStopping(monitor="loss", patience=0, restore_best_weights=True),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    model.fit(x, y, epochs=3, batch_size=6, verbose=0, callbacks=callbacks)
    expected = outputs_of(model, x)
    assert difference(expected, outputs_of(tfprune.remove(model, prune.mask), x)) < 1e-4
    again = made(name)
    again(tensors(x))
    again.load_weights(tmp_path / "best.weights.h5")
    row = tfprune.unit_groups(again).on_nodes(prune.mask)
    assert difference(outputs_of(again, x), masked_outputs(tfprune.with_on_nodes(again), x, row)) < 1e-4
    # A mask does not hang on the model: the cut net trains on, with its optimizer.
    small = tfprune.remove(model, prune.mask, keep_optimizer=True)
    history = small.fit(x, y, epochs=1, batch_size=6, verbose=0, callbacks=[keras.callbacks.TerminateOnNaN()])
    assert np.isfinite(history.history["loss"][0])
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) + 2


@pytest.mark.parametrize("name", of_all())
def test_remove_dead_and_widen(name):
    model, x, _ = case(name)
    group = BESIDE[name]
    layer = next(own for own in model._flatten_layers() if own.name == group.split("/")[-1])
    weights = layer.get_weights()
    weights[0][..., 2] = 0
    if len(weights) > 1:
        weights[1][..., 2] = 0
    layer.set_weights(weights)
    expected = outputs_of(model, x)
    small = tfprune.remove_dead(model, x)
    assert size_in(small, group) < size_in(model, group)
    assert difference(expected, outputs_of(small, x)) < 1e-5
    wide = tfprune.widen(model, {group: size_in(model, group) + 3})
    assert size_in(wide, group) == size_in(model, group) + 3
    assert difference(expected, outputs_of(wide, x)) < 1e-5


@pytest.mark.parametrize("name", of_all())
def test_sizes_and_budgets(name):
    model, x, y = case(name)
    graph = tfprune.unit_groups(model)
    scores = saliency.weight_norm(model)
    mask = tfprune.keep_budget(model, scores, parameters=0.9)
    small = tfprune.remove(model, mask)
    assert small.count_params() <= 0.9 * model.count_params()
    lengths = [(LENGTH, *own.shape[2:]) if None in own.shape[1:] else own.shape[1:] for own in graph_inputs(model)]
    flops = count_flops(graph, mask, shapes=lengths)
    assert 0 < flops < count_flops(graph, shapes=lengths)
    assert flops == count_flops(tfprune.unit_groups(small), shapes=lengths)
    table = str(tfprune.compare(model, small, (x, y), latency_runs=1))
    assert f"{small.count_params():,}" in table


def name_in(small, group):
    """The name of a group in the result: a plain model has no paths."""
    graph = tfprune.unit_groups(small)
    return group if group in graph else group.replace("/", ".")


def size_in(small, group):
    return tfprune.unit_groups(small).sizes[name_in(small, group)]


def graph_inputs(model):
    return tfprune.graph.walk.functional(model).inputs


@pytest.mark.parametrize("name", of_all())
def test_the_optimizer_and_compilation_are_carried(name):
    model, x, y = case(name)
    model.fit(x, y, epochs=1, batch_size=6, verbose=0)
    mask = mask_of(name, tfprune.unit_groups(model))
    small = tfprune.remove(model, mask, keep_optimizer=True)
    assert type(small.optimizer) is type(model.optimizer) and small.loss == "mse"
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 2
    # Of a kernel of which nothing is cut, the momentum is the old one; all others are parts of old ones.
    momenta = {
        id(own): slot for own, slot in zip(small.optimizer._trainable_variables, small.optimizer.momentums, strict=True)
    }
    assert all(momenta[id(own)].shape == own.shape for own in small.trainable_variables)
    old = [ops.convert_to_numpy(own) for own in model.optimizer.momentums]
    for slot in momenta.values():
        slot = ops.convert_to_numpy(slot)
        assert any(np.isin(slot, one).all() for one in old) and np.abs(slot).max() > 0
    loss = small.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(np.mean((outputs_of(small, x) - y.reshape(len(y), -1)) ** 2), rel=1e-3)
    small.fit(x, y, epochs=1, verbose=0)


def test_masked_model_serves_batches_of_any_length():
    model = made("gated_feed_forward")
    masked = tfprune.with_on_nodes(model)
    graph = tfprune.unit_groups(model)
    row = np.arange(graph.num_units) % 2
    for length in (1, 4, 30):
        x = NETS["gated_feed_forward"].inputs(2, length)
        small = tfprune.remove(model, as_mask(graph, row))
        assert difference(masked_outputs(masked, x, row), outputs_of(small, x)) < 1e-5


def as_mask(graph, row):
    return LayerValues({name: row[own.start : own.start + own.size].astype(bool) for name, own in graph.items()})


def test_outputs_are_flat():
    assert flat({"a": np.ones((2, 3)), "b": np.zeros((2, 1))}).shape == (2, 4)


def test_units_of_kernels_that_code_reads_show_where_they_are_used():
    model, x, y = case("raw_weights")
    graph = tfprune.unit_groups(model)
    (kernel, bias), (other, other_bias) = (
        (np.asarray(own.kernel), np.asarray(own.bias))
        for own in (model.get_layer("raw").one, model.get_layer("raw").two)
    )
    one = np.maximum(x @ kernel + bias, 0)
    two = np.maximum(one @ other + other_bias, 0)
    found = statistics.unit_statistics(model, x)
    np.testing.assert_allclose(found.mean["raw/one/kernel"], one.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean["raw/two/kernel"], two.mean(0), rtol=1e-5, atol=1e-6)
    for score in (saliency.relevance, saliency.conductance, saliency.mean_replacement):
        scores = score(model, (x, y))
        assert np.ptp(scores["raw/one/kernel"]) > 0
    row = np.ones(graph.num_units, bool)
    row[[graph["raw/one/kernel"].start + 1, graph["raw/one/kernel"].start + 3]] = False
    controlled = neurons.control(model, {"raw/one/kernel": [1, 3]}, 0.0)
    assert difference(masked_outputs(tfprune.with_on_nodes(model), x, row), outputs_of(controlled, x)) < 1e-5
