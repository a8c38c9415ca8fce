"""The runs of chapter 4: scores compared along a training, the schedule of table 4.2, and smaller nets than that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import real_nets
from scipy.stats import spearmanr
from support import thesis

import tfprune as tfp

LAYERS = ("conv1", "conv2", "fc1")
HALF = 0.5
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BATCH_SIZE = 32
NUM_SAMPLES = 1000

SCORES: dict[str, Callable[..., tfp.LayerValues]] = {
    "MRS": tfp.saliency.mean_replacement,
    "MRP": tfp.saliency.mean_replacement_penalty,
    "MRS, signed": partial(tfp.saliency.mean_replacement, signed=True),
    "MRP, signed": partial(tfp.saliency.mean_replacement_penalty, absolute=False),
    "L1 norm": tfp.saliency.weight_norm,
    "L2 norm squared": partial(tfp.saliency.weight_norm, order=2, squared=True),
    "activation std": tfp.saliency.activation_std,
    "on_nodes gradient": tfp.saliency.on_nodes_gradient,
    "least squares": tfp.saliency.least_squares,
    "random": tfp.saliency.random,
}


class _Comparison(keras.callbacks.Callback):
    """Every so many steps: what replacing units by their means would cost, chosen by each score; nothing is changed."""

    def __init__(self, data: Any, every: int, seed: int):
        super().__init__()
        self._data = data
        self._every = every
        self._seed = seed
        self._step = 0
        self.steps: list[int] = []
        self.changes: list[np.ndarray] = []
        self.by_fraction: list[np.ndarray] = []
        self.correlations: list[list[float]] = []

    def on_train_begin(self, logs=None):
        self._measure()

    def on_train_batch_end(self, batch, logs=None):
        self._step += 1
        if self._step % self._every == 0:
            self._measure()

    def _measure(self):
        model, x = self.model, self._data[0]
        scores = {
            name: score(model, x if name in ("activation std", "least squares") else self._data)
            for name, score in SCORES.items()
            if name != "random"
        }
        scores["random"] = tfp.saliency.random(model, seed=self._seed + self._step)
        means = tfp.statistics.exit_means(model, x)
        changes, whole = [], None
        for layer in LAYERS:
            sparsities = (HALF, *FRACTIONS) if layer == "fc1" else (HALF,)
            part = [tfp.LayerValues({layer: scores[name][layer]}) for name in SCORES]
            masks = [tfp.keep_top(own, sparsity) for sparsity in sparsities for own in part]
            masks.append(masks[0].map(np.ones_like))
            own = tfp.LayerValues({layer: means[layer]})
            options = {"layers": layer, "replacement": own, "gradients": False, "progress": False}
            losses = tfp.sweep(model, self._data, masks, **options).losses
            whole = losses[-1]
            changes.append((losses[:-1] - whole).reshape(len(sparsities), len(SCORES)))
        self.steps.append(self._step)
        self.changes.append(np.stack([own[0] for own in changes]))
        self.by_fraction.append(changes[-1][1:])
        self.correlations.append([spearmanr(scores["MRS"][name], scores["MRP"][name])[0] for name in LAYERS])


def compare_scores(*, seed: int, activation: str, mnist: str | None, epochs: int, every: int) -> dict[str, Any]:
    """Section 4.1: the change of the training loss when units of one layer are replaced by their means.

    Returns:
        ``steps`` (measurements,); ``changes`` (measurements, layers, scores) with half of a layer gone; ``by_fraction``
        (measurements, fractions, scores) for fc1; ``correlations`` of MRS with MRP by rank (measurements, layers).
    """
    training, test = thesis.load_data(mnist)
    model = real_nets.compile_classifier(thesis.thesis_net(training[0], activation, seed), thesis.make_optimizer("sgd"))
    comparison = _Comparison(thesis.sample(training, NUM_SAMPLES, seed), every, seed)
    model.fit(*training, batch_size=BATCH_SIZE, epochs=epochs, callbacks=[comparison], verbose=0)
    loss, accuracy = model.evaluate(*test, batch_size=500, verbose=0)
    return {
        "steps": np.array(comparison.steps),
        "changes": np.stack(comparison.changes),
        "by_fraction": np.stack(comparison.by_fraction),
        "correlations": np.array(comparison.correlations),
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def prune_by_schedule(*, seed: int, optimizer: str, pruned: bool, mnist: str | None, epochs: int) -> dict[str, Any]:
    """Section 4.2: the schedule of table 4.2 by MRS, with bias propagation; or the same training without pruning."""
    training, test = thesis.load_data(mnist)
    model = real_nets.compile_classifier(thesis.thesis_net(training[0], "relu", seed), thesis.make_optimizer(optimizer))
    losses = thesis.Losses(every=max(1, len(training[1]) // BATCH_SIZE // 20))
    callbacks: list[keras.callbacks.Callback] = [losses]
    if pruned:
        schedule = tfp.schedules.by_epoch(tfp.schedules.THESIS_UNITS)
        data = thesis.sample(training, NUM_SAMPLES, seed)
        prune = tfp.training.PruneDuringTraining(tfp.saliency.mean_replacement, schedule, data, repair="mean")
        callbacks.append(prune)
    model.fit(*training, batch_size=BATCH_SIZE, epochs=epochs, callbacks=callbacks, verbose=0)
    small = tfp.remove(model, callbacks[-1].mask) if pruned else model
    loss, accuracy = real_nets.compile_classifier(small).evaluate(*test, batch_size=500, verbose=0)
    kernels = {f"kernel_{layer.name}": layer.get_weights()[0] for layer in model.layers if layer.weights}
    steps = [(record.step, record.sparsity) for record in callbacks[-1].history] if pruned else []
    # What 4,019 parameters are worth without any training after the cut.
    untrained = {} if pruned else cut_without_training(model, training, test)
    return {
        "parameters": small.count_params(),
        "test_loss": loss,
        "test_accuracy": accuracy,
        "steps": np.array(losses.steps),
        "losses": np.array(losses.losses),
        "pruning_steps": np.array(steps).reshape(-1, 2),
        **kernels,
        **untrained,
    }


def cut_without_training(model: keras.Model, training: Any, test: Any) -> dict[str, float]:
    """Accuracy at the widths of table 4.2 with nothing trained afterwards, by two repairs."""
    x = training[0][:2000]
    mask = tfp.keep_top(tfp.saliency.least_squares(model, x), max(tfp.schedules.THESIS_UNITS.values()))
    result = {}
    for repair in ("mean", "least_squares"):
        small = tfp.remove(model, mask, repair=repair, data=x)
        accuracy = real_nets.compile_classifier(small).evaluate(*test, batch_size=500, verbose=0)[1]
        result |= {f"untrained_{repair}": accuracy, "untrained_parameters": small.count_params()}
    return result


def beyond(
    *, seed: int, widths: list[int], start: str, mnist: str | None, epochs: int, full_epochs: int
) -> dict[str, Any]:
    """A net of these widths after ``epochs`` in all: cut from the full net, or trained from scratch.

    The full net is trained for ``full_epochs``, cut by least squares (saliency and repair), and trained on. From
    scratch means the same widths, new weights and the whole time. Taught nets learn from the full net's outputs too
    (distillation), which costs a net from scratch ``full_epochs`` more.

    Args:
        seed: Of weights and shuffling.
        widths: Units of conv1, conv2 and fc1 that stay.
        start: "cut", "scratch", or one of both with ", taught".
        mnist: File of MNIST, or None for the digits.
        epochs: In all.
        full_epochs: Of these, for the full net.
    """
    training, test = thesis.load_data(mnist)
    is_cut, taught = start.startswith("cut"), start.endswith(", taught")
    full = real_nets.compile_classifier(thesis.thesis_net(training[0], "relu", seed))
    before = full_accuracy = float("nan")
    if is_cut or taught:
        _train(full, training, full_epochs, seed, 2e-3)
        full_accuracy = full.evaluate(*test, batch_size=500, verbose=0)[1]
    x = training[0][:2000]
    scores = tfp.saliency.least_squares(full, x)
    # The last so many in the order of elimination.
    places = scores.map(lambda own: np.argsort(np.argsort(-own)))
    mask = tfp.LayerValues({name: places[name] < width for name, width in zip(LAYERS, widths, strict=True)})
    small = tfp.remove(full, mask, repair="least_squares", data=x)
    if is_cut:
        before = real_nets.compile_classifier(small).evaluate(*test, batch_size=500, verbose=0)[1]
    else:
        keras.utils.set_random_seed(seed)
        small = keras.models.clone_model(small)
    teacher = full.predict(training[0], batch_size=500, verbose=0) if taught else None
    _train(small, training, epochs - full_epochs if is_cut else epochs, seed, 4e-3, teacher)
    loss, accuracy = real_nets.compile_classifier(small).evaluate(*test, batch_size=500, verbose=0)
    return {
        "parameters": small.count_params(),
        "full_accuracy": full_accuracy,
        "untrained_accuracy": before,
        "test_loss": loss,
        "test_accuracy": accuracy,
    }


def _train(model: keras.Model, training: Any, epochs: int, seed: int, rate: float, teacher: Any = None) -> None:
    """Adam, its rate falling as a cosine; with a teacher half of the loss is the distance to its softened outputs."""
    keras.utils.set_random_seed(seed)
    x, y = training
    num_steps = epochs * -(-len(y) // BATCH_SIZE)
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(rate, num_steps))
    if teacher is None:
        real_nets.compile_classifier(model, optimizer)
        model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
        return
    targets = np.concatenate([keras.utils.to_categorical(y, 10), teacher], axis=1)
    # Metrics of an earlier `compile` would stay if none were given.
    model.compile(optimizer, _taught, metrics=[_accuracy])
    model.fit(x, targets, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)


def _taught(targets: Any, logits: Any, temperature: float = 3.0) -> Any:
    """Cross-entropy with the labels, and with the teacher's outputs at a higher temperature (Hinton et al. 2015)."""
    labels, teacher = targets[:, :10], targets[:, 10:]
    hard = keras.losses.categorical_crossentropy(labels, logits, from_logits=True)
    soft = keras.losses.categorical_crossentropy(
        keras.ops.softmax(teacher / temperature), logits / temperature, from_logits=True
    )
    return 0.5 * hard + 0.5 * temperature**2 * soft


def _accuracy(targets: Any, logits: Any) -> Any:
    return keras.metrics.categorical_accuracy(targets[:, :10], logits)
