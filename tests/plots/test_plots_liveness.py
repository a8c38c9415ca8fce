"""Figures of living and dying units hold what they were given."""

import doctest
import importlib

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from tfprune import plots

QUANTITIES = {"penalty": "MRP (nats)", "norm": "norm of the weights"}


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def rows():
    steps = np.array([0, 10, 20])
    living = {"steps": steps, "penalty": np.array([1.0, 2.0, 3.0]), "norm": np.array([1.0, 1.0, 2.0])}
    dying = {"steps": steps, "penalty": np.array([1.0, 0.5, 0.0]), "norm": np.array([1.0, 10.0, 400.0])}
    return {"conv1/0": {"no attack": living, "attacked": dying}, "conv1/4": {"no attack": living}}


@pytest.fixture
def histogram():
    return {
        "steps": np.array([0, 10, 40]),
        "edges": np.array([-1.0, 0.0, 2.0]),
        "counts": np.array([[3, 1], [4, 0], [0, 0]]),
    }


def test_docstring_examples():
    assert doctest.testmod(importlib.import_module("tfprune.plots.liveness")).failed == 0


def test_curves(rows, tmp_path):
    figure = plots.liveness_curves(rows, QUANTITIES, title="Attacks", windows={"attacked": (5, 15)})
    panels = np.array(figure.axes).reshape(2, 2)
    (original, attacked) = panels[0, 0].get_lines()
    assert attacked.get_ydata().tolist() == [1.0, 0.5, 0.0] and attacked.get_xdata().tolist() == [0, 10, 20]
    assert to_rgba(original.get_color()) == to_rgba("black")
    assert len(panels[1, 0].get_lines()) == 1
    assert [axes.get_title() for axes in panels[0]] == ["MRP (nats)", "norm of the weights"]
    assert [axes.get_ylabel() for axes in panels[:, 0]] == ["conv1/0", "conv1/4"]
    assert [axes.get_yscale() for axes in panels.ravel()] == ["linear", "log", "linear", "linear"]
    assert texts(figure.legends[0]) == ["no attack", "attacked"]
    (window,) = panels[0, 0].patches
    # A rectangle or a polygon, depending on the version of matplotlib.
    times = window.get_path().transformed(window.get_patch_transform()).vertices[:, 0]
    assert (times.min(), times.max()) == (5, 15) and not panels[1, 0].patches
    plots.save_figure(figure, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curve_that_falls_to_zero_keeps_its_zero_on_a_wide_axis(rows):
    rows["conv1/0"]["attacked"]["penalty"] = np.array([100.0, 1.0, 0.0])
    figure = plots.liveness_curves(rows, QUANTITIES, title="Attacks")
    assert figure.axes[0].get_yscale() == "symlog"


def test_histograms(histogram, tmp_path):
    figure = plots.histograms_over_time(
        {"no attack": histogram, "attacked": histogram},
        title="Outputs",
        value_label="output",
        windows={"attacked": (5, 15)},
    )
    first, second = figure.axes[:2]
    (mesh,) = first.collections
    assert mesh.get_array().filled(0.0).tolist() == [[0.75, 1.0, 0.0], [0.25, 0.0, 0.0]]
    assert mesh.get_coordinates()[0, :, 0].tolist() == [-5.0, 5.0, 25.0, 55.0]
    assert [line.get_xdata()[0] for line in second.get_lines()] == [5, 15] and not first.get_lines()
    assert [axes.get_title() for axes in (first, second)] == ["no attack", "attacked"]
    plots.save_figure(figure, tmp_path / "histograms.png")


def test_single_moment(histogram):
    panel = {"steps": [3], "edges": histogram["edges"], "counts": histogram["counts"][:1]}
    figure = plots.histograms_over_time({"one": panel}, title="Outputs", value_label="output", num_columns=1)
    assert figure.axes[0].collections[0].get_coordinates()[0, :, 0].tolist() == [2.5, 3.5]


def test_axis_of_values_holds_what_is_filled(histogram):
    figure = plots.histograms_over_time({"near": histogram}, title="Outputs", value_label="output")
    assert figure.axes[0].get_yscale() == "linear" and figure.axes[0].get_ylim() == (-1.0, 2.0)
    far = histogram | {"edges": np.array([-1.0, 0.0, 20.0, 500.0]), "counts": np.array([[3, 1, 0]] * 3)}
    axes = plots.histograms_over_time({"far": far}, title="Outputs", value_label="output").axes[0]
    assert axes.get_yscale() == "asinh" and axes.get_ylim() == (-1.0, 20.0)
    assert axes.get_yticks().tolist() == [0.0, -1.0, 1.0, 10.0]


def test_what_cannot_be_drawn_is_refused(rows, histogram):
    for empty in ({}, {"conv1/0": {}}):
        with pytest.raises(ValueError, match="at least one quantity and one training of each unit"):
            plots.liveness_curves(empty, QUANTITIES, title="")
    with pytest.raises(ValueError, match=r"the training 'no attack' of 'conv1/0' has no \['loss'\]"):
        plots.liveness_curves(rows, {"loss": "loss"}, title="")
    rows["conv1/4"]["no attack"] = rows["conv1/4"]["no attack"] | {"norm": np.zeros(2)}
    with pytest.raises(ValueError, match="'conv1/4' have unequal shapes"):
        plots.liveness_curves(rows, QUANTITIES, title="")
    with pytest.raises(ValueError, match="at least one panel"):
        plots.histograms_over_time({}, title="", value_label="")
    with pytest.raises(ValueError, match=r"expected counts of shape \(3, 2\).*'a', received \(2, 2\)"):
        plots.histograms_over_time({"a": histogram | {"counts": np.ones((2, 2))}}, title="", value_label="")
