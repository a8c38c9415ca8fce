"""Whole residual blocks as units: found, masked, scored, cut, beside all else that a user has."""

import random
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from keras import layers, ops
from nets import NETS, inputs_for, outputs_of
from random_nets import random_net

import tfprune
from tfprune import LayerValues
from tfprune.graph.flops import count_flops, count_parameters
from tfprune.surgery import form_of, remove

sys.path.insert(0, str(Path(__file__).parent / "opening"))
import blocks as opening

TOLERANCE = 1e-5
WIDTH = 6


def slowly(*names):
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


def randomised(model, seed=0):
    generator = np.random.default_rng(seed)
    for weight in model.weights:
        if "seed" not in weight.path:
            value = generator.normal(size=weight.shape) * 0.5
            weight.assign(np.abs(value) + 0.5 if "variance" in weight.path else value)
    return model


def branch(x, name, width=5):
    hidden = layers.Dense(width, "relu", name=f"{name}_in")(x)
    return layers.Dense(x.shape[-1], name=f"{name}_out")(hidden)


def norm_first(count=3):
    """As most transformers of today: the norm stands in the branch."""
    inputs = x = keras.Input((4, WIDTH), name="x")
    x = layers.Dense(WIDTH, name="first")(x)
    for k in range(count):
        normed = layers.LayerNormalization(name=f"norm_{k}")(x)
        x = layers.Add(name=f"add_{k}")([x, branch(normed, f"block_{k}")])
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))


def norm_last(count=3):
    """As BERT: the norm behind the addition belongs to the block."""
    inputs = x = keras.Input((4, WIDTH), name="x")
    x = layers.LayerNormalization(name="embedded")(layers.Dense(WIDTH, name="first")(x))
    x = layers.Dropout(0.1)(x)
    for k in range(count):
        x = layers.LayerNormalization(name=f"norm_{k}")(layers.Add(name=f"add_{k}")([x, branch(x, f"block_{k}")]))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))


def convolutional():
    inputs = x = keras.Input((6, 6, 2), name="x")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    for k in range(3):
        y = layers.Conv2D(5, 3, padding="same", use_bias=False, name=f"block_{k}_in")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"norm_{k}")(y))
        y = layers.Conv2D(4, 3, padding="same", name=f"block_{k}_out")(y)
        x = layers.ReLU()(layers.Add(name=f"add_{k}")([x, y]))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(x)))


def side_by_side():
    """Attention and feed-forward that read the same norm, added one after the other, and three addends at once."""
    inputs = keras.Input((WIDTH,), name="x")
    x = layers.Dense(WIDTH, name="first")(inputs)
    normed = layers.LayerNormalization(name="norm_0")(x)
    x = ops.add(ops.add(x, branch(normed, "block_0")), branch(normed, "block_1"))
    normed = layers.LayerNormalization(name="norm_1")(x)
    x = layers.Add(name="three")([x, branch(normed, "block_2"), branch(normed, "block_3")])
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def within():
    """A block inside the branch of another one."""
    inputs = keras.Input((WIDTH,), name="x")
    x = layers.Dense(WIDTH, name="first")(inputs)
    y = layers.Dense(WIDTH, "relu", name="outer_in")(x)
    y = y + branch(y, "inner")
    x = x + layers.Dense(WIDTH, name="outer_out")(y)
    x = x + branch(x, "other")
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def nested_twice():
    """Blocks inside a model that is called twice, and one that is a whole model."""
    inner_input = keras.Input((WIDTH,), name="inner_x")
    inner = keras.Model(inner_input, inner_input + branch(inner_input, "block"), name="inner")
    whole_input = keras.Input((WIDTH,), name="whole_x")
    whole = keras.Model(whole_input, branch(whole_input, "whole_block"), name="whole")
    inputs = keras.Input((WIDTH,), name="x")
    x = inner(inner(layers.Dense(WIDTH, name="first")(inputs)))
    x = x + whole(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def at_the_ends():
    """The blocks begin at the input, and the last one is the output."""
    inputs = x = keras.Input((WIDTH,), name="x")
    for k in range(2):
        x = x + branch(x, f"block_{k}")
    return keras.Model(inputs, x)


def in_half_precision():
    return opening.with_policy("mixed_float16", norm_first)


MINE = {
    "norm_first": (norm_first, ["block_0_in", "block_1_in", "block_2_in"]),
    "norm_last": (norm_last, ["block_0_in", "block_1_in", "block_2_in"]),
    "convolutional": (convolutional, ["block_0_in", "block_1_in", "block_2_in"]),
    "side_by_side": (side_by_side, ["block_0_in", "block_1_in", "block_2_in", "block_3_in"]),
    "within": (within, ["inner_in", "outer_in", "other_in"]),
    "nested_twice": (nested_twice, ["whole", "inner/block_in"]),
    "at_the_ends": (at_the_ends, ["block_0_in", "block_1_in"]),
    "in_half_precision": (in_half_precision, ["block_0_in", "block_1_in", "block_2_in"]),
}


def mine(name):
    return randomised(MINE[name][0]())


def data_of(model, batch=5, seed=1):
    shapes = [(batch, *own.shape[1:]) for own in model.inputs]
    return np.random.default_rng(seed).normal(size=shapes[0]).astype("float32")


def targets_for(model, x, seed=2):
    shape = np.shape(model(x))
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def numbers(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def subsets(count):
    """Masks of so many blocks that leave one: all of three, every other one of four."""
    for number in range(1, 2**count - 1, 1 if count < 4 else 2):
        yield np.array([bool(number >> place & 1) for place in range(count)])


# Finding --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINE)
def test_the_blocks_of_a_net(name):
    graph = tfprune.unit_groups(mine(name))
    assert [block.name for block in graph.blocks] == MINE[name][1]
    assert graph["blocks"].size == len(MINE[name][1])
    assert [member.name for member in graph["blocks"].members] == MINE[name][1]


def test_blocks_are_listed_but_not_gone_through():
    model = mine("norm_first")
    graph = tfprune.unit_groups(model)
    assert "blocks" in graph and "blocks" not in list(graph) and "blocks" not in graph.sizes
    assert graph.num_columns == graph.num_units + 3
    assert tfprune.with_on_nodes(model).inputs[-1].shape[1] == graph.num_units
    assert "blocks" in repr(graph) and "only where named" in repr(graph)
    assert graph["blocks"].parameters_per_unit == 12 + 6 * 5 + 5 + 5 * 6 + 6
    assert "blocks" not in tfprune.saliency.weight_norm(model)


def test_what_is_no_block():
    inputs = keras.Input((WIDTH,), name="x")
    x = layers.Dense(WIDTH, name="first")(inputs)
    y = branch(x, "seen")
    x = x + y
    x = x + layers.Rescaling(0.5)(x)
    x = layers.Dense(WIDTH, name="shortcut")(x) + branch(x, "projected")
    plain = keras.Model(inputs, [layers.Dense(3, name="out")(x), y])
    assert tfprune.unit_groups(plain).blocks == ()
    with pytest.raises(ValueError, match="'blocks' is not a layer"):
        tfprune.with_on_nodes(plain, "blocks")


def test_a_layer_of_that_name_keeps_it():
    inputs = keras.Input((WIDTH,), name="x")
    x = layers.Dense(WIDTH, name="blocks")(inputs)
    x = x + branch(x, "one")
    x = x + branch(x, "two")
    model = randomised(keras.Model(inputs, layers.Dense(3)(x)))
    graph = tfprune.unit_groups(model)
    assert graph["blocks"].members[0].name == "blocks" and graph["residual_blocks"].size == 2
    small = remove(model, LayerValues({"residual_blocks": [False, True]}))
    x = data_of(model)
    masked = tfprune.with_on_nodes(model, "residual_blocks")
    np.testing.assert_allclose(small(x), masked([x, np.array([[0.0, 1.0]])]), atol=TOLERANCE)


# Masked is removed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MINE)
def test_every_subset_masked_is_removed_and_counted(name):
    model = mine(name)
    graph, x = tfprune.unit_groups(model), data_of(model)
    masked = tfprune.with_on_nodes(model, [*graph, "blocks"])
    tolerance = 2e-2 if name == "in_half_precision" else TOLERANCE
    whole = numbers(model(x))
    np.testing.assert_allclose(numbers(masked([x, np.ones((1, graph.num_columns))])), whole, atol=tolerance)
    for on in subsets(len(graph.blocks)):
        mask = LayerValues({"blocks": on})
        small = remove(model, mask)
        expected = numbers(masked([x, graph.on_nodes(mask)]))
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(numbers(small(x)), expected, atol=tolerance * scale)
        assert small.count_params() == count_parameters(graph, mask)
        assert count_flops(tfprune.unit_groups(small)) == count_flops(graph, mask)
        # A block in the branch of one that goes does not show.
        assert name == "within" or np.abs(expected - whole).max() > 1e-3


@pytest.mark.parametrize("name", MINE)
def test_blocks_and_units_go_together(name):
    model = mine(name)
    graph, x = tfprune.unit_groups(model), data_of(model)
    masked = tfprune.with_on_nodes(model, [*graph, "blocks"])
    generator = np.random.default_rng(3)
    for _ in range(3):
        units = {group: np.arange(size) < max(1, size - 2) for group, size in graph.sizes.items()}
        on = generator.random(len(graph.blocks)) < 0.5
        on[generator.integers(len(on))] = True
        mask = LayerValues({**units, "blocks": on})
        small = remove(model, mask)
        expected = numbers(masked([x, graph.on_nodes(mask)]))
        tolerance = 2e-2 if name == "in_half_precision" else TOLERANCE
        np.testing.assert_allclose(numbers(small(x)), expected, atol=tolerance * max(1.0, np.abs(expected).max()))
        assert small.count_params() == count_parameters(graph, mask)


def test_the_residual_nets_of_the_table():
    seen = set()
    for name, build in NETS.items():
        try:
            model = build()
        except pytest.skip.Exception:
            continue
        graph = tfprune.unit_groups(model)
        if len(graph.blocks) < 1:
            continue
        seen.add(name)
        inputs = inputs_for(model)
        masked = tfprune.with_on_nodes(model, "blocks")
        on = np.arange(len(graph.blocks)) % 2 == 1
        if on.any():
            small = remove(model, LayerValues({"blocks": on}))
            expected = outputs_of(masked, inputs, on.astype("float32")[None])
            np.testing.assert_allclose(outputs_of(small, inputs), expected, atol=TOLERANCE)
        everything = outputs_of(masked, inputs, np.ones((1, len(on)), "float32"))
        np.testing.assert_allclose(everything, outputs_of(model, inputs), atol=TOLERANCE)
    assert seen


@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask attached to it")
@given(st.integers(0, 2**32 - 1))
@settings(max_examples=8, suppress_health_check=list(HealthCheck))
def test_random_graphs(seed):
    keras.utils.clear_session(free_memory=False)
    choose = random.Random(seed).choice
    model, _ = random_net(choose)
    graph = tfprune.unit_groups(model)
    assume(len(graph.blocks) >= 2)
    on = np.array([choose([True, False]) for _ in graph.blocks])
    on[0] |= not on.any()
    inputs = inputs_for(model)
    masked = tfprune.with_on_nodes(model, "blocks")
    small = remove(model, LayerValues({"blocks": on}))
    expected = outputs_of(masked, inputs, on.astype("float32")[None])
    np.testing.assert_allclose(outputs_of(small, inputs), expected, atol=TOLERANCE * max(1, np.abs(expected).max()))
    assert small.count_params() == count_parameters(graph, LayerValues({"blocks": on}))


OPENED = [
    *("text_classification", "text_of_any_length", "residual"),
    *slowly("vision_transformer", "sinusoidal_encoder", "shifted_windows"),
]


@pytest.mark.filterwarnings("ignore:.*in training, the code of")
@pytest.mark.parametrize("name", OPENED)
def test_in_layers_that_were_opened(name):
    model, net = opening.made(name), opening.NETS[name]
    graph = tfprune.unit_groups(model)
    assert graph.blocks
    masked = tfprune.with_on_nodes(model, "blocks")
    for on in subsets(len(graph.blocks)) if len(graph.blocks) < 4 else [np.arange(len(graph.blocks)) % 2 == 0]:
        small = remove(model, LayerValues({"blocks": on}))
        for length in (opening.LENGTH, 9) if net.open_length else (opening.LENGTH,):
            inputs = net.inputs(3, length)
            expected = opening.masked_outputs(masked, inputs, on.astype("float32")[None])
            assert opening.difference(expected, opening.outputs_of(small, inputs)) < net.tolerance


# Scores ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MINE if name != "in_half_precision"])
def test_loss_change_is_what_the_cut_costs(name):
    model = mine(name)
    x = data_of(model, 20)
    y = targets_for(model, x)
    scores = tfprune.saliency.loss_change(model, (x, y), layers="blocks", loss="mse")
    graph = tfprune.unit_groups(model)
    assert scores.names == ("blocks",)

    def loss_of(model):
        return float(np.mean((numbers(model(x)) - y) ** 2))

    for number in range(len(graph.blocks)):
        on = np.arange(len(graph.blocks)) != number
        expected = loss_of(remove(model, LayerValues({"blocks": on}))) - loss_of(model)
        np.testing.assert_allclose(scores["blocks"][number], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["norm_first", "norm_last", "side_by_side"])
def test_gradients_are_differences(name):
    model = mine(name)
    x = data_of(model, 12)
    y = targets_for(model, x)
    scores = tfprune.saliency.on_nodes_gradient(model, (x, y), layers="blocks", loss="mse", signed=True)["blocks"]
    step, count = 1e-2, len(tfprune.unit_groups(model).blocks)
    rows = np.concatenate([np.ones((1, count)) + sign * step * np.eye(count) for sign in (1, -1)])
    found = tfprune.sweep(model, (x, y), rows, loss="mse", layers="blocks", progress=False)
    differences = (found.losses[:count] - found.losses[count:]) / (2 * step)
    np.testing.assert_allclose(-scores, differences, rtol=2e-2, atol=2e-2 * np.abs(differences).max())


def test_loss_change_takes_units_and_blocks_with_a_replacement():
    model = mine("norm_first")
    graph, x = tfprune.unit_groups(model), data_of(model, 20)
    y = targets_for(model, x)
    means = tfprune.statistics.exit_means(model, x)
    every = tfprune.saliency.loss_change(model, (x, y), layers=[*graph, "blocks"], loss="mse", replacement=means)
    alone = tfprune.saliency.loss_change(model, (x, y), layers="blocks", loss="mse")
    assert every.names == (*graph, "blocks")
    np.testing.assert_allclose(every["blocks"], alone["blocks"], rtol=1e-5)


TAKE_BLOCKS = {"loss_change", "on_nodes_gradient"}
NEED = {"random": {"seed": 0}, "mean_replacement": {"loss": "mse"}, "mean_replacement_penalty": {"loss": "mse"}}
OTHERS = {
    **{
        name: lambda model, data, name=name: getattr(tfprune.saliency, name)(
            model, data, layers="blocks", **NEED.get(name, {})
        )
        for name in tfprune.saliency.__all__
        if name not in TAKE_BLOCKS | {"weights"}
    },
    "unit_statistics": lambda model, data: tfprune.statistics.unit_statistics(model, data, layers="blocks"),
    "activations": lambda model, data: tfprune.neurons.activations(model, data, "blocks"),
    "control": lambda model, data: tfprune.neurons.control(model, {"blocks": [0]}, value=0.0),
    "LivenessMonitor": lambda model, data: model.fit(
        *data, callbacks=[tfprune.training.LivenessMonitor(data, layers="blocks")], verbose=0
    ),
    "SparsifyDuringTraining": lambda model, data: model.fit(
        *data, callbacks=[tfprune.training.SparsifyDuringTraining("group_norm", 0.1, layers="blocks")], verbose=0
    ),
}
"""What looks at the numbers of units."""


def test_curves_along_a_ranking_of_blocks():
    """Erased and removed, blocks alone and beside units, equal the losses of what is cut."""
    model = mine("norm_first")
    graph, x = tfprune.unit_groups(model), data_of(model, 20)
    data = (x, targets_for(model, x))
    model.compile("sgd", "mse")
    blocks = np.array([0.3, 0.1, 0.2])
    group = next(iter(graph))
    units = np.linspace(0.05, 0.4, graph.sizes[group])
    for ranking in ({"blocks": blocks}, {group: units, "blocks": blocks}):
        for replacement in ("zero", "mean"):
            curve = tfprune.experiments.ablation_curve(
                model, data, ranking, order=("bottom", "top"), steps=3, replacement=replacement
            )
            assert np.ptp(curve.values) > 0
    curve = tfprune.experiments.ablation_curve(model, data, {"blocks": blocks}, order="bottom", steps=[0, 1, 2])
    removed = tfprune.experiments.removal_curve(
        model, data, {"blocks": blocks}, order="bottom", steps=[0, 1, 2], repair="zero"
    )
    off = [[], [1], [1, 2]]
    expected = [
        model.evaluate(*data, verbose=0)
        if not gone
        else float(np.mean((remove(model, LayerValues({"blocks": ~np.isin(range(3), gone)}))(x) - data[1]) ** 2))
        for gone in off
    ]
    np.testing.assert_allclose(curve.values[0], expected, rtol=1e-4)
    np.testing.assert_allclose(removed.values[0], expected, rtol=1e-4)
    seen = tfprune.experiments.ablation_curve(
        model,
        data,
        {"blocks": blocks},
        order="bottom",
        steps=[0, 1, 2],
        metric=lambda targets, outputs: float(np.mean((targets - outputs) ** 2)),
        predict=lambda masked, inputs: masked.predict(inputs[0], verbose=0),
    )
    np.testing.assert_allclose(seen.values[0], expected, rtol=1e-4)


# Selections -----------------------------------------------------------------------------------------------------------


def test_whole_layers():
    model = opening.made("text_classification")
    graph = tfprune.unit_groups(model)
    assert {len(columns) for columns in graph.layers_of_blocks.values()} == {2}
    values = np.arange(len(graph.blocks), dtype=float)
    mask = tfprune.keep_layers(model, {"blocks": values}, 1)["blocks"]
    assert mask.sum() == 2 and mask[-2:].all() == mask[-2]
    with pytest.raises(ValueError, match="count: expected 1 to"):
        tfprune.keep_layers(model, {"blocks": values}, 0)
    with pytest.raises(TypeError, match="count: expected an integer"):
        tfprune.keep_layers(model, {"blocks": values}, 0.5)
    with pytest.raises(ValueError, match="no scores of 'blocks'"):
        tfprune.keep_layers(model, tfprune.saliency.weight_norm(model), 1)
    with pytest.raises(ValueError, match="no residual blocks"):
        tfprune.keep_layers(NETS["dense_chain"](), {"blocks": [1.0]}, 1)


def test_depth_and_width_share_a_budget():
    model = mine("norm_first")
    graph, x = tfprune.unit_groups(model), data_of(model, 20)
    scores = tfprune.saliency.loss_change(model, (x, targets_for(model, x)), layers=[*graph, "blocks"], loss="mse")
    whole = count_parameters(graph)
    for share in (0.9, 0.7, 0.5):
        for normalise in ("cost", "group", None):
            mask = tfprune.keep_budget(model, scores, parameters=share, normalise=normalise)
            small = remove(model, mask)
            assert count_parameters(graph, mask) == small.count_params() <= share * whole
    # A block of no worth goes first, with all that it saves.
    values = {name: np.ones(size) for name, size in graph.sizes.items()}
    mask = tfprune.keep_budget(model, {**values, "blocks": [5.0, 1e-6, 5.0]}, parameters=0.8, normalise="cost")
    assert mask["blocks"].tolist() == [True, False, True]
    flops = tfprune.keep_budget(model, scores, flops=0.6, normalise="cost")
    assert count_flops(graph, flops) <= 0.6 * count_flops(graph)


def test_a_uniform_budget_takes_whole_layers():
    model = opening.made("text_classification")
    graph = tfprune.unit_groups(model)
    generator = np.random.default_rng(0)
    scores = {name: generator.random(size) for name, size in graph.sizes_with_blocks.items()}
    mask = tfprune.keep_budget(model, scores, parameters=0.6, uniform=True, min_share=0.0)
    for columns in graph.layers_of_blocks.values():
        assert len({bool(mask["blocks"][column - graph.num_units]) for column in columns}) == 1


def test_keep_top_keeps_one_block():
    mask = tfprune.keep_top({"blocks": np.array([0.1, 0.3, 0.2])}, 1.0)
    assert mask["blocks"].tolist() == [False, True, False]


# Cuts beside other things ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repair", [*slowly("mean", "affine"), "least_squares"])
@pytest.mark.parametrize("name", ["norm_first", "norm_last", "convolutional", "side_by_side", "within"])
def test_repairs_mend_units_beside_blocks(name, repair):
    model = mine(name)
    graph, x = tfprune.unit_groups(model), data_of(model, 400)
    hidden = [group for group in graph if group.endswith("_in")]
    kept = {group: np.arange(graph[group].size) > 1 for group in hidden}
    mask = LayerValues({**kept, "blocks": np.arange(len(graph.blocks)) != 1})
    errors = {}
    for own in ("zero", repair):
        small = remove(model, mask, repair=own, data=x)
        errors[own] = float(np.mean((numbers(small(x)) - numbers(model(x))) ** 2))
        assert small.count_params() == count_parameters(graph, mask) or own != "zero"
    assert np.isfinite(errors[repair])
    if repair == "least_squares":
        assert errors[repair] < errors["zero"]


@pytest.mark.parametrize("name", ["norm_first", "norm_last", "convolutional", "side_by_side", "within", "nested_twice"])
def test_least_squares_mends_what_reads_behind_a_block(name):
    """The kernels behind it take over what a block did, as far as it follows from the stream."""
    model = mine(name)
    graph, x, unseen = tfprune.unit_groups(model), data_of(model, 600), data_of(model, 200, seed=9)
    expected = numbers(model(unseen))
    mask = LayerValues({"blocks": np.arange(len(graph.blocks)) != 0})
    errors = {}
    for repair in ("zero", "mean", "least_squares"):
        small = remove(model, mask, repair=repair, data=x)
        errors[repair] = float(np.mean((numbers(small(unseen)) - expected) ** 2))
        assert small.count_params() == count_parameters(graph, mask)
    assert errors["mean"] == pytest.approx(errors["zero"], rel=1e-4)
    assert errors["least_squares"] < errors["zero"] / 4
    once = remove(model, mask, repair="least_squares", data=x, sequential=False)
    np.testing.assert_allclose(numbers(once(unseen)), numbers(remove(model, mask)(unseen)), atol=TOLERANCE)


@pytest.mark.parametrize("name", [*slowly("norm_first", "norm_last"), "convolutional"])
@pytest.mark.parametrize("optimizer", ["Adam", *slowly("RMSprop", "Adafactor")])
def test_the_optimizer_goes_on(name, optimizer):
    model = mine(name)
    x = data_of(model, 16)
    y = targets_for(model, x)
    model.compile(getattr(keras.optimizers, optimizer)(0.01), "mse")
    model.fit(x, y, epochs=2, verbose=0)
    small = remove(model, LayerValues({"blocks": [True, False, True]}), keep_optimizer=True)
    assert int(small.optimizer.iterations) == int(model.optimizer.iterations) == 2
    # Every moment is one of the original's, and no two are the same one.
    before, after = ([numbers(own).tobytes() for own in m.optimizer.variables[2:]] for m in (model, small))
    assert 0 < len(after) < len(before) and set(after) <= set(before)
    small.fit(x, y, epochs=1, verbose=0)


def test_cut_again_and_in_training():
    model = mine("norm_last")
    x = data_of(model, 16)
    once = remove(model, LayerValues({"blocks": [True, False, True]}))
    assert [block.name for block in tfprune.unit_groups(once).blocks] == ["block_0_in", "block_2_in"]
    twice = remove(once, LayerValues({"blocks": [False, True]}))
    np.testing.assert_allclose(
        numbers(twice(x)), numbers(remove(model, LayerValues({"blocks": [False, False, True]}))(x)), atol=TOLERANCE
    )
    twice.compile("sgd", "mse")
    before = twice.get_weights()
    twice.fit(x, targets_for(twice, x), epochs=1, verbose=0)
    assert any((one != other).any() for one, other in zip(before, twice.get_weights(), strict=True))


def test_the_model_stays_as_it_is():
    model = mine("norm_last")
    x = data_of(model)
    before, weights, expected = [layer.name for layer in model.layers], model.get_weights(), numbers(model(x))
    remove(model, LayerValues({"blocks": [False, False, True]}))
    tfprune.with_on_nodes(model, "blocks")
    assert [layer.name for layer in model.layers] == before
    for one, other in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(numbers(model(x)), expected)


def test_keras_saves_a_net_without_blocks(tmp_path):
    small = remove(mine("norm_first"), LayerValues({"blocks": [True, False, False]}))
    small.save(tmp_path / "small.keras")
    x = data_of(small)
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "small.keras")(x), small(x))


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OTHERS)
def test_what_cannot_look_at_blocks_says_so(name):
    model = mine("convolutional" if name == "batch_norm_scale" else "norm_first")
    model.compile("sgd", "mse")
    x = data_of(model, 12)
    with pytest.raises(ValueError, match="whole blocks"):
        OTHERS[name](model, (x, targets_for(model, x)))


def test_all_blocks_cannot_go():
    with pytest.raises(ValueError, match="all 3 units of group 'blocks' are off, which would leave no block"):
        remove(mine("norm_first"), LayerValues({"blocks": [False, False, False]}))


def test_a_mask_of_another_length():
    with pytest.raises(ValueError, match=r"mask of group 'blocks' expects the shape \(3,\)"):
        remove(mine("norm_first"), LayerValues({"blocks": [False, True]}))


def test_nothing_stands_in_for_a_block():
    with pytest.raises(ValueError, match="unknown group"):
        tfprune.with_on_nodes(mine("norm_first"), "blocks", LayerValues({"blocks": [0.0, 0.0, 0.0]}))


# Forms ----------------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Layered(keras.Model):
    """A subclassed model with so many blocks, that can say how it was built."""

    def __init__(self, num_layers=3, width=5, silent=False, **kwargs):
        super().__init__(**kwargs)
        self.num_layers, self.width, self.silent = num_layers, width, silent
        self.first = layers.Dense(WIDTH, name="first")
        self.stack = [Block(width, name=f"layer_{k}") for k in range(num_layers)]
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        x = self.first(x)
        for layer in self.stack:
            x = layer(x)
        return self.head(x)

    def get_config(self):
        if self.silent:
            raise NotImplementedError("it says nothing")
        return {"name": self.name, "num_layers": self.num_layers, "width": self.width}


@keras.saving.register_keras_serializable(package="tests")
class Block(layers.Layer):
    """Two residual branches, and weights of its own."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.one, self.two = layers.Dense(width, "relu", name="one"), layers.Dense(width, "tanh", name="two")
        self.norm = layers.LayerNormalization(name="norm")

    def build(self, shape):
        self.norm.build(shape)
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")
        for name in ("one", "two"):
            getattr(self, name).build(shape)
            setattr(self, f"{name}_out", layers.Dense(shape[-1], name=f"{name}_out"))
            getattr(self, f"{name}_out").build((*shape[:-1], self.width))

    def call(self, x):
        x = x + self.one_out(self.one(self.norm(x)))
        return x + self.scale * self.two_out(self.two(x))

    def get_config(self):
        return super().get_config() | {"width": self.width}


def layered(**options):
    model = Layered(**options)
    model(np.zeros((1, 4), "float32"))
    return randomised(model)


X = np.random.default_rng(1).normal(size=(5, 4)).astype("float32")


@pytest.mark.parametrize("silent", [False, True])
def test_whole_layers_keep_the_class(silent, tmp_path):
    model = layered(silent=silent)
    graph = tfprune.unit_groups(model)
    assert list(graph.layers_of_blocks) == ["layer_0", "layer_1", "layer_2"]
    mask = LayerValues({"blocks": [True, True, False, False, True, True]})
    small = remove(model, mask)
    assert type(small) is Layered
    assert form_of(small).name == ("copy" if silent else "class"), form_of(small).refused
    masked = tfprune.with_on_nodes(model, "blocks")
    np.testing.assert_allclose(small(X), masked([X, graph.on_nodes(mask)[:, graph.num_units :]]), atol=TOLERANCE)
    assert len(small.stack) == 2 and small.count_params() == count_parameters(graph, mask)
    if not silent:
        again = Layered.from_config(small.get_config())
        again(X)
        again.set_weights(small.get_weights())
        np.testing.assert_array_equal(again(X), small(X))
    tfprune.save(small, tmp_path / "small.tfp") if silent else small.save(tmp_path / "small.keras")
    read = (
        tfprune.load(tmp_path / "small.tfp", model=layered(silent=True))
        if silent
        else keras.saving.load_model(tmp_path / "small.keras")
    )
    np.testing.assert_allclose(read(X), small(X), atol=TOLERANCE)


def test_layers_and_width_in_one_class():
    model = layered()
    graph = tfprune.unit_groups(model)
    units = {name: np.arange(size) < 3 for name, size in graph.sizes.items() if size == 5}
    mask = LayerValues({**units, "blocks": [False, False, True, True, True, True]})
    small = remove(model, mask)
    assert form_of(small).name == "class" and (small.num_layers, small.width) == (2, 3)
    masked = tfprune.with_on_nodes(model, [*graph, "blocks"])
    np.testing.assert_allclose(small(X), masked([X, graph.on_nodes(mask)]), atol=TOLERANCE)


def test_half_a_layer_is_said_to_keep_the_class_from_being(tmp_path):
    model = layered()
    graph = tfprune.unit_groups(model)
    mask = LayerValues({"blocks": [True, False, True, True, True, True]})
    small = remove(model, mask)
    assert form_of(small).name in ("plain", "graph")
    assert "gone" in form_of(small).refused["class"]
    masked = tfprune.with_on_nodes(model, "blocks")
    np.testing.assert_allclose(small(X), masked([X, graph.on_nodes(mask)[:, graph.num_units :]]), atol=TOLERANCE)
    with pytest.raises(ValueError, match="cannot be cut in the form 'class'"):
        remove(model, mask, form="class")
    if form_of(small).name == "graph":
        tfprune.save(small, tmp_path / "small.tfp")
        np.testing.assert_allclose(tfprune.load(tmp_path / "small.tfp")(X), small(X), atol=TOLERANCE)


def test_a_functional_model_of_own_blocks_drops_layers():
    x = keras.Input((4,), name="x")
    y = layers.Dense(WIDTH, name="first")(x)
    for k in range(3):
        y = Block(5, name=f"layer_{k}")(y)
    model = randomised(keras.Model(x, layers.Dense(2, name="out")(y)))
    mask = LayerValues({"blocks": [True, True, False, False, True, True]})
    small = remove(model, mask)
    assert form_of(small).name == "layers"
    assert [layer.name for layer in small.layers if isinstance(layer, Block)] == ["layer_0", "layer_2"]
    masked, graph = tfprune.with_on_nodes(model, "blocks"), tfprune.unit_groups(model)
    np.testing.assert_allclose(small(X), masked([X, graph.on_nodes(mask)[:, graph.num_units :]]), atol=TOLERANCE)
