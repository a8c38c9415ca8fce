"""The example of chapter 2, quickly, on the digits: its records, tables and figures."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import mnist_weight_pruning  # noqa: E402
from support import weight_pruning  # noqa: E402


@pytest.fixture(scope="module")
def scores():
    return weight_pruning.compare_weight_scores(seed=0, activation="tanh", mnist=None, epochs=1, every=20, samples=100)


def test_scores_along_a_training(scores):
    assert scores["steps"].tolist() == [20, 40]
    assert scores["raw"].shape == (2, 3, len(weight_pruning.RAW))
    assert scores["absolute"].shape == (2, 3, len(weight_pruning.ABSOLUTE))
    names = list(weight_pruning.RAW)
    # Zeroing one weight in a hundred of 72: none; of the exact change, the loss cannot rise by a single one.
    assert (scores["raw"][:, 0] == 0).all()
    assert (scores["negative"] > 0).all() and (scores["negative"] < 1).all()
    # A Taylor series ranks small kernels nearly as the exact change does.
    exact, taylor = (scores[f"ranking_raw_{name}"].ravel() for name in (names[0], names[1]))
    assert np.corrcoef(exact, taylor)[0, 1] > 0.8


def test_figures_of_the_scores(scores, tmp_path):
    for draw in (
        mnist_weight_pruning.draw_negative,
        mnist_weight_pruning.draw_changes,
        mnist_weight_pruning.draw_rankings,
    ):
        draw("tanh", scores, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *["changes_absolute_tanh.png", "changes_raw_tanh.png", "negative_tanh.png"],
        *["rankings_absolute_tanh.png", "rankings_raw_tanh.png"],
    ]
    assert mnist_weight_pruning.score_table("tanh", scores).row_count == 6 + 6


@pytest.mark.slow
def test_schedule_and_the_units_that_it_empties():
    pruned = weight_pruning.prune_weights_by_schedule(seed=0, pruned=True, mnist=None, epochs=6)
    np.testing.assert_allclose(pruned["pruning_steps"][:, 1], [0.2, 0.5, 0.8, 0.9])
    assert 0.1 <= pruned["nonzero"] < 0.13
    left = pruned["parameters_left"]
    assert (np.diff(left) <= 0).all() and left[-1] < left[0] < pruned["parameters"]
    # Units that nothing reads, or that are constant, go without loss once their means are passed on.
    assert abs(pruned["accuracy_mean"][0] - pruned["test_accuracy"]) < 0.005
    assert mnist_weight_pruning.share_table(pruned).row_count == len(left)
    assert len(mnist_weight_pruning.shares_figure(pruned, pruned).axes) == 2
