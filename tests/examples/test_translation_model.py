"""The net of the example of translation: its units, its training, and greedy decoding of every form of it."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
from nets import EARLY_KERAS

import tfprune as tfp
from tfprune import experiments, neurons

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
needs_names = pytest.mark.skipif(EARLY_KERAS, reason="this Keras gives masks of several Embeddings one name")


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("support.translation_model")


@pytest.fixture(scope="module")
def decoding(model):
    return importlib.import_module("support.translation_decoding")


@pytest.fixture(scope="module")
def study(model):
    return importlib.import_module("support.translation_study")


@pytest.fixture(scope="module")
def nets(model, decoding, study):
    """Two nets that have learnt nothing, but say something else for every sentence."""
    parts = model.load_parts(None, 60, 20, 20)
    languages = model.Languages.learn(parts.training, 120)
    made = []
    for seed in range(2):
        keras.utils.set_random_seed(seed)
        sizes = len(languages.source), len(languages.target)
        net = model.translation_net(*sizes, units=6, num_layers=2, dropout=0.2)
        net.set_weights([np.random.default_rng(seed).normal(size=own.shape) for own in net.get_weights()])
        made.append(net)
    return study.Nets(made, languages, decoding.Translator(languages, 5), parts.held_out[:8], "encoder_2")


def slowly(net, inputs, num_steps):
    """The same words from the whole net, run anew for every word."""
    names = [tensor.name for tensor in net.inputs]
    place = names.index("target")
    said = np.ones((len(inputs[0]), 1), "int32")
    for _ in range(num_steps):
        logits = np.array(net([*inputs[:place], said, *inputs[place + 1 :]], training=False))[:, -1]
        said = np.concatenate([said, 2 + logits[:, 2:].argmax(axis=1)[:, None].astype("int32")], axis=1)
    return said[:, 1:]


def assert_same_sentences(nets, net, inputs):
    found = nets.translator(net, inputs)
    assert found.shape == (len(inputs[0]), 5)
    texts = nets.translator.texts(slowly(net, inputs, 5))
    assert nets.translator.texts(found) == texts and len(set(texts)) > 2
    return texts


def test_units_of_encoder_and_decoder_stay_apart(nets):
    graph = tfp.unit_groups(nets.nets[0])
    assert {name: graph[name].size for name in ("encoder_1", "encoder_2", "source_embedding", "attended")} == {
        name: 6 for name in ("encoder_1", "encoder_2", "source_embedding", "attended")
    }
    assert [member.name for member in graph["encoder_2"].members] == ["encoder_2"]
    assert {"bridge_2_state", "decoder_2", "key"} <= {member.name for member in graph["bridge_2_state"].members}


def test_greedy_decoding(nets):
    inputs, _ = nets.data(nets.pairs)
    plain = assert_same_sentences(nets, nets.nets[0], inputs)
    # What stands in the place of the translation is not looked at.
    other = [
        own if tensor.name == "source" else 0 * own for own, tensor in zip(inputs, nets.nets[0].inputs, strict=True)
    ]
    assert nets.translator.texts(nets.translator(nets.nets[0], other)) == plain
    # Nor is padding.
    alone = [own[3:4, : np.count_nonzero(own[3])] for own in inputs]
    assert nets.translator.texts(nets.translator(nets.nets[0], alone)) == plain[3:4]


@needs_names
def test_decoding_of_masked_and_removed_nets(nets):
    net = nets.nets[0]
    inputs, _ = nets.data(nets.pairs)
    graph = tfp.unit_groups(net)
    mask = tfp.LayerValues({name: np.arange(graph[name].size) % 3 > 0 for name in graph})
    masked = tfp.with_on_nodes(net)
    row = np.repeat(np.concatenate([mask[name] for name in graph])[None].astype("float32"), len(inputs[0]), axis=0)
    texts = assert_same_sentences(nets, masked, [*inputs, row])
    assert texts != nets.translator.texts(nets.translator(net, inputs))
    small = tfp.remove(net, mask)
    assert small.get_layer("encoder_2").units == 4
    assert assert_same_sentences(nets, small, inputs) == texts


@needs_names
def test_decoding_under_control(nets):
    inputs, _ = nets.data(nets.pairs)
    held = neurons.control(nets.nets[0], {"encoder_2": [0]}, 0.5)
    texts = assert_same_sentences(nets, held, inputs)
    assert texts != nets.translator.texts(nets.translator(nets.nets[0], inputs))


@needs_names
def test_curve_of_erased_neurons_is_measured_by_translating(nets):
    net = nets.nets[0]
    inputs, targets = nets.data(nets.pairs)
    scores = {"encoder_2": np.arange(6.0)}
    curves = experiments.ablation_curve(
        net, (inputs, targets), scores, order="top", steps=[2], metric=nets.translator.bleu, predict=nets.translator
    )
    erased = tfp.remove(net, tfp.LayerValues({"encoder_2": np.arange(6) < 4}))
    expected = [nets.translator.bleu(targets, nets.translator(own, inputs)) for own in (net, erased)]
    np.testing.assert_allclose(curves.values, [expected], rtol=1e-6)


def test_bleu(nets):
    _, targets = nets.data(nets.pairs)
    assert nets.translator.bleu(targets, targets) == pytest.approx(100.0)
    assert nets.translator.bleu(targets, np.roll(targets, 1, axis=0)) < 40.0


def test_directions_are_erased_inside_the_net(nets, study):
    net = nets.nets[0]
    inputs, _ = nets.data(nets.pairs)
    projected, project = study.with_projection(net, "encoder_2")
    np.testing.assert_allclose(projected(inputs), net(inputs), rtol=1e-5, atol=1e-5)
    found = neurons.activations(net, inputs, "encoder_2", points="steps", progress=False)["encoder_2"]
    directions = neurons.svcca([found, found[:, ::-1]], variance=1.0).directions[0]
    project.set_weights(study._projection(directions, np.array([0, 2])))
    np.testing.assert_allclose(project(found), directions.without(found, [0, 2]), atol=1e-4)
    assert_same_sentences(nets, projected, inputs)


def train(model, folder, epochs, seed=0):
    small = {"share": 0.8, "units": 3, "num_layers": 1, "dropout": 0.3, "batch_size": 16, "learning_rate": 0.01}
    task = {"pairs": None, "num_pairs": 60, "max_words": 20, "num_held_out": 20}
    return model.train(seed, **task, **small, epochs=epochs, folder=folder)


@pytest.mark.slow
def test_training_goes_on_where_it_ended(model, nets, tmp_path, monkeypatch):
    nets.languages.save(tmp_path)
    whole, broken = (tmp_path / "trainings" / name for name in ("whole", "broken"))
    for folder in (whole, broken):
        folder.mkdir(parents=True)
    expected = train(model, whole, 3)
    assert len(expected["loss"]) == 3 and expected["held_out_loss"][2] < expected["held_out_loss"][0]

    written = []

    def interrupted(path):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        return atomic_write(path)

    atomic_write = model.atomic_write
    # In the second epoch the history is written, the net no more.
    monkeypatch.setattr(model, "atomic_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(model, broken, 3)
    monkeypatch.setattr(model, "atomic_write", atomic_write)
    found = train(model, broken, 3)
    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["held_out_loss"], expected["held_out_loss"], rtol=1e-5)
    nets_made = [keras.models.load_model(folder / model.CHECKPOINT) for folder in (whole, broken)]
    for one, other in zip(*(net.get_weights() for net in nets_made), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    # All is there: nothing is trained.
    assert train(model, whole, 3) == expected
