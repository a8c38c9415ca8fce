"""Least squares for recurrent layers: gates refitted on rows of inputs and states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.compiling import ByLengths
from tfprune.layers import is_plain_recurrent
from tfprune.repair.moments import Moments, fit, row_sums

_ROUNDS = 3

Halves = tuple[Moments, Moments]


def is_gated(layer: Any) -> bool:
    """Whether a layer is refitted gate by gate."""
    directions = (layer.forward_layer, layer.backward_layer) if type(layer) is layers.Bidirectional else (layer,)
    return all(map(is_plain_recurrent, directions))


def refit_gates(kernels: list[Any], stream: Callable) -> None:
    """Refits the kernels of a recurrent layer so that its gates stay what they were.

    The first fit takes the states of the original layer (teacher-forced rows); each further one adds the rows that the
    cut layer, running freely with what was fitted so far, comes upon, with the same targets. Rows of the cut layer
    alone would run away.

    Args:
        kernels: the kernels of the layer, input and recurrent one in turn for every direction; those of the cut layer
            are changed.
        stream: yields the arguments of the layer's calls, `(old, new)` by name, batch by batch, and 1 where the first
            sample of the batch has an odd number.
    """
    for number in range(0, len(kernels), 2):
        direction = _Direction(*kernels[number : number + 2], stream)
        teacher = direction.sums(free=False)
        direction.solve(teacher)
        for _ in range(_ROUNDS if direction.runs else 0):
            free = direction.sums(free=True)
            direction.solve([_joined(one, other) for one, other in zip(teacher, free, strict=True)])


def _joined(one: Halves, other: Halves) -> Halves:
    return one[0].plus(other[0]), one[1].plus(other[1])


@dataclass(frozen=True)
class _Block:
    """Columns of the kernels that are one regression, and which of the two kernels takes part."""

    columns: np.ndarray
    inputs: bool
    states: bool


class _Direction:
    """One direction of a recurrent layer: its input kernel and its recurrent kernel."""

    def __init__(self, inputs: Any, states: Any, stream: Callable):
        self._kernels = (inputs, states)
        self._stream = stream
        self._outputs = np.flatnonzero(inputs.outputs)
        self._blocks = _blocks(inputs, states)
        self.runs = any(block.states for block in self._blocks)
        self._start = [kernel.original[0][kernel.rows] for kernel in self._kernels]
        bias = inputs.new.bias
        self._bias = None if bias is None else np.array(keras.ops.convert_to_numpy(bias), "float64")
        self._compiled = {
            free: ByLengths(lambda old, new, free=free: self._sums_of_batch(old, new, free)) for free in (False, True)
        }

    def sums(self, *, free: bool) -> list[Halves]:
        """Streams the data once; returns for every block the moments of two halves of the samples.

        Args:
            free: whether the states are those of the cut layer, and not the kept ones of the original.
        """
        compiled = self._compiled[free]
        widths = [len(start) for start in self._start]
        halves = [
            (Moments.zero(p, len(block.columns)), Moments.zero(p, len(block.columns)))
            for block in self._blocks
            for p in [widths[0] * block.inputs + widths[1] * block.states]
        ]
        for old, new, odd in self._stream():
            for own, pair in zip(halves, compiled(old, new), strict=True):
                for half, new_sums in zip(own[::-1] if odd else own, pair, strict=True):
                    half.add(new_sums)
        return halves

    def _sums_of_batch(self, old: dict, new: dict, free: bool) -> list[list[Any]]:
        inputs, states = self._kernels
        x_old, h_old = inputs.old.source(old), states.old.source(old)
        x_new = inputs.new.source(new)
        h_new = states.new.source(new) if free else tf.gather(h_old, np.flatnonzero(states.rows), axis=-1)
        products = [self._products(inputs, x_old), self._products(states, h_old)]
        result = []
        for block in self._blocks:
            parts = [x for x, used in zip((x_new, h_new), (block.inputs, block.states), strict=True) if used]
            targets = [z for z, used in zip(products, (block.inputs, block.states), strict=True) if used]
            x = tf.concat([tf.cast(part, tf.float32) for part in parts], axis=-1)
            z = tf.gather(sum(targets[1:], targets[0]), block.columns, axis=-1)
            result.append([_row_sums(x[0::2], z[0::2]), _row_sums(x[1::2], z[1::2])])
        return result

    def _products(self, kernel: Any, x: Any) -> Any:
        """Returns what the original kernel makes of x for the kept outputs, shape `(batch, steps, outputs)`."""
        products = tf.gather(kernel.old.products(x), self._outputs, axis=1)
        return tf.reshape(products, [tf.shape(x)[0], -1, len(self._outputs)])

    def solve(self, halves: list[Halves]) -> None:
        """Fits every block and assigns kernels and biases."""
        weights = [start.copy() for start in self._start]
        bias = None if self._bias is None else self._bias.copy()
        for block, own in zip(self._blocks, halves, strict=True):
            parts = [part for part, used in enumerate((block.inputs, block.states)) if used]
            start = np.concatenate([self._start[part][:, block.columns] for part in parts])
            fitted, constant = fit(own, start, intercept=bias is not None)
            for part, piece in zip(parts, np.split(fitted, [len(self._start[parts[0]])])[: len(parts)], strict=True):
                weights[part][:, block.columns] = piece
            if bias is not None:
                row = (
                    bias if self._kernels[parts[0]].new.bias_row is None else bias[self._kernels[parts[0]].new.bias_row]
                )
                row[block.columns] += constant
        for kernel, own in zip(self._kernels, weights, strict=True):
            kernel.new.set_kernel(own[None])
        if bias is not None:
            self._kernels[0].new.bias.assign(bias)


def _row_sums(x: Any, z: Any) -> Any:
    return row_sums(tf.reshape(x, [-1, x.shape[-1]]), tf.reshape(z, [-1, z.shape[-1]]))


def _blocks(inputs: Any, states: Any) -> list[_Block]:
    """The gates add what both kernels give; the candidate of a GRU puts a gate between them."""
    columns = np.arange(int(inputs.outputs.sum()))
    cell = inputs.new.layer
    if not isinstance(cell, layers.GRUCell):
        return [_Block(columns, True, True)]
    gates, candidate = columns[: 2 * len(columns) // 3], columns[2 * len(columns) // 3 :]
    if not cell.reset_after:
        # The candidate's recurrent kernel reads r * h, which is left as it is.
        return [_Block(gates, True, True), _Block(candidate, True, False)]
    return [_Block(gates, True, True), _Block(candidate, True, False), _Block(candidate, False, True)]
