"""One streaming pass over data: the moments of what a model's tensors hold, in float64 and in bounded memory."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend

from tfprune.cache import Recent
from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.walk import ancestors, call_operation, functional, run_flat
from tfprune.layers import entering_states

# Numbers that one batch may fill, which bounds the memory of a pass.
_FLOATS_AT_ONCE = 2**24
_MOST_SAMPLES_AT_ONCE = 4096
# Up to here one product is faster than the parts of half of it.
_FEW_COLUMNS = 128


@dataclass(frozen=True, eq=False)
class Moments:
    """What a stream of rows has summed up to: all of float64, each of shape `(columns,)` unless said otherwise.

    Attributes:
        count: the number of rows.
        mean: the mean of each column.
        second: sum of squared deviations from the mean; or of their products, shape `(columns, columns)`.
        minimum: the least value of each column.
        maximum: the greatest value of each column.
        zeros: how many values of each column are exactly zero.
    """

    count: int
    mean: np.ndarray
    second: np.ndarray
    minimum: np.ndarray
    maximum: np.ndarray
    zeros: np.ndarray

    def merged(self, other: Moments) -> Moments:
        """Returns the moments of the rows of both.

        Reference: T. F. Chan, G. H. Golub, R. J. LeVeque (1979), "Updating formulae and a pairwise algorithm for
        computing sample variances", equation 2.1.
        """
        count = self.count + other.count
        if not count:
            return self
        difference = other.mean - self.mean
        square = np.multiply.outer(difference, difference) if self.second.ndim == 2 else difference**2
        return Moments(
            count=count,
            mean=self.mean + difference * (other.count / count),
            second=self.second + other.second + square * (self.count * other.count / count),
            minimum=np.minimum(self.minimum, other.minimum),
            maximum=np.maximum(self.maximum, other.maximum),
            zeros=self.zeros + other.zeros,
        )

    @property
    def variance(self) -> np.ndarray:
        """The mean squared deviation from the mean, shape `(columns,)`."""
        second = np.diagonal(self.second) if self.second.ndim == 2 else self.second
        return second / max(self.count, 1)

    @property
    def covariance(self) -> np.ndarray:
        """The mean product of deviations, shape `(columns, columns)`."""
        return self.second / max(self.count, 1)


@dataclass(frozen=True, eq=False)
class Place:
    """One tensor to look at when `node` runs: its channels along `axis`, or those of them in `take`, row by row.

    `tensor` None means the state of the recurrent layer `operation` as it enters each step.
    """

    node: Any
    tensor: Any
    operation: Any
    axis: int
    take: np.ndarray | None

    @property
    def key(self) -> tuple:
        """The same for two that look at the same numbers."""
        take = None if self.take is None else (self.take.shape, self.take.tobytes())
        return id(self.node), id(self.tensor), id(self.operation), self.axis, take


def measured(model: keras.Model, data: Any, places: list[Place], matrix: bool) -> list[Moments]:
    """Returns the moments at each place over all data.

    Raises:
        ValueError: if a weight of the model is NaN or infinite, or the data do not fit.
    """
    check_finite_weights(model)
    run = pass_of(model, places, _look_for_matrix if matrix else _look_for_squares)
    batches = as_batches(data, model, batch_size=run.samples_at_once, targets="ignore")
    if not places:
        return []
    totals: list[Moments | None] = [None] * len(places)
    for batch in batches:
        found = run.compiled([tf.convert_to_tensor(x) for x in batch.inputs])
        for number, parts in enumerate(found):
            for part in parts:
                count, *arrays = (x.numpy() for x in part)
                own = Moments(int(count), *arrays)
                totals[number] = own if totals[number] is None else totals[number].merged(own)
    return totals


class Pass:
    """The compiled run of what a model computes up to some places, and what is looked for there.

    Args:
        model: a Sequential or functional model.
        places: where to look.
        look: called as `look(place, args, kwargs, outputs)` whenever the node of a place has run; returns tensors.

    Attributes:
        compiled: takes one tensor per input of the model; returns for each place a list of what `look` has found, one
            entry per call of its node.
    """

    def __init__(self, model: keras.Model, places: list[Place], look: Callable):
        self._model = model
        self._places = places
        self._look = look
        self._only = ancestors(model, {id(place.node) for place in places})
        self.compiled = ByLengths(self._call, signature=self._specs)

    def _specs(self, inputs: list[Any]) -> list[list[tf.TensorSpec]]:
        pairs = zip(functional(self._model).inputs, inputs, strict=True)
        return [[tf.TensorSpec([tensor.shape[0], *own.shape[1:]], tensor.dtype) for tensor, own in pairs]]

    @property
    def samples_at_once(self) -> int:
        """How many samples are taken at once; what the model's inputs fix comes first."""
        fixed = functional(self._model).inputs[0].shape[0]
        widest = 1

        def widen(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            nonlocal widest
            widest = max(widest, *(math.prod(length or 1 for length in x.shape[1:]) for x in node.outputs))
            return node.outputs

        run_flat(self._model, functional(self._model).inputs, widen, only=self._only)
        return fixed or int(np.clip(_FLOATS_AT_ONCE // (4 * widest), 1, _MOST_SAMPLES_AT_ONCE))

    def _call(self, inputs: list[Any]) -> list[list[Any]]:
        found: list[list[Any]] = [[] for _ in self._places]
        by_node: dict[int, list[int]] = {}
        for number, place in enumerate(self._places):
            by_node.setdefault(id(place.node), []).append(number)

        def call(node: Any, args: tuple, kwargs: dict) -> list[Any]:
            outputs = call_operation(node, args, kwargs)
            for number in by_node.get(id(node), ()):
                found[number].append(self._look(self._places[number], args, kwargs, outputs))
            return outputs

        run_flat(self._model, inputs, call, only=self._only)
        return found


_passes = Recent(4)


def pass_of(model: keras.Model, places: list[Place], look: Callable) -> Pass:
    """Returns the compiled pass, that of an earlier call with the same `look` if there is one."""
    key = (tuple(place.key for place in places), look)
    return _passes.get(model, key, lambda: Pass(model, places, look))


def value_at(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> Any:
    """Returns the tensor that a place looks at, out of what its node has read and given out."""
    symbolic = keras.tree.flatten((place.node.arguments.args, place.node.arguments.kwargs)) + place.node.outputs
    real = keras.tree.flatten((args, kwargs)) + outputs
    return next(own for leaf, own in zip(symbolic, real, strict=True) if leaf is place.tensor)


def _look_for_matrix(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple:
    return _moments(_rows(place, args, kwargs, outputs), True)


def _look_for_squares(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> tuple:
    return _moments(_rows(place, args, kwargs, outputs), False)


def _rows(place: Place, args: tuple, kwargs: dict, outputs: list[Any]) -> Any:
    """Returns the values at a place as rows `(number of rows, columns)`."""
    if place.tensor is None:
        return _entering_states(place, args, kwargs)
    value = value_at(place, args, kwargs, outputs)
    rank = len(value.shape)
    value = tf.transpose(value, [k for k in range(rank) if k != place.axis] + [place.axis])
    if place.take is not None:
        value = tf.gather(value, place.take.ravel(), axis=-1)
    columns = value.shape[-1] if place.take is None else place.take.shape[1]
    return tf.reshape(value, [-1, columns])


def _moments(rows: Any, matrix: bool) -> tuple:
    """Returns the entries of `Moments` for rows `(number of rows, columns)`."""
    count = tf.shape(rows)[0]
    wide = tf.cast(rows, "float64")
    mean = tf.reduce_sum(wide, axis=0) / tf.cast(tf.maximum(count, 1), "float64")
    centred = wide - mean
    second = _products(centred) if matrix else tf.reduce_sum(tf.square(centred), axis=0)
    zeros = tf.reduce_sum(tf.cast(tf.equal(wide, 0.0), "float64"), axis=0)
    return count, mean, second, tf.reduce_min(wide, axis=0), tf.reduce_max(wide, axis=0), zeros


def _products(rows: Any) -> Any:
    """Returns the products of all pairs of columns; of the symmetric matrix little is computed twice."""
    half = rows.shape[1] // 2
    if half < _FEW_COLUMNS:
        return tf.matmul(rows, rows, transpose_a=True)
    left, right = rows[:, :half], rows[:, half:]
    corner = tf.matmul(left, right, transpose_a=True)
    upper = tf.concat([_products(left), corner], axis=1)
    return tf.concat([upper, tf.concat([tf.transpose(corner), _products(right)], axis=1)], axis=0)


def _entering_states(place: Place, args: tuple, kwargs: dict) -> Any:
    """Returns h as it enters each step of a recurrent layer, steps and samples as rows `(rows, units)`."""
    layer, whole = place.operation, place.node.operation
    given = inspect.signature(whole.call).bind(*args, **kwargs).arguments
    sequences, state, mask = given["sequences"], given.get("initial_state"), given.get("mask")
    if mask is None and state is None:
        # Keras fills in the mask only where no state is passed.
        mask = backend.get_keras_mask(sequences)
    sequences = tf.cast(sequences, layer.compute_dtype)
    _, entering = entering_states(layer, sequences, _own_state(layer, whole, state), mask)
    if mask is None:
        return tf.reshape(entering, [-1, layer.cell.units])
    mask = tf.cast(mask, "bool")
    return tf.boolean_mask(entering, tf.reverse(mask, [1]) if layer.go_backwards else mask)


def _own_state(layer: Any, whole: Any, state: Any) -> Any:
    """Returns the initial state of one layer: half of what `Bidirectional` was given, or all of it."""
    if state is None or layer is whole or not isinstance(state, list | tuple):
        return state
    half = len(state) // 2
    return state[:half] if layer is whole.forward_layer else state[half:]
