"""shrink_while_training: against fit and remove by hand, and at the border."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SEED, randomise
from nets import outputs_of

import tfprune as tfp
from tfprune import saliency, schedules
from tfprune.training import shrink_while_training

TABLE = schedules.by_epoch({1: 0.3, 2: 0.5})


def dense_net(**options):
    model = keras.Sequential(
        [
            keras.Input((3,), name="x"),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model.compile(**{"optimizer": keras.optimizers.Adam(0.01), "loss": "mse", "metrics": ["mae"]} | options)
    return randomise(model)


def data_of(num_samples=320):
    generator = np.random.default_rng(SEED)
    return tuple(generator.normal(size=(num_samples, width)).astype("float32") for width in (3, 2))


def norm(model, data=None):
    return saliency.weight_norm(model)


QUIET = {"verbose": 0, "shuffle": False, "batch_size": 80}


def test_equals_fit_and_remove_by_hand():
    x, y = data_of()
    model = dense_net()
    weights = model.get_weights()
    small, mask, history, steps = shrink_while_training(model, (x, y), TABLE, norm, epochs=4, fit_options=QUIET)
    assert all(np.array_equal(one, two) for one, two in zip(weights, model.get_weights(), strict=True))
    assert int(model.optimizer.iterations) == 0

    twin = dense_net()
    left = {"first": np.arange(6), "second": np.arange(5)}
    for num_left in ({"first": 5, "second": 4}, {"first": 3, "second": 3}):
        twin.fit(x, y, epochs=1, **QUIET)
        kept = {}
        for name, scores in norm(twin).items():
            kept[name] = np.zeros(len(scores), bool)
            kept[name][np.argsort(scores)[len(scores) - num_left[name] :]] = True
            left[name] = left[name][kept[name]]
        twin = tfp.remove(twin, tfp.LayerValues(kept), repair="least_squares", data=x, keep_optimizer=True)
    twin.fit(x, y, epochs=2, **QUIET)
    for one, two in zip(small.weights, twin.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-5, atol=1e-7)
    for one, two in zip(small.optimizer.variables, twin.optimizer.variables, strict=True):
        np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-4, atol=1e-7)
    assert int(small.optimizer.iterations) == 16
    assert {name: np.flatnonzero(on).tolist() for name, on in mask.items()} == {n: v.tolist() for n, v in left.items()}
    sizes = [model.count_params(), 5 * 4 + 4 * 6 + 2 * 5, small.count_params(), small.count_params()]
    assert history["parameters"] == sizes and small.count_params() == 3 * 4 + 3 * 4 + 2 * 4
    assert len(history["loss"]) == len(history["mae"]) == len(history["seconds"]) == 4
    assert [(step.step, step.epoch, step.off) for step in steps] == [
        (4, 1, {"first": 1, "second": 1}),
        (8, 2, {"first": 3, "second": 2}),
    ]


def test_repair_shows_in_the_losses():
    x, y = data_of()
    model = dense_net(optimizer=keras.optimizers.SGD(0.0))
    reached = {}
    for repair in ("zero", "least_squares"):
        options = {"epochs": 1, "repair": repair, "fit_options": QUIET}
        shrunk = shrink_while_training(model, (x, y), schedules.constant(0.5), norm, **options)
        (step,) = shrunk.steps
        assert step.loss_before == pytest.approx(model.evaluate(x, y, verbose=0)[0], rel=1e-5)
        assert step.loss_after == pytest.approx(shrunk.model.evaluate(x, y, verbose=0)[0], rel=1e-5)
        reached[repair] = np.abs(outputs_of(shrunk.model, [x]) - outputs_of(model, [x])).mean()
    assert reached["least_squares"] < 0.7 * reached["zero"]


def test_steps_and_datasets_and_global_scope():
    x, y = data_of()
    stream = tf.data.Dataset.from_tensor_slices((x, y)).batch(80)
    schedule = schedules.polynomial(0.0, 0.6, begin=0, end=8, power=1, frequency=1)
    options = {"scope": "global", "epochs": 3, "repair": "zero", "fit_options": {"verbose": 0, "shuffle": False}}
    shrunk = shrink_while_training(dense_net(), stream, schedule, norm, **options)
    assert [(step.step, sum(step.off.values())) for step in shrunk.steps] == [(4, 3), (8, 6)]
    assert shrunk.history["parameters"][0] > shrunk.history["parameters"][1] > shrunk.history["parameters"][2]


def test_a_callback_may_stop_it():
    x, y = data_of()
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(stop.model, "stop_training", True))
    options = {"epochs": 5, "fit_options": QUIET | {"callbacks": [stop]}}
    shrunk = shrink_while_training(dense_net(), (x, y), schedules.by_epoch({3: 0.5}), norm, **options)
    assert len(shrunk.history["loss"]) == 1 and not shrunk.steps and shrunk.mask.flat.all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"epochs": 0}, "`epochs` expects a whole number"),
        ({"schedule": schedules.Schedule(lambda e: 0.5 - e / 10, "epochs")}, "it falls from 0.5"),
        ({"saliency": lambda model, data: {"frist": np.ones(6)}}, "did you mean 'first'"),
        ({"saliency": lambda model, data: {"first": np.full(6, np.nan)}}, "NaN for 6 of 6"),
        ({"score_data": np.ones((4, 3))}, "4 samples are too few"),
        ({"fit_options": {"epochs": 3}}, "`fit_options` may not have 'epochs'"),
        ({"layers": "frist"}, "Did you mean 'first'"),
        ({"scope": "all"}, "`scope` expects"),
        ({"repair": "means"}, "repair: expected a repair, or its name"),
        ({"model": keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])}, "not compiled"),
    ],
)
def test_refused_before_any_training(options, match):
    given = {"model": dense_net(), "data": data_of(40), "schedule": TABLE, "saliency": norm, "epochs": 3} | options
    with pytest.raises(ValueError, match=match):
        shrink_while_training(**given)
