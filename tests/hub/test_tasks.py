"""Task models of keras_hub: a cut task is a task again, and does all that tasks do."""

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub", reason="keras_hub is not installed (the extra hub)")

import keras_hub
from hub_nets import BACKBONES, M, difference, flat, half_of_feed_forward, inputs_of, moved
from keras import tree

import tfprune as tfp
from tfprune import LayerValues

pytestmark = pytest.mark.filterwarnings("ignore")


def cut(task, mask=None):
    mask = half_of_feed_forward(tfp.unit_groups(task)) if mask is None else mask
    return tfp.remove(task, mask), mask


TASKS = {
    "BertTextClassifier": lambda: M.BertTextClassifier(BACKBONES["Bert"](), num_classes=3),
    "BertMaskedLM": lambda: M.BertMaskedLM(BACKBONES["Bert"]()),
    "RobertaTextClassifier": lambda: M.RobertaTextClassifier(BACKBONES["Roberta"](), num_classes=3, hidden_dim=16),
    "DistilBertTextClassifier": lambda: M.DistilBertTextClassifier(BACKBONES["DistilBert"](), num_classes=3),
    "GPT2CausalLM": lambda: M.GPT2CausalLM(BACKBONES["GPT2"]()),
    "OPTCausalLM": lambda: M.OPTCausalLM(BACKBONES["OPT"]()),
    "LlamaCausalLM": lambda: M.LlamaCausalLM(BACKBONES["Llama"]()),
    "QwenCausalLM": lambda: M.QwenCausalLM(BACKBONES["Qwen"]()),
    "GemmaCausalLM": lambda: M.GemmaCausalLM(BACKBONES["Gemma"]()),
    "BartSeq2SeqLM": lambda: M.BartSeq2SeqLM(BACKBONES["Bart"]()),
    "ViTImageClassifier": lambda: M.ViTImageClassifier(BACKBONES["ViT"](), num_classes=3),
}


def task(name):
    return moved(TASKS[name]())


@pytest.fixture
def llama():
    return task("LlamaCausalLM")


@pytest.mark.parametrize("name", TASKS)
def test_a_cut_task_is_a_task_of_its_class(name):
    model = task(name)
    x = inputs_of(model)
    if "Masked" in name:
        x["mask_positions"] = np.array([[1, 3]] * 3, "int32")
    small, mask = cut(model)
    graph = tfp.unit_groups(model)
    assert tfp.form_of(small).name == "class", tfp.form_of(small).refused
    assert type(small) is type(model) and type(small.backbone) is type(model.backbone)
    assert small.backbone is not model.backbone and small.count_params() < model.count_params()
    masked = tfp.with_on_nodes(model)([*tree.flatten(x), graph.on_nodes(mask)])
    assert difference(small(x), masked) < 1e-5
    assert difference(model(x), masked) > 1e-3


@pytest.mark.parametrize("name", [name for name in TASKS if "Bart" not in name])
def test_a_task_with_fewer_layers_is_of_its_class(name):
    model = task(name)
    x, graph = inputs_of(model), tfp.unit_groups(model)
    if "Masked" in name:
        x["mask_positions"] = np.array([[1, 3]] * 3, "int32")
    mask = tfp.keep_layers(model, {"blocks": np.arange(len(graph.blocks), dtype=float)}, 1)
    small, _ = cut(model, mask)
    assert tfp.form_of(small).name == "class", tfp.form_of(small).refused
    assert small.backbone.num_layers == 1 and small.count_params() == tfp.graph.count_parameters(graph, mask)
    off = tfp.with_on_nodes(model, "blocks")([*tree.flatten(x), mask.flat[None].astype("float32")])
    assert difference(small(x), off) < 1e-5


def test_a_task_generates_with_fewer_layers_and_units(llama):
    graph = tfp.unit_groups(llama)
    layers = tfp.keep_layers(llama, {"blocks": np.arange(len(graph.blocks), dtype=float)}, 1)
    small, _ = cut(llama, LayerValues({**half_of_feed_forward(graph), **layers}))
    assert tfp.form_of(small).name == "class"
    small.compile(sampler="greedy")
    given = {"token_ids": np.array([[3, 4, 0, 0, 0]], "int32"), "padding_mask": np.array([[1, 1, 0, 0, 0]], "int32")}
    said = np.asarray(small.generate(given, stop_token_ids=None)["token_ids"])
    for place in range(2, 5):
        full = {"token_ids": said, "padding_mask": np.ones_like(said)}
        assert said[0, place] == np.argmax(np.asarray(small(full))[0, place - 1])


@pytest.mark.parametrize("name", ["LlamaCausalLM", "GPT2CausalLM", "BertTextClassifier"])
def test_least_squares_keeps_the_class(name):
    model = task(name)
    graph, data = tfp.unit_groups(model), inputs_of(model, 24, seed=3)
    mask = half_of_feed_forward(graph)
    small = tfp.remove(model, mask, repair="least_squares", data=data)
    assert tfp.form_of(small).name == "class" and type(small) is type(model)
    plain = tfp.remove(model, mask)
    x = inputs_of(model, 8, seed=4)
    assert difference(small(x), model(x)) != difference(plain(x), model(x))


@pytest.mark.parametrize("name", ["LlamaCausalLM", "GPT2CausalLM"])
def test_no_weight_is_held_twice(name):
    """An embedding that is read backwards is one weight in every form."""
    model = task(name)
    graph = tfp.unit_groups(model)
    width = next(own for own in graph if "embedding" in own)
    masks = [
        {width: np.arange(graph[width].size) % 4 > 0},
        {"blocks": np.arange(len(graph.blocks)) % 2 == 1},
        {"blocks": np.arange(len(graph.blocks)) < 2},
    ]
    for mask in masks:
        for form in ("auto", "layers", "copy", "graph"):
            try:
                small = tfp.remove(model, LayerValues(mask), form=form)
            except ValueError as refusal:
                assert "cannot be cut in the form" in str(refusal)
                continue
            assert small.count_params() == tfp.graph.count_parameters(graph, mask), form


def test_units_of_the_head_go_too():
    model = task("RobertaTextClassifier")
    graph = tfp.unit_groups(model)
    mask = LayerValues({**half_of_feed_forward(graph), "pooled_dense": np.arange(16) % 4 > 0})
    small, _ = cut(model, mask)
    assert tfp.form_of(small).name == "class"
    assert small.get_config()["hidden_dim"] == 12 and small.backbone.intermediate_dim == 24
    x = inputs_of(model)
    assert difference(small(x), tfp.with_on_nodes(model)([*tree.flatten(x), graph.on_nodes(mask)])) < 1e-5


def test_uneven_blocks_leave_the_class(llama):
    mask = dict(half_of_feed_forward(tfp.unit_groups(llama)))
    del mask[list(mask)[0]]
    small, _ = cut(llama, LayerValues(mask))
    assert tfp.form_of(small).name != "class"
    assert "differ from what its constructor can say" in tfp.form_of(small).refused["class"]
    assert tfp.form_of(cut(llama)[0]).name == "class"


def prompt():
    ids = np.zeros((2, 12), "int32")
    ids[:, :4] = [[5, 9, 3, 7], [8, 2, 6, 4]]
    return {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}


@pytest.mark.parametrize("name", ["GPT2CausalLM", "LlamaCausalLM", "GemmaCausalLM"])
def test_generate_gives_the_tokens_of_greedy_steps(name):
    small, _ = cut(task(name))
    small.compile(sampler="greedy")
    written = np.asarray(small.generate(prompt(), stop_token_ids=None)["token_ids"])
    ids = prompt()["token_ids"].copy()
    for place in range(4, ids.shape[1]):
        mask = np.broadcast_to(np.arange(ids.shape[1]) < place, ids.shape).astype("int32")
        ids[:, place] = np.argmax(np.asarray(small({"token_ids": ids, "padding_mask": mask}))[:, place - 1], -1)
    np.testing.assert_array_equal(written, ids)


def test_it_is_saved_as_a_preset(llama, tmp_path):
    small, _ = cut(llama)
    small.backbone.save_to_preset(str(tmp_path / "preset"))
    again = keras_hub.models.LlamaBackbone.from_preset(str(tmp_path / "preset"))
    assert again.intermediate_dim == 24
    x = inputs_of(llama)
    assert difference(again(x), small.backbone(x)) == 0.0


def test_a_task_is_saved_as_a_preset_with_its_preprocessor(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox"]
    preprocessor = M.BertTextClassifierPreprocessor(M.BertTokenizer(vocabulary=words), sequence_length=8)
    model = moved(M.BertTextClassifier(BACKBONES["Bert"](), num_classes=2, preprocessor=preprocessor))
    small, _ = cut(model)
    assert tfp.form_of(small).name == "class" and small.preprocessor.tokenizer.get_vocabulary() == words
    expected = small.predict(["the quick fox", "brown"], verbose=0)
    small.save_to_preset(str(tmp_path / "preset"))
    again = M.BertTextClassifier.from_preset(str(tmp_path / "preset"))
    np.testing.assert_allclose(again.predict(["the quick fox", "brown"], verbose=0), expected, atol=1e-6)
    small.fit(["the quick fox", "brown"], np.array([0, 1]), verbose=0)


def test_lora_trains_on_the_result(llama):
    small, _ = cut(llama)
    before = flat(small(prompt()))
    small.backbone.enable_lora(2)
    assert difference(small(prompt()), before) < 1e-6
    own = [variable for variable in small.trainable_variables if "lora" in variable.path]
    assert len(own) >= 8
    small.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    old = [np.asarray(variable) for variable in own]
    small.train_on_batch(prompt(), prompt()["token_ids"])
    assert any(np.abs(np.asarray(a) - b).max() > 0 for a, b in zip(own, old, strict=True))


def test_int8_on_the_result_and_not_before(llama):
    small, _ = cut(llama)
    before = flat(small(prompt()))
    small.quantize("int8")
    assert 0 < difference(small(prompt()), before) < 0.2
    llama.quantize("int8")
    graph = tfp.unit_groups(llama)
    assert not len(graph)
    assert any("remove units first, then quantise" in why for why in graph.walls.values())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "mixed_bfloat16"])
def test_half_precision(dtype):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        model = BACKBONES["Llama"]()
        mask = half_of_feed_forward(tfp.unit_groups(model))
        small = tfp.remove(model, mask)
        x = inputs_of(model)
        masked = tfp.with_on_nodes(model)([*tree.flatten(x), tfp.unit_groups(model).on_nodes(mask)])
    finally:
        keras.config.set_dtype_policy(before)
    assert tfp.form_of(small).name == "class"
    assert [v.dtype for v in small.weights] == [v.dtype for v in model.weights]
    assert difference(small(x), masked) < 0.02
