"""Figures of curves of ablation and of doses hold what the records say."""

import numpy as np
import pytest

from tfprune import plots
from tfprune.experiments import AblationCurves, DoseCurve
from tfprune.plots import ORDER_COLOURS


@pytest.fixture
def curves():
    return AblationCurves(
        settings={"metric": "accuracy", "num_units": 10},
        orders=np.array(["top", "random", "random"]),
        erased=np.array(["mean"] * 3),
        num_off=np.array([0, 5, 10]),
        values=np.array([[0.9, 0.3, 0.1], [0.9, 0.7, 0.1], [0.9, 0.5, 0.1]]),
    )


def test_lines_of_ablation_are_means_over_shares(curves):
    figure = plots.ablation_curves({"one": curves, "two": [curves, curves]}, title="t")
    axes = figure.axes[0]
    top, random = axes.get_lines()
    np.testing.assert_allclose(top.get_xdata(), [0, 50, 100])
    np.testing.assert_allclose(random.get_ydata(), [0.9, 0.6, 0.1])
    assert (top.get_color(), random.get_color()) == (ORDER_COLOURS["top"], ORDER_COLOURS["random"])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["top: highest scores first (0.4)", "random: at random (0.55)"]
    assert axes.get_ylabel() == "accuracy" and len(figure.axes) == 2
    band = axes.collections[1].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(0.9) and 0.7 in np.round(band[:, 1], 6)


def test_doses_are_drawn_in_order():
    record = DoseCurve(
        settings={"metric": "bleu"},
        doses=np.array([2.0, -2.0, 0.0]),
        success=np.array([0.5, 0.25, 0.0]),
        quality=np.array([10.0, 20.0, 30.0]),
        full_quality=np.array(30.0),
        labels=np.zeros((3, 1), "U1"),
        full_labels=np.zeros(1, "U1"),
    )
    figure = plots.dose_curves({"tense": record}, title="t")
    above, below = figure.axes
    np.testing.assert_allclose(above.get_lines()[0].get_xydata(), [[-2, 25], [0, 0], [2, 50]])
    np.testing.assert_allclose(below.get_lines()[0].get_ydata(), [20, 30, 10])
    np.testing.assert_allclose(below.get_lines()[1].get_ydata(), [30, 30])
