"""The laws of models that are opened, on every net of the table: what a user has of it beside what it computes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from blocks import LENGTH, NETS, difference, flat, made, mask_of, masked_outputs, outputs_of, tensors
from conftest import slow_but
from keras import ops

import tfprune
from tfprune import LayerValues
from tfprune.graph.opened import is_opened
from tfprune.graph.walk import functional
from tfprune.surgery import form_of, remove

pytestmark = pytest.mark.filterwarnings("ignore:.*in training, the code of")

FAST = {"raw_weights", "block_called_twice", "frozen_inside", "several_in_and_out", "configured_model"}
"""Nets on which all laws are fast tests; on the others the first two of them are."""
HEAVY = {"text_classification", "sinusoidal_encoder", "text_of_any_length", "brain_precision"}
"""Nets on which all laws are slow."""
SOME = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in NETS]
EVERY_FORM = [
    pytest.param(name, form, marks=() if name in FAST else pytest.mark.slow)
    for name, net in NETS.items()
    for form in net.forms
]


def state_of(model):
    """What of a model and its layers a user can see, and must find again."""
    layers = list(model._flatten_layers())
    return [
        (
            id(layer),
            type(layer),
            layer.name,
            layer.trainable,
            sorted(vars(layer).keys() - {"_tfprune_opened"}),
            [id(node) for node in layer._inbound_nodes],
            [id(node) for node in layer._outbound_nodes],
            [(id(own), own.path) for own in layer.weights],
            len(layer.losses),
        )
        for layer in layers
    ]


def values_of(model):
    return [np.array(ops.convert_to_numpy(ops.cast(own, "float32"))) for own in model.variables]


@pytest.fixture(params=slow_but(NETS.keys() - HEAVY, NETS))
def named(request):
    return request.param, made(request.param)


# Opening --------------------------------------------------------------------------------------------------------------


def test_opening_changes_nothing(named):
    name, model = named
    net, before, values = NETS[name], state_of(model), values_of(model)
    held = {
        id(layer): layer.output for layer in model._flatten_layers(include_self=False) if len(layer._inbound_nodes) == 1
    }
    opened = functional(model)
    assert is_opened(opened)
    for batch in (2, 5):
        for length in (LENGTH, 9) if net.open_length else (LENGTH,):
            inputs = net.inputs(batch, length)
            expected = outputs_of(model, inputs)
            assert difference(expected, outputs_of(opened, inputs)) < max(1e-6, net.tolerance / 100)
    assert state_of(model) == before
    assert not any("symbolic_call" in vars(layer) for layer in model._flatten_layers())
    for layer in model._flatten_layers(include_self=False):
        if id(layer) in held:
            assert layer.output is held[id(layer)]
    for one, other in zip(values, values_of(model), strict=True):
        np.testing.assert_array_equal(one, other)
    assert {id(own) for own in opened.weights} <= {id(own) for own in model.weights}
    assert functional(model) is opened


def test_groups_have_paths_for_names(named):
    name, model = named
    graph = tfprune.unit_groups(model)
    assert set(NETS[name].groups) <= set(graph)
    known = {layer.name for layer in model._flatten_layers()}
    for group in graph:
        *way, last = group.split("/")
        assert set(way) <= known, group
        assert last in known | {"heads", "kernel"} or last in {own.name for own in model.weights}, group


# Masks and cuts -------------------------------------------------------------------------------------------------------


def test_masked_equals_removed(named):
    name, model = named
    net, values = NETS[name], values_of(model)
    graph = tfprune.unit_groups(model)
    mask = mask_of(name, graph)
    small, masked = remove(model, mask), tfprune.with_on_nodes(model)
    assert form_of(small).name == net.forms[0]
    assert nodes_are_whole(small)
    assert nodes_are_whole(model)
    assert small.count_params() < model.count_params()
    for batch in (3, 1):
        for length in (LENGTH, 10) if net.open_length else (LENGTH,):
            inputs = net.inputs(batch, length)
            expected = masked_outputs(masked, inputs, graph.on_nodes(mask))
            assert difference(expected, outputs_of(small, inputs)) < net.tolerance
            assert difference(outputs_of(model, inputs), expected) > 1e-3
    for one, other in zip(values, values_of(model), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", SOME)
def test_nothing_removed_is_the_original(name):
    model = made(name)
    net, graph = NETS[name], tfprune.unit_groups(model)
    everything = LayerValues({group: np.ones(size, bool) for group, size in graph.sizes.items()})
    inputs = net.inputs(4, LENGTH)
    same = remove(model, everything)
    assert difference(outputs_of(model, inputs), outputs_of(same, inputs)) < max(1e-6, net.tolerance / 100)
    assert same.count_params() == model.count_params()
    assert not {id(own) for own in same.variables} & {id(own) for own in model.variables}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_other_masks(named, seed):
    name, model = named
    net, graph = NETS[name], tfprune.unit_groups(model)
    generator = np.random.default_rng(seed)
    mask = LayerValues(
        {
            group: np.isin(np.arange(size), generator.permutation(size)[: generator.integers(1, size + 1)])
            for group, size in graph.sizes.items()
            if group not in net.whole
        }
    )
    inputs = net.inputs(3, LENGTH)
    expected = masked_outputs(tfprune.with_on_nodes(model), inputs, graph.on_nodes(mask))
    assert difference(expected, outputs_of(remove(model, mask), inputs)) < net.tolerance


@pytest.mark.slow
def test_every_group_alone(named):
    name, model = named
    net, graph = NETS[name], tfprune.unit_groups(model)
    masked, inputs = tfprune.with_on_nodes(model), net.inputs(3, LENGTH)
    for group, size in graph.sizes.items():
        if group in net.whole:
            continue
        mask = LayerValues({group: np.arange(size) == size - 1})
        expected = masked_outputs(masked, inputs, graph.on_nodes(mask))
        # A norm over the one unit that is left divides by next to nothing.
        assert difference(expected, outputs_of(remove(model, mask), inputs)) < max(net.tolerance, 1e-4), group


def test_two_cuts_equal_one():
    model = made("vision_transformer")
    graph, inputs = tfprune.unit_groups(model), NETS["vision_transformer"].inputs(3, LENGTH)
    first = LayerValues({"mlp": np.arange(12) % 3 > 0})
    half = remove(model, first)
    second = LayerValues({"mlp": np.arange(8) < 5})
    at_once = LayerValues({"mlp": np.isin(np.arange(12), np.flatnonzero(first["mlp"])[:5])})
    assert tfprune.unit_groups(half).sizes["mlp"] == 8 and graph.sizes["mlp"] == 12
    assert difference(outputs_of(remove(model, at_once), inputs), outputs_of(remove(half, second), inputs)) < 1e-6


# Forms ----------------------------------------------------------------------------------------------------------------


def nodes_are_whole(model):
    """Whether every node of a graph is one of its operation, as whoever makes a model of a part of it needs."""
    nodes = [node for own in getattr(model, "_nodes_by_depth", {}).values() for node in own]
    for node in nodes:
        for tensor in node.outputs:
            history = tensor._keras_history
            if history.operation._inbound_nodes[history.node_index] is not node:
                return False
    return True


@pytest.mark.parametrize(("name", "form"), EVERY_FORM)
def test_every_form_computes_the_same(name, form):
    model, net = made(name), NETS[name]
    graph = tfprune.unit_groups(model)
    # All blocks alike, for the form that has one number for all of them.
    mask = mask_of(name, graph)
    if form == "class":
        mask = LayerValues({group: np.arange(size) < 5 for group, size in graph.sizes.items()})
    small = remove(model, mask, form=form)
    assert form_of(small).name == form
    assert nodes_are_whole(small)
    inputs = net.inputs(3, 8 if net.open_length else LENGTH)
    expected = masked_outputs(tfprune.with_on_nodes(model), inputs, graph.on_nodes(mask))
    assert difference(expected, outputs_of(small, inputs)) < net.tolerance
    if form == "class":
        assert type(small) is type(model)


@pytest.mark.parametrize("name", [own for own in SOME if "copy" in NETS[own.values[0]].forms])
def test_the_copy_holds_blocks_of_the_same_class(name):
    model = made(name)
    small = remove(model, mask_of(name, tfprune.unit_groups(model)), form="copy")
    if not hasattr(model, "_nodes_by_depth"):
        assert type(small) is type(model)
    for one, other in zip(model.layers, small.layers, strict=True):
        assert type(one) is type(other) and one.name == other.name
    own = {id(layer) for layer in model._flatten_layers()} | {id(weight) for weight in model.variables}
    assert not own & ({id(layer) for layer in small._flatten_layers()} | {id(weight) for weight in small.variables})


def targets_for(model, inputs):
    return keras.tree.map_structure(lambda own: np.zeros(own.shape, "float32"), model(tensors(inputs)))


@pytest.mark.parametrize("name", SOME)
def test_the_result_trains_and_predicts(name):
    model, net = made(name), NETS[name]
    model.compile("sgd", loss=keras.tree.map_structure(lambda _: "mse", model(tensors(net.inputs(2, LENGTH)))))
    values = values_of(model)
    small = remove(model, mask_of(name, tfprune.unit_groups(model)))
    assert small.compiled
    # So many that no unit is off on all of them.
    inputs = net.inputs(40, LENGTH)
    before = [np.array(ops.convert_to_numpy(own)) for own in small.trainable_variables]
    history = small.fit(inputs, targets_for(small, inputs), batch_size=20, epochs=1, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    moved = [
        np.abs(ops.convert_to_numpy(own) - old).max() > 0
        for own, old in zip(small.trainable_variables, before, strict=True)
    ]
    assert sum(moved) > len(moved) / 2
    assert flat(small.predict(inputs, verbose=0)).shape == outputs_of(model, inputs).shape
    for one, other in zip(values, values_of(model), strict=True):
        np.testing.assert_array_equal(one, other)


LARGE = [pytest.param(own, marks=pytest.mark.slow) for own in ("text_of_any_length", "tied_decoder", "perceiver")]
EXPORTED = ["autoencoder", *LARGE]


@pytest.mark.parametrize("name", EXPORTED)
def test_the_copy_runs_in_a_function_and_exports(name, tmp_path):
    model, net = made(name), NETS[name]
    small = remove(model, mask_of(name, tfprune.unit_groups(model)), form="copy")
    inputs = tensors(net.inputs(3, LENGTH))
    expected = outputs_of(small, inputs)
    assert difference(expected, flat(tf.function(lambda x: small(x, training=False))(inputs))) < 1e-5
    path = tfprune.export.saved_model(small, tmp_path / "saved")
    loaded = tf.saved_model.load(str(path)).signatures["serving_default"]
    (key,) = loaded.structured_input_signature[1]
    outputs = loaded(**{key: tf.cast(inputs, loaded.structured_input_signature[1][key].dtype)})
    together = flat([outputs[name] for name in sorted(outputs)])
    assert sorted(together.ravel()) == pytest.approx(sorted(expected.ravel()), abs=1e-4)


def test_frozen_layers_stay_frozen():
    model = made("frozen_inside")
    graph = tfprune.unit_groups(model)
    for form in ("plain", "copy"):
        small = remove(model, mask_of("frozen_inside", graph), form=form)
        frozen = len(model.weights) - len(model.trainable_weights)
        assert len(small.weights) - len(small.trainable_weights) == frozen == 2


def test_precision_stays():
    small = remove(model := made("half_precision"), mask_of("half_precision", tfprune.unit_groups(model)))
    assert small.get_layer("mlp").compute_dtype == "float16"
    assert small.get_layer("mlp").kernel.dtype == "float32"


# Sweeps ---------------------------------------------------------------------------------------------------------------


def squares(_, outputs):
    """The mean square of each sample, also of outputs that have one number for a sample."""
    return ops.mean(ops.square(ops.reshape(ops.cast(outputs, "float32"), (ops.shape(outputs)[0], -1))), axis=-1)


@pytest.mark.parametrize("name", SOME)
def test_a_sweep_gives_what_the_masked_model_gives(name):
    """Many masks at once: weights that code reads, tables and positions are the same for all of them."""
    model, net = made(name), NETS[name]
    graph = tfprune.unit_groups(model)
    layers = [*graph, *(["blocks"] if graph.blocks else [])]
    rows = np.random.default_rng(0).random((3, graph.num_columns)).astype("float32")
    inputs = net.inputs(5, LENGTH)
    masked = tfprune.with_on_nodes(model, layers)
    targets = [np.zeros(own.shape, "float32") for own in keras.tree.flatten(model(tensors(inputs)))]
    y = targets[0] if len(targets) == 1 else targets
    options = {"layers": layers, "loss": squares if len(targets) == 1 else [squares] * len(targets)}
    swept = tfprune.sweep(model, (inputs, y), rows, gradients=False, progress=False, **options)
    for row, found in zip(rows, swept.losses, strict=True):
        outputs = keras.tree.flatten(masked([*keras.tree.flatten(tensors(inputs)), ops.convert_to_tensor(row[None])]))
        expected = sum(float(ops.mean(ops.square(ops.cast(own, "float32")))) for own in outputs)
        assert found == pytest.approx(expected, rel=max(1e-4, net.tolerance))
