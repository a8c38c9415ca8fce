"""PruneDuringTraining and its kin beside callbacks that bring weights back, average them, or only look."""

import keras
import numpy as np
import pytest
from conftest import slow_but
from nets import outputs_of
from telling import telling
from test_training_pruning import dense_net, magnitude, norm

import tfprune as tfp
from tfprune import schedules
from tfprune.training import LearningRateAttack, LivenessMonitor, PruneDuringTraining, shrink_while_training

callbacks = keras.callbacks
# One unit of each group goes before the first epoch, two more of the first and one of the second before the third.
SCHEDULE = schedules.by_epoch({0: 0.2, 2: 0.5})
FIRST, SECOND = {"first": 1, "second": 1}, {"first": 3, "second": 2}
NONE = {"first": 0, "second": 0}
BACK = "PruneDuringTraining: after . epochs"
ORDERS = {True: "prune first", False: "prune last"}
ONE_ORDER_FAST = pytest.mark.parametrize("prune_first", slow_but([False], ORDERS), ids=ORDERS.values())


def learnt():
    """A net with what it gives out as targets: best before anything is cut."""
    model = dense_net(optimizer=keras.optimizers.SGD(0.001, use_ema=True), jit_compile=False)
    x = np.random.default_rng(3).normal(size=(32, 3)).astype("float32")
    return model, x, model.predict(x, verbose=0)


def ordered(prune, others, prune_first):
    return [prune, *others] if prune_first else [*others, prune]


def fit(model, x, y, own, **options):
    return model.fit(
        x, y, **{"batch_size": 8, "epochs": 4, "validation_data": (x, y), "verbose": 0, "callbacks": own} | options
    )


def off(mask):
    return {name: int((~own).sum()) for name, own in mask.items()}


def assert_true_of(model, mask, x):
    """The law: what the mask says to be off can be cut without a change."""
    np.testing.assert_allclose(outputs_of(tfp.remove(model, mask), [x]), outputs_of(model, [x]), rtol=1e-5, atol=1e-5)


def setting_weights(event, at=None):
    """Brings the weights that there were at first back."""
    kept = []

    def begin(logs=None):
        kept[:] = own.model.get_weights()

    def back(epoch=None, logs=None):
        if at is None or epoch == at:
            own.model.set_weights(kept)

    own = callbacks.LambdaCallback(on_train_begin=begin, **{event: back})
    return own


CALLBACKS = {
    "early_stopping": (
        lambda path: [callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)],
        FIRST,
        r"after 4 epochs 5 of 11 were off \(sparsity 0.455\).* 2 are off \(sparsity 0.182, as after the step at epoch "
        r"0\).*start_from_epoch",
    ),
    "early_stopping_of_late_epochs": (
        lambda path: [callbacks.EarlyStopping("val_loss", restore_best_weights=True, start_from_epoch=2)],
        SECOND,
        None,
    ),
    "early_stopping_that_stops": (
        lambda path: [callbacks.EarlyStopping("val_loss", patience=1, restore_best_weights=True)],
        FIRST,
        "after . epochs",
    ),
    "weights_set_at_the_end": (lambda path: [setting_weights("on_train_end")], NONE, r"0 are off \(sparsity 0.000"),
    "weights_set_between": (lambda path: [setting_weights("on_epoch_end", 2)], SECOND, "after 3 epochs 5 of 11"),
    "backup": (lambda path: [callbacks.BackupAndRestore(path / "backup")], SECOND, None),
    "averages": (lambda path: [callbacks.SwapEMAWeights()], SECOND, None),
    "averages_between_epochs": (lambda path: [callbacks.SwapEMAWeights(swap_on_epoch=True)], SECOND, None),
    "that_only_look": (
        lambda path: [
            callbacks.ReduceLROnPlateau("val_loss", patience=1),
            callbacks.CSVLogger(path / "log.csv"),
            callbacks.TerminateOnNaN(),
            callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate),
            callbacks.ModelCheckpoint(path / "{epoch}.keras"),
        ],
        SECOND,
        None,
    ),
}


@ONE_ORDER_FAST
@pytest.mark.parametrize("name", CALLBACKS)
def test_the_mask_is_true_of_the_weights_after_fit(name, prune_first, tmp_path):
    make, expected, message = CALLBACKS[name]
    model, x, y = learnt()
    prune = PruneDuringTraining(norm, SCHEDULE, x, repair="zero")

    def run():
        fit(model, x, y, ordered(prune, make(tmp_path), prune_first))
        return prune.mask

    if message is None:
        mask = run()
    else:
        with telling(message):
            mask = run()
    assert off(mask) == expected
    assert_true_of(model, mask, x)
    assert prune.mask == mask and "apply" not in vars(model.optimizer)


@ONE_ORDER_FAST
def test_weights_that_early_stopping_brings_back_are_not_cut(prune_first):
    """What is best stays as good as it was, and single weights are treated as units are."""
    for saliency in (norm, magnitude):
        model, x, y = learnt()
        prune = PruneDuringTraining(saliency, SCHEDULE, x, repair="zero")
        stop = callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
        with telling(BACK):
            history = fit(model, x, y, ordered(prune, [stop], prune_first)).history["val_loss"]
            mask = prune.mask
        assert stop.best_epoch < 2
        assert model.evaluate(x, y, verbose=0) == pytest.approx(min(history), rel=1e-4)
        if saliency is magnitude:
            np.testing.assert_array_equal(outputs_of(tfp.zero_weights(model, mask), [x]), outputs_of(model, [x]))
            assert off(mask) == {"first": 3, "second": 6, "out": 2}


@ONE_ORDER_FAST
def test_checkpoints_of_the_best_epoch(prune_first, tmp_path):
    model, x, y = learnt()
    prune = PruneDuringTraining(norm, SCHEDULE, x, repair="zero")
    best = [
        callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        callbacks.ModelCheckpoint(tmp_path / "best.weights.h5", save_best_only=True, save_weights_only=True),
    ]
    history = fit(model, x, y, ordered(prune, best, prune_first)).history["val_loss"]
    assert off(prune.mask) == SECOND and np.argmin(history) < 2
    loaded = keras.models.load_model(tmp_path / "best.keras")
    assert off(prune.mask_of(loaded)) == FIRST
    assert_true_of(loaded, prune.mask_of(loaded), x)
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(min(history), rel=1e-4)
    model.load_weights(tmp_path / "best.weights.h5")
    with telling(BACK):
        assert off(prune.mask) == FIRST
    assert_true_of(model, prune.mask, x)
    # The same callback goes on: with the model, and with the one that was loaded.
    for own in (model, loaded):
        fit(own, x, y, ordered(prune, [], True), initial_epoch=2)
        assert off(prune.mask) == SECOND
        assert_true_of(own, prune.mask, x)


def test_mask_of_refuses():
    model, x, y = learnt()
    prune = PruneDuringTraining(norm, SCHEDULE, x, repair="zero")
    with pytest.raises(ValueError, match="`fit` has not begun"):
        prune.mask_of(model)
    fit(model, x, y, [prune], epochs=1)
    other = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7, name="first"), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="has {'first': 7}, which are not those of the model"):
        prune.mask_of(other)


@ONE_ORDER_FAST
def test_fit_again_after_weights_came_back(prune_first):
    model, x, y = learnt()
    prune = PruneDuringTraining(norm, SCHEDULE, x, repair="zero")
    with telling(BACK):
        fit(model, x, y, ordered(prune, [setting_weights("on_train_end")], prune_first))
        fit(model, x, y, [prune], epochs=1)
    assert off(prune.mask) == FIRST
    fit(model, x, y, [prune])
    assert off(prune.mask) == SECOND and prune.history[-1].epoch == 2
    assert_true_of(model, prune.mask, x)


class Interrupt(callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise KeyboardInterrupt


@ONE_ORDER_FAST
@pytest.mark.parametrize("kind", ["prune", "attack"])
def test_a_training_that_a_backup_takes_up_ends_alike(kind, prune_first, tmp_path):
    def make():
        if kind == "attack":
            return LearningRateAttack(("first", 2), multiplier=3, start=2, count=4, interval=4)
        return PruneDuringTraining(norm, SCHEDULE, x, repair="zero")

    runs = []
    for interrupted in (False, True):
        model, x, y = learnt()
        own = make()
        options = {"shuffle": False, "epochs": 5}
        if interrupted:
            with pytest.raises(KeyboardInterrupt):
                backup = callbacks.BackupAndRestore(tmp_path / "backup")
                fit(model, x, y, [*ordered(own, [backup], prune_first), Interrupt()], **options)
            (model, x, y), own = learnt(), make()
        backup = callbacks.BackupAndRestore(tmp_path / "backup")
        fit(model, x, y, ordered(own, [backup], prune_first), **options)
        runs.append((np.concatenate([w.ravel() for w in model.get_weights()]), getattr(own, "mask", None)))
    np.testing.assert_allclose(runs[1][0], runs[0][0], rtol=1e-4, atol=1e-6)
    assert runs[1][1] == runs[0][1]


# When it is cut -------------------------------------------------------------------------------------------------------


@ONE_ORDER_FAST
@pytest.mark.parametrize("schedule", [schedules.by_epoch({1: 0.5}), schedules.constant(0.5, start=4)])
def test_the_validation_of_an_epoch_sees_what_was_cut(schedule, prune_first, tmp_path):
    model, x, y = learnt()
    model.compile(keras.optimizers.SGD(0.0), "mse", jit_compile=False)
    prune = PruneDuringTraining(norm, schedule, x, repair="zero")
    checkpoint = callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    history = fit(model, x, y, ordered(prune, [checkpoint], prune_first), epochs=2).history
    assert prune.history[0].epoch == 1 and prune.history[0].step == 4
    saved = [keras.models.load_model(tmp_path / f"{epoch}.keras") for epoch in (1, 2)]
    assert history["val_loss"] == pytest.approx([own.evaluate(x, y, verbose=0) for own in saved], rel=1e-4)
    assert history["val_loss"][1] == pytest.approx(prune.history[0].loss_after or history["val_loss"][1], rel=1e-4)
    assert history["val_loss"][1] > 0.01 > history["val_loss"][0]
    assert [off(prune.mask_of(own)) for own in saved] == [NONE, SECOND]


@pytest.mark.parametrize("schedule", [schedules.by_epoch({2: 0.5}), schedules.constant(0.5, start=8)])
def test_what_is_due_after_the_last_epoch_is_cut_at_the_end(schedule):
    model, x, y = learnt()
    prune = PruneDuringTraining(norm, schedule, x, repair="zero")
    fit(model, x, y, [prune], epochs=2)
    assert [(own.step, own.epoch, own.off) for own in prune.history] == [(8, 2, SECOND)]
    assert_true_of(model, prune.mask, x)


def test_a_training_that_is_stopped_early_is_not_cut_afterwards():
    model, x, y = learnt()
    stop = callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True))
    prune = PruneDuringTraining(norm, schedules.by_epoch({1: 0.5}), x, repair="zero")
    fit(model, x, y, [prune, stop])
    assert not prune.history and prune.mask.flat.all()


# Its kin --------------------------------------------------------------------------------------------------------------


@ONE_ORDER_FAST
def test_a_monitor_says_that_its_verdicts_are_of_other_weights(prune_first):
    model, x, y = learnt()
    # Averages of weights would be others than those of the last epoch, too.
    model.compile(keras.optimizers.SGD(0.001), "mse", jit_compile=False)
    monitor = LivenessMonitor((x, y))
    stop = callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    worse = callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: model.set_weights([1.1 * w for w in model.get_weights()])
    )
    fit(model, x, y, [worse, monitor], epochs=2)
    assert not monitor.dead.flat.any()
    fit(model, x, y, [worse, *ordered(monitor, [stop], prune_first)], epochs=3)
    for verdict in ("dead", "frozen"):
        with telling(f"which units are {verdict} was measured .* after 3 epochs, but"):
            getattr(monitor, verdict)


@ONE_ORDER_FAST
def test_an_attack_leaves_nothing_behind_where_weights_come_back(prune_first):
    model, x, y = learnt()
    attack = LearningRateAttack(("first", 2), multiplier=100, start=4, count=4)
    stop = callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True)
    history = fit(model, x, y, ordered(attack, [stop], prune_first)).history["val_loss"]
    assert "apply" not in vars(model.optimizer)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(min(history), rel=1e-4)


def test_shrinking_beside_callbacks(tmp_path):
    model, x, y = learnt()
    own = [
        callbacks.EarlyStopping("val_loss", patience=9, restore_best_weights=True),
        callbacks.ModelCheckpoint(tmp_path / "best.keras", save_best_only=True),
        callbacks.BackupAndRestore(tmp_path / "backup"),
        callbacks.SwapEMAWeights(),
    ]
    options = {"callbacks": own, "verbose": 0, "batch_size": 8, "validation_data": (x, y)}
    schedule = schedules.by_epoch({1: 0.2, 2: 0.5})
    shrunk = shrink_while_training(model, (x, y), schedule, norm, epochs=4, repair="zero", fit_options=options)
    assert off(shrunk.mask) == SECOND
    assert tfp.unit_groups(shrunk.model).sizes == {name: int(on.sum()) for name, on in shrunk.mask.items()}
    best = keras.models.load_model(tmp_path / "best.keras")
    assert best.evaluate(x, y, verbose=0) == pytest.approx(min(shrunk.history["val_loss"]), rel=1e-4)
