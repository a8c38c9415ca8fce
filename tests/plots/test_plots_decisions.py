"""Figures of nets on the plane and of kernels against each other: what they draw is what they are given."""

import numpy as np
import pytest
from PIL import Image

from tfprune import plots

POINTS = np.array([[0.5, 0.5], [-0.5, 0.2], [0.1, -0.3]])
LABELS = np.array([0, 1, 1])


def test_decision_maps():
    maps = {"first": np.linspace(0, 1, 16).reshape(4, 4), "second": np.full((4, 4), 0.25)}
    figure = plots.decision_maps(maps, POINTS, LABELS, limit=1.5, title="title")
    panels = {axes.get_title(): axes for axes in figure.axes if axes.get_title()}
    assert list(panels) == ["first", "second"]
    (image,) = panels["first"].get_images()
    np.testing.assert_allclose(image.get_array(), maps["first"], atol=1e-6)
    # The second input points upwards, and both maps have one scale of colours.
    assert image.origin == "lower" and image.get_extent() == [-1.5, 1.5, -1.5, 1.5] and image.get_clim() == (0, 1)
    clouds = panels["first"].collections
    np.testing.assert_allclose(clouds[0].get_offsets(), POINTS[:1])
    np.testing.assert_allclose(clouds[1].get_offsets(), POINTS[1:])


def test_map_that_is_not_square_is_refused():
    with pytest.raises(ValueError, match=r"maps \(resolution, resolution\), received \(4, 3\) for 'first'"):
        plots.decision_maps({"first": np.zeros((4, 3))}, POINTS, LABELS, limit=1.0, title="title")


def test_kernel_scatter_marks_weights_that_never_moved():
    initial = np.array([[0.1, -0.2], [0.3, 0.05]])
    first = initial + [[0.0, 1.0], [0.0, 0.0]]
    second = initial + [[0.0, 0.0], [0.5, 0.0]]
    figure = plots.kernel_scatter({("one", "other"): (first, second)}, initial, title="title")
    whole, middle = figure.axes
    assert "50.0% never moved" in whole.get_title() and whole.get_xlabel() == "weight, one"
    moved, still = whole.collections
    np.testing.assert_allclose(moved.get_offsets(), [[0.8, -0.2], [0.3, 0.8]])
    np.testing.assert_allclose(still.get_offsets(), [[0.1, 0.1], [0.05, 0.05]])
    assert middle.get_xlim() == (-0.25, 0.25)


def test_bound_scatter_has_the_line_and_leaves_zeros_out():
    clouds = {"net": ([1.0, 10.0, 0.0], [0.1, 0.0, 0.2]), "other": ([5.0], [2.0])}
    figure = plots.bound_scatter({"panel": clouds}, title="title", y_label="change")
    (axes,) = figure.axes
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[1.0, 0.1]])
    (line,) = axes.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    assert axes.get_ylim()[1] >= line.get_xdata().max() and axes.get_xscale() == "log"


def test_animation_holds_every_picture(tmp_path):
    maps = np.stack([np.full((4, 4), value) for value in (0.0, 0.5, 1.0)])
    frames = plots.decision_frames(maps, POINTS, LABELS, limit=1.0, titles=["one", "two", "three"])
    path = tmp_path / "training.gif"
    plots.save_animation(frames, path, pictures_per_second=10)
    with Image.open(path) as animation:
        assert animation.n_frames == 3 and animation.info["loop"] == 0 and animation.info["duration"] == 100
        colours = []
        for number in range(3):
            animation.seek(number)
            # A place of the map without a point.
            colours.append(animation.convert("RGB").getpixel((animation.width // 2, animation.height // 4)))
        assert animation.info["duration"] == 1100
    assert colours[0][2] > colours[0][0] and colours[2][0] > colours[2][2]
    assert [other.name for other in tmp_path.iterdir()] == ["training.gif"]


def test_animation_says_what_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="at least one picture"):
        plots.save_animation([], tmp_path / "a.gif")
    with pytest.raises(ValueError, match="pictures_per_second above 0, received 0"):
        plots.save_animation([np.zeros((2, 2, 3), np.uint8)], tmp_path / "a.gif", pictures_per_second=0)

    def broken():
        yield np.zeros((4, 4, 3), np.uint8)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        plots.save_animation(broken(), tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())
