"""Accuracy of cut models, saved result by result, and training afterwards."""

from functools import partial

import keras
import numpy as np
import pytest
from matplotlib.colors import to_rgba
from matplotlib.image import imread

import tfprune as tfp
from tfprune import experiments, plots


@pytest.fixture
def net():
    """Two relu units that say whether the input is above zero, and two that say nothing; 8 of 8 answers are right."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(4, "relu", name="hidden"), keras.layers.Dense(2, name="logits")]
    )
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    model.layers[0].set_weights([np.array([[2.0, -2.0, 0.1, 0.1]]), np.zeros(4)])
    model.layers[1].set_weights([np.array([[-1.0, 1.0], [1.0, -1.0], [0.0, 0.0], [0.0, 0.0]]), np.zeros(2)])
    return model


@pytest.fixture
def data():
    x = np.array([-4, -3, -2, -1, 1, 2, 3, 4], np.float32)[:, np.newaxis]
    return x, (x[:, 0] > 0).astype(int)


def weakest_first(model, data):
    return tfp.LayerValues({"hidden": np.array([4.0, 3.0, 2.0, 1.0])})


def strongest_first(model, data):
    return tfp.LayerValues({"hidden": np.array([1.0, 2.0, 3.0, 4.0])})


def grid_of(net, data, **options):
    calibration = np.linspace(-4, 4, 300, dtype=np.float32)[:, np.newaxis]
    saliencies = {"weakest first": weakest_first, "strongest first": strongest_first}
    return experiments.removal_grid(net, data, calibration=calibration, saliencies=saliencies, **options)


def test_accuracies_are_those_of_the_cut_models(net, data):
    grid = grid_of(net, data, sparsities=[0.5], repairs=["zero", "least_squares"])
    assert grid.full_accuracy == 1.0 and grid.settings["full_parameters"] == 18
    assert grid.accuracy_at("weakest first", "zero", 0.5) == 1.0
    assert grid.accuracy_at("strongest first", "zero", 0.5) == 0.5
    assert grid.accuracy_at("strongest first", "zero", 0.0) == 1.0
    assert np.isnan(grid.accuracy_at("strongest first", "mean", 0.5))
    assert grid.parameters.tolist() == [10.0] * 4
    curves = experiments.accuracy_curves([grid, grid], "strongest first", "zero", [0.0, 0.5])
    assert curves.tolist() == [[1.0, 0.5]] * 2


def test_recorded_results_are_not_made_again(net, data, tmp_path, monkeypatch):
    path = tmp_path / "grid.npz"
    grid_of(net, data, sparsities=[0.5], repairs=["zero"], path=path)
    grid = grid_of(net, data, sparsities=[0.5, 0.25], repairs=["zero"], path=path)
    assert grid.sparsity.tolist() == [0.5, 0.5, 0.25, 0.25]
    monkeypatch.setattr(experiments.removal, "remove", lambda *_, **__: pytest.fail("cut what is recorded"))
    again = grid_of(net, data, sparsities=[0.25, 0.5], repairs=["zero"], path=path)
    assert again.accuracy.tolist() == grid.accuracy.tolist()


def test_results_of_another_model_are_refused(net, data, tmp_path):
    path = tmp_path / "grid.npz"
    grid_of(net, data, sparsities=[0.5], repairs=["zero"], path=path)
    net.layers[0].bias.assign_add(np.ones(4))
    with pytest.raises(ValueError, match="another model or other data"):
        grid_of(net, data, sparsities=[0.5], repairs=["zero"], path=path)


def test_model_needs_an_accuracy(net, data):
    net.compile(loss="sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match=r"metrics=\['accuracy'\]"):
        grid_of(net, data, sparsities=[0.5])


def test_training_runs_for_each_start_and_length(net, data, tmp_path):
    lengths = []

    def train(model, start, epochs):
        lengths.append((start, epochs))
        model.layers[1].bias.assign([-1000.0 * epochs, 0.0])

    run = partial(experiments.train_after_removal, train=train, settings={"fingerprint": "a"}, path=tmp_path / "t.npz")
    record = run({"zero": lambda: net}, data, epochs=[1])
    assert record.epochs.tolist() == [0.0, 1.0] and record.accuracy.tolist() == [1.0, 0.5]
    record = run({"zero": lambda: net}, data, epochs=[1, 3])
    assert lengths == [("zero", 1), ("zero", 3)] and record.epochs.tolist() == [0.0, 1.0, 3.0]


def test_figure_draws_median_range_and_full_accuracy(net, data):
    grid = grid_of(net, data, sparsities=[0.5], repairs=["zero", "least_squares"])
    figure = plots.accuracy_against_sparsity({"panel": ([grid], "strongest first")}, title="title")
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["zero:\njust cut", "least_squares:\nnext layer refitted", "all units"]
    assert lines["zero:\njust cut"].get_xydata().tolist() == [[0.0, 1.0], [50.0, 0.5]]
    assert to_rgba(lines["zero:\njust cut"].get_color()) == to_rgba(plots.REPAIR_COLOURS["zero"])
    assert lines["all units"].get_ydata()[0] == 1.0
    assert axes.get_title() == "panel\nall units: 1.000" and figure.get_suptitle() == "title"


def test_figure_of_training_has_a_point_for_each_run(net, data):
    settings = {"fingerprint": "a", "full_accuracy": 1.0, "saliency": "random"}
    run = partial(experiments.train_after_removal, train=lambda *_: None, settings=settings)
    record = run({"zero": lambda: net, "from scratch": lambda: net}, data, epochs=[1, 3])
    lines = plots.training_after_removal([record], title="title").axes[0].get_lines()
    assert lines[0].get_xydata().tolist() == [[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]]


def test_file_of_few_colours_is_smaller(net, data, tmp_path):
    grid = grid_of(net, data, sparsities=[0.5], repairs=["zero"])
    figure = plots.accuracy_against_sparsity({"panel": ([grid], "strongest first")}, title="title")
    plots.save_figure(figure, tmp_path / "many.png")
    plots.save_figure(figure, tmp_path / "few.png", num_colours=16)
    pixels = imread(tmp_path / "few.png")[..., :3]
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) <= 16
    assert (tmp_path / "few.png").stat().st_size < 0.7 * (tmp_path / "many.png").stat().st_size
