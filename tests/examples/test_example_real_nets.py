"""The script that trains the nets for the figures, on a handful of random images."""

import importlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("real_nets")


@pytest.fixture
def images(tmp_path, generator):
    """A file in the form of MNIST with 64 training and 8 test images."""
    arrays = {}
    for part, count in (("train", 64), ("test", 8)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"y_{part}"] = generator.integers(0, 10, count)
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path / "images.npz"


@pytest.mark.parametrize(
    ("name", "parameters"), [("thesis", 20_522), ("lstm", 48_970), ("residual", 175_258), ("gru", 37_258)]
)
def test_nets_have_the_stated_size(example, name, parameters):
    model = example.RECIPES[name].build(seed=0)
    assert sum(np.prod(weight.shape) for weight in model.trainable_weights) == parameters


@pytest.mark.parametrize("name", ["thesis", "lstm", "attention"])
def test_same_seed_same_initial_weights(example, name):
    first, again, other = (example.RECIPES[name].build(seed=seed).get_weights() for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_net_is_trained_saved_and_then_skipped(example, images, tmp_path, monkeypatch, capsys):
    output = tmp_path / "nets"
    arguments = ["--mnist", str(images), "--nets", "thesis", "--seeds", "5", "--epochs", "1", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["real_nets.py", *arguments])
    example.main()
    assert {path.name for path in output.iterdir()} == {"thesis_5.keras", "thesis_5.json"}
    assert "thesis_5: test accuracy" in capsys.readouterr().out
    record = json.loads((output / "thesis_5.json").read_text())
    assert record["seed"] == 5 and record["epochs"] == 1 and record["trainable_parameters"] == 20_522
    model = keras.models.load_model(output / "thesis_5.keras")
    _, (x_test, y_test) = example.load_data("thesis", mnist=str(images))
    assert model.evaluate(x_test, y_test, verbose=0)[1] == pytest.approx(record["test_accuracy"])
    monkeypatch.setattr(example, "train", lambda *_, **__: pytest.fail("trained a net that is there already"))
    example.main()


def test_rows_are_images_without_a_channel(example, images):
    (rows, _), _ = example.load_data("lstm", mnist=str(images))
    (pixels, _), _ = example.load_data("thesis", mnist=str(images))
    np.testing.assert_array_equal(rows, pixels[..., 0])


def test_augmentation_shifts_the_image(example):
    image = np.arange(32 * 32 * 3, dtype=np.float32).reshape(32, 32, 3) + 1.0
    moved, label = example.shift_and_flip(image, 7)
    moved = np.asarray(moved)
    values = moved[moved > 0]
    assert moved.shape == (32, 32, 3) and label == 7
    assert len(values) >= 28 * 28 * 3 and np.isin(values, image).all()
