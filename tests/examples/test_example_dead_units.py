"""The example of dead units: what is trained, and what a quick run leaves and says."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfprune.experiments import load_grid
from tfprune.training import LivenessRecord

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("dead_units")


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one quick run."""
    folder = tmp_path_factory.mktemp("dead_units")
    example.main(["--quick", "true", "--output", str(folder)])
    return folder


@pytest.mark.slow
def test_trainings_differ_from_the_attack_on(folder):
    plain, attacked = sorted(load_grid(folder / "trainings"), key=lambda run: "layer" in run.settings)
    assert attacked.settings["layer"] == "conv1" and attacked.settings["place"] == 0
    records = [LivenessRecord.load(run.folder / "liveness.npz") for run in (plain, attacked)]
    before, after = (record.of("incoming_norm", "conv1") for record in records)
    assert records[0].groups == {"conv1": 8, "conv2": 16, "fc1": 64}
    # The same weights at first; then the attacked unit runs away, the others hardly differ.
    np.testing.assert_array_equal(before[0], after[0])
    ratios = after[-1] / before[-1]
    assert ratios[0] > 1.2 and np.all(np.abs(ratios[1:] - 1.0) < 0.02)


@pytest.mark.slow
def test_results_say_what_the_records_say(folder):
    results = json.loads((folder / "results.json").read_text())
    (row,) = results["attacks"]["relu_norm_units"]
    assert (row["unit"], row["attack"]) == ("conv1/0", "gradient x 100, from step 10")
    runs = sorted(load_grid(folder / "trainings"), key=lambda run: "layer" in run.settings)
    norms = [LivenessRecord.load(run.folder / "liveness.npz").of("incoming_norm", "conv1")[-1, 0] for run in runs]
    assert row["incoming_norm"] == pytest.approx(norms[1] / norms[0], rel=1e-12)
    (accuracy,) = results["accuracy"]
    assert accuracy["accuracy"] == runs[0].result["accuracy"] > 0.8 and accuracy["thesis"] == 0.67
    assert [row["layer"] for row in results["rank_correlation_with_mrp"]] == ["conv1", "conv2", "fc1"]
    assert all(-1.0 <= row["mean_replacement"] <= 1.0 for row in results["rank_correlation_with_mrp"])
    names = ["relu_norm_units.png", "relu_norm_units_activations.png", "relu_norm_units_outputs.png"]
    assert sorted(path.name for path in folder.glob("*.png")) == names
    settings = yaml.safe_load((folder / "settings.yaml").read_text())
    assert settings["quick"] is True and settings["epochs"] == 3


@pytest.mark.slow
def test_second_start_trains_nothing(example, folder, monkeypatch, capsys):
    monkeypatch.setattr("tfprune.experiments.grid_workers.execute", None)
    example.main(["--quick", "true", "--output", str(folder)])
    assert "relu, then batch norm" in capsys.readouterr().out


def test_settings_of_the_thesis(example):
    path = EXAMPLES / "settings" / "dead_units.yaml"
    settings = example.read_settings(example.Settings, ["--config", str(path), "--cifar", "cifar10.npz"])
    assert (settings.learning_rate, settings.batch_size, settings.num_validation) == (0.01, 32, 1000)
    assert (settings.epochs, settings.tanh_epochs, settings.count) == (10, 30, 10)
    points = settings.points()
    assert len([point for point in points if "layer" not in point]) == 3
    starts = {point["start"] for point in points if point["net"] == "relu_norm" and "layer" in point}
    assert starts == {50, 500, 1500, 2500, 5000}
    tanh = [point for point in points if point["net"] == "tanh" and "layer" in point]
    assert {point["multiplier"] for point in tanh} == {1000.0} and 2000 in {point["start"] for point in tanh}
    assert len(points) == len({json.dumps(point) for point in points})


@pytest.mark.parametrize(
    ("kind", "shape", "parameters"),
    [("relu_norm", (32, 32, 3), 30138), ("tanh", (32, 32, 3), 30138), ("relu", (24, 24, 1), 13354)],
)
def test_nets(example, kind, shape, parameters):
    support = importlib.import_module("support.dead_units")
    net = support.small_net(kind, shape)
    assert sum(int(np.prod(weight.shape)) for weight in net.trainable_weights) == parameters
    kernel, bias = net.get_layer("conv2").get_weights()
    limit = (25 * 8) ** -0.5
    assert 0.95 * limit < np.abs(kernel).max() <= limit and 0.0 < np.abs(bias).max() <= limit
    names = [layer.name for layer in net.layers]
    assert ("conv1_norm" in names) == (kind == "relu_norm")
    if kind == "relu_norm":
        assert names.index("conv1_norm") == names.index("conv1_activation") + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "expected epochs of at least 1, received 0"),
        (["--workers", "-1"], "expected workers of at least 0"),
        (["--attacks", "[]"], "expected attacks of different names"),
    ],
)
def test_wrong_settings(example, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        example.main(arguments)
    assert message in capsys.readouterr().err


def test_wrong_units_and_data(example):
    support = importlib.import_module("support.dead_units")
    for unit in ("conv1", "/1", "conv1/", "conv1/x"):
        with pytest.raises(ValueError, match="expected units such as conv1/0, received"):
            support.Attacks("a", "relu", (unit,), (1,), (2.0,))
    for unit in ("conv3/0", "conv1/8"):
        with pytest.raises(ValueError, match=f"attacks 'a': no unit '{unit}'; numbers of units by layer"):
            support.Attacks("a", "relu", (unit,), (1,), (2.0,))
    with pytest.raises(ValueError, match="at least one unit, start and multiplier"):
        support.Attacks("a", "relu", ("conv1/0",), (), (2.0,))
    with pytest.raises(ValueError, match="num_validation: expected a number from 1 to 1347, received 1348"):
        support.load_data(None, 1348)
