"""The example of a language model: a short run, what it leaves and says, and what it refuses."""

import importlib
from pathlib import Path

import keras
import numpy as np
import pytest

pytest.importorskip("keras_hub", reason="keras_hub is not installed (the extra hub)")

import tfprune as tfp

pytestmark = pytest.mark.filterwarnings("ignore")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = {
    **{"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 12, "num_tokens": 300, "length": 12},
    **{"num_sentences": 300, "epochs": 1, "steps_after": 2, "num_scored": 24, "num_tested": 12},
}


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("language_model")


@pytest.fixture(scope="module")
def study(example):
    return importlib.import_module("support.language_study")


def words_of(folder, *more):
    return ["--output", str(folder), *(f"--sizes.{key}={value}" for key, value in SHORT.items()), *more]


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("language_model")
    example.main(words_of(folder, "--kinds", "[feed-forward, blocks, layers]", "--scores", "[weight_norm]"))
    return folder


def results(folder, what):
    from tfprune.experiments import load_grid

    return load_grid(folder / what)


def test_a_short_run(folder, study):
    trained = results(folder, "trainings")[0]
    assert trained.result["curve"][-1] < trained.result["num_tokens"]
    model = keras.saving.load_model(trained.folder / "model.keras", compile=False)
    assert model.count_params() == trained.result["parameters"]
    corpus = study.corpus_of(None, "utf-8", study.Sizes(**SHORT))
    sizes = study.Sizes(**SHORT)
    for run in results(folder, "cuts"):
        kind, score = run.settings["kind"], run.settings["score"]
        found = run.result["cuts"][0]
        scores = study.scores_of(model, kind, score, corpus, sizes, 0)
        small = tfp.remove(model, study.mask_of(model, kind, scores, 0.5))
        assert found["parameters"] == small.count_params() < model.count_params()
        # What the sweep found of the masked net is the perplexity of the net that is really smaller.
        assert found["zero"] == pytest.approx(study.perplexity(small, corpus, sizes), rel=1e-4)
    assert {run.result["cuts"][0]["form"] for run in results(folder, "trained_again").where(kind="layers")} == {"class"}
    seen = results(folder, "looks")[0].result
    assert seen["heads"].shape == (2, 2) and seen["blocks"].shape == (2, 2)
    said = seen["said"]
    assert set(said) == {"whole", "feed-forward", "layers", "feed-forward and layers"}
    assert said["layers"]["cache_bytes"] * 2 == said["whole"]["cache_bytes"]
    assert all(own["tokens_per_second"] > 0 and len(own["texts"]) == 3 for own in said.values())
    assert {own.name for own in folder.glob("*.png")} == {"perplexity.png", "heads_and_blocks.png"}


def test_a_second_start_trains_nothing(folder, example, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: pytest.fail("it trains again"))
    example.main(words_of(folder, "--kinds", "[feed-forward, blocks, layers]", "--scores", "[weight_norm]"))


def test_a_block_and_a_head_are_worth_what_the_masked_loss_says(folder, study):
    trained, seen = results(folder, "trainings")[0], results(folder, "looks")[0].result
    model, sizes = keras.saving.load_model(trained.folder / "model.keras", compile=False), study.Sizes(**SHORT)
    corpus = study.corpus_of(None, "utf-8", sizes)
    small = tfp.remove(model, {"blocks": np.arange(4) != 2})
    change = np.log(study.perplexity(small, corpus, sizes)) - np.log(study.perplexity(model, corpus, sizes))
    assert seen["blocks"][1, 0] == pytest.approx(change, abs=1e-4)


def test_gpt2_is_built(study):
    model = study.build("gpt2", 300, study.Sizes(**SHORT))
    assert type(model).__name__ == "GPT2CausalLM"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--net", "bert"], "net: expected one of llama, gpt2"),
        (["--seeds", "[]"], "seeds: expected at least one"),
        (["--shares", "[0.5, 1.5]"], "shares: expected fractions between 0 and 1"),
        (["--kinds", "[depth]"], "kinds: expected some of"),
        (["--scores", "[taste]"], "scores: expected some of"),
        (["--workers", "-1"], "workers: expected at least 0"),
        (["--sizes.num_heads", "5"], "hidden_dim: expected a multiple of 10, twice the heads, received 8"),
        (["--sizes.epochs", "0"], "epochs: expected more than 0, received 0"),
        (["--text", "nowhere.txt"], "text: there is no file"),
    ],
)
def test_what_it_refuses(example, tmp_path, capsys, words, told):
    with pytest.raises(SystemExit):
        example.main(words_of(tmp_path, *words))
    assert told in " ".join(capsys.readouterr().err.split())


def test_too_little_text(example, tmp_path):
    (tmp_path / "short.txt").write_text("One line.\nAnd another one.\n")
    with pytest.raises(ValueError, match="rows of 12 tokens to learn from"):
        example.main(words_of(tmp_path / "out", "--text", str(tmp_path / "short.txt")))
