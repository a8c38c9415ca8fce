"""Figures hold what the records say, and are written whole or not at all."""

import doctest
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from scipy.integrate import trapezoid

from tfprune import plots
from tfprune.plots import subsets as subsets_module


@pytest.fixture
def subsets(generator):
    """Two stand-ins for records of random subsets of three units."""

    def make(probability):
        losses = generator.lognormal(-probability, 0.4, 50)
        gradients = generator.normal(size=(50, 3))
        return SimpleNamespace(
            settings={"probability": probability},
            losses=losses,
            log_losses=np.log(losses),
            gradients=gradients,
            log_loss_gradients=gradients / losses[:, np.newaxis],
            masks=generator.random((50, 3)) < probability,
            full_loss=np.array(0.2),
        )

    return [make(0.25), make(0.5)]


@pytest.fixture
def paths():
    steps = np.arange(5)
    covariance = np.exp(-np.abs(steps[:, np.newaxis] - steps) / 2.0)
    return SimpleNamespace(
        covariance=lambda: covariance,
        covariance_standard_error=lambda: 0.1 * covariance,
        complement_correlation=lambda: (0.25, 0.01),
    )


def texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_kernel_density_is_the_mean_of_gaussians(generator):
    samples = generator.normal(size=10_000)
    positions = np.linspace(-6.0, 6.0, 1201)
    density = plots.kernel_density(samples, positions, width=0.1)
    assert trapezoid(density, positions) == pytest.approx(1.0, abs=1e-6)
    expected = np.mean(np.exp(-0.5 * ((0.3 - samples) / 0.1) ** 2)) / (0.1 * np.sqrt(2 * np.pi))
    assert plots.kernel_density(samples, np.array([0.3]), width=0.1)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("samples", "width"), [(np.zeros(3), 0.0), (np.zeros(0), 1.0)])
def test_kernel_density_refuses(samples, width):
    with pytest.raises(ValueError, match="a positive width and at least one sample"):
        plots.kernel_density(samples, np.zeros(1), width)


def test_subset_losses_mark_full_loss_and_published_means(subsets):
    figure = plots.subset_losses(subsets, published_means=[1.0, 0.9])
    (axes,) = figure.axes
    labels = texts(figure.legends[0])
    assert labels[0] == f"p = 0.25: mean {subsets[0].losses.mean():.3f}, std {subsets[0].losses.std():.3f}"
    assert "published mean, p = 0.5: 0.900" in labels and "all units on: 0.200" in labels
    positions, density = axes.lines[0].get_data()
    np.testing.assert_allclose(density, plots.kernel_density(subsets[0].losses, positions), rtol=1e-9)
    assert to_rgba(axes.lines[0].get_color()) == to_rgba(plots.PROBABILITY_COLOURS[0])


def test_log_losses_have_normals_and_the_log_of_the_full_loss(subsets):
    figure = plots.subset_losses(subsets, log=True)
    (axes,) = figure.axes
    positions, normal = axes.lines[1].get_data()
    assert axes.lines[1].get_linestyle() == ":"
    mean = subsets[0].log_losses.mean()
    assert positions[normal.argmax()] == pytest.approx(mean, abs=0.01)
    assert "all units on: -1.609" in texts(figure.legends[0])


@pytest.mark.parametrize("log", [False, True])
def test_subset_gradients_take_all_units_together(subsets, log):
    figure = plots.subset_gradients(subsets, log=log)
    values = subsets[1].log_loss_gradients if log else subsets[1].gradients
    assert f"p = 0.5: mean {values.mean():.3f}, std {values.std():.3f}" in texts(figure.legends[0])


def test_on_and_off_are_split_by_the_mask(subsets):
    record = subsets[1]
    figure = plots.gradients_on_off(record, published_means=[0.1, -0.2])
    labels = texts(figure.legends[0])
    on = record.log_loss_gradients[record.masks]
    assert labels[0] == f"unit is on: mean {on.mean():.3f}, std {on.std():.3f}"
    assert "published mean, unit is off: -0.200" in labels
    assert to_rgba(figure.axes[0].lines[0].get_color()) == to_rgba(plots.ON_COLOUR)


def test_each_unit_has_its_panel(subsets):
    figure = plots.gradients_per_unit(subsets[1], ["a", "b", "c"])
    assert [axes.get_title() for axes in figure.axes] == ["a", "b", "c"]
    positions, density = figure.axes[2].lines[1].get_data()
    off = subsets[1].log_loss_gradients[~subsets[1].masks[:, 2], 2]
    np.testing.assert_allclose(density, plots.kernel_density(off, positions), rtol=1e-9)


def test_a_unit_that_is_always_on_has_one_curve(subsets):
    subsets[1].masks[:, 0] = True
    figure = plots.gradients_per_unit(subsets[1], ["a", "b", "c"])
    assert [len(axes.lines) for axes in figure.axes] == [2, 3, 3]


def test_covariance_figure_shows_matrix_and_both_edges(paths):
    figure = plots.flip_path_covariance(paths)
    upper, lower = figure.axes[:2]
    image = upper.images[0]
    np.testing.assert_allclose(image.get_array(), paths.covariance())
    assert image.get_clim() == (-1.0, 1.0)
    np.testing.assert_allclose(lower.lines[0].get_ydata(), paths.covariance()[0])
    np.testing.assert_allclose(lower.lines[1].get_ydata(), paths.covariance()[-1, ::-1])
    assert "0.250 ± 0.010" in lower.get_title()


def test_maps_share_one_colour_scale_and_outlines():
    values = np.stack([np.full((4, 4), -1.0), np.full((4, 4), 3.0)])
    figure = plots.plane_maps(
        values, titles=["a", "b"], title="t", colour_label="c", limit=2.0, circle_radius=0.5, training_square=1.0
    )
    first, second = figure.axes[:2]
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-1.0, 3.0)
    assert first.images[0].get_extent() == [-2.0, 2.0, -2.0, 2.0]
    assert [patch.get_label() for patch in first.patches] == ["true circle", "training square"]
    assert first.patches[0].get_radius() == 0.5 and first.patches[1].get_width() == 2.0


def test_maps_point_upwards():
    values = np.arange(4.0).reshape(1, 2, 2)
    figure = plots.plane_maps(values, titles=["a"], title="t", colour_label="c", limit=1.0)
    assert figure.axes[0].images[0].origin == "lower"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), values[0])


@pytest.mark.parametrize(
    ("colour_range", "extend"), [((-1, 1), "both"), ((-9, 1), "max"), ((-1, 9), "min"), (None, "neither")]
)
def test_values_beyond_the_colour_scale_are_announced(colour_range, extend):
    values = np.array([[[-2.0, 0.0], [0.0, 2.0]]])
    figure = plots.plane_maps(values, titles=["a"], title="t", colour_label="c", limit=1.0, colour_range=colour_range)
    assert figure.axes[0].images[0].colorbar.extend == extend


def test_maps_refuse_another_shape():
    with pytest.raises(ValueError, match=r"values of shape \(2, resolution, resolution\).*received \(1, 3, 3\)"):
        plots.plane_maps(np.zeros((1, 3, 3)), titles=["a", "b"], title="t", colour_label="c", limit=1.0)


def test_symmetric_range_ignores_a_few_extremes():
    values = np.concatenate([np.linspace(-1.0, 1.0, 10_001), [50.0]])
    low, high = plots.symmetric_range(values)
    assert high == -low == pytest.approx(0.995, abs=0.001)
    assert plots.symmetric_range(np.zeros(3)) == (-1.0, 1.0)


def test_figures_are_written_whole(tmp_path, subsets):
    plots.save_figure(plots.subset_losses(subsets), tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_figure_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="not supported"):
        plots.save_figure(Figure(), tmp_path / "losses.unknown")
    assert list(tmp_path.iterdir()) == []


def test_documented_numbers():
    assert doctest.testmod(subsets_module).failed == 0
