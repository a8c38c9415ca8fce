"""The laws of removal, on every net of the table and on random ones."""

import os
import random
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import slow_but
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras import layers
from nets import NETS, head_without_softmax, inputs_for, outputs_of
from random_nets import random_net

import tfprune
from tfprune import LayerValues
from tfprune.graph.walk import functional, nodes_of
from tfprune.surgery import remove

TOLERANCE = 1e-5


def random_mask(graph, seed, keep=0.6):
    """A mask that keeps at least one unit of every group."""
    generator = np.random.default_rng(seed)
    mask = {}
    for name, group in graph.items():
        kept = np.zeros(group.size, bool)
        kept[generator.permutation(group.size)[: max(1, int(group.size * keep))]] = True
        mask[name] = kept
    return LayerValues(mask)


def any_mask(graph, seed, least=None):
    """A mask with any number of units in every group, at least one: just one in the group `least`, if given."""
    generator = np.random.default_rng(seed)
    mask = {}
    for name, group in graph.items():
        count = 1 if name == least else generator.integers(1, group.size + 1)
        mask[name] = np.isin(np.arange(group.size), generator.permutation(group.size)[:count])
    return LayerValues(mask)


def relative_difference(one, other):
    return np.abs(one - other).max() / np.abs(one).max()


def numbers_of(model):
    """Every number that a model holds, those of its optimizer and metrics included."""
    held = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        held += model.optimizer.variables
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in held]


def assert_unchanged(before, model):
    after = numbers_of(model)
    assert len(before) == len(after)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def net_of(name):
    model = NETS[name]()
    return head_without_softmax(model) if name == "softmax_head" else model


def tolerance_of(model):
    return (
        2e-3 if "float16" in str(model.layers[-1].dtype_policy.name) or model.name == "mixed_precision" else TOLERANCE
    )


# Law 1: masked equals removed -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_masked_equals_removed(name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    if not len(graph):
        assert graph.fixed or graph.walls
        return
    inputs = inputs_for(model)
    before = numbers_of(model)
    original = outputs_of(model, inputs)
    mask = random_mask(graph, 3)
    masked = outputs_of(tfprune.with_on_nodes(model), inputs, mask.flat)
    small = remove(model, mask)
    assert relative_difference(masked, outputs_of(small, inputs)) < tolerance_of(model)
    if not mask.flat.all():
        assert relative_difference(original, masked) > 1e-4
        assert small.count_params() < model.count_params()
    assert_unchanged(before, model)


# Law 9: every subset of a group can be masked and removed ------------------------------------------------------------


def check_masks(model, masks):
    """Each mask, groups that it leaves out on, must give the same masked as removed."""
    graph = tfprune.unit_groups(model)
    masked_model, inputs = tfprune.with_on_nodes(model), inputs_for(model)
    for mask in masks:
        masked = outputs_of(masked_model, inputs, graph.on_nodes(mask))
        removed = outputs_of(remove(model, mask), inputs)
        assert relative_difference(masked, removed) < tolerance_of(model), mask


@pytest.mark.parametrize(("number", "name"), list(enumerate(NETS)), ids=list(NETS))
def test_any_subset_that_leaves_a_unit_can_be_removed(number, name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    if len(graph):
        least = graph.names[number % len(graph)]
        check_masks(model, [any_mask(graph, number, least)])


@pytest.mark.slow
@pytest.mark.parametrize("name", NETS)
def test_every_group_alone_down_to_one_unit(name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    if len(graph):
        alone = [LayerValues({least: any_mask(graph, 1, least)[least]}) for least in graph]
        several = [LayerValues({group: any_mask(graph, seed)[group]}) for group in graph for seed in (2, 3)]
        check_masks(model, [*alone, *several, *(any_mask(graph, seed) for seed in (4, 5))])


def means_at_exits(model, graph, inputs):
    """The mean of every unit where it is read; None where no one number says what all its readers see.

    That is so where readers see different means, where copies of a unit differ, and before zero padding. Only tensors
    of the outermost graph are looked at, so nets with units that are read elsewhere have none.
    """
    means = np.full(graph.num_units, np.nan)
    outer = {id(tensor) for node in nodes_of(model) for tensor in node.outputs}
    plain = (layers.Dense, layers.EinsumDense, layers.Conv1D, layers.Conv2D, layers.Conv3D)
    for exit in graph.records.exits:
        columns = graph.columns(exit.ids)
        if (columns < 0).all():
            continue
        if id(exit.tensor) not in outer or type(exit.operation) not in plain:
            return None
        if getattr(exit.operation, "padding", "valid") != "valid":
            return None
        # A list of one input is not the input to every version of Keras.
        entered = functional(model).inputs
        (entering,) = entered if len(entered) == 1 else (entered,)
        value = flat_at(keras.Model(entering, exit.tensor), inputs, exit.axis).mean(0)
        found = [value[columns == column] for column in range(graph.num_units)]
        tiled = np.array_equal(columns, np.tile(np.unique(columns), len(columns) // len(np.unique(columns))))
        if not tiled and any(len(own) > 1 for own in found):
            return None
        for column, own in enumerate(found):
            if len(own) and not np.isnan(means[column]) and abs(means[column] - own.mean()) > 1e-6:
                return None
            means[column] = own.mean() if len(own) else means[column]
    return None if np.isnan(means).any() else means


def flat_at(model, inputs, axis):
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    value = np.asarray(model(tensors if len(tensors) > 1 else tensors[0]), "float64")
    return np.moveaxis(value, axis, -1).reshape(-1, value.shape[axis])


WITH_MEANS = [
    *[
        "dense_chain",
        "dense_sequential",
        "dense_rank_3",
        "softmax_head",
        "hidden_softmax",
        "hidden_softmax_layer",
        "lambda_wall",
        "einsum_dense",
    ],
    *[
        "einsum_two_new_axes",
        "einsum_ellipsis",
        "grouped_conv_depthwise",
        "channels_first",
        "embedding_mean",
        "layer_norm",
        "normalized_inputs",
    ],
    *[
        "prelu",
        "pooling",
        "pooling_1d",
        "reshape_flat",
        "concatenate",
        "merges",
        "add_raw_input",
        "ops_arithmetic",
        "ops_slices",
        "several_outputs",
    ],
    *["tied_variables", "mixed_precision", "double_precision", "time_distributed_reshape"],
]
"""The nets for whose units one mean each can stand in, at every place where they are read."""


@pytest.mark.parametrize("name", WITH_MEANS)
@pytest.mark.filterwarnings("ignore:data. repair 'mean' has 40 samples")
def test_masked_equals_removed_with_means(name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    inputs = inputs_for(model, batch=40)
    means = means_at_exits(model, graph, inputs)
    mask = random_mask(graph, 3)
    masked_model = tfprune.with_on_nodes(model, replacement=LayerValues.from_flat(means, graph.sizes))
    masked = outputs_of(masked_model, inputs, mask.flat)
    removed = outputs_of(remove(model, mask, repair="mean", data=inputs if len(inputs) > 1 else inputs[0]), inputs)
    assert relative_difference(masked, removed) < tolerance_of(model)
    assert relative_difference(masked, outputs_of(remove(model, mask), inputs)) > 1e-4


# Law 2: nothing removed changes nothing -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_nothing_removed_changes_nothing(name):
    model = NETS[name]()
    graph = tfprune.unit_groups(model)
    inputs = inputs_for(model)
    small = remove(model, LayerValues({group: np.ones(size, bool) for group, size in graph.sizes.items()}))
    assert small is not model and small.count_params() == model.count_params()
    np.testing.assert_allclose(outputs_of(small, inputs), outputs_of(model, inputs), rtol=1e-6, atol=1e-6)
    assert not {id(variable) for variable in model.variables} & {id(variable) for variable in small.variables}


def smaller(graph, mask, seed):
    """A second mask within the first one; the first itself where that would empty a group."""
    other = random_mask(graph, seed)
    both = LayerValues({name: kept & other[name] for name, kept in mask.items()})
    return both if all(kept.any() for kept in both.values()) else mask


TURNED = {"grouped_conv_on_inputs", "shuffle"}
"""Their grouped convolutions have so few channels left after the first cut that whole groups are units then."""


@pytest.mark.parametrize("name", slow_but(sorted(NETS)[::2], sorted(NETS.keys() - TURNED)))
def test_two_steps_equal_one(name):
    model = net_of(name)
    graph = tfprune.unit_groups(model)
    if not len(graph):
        return
    first = random_mask(graph, 5, keep=0.8)
    both = smaller(graph, first, 6)
    inputs = inputs_for(model)
    at_once = outputs_of(remove(model, both), inputs)
    half = remove(model, first)
    assert tfprune.unit_groups(half).sizes == {group: int(kept.sum()) for group, kept in first.items()}
    later = LayerValues({group: both[group][kept] for group, kept in first.items()})
    assert relative_difference(at_once, outputs_of(remove(half, later), inputs)) < tolerance_of(model)


@pytest.mark.parametrize("repair", ["zero", "mean", "affine", "least_squares"])
def test_the_original_stays_as_it_is(repair, dense_net, generator):
    x, y = generator.normal(size=(320, 3)), generator.normal(size=(320, 2))
    dense_net.compile(optimizer=keras.optimizers.Adam(1e-2), loss="mse", metrics=["mae"])
    dense_net.fit(x, y, epochs=1, verbose=0)
    before, config = numbers_of(dense_net), dense_net.get_config()
    graph = tfprune.unit_groups(dense_net)
    remove(dense_net, random_mask(graph, 1), repair=repair, data=x, keep_optimizer=True)
    assert_unchanged(before, dense_net)
    assert dense_net.get_config() == config
    assert int(dense_net.optimizer.iterations.numpy()) == 10


# Law 4: a plain result ------------------------------------------------------------------------------------------------

CUSTOM = {"lambda_wall", "on_lstm", "on_lstm_states", "crossed_layers"}
"""Nets that Keras itself loads only with what the user gives it."""

LOADER = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tfprune":
            raise ImportError("tfprune is not to be had here")
sys.meta_path.insert(0, Refuse())
import numpy as np, keras
from keras.src.applications import convnext
for name in sys.argv[2:]:
    model = keras.saving.load_model(f"{sys.argv[1]}/{name}.keras", compile=False, custom_objects={
        "LayerScale": convnext.LayerScale, "StochasticDepth": convnext.StochasticDepth})
    held = np.load(f"{sys.argv[1]}/{name}.npz")
    inputs = [keras.ops.convert_to_tensor(held[f"x{k}"]) for k in range(len(model.inputs))]
    outputs = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    found = np.concatenate([np.asarray(y, "float64").reshape(len(y), -1) for y in keras.tree.flatten(outputs)], axis=1)
    scale = np.abs(held["y"]).max()
    print(name, np.abs(found - held["y"]).max() / scale)
"""


def classes_of(model):
    return {type(layer) for layer in model._flatten_layers()} | {type(node.operation) for node in nodes_of(model)}


WIDENED = ["dense_chain", "conv_2d", "batch_norm", "lstm_stacked", "attention_self", "nested_functional", "siamese"]
"""Nets that are widened there, too."""


def plain_results(step):
    """Yields nets with fewer units by name, and some with more: every net, or every so many."""
    for name in list(NETS)[::step]:
        if name not in CUSTOM:
            model = NETS[name]()
            graph = tfprune.unit_groups(model)
            small = remove(model, random_mask(graph, 3))
            assert classes_of(small) <= classes_of(model)
            yield name, small
        if name in WIDENED:
            wide = tfprune.widen(model, {group: size + 2 for group, size in graph.sizes.items()})
            assert classes_of(wide) <= classes_of(model)
            yield f"{name}_widened", wide


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_loads_where_tfprune_cannot_be_imported(tmp_path, step):
    """All nets in one process, as starting it takes seconds."""
    names = []
    for name, result in plain_results(step):
        names.append(name)
        inputs = inputs_for(result)
        result.save(tmp_path / f"{name}.keras")
        arrays = {f"x{number}": x for number, x in enumerate(inputs)}
        np.savez(tmp_path / f"{name}.npz", **arrays, y=outputs_of(result, inputs))
        keras.utils.clear_session(free_memory=False)
    # Convolutions are turned about there too where TensorFlow has no kernel for them.
    program, path = f"import conftest\n{textwrap.dedent(LOADER)}", str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *names],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = {line.split()[0]: float(line.split()[1]) for line in done.stdout.splitlines()}
    assert set(errors) == set(names)
    assert max(errors.values()) < 1e-5, errors


# Random nets ----------------------------------------------------------------------------------------------------------


def check_random_net(model, blocks, seed):
    graph = tfprune.unit_groups(model)
    if not len(graph):
        assert graph.fixed
        return
    # Any number of units in every group; in every third net just one in a group drawn by lot.
    mask = any_mask(graph, seed, graph.names[seed % len(graph)] if seed % 3 == 0 else None)
    inputs = inputs_for(model)
    masked = outputs_of(tfprune.with_on_nodes(model), inputs, mask.flat)
    removed = outputs_of(remove(model, mask), inputs)
    assert relative_difference(masked, removed) < TOLERANCE, blocks
    # Where no unit that is off had a say (behind a dead ReLU, say) the example proves nothing, and another is drawn.
    assume(relative_difference(outputs_of(model, inputs), masked) > 1e-6)


def without_noise(check):
    """Runs a check without what Keras itself says of nets in which the mask of missing entries ends."""

    def run(*arguments):
        keras.utils.clear_session(free_memory=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached to it")
            check(*arguments)

    return run


@settings(max_examples=50, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32 - 1))
def test_random_nets(seed):
    """Seeds, and not single choices: drawing those takes longer than the check."""
    choose = random.Random(seed).choice
    without_noise(lambda: check_random_net(*random_net(choose), seed))()


@pytest.mark.slow
@settings(max_examples=2000, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(0, 10))
def test_many_random_nets(data, seed):
    """Single choices, which hypothesis can shrink. Keras draws random numbers too, so no strategy may make the net."""

    def pick(options):
        return options[data.draw(st.integers(0, len(options) - 1))]

    without_noise(lambda: check_random_net(*random_net(pick), seed))()
