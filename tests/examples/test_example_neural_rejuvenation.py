"""The example of neural rejuvenation: its nets, its tables, and what a short run leaves and says."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tfprune import unit_groups
from tfprune.experiments import load_grid

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("neural_rejuvenation")


@pytest.fixture(scope="module")
def report(example):
    return importlib.import_module("support.rejuvenation_report")


def test_nets(example):
    study = importlib.import_module("support.rejuvenation_study")
    vgg = unit_groups(study.small_vgg((8, 8, 1), 4))
    assert list(vgg.sizes.values()) == [4, 4, 8, 8, 16, 16]
    residual = unit_groups(study.small_residual((8, 8, 1), 4))
    # The first convolution and the first block's second, and a way round and its block's second, meet in a sum.
    assert residual.sizes == {
        "conv0": 4, "block1a": 4, "way2": 8, "block2a": 8, "way3": 16, "block3a": 16,
    }  # fmt: skip


def test_settings_are_checked(example):
    with pytest.raises(ValueError, match="sparse_epochs of at most epochs, 24, received 30"):
        example.Settings(sparse_epochs=30)
    with pytest.raises(ValueError, match="nets of vgg, residual"):
        example.Settings(nets=("lenet",))
    assert example.Settings().shortened().epochs == 6


def made_up(report, seeds=(0, 1)):
    found = {}
    for net in ("vgg", "residual"):
        found[net] = {}
        for seed in seeds:
            result = {"epoch": 2, "error_uncut": 8.0, "error_unsqueezed": 9.0}
            for number, way in enumerate(report.LABELS):
                result |= {f"error_{way}": 5.0 + number + seed, f"parameters_{way}": 1000 * (number + 1)}
                result[f"utilisation_{way}"] = np.array([1.0, 0.8, 0.6])
                if way != "baseline":
                    result[f"before_{way}"] = 50.0 - number
            found[net][seed] = result
    return found


def test_tables_and_pictures(report, tmp_path):
    found = made_up(report)
    table = report.table("vgg", found["vgg"])
    assert [list(column.cells)[0] for column in table.columns] == ["as it is", "-", "5.50 (5.00 to 6.00)", "1,000"]
    assert list(table.columns[1].cells)[1] == "49.00 (49.00 to 49.00)" and table.row_count == 7
    summary = report.summary(found)
    assert summary["residual"]["error_full"] == [9.0, 10.0]
    assert summary["vgg"]["utilisation_none"][1] == [1.0, 0.8, 0.6]
    for draw, name in ((report.draw_utilisation, "a.png"), (report.draw_errors, "b.png")):
        draw(found, tmp_path / name)
        assert (tmp_path / name).read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_a_short_run(example, tmp_path):
    arguments = ["--nets", "[vgg]", "--seeds", "[0]", "--epochs", "4", "--sparse_epochs", "3", "--num_images", "640"]
    arguments += ["--strength", "0.05", "--output", str(tmp_path)]
    example.main(arguments)
    results = json.loads((tmp_path / "results.json").read_text())["vgg"]
    ways = {run.settings["way"]: run.result for run in load_grid(tmp_path / "trainings")}
    assert results["error_baseline"] == [ways["baseline"]["error_baseline"]]
    for name, value in results.items():
        if name.startswith("utilisation"):
            assert len(value[0]) == 4
    whole = results["parameters_baseline"][0]
    assert 0.8 * whole < results["parameters_full"][0] <= whole > results["parameters_mean"][0]
    # What is renewed computes what was trained before.
    assert results["before_full"] == results["before_attention"] == results["before_none"]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["errors.png", "utilisation.png"]
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())["epochs"] == 4
