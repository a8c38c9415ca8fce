"""The table of docs/transformers.md, for a few families."""

import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("keras_hub", reason="keras_hub is not installed (the extra hub)")

from hub_nets import BACKBONES

TOP = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("backbones", TOP / "benchmarks" / "backbones.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def committed():
    lines = (TOP / "docs" / "transformers.md").read_text().splitlines()
    return {line.split(" | ")[0].strip("| "): line for line in lines if line.startswith("| ")}


def test_every_family_has_a_row():
    assert [name for name in committed() if name != "family"] == list(BACKBONES)


@pytest.mark.parametrize("name", ["Bert", "GPT2", "Llama", "ViT"])
def test_the_committed_rows_are_what_is_found(name, benchmark):
    *found, difference = benchmark.row_of(name).strip("| ").split(" | ")
    *written, _ = committed()[name].strip("| ").split(" | ")
    assert found == written
    assert float(difference) < 1e-5
