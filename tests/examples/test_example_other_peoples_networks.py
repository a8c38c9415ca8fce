"""The example of other people's networks: what a short run of the transformer block leaves and says."""

import importlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from scipy.stats import spearmanr

from tfprune import experiments, saliency

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SHORT = ["--transformer_epochs", "6", "--steps", "4", "--repeats", "1", "--shares", "[0.5]", "--num_training", "500"]


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("other_peoples_networks")


@pytest.fixture(scope="module")
def support(example):
    return importlib.import_module("support.other_networks")


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    """The output of one short run."""
    folder = tmp_path_factory.mktemp("other_networks")
    example.main(["--nets", "[transformer]", *SHORT, "--output", str(folder)])
    return folder


def of_transformer(folder, name, **settings):
    return experiments.load_grid(folder / name).where(net="transformer", **settings)


@pytest.mark.slow
def test_files(folder):
    names = {"transformer_erased.png", "transformer_cut.png", "results.json", "settings.yaml", "versions.yaml"}
    assert {path.name for path in folder.iterdir()} == names | {"trainings", "curves", "cuts"}
    results = json.loads((folder / "results.json").read_text())
    assert [row["seed"] for row in results["trainings"]] == [0, 1]
    assert all(row["accuracy"] > 0.5 and row["parameters"] == 9386 for row in results["trainings"])


@pytest.mark.slow
def test_curves_are_those_of_the_trained_net(folder, support):
    """One cell again, by the public functions alone."""
    (run,) = of_transformer(folder, "curves", seed=1, ranking="weight_norm")
    net = keras.models.load_model(of_transformer(folder, "trainings", seed=1)[0].folder / "model.keras")
    scores = saliency.weight_norm(net, layers="feed_forward")
    np.testing.assert_allclose(run.result["scores"], scores["feed_forward"], rtol=1e-6)
    _, test = support.load_data("transformer", None, 500, 2000)
    curves = experiments.AblationCurves.load(run.folder / "curves.npz")
    assert curves.num_off.tolist() == [0, 16, 32, 48, 64] and curves.orders.tolist() == ["top", "bottom", "random"]
    np.testing.assert_allclose(curves.values[:, 0], net.evaluate(*test, verbose=0)[1])
    kernel, bias = net.get_layer("outer").get_weights()
    kernel[np.argsort(-scores["feed_forward"])[:16]] = 0.0
    net.get_layer("outer").set_weights([kernel, bias])
    assert curves.curves("top")[0, 1] == pytest.approx(net.evaluate(*test, verbose=0)[1])


@pytest.mark.slow
def test_rankings_across_models_have_the_other_training_as_partner(folder, support):
    data = (None, 500, 2000)
    one, other = (support.activations(folder / "trainings", "transformer", s, "feed_forward", data) for s in (0, 1))
    # Every row of every image is a point.
    assert one["feed_forward"].shape == (500 * 8, 64)
    (run,) = of_transformer(folder, "curves", seed=0, ranking="max_correlation")
    with np.errstate(invalid="ignore"):
        rho = np.corrcoef(one["feed_forward"].T.astype("float64"), other["feed_forward"].T)[:64, 64:]
    np.testing.assert_allclose(run.result["scores"], np.nan_to_num(np.abs(rho)).max(axis=1), atol=1e-5)
    directions = of_transformer(folder, "curves", seed=0, ranking="svcca")[0].result["scores"]
    assert 1 < len(directions) <= 64 and np.all(np.diff(directions) <= 1e-12)


@pytest.mark.slow
def test_results_say_what_the_records_say(folder):
    results = json.loads((folder / "results.json").read_text())
    assert [row["ranking"] for row in results["areas"]] == [
        "mean_replacement",
        "weight_norm",
        "max_correlation",
        "linear_regression",
        "svcca",
    ]
    runs = of_transformer(folder, "curves", ranking="linear_regression")
    areas = [experiments.AblationCurves.load(run.folder / "curves.npz").area("bottom") for run in runs]
    assert results["areas"][3]["bottom"] == pytest.approx(np.mean(areas))
    assert results["areas"][3]["gap"] == pytest.approx(np.mean(areas) - results["areas"][3]["top"])
    agreement = results["agreement"]["transformer"]
    scores = [of_transformer(folder, "curves", ranking=name).column("scores") for name in agreement["rankings"][:2]]
    expected = np.mean([spearmanr(*pair).statistic for pair in zip(*scores, strict=True)])
    assert agreement["rank_correlation"][0][1] == pytest.approx(expected)
    assert [(row["erased"], len(row["accuracy_at_share"])) for row in results["cuts"]] == [
        ("remove, zero", 2),
        ("remove, mean", 2),
        ("remove, affine", 2),
    ]


@pytest.mark.slow
def test_second_start_measures_nothing(example, folder, monkeypatch, capsys):
    monkeypatch.setattr("tfprune.experiments.grid_workers.execute", None)
    example.main(["--nets", "[transformer]", *SHORT, "--output", str(folder)])
    assert "linear_regression" in capsys.readouterr().out


def test_a_run_that_fails_ends_the_example(example, tmp_path):
    with pytest.warns(RuntimeWarning, match="2 of 2 runs failed"), pytest.raises(SystemExit, match="there is no file"):
        example.main(["--nets", "[mobilenet]", "--weights", "absent.h5", "--output", str(tmp_path)])


def test_settings_of_the_full_run(example):
    path = EXAMPLES / "settings" / "other_peoples_networks.yaml"
    settings = example.read_settings(example.Settings, ["--config", str(path)])
    assert settings.rankings == [
        "mean_replacement",
        "weight_norm",
        "max_correlation",
        "min_correlation",
        "linear_regression",
        "svcca",
    ]
    assert settings.repairs[-1] == "least_squares" and settings.layer("mobilenet") == "block_6_expand"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "[3]"], "expected two or more different seeds, received (3,)"),
        (["--seeds", "[0, 0]"], "expected two or more different seeds"),
        (["--nets", "[]"], "expected each network once"),
        (["--steps", "0"], "expected steps of at least 1, received 0"),
        (["--num_cut", "3"], "expected num_cut of at most 2, received 3"),
    ],
)
def test_wrong_settings(example, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        example.main(arguments)
    assert message in capsys.readouterr().err


def test_images_of_an_application(support, generator):
    grey, coloured = generator.random((2, 8, 8, 1), "float32"), generator.random((2, 32, 32, 3), "float32")
    large = support.to_application(grey)
    assert large.shape == (2, 32, 32, 3)
    np.testing.assert_allclose(large[:, 5, 30], np.repeat(2 * grey[:, 1, 7] - 1, 3, axis=1), rtol=1e-6)
    np.testing.assert_allclose(support.to_application(coloured), 2 * coloured - 1, rtol=1e-6)
    np.testing.assert_array_equal(support.to_rows(coloured)[1, 4], coloured[1, 4].ravel())


def test_images_from_a_file(support, generator, tmp_path):
    arrays = {}
    for part, count in (("train", 12), ("test", 6)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = generator.integers(0, 10, count)
    np.savez(tmp_path / "images.npz", **arrays)
    (rows, labels), (test, _) = support.load_data("transformer", str(tmp_path / "images.npz"), 10, 20)
    assert rows.shape == (10, 32, 96) and len(test) == 6
    np.testing.assert_allclose(rows[3, 1], arrays["x_train"][3, 1].ravel() / 255, rtol=1e-6)
    np.testing.assert_array_equal(labels, arrays["y_train"][:10])


@pytest.mark.slow
def test_application_starts_from_a_file_of_weights(support, tmp_path):
    first = support.mobilenet((32, 32, 3))
    # The file has the layers of the application without the new head.
    body = keras.Model(first.input, first.layers[-2].output)
    body.save_weights(tmp_path / "body.weights.h5")
    second = support.mobilenet((32, 32, 3), str(tmp_path / "body.weights.h5"))
    assert all(np.array_equal(a, b) for a, b in zip(first.get_weights()[:-2], second.get_weights()[:-2], strict=True))
    assert second.get_layer("block_6_expand_BN").momentum == support.BATCH_NORM_MOMENTUM


@pytest.mark.slow
def test_inside_an_application(example, tmp_path):
    short = ["--mobilenet_epochs", "1", "--steps", "2", "--repeats", "1", "--shares", "[0.5]", "--num_training", "320"]
    example.main(["--nets", "[mobilenet]", *short, "--repairs", "[zero]", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "results.json").read_text())
    assert {tuple(row["num_ranked"]) for row in results["areas"][:4]} == {(96, 96)}
    (cut,) = results["cuts"]
    assert (tmp_path / "mobilenet_erased.png").is_file() and cut["accuracy_at_share"][1][0] == 0.5
