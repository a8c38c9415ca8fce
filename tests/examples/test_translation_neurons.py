"""The example of translation: its settings, and what a quick run leaves and says."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("translation_neurons")


def test_open_settings_depend_on_the_pairs(example):
    text = example.read_settings(example.Settings, ["--pairs", "pairs.tsv"]).filled()
    assert (text.units, text.num_layers, text.max_words, text.dropout) == (500, 2, 10, 0.2)
    grammar = example.read_settings(example.Settings, ["--epochs", "3"]).filled()
    assert (grammar.units, grammar.num_layers, grammar.epochs, grammar.dropout) == (128, 2, 3, 0.0)
    assert None not in [value for name, value in vars(grammar).items() if name not in ("pairs", "output")]
    assert example.task(grammar) == {"pairs": None, "num_pairs": 4000, "max_words": 20, "num_held_out": 500}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "expected epochs of at least 1, received 0"),
        (["--share", "1.5"], "expected share above 0 and at most 1, received 1.5"),
        (["--seeds", "[1]"], r"expected at least two different seeds, received [1]"),
        (["--seeds", "[1,1,2]"], "expected at least two different seeds"),
        (["--zs", "[]"], "expected at least one of zs and one of betas"),
        (["--workers", "-1"], "expected workers of at least 0"),
    ],
)
def test_wrong_settings(example, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        example.main(arguments)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("content", "message"), [(b"", "the file is empty"), (b"no tab\n", "line 1: expected")])
def test_wrong_file_is_refused_before_any_work(example, tmp_path, content, message):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        example.main(["--pairs", str(path), "--output", str(tmp_path / "output")])
    assert not (tmp_path / "output" / "trainings").exists()


def test_published_figures(example):
    report = importlib.import_module("support.translation_report")
    assert report.PUBLISHED_SHARES == (0.1, 0.2, 0.3, 0.4)
    assert report.PUBLISHED["min correlation"]["top"][0] == 36.5
    assert report.PUBLISHED["linear regression"]["bottom"][3] == 26.4


def test_best_dose_leaves_half_of_the_quality(example):
    report = importlib.import_module("support.translation_report")
    rows = {"success": np.array([0.1, 0.9, 0.5]), "full_quality": np.array(60.0)}
    assert report.best_dose(SimpleNamespace(quality=np.array([60.0, 20.0, 30.0]), **rows)) == 2
    assert report.best_dose(SimpleNamespace(quality=np.array([1.0, 2.0, 3.0]), **rows)) == 1


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one quick run."""
    folder = tmp_path_factory.mktemp("translation")
    example.main(["--quick", "true", "--output", str(folder)])
    return folder


@pytest.mark.slow
def test_quick_run(folder):
    results = json.loads((folder / "results.json").read_text())
    assert len(results["bleu"]) == 2 and all(0.0 <= own <= 100.0 for own in results["bleu"])
    methods = ["max correlation", "min correlation", "linear regression", "probe (tense)", "probeless (tense)"]
    assert list(results["best_neurons"]) == methods and list(results["erasing"]) == [*methods, "svcca directions"]
    assert all(own.startswith("encoder_2[") for own in results["best_neurons"]["max correlation"])
    # Where nothing is erased, all curves begin with the net itself.
    for name, own in results["erasing"].items():
        assert own["top"][0] == own["bottom"][0] == own["random"][0] == pytest.approx(results["bleu"][0], rel=1e-6)
        assert len(own["top"]) == len(own["shares"]) and own["shares"][0] == 0.0, name
    for own in results["control"]:
        assert 0.0 <= own["one_neuron"]["success"][0] <= 1.0 and own["one_neuron"]["num_sentences"] >= 1
    histories = [np.array(own["loss"]) for own in results["histories"].values()]
    assert len(histories) == 2 and all(len(own) == 1 and own[0] > 1.0 for own in histories)
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["quick"] is True and settings["units"] == 24 and settings["seeds"] == [0, 1]
    assert (folder / "erasing.png").stat().st_size > 10_000


@pytest.mark.slow
def test_second_start_trains_nothing(example, folder, monkeypatch, capsys):
    monkeypatch.setattr("tfprune.experiments.grid_workers.execute", None)
    monkeypatch.setattr(example, "study", lambda *arguments: None)
    example.main(["--quick", "true", "--output", str(folder)])
    assert str(folder) in capsys.readouterr().out.replace("\n", "")
