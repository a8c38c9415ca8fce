"""The example on the circle network, in its quick form."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfprune import datasets, experiments

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FIGURES = {
    *("certainty", "certainty_units_off", "loss", "log_loss", "gradient", "log_loss_gradient"),
    *("gradient_on_off", "gradient_per_unit", "flip_paths", "unit_gradient_maps", "loss_map"),
}


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("circle_node_removal")


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one quick run; the net that is kept in the repository goes elsewhere."""
    folder = tmp_path_factory.mktemp("circle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "SAVED_MODEL", folder / "kept.keras")
        example.main(["--quick", "--seed", "1", "--output", str(folder)])
    return folder


def test_every_result_is_written(folder):
    written = {path.name for path in folder.iterdir()}
    records = {"subsets_0.25.npz", "subsets_0.5.npz", "subsets_0.75.npz"}
    records |= {"flip_paths.npz", "point_gradients.npz", "chosen_masks.npz"}
    assert written == {f"{name}.png" for name in FIGURES} | records | {"results.json", "saved_model"}


def test_summary_says_what_the_records_say(folder):
    summary = json.loads((folder / "results.json").read_text())
    record = experiments.RandomSubsets.load(folder / "subsets_0.5.npz")
    assert summary["settings"]["seed"] == 1 and summary["settings"]["num_subsets"] == 60
    assert "keras" in summary["versions"]
    assert summary["random_subsets"]["0.5"]["mean loss"] == pytest.approx(record.losses.mean())
    assert summary["full_loss"] == pytest.approx(float(record.full_loss))
    assert len(summary["loss_without_unit"]) == 20 and len(summary["findings"]) == 12
    assert 0.5 < summary["accuracy"] <= 1.0


def test_findings_are_computed(folder):
    findings = json.loads((folder / "results.json").read_text())["findings"]
    records = [experiments.RandomSubsets.load(folder / f"subsets_{p}.npz") for p in (0.25, 0.5, 0.75)]
    losses = [record.losses.mean() for record in records]
    assert " / ".join(f"{loss:.3f}" for loss in losses) in findings[0]["sentence"]
    assert findings[0]["agrees"] == (losses[0] > losses[1] > losses[2] > records[0].full_loss)


def test_exported_model_takes_on_nodes(folder):
    record = experiments.MaskedOutputs.load(folder / "chosen_masks.npz")
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    rows = np.repeat(record.masks[-2:-1].astype(np.float32), len(record.points), axis=0)
    outputs = loaded.serve([tf.constant(record.points), tf.constant(rows)])
    np.testing.assert_allclose(outputs, record.outputs[-2], atol=1e-5)


def test_full_loss_is_that_of_the_test_points(folder):
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    x, y = datasets.circle(1000, 23)
    outputs = loaded.serve([tf.constant(x), tf.ones((1000, 20))]).numpy()
    summary = json.loads((folder / "results.json").read_text())
    assert -np.log(outputs[np.arange(1000), y]).mean() == pytest.approx(summary["full_loss"], rel=1e-4)


def test_folder_that_cannot_be_written_is_refused_first(example, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(example, "train", lambda settings: pytest.fail("trained before the folder was checked"))
    with pytest.raises(ValueError, match="cannot be written"):
        example.main(["--output", str(tmp_path / "file")])


def test_net_is_kept_once(example, tmp_path, monkeypatch, dense_net):
    path = tmp_path / "kept.keras"
    assert not example.holds_same_weights(path, dense_net)
    dense_net.save(path)
    assert example.holds_same_weights(path, dense_net)
    dense_net.layers[0].bias.assign_add(np.ones(5))
    assert not example.holds_same_weights(path, dense_net)
