"""Figures of angles: what they show, and in which order."""

import numpy as np

from tfprune import plots


def test_angle_maps_put_like_units_side_by_side():
    # Units 0 and 2 are alike, and so are 1 and 3.
    angles = np.full((4, 4), 90.0)
    angles[[0, 2, 1, 3], [2, 0, 3, 1]] = 5.0
    np.fill_diagonal(angles, 0.0)
    figure = plots.angle_maps({"hidden": angles})
    image = figure.axes[0].images[0].get_array()
    assert image[0, 1] == image[2, 3] == 5.0 and image[1, 2] == 90.0
    labels = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert {frozenset(labels[:2]), frozenset(labels[2:])} == {frozenset("02"), frozenset("13")}


def test_angle_maps_of_one_and_two_units():
    figure = plots.angle_maps({"one": np.zeros((1, 1)), "two": np.array([[0.0, 30.0], [30.0, 0.0]])})
    assert figure.axes[1].images[0].get_array()[0, 1] == 30.0


def test_histogram_counts_each_pair_once():
    angles = np.array([[0.0, 3.0, 170.0], [3.0, 0.0, 88.0], [170.0, 88.0, 0.0]])
    figure = plots.angle_histograms({"hidden": np.stack([angles, angles])})
    axes = figure.axes[0]
    heights = np.array([bar.get_height() for bar in axes.patches])
    assert heights.sum() == 6 and heights[0] == heights[34] == heights[17] == 2
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["2 similar (15 degrees)", "2 complementary (165 degrees)"]


def test_accuracy_curves_are_means_with_bands():
    runs = np.array([[1.0, 0.8], [0.8, 0.4]])
    figure = plots.accuracy_against_threshold(
        {"net": {"exact": runs}}, [0, 15], baselines={"net": {"whole net": 0.9, "majority class": 0.5}}
    )
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), [0.9, 0.6])
    assert axes.lines[0].get_color() == plots.TRANSFER_COLOURS["exact"]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert np.isclose(band.max(), 1.0) and np.isclose(band.min(), 0.4)
    assert [line.get_ydata()[0] for line in axes.lines[1:3]] == [0.9, 0.5]
