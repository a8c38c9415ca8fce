"""The backbones of keras_hub: opened they compute the same, and removed equals masked, at any length they take."""

import numpy as np
import pytest

pytest.importorskip("keras_hub", reason="keras_hub is not installed (the extra hub)")

from hub_nets import BACKBONES, difference, half_of_feed_forward, inputs_of, moved
from keras import tree

import tfprune as tfp
from tfprune import LayerValues
from tfprune.graph.opened import is_opened
from tfprune.graph.walk import functional
from tfprune.repair import find_repair

# What keras_hub and the initialisers in it say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore")

NOT_OPENED = {
    "XLNet": "its table of positions is reshaped across the samples, so that its numbers hang on the size of the batch",
}
NOT_READ = {
    "StableDiffusion3": "its diffuser is called with timesteps of another rank than it was built for",
}
FIXED_LENGTH = ["FNet", "XLNet", "Whisper", "CLIP", "SigLIP"]
"""Families that are read at the length of the tokens at which their code was looked at, or that have one length."""
KEEPS_CLASS = [
    *("Bert", "DistilBert", "Roberta", "XLMRoberta", "Albert", "Electra", "DebertaV3", "FNet", "RoformerV2", "GPT2"),
    *("OPT", "GPTNeoX", "Bloom", "Falcon", "Llama", "Llama3", "Mistral", "Qwen", "Qwen3", "Phi3", "Gemma3", "T5"),
    *("Bart", "Whisper", "ViT", "DeiT", "DINOV2", "CLIP", "Gemma", "Mixtral", "SmolLM3", "ESM2"),
]
"""Families that stay their class where half of the feed-forward units of every block go."""


def run(model, x):
    return model(x, training=False)


def net(name):
    if name in NOT_OPENED or name in NOT_READ:
        pytest.xfail({**NOT_OPENED, **NOT_READ}[name])
    return moved(BACKBONES[name]())


@pytest.mark.parametrize("name", BACKBONES)
def test_removed_equals_masked(name):
    model = net(name)
    x = inputs_of(model)
    graph = tfp.unit_groups(model)
    assert len(graph)
    expected = run(model, x)
    if is_opened(functional(model)):
        assert difference(run(functional(model), x), expected) < 1e-5
    mask = tfp.keep_top(tfp.saliency.weight_norm(model), 0.5, uniform=True)
    masked = tfp.with_on_nodes(model)
    small = tfp.remove(model, mask)
    assert small.count_params() < model.count_params()
    lengths = [13] if name in FIXED_LENGTH else [13, 9, 21]
    for length in lengths:
        x = inputs_of(model, 2, length, seed=length)
        off = run(masked, [*tree.flatten(x), graph.on_nodes(mask)])
        assert difference(run(small, x), off) < 1e-5
        assert difference(run(model, x), off) > 1e-3


@pytest.mark.parametrize("name", KEEPS_CLASS)
def test_the_class_stays_where_blocks_stay_alike(name):
    model = net(name)
    graph = tfp.unit_groups(model)
    mask = half_of_feed_forward(graph)
    small = tfp.remove(model, mask)
    assert tfp.form_of(small).name == "class", tfp.form_of(small).refused
    assert type(small) is type(model)
    x = inputs_of(model)
    assert difference(run(small, x), run(tfp.with_on_nodes(model), [*tree.flatten(x), graph.on_nodes(mask)])) < 1e-5
    again = type(small).from_config(small.get_config())
    again.set_weights(small.get_weights())
    assert difference(run(again, x), run(small, x)) == 0.0


LAYERS_ALIKE = [
    name for name in KEEPS_CLASS if name not in ("Albert", "DebertaV3", "RoformerV2", "T5", "Bart", "Whisper", "CLIP")
]
"""Those of them that have one stack of layers of their own, all of which are blocks."""


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in (*NOT_OPENED, *NOT_READ)])
def test_blocks_masked_are_removed(name):
    model = net(name)
    graph, x = tfp.unit_groups(model), inputs_of(model)
    if len(graph.blocks) < 2:
        pytest.skip("it has no two blocks that could go")
    mask = LayerValues({graph.blocks_name: np.arange(len(graph.blocks)) % 2 == 1})
    off = run(tfp.with_on_nodes(model, graph.blocks_name), [*tree.flatten(x), mask.flat[None].astype("float32")])
    small = tfp.remove(model, mask)
    assert difference(run(small, x), off) < 1e-5
    # Weights that the code does not use are not in a graph.
    read = {id(own) for own in functional(model).weights}
    unread = sum(int(np.prod(own.shape)) for own in model.weights if id(own) not in read)
    counted = tfp.graph.count_parameters(graph, mask)
    assert small.count_params() in (counted, counted - unread) and counted < model.count_params()
    assert difference(run(model, x), off) > 1e-3


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("name", LAYERS_ALIKE)
def test_the_class_stays_with_fewer_layers(name, place):
    model = net(name)
    graph, x = tfp.unit_groups(model), inputs_of(model)
    values = np.arange(len(graph.blocks), dtype=float)
    mask = tfp.keep_layers(model, {"blocks": -values if place == "first" else values}, 1)
    small = tfp.remove(model, mask)
    assert tfp.form_of(small).name == "class", tfp.form_of(small).refused
    assert type(small) is type(model) and small.num_layers == 1
    off = run(tfp.with_on_nodes(model, "blocks"), [*tree.flatten(x), mask.flat[None].astype("float32")])
    assert difference(run(small, x), off) < 1e-5


def test_what_is_not_opened_says_why():
    model = BACKBONES["XLNet"]()
    graph = tfp.unit_groups(model)
    assert not len(graph) and "size" in " ".join(graph.walls.values())


# Repairs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repair", ["mean", "affine", "least_squares"])
@pytest.mark.parametrize("name", ["Bert", "Llama", "T5"])
def test_repairs(name, repair):
    model = net(name)
    graph = tfp.unit_groups(model)
    mask = half_of_feed_forward(graph)
    data, x = inputs_of(model, 48, seed=3), inputs_of(model, 16, seed=4)
    expected = run(model, x)

    def error_of(**options):
        small = tfp.remove(model, mask, **options)
        found = [
            np.asarray(a) - np.asarray(b)
            for a, b in zip(tree.flatten(run(small, x)), tree.flatten(expected), strict=True)
        ]
        return np.sqrt(np.mean(np.concatenate([own.ravel() for own in found]) ** 2)), tfp.form_of(small)

    zero, form = error_of()
    assert form.name == "class"
    repaired, form = error_of(repair=repair, data=data)
    assert np.isfinite(repaired)
    if repair == "least_squares":
        assert repaired < zero
    if name == "Bert" or repair == "least_squares":
        assert form.name == "class"
    else:
        # Neither class has biases there, which these repairs need.
        assert form.name in ("copy", "graph")
        assert "bias" in form.refused["class"]
    assert find_repair(repair).needs_data
