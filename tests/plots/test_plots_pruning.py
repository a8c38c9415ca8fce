"""Figures of pruning: what they draw is what they are given."""

import numpy as np
import pytest

from tfprune import plots


def test_line_panels():
    steps = np.arange(4)
    several = np.array([[0.0, 1, 2, 3], [1.0, 2, 3, 4], [5.0, 5, 5, 5]])
    panels = {"one": {"a": (steps, steps**2), "b": (steps, several)}, "two": {"b": (steps, -steps)}}
    figure = plots.line_panels(
        panels, title="title", x_label="step", y_label="loss", linear_within=0.1, marks=[(2, "here")], shared_y=True
    )
    first, second = [axes for axes in figure.axes if axes.get_title()]
    lines = {line.get_label(): line for line in first.get_lines()}
    np.testing.assert_allclose(lines["a"].get_ydata(), steps**2)
    np.testing.assert_allclose(lines["b"].get_ydata(), np.median(several, 0))
    # One name has one colour in all panels, and all panels one range.
    assert lines["b"].get_color() == {line.get_label(): line for line in second.get_lines()}["b"].get_color()
    assert first.get_ylim() == second.get_ylim() and first.get_yscale() == "symlog"
    assert [text.get_text() for text in first.texts] == ["here"]


def test_kernel_maps():
    kernels = {"conv": np.ones((2, 2, 3, 4)), "dense": np.array([[0.0, -4.0], [0.0, 2.0]])}
    figure = plots.kernel_maps({"before": kernels, "after": kernels}, title="title")
    axes = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert len(axes) == 4 and "conv, before: 4 of 4 units" in axes
    (image,) = axes["dense, after: 1 of 2 units"].get_images()
    np.testing.assert_allclose(image.get_array(), [[0.0, 1.0], [0.0, 0.5]])
    with pytest.raises(KeyError):
        plots.kernel_maps({"before": kernels, "after": {}}, title="title")
