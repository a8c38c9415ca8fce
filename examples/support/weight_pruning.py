"""The runs of chapter 2: scores of single weights along a training, and a schedule of magnitude pruning."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np
import real_nets
import tensorflow as tf
from support import thesis

import tfprune as tfp

LAYER = "conv1"
FRACTIONS = (0.01, 0.05, 0.8)
BATCH_SIZE = 32
NUM_SAMPLES = 1000
SHARES = tuple(np.round(np.arange(0.0, 0.55, 0.05), 2).tolist())

WEIGHTS = tfp.saliency.weights
# The thesis's names: each is an estimate of the first, but for the last two.
RAW = {
    "loss change": WEIGHTS.loss_change,
    "taylor1": WEIGHTS.taylor1,
    "taylor2": WEIGHTS.taylor2,
    "hessian": WEIGHTS.hessian,
    "taylor2, true diagonal": partial(WEIGHTS.taylor2, curvature="diagonal"),
    "random": WEIGHTS.random,
}
ABSOLUTE = {f"|{name}|": partial(score, absolute=True) for name, score in RAW.items() if name != "random"}
ABSOLUTE |= {"magnitude": WEIGHTS.magnitude, "random": WEIGHTS.random}


class _Comparison(keras.callbacks.Callback):
    """Every so many steps: scores of the weights of one layer, and what zeroing the lowest would cost."""

    def __init__(self, data: Any, every: int):
        super().__init__()
        self._data, self._every, self._step = data, every, 0
        self.steps: list[int] = []
        self.negative: list[list[float]] = []
        self.changes: dict[str, list[np.ndarray]] = {"raw": [], "absolute": []}
        self.rankings: dict[str, np.ndarray] = {}

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self._every == 0:
            self._measure()

    def _measure(self):
        raw = {name: score(self.model, self._data, layers=LAYER)[LAYER] for name, score in RAW.items()}
        # What an absolute score is made of is known already, but for magnitude and random numbers.
        absolute = {
            name: np.abs(raw[name[1:-1]]) if name[1:-1] in raw else score(self.model, layers=LAYER)[LAYER]
            for name, score in ABSOLUTE.items()
        }
        self.steps.append(self._step)
        self.negative.append([float((raw[name] < 0).mean()) for name in RAW if name != "random"])
        for kind, scores in (("raw", raw), ("absolute", absolute)):
            self.changes[kind].append(self._changes(scores))
            self.rankings |= {f"ranking_{kind}_{name}": _ranks(values) for name, values in scores.items()}

    def _changes(self, scores: dict[str, np.ndarray]) -> np.ndarray:
        """Change of the loss `(fractions, scores)` when the lowest weights are zero; the model comes back as it was."""
        kernel = self.model.get_layer(LAYER).kernel
        values = kernel.numpy()
        whole = self._loss()
        result = np.zeros((len(FRACTIONS), len(scores)))
        for row, fraction in enumerate(FRACTIONS):
            for column, own in enumerate(scores.values()):
                on = tfp.keep_top(tfp.LayerValues({LAYER: own}), fraction)[LAYER]
                kernel.assign(np.where(on, values, 0))
                result[row, column] = self._loss() - whole
        kernel.assign(values)
        return result

    def _loss(self) -> float:
        return self._compiled().numpy().item()

    def on_train_begin(self, logs=None):
        x, y = (tf.convert_to_tensor(own) for own in self._data)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._compiled = tf.function(lambda: loss(y, self.model(x, training=False)))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Places in the order of the scores, 0 to 1, in the shape of the kernel."""
    return (np.argsort(np.argsort(scores.ravel())) / max(scores.size - 1, 1)).reshape(scores.shape)


def compare_weight_scores(
    *, seed: int, activation: str, mnist: str | None, epochs: int, every: int, samples: int
) -> dict[str, Any]:
    """Section 2.1 on the kernel of conv1.

    Returns:
        ``steps`` (measurements,), ``negative`` (measurements, raw scores but random), ``raw`` and ``absolute``
        (measurements, fractions, scores) changes of the loss, and a ranking of the last measurement for each score.
    """
    training, test = thesis.load_data(mnist)
    model = real_nets.compile_classifier(thesis.thesis_net(training[0], activation, seed), thesis.make_optimizer("sgd"))
    comparison = _Comparison(thesis.sample(training, samples, seed), every)
    model.fit(*training, batch_size=BATCH_SIZE, epochs=epochs, callbacks=[comparison], verbose=0)
    loss, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    return {
        "steps": np.array(comparison.steps),
        "negative": np.array(comparison.negative),
        **{kind: np.stack(own) for kind, own in comparison.changes.items()},
        **comparison.rankings,
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def prune_weights_by_schedule(*, seed: int, pruned: bool, mnist: str | None, epochs: int) -> dict[str, Any]:
    """Section 2.2: magnitude pruning by table 2.2, then units that have lost most of their weights are cut out."""
    training, test = thesis.load_data(mnist)
    model = real_nets.compile_classifier(thesis.thesis_net(training[0], "relu", seed), thesis.make_optimizer("sgd"))
    losses = thesis.Losses(every=max(1, min(50, len(training[1]) // BATCH_SIZE // 10)))
    callbacks: list[keras.callbacks.Callback] = [losses]
    if pruned:
        schedule = tfp.schedules.by_epoch(tfp.schedules.THESIS_WEIGHTS)
        data = thesis.sample(training, NUM_SAMPLES, seed)
        callbacks.append(tfp.training.PruneDuringTraining(WEIGHTS.magnitude, schedule, data))
    model.fit(*training, batch_size=BATCH_SIZE, epochs=epochs, callbacks=callbacks, verbose=0)
    loss, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    kernels = {f"kernel_{layer.name}": layer.get_weights()[0] for layer in model.layers if layer.weights}
    steps = [(record.step, record.sparsity) for record in callbacks[-1].history] if pruned else []
    return {
        "parameters": model.count_params(),
        "nonzero": float(np.mean([np.mean(kernel != 0) for kernel in kernels.values()])),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "steps": np.array(losses.steps),
        "losses": np.array(losses.losses),
        "pruning_steps": np.array(steps).reshape(-1, 2),
        **kernels,
        **(remove_by_share(model, training, test) if pruned else {}),
    }


def remove_by_share(model: keras.Model, training: Any, test: Any) -> dict[str, np.ndarray]:
    """Figure 2.11: units with at most the share f_nz of their weights left are cut out, their means passed on."""
    x = training[0][:NUM_SAMPLES]
    shares = tfp.saliency.nonzero_fraction(model)
    parameters, accuracy, propagated = [], [], []
    for share in SHARES:
        mask = tfp.keep_above(shares, share)
        # A layer that would lose everything keeps the best unit that it has.
        best = shares.map(lambda own: own == own.max())
        mask = tfp.LayerValues({name: on if on.any() else best[name] for name, on in mask.items()})
        found = []
        for repair in ("zero", "mean"):
            small = real_nets.compile_classifier(tfp.remove(model, mask, repair=repair, data=x))
            found.append(small.evaluate(*test, batch_size=500, verbose=0)[1])
        parameters.append(small.count_params())
        accuracy.append(found[0])
        propagated.append(found[1])
    return {
        "shares": np.array(SHARES),
        "parameters_left": np.array(parameters),
        "accuracy_zero": np.array(accuracy),
        "accuracy_mean": np.array(propagated),
    }
