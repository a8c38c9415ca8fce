"""One run of the distinctiveness study: a net is trained on a table, pruned in every way, and compared with others."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import tfprune as tfp

NETS = ("A", "B", "C")
# What the source pruned of each net: the hidden layers, and of the LSTM net only the dense layer behind.
PUBLISHED_LAYERS = {"A": ["hidden"], "B": ["hidden_1", "hidden_2", "hidden_3"], "C": ["dense"]}
EPOCHS = {"A": 500, "B": 500, "C": 100}
# The source gives no rate for net A.
RATES = {"A": 0.01, "B": 0.002, "C": 0.005}
TRANSFERS = ("exact", "gedeon", "none")
VECTORS = ("activations", "weights")
THRESHOLDS = tuple(range(0, 61, 5))
SCORES = {
    "distinctiveness": tfp.saliency.distinctiveness,
    "L1 norm": tfp.saliency.weight_norm,
    "activation std": tfp.saliency.activation_std,
    "least squares": tfp.saliency.least_squares,
    "random": partial(tfp.saliency.random, seed=0),
}
REPAIRS = ("zero", "least_squares")


def build(net: str, num_features: int, num_classes: int, seed: int) -> keras.Model:
    """The source's nets; the LSTM reads the features one by one."""
    keras.utils.set_random_seed(seed)
    steps: list[layers.Layer]
    if net == "A":
        steps = [keras.Input((num_features,)), layers.Dense(15, "relu", name="hidden")]
    elif net == "B":
        steps = [keras.Input((num_features,))]
        for number in (1, 2, 3):
            steps += [layers.Dense(100, name=f"hidden_{number}"), layers.BatchNormalization()]
            steps += [layers.ReLU(), layers.Dropout(0.5)]
    else:
        lstm = [layers.LSTM(256, return_sequences=True, name="lstm_1"), layers.LSTM(256, name="lstm_2")]
        steps = [
            keras.Input((num_features,)),
            layers.Reshape((num_features, 1)),
            *lstm,
            layers.Dense(64, "relu", name="dense"),
        ]
    model = keras.Sequential([*steps, layers.Dense(num_classes, name="logits")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATES[net]), loss, metrics=["accuracy"])
    return model


def study(
    *, seed: int, net: str, table: str, target: str | None, drop: list[str], epochs: float, sweep: bool
) -> dict[str, Any]:
    """Trains one net on one table and prunes it.

    Args:
        seed: Of the split, the initial weights and the training.
        net: A, B or C.
        table: What `datasets.tables` takes.
        target: Name of the class's column, for a file.
        drop: Names of columns left out, for a file.
        epochs: Share of the source's epochs.
        sweep: Whether to try all thresholds.

    Returns:
        Accuracies, sizes and counts, named ``pruned/scope/vectors/transfer``, and the angles of all groups.
    """
    (x, y), (x_test, y_test) = tfp.datasets.tables(table, target=target, drop=drop, seed=seed)
    num_classes = int(max(y.max(), y_test.max())) + 1
    model = build(net, x.shape[1], num_classes, seed)
    # All rows are one batch, so that an epoch is one step.
    rows = tf.data.Dataset.from_tensors((x, y)).repeat()
    model.fit(rows, steps_per_epoch=max(1, round(EPOCHS[net] * epochs)), shuffle=False, verbose=0)

    def measured(small: keras.Model) -> dict[str, Any]:
        guess = np.argmax(small(keras.ops.convert_to_tensor(x_test)), axis=1)
        confusion = np.zeros((num_classes, num_classes), int)
        np.add.at(confusion, (y_test, guess), 1)
        return {"accuracy": float(np.mean(guess == y_test)), "parameters": small.count_params(), "confusion": confusion}

    result = {f"whole/{name}": value for name, value in measured(model).items()}
    result["whole/train"] = float(model.evaluate(x, y, verbose=0)[1])
    result["whole/majority"] = float(np.bincount(y_test).max() / len(y_test))
    result |= {f"angles/{name}": own for name, own in tfp.distinctiveness.angles(model, x).items()}
    scopes = {"published": PUBLISHED_LAYERS[net], "all": None}
    for scope, chosen in scopes.items():
        for vectors in VECTORS:
            for transfer in TRANSFERS:
                plan = tfp.distinctiveness.plan(model, x, vectors=vectors, transfer=transfer, layers=chosen)
                name = f"pruned/{scope}/{vectors}/{transfer}"
                result |= {f"{name}/{key}": value for key, value in measured(plan.cut()).items()}
                result[f"{name}/removed"] = len(plan.removals)
                for reason in ("similar", "complementary"):
                    result[f"{name}/{reason}"] = sum(own.reason == reason for own in plan.removals)
        mask = tfp.distinctiveness.plan(model, x, layers=chosen).mask
        refitted = measured(_removed(model, mask, "least_squares", x))
        result |= {f"refitted/{scope}/{key}": value for key, value in refitted.items()}
    result |= _others(model, x, mask, measured)
    if sweep:
        result["sweep"] = np.array(
            [[_at(model, x, t, transfer, measured) for t in THRESHOLDS] for transfer in TRANSFERS]
        )
    return result


def _others(model: keras.Model, x: np.ndarray, mask: tfp.LayerValues, measured: Any) -> dict[str, Any]:
    """Other scores with as many units of each layer gone as under `mask`."""
    result = {}
    for score, function in SCORES.items():
        with _few_samples():
            scores = function(model, x)
        own = tfp.LayerValues({name: _lowest_off(scores[name], int((~kept).sum())) for name, kept in mask.items()})
        for repair in REPAIRS:
            result[f"others/{score}/{repair}"] = measured(_removed(model, own, repair, x))["accuracy"]
    return result


def _removed(model: keras.Model, mask: tfp.LayerValues, repair: str, x: np.ndarray) -> keras.Model:
    with _few_samples():
        return tfp.remove(model, mask, repair=repair, data=x)


@contextlib.contextmanager
def _few_samples() -> Iterator[None]:
    """The tables are small, and all scores and repairs are compared on the same rows."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "data: .* samples; below", UserWarning)
        yield


def _lowest_off(scores: np.ndarray, count: int) -> np.ndarray:
    kept = np.ones(len(scores), bool)
    kept[np.argsort(scores, kind="stable")[:count]] = False
    return kept


def _at(model: keras.Model, x: np.ndarray, threshold: float, transfer: str, measured: Any) -> float:
    options = {"similar": threshold, "complementary": 180 - threshold, "transfer": transfer}
    return measured(tfp.distinctiveness.prune(model, x, **options))["accuracy"]
