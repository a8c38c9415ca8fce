"""The example of distinctiveness, on one short training: its numbers, table and figures."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "examples"))

import distinctiveness  # noqa: E402
from rich.console import Console  # noqa: E402
from support import distinctiveness_study as runs  # noqa: E402


@pytest.fixture(scope="module")
def result():
    return runs.study(seed=0, net="A", table="wine", target=None, drop=[], epochs=0.2, sweep=False)


def test_study_measures_every_way_of_pruning(result):
    assert result["whole/parameters"] == 14 * 15 + 16 * 3 and result["whole/accuracy"] > 0.8
    assert result["whole/confusion"].sum() == 36 and result["whole/majority"] == pytest.approx(0.4, abs=0.02)
    for scope in ("published", "all"):
        for vectors in runs.VECTORS:
            gone = [result[f"pruned/{scope}/{vectors}/{transfer}/removed"] for transfer in runs.TRANSFERS]
            # "none" takes out what "gedeon" does; each unit has 14 + 3 parameters.
            assert gone[1] == gone[2]
            sizes = [result[f"pruned/{scope}/{vectors}/{transfer}/parameters"] for transfer in runs.TRANSFERS]
            assert [258 - size for size in sizes] == [17 * count for count in gone]
    exact = "pruned/all/activations/exact"
    assert result[f"{exact}/accuracy"] > result["whole/accuracy"] - 0.1
    assert result["refitted/all/parameters"] == result[f"{exact}/parameters"]
    assert result["angles/hidden"].shape == (15, 15)


def test_tables_and_figures(result, tmp_path):
    console = Console(width=120, record=True, file=io.StringIO())
    distinctiveness.show("A", "wine", [result, result], console)
    text = console.export_text()
    assert "majority class 38.9 ± 0.0 %" in text and "98.46 % test" in text and "least squares" in text
    distinctiveness.draw("A", "wine", [result, result], tmp_path, sweep=False)
    assert {path.name for path in tmp_path.glob("*.png")} == {"angles_A_wine.png", "histogram_A_wine.png"}


@pytest.mark.parametrize(("net", "widths"), [("A", [15]), ("B", [100, 100, 100]), ("C", [256, 256, 64])])
def test_nets_have_the_sizes_of_the_source(net, widths):
    model = runs.build(net, 11, 2, seed=0)
    assert [layer.units for layer in model.layers if hasattr(layer, "units")] == [*widths, 2]
    assert np.isclose(float(model.optimizer.learning_rate.numpy()), runs.RATES[net])


def test_settings_name_what_is_unknown():
    with pytest.raises(ValueError, match="received 'D'"):
        distinctiveness.Settings(nets=["A", "D"])
    with pytest.raises(ValueError, match="share above 0"):
        distinctiveness.Settings(epochs=0.0)
