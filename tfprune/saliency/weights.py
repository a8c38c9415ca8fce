"""Scores of single weights: magnitude, Taylor expansions of the loss, its exact change, and random numbers.

All are functions `(model, data=None, *, layers=None, loss=None, absolute=False, ...) -> LayerValues` with one array per
kernel, of the kernel's shape. Kernels are the trainable weights of rank two or more but biases, norms and slopes; a
kernel has the name of its layer, or `layer/kernel`, `layer/recurrent_kernel` where there are several. One that several
layers share is scored once, all its uses together. `keep_top` makes a mask of the scores, `zero_weights` applies it.

The signed scores estimate by how much the mean loss *rises* when the weight moves by `dw`. Higher = keep: a weight
below zero should go first, as the loss falls. With `absolute=True` a fall counts like a rise. `dw` is `-w` with
step="prune", and `-sign(w) * eps` with step="sensitivity". Losses are those of the samples, without regularisation, of
the model at inference (`training=False`); gradients are means over all samples, whatever the batches.
"""

from __future__ import annotations

import math
import numbers
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.weights import choose_kernels
from tfprune.saliency import derivatives
from tfprune.units import LayerValues

__all__ = ["Probes", "hessian", "loss_change", "magnitude", "random", "taylor1", "taylor2"]

STEPS = ("prune", "sensitivity")
CURVATURES = ("row_sum", "diagonal")


@dataclass(frozen=True)
class Probes:
    """Asks for an estimate of the Hessian's diagonal in the place of the exact one: `curvature=Probes(100)`.

    The estimate is the mean of `z * (H z)` over vectors `z` of random signs; its error falls with the root of their
    number, and is zero where the Hessian is diagonal.

    Args:
        count: the number of vectors; each costs about two gradients.
        seed: a whole number; the same one gives the same scores.

    Raises:
        ValueError: if the count is not positive, or the seed negative.

    Reference: C. Bekas, E. Kokiopoulou, Y. Saad (2007), "An estimator for the diagonal of a matrix", equation 1.
    """

    count: int
    seed: int = 0

    def __post_init__(self):
        for name, least in (("count", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
                raise ValueError(f"Probes: `{name}` expects a whole number of at least {least}, received {value!r}.")


@public
def magnitude(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
) -> LayerValues:
    """Scores each weight by its size `|w|`: the cheapest score and the steadiest.

    Not comparable between kernels: each layer has its own scale.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: not looked at.
        absolute: makes no difference here.

    Returns:
        One score per weight, in the kernel's shape by its name.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if a name is unknown, or there is no kernel.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="out")])
        >>> net.layers[0].set_weights([np.array([[1.0, -2.0], [3.0, 0.5]]), np.zeros(2)])
        >>> magnitude(net)["out"]
        array([[1. , 2. ],
               [3. , 0.5]])

    Reference: U. Evci (2018), "Detecting dead weights and units in neural networks", table 2.1.
    """
    kernels = choose_kernels(model, layers)
    check_finite_weights(model)
    return LayerValues({name: np.abs(_numbers(kernel.variable)) for name, kernel in kernels.items()})


@public
def taylor1(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
    step: str = "prune",
    eps: float = 1e-2,
) -> LayerValues:
    """Scores each weight by the first-order estimate of the change of the loss, `dw * dL/dw`.

    In the unit of the loss, and so comparable between kernels for one weight at a time.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: a Keras loss; None takes the one that the model was compiled with.
        absolute: whether a fall of the loss counts like a rise.
        step: "prune", `dw = -w`; or "sensitivity", `dw = -sign(w) * eps`.
        eps: the length of the step with step="sensitivity".

    Returns:
        One score per weight, in the kernel's shape by its name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, targets, loss or an option do not fit, or a gradient is NaN or missing.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="out")])
        >>> net.layers[0].set_weights([np.array([[2.0]])])
        >>> taylor1(net, (np.ones((4, 1)), np.ones((4, 1))), loss="mse")["out"]
        array([[-4.]])

    Reference: U. Evci (2018), table 2.1.
    """
    _check_step(step, eps)
    own = derivatives.task(model, data, layers, loss, "taylor1")
    products = [dw * g for dw, g in zip(_steps(own.values, step, eps), derivatives.gradients(own), strict=True)]
    return _finished(own, products, absolute)


@public
def taylor2(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
    step: str = "prune",
    eps: float = 1e-2,
    curvature: str | Probes = "row_sum",
) -> LayerValues:
    """Scores each weight by a second-order estimate of the change of the loss: `taylor1` + `hessian`.

    With curvature="row_sum" it is `dw * (g + H dw)`, where all weights that are scored move together, which is what the
    thesis ranks by, with its lambda = 1; for other factors add `taylor1` and a multiple of `hessian`. With "diagonal"
    it is `dw * g + 1/2 * H_ii * dw^2`, the expansion of what happens when this weight alone moves.

    In the unit of the loss, and so comparable between kernels for one weight at a time.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: a Keras loss; None takes the one that the model was compiled with.
        absolute: whether a fall of the loss counts like a rise.
        step: "prune", `dw = -w`; or "sensitivity", `dw = -sign(w) * eps`.
        eps: the length of the step with step="sensitivity".
        curvature: "row_sum", about three gradients; "diagonal", a backward pass for every weight and batch, for small
            models or few layers; or `Probes(count)`, an estimate of the diagonal at two gradients per probe.

    Returns:
        One score per weight, in the kernel's shape by its name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, targets, loss or an option do not fit, or if a derivative is NaN or missing.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="out")])
        >>> net.layers[0].set_weights([np.array([[3.0]])])
        >>> taylor2(net, (np.ones((4, 1)), np.ones((4, 1))), loss="mse", curvature="diagonal")["out"]
        array([[-3.]])

    Reference: U. Evci (2018), table 2.1; the diagonal: Y. LeCun, J. S. Denker, S. A. Solla (1990), "Optimal brain
    damage", equation 1.
    """
    return _second_order(model, data, layers, loss, absolute, (step, eps), curvature, "taylor2")


@public
def hessian(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
    step: str = "prune",
    eps: float = 1e-2,
    curvature: str | Probes = "row_sum",
) -> LayerValues:
    """Scores each weight by the second-order part of the change of the loss alone; for weights at a minimum.

    With curvature="row_sum" it is `dw * (H dw)`, the whole row sum, by one Hessian-vector product; with "diagonal" it
    is `1/2 * H_ii * dw^2`. No Hessian is ever stored. `H` is that of the kernels that are scored, so that with
    "row_sum" `layers` matters to the numbers.

    In the unit of the loss, and so comparable between kernels for one weight at a time.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: a Keras loss; None takes the one that the model was compiled with.
        absolute: whether a fall of the loss counts like a rise.
        step: "prune", `dw = -w`; or "sensitivity", `dw = -sign(w) * eps`.
        eps: the length of the step with step="sensitivity".
        curvature: "row_sum", about three gradients; "diagonal", a backward pass for every weight and batch, for small
            models or few layers; or `Probes(count)`, an estimate of the diagonal at two gradients per probe.

    Returns:
        One score per weight, in the kernel's shape by its name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, targets, loss or an option do not fit, or if a derivative is NaN or missing.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="out")])
        >>> net.layers[0].set_weights([np.array([[2.0]])])
        >>> hessian(net, (np.ones((4, 1)), np.ones((4, 1))), loss="mse")["out"]
        array([[8.]])

    Reference: U. Evci (2018), table 2.1; the product: B. A. Pearlmutter (1994), "Fast exact multiplication by the
    Hessian".
    """
    return _second_order(model, data, layers, loss, absolute, (step, eps), curvature, "hessian")


@public
def loss_change(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
) -> LayerValues:
    """Scores each weight by how much the mean loss rises when that weight alone is zero: exact.

    One forward pass per weight and batch, from the weight's own layer on; a progress bar shows where it is. Choose
    `layers` for large models.

    In the unit of the loss, and so comparable between kernels for one weight at a time.

    Args:
        model: a Sequential or functional model.
        data: inputs and targets, whatever `model.fit` takes.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: a Keras loss; None takes the one that the model was compiled with.
        absolute: whether a fall of the loss counts like a rise.

    Returns:
        `L(w_i = 0) - L` per weight, in the kernel's shape by its name, in the unit of the loss.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, targets or loss do not fit, or a loss is NaN.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False, name="out")])
        >>> net.layers[0].set_weights([np.array([[3.0]])])
        >>> loss_change(net, (np.ones((4, 1)), np.ones((4, 1))), loss="mse")["out"]
        array([[-3.]])

    Reference: U. Evci (2018), table 2.1.
    """
    own = derivatives.task(model, data, layers, loss, "loss_change")
    return _finished(own, derivatives.exact_changes(own), absolute)


@public
def random(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    loss: Any = None,
    absolute: bool = False,
    seed: int | None = None,
) -> LayerValues:
    """Scores each weight by a random number: the yardstick that every other score has to beat.

    Comparable between kernels.

    Args:
        model: a Sequential or functional model.
        data: not looked at.
        layers: names of kernels, layers or nested models; None takes all kernels.
        loss: not looked at.
        absolute: makes no difference here.
        seed: a whole number for the same scores at every call, whatever `layers` is; None for other ones at each call.

    Returns:
        Numbers drawn evenly from 0 to 1, in the kernel's shape by its name, independent between kernels.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if `seed` is negative, a name is unknown, or there is no kernel.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(9, name="out")])
        >>> random(net, seed=1) == random(net, seed=1), random(net, seed=1) == random(net, seed=2)
        (True, False)
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0):
        raise ValueError(f"random: `seed` expects a whole number of at least 0, or None; received {seed!r}.")
    kernels = choose_kernels(model, layers)
    check_finite_weights(model)
    entropy = np.random.SeedSequence().entropy if seed is None else int(seed)
    return LayerValues(
        {
            name: np.random.default_rng([entropy, zlib.crc32(name.encode())]).random(tuple(kernel.variable.shape))
            for name, kernel in kernels.items()
        }
    )


def _second_order(
    model: keras.Model,
    data: Any,
    layers: Any,
    loss: Any,
    absolute: bool,
    how_far: tuple[str, float],
    curvature: str | Probes,
    score: str,
) -> LayerValues:
    _check_step(*how_far)
    if not isinstance(curvature, Probes) and curvature not in CURVATURES:
        raise ValueError(
            f"curvature: expected one of {', '.join(map(repr, CURVATURES))}, or Probes(count) for an estimate of the "
            f"diagonal; received {curvature!r}."
        )
    own = derivatives.task(model, data, layers, loss, score)
    moves = _steps(own.values, *how_far)
    if curvature == "row_sum":
        slopes, products = derivatives.hessian_products(own, moves)
    else:
        slopes = derivatives.gradients(own) if score == "taylor2" else None
        exact = curvature == "diagonal"
        diagonal = (
            derivatives.exact_diagonal(own)
            if exact
            else derivatives.probed_diagonal(own, curvature.count, curvature.seed)
        )
        products = [second * dw / 2 for second, dw in zip(diagonal, moves, strict=True)]
    if score == "taylor2":
        products = [slope + product for slope, product in zip(slopes, products, strict=True)]
    return _finished(own, [dw * product for dw, product in zip(moves, products, strict=True)], absolute)


def _finished(own: derivatives.Task, scores: list[np.ndarray], absolute: bool) -> LayerValues:
    return own.named(np.abs(score) if absolute else score for score in scores)


def _steps(values: list[np.ndarray], step: str, eps: float) -> list[np.ndarray]:
    return [-value if step == "prune" else -np.sign(value) * eps for value in values]


def _numbers(variable: Any) -> np.ndarray:
    return keras.ops.convert_to_numpy(variable).astype("float64")


def _check_step(step: str, eps: float) -> None:
    if step not in STEPS:
        raise ValueError(f"step: expected one of {', '.join(map(repr, STEPS))}, received {step!r}.")
    if isinstance(eps, bool) or not isinstance(eps, numbers.Real) or not 0 < eps < math.inf:
        raise ValueError(f"eps: expected a positive number, the length of the step; received {eps!r}.")
