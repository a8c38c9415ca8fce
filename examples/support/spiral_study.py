"""Train first or prune first: four nets from one initialisation, and a bound on what a unit can cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy.optimize import linear_sum_assignment

import tfprune as tfp
from tfprune.masking import single_changes

HIDDEN = ("hidden_1", "hidden_2")
KERNEL = "hidden_2"
METHODS = ("random", "smallest std")
NETS = ("pruned", "refitted", "tuned", "pruned first")
PAIRS = (("pruned", "tuned"), ("pruned", "pruned first"), ("tuned", "pruned first"))
ROLES = ("same place", "best match", "matched to itself")
BOUNDED = ("pruned", "tuned", "pruned first")
NUM_TEST = 4000
BATCH_SIZE = 100
STEPS_AT_ONCE = 25
# Maps of the plane cover [-LIMIT, LIMIT] in both inputs.
LIMIT = 1.2
Data = tuple[np.ndarray, np.ndarray]
Watch = Callable[[str, keras.Model], None]


def load_data(num_points: int, turns: float) -> tuple[Data, Data]:
    """Spirals to learn and other points of the same spirals to test on; labels `(points, 1)`."""
    splits = (tfp.datasets.spiral(count, seed=seed, turns=turns) for seed, count in enumerate((num_points, NUM_TEST)))
    training, test = ((x, y[:, np.newaxis].astype("float32")) for x, y in splits)
    return training, test


def build(units: int, seed: int) -> keras.Model:
    """Two hidden layers of `units`, one logit."""
    keras.utils.set_random_seed(seed)
    dense = partial(keras.layers.Dense, units, "relu")
    hidden = [dense(name=name) for name in HIDDEN]
    model = keras.Sequential([keras.Input((2,)), *hidden, keras.layers.Dense(1, name="logit")])
    model.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
    return model


@dataclasses.dataclass(frozen=True)
class Trainer:
    """How nets are trained: by Adam, from the start and on after a cut.

    Attributes:
        seed: Of the order of the points.
        steps: From the start.
        tuning_steps: After a cut.
        learning_rate: Of Adam.
    """

    seed: int
    steps: int
    tuning_steps: int
    learning_rate: float

    def __call__(
        self, model: keras.Model, data: Data, *, tuning: bool = False, watch: Callable[[], None] = lambda: None
    ) -> None:
        """Trains a net; `watch` is called at the start and after each round of steps."""
        x_and_y = tf.data.Dataset.from_tensor_slices(data)
        batches = x_and_y.shuffle(len(data[0]), seed=self.seed).batch(BATCH_SIZE).repeat()
        rounds = keras.callbacks.LambdaCallback(
            on_train_begin=lambda logs: watch(), on_epoch_end=lambda k, logs: watch()
        )
        steps = self.tuning_steps if tuning else self.steps
        options = {"epochs": max(1, steps // STEPS_AT_ONCE), "steps_per_epoch": STEPS_AT_ONCE}
        optimizer = keras.optimizers.Adam(self.learning_rate)
        model.compile(optimizer, model.loss, steps_per_execution=STEPS_AT_ONCE)
        model.fit(batches, **options, shuffle=False, verbose=0, callbacks=[rounds])


def measure(model: keras.Model, data: Data) -> tuple[float, float]:
    """Share of points on the right side, and mean cross-entropy."""
    logits, labels = model.predict(data[0], batch_size=len(data[0]), verbose=0).astype("float64"), data[1]
    return float(np.mean((logits > 0) == labels)), float(np.mean(np.logaddexp(0, logits) - logits * labels))


def choose(model: keras.Model, x: np.ndarray, method: str, fraction: float, seed: int) -> tfp.LayerValues:
    """The units of both hidden layers that stay."""
    is_random = method == "random"
    scores = tfp.saliency.random(model, seed=seed) if is_random else tfp.saliency.activation_std(model, x)
    return tfp.keep_top(scores, fraction)


def nearest_to_half(fractions: list[float]) -> float:
    """The fraction at which nets are looked at more closely."""
    return min(fractions, key=lambda fraction: abs(fraction - 0.5))


def both_ways(
    units: int, data: Data, train: Trainer, watch: Watch = lambda name, model: None
) -> tuple[keras.Model, keras.Model, Callable[[tfp.LayerValues], dict[str, keras.Model]]]:
    """One initialisation, as it is and trained, and a function that gives the nets that a mask leaves of it.

    These are cut after training (and refitted, or trained on), and cut before it. Biases take the means of what is cut
    in every net, the untrained one too; kernels are only cut, but for "refitted".

    Args:
        units: Of each hidden layer.
        data: Points to learn.
        train: How; its seed is that of the weights too.
        watch: Called along every training with the name of the net and the net.
    """
    initial, whole = build(units, train.seed), build(units, train.seed)
    train(whole, data, watch=lambda: watch("whole", whole))

    def nets_of(mask: tfp.LayerValues) -> dict[str, keras.Model]:
        cut = partial(tfp.remove, mask=mask, data=data[0])
        pruned, tuned, first = (cut(model, repair="mean") for model in (whole, whole, initial))
        train(tuned, data, tuning=True, watch=lambda: watch("tuned", tuned))
        train(first, data, watch=lambda: watch("pruned first", first))
        return dict(zip(NETS, (pruned, cut(whole, repair="least_squares"), tuned, first), strict=True))

    return initial, whole, nets_of


# What is measured -----------------------------------------------------------------------------------------------------


def kernel_of(model: keras.Model) -> np.ndarray:
    """The kernel between the two hidden layers."""
    return model.get_layer(KERNEL).get_weights()[0]


def cut_kernel(kernel: np.ndarray, mask: tfp.LayerValues) -> np.ndarray:
    """What the mask leaves of the kernel between the hidden layers."""
    return kernel[np.ix_(mask[HIDDEN[0]], mask[HIDDEN[1]])]


def activations(model: keras.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """Name of a hidden layer -> its activations `(points, units)`."""
    inside = keras.Model(model.inputs[0], [model.get_layer(name).output for name in HIDDEN])
    return dict(zip(HIDDEN, inside.predict(x, batch_size=len(x), verbose=0), strict=True))


def same_roles(first: np.ndarray, second: np.ndarray) -> list[float]:
    """How alike the units of two layers are: means of correlations of activations `(points, units)`.

    Returns:
        Mean correlation of units at the same place; of units matched so that the sum is largest; share of units that
        are matched to the unit at the same place. Constant units count as correlation zero.
    """
    columns = []
    for values in (first, second):
        centred = values - values.mean(0, dtype="float64")
        norms = np.linalg.norm(centred, axis=0)
        columns.append(np.where(norms > 0, centred / np.where(norms > 0, norms, 1), 0))
    correlations = columns[0].T @ columns[1]
    rows, partners = linear_sum_assignment(correlations, maximize=True)
    return [float(np.diag(correlations).mean()), float(correlations[rows, partners].mean()), np.mean(rows == partners)]


def loss_bounds(model: keras.Model, data: Data) -> dict[str, np.ndarray]:
    """What replacing each hidden unit by its mean changes, and how much it can change at most.

    A unit that is replaced by its mean moves by its deviation from it. What lies behind multiplies no distance by more
    than ``K``, the product of the operator norms of the later kernels (relu moves nothing further apart), and the
    cross-entropy of one logit changes by no more than the logit does. So the mean loss changes by at most ``K`` times
    the mean absolute deviation, which is no larger than ``K s``, with ``s`` the standard deviation. The first norm may
    be that of the unit's own outgoing weights: the second bound.

    Returns:
        ``change`` of the mean loss, ``penalty`` = mean of the absolute changes of the samples, ``bound`` = ``K s`` and
        ``own_bound``: each `(units of both layers,)`.
    """
    kernels = [model.get_layer(name).get_weights()[0].astype("float64") for name in (*HIDDEN, "logit")]
    norms = [np.linalg.norm(kernel, 2) for kernel in kernels]
    std = tfp.saliency.activation_std(model, data[0])
    changes = single_changes(model, data, HIDDEN, replacement=tfp.statistics.exit_means(model, data[0]))
    found: dict[str, list[np.ndarray]] = {"change": [], "penalty": [], "bound": [], "own_bound": []}
    for place, name in enumerate(HIDDEN):
        later = np.prod(norms[place + 2 :])
        found["change"].append(changes.signed[name])
        found["penalty"].append(changes.absolute[name])
        found["bound"].append(std[name] * norms[place + 1] * later)
        found["own_bound"].append(std[name] * np.linalg.norm(kernels[place + 1], axis=1) * later)
    return {name: np.concatenate(values) for name, values in found.items()}


# Runs -----------------------------------------------------------------------------------------------------------------


def study(
    *, seed: int, units: int, num_points: int, turns: float, fractions: list[float], **training: Any
) -> dict[str, Any]:
    """All nets of one initialisation.

    Args:
        seed: Of the weights, the random choice of nodes and the order of the points.
        units: Nodes of each hidden layer.
        num_points: Points to learn.
        turns: Of each arm of the spirals.
        fractions: Shares of the nodes that go.
        **training: The other attributes of `Trainer`.

    Returns:
        ``whole`` = accuracy and loss on the test points; ``measures`` (methods, fractions, nets, 2) likewise; for the
        kernel between the hidden layers ``unmoved`` (methods, fractions, nets), the share of weights still as they
        began, and ``correlations`` (methods, fractions, pairs); ``roles`` (methods, fractions, pairs, layers, 3) as
        `same_roles` has them; ``moves`` (methods, 3): quartiles of how far the weights of the smaller net trained from
        the start moved, of those that did, at the fraction nearest to half; and the bounds of all units of four nets.
    """
    data, test = load_data(num_points, turns)
    initial, whole, nets_of = both_ways(units, data, Trainer(seed, **training))
    bounds, moves, compared = {"whole": loss_bounds(whole, data)}, [], []
    for method in METHODS:
        for fraction in fractions:
            mask = choose(whole, data[0], method, fraction, seed)
            nets, before = nets_of(mask), cut_kernel(kernel_of(initial), mask)
            compared.append(compare(nets, before, data, test))
            if fraction == nearest_to_half(fractions):
                distance = np.abs(kernel_of(nets["pruned first"]) - before)
                moves.append(np.percentile(distance[distance > 0], (25, 50, 75)))
                bounds |= {bound_name(name, method): loss_bounds(nets[name], data) for name in BOUNDED}
    rows = {name: np.array([own[name] for own in compared]) for name in compared[0]}
    return {
        "whole": measure(whole, test),
        **{name: values.reshape(len(METHODS), len(fractions), *values.shape[1:]) for name, values in rows.items()},
        "moves": np.array(moves),
        **{f"bounds/{net}/{name}": values for net, own in bounds.items() for name, values in own.items()},
    }


def bound_name(net: str, method: str) -> str:
    """What the bounds of a net's units are stored under."""
    return f"{net}, {method}"


def compare(nets: dict[str, keras.Model], before: np.ndarray, data: Data, test: Data) -> dict[str, Any]:
    """Measures of the nets, and how alike they are."""
    kernels = {name: kernel_of(net) for name, net in nets.items()}
    inside = {name: activations(net, data[0]) for name, net in nets.items()}
    return {
        "measures": [measure(net, test) for net in nets.values()],
        "unmoved": [np.mean(kernel == before) for kernel in kernels.values()],
        "correlations": [np.corrcoef(kernels[a].ravel(), kernels[b].ravel())[0, 1] for a, b in PAIRS],
        "roles": [[same_roles(inside[a][name], inside[b][name]) for name in HIDDEN] for a, b in PAIRS],
    }


def portrait(
    *,
    seed: int,
    units: int,
    num_points: int,
    turns: float,
    method: str,
    fraction: float,
    resolution: int,
    **training: Any,
) -> dict[str, Any]:
    """The nets of one mask for pictures: kernels, maps of the plane, and maps along the trainings.

    Returns:
        ``kernel/NET`` and ``kernel/initial``; ``map/NET`` (resolution, resolution), probability of class 1, second
        input upwards; ``frames/TRAINING`` (rounds + 1, resolution, resolution) for whole, tuned and pruned first.
    """
    data, test = load_data(num_points, turns)
    plane = tfp.experiments.plane_grid(LIMIT, resolution)
    frames: dict[str, list[np.ndarray]] = {"whole": [], "tuned": [], "pruned first": []}

    def picture(model: keras.Model) -> np.ndarray:
        probabilities = keras.ops.sigmoid(model(plane))
        return keras.ops.convert_to_numpy(probabilities).reshape(resolution, resolution).astype("float16")

    initial, whole, nets_of = both_ways(
        units, data, Trainer(seed, **training), lambda name, model: frames[name].append(picture(model))
    )
    mask = choose(whole, data[0], method, fraction, seed)
    nets = nets_of(mask)
    return {
        "kernel/initial": cut_kernel(kernel_of(initial), mask),
        **{f"kernel/{name}": kernel_of(net) for name, net in nets.items()},
        **{f"map/{name}": picture(net) for name, net in {"whole": whole, **nets}.items()},
        **{f"accuracy/{name}": measure(net, test)[0] for name, net in {"whole": whole, **nets}.items()},
        **{f"frames/{name}": np.stack(own) for name, own in frames.items()},
    }
