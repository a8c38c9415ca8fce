"""The example of chapter 4, quickly, on the digits: its records, tables and figures."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import mnist_unit_pruning  # noqa: E402
from support import unit_pruning  # noqa: E402


@pytest.fixture(scope="module")
def schedule():
    options = {"seed": 0, "optimizer": "adam", "mnist": None, "epochs": 6}
    return {pruned: unit_pruning.prune_by_schedule(pruned=pruned, **options) for pruned in (True, False)}


def test_schedule_leaves_the_widths_of_the_thesis(schedule):
    pruned, whole = schedule[True], schedule[False]
    widths = [
        int((pruned[f"kernel_{name}"] != 0).any(axis=(0, 1, 2)[: pruned[f"kernel_{name}"].ndim - 1]).sum())
        for name in ("conv1", "conv2", "fc1")
    ]
    assert widths == [4, 7, 26]
    assert pruned["parameters"] == whole["untrained_parameters"] < whole["parameters"] / 4
    np.testing.assert_allclose(pruned["pruning_steps"][:, 1], [0.1, 0.2, 0.4, 0.6])
    # Repaired by least squares the cut net keeps most of what the whole one knows; by the mean it does not.
    assert whole["untrained_least_squares"] > whole["test_accuracy"] - 0.1
    assert whole["untrained_least_squares"] > whole["untrained_mean"] + 0.1


@pytest.mark.slow
def test_scores_are_compared_along_the_training():
    result = unit_pruning.compare_scores(seed=0, activation="relu", mnist=None, epochs=2, every=40)
    count = len(unit_pruning.SCORES)
    assert result["steps"].tolist() == [0, 40, 80]
    assert result["changes"].shape == (3, 3, count) and result["by_fraction"].shape == (3, 7, count)
    # The fraction of one half is measured twice, and is the same thing.
    np.testing.assert_allclose(result["by_fraction"][:, 4], result["changes"][:, 2], atol=1e-5)
    assert (np.abs(result["correlations"]) <= 1).all()


@pytest.mark.slow
def test_beyond_has_the_widths_that_it_is_told():
    options = {"seed": 0, "widths": [3, 5, 7], "mnist": None, "epochs": 3, "full_epochs": 2}
    cut, scratch = (unit_pruning.beyond(start=start, **options) for start in ("cut", "scratch, taught"))
    assert cut["parameters"] == scratch["parameters"] == 30 + 140 + 4 * 5 * 7 + 7 + 80
    assert 0 < cut["untrained_accuracy"] < 1 and np.isnan(scratch["untrained_accuracy"])


def test_settings_name_what_is_unknown():
    with pytest.raises(ValueError, match="received 'afresh'"):
        mnist_unit_pruning.Settings(starts=["afresh"])
    with pytest.raises(ValueError, match="received 'score'"):
        mnist_unit_pruning.Settings(parts=["score"])
