"""Turns whatever `model.fit` takes into batches, checked at the border."""

import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfprune.arrays import Input, as_array, check_finite, check_lengths, fitted
from tfprune.borders import numbered
from tfprune.units import describe_unknown

TARGETS = ("optional", "required", "ignore")


class Batch(NamedTuple):
    """Some samples: inputs, targets and weights.

    Attributes:
        inputs: one array `(num_samples, ...)` per input of the model, in the model's order and dtypes.
        targets: an array `(num_samples, ...)`, a list or dict of such as they were given, or None.
        weights: sample weights as they were given, or None.
    """

    inputs: list[np.ndarray]
    targets: Any
    weights: Any


class Batches:
    """Batches that can be iterated over as often as needed, always in the same order for arrays.

    Made by `as_batches`.

    Attributes:
        num_samples: how many samples there are in all, or None where it is not known beforehand.
    """

    def __init__(self, make_iterator: Callable[[], Iterator[Batch]], num_samples: int | None):
        self._make_iterator = make_iterator
        self.num_samples = num_samples

    def __iter__(self) -> Iterator[Batch]:
        return self._make_iterator()


def as_batches(data: Any, model: keras.Model | list, *, batch_size: int = 256, targets: str = "optional") -> Batches:
    """Turns data into batches that fit the model, and checks them.

    `data` is one of:

    - an array `x`, or anything NumPy reads;
    - a *list* of arrays, or a dict by input names: the inputs of a model with several;
    - a *tuple* `(x,)`, `(x, y)` or `(x, y, sample_weight)`, where `x` is any of the above. As in Keras, a tuple
      is never a list of inputs: for a model with two, `[x1, x2]` are both inputs, `(x1, x2)` is `x1` with targets;
    - a batched `tf.data.Dataset` or a `keras.utils.PyDataset` that yields `x`, `(x,)`, `(x, y)` or
      `(x, y, sample_weight)`; there several inputs may also stand as a tuple in the place of `x`.

    Inputs are cast to the dtype of the model's input (where that is "string", arrays of str or bytes come out as those
    of object), and an axis of length 1 at the end is added or taken away, as
    Keras does. Arrays are checked whole at once; of datasets their structure is checked at once and each batch when
    it comes.

    Args:
        data: see above.
        model: a model with known inputs, or a list of the input tensors that the data are for.
        batch_size: samples per batch; datasets bring their own.
        targets: "optional"; "required"; or "ignore", where targets and weights are neither checked nor given.

    Returns:
        The batches.

    Raises:
        TypeError: if `data` is of no such kind, can be read once only, or holds what is not numeric.
        ValueError: if data are empty, of unequal lengths, NaN or infinite, do not fit the inputs of the model, lack
            targets, or never end.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> batches = as_batches((np.ones((5, 2)), np.ones(5)), model, batch_size=2)
        >>> [batch.inputs[0].shape for batch in batches], batches.num_samples
        ([(2, 2), (2, 2), (1, 2)], 5)
    """
    _check_options(batch_size, targets)
    inputs = _model_inputs(model)
    if isinstance(data, tf.data.Dataset):
        _check_dataset(data, inputs, targets)
        return Batches(lambda: _checked_stream(data, inputs, targets), None)
    if isinstance(data, keras.utils.PyDataset):
        num_batches = _checked_num_batches(data)
        # A generator, not `map`, for which a StopIteration that comes from the data would be the end of them.
        return Batches(lambda: _checked_stream((data[k] for k in range(num_batches)), inputs, targets), None)
    _refuse_unreadable(data)
    return _array_batches(data, inputs, batch_size, targets)


def collect(batches: Iterable[Batch], limit: int | None = None) -> Batch:
    """Joins batches to arrays.

    Args:
        batches: what `as_batches` has returned.
        limit: how many samples to take at most, from the beginning; None takes all.

    Returns:
        One `Batch` with all samples; unpacks to `inputs, targets, weights`.

    Raises:
        ValueError: if `limit` is no positive integer, there is no batch, or the samples of two batches differ in shape.
    """
    if limit is not None:
        _check_positive(limit, "limit")
    taken, num_samples = [], 0
    for batch in batches:
        taken.append(batch)
        num_samples += len(batch.inputs[0])
        if limit is not None and num_samples >= limit:
            break
    if not taken:
        raise ValueError("There is no batch to collect.")
    shapes = [tuple(np.shape(own)[1:] for own in batch.inputs) for batch in taken]
    if len(set(shapes)) > 1:
        first, other = shapes[0], next(own for own in shapes if own != shapes[0])
        raise ValueError(
            f"data: its batches have samples of several shapes, {list(first)} and {list(other)}, and are wanted as one "
            "array here. Pad them to one length."
        )
    return Batch(*_map_arrays(lambda *pieces: np.concatenate(pieces)[:limit], *map(tuple, taken)))


def _check_options(batch_size: int, targets: str) -> None:
    _check_positive(batch_size, "batch_size")
    if targets not in TARGETS:
        raise ValueError(f"`targets` expects one of {', '.join(map(repr, TARGETS))}, received {targets!r}.")


def _check_positive(number: Any, name: str) -> None:
    if isinstance(number, bool) or not isinstance(number, numbers.Integral) or number < 1:
        raise ValueError(f"`{name}` expects a positive integer, received {number!r}.")


_readers: list[Callable[[keras.Model], list]] = []
"""What says the inputs of models that do not say them: whoever opens models puts itself here."""


def read_inputs_by(read: Callable[[keras.Model], list]) -> None:
    """Says how to find the inputs of a model that has none of its own, a subclassed one."""
    _readers[:] = [read]


def _model_inputs(model: keras.Model | list) -> list[Input]:
    if not isinstance(model, keras.Model | list):
        raise TypeError(f"`model` expects a keras.Model, received {type(model).__name__}.")
    # Unbuilt and subclassed models raise AttributeError here.
    tensors = model if isinstance(model, list) else getattr(model, "inputs", None)
    for read in () if tensors or not model.built else _readers:
        tensors = read(model)
    if not tensors:
        raise ValueError(
            f"The model {model.name!r} has no known inputs: it is not built yet, or is a subclass of keras.Model with "
            "its own `call`. Give a functional model, or a Sequential one with an Input or a shape by model.build(...)."
        )
    return [
        Input(tensor.name, tensor.shape[0], tuple(tensor.shape[1:]), np.dtype(tf.as_dtype(tensor.dtype).as_numpy_dtype))
        for tensor in tensors
    ]


def _refuse_unreadable(data: Any) -> None:
    if data is None:
        raise TypeError("`data` is None, but data are needed here: give x, (x, y), a tf.data.Dataset or a PyDataset.")
    if hasattr(data, "__next__"):
        raise TypeError(
            f"`data` is a {type(data).__name__}, which can be read only once, but more than one pass is needed. "
            "Give arrays, a keras.utils.PyDataset, or tf.data.Dataset.from_generator(...)."
        )


def _array_batches(data: Any, inputs: list[Input], batch_size: int, targets: str) -> Batches:
    whole = _checked(data, inputs, targets, "Data")
    num_samples = len(whole.inputs[0])
    for expected in inputs:
        if expected.num_rows and (batch_size != expected.num_rows or num_samples % batch_size):
            raise ValueError(
                f"Data: input {expected.name!r} of the model takes batches of exactly {expected.num_rows} samples, "
                f"received {num_samples} samples and batch_size={batch_size}. Give batch_size={expected.num_rows} and "
                "a multiple of it in samples."
            )

    def iterate() -> Iterator[Batch]:
        for start in range(0, num_samples, batch_size):
            rows = slice(start, start + batch_size)
            yield _cast(_take(whole, rows), inputs)

    return Batches(iterate, num_samples)


def _checked_stream(elements: Iterable, inputs: list[Input], targets: str) -> Iterator[Batch]:
    empty = True
    for index, element in enumerate(numbered(elements, "Data")):
        empty = False
        where = f"Data, batch {index}"
        batch = _checked(element, inputs, targets, where)
        for array, expected in zip(batch.inputs, inputs, strict=True):
            if expected.num_rows not in (None, len(array)):
                raise ValueError(
                    f"{where}: input {expected.name!r} of the model takes batches of exactly {expected.num_rows} "
                    f"samples, received {len(array)}. Batch with drop_remainder=True."
                )
        yield _cast(batch, inputs)
    if empty:
        raise ValueError("The data are empty: the dataset gave no batch.")


def _check_dataset(data: tf.data.Dataset, inputs: list[Input], targets: str) -> None:
    """Checks all that a `tf.data.Dataset` tells before it is read."""
    cardinality = int(data.cardinality())
    if cardinality == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The dataset never ends. Take a part of it: dataset.take(number of batches).")
    if cardinality == 0:
        raise ValueError("The data are empty: the dataset has no batch.")
    specs, spec_targets, _ = _split(data.element_spec, inputs, "Data")
    _check_targets(spec_targets, targets, "Data")
    for spec, expected in zip(specs, inputs, strict=True):
        shape = getattr(spec, "shape", None)
        if shape is None or shape.rank != len(expected.shape):
            continue
        # Keras reads (None,) as a batch for an input of shape (1,); a first axis of known length is no batch there.
        may_be_batch = expected.shape[-1:] == (1,) and shape[0] is None
        if shape.is_compatible_with(expected.shape) and not may_be_batch:
            raise ValueError(
                f"The dataset is not batched: it gives single samples of shape {tuple(shape)} for input "
                f"{expected.name!r}. Batch it: dataset.batch(32)."
            )


def _checked_num_batches(data: keras.utils.PyDataset) -> int:
    num_batches = data.num_batches
    if num_batches is None:
        raise ValueError("The PyDataset never ends. Give it a number of batches: `__len__`.")
    if num_batches < 1:
        raise ValueError("The data are empty: the PyDataset has no batch.")
    return num_batches


def _checked(element: Any, inputs: list[Input], targets: str, where: str) -> Batch:
    """Splits the data, or one batch of them, into arrays that fit the model; nothing is cast yet."""
    given, given_targets, weights = _split(element, inputs, where)
    _check_targets(given_targets, targets, where)
    if targets == "ignore":
        given_targets = weights = None
    labels = [f"input {expected.name!r}" for expected in inputs]
    arrays = [
        as_array(value, label, where, is_text=expected.is_text)
        for value, label, expected in zip(given, labels, inputs, strict=True)
    ]
    given_targets = _map_arrays(lambda value: as_array(value, "the targets", where), given_targets)
    weights = _map_arrays(lambda value: as_array(value, "the sample weights", where), weights)
    others = [("targets", leaf) for leaf in _leaves(given_targets)] + [("weights", leaf) for leaf in _leaves(weights)]
    check_lengths([*zip(labels, arrays, strict=True), *others], where)
    arrays = [fitted(array, expected, where) for array, expected in zip(arrays, inputs, strict=True)]
    for array, label, expected in zip(arrays, labels, inputs, strict=True):
        check_finite(array, expected.dtype, label, where)
    for label, array in others:
        check_finite(array, array.dtype, f"the {label}", where)
    return Batch(arrays, given_targets, weights)


def _split(element: Any, inputs: list[Input], where: str) -> tuple[list, Any, Any]:
    """Returns the inputs in the model's order, the targets and the weights; looks at the structure alone."""
    is_tuple = isinstance(element, tuple)
    parts = element if is_tuple else (element,)
    if not 1 <= len(parts) <= 3:
        raise ValueError(
            f"{where}: a tuple is (x,), (x, y) or (x, y, sample_weight), received {len(parts)} entries. "
            "Give several inputs as a list."
        )
    x, targets, weights = (*parts, None, None)[:3]
    if isinstance(x, Mapping):
        return _by_name(x, inputs, where), targets, weights
    given = list(x) if isinstance(x, list | tuple) else [x]
    if len(given) != len(inputs):
        names = ", ".join(repr(expected.name) for expected in inputs)
        mend = "Give as many."
        if len(inputs) == 1:
            mend = "A list stands for several inputs; for one array use np.asarray(...)."
        elif is_tuple and not isinstance(x, list | tuple):
            mend = "A tuple is (x, y) or (x, y, sample_weight); give several inputs as a list: [x1, x2]."
        raise ValueError(
            f"{where}: expected one array for each input of the model ({names}), received {len(given)}. {mend}"
        )
    return given, targets, weights


def _by_name(x: Mapping[str, Any], inputs: list[Input], where: str) -> list:
    names = [expected.name for expected in inputs]
    unknown = [name for name in x if name not in names]
    if unknown:
        raise ValueError(
            f"{where}: the dict has names that no input of the model has. {describe_unknown(unknown, names)}"
        )
    missing = [name for name in names if name not in x]
    if missing:
        raise ValueError(f"{where}: the dict lacks the inputs {', '.join(map(repr, missing))} of the model.")
    return [x[name] for name in names]


def _check_targets(given: Any, targets: str, where: str) -> None:
    if targets == "required" and not _leaves(given):
        raise ValueError(f"{where}: targets are needed here, but there are none. Give (x, y) instead of x.")


def _cast(batch: Batch, inputs: list[Input]) -> Batch:
    arrays = [array.astype(expected.dtype, copy=False) for array, expected in zip(batch.inputs, inputs, strict=True)]
    return batch._replace(inputs=arrays)


def _take(batch: Batch, rows: slice) -> Batch:
    return Batch(*_map_arrays(lambda array: array[rows], tuple(batch)))


def _map_arrays(function: Callable, *structures: Any) -> Any:
    """Applies a function to the arrays of nested structures; None stays None, as where an output has no target."""
    return keras.tree.map_structure(lambda *leaves: None if leaves[0] is None else function(*leaves), *structures)


def _leaves(structure: Any) -> list:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
