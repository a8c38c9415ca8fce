"""The study of removals, in its quick form on the digits, and what it says of targets."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tfprune import experiments

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("removal_study")


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one quick run, cut down to half of the units."""
    folder = tmp_path_factory.mktemp("removal")
    with pytest.MonkeyPatch.context() as patch:
        dense = replace(example.DIGITS_STUDIES["dense"], sparsities=(0.5,))
        patch.setattr(example, "DIGITS_STUDIES", {"dense": dense})
        example.main(["--quick", "--output", str(folder)])
    return folder


@pytest.mark.slow
def test_half_of_the_units_go_at_little_loss(folder):
    grid = experiments.RemovalGrid.load(folder / "dense_0.npz")
    assert grid.full_accuracy > 0.93 and grid.settings["full_parameters"] == 6570
    assert set(grid.parameters) == {2778.0}
    repaired = grid.accuracy_at("least_squares", "least_squares", 0.5)
    assert repaired > grid.full_accuracy - 0.03
    assert repaired > grid.accuracy_at("least_squares", "zero", 0.5)


@pytest.mark.slow
def test_summary_says_what_the_records_say(folder):
    grid = experiments.RemovalGrid.load(folder / "dense_0.npz")
    summary = json.loads((folder / "results.json").read_text())
    (target,) = summary["targets"]
    reached = grid.accuracy_at("least_squares", "least_squares", 0.5)
    assert target["reached"] == reached and target["wanted"] == pytest.approx(grid.full_accuracy - 0.015)
    assert target["met"] == (reached >= target["wanted"])
    assert summary["results"]["dense"][0]["accuracy"] == grid.accuracy.tolist()
    assert "keras" in summary["versions"] and summary["settings"]["num_calibration"] == 2000
    assert {path.name for path in folder.glob("*.png")} == {"accuracy_against_sparsity.png"}


@pytest.mark.slow
def test_target_that_was_not_measured_is_neither_met_nor_missed(example, folder):
    grid = experiments.RemovalGrid.load(folder / "dense_0.npz")
    targets = importlib.import_module("support.removal_targets")
    study = replace(
        example.DIGITS_STUDIES["dense"], targets=(targets.Target(0.5, at_least=1.1), targets.Target(0.9, at_least=0.1))
    )
    rows = targets.target_rows({"dense": [grid]}, {"dense": study})
    assert [row["met"] for row in rows] == [False, None]


def test_groups_of_block_interiors_alone_are_scored(example):
    targets = importlib.import_module("support.removal_targets")
    model = example.real_nets.residual_net()
    scores = targets.REAL_STUDIES["residual_interiors"].functions(model, 0)["weight_norm"](model, None)
    assert len(scores) == 6 and all(name.endswith("conv1") for name in scores)
    assert scores.size == 2 * (16 + 32 + 64)


def test_nets_without_a_record_are_not_whole(example, tmp_path):
    for name in ("lstm_0.keras", "lstm_1.keras", "lstm_1.json"):
        (tmp_path / name).write_text("")
    assert example.trained_seeds(tmp_path, "lstm") == [1]


@pytest.mark.slow
def test_training_starts_from_each_repair_and_from_scratch(example, folder, monkeypatch, tmp_path):
    model, data = example.digits_net("dense", 0, 1)
    training = importlib.import_module("support.training_after")
    monkeypatch.setattr(training, "_train", lambda *_: None)
    record = training.training_study(
        (model, data), "thesis", 0, epochs=[1], calibration=data[0][0], path=tmp_path / "training.npz"
    )
    assert record.start.tolist() == [*experiments.REPAIRS, "from scratch"] * 2
    accuracy = dict(zip(record.start, record.accuracy, strict=True))
    assert accuracy["least_squares"] > accuracy["from scratch"] + 0.2
    assert training.training_table(record).row_count == 5
    assert np.array_equal(record.accuracy[:5], record.accuracy[5:])
