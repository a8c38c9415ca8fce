"""LearningRateAttack: against plain loops, with several hooks at once, and at the border."""

import keras
import numpy as np
import pytest
import replicas_training as replicas
from conftest import SEED, randomise
from nets import NETS, inputs_for

from tfprune import saliency, schedules
from tfprune.graph import unit_groups
from tfprune.training import LearningRateAttack, PruneDuringTraining


def dense_net(**options):
    model = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile(**{"optimizer": keras.optimizers.SGD(0.05, 0.9), "loss": "mse"} | options)
    return randomise(model)


def data_of(num_samples=32):
    generator = np.random.default_rng(SEED)
    return tuple(generator.normal(size=(num_samples, width)).astype("float32") for width in (3, 2))


def pairs_of(model):
    weights = [np.asarray(w, "float64") for w in model.get_weights()]
    return list(zip(weights[::2], weights[1::2], strict=True))


def assert_close(pairs, others):
    for own, other in zip(pairs, others, strict=True):
        for one, two in zip(own, other, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2, "jit_compile": True}], ids=["plain", "compiled"])
def test_against_plain_loops(options):
    x, y = data_of()
    model = dense_net(**options)
    start = pairs_of(model)
    attack = LearningRateAttack(("second", 3), multiplier=20.0, start=1, count=3, interval=2)
    model.fit(x, y, batch_size=8, epochs=2, shuffle=False, verbose=0, callbacks=[attack])

    def scale(step):
        factors = [tuple(np.ones_like(w) for w in pair) for pair in start]
        if step in (1, 3, 5):
            factors[1][0][:, 3] = 20.0
        return factors

    batches = [(x[k : k + 8].astype("float64"), y[k : k + 8].astype("float64")) for k in (0, 8, 16, 24)] * 2
    expected = replicas.train(start, batches, rate=0.05, momentum=0.9, scale=scale)
    assert_close(pairs_of(model), expected)
    unharmed = replicas.train(start, batches, rate=0.05, momentum=0.9)
    assert np.abs(expected[1][0][:, 3] - unharmed[1][0][:, 3]).max() > 0.05
    assert "apply" not in vars(model.optimizer)


def test_steps_before_initial_epoch_count():
    """8 steps, 4 an epoch: an attack at step 5 is the second step of the second epoch."""
    x, y = data_of()
    found = []
    for start, options in ((5, {"initial_epoch": 1, "epochs": 2}), (1, {"epochs": 1})):
        model = dense_net()
        attack = LearningRateAttack([("first", 0), ("first", 2)], 5.0, start=start, count=1)
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[attack], **options)
        found.append(pairs_of(model))
    assert_close(*found)


def test_with_pruning_in_either_order():
    x, y = data_of()
    found = []
    for turn in (1, -1):
        model = dense_net()
        mask = {"first": np.arange(6) != 4}
        prune = PruneDuringTraining(saliency.random, schedules.constant(0.0), x, mask=mask)
        attack = LearningRateAttack(("first", 4), 50.0, start=0, count=4)
        model.fit(x, y, batch_size=8, epochs=1, shuffle=False, verbose=0, callbacks=[prune, attack][::turn])
        assert not model.get_layer("first").kernel.numpy()[:, 4].any()
        assert "apply" not in vars(model.optimizer)
        found.append(pairs_of(model))
    assert_close(*found)


def test_of_a_recurrent_unit_all_gates_and_the_recurrent_kernel_are_attacked_and_no_bias():
    moved = []
    for multiplier in (1.0, 3.0):
        model = NETS["lstm_stacked"]()
        model.compile(keras.optimizers.SGD(0.01), "mse")
        (x,) = inputs_for(model, 8)
        cell = model.get_layer("first").cell
        before = [w.numpy() for w in (cell.kernel, cell.recurrent_kernel, cell.bias)]
        attack = LearningRateAttack(("first", 1), multiplier, start=0, count=1)
        model.fit(x, np.zeros(model(x).shape), batch_size=8, epochs=1, verbose=0, callbacks=[attack])
        after = [w.numpy() for w in (cell.kernel, cell.recurrent_kernel, cell.bias)]
        moved.append([two - one for one, two in zip(before, after, strict=True)])
    size = unit_groups(model)["first"].size
    factor = np.where(np.arange(4 * size) % size == 1, 3.0, 1.0)
    for plain, attacked, own in zip(*moved, (factor, factor, 1.0), strict=True):
        np.testing.assert_allclose(attacked, plain * own, rtol=1e-2, atol=2e-7)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((("first", 0), 2.0, -1, 1), "`start` expects a whole number of at least 0"),
        ((("first", 0), 2.0, 0, 0), "`count` expects a whole number of at least 1"),
        ((("first", 0), 2.0, 0, 1, 0), "`interval` expects a whole number of at least 1"),
        ((("first", 0), float("inf"), 0, 1), "`multiplier` expects a finite number"),
        ((("first", 6), 2.0, 0, 1), "'first' has 6 units, numbered from 0; received 6"),
        ((("first", -1), 2.0, 0, 1), "numbered from 0; received -1"),
        ((("frist", 0), 2.0, 0, 1), "Did you mean 'first'"),
        ((("out", 0), 2.0, 0, 1), "cannot be removed"),
    ],
)
def test_refused(arguments, match):
    with pytest.raises(ValueError, match=match):
        dense_net().fit(*data_of(), verbose=0, callbacks=[LearningRateAttack(*arguments)])


@pytest.mark.parametrize("unit", ["first", ("first", 1.5), [("first",)], 3, ()])
def test_refused_units(unit):
    with pytest.raises(TypeError, match="expects the pair"):
        LearningRateAttack(unit, 2.0, 0, 1)
