"""The example of the two spirals: nets of both ways, what is measured of them, the bound, tables and pictures."""

import importlib
import io
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TRAINING = {"steps": 150, "tuning_steps": 50, "learning_rate": 0.01}
SIZES = {"units": 8, "num_points": 300, "turns": 1.0, **TRAINING}


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("spiral_train_vs_prune")


@pytest.fixture(scope="module")
def runs(example):
    return example.runs


@pytest.fixture(scope="module")
def folder(example, tmp_path_factory):
    folder = tmp_path_factory.mktemp("spiral")
    arguments = [word for name, value in SIZES.items() for word in (f"--{name}", str(value))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "RESOLUTION", 21)
        example.main(["--seeds", "[0]", "--fractions", "[0.5]", "--output", str(folder), *arguments])
    return folder


@pytest.fixture(scope="module")
def both(runs):
    """A mask, what was measured of the parts, and the nets that it leaves."""
    data, test = runs.load_data(300, 1.0)
    initial, whole, nets_of = runs.both_ways(8, data, runs.Trainer(0, **TRAINING))
    mask = runs.choose(whole, data[0], "smallest std", 0.5, 0)
    return data, test, initial, whole, mask, nets_of(mask)


@pytest.mark.slow
def test_pruned_first_has_the_same_nodes_and_the_same_initial_weights(runs, both):
    data, _, initial, whole, mask, _ = both
    seen = []
    train = runs.Trainer(0, 25, 25, 0.01)
    _, _, nets_of = runs.both_ways(8, data, train, lambda name, model: seen.append((name, model.get_weights())))
    nets_of(mask)
    name, begin = next(own for own in seen if own[0] == "pruned first")
    on = [np.ones(2, bool), mask["hidden_1"], mask["hidden_2"], np.ones(1, bool)]
    for place, kernel in enumerate(initial.get_weights()[::2]):
        np.testing.assert_array_equal(begin[2 * place], kernel[np.ix_(on[place], on[place + 1])])
    assert initial.count_params() == whole.count_params() == 3 * 8 + 9 * 8 + 9


@pytest.mark.slow
def test_only_the_repaired_net_has_other_kernels(runs, both):
    data, _, _, whole, mask, nets = both
    cut = runs.cut_kernel(runs.kernel_of(whole), mask)
    np.testing.assert_array_equal(runs.kernel_of(nets["pruned"]), cut)
    assert {net.count_params() for net in nets.values()} == {3 * 4 + 5 * 4 + 5}
    assert np.abs(runs.kernel_of(nets["refitted"]) - cut).max() > 0.01
    # Both trainings learn.
    losses = {name: runs.measure(net, data)[1] for name, net in nets.items()}
    assert losses["tuned"] < losses["pruned"] and losses["pruned first"] < 0.69


@pytest.mark.slow
def test_bias_of_the_pruned_net_takes_the_means(runs, both):
    data, _, _, whole, mask, nets = both
    inside = runs.activations(whole, data[0])["hidden_1"].astype("float64")
    kernel, bias = (own.astype("float64") for own in whole.get_layer("hidden_2").get_weights())
    off = ~mask["hidden_1"]
    expected = (bias + inside[:, off].mean(0) @ kernel[off])[mask["hidden_2"]]
    np.testing.assert_allclose(nets["pruned"].get_layer("hidden_2").get_weights()[1], expected, atol=1e-5)


@pytest.mark.slow
def test_no_node_costs_more_than_its_bound(runs, both):
    data, _, _, whole, _, nets = both
    x, y = (own.astype("float64") for own in data)

    def outputs(weights, off=None):
        inside = x
        for place in range(3):
            inside = inside @ weights[2 * place] + weights[2 * place + 1]
            if place < 2:
                inside = np.maximum(inside, 0)
            if off is not None and off[0] == place:
                inside[:, off[1]] = inside[:, off[1]].mean()
        return np.logaddexp(0, inside) - inside * y

    for model in (whole, *nets.values()):
        weights = [own.astype("float64") for own in model.get_weights()]
        count = weights[1].size
        found = runs.loss_bounds(model, data)
        full = outputs(weights)
        for unit in range(2 * count):
            changes = outputs(weights, divmod(unit, count)) - full
            assert found["change"][unit] == pytest.approx(changes.mean(), abs=2e-5)
            assert found["penalty"][unit] == pytest.approx(np.abs(changes).mean(), abs=2e-5)
        assert (np.abs(found["change"]) <= found["penalty"] + 1e-6).all()
        # The tighter bound holds even for the changes of the single samples.
        assert (found["penalty"] <= found["own_bound"] + 1e-6).all()
        assert (found["own_bound"] <= found["bound"] * (1 + 1e-6)).all()


def test_bound_is_met_where_nothing_is_lost(runs):
    """One node, one weight behind: far from the border the loss changes as the logit does, and the bound is reached."""
    data = np.array([[1.0, 0.0], [3.0, 0.0]], "float32"), np.zeros((2, 1), "float32")
    model = runs.build(1, 0)
    model.set_weights([np.array(own) for own in ([[1.0], [0.0]], [0.0], [[1.0]], [0.0], [[2.0]], [30.0])])
    found = runs.loss_bounds(model, data)
    # Both nodes: activations 1 and 3, standard deviation and mean deviation 1, K = 2.
    np.testing.assert_allclose(found["bound"], [2.0, 2.0], rtol=1e-6)
    np.testing.assert_allclose(found["penalty"], [2.0, 2.0], rtol=1e-5)
    np.testing.assert_allclose(found["change"], [0.0, 0.0], atol=1e-5)


def test_roles_of_shuffled_units_are_found(runs):
    values = np.random.default_rng(0).standard_normal((300, 4)).astype("float32")
    order = [2, 0, 3, 1]
    same, best, itself = runs.same_roles(values, 3 * values[:, order] + 1)
    assert best == pytest.approx(1.0, abs=1e-6) and itself == 0.0 and abs(same) < 0.2
    # Against all ways of matching.
    noisy = np.abs(values[:, order]) + 0.5 * values
    correlations = np.corrcoef(values.T, noisy.T)[:4, 4:]
    slow = max(np.mean([correlations[k, p[k]] for k in range(4)]) for p in permutations(range(4)))
    assert runs.same_roles(values, noisy)[1] == pytest.approx(slow, abs=1e-6)
    constant = np.concatenate([values[:, :1], np.ones((300, 1), "float32")], axis=1)
    assert runs.same_roles(constant, constant)[0] == pytest.approx(0.5, abs=1e-6)


@pytest.mark.slow
def test_record_says_what_the_nets_do(example, runs, both, folder):
    _, test, _, whole, _, nets = both
    (run,) = example.experiments.load_grid(folder / "runs")
    found = run.result
    assert found["whole"] == pytest.approx(runs.measure(whole, test), abs=1e-6)
    measures = [runs.measure(net, test) for net in nets.values()]
    np.testing.assert_allclose(found["measures"][1, 0], measures, atol=1e-5)
    assert found["unmoved"].shape == (2, 1, 4) and found["roles"].shape == (2, 1, 3, 2, 3)


def test_tables_and_pictures(example, runs, folder):
    names = {"accuracy", "loss", "bound"} | {
        f"{kind}_{method}" for kind in ("decisions", "kernels") for method in ("random", "smallest_std")
    }
    assert {path.stem for path in folder.glob("*.png")} == names
    assert len(list(folder.glob("*.gif"))) == 5
    with Image.open(folder / "training_random_pruned_first.gif") as animation:
        assert animation.n_frames == 150 // runs.STEPS_AT_ONCE + 1
    result = example.experiments.load_grid(folder / "runs")[0].result
    console = Console(width=140, record=True, file=io.StringIO())
    settings = example.Settings(fractions=[0.5])
    console.print(example.accuracy_table(settings, [result, result], 0, "random"))
    console.print(example.likeness_table(settings, [result, result]))
    console.print(example.bound_table([result, result]))
    text = console.export_text()
    assert f"{result['measures'][0, 0, 0, 0]:.3f} ± 0.000" in text
    assert f"{result['unmoved'][1, 0, 3]:.3f} ± 0.000" in text
    assert "whole" in text and "50%" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fractions": [0.0]}, "between 0 and 1"),
        ({"fractions": []}, "between 0 and 1"),
        ({"seeds": []}, "at least one"),
        ({"steps": 0}, "steps: expected at least 1, received 0"),
        ({"turns": 0.0}, "turns: expected a number above 0"),
    ],
)
def test_settings_say_what_is_wrong(example, wrong, message):
    with pytest.raises(ValueError, match=message):
        example.Settings(**wrong)
