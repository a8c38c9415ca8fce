"""The example of single directions: its nets and labels, and what a short run leaves and says."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import rankdata

from tfprune.experiments import AblationCurves, load_grid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# A few seconds: the dense net, two shares, one seed, few images.
SHORT = ["--nets", "[dense]", "--norms", "[plain]", "--shares", "[0.0, 1.0]", "--seeds", "[3]", "--num_train", "150"]
SHORT += ["--steps", "4", "--repeats", "2", "--num_points", "100", "--workers", "0"]


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("single_directions")


@pytest.fixture(scope="module")
def support(example):
    return importlib.import_module("support.single_directions")


@pytest.fixture(scope="module")
def report(example):
    return importlib.import_module("support.single_directions_report")


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one short run."""
    folder = tmp_path_factory.mktemp("single_directions")
    example.main([*SHORT, "--output", str(folder)])
    return folder


@pytest.mark.slow
def test_both_nets_fit_and_only_one_has_learnt(folder):
    true, random = sorted(load_grid(folder / "nets"), key=lambda run: run.settings["share"])
    for run in (true, random):
        assert run.result["train_loss"] <= 0.05 and run.result["train_accuracy"] > 0.97
        assert run.result["groups"] == ["dense1", "dense2"] and run.result["selectivity/dense2"].shape == (128,)
        assert 0.0 <= run.result["selectivity/dense1"].min() <= run.result["selectivity/dense1"].max() <= 1.0
    assert true.result["test_accuracy"] > 0.8 and random.result["test_accuracy"] < 0.3
    assert random.result["epochs_taken"] > true.result["epochs_taken"]


@pytest.mark.slow
def test_curves_begin_with_all_units_and_end_with_none(folder):
    for run in load_grid(folder / "nets"):
        zero, mean = (AblationCurves.load(run.folder / f"{by}.npz") for by in ("zero", "mean"))
        assert zero.num_off.tolist() == mean.num_off.tolist() == [0, 64, 128, 192, 256]
        assert zero.orders.tolist() == ["top", "bottom", "random", "random"]
        # The first points are those of the training images on which it was measured: 100 of 150.
        assert np.ptp(zero.values[:, 0]) == 0.0 and zero.values[0, 0] > 0.95
        # Without any unit, all points get the class that the last bias prefers.
        assert np.ptp(zero.values[:, -1]) == 0.0 and zero.values[0, -1] < 0.3


@pytest.mark.slow
def test_results_say_what_the_records_say(folder):
    results = json.loads((folder / "results.json").read_text())
    runs = sorted(load_grid(folder / "nets"), key=lambda run: run.settings["share"])
    assert [row["share"] for row in results["nets"]] == [0.0, 1.0]
    areas = []
    for row, run in zip(results["nets"], runs, strict=True):
        heights = AblationCurves.load(run.folder / "zero.npz").values
        steps = (heights[:, 1:] + heights[:, :-1]).mean(axis=1) / 2
        assert row["area_zero"] == {"mean": pytest.approx(steps[2:].mean()), "std": 0.0}
        assert row["selective_costs_zero"]["mean"] == pytest.approx(steps[1] - steps[0])
        assert row["test_accuracy"]["mean"] == run.result["test_accuracy"] and row["seeds"] == [3]
        correlations, active, selective = [], 0, 0.0
        for group in ("dense1", "dense2"):
            chosen = run.result[f"active/{group}"]
            ranks = [rankdata(run.result[f"{of}/{group}"][chosen]) for of in ("selectivity", "zero")]
            correlations.append(np.corrcoef(*ranks)[0, 1])
            active, selective = active + chosen.sum(), selective + run.result[f"selectivity/{group}"][chosen].sum()
        assert row["rank_correlation_zero"]["mean"] == pytest.approx(np.mean(correlations), abs=1e-9)
        assert row["num_silent"]["mean"] == 256 - active
        assert row["selectivity"]["mean"] == pytest.approx(selective / active)
        areas.append(steps[2:].mean())
    first = results["answers"][0]
    assert first["question"] == "Do nets that memorise lose more?" and first["net"].endswith("no batch norm, zero")
    assert first["answer"] == ("yes" if areas[1] < areas[0] else "no")
    assert f"area {areas[0]:.2f} at 0 %" in first["figures"]


@pytest.mark.slow
def test_pictures_and_settings_are_there(folder):
    names = [
        "erased_at_random.png",
        "erased_by_selectivity_dense.png",
        "selectivity.png",
        "selectivity_and_importance.png",
    ]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    assert "num_train: 150" in (folder / "settings.yaml").read_text()


@pytest.mark.slow
def test_second_start_trains_nothing(example, folder, monkeypatch, capsys):
    monkeypatch.setattr("tfprune.experiments.grid_workers.execute", None)
    example.main([*SHORT, "--output", str(folder)])
    out = capsys.readouterr().out
    assert "Do nets that memorise" in out and "no batch norm" in out


def test_randomised_labels(support):
    labels = np.arange(1000) % 10
    none, half, whole = (support.randomise(labels, share, seed=1) for share in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(none, labels)
    # Of those drawn anew, a tenth stay true by chance.
    assert 0.40 < np.mean(half != labels) < 0.50 and 0.86 < np.mean(whole != labels) < 0.94
    changed = half != labels
    np.testing.assert_array_equal(whole[changed], half[changed])
    np.testing.assert_array_equal(labels, np.arange(1000) % 10)


@pytest.mark.parametrize(
    ("net", "norm", "shape", "parameters"),
    [
        ("dense", "plain", (8, 8, 1), 64 * 128 + 128 + 128 * 129 + 1290),
        ("dense", "batch_norm", (8, 8, 1), 64 * 128 + 128 + 128 * 129 + 1290 + 2 * 4 * 128),
        ("conv", "plain", (8, 8, 1), 160 + 32 * 145 + 32 * 289 + 10 * (16 * 32 + 1)),
        ("conv", "batch_norm", (32, 32, 3), 28 * 32 + 64 * 289 + 64 * 577 + 10 * (16 * 64 + 1) + 4 * 160),
    ],
)
def test_nets(support, net, norm, shape, parameters):
    assert support.build(net, norm, shape).count_params() == parameters


def test_places_are_those_within_layers_and_silent_units_stand_in_the_middle(support):
    selectivity = support.tfp.LayerValues({"a": [0.9, 0.0, 0.1, 0.5], "b": [0.01, 0.02]})
    active = {"a": np.array([True, False, True, True]), "b": np.array([True, True])}
    places = support.places_within_layers(selectivity, active)
    np.testing.assert_allclose(places["a"], [5 / 6, 0.5, 1 / 6, 0.5])
    np.testing.assert_allclose(places["b"], [0.25, 0.75])
    silent = support.places_within_layers(selectivity, {"a": active["a"], "b": ~active["b"]})
    assert silent["b"].tolist() == [0.5, 0.5]


def test_answers_count_pairs(report):
    pairs = [(0.6, 0.3), (0.5, 0.4), (0.4, 0.5)]
    row = report._compared("q", "yes", "net", "{} and {}", pairs, smaller=1)
    assert row["answer"] == "mixed" and row["figures"] == "0.50 and 0.40; so in 2 of 3 pairs"
    assert report._compared("q", "yes", "net", "{} {}", pairs[:2], smaller=1)["answer"] == "yes"
    assert report._compared("q", "yes", "net", "{} {}", pairs[:2], smaller=0)["answer"] == "no"
    assert report._compared("q", "yes", "net", "{} {}", [*pairs, (2.0, 1.0)], smaller=0)["answer"] == "mostly not"
    words = [report._sign(value) for value in (0.1, -0.29, 0.5, 0.7, -0.7)]
    assert words == ["no", "no", "weak", "yes", "yes, of unimportance"]


def test_settings_for_real_images(example):
    path = EXAMPLES / "settings" / "single_directions.yaml"
    settings = example.read_settings(example.Settings, ["--config", str(path), "--cifar", "cifar10.npz"])
    assert settings.data == "cifar" and settings.num_train == 2000 and settings.shares == (0.0, 0.5, 1.0)
    assert example.Settings().data == "digits" and example.Settings(mnist=Path("a")).data == "mnist"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "expected epochs of at least 1, received 0"),
        (["--shares", "[1.5]"], "expected shares from 0 to 1"),
        (["--seeds", "[1, 1]"], "expected seeds that are given once each"),
        (["--fit_loss", "0"], "expected fit_loss and learning_rate above 0"),
        (["--workers", "-1"], "expected workers of at least 0"),
        (["--mnist", "a", "--cifar", "b"], "received both"),
    ],
)
def test_wrong_settings(example, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        example.main(arguments)
    assert message in capsys.readouterr().err


def test_wrong_number_of_images(support):
    with pytest.raises(ValueError, match="num_train: expected a number from 10 to 1348, received 2000"):
        support.load_data("digits", None, 2000)
