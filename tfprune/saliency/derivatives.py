"""Sums over data of what the loss does when kernels move: gradients, Hessian-vector products, exact changes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src import backend
from tqdm import tqdm

from tfprune.cache import Recent
from tfprune.compiling import ByLengths
from tfprune.data import Batches, as_batches
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.walk import call_operation, functional, run_flat, samples_at_once
from tfprune.graph.weights import KernelWeight, choose_kernels
from tfprune.objectives import check_classes, describe_loss, sample_loss
from tfprune.saliency.losses import FLOATS_AT_ONCE
from tfprune.units import LayerValues

# How many weights one call of a compiled loop looks at.
_WEIGHTS_AT_ONCE = 256
# TensorFlow says of these that they have no gradient themselves, though they have: second derivatives would lack a part
# without an error.
_LOSES_SECOND_ORDER = ("ResizeBilinearGrad", "FakeQuantWithMinMaxArgsGradient", "FakeQuantWithMinMaxVarsGradient")
_STOPPED_MEAN = "moments/StopGradient"
_CUDNN = "CudnnRNN"


@dataclass(frozen=True, eq=False)
class Task:
    """What a score of weights works on, checked.

    Attributes:
        model: the model.
        kernels: the kernels to score, by name.
        loss: the loss that was given, or None.
        batches: the data.
    """

    model: keras.Model
    kernels: dict[str, KernelWeight]
    loss: Any
    batches: Batches

    @property
    def values(self) -> list[np.ndarray]:
        """The kernels in float64."""
        return [keras.ops.convert_to_numpy(kernel.variable).astype("float64") for kernel in self.kernels.values()]

    @property
    def num_weights(self) -> int:
        """How many weights all kernels have together."""
        return sum(math.prod(kernel.variable.shape) for kernel in self.kernels.values())

    def named(self, arrays: Iterable[np.ndarray]) -> LayerValues:
        """Returns one array per kernel as values by the kernels' names."""
        return LayerValues(dict(zip(self.kernels, arrays, strict=True)))


def task(model: keras.Model, data: Any, layers: Any, loss: Any, score: str) -> Task:
    """Checks what a score was called with, before any work.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, targets or loss do not fit.
    """
    kernels = choose_kernels(model, layers)
    check_finite_weights(model)
    if data is None:
        raise TypeError(
            f"saliency.weights.{score} needs data with targets: weights.{score}(model, (x, y)), a tf.data.Dataset or a "
            "PyDataset. Scores that need none: magnitude, random."
        )
    sample_loss(model, loss)
    batches = as_batches(data, model, batch_size=samples_at_once(model, FLOATS_AT_ONCE), targets="required")
    if batches.num_samples is not None:
        for batch in batches:
            check_classes(model, batch.targets, loss)
    return Task(model, kernels, loss, batches)


def gradients(own: Task) -> list[np.ndarray]:
    """Returns the gradient of the mean loss, one float64 array per kernel."""
    return _means(own, "gradient", lambda run: run.gradients)


def hessian_products(own: Task, directions: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Returns the gradient of the mean loss, and its Hessian times a direction; neither holds the Hessian.

    Args:
        own: the task.
        directions: one array per kernel.

    Returns:
        Gradients and products, one float64 array per kernel each.
    """
    dtypes = [kernel.variable.dtype for kernel in own.kernels.values()]
    vectors = [tf.cast(direction, dtype) for direction, dtype in zip(directions, dtypes, strict=True)]
    found = _means(own, "product", lambda run: run.products, vectors)
    return found[: len(vectors)], found[len(vectors) :]


def probed_diagonal(own: Task, count: int, seed: int) -> list[np.ndarray]:
    """Returns an estimate of the Hessian's diagonal: the mean of `z * (H z)` over `count` vectors `z` of random signs.

    The same vectors serve all batches, so that the split into batches does not matter.
    """
    return _means(own, "probes", lambda run: run.probes, tf.constant(count), tf.constant(seed, "int64"))


def exact_diagonal(own: Task) -> list[np.ndarray]:
    """Returns the Hessian's diagonal, one float64 array per kernel, by one more backward pass per weight and batch."""
    return _one_by_one(own, "diagonal", lambda run, number: run.diagonal(number))


def exact_changes(own: Task) -> list[np.ndarray]:
    """Returns the change of the mean loss when one weight alone is zero, by a forward pass per weight and batch."""
    return _one_by_one(own, "change", lambda run, number: run.changes(number))


def _means(own: Task, kind: str, of: Callable, *more: Any) -> list[np.ndarray]:
    """Runs a compiled function over all batches; returns its sums divided by the number of samples."""
    step = _compiled(own, kind, of)
    totals: list[Any] | None = None
    num_samples = 0
    for inputs, targets, weights in _tensors(own):
        with _told(own, kind):
            found = [tensor.numpy() for tensor in step(inputs, targets, weights, *more)]
        totals = found if totals is None else [one + other for one, other in zip(totals, found, strict=True)]
        num_samples += len(inputs[0])
    return _checked(own, [total / num_samples for total in totals])


def _one_by_one(own: Task, kind: str, of: Callable) -> list[np.ndarray]:
    """Runs a compiled function `(batch, start, stop) -> one number per weight` of each kernel over all batches."""
    totals = [np.zeros(math.prod(kernel.variable.shape)) for kernel in own.kernels.values()]
    num_samples = 0
    with tqdm(desc=f"{own.model.name}: {kind} of weights", unit="weight", leave=False, disable=None) as bar:
        for inputs, targets, weights in _tensors(own):
            bar.total = (bar.total or 0) + own.num_weights
            for number, total in enumerate(totals):
                step = _compiled(own, f"{kind} {number}", lambda run, number=number: of(run, number))
                for start in range(0, len(total), _WEIGHTS_AT_ONCE):
                    stop = min(start + _WEIGHTS_AT_ONCE, len(total))
                    with _told(own, kind):
                        total[start:stop] += step(inputs, targets, weights, tf.constant(start), tf.constant(stop))
                    bar.update(stop - start)
            num_samples += len(inputs[0])
    shapes = [kernel.variable.shape for kernel in own.kernels.values()]
    return _checked(own, [np.reshape(total / num_samples, shape) for total, shape in zip(totals, shapes, strict=True)])


def _tensors(own: Task) -> Iterator[tuple[list[Any], Any, Any]]:
    for batch in own.batches:
        check_classes(own.model, batch.targets, own.loss)
        yield keras.tree.map_structure(
            lambda array: None if array is None else tf.convert_to_tensor(array), tuple(batch)
        )


def _checked(own: Task, arrays: list[np.ndarray]) -> list[np.ndarray]:
    bad = sum(int((~np.isfinite(array)).sum()) for array in arrays)
    if bad:
        raise ValueError(
            f"The loss of model {own.model.name!r}, or a derivative of it, is NaN or infinite on these data ({bad} of "
            f"{sum(array.size for array in arrays)} numbers). Check weights, targets and loss."
        )
    return arrays


@contextlib.contextmanager
def _told(own: Task, kind: str) -> Iterator[None]:
    """Says which model it was whose operation has no gradient."""
    try:
        yield
    except LookupError as error:
        if "gradient" not in str(error).lower():
            raise
        mend = "Build recurrent layers with use_cudnn=False. " if _CUDNN in str(error) else ""
        raise ValueError(
            f"model {own.model.name!r}: TensorFlow has no gradient for one of its operations, which the {kind} needs "
            f"({error}). {mend}magnitude, taylor1 and loss_change need no second derivatives; or leave the layers "
            "before that operation out: layers=[...]."
        ) from error


_steps = Recent(64)


def _compiled(own: Task, kind: str, of: Callable) -> Callable:
    """Returns a compiled function, that of an earlier call on the same model, kernels and loss if there was one."""
    loss = getattr(own.model, "loss", None) if own.loss is None else own.loss
    variables = [kernel.variable for kernel in own.kernels.values()]
    key = (*map(id, variables), id(loss), describe_loss(own.model, own.loss), kind)

    def make() -> Callable:
        run = _Run(own.model, list(own.kernels.values()), sample_loss(own.model, own.loss))
        return ByLengths(of(run))

    return _steps.get(own.model, key, make, variables, loss)


class _Run:
    """The functions to compile; each takes the tensors of one batch and returns sums over its samples in float64.

    The kernels are put into the model as plain tensors, so that nothing is assigned to it. Second derivatives are
    gradients of gradients: on the thesis net that takes 3.0 gradients, forward over reverse 3.3 and five times the
    tracing; and forward mode cannot pass the loop of a recurrent layer.
    """

    def __init__(self, model: keras.Model, kernels: list[KernelWeight], per_sample: Callable):
        self._model = model
        self._kernels = kernels
        self._variables = [kernel.variable for kernel in kernels]
        self._per_sample = per_sample

    def gradients(self, inputs: list[Any], targets: Any, weights: Any) -> list[Any]:
        return _wide(self._gradients(self._values(), inputs, targets, weights))

    def products(self, inputs: list[Any], targets: Any, weights: Any, vectors: list[Any]) -> list[Any]:
        values, found, tape = self._second(inputs, targets, weights)
        return _wide([*found, *_product(tape, found, values, vectors)])

    def probes(self, inputs: list[Any], targets: Any, weights: Any, count: Any, seed: Any) -> list[Any]:
        values, found, tape = self._second(inputs, targets, weights)

        def add(number: Any, totals: list[Any]) -> tuple[Any, list[Any]]:
            signs = [
                2 * tf.random.stateless_uniform(value.shape, [seed, number * len(values) + k], 0, 2, "int64") - 1
                for k, value in enumerate(values)
            ]
            signs = [tf.cast(sign, value.dtype) for sign, value in zip(signs, values, strict=True)]
            parts = _wide(_product(tape, found, values, signs))
            parts = [tf.cast(sign, "float64") * part for sign, part in zip(signs, parts, strict=True)]
            return number + 1, [total + part for total, part in zip(totals, parts, strict=True)]

        zeros = [tf.zeros(value.shape, "float64") for value in values]
        last = tf.cast(count, "int64")
        _, totals = tf.while_loop(
            lambda number, _: number < last, add, (tf.constant(0, "int64"), zeros), parallel_iterations=1
        )
        return [total / tf.cast(count, "float64") for total in totals]

    def diagonal(self, which: int) -> Callable:
        def step(inputs: list[Any], targets: Any, weights: Any, start: Any, stop: Any) -> Any:
            values, found, tape = self._second(inputs, targets, weights, only=which)
            size = math.prod(values[0].shape)

            def entry(place: Any) -> Any:
                one = tf.reshape(tf.one_hot(place, size, dtype=values[0].dtype), values[0].shape)
                return tf.cast(tf.reshape(_product(tape, found, values, [one])[0], [-1])[place], "float64")

            return _loop(entry, start, stop)

        return step

    def changes(self, which: int) -> Callable:
        kernel = self._kernels[which]

        def step(inputs: list[Any], targets: Any, weights: Any, start: Any, stop: Any) -> Any:
            kept: dict[int, list[Any]] = {}
            moved = _moved_calls(self._model, kernel.operations)
            value = tf.convert_to_tensor(kernel.variable.value)

            def call(number: int, node: Any, args: tuple, kwargs: dict) -> list[Any]:
                if number not in kept:
                    outputs = call_operation(node, args, kwargs)
                    return outputs if number in moved else kept.setdefault(number, outputs)
                return kept[number]

            losses = self._sample_losses(_run_numbered(self._model, inputs, call), targets, weights)

            def entry(place: Any) -> Any:
                off = tf.tensor_scatter_nd_update(tf.reshape(value, [-1]), [[place]], tf.zeros([1], value.dtype))
                with keras.StatelessScope(state_mapping=[(kernel.variable, tf.reshape(off, value.shape))]):
                    outputs = _run_numbered(self._model, inputs, call)
                return tf.reduce_sum(self._sample_losses(outputs, targets, weights) - losses)

            return _loop(entry, start, stop)

        return step

    def _values(self) -> list[Any]:
        return [tf.convert_to_tensor(variable.value) for variable in self._variables]

    def _second(
        self, inputs: list[Any], targets: Any, weights: Any, only: int | None = None
    ) -> tuple[list[Any], list[Any], Any]:
        """Returns kernels, gradients, and the tape that leads from the ones to the others."""
        values = self._values()
        chosen = values if only is None else values[only : only + 1]
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            with _whole_moments():
                found = self._gradients(values, inputs, targets, weights, chosen)
        _refuse_lost(tf.compat.v1.get_default_graph())
        return chosen, found, tape

    def _gradients(
        self, values: list[Any], inputs: list[Any], targets: Any, weights: Any, chosen: list[Any] | None = None
    ) -> list[Any]:
        chosen = values if chosen is None else chosen
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(chosen)
            with keras.StatelessScope(state_mapping=list(zip(self._variables, values, strict=True))):
                outputs = self._model(inputs if len(inputs) > 1 else inputs[0], training=False)
            loss = tf.reduce_sum(self._sample_losses(outputs, targets, weights))
        # Tables are read row by row, and their gradients come as rows.
        return [tf.convert_to_tensor(own) for own in tape.gradient(loss, chosen, unconnected_gradients="zero")]

    def _sample_losses(self, outputs: Any, targets: Any, weights: Any) -> Any:
        # Half precision could not hold the sum.
        losses = tf.cast(self._per_sample(targets, outputs), "float64")
        return losses if weights is None else losses * tf.cast(weights, "float64")


def _wide(tensors: list[Any]) -> list[Any]:
    return [tf.cast(tensor, "float64") for tensor in tensors]


def _product(tape: Any, found: list[Any], values: list[Any], vectors: list[Any]) -> list[Any]:
    products = tape.gradient(found, values, output_gradients=vectors, unconnected_gradients="zero")
    return [tf.convert_to_tensor(product) for product in products]


def _loop(entry: Callable, start: Any, stop: Any) -> Any:
    # One after the other, so that memory is bounded.
    return tf.map_fn(entry, tf.range(start, stop), fn_output_signature="float64", parallel_iterations=1)


def _run_numbered(model: keras.Model, inputs: list[Any], call: Callable) -> Any:
    """Runs a model, nested models opened up; `call(number, node, args, kwargs)` sees the calls numbered in order."""
    number = -1

    def numbered(node: Any, args: tuple, kwargs: dict) -> list[Any]:
        nonlocal number
        number += 1
        return call(number, node, args, kwargs)

    return run_flat(model, inputs, numbered)


_STILL, _MOVES = object(), object()
"""Stand for tensors that a weight has no influence on, and for those that it has."""


def _moved_calls(model: keras.Model, operations: tuple[Any, ...]) -> set[int]:
    """Returns the numbers of the calls that some layers, or what comes after them, take part in."""
    moved = set()

    def call(number: int, node: Any, args: tuple, kwargs: dict) -> list[Any]:
        own = any(node.operation is operation for operation in operations)
        if own or any(leaf is _MOVES for leaf in keras.tree.flatten((args, kwargs))):
            moved.add(number)
        return [_MOVES if number in moved else _STILL for _ in node.outputs]

    _run_numbered(model, [_STILL for _ in functional(model).inputs], call)
    return moved


@contextlib.contextmanager
def _whole_moments() -> Iterator[None]:
    """Lets second derivatives pass the norms of Keras.

    `tf.nn.moments` stops the gradient of the mean inside the variance. That is right for first derivatives, where the
    term is zero, and wrong for second ones. What stands in for it here gives the same numbers.
    """
    original = backend.nn.moments
    backend.nn.moments = _moments
    try:
        yield
    finally:
        backend.nn.moments = original


def _moments(x: Any, axes: Any, keepdims: bool = False, synchronized: bool = False) -> tuple[Any, Any]:
    wide = tf.cast(x, "float32") if x.dtype.size < 4 else x
    mean = tf.reduce_mean(wide, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=keepdims)
    return tf.cast(mean if keepdims else tf.reduce_mean(wide, axes), x.dtype), tf.cast(variance, x.dtype)


def _refuse_lost(graph: Any) -> None:
    definition = graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    lost = {node.op for node in nodes} & set(_LOSES_SECOND_ORDER)
    lost |= {_STOPPED_MEAN for node in nodes if node.op == "StopGradient" and _STOPPED_MEAN in node.name}
    if lost:
        raise LookupError(f"gradient registry has no entry for: {', '.join(sorted(lost))}")
