"""Experiments against slow float64 formulas, and records that survive saving."""

import dataclasses
import doctest

import keras
import numpy as np
import pytest
from conftest import randomise

from tfprune import experiments
from tfprune.experiments import FlipPaths, MaskedOutputs, PointGradients, RandomSubsets, runs
from tfprune.masking import with_on_nodes

NUM_UNITS = 5


@pytest.fixture
def net():
    """2 -> 5 relu -> 3 softmax, compiled."""
    model = keras.Sequential(
        [
            keras.Input((2,), name="point"),
            keras.layers.Dense(NUM_UNITS, activation="relu", name="hidden"),
            keras.layers.Dense(3, activation="softmax", name="out"),
        ],
        name="net",
    )
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    return randomise(model)


@pytest.fixture
def data(generator):
    return generator.normal(size=(40, 2)).astype(np.float32), generator.integers(0, 3, 40)


@pytest.fixture
def paths(generator):
    """Paths whose log loss is a sum over units, plus noise, so that complements anticorrelate."""
    masks = runs._draw_paths(400, NUM_UNITS, generator)
    log_losses = masks @ np.array([0.5, -0.4, 0.3, 0.2, -0.6]) + 0.1 * generator.normal(size=masks.shape[:2])
    return FlipPaths(settings={}, masks=masks, losses=np.exp(log_losses))


def replica_losses(net, points, targets, on_nodes):
    """Loss of each point for one row of on_nodes per point, in float64."""
    kernel, bias, out_kernel, out_bias = (weight.astype(np.float64) for weight in net.get_weights())
    hidden = np.maximum(points.astype(np.float64) @ kernel + bias, 0.0) * on_nodes
    logits = hidden @ out_kernel + out_bias
    log_sums = np.log(np.exp(logits).sum(axis=1))
    return log_sums - logits[np.arange(len(targets)), targets]


def replica_gradients(net, points, targets, on_nodes, step=1e-6):
    """Central differences of the points' losses with respect to on_nodes, shape (num_points, num_units)."""
    columns = []
    for unit in range(NUM_UNITS):
        shift = step * np.eye(NUM_UNITS)[unit]
        upper, lower = (replica_losses(net, points, targets, on_nodes + sign * shift) for sign in (1, -1))
        columns.append((upper - lower) / (2 * step))
    return np.stack(columns, axis=1)


def test_random_subsets_match_the_formula(net, data):
    record = experiments.random_subsets(net, data, probability=0.5, num_subsets=8, seed=3, progress=False)
    assert record.masks.shape == (8, NUM_UNITS) and record.masks.dtype == bool
    for mask, loss, gradient in zip(record.masks, record.losses, record.gradients, strict=True):
        on_nodes = np.tile(mask.astype(float), (40, 1))
        assert loss == pytest.approx(replica_losses(net, *data, on_nodes).mean(), rel=1e-5)
        np.testing.assert_allclose(gradient, replica_gradients(net, *data, on_nodes).mean(axis=0), atol=1e-5)
    assert record.full_loss == pytest.approx(net.evaluate(*data, verbose=0), rel=1e-5)
    assert record.settings["probability"] == 0.5 and record.settings["seed"] == 3


def test_masked_model_gives_the_same_record(net, data):
    masked = with_on_nodes(net)
    masked.compile(loss="sparse_categorical_crossentropy")
    options = {"probability": 0.5, "num_subsets": 4, "seed": 3, "progress": False}
    plain, given = (experiments.random_subsets(model, data, **options) for model in (net, masked))
    np.testing.assert_allclose(given.losses, plain.losses, rtol=1e-6)
    np.testing.assert_array_equal(given.masks, plain.masks)


def test_units_on_at_a_lower_probability_are_on_at_a_higher_one(net, data):
    few, many, again = (
        experiments.random_subsets(net, data, probability=p, num_subsets=200, seed=1, progress=False).masks
        for p in (0.3, 0.8, 0.8)
    )
    assert np.all(many[few])
    np.testing.assert_array_equal(many, again)
    assert few.mean() == pytest.approx(0.3, abs=0.05) and many.mean() == pytest.approx(0.8, abs=0.05)


def test_subset_moments(generator):
    record = RandomSubsets(
        settings={},
        masks=np.ones((2, 2), bool),
        losses=np.array([1.0, np.e]),
        gradients=np.array([[1.0, 3.0], [np.e, -np.e]]),
        full_loss=np.array(1.0),
    )
    np.testing.assert_allclose(record.log_losses, [0.0, 1.0])
    np.testing.assert_allclose(record.log_loss_gradients, [[1.0, 3.0], [1.0, -1.0]])
    moments = record.moments()
    assert moments["mean log loss"] == pytest.approx(0.5) and moments["std of log loss"] == pytest.approx(0.5)
    assert moments["mean gradient"] == pytest.approx(1.0)
    assert moments["mean gradient of log loss"] == pytest.approx(1.0)
    assert moments["std of gradient of log loss"] == pytest.approx(np.sqrt(2.0))


def test_log_loss_refuses_zero():
    record = FlipPaths(settings={}, masks=np.ones((1, 2, 1), bool), losses=np.array([[0.0, 1.0]]))
    with pytest.raises(ValueError, match="losses above 0, received 1 that are not"):
        _ = record.log_losses


def test_flip_paths_flip_each_unit_once(net, data):
    record = experiments.flip_paths(net, data, num_paths=6, seed=2, progress=False)
    assert record.masks.shape == (6, NUM_UNITS + 1, NUM_UNITS)
    assert np.all((record.masks[:, 1:] ^ record.masks[:, :-1]).sum(axis=2) == 1)
    np.testing.assert_array_equal(record.masks[:, -1], ~record.masks[:, 0])
    for path, step in ((0, 0), (3, 2), (5, 5)):
        on_nodes = np.tile(record.masks[path, step].astype(float), (40, 1))
        expected = replica_losses(net, *data, on_nodes).mean()
        assert record.losses[path, step] == pytest.approx(expected, rel=1e-5)


def test_starts_and_orders_are_uniform(generator):
    masks = runs._draw_paths(20_000, 3, generator)
    assert masks[:, 0].mean(axis=0) == pytest.approx([0.5] * 3, abs=0.02)
    first_flipped = (masks[:, 1] ^ masks[:, 0]).mean(axis=0)
    assert first_flipped == pytest.approx([1 / 3] * 3, abs=0.02)


def test_covariance_and_its_standard_error(paths, generator):
    log_losses = np.log(paths.losses)
    centred = log_losses - log_losses.mean(axis=0)
    covariance = paths.covariance()
    np.testing.assert_allclose(covariance, centred.T @ centred / (len(centred) - 1), rtol=1e-12)
    draws = [np.cov(log_losses[generator.integers(0, 400, 400)], rowvar=False) for _ in range(400)]
    np.testing.assert_allclose(paths.covariance_standard_error(), np.std(draws, axis=0), rtol=0.25)


def test_complement_correlation_and_its_standard_error(paths, generator):
    ends = np.log(paths.losses[:, [0, -1]])
    correlation, error = paths.complement_correlation()
    assert correlation == pytest.approx(np.corrcoef(ends.T)[0, 1], rel=1e-9)
    assert correlation < -0.8
    draws = [np.corrcoef(ends[generator.integers(0, 400, 400)].T)[0, 1] for _ in range(500)]
    assert error == pytest.approx(np.std(draws), rel=0.25)


def test_flips_until_forgotten(paths):
    with_start = paths.covariance()[0]
    flips = paths.flips_until_forgotten(0.1)
    assert with_start[flips] < 0.1 * with_start[0] <= with_start[flips - 1]
    steady = dataclasses.replace(paths, losses=np.repeat(paths.losses[:, :1], NUM_UNITS + 1, axis=1))
    assert steady.flips_until_forgotten() is None


@pytest.mark.parametrize("batch_size", [7, 4096])
def test_point_gradients_keep_points_apart(net, data, batch_size):
    record = experiments.point_gradients(net, data, batch_size=batch_size)
    on_nodes = np.ones((40, NUM_UNITS))
    np.testing.assert_array_equal(record.points, data[0])
    np.testing.assert_allclose(record.losses, replica_losses(net, *data, on_nodes), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(record.gradients, replica_gradients(net, *data, on_nodes), atol=1e-5)


def test_point_gradients_take_a_loss_object(net, data):
    loss = keras.losses.SparseCategoricalCrossentropy()
    given, compiled = experiments.point_gradients(net, data, loss=loss), experiments.point_gradients(net, data)
    np.testing.assert_allclose(given.losses, compiled.losses, rtol=1e-6)


def test_point_gradients_need_a_loss(net, data):
    net = keras.Model(net.inputs, net.outputs)
    with pytest.raises(ValueError, match="is not compiled with a loss and none was given"):
        experiments.point_gradients(net, data)


def test_point_gradients_need_one_input(two_input_net):
    with pytest.raises(ValueError, match=r"one input, received 'two_input_net' with inputs \['left', 'right'\]"):
        experiments.point_gradients(two_input_net, None)


def test_masked_outputs_match_the_formula(net, data):
    masks = np.array([[True] * 5, [True, False, True, False, False]])
    record = experiments.masked_outputs(net, data[0], masks)
    assert record.outputs.shape == (2, 40, 3)
    np.testing.assert_allclose(record.outputs[0], net.predict(data[0], verbose=0), rtol=1e-5)
    losses = replica_losses(net, *data, np.tile(masks[1].astype(float), (40, 1)))
    np.testing.assert_allclose(-np.log(record.outputs[1, np.arange(40), data[1]]), losses, rtol=1e-4)


def test_masked_outputs_refuse_wrong_masks(net, data):
    with pytest.raises(ValueError, match=r"masks of shape \(num_masks, 5\).*received \(2, 4\)"):
        experiments.masked_outputs(net, data[0], np.ones((2, 4), bool))


@pytest.mark.parametrize("probability", [-0.1, 1.5, float("nan")])
def test_random_subsets_refuse_a_probability(net, data, probability):
    with pytest.raises(ValueError, match="a probability between 0 and 1"):
        experiments.random_subsets(net, data, probability=probability, num_subsets=2, seed=0)


@pytest.mark.parametrize("count", [0, 2.5])
def test_random_subsets_refuse_a_count(net, data, count):
    with pytest.raises(ValueError, match="num_subsets as an integer of at least 1"):
        experiments.random_subsets(net, data, probability=0.5, num_subsets=count, seed=0)


def test_one_path_has_no_covariance(net, data):
    with pytest.raises(ValueError, match="num_paths as an integer of at least 2, received 1"):
        experiments.flip_paths(net, data, num_paths=1, seed=0)


RECORDS = [
    RandomSubsets(
        settings={"probability": 0.5, "seed": 3},
        masks=np.eye(2, dtype=bool),
        losses=np.array([0.5, 0.25]),
        gradients=np.array([[1.0, 2.0], [3.0, 4.0]]),
        full_loss=np.array(0.125),
    ),
    FlipPaths(settings={"seed": 1}, masks=np.ones((2, 3, 2), bool), losses=np.arange(6.0).reshape(2, 3)),
    PointGradients(settings={}, points=np.zeros((3, 2)), losses=np.arange(3.0), gradients=np.ones((3, 4))),
    MaskedOutputs(settings={}, points=np.zeros((3, 2)), masks=np.eye(4, dtype=bool), outputs=np.ones((4, 3, 2))),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_records_survive_saving(record, tmp_path):
    record.save(tmp_path / "record.npz")
    loaded = type(record).load(tmp_path / "record.npz")
    assert loaded.settings == record.settings
    for name in record.array_names():
        np.testing.assert_array_equal(getattr(loaded, name), getattr(record, name))
        assert getattr(loaded, name).dtype == getattr(record, name).dtype
    assert [path.name for path in tmp_path.iterdir()] == ["record.npz"]


def test_records_are_frozen():
    losses = np.array([1.0, 2.0])
    record = PointGradients(settings={}, points=np.zeros((2, 2)), losses=losses, gradients=np.zeros((2, 1)))
    losses[0] = 7.0
    assert record.losses[0] == 1.0
    with pytest.raises(ValueError, match="read-only"):
        record.losses[0] = 3.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.losses = losses


def test_save_wants_an_npz_path(tmp_path):
    with pytest.raises(ValueError, match="a path that ends in .npz"):
        RECORDS[0].save(tmp_path / "record.txt")


def test_load_names_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="expected an npz file written by save at .*absent.npz"):
        RandomSubsets.load(tmp_path / "absent.npz")


def test_load_refuses_another_record(tmp_path):
    RECORDS[0].save(tmp_path / "record.npz")
    with pytest.raises(ValueError, match="expected a FlipPaths, received a RandomSubsets; use RandomSubsets.load"):
        FlipPaths.load(tmp_path / "record.npz")
    with pytest.raises(ValueError, match=r"expected a PointGradients, but \['points'\] are missing"):
        PointGradients.load(tmp_path / "record.npz")


def test_documented_numbers():
    assert doctest.testmod(runs).failed == 0
