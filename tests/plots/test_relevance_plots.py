"""Figures of relevance, and the example that makes them."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tfprune.plots import pixel_flipping, relevance_maps, relevance_per_unit

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_heat_maps_have_zero_in_the_middle(generator):
    maps = {"lrp": generator.normal(size=(2, 4, 4)), "gradient": 1e-3 * generator.random((2, 4, 4))}
    figure = relevance_maps(np.ones((2, 4, 4)), maps, titles=["one", "two"], title="why", note="red is for")
    images = [axes.images[0] for axes in figure.axes]
    assert len(images) == 6
    for image, values in zip(images[1:3], (maps["lrp"][0], maps["gradient"][0]), strict=True):
        assert image.get_clim() == pytest.approx((-np.abs(values).max(), np.abs(values).max()))


def test_heat_maps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"maps of the images' shape \(2, 4, 4\)"):
        relevance_maps(np.ones((2, 4, 4)), {"lrp": np.ones((1, 4, 4))}, titles=["a", "b"], title="", note="")


def test_curves_stand_in_order_of_their_areas():
    curves = {"random": np.array([1.0, 0.8]), "lrp": np.array([1.0, 0.2])}
    figure = pixel_flipping([0.0, 0.5], curves, areas={"random": 0.9, "lrp": 0.6}, title="flipping")
    lines = figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["lrp (0.600)", "random (0.900)"]
    np.testing.assert_allclose(lines[0].get_xdata(), [0.0, 50.0])


def test_maps_per_unit(generator):
    panels = {"Q": generator.normal(size=(3, 5, 5)), "gradient": generator.normal(size=(3, 5, 5))}
    figure = relevance_per_unit(panels, limit=1.25, titles=["a", "b", "c"], title="circle")
    maps = [axes for axes in figure.axes if axes.images]
    assert len(maps) == 6
    assert len({axes.images[0].get_clim() for axes in maps}) == 2


@pytest.mark.slow
def test_the_example_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for name in ("blame_the_bias", "support.relevance_study"):
        sys.modules.pop(name, None)
    import blame_the_bias

    blame_the_bias.main(["--quick", "--output", str(tmp_path)])
    names = {"heat_maps.png", "pixel_flipping.png", "circle_nodes.png", "results.json"}
    assert names <= {path.name for path in tmp_path.iterdir()}
    areas = json.loads((tmp_path / "results.json").read_text())["areas"]
    assert areas["blame_the_bias"] < areas["random"]
