"""Arrays as the inputs of a model take them: read, brought to their shape, looked through for NaN."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

# Values that are looked at together when a large array is searched for NaN; bounds the memory that this takes.
_VALUES_AT_ONCE = 2**22


class Input(NamedTuple):
    """What the model expects of one input; `shape` is without the axis of samples."""

    name: str
    num_rows: int | None
    shape: tuple[int | None, ...]
    dtype: np.dtype

    @property
    def is_text(self) -> bool:
        """Whether it takes strings, as layers of preprocessing do."""
        return self.dtype.kind == "O"


def as_array(value: Any, label: str, where: str, *, is_text: bool = False) -> np.ndarray:
    """Returns what NumPy can read as an array of numbers, or of strings where `is_text`; else says why not."""
    if isinstance(value, tf.RaggedTensor | tf.SparseTensor):
        mend = "value.to_tensor()" if isinstance(value, tf.RaggedTensor) else "tf.sparse.to_dense(value)"
        raise TypeError(f"{where}: {label} is a {type(value).__name__}, expected a dense array. Use {mend}.")
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where}: {label} cannot be read as an array ({error}). Give an array or a tensor.") from error
    if is_text:
        if not _is_text(array):
            raise TypeError(
                f"{where}: {label} has the dtype {array.dtype}, expected strings, which the model reads. Give an array "
                "of str, or a tensor of strings."
            )
    elif array.dtype.kind not in "biuf" and array.dtype != tf.bfloat16.as_numpy_dtype:
        raise TypeError(
            f"{where}: {label} has the dtype {array.dtype}, expected numbers. Convert it first, for instance by "
            ".astype('float32'), or encode categories and text as numbers."
        )
    if not array.ndim:
        raise ValueError(
            f"{where}: expected an array with samples along its first axis as {label}, received a single number. "
            "A list stands for several arrays; for one array use np.asarray(...)."
        )
    return array


def _is_text(array: np.ndarray) -> bool:
    if array.dtype.kind == "O":
        return all(isinstance(own, str | bytes) for own in array.flat)
    return array.dtype.kind in "SU" or array.dtype.kind == "T"


def check_lengths(arrays: list[tuple[str, np.ndarray]], where: str) -> None:
    """Says where arrays have different numbers of samples, or none."""
    lengths = {len(array) for _, array in arrays}
    if len(lengths) > 1:
        counts = ", ".join(f"{label} {len(array)}" for label, array in arrays)
        raise ValueError(f"{where}: the numbers of samples differ: {counts}. Expected one number for all.")
    if lengths == {0}:
        raise ValueError(f"{where}: empty, there are no samples.")


def fitted(array: np.ndarray, expected: Input, where: str) -> np.ndarray:
    """Returns the array with the rank of the model's input, as Keras would make it, or says why it does not fit."""
    received, shape = array.shape, expected.shape
    if array.ndim == len(shape) + 2 and received[-1] == 1:
        array = array[..., 0]
    elif array.ndim == len(shape) and shape[-1:] == (1,):
        array = array[..., np.newaxis]
    if _matches(array.shape[1:], shape):
        return array
    mend = "This is a single sample; put it into a batch of one: x[np.newaxis]." if _matches(received, shape) else ""
    wanted = ", ".join(["samples", *("any" if length is None else str(length) for length in shape)])
    raise ValueError(
        f"{where}: input {expected.name!r} expects the shape ({wanted}), received {received}. {mend}".rstrip()
    )


def _matches(received: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    return len(received) == len(shape) and all(want in (None, have) for have, want in zip(received, shape, strict=True))


def check_finite(array: np.ndarray, dtype: np.dtype, label: str, where: str) -> None:
    """Looks at the values as the model will see them: a float64 may be infinite as a float16."""
    if dtype.kind == "O":
        return
    is_integer = dtype.kind in "biu"
    if array.dtype.kind in "biu" and (is_integer or dtype.itemsize >= 4):
        return
    step = max(1, _VALUES_AT_ONCE * len(array) // max(1, array.size))
    for start in range(0, len(array), step):
        rows = array[start : start + step]
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows if is_integer else rows.astype(dtype, copy=False))
        if finite.all():
            continue
        first = np.unravel_index(np.argmin(finite), finite.shape)
        value = float(rows[first])
        what = "NaN" if np.isnan(value) else f"{value} (not finite as {dtype})"
        index = tuple(int(position) for position in (start + first[0], *first[1:]))
        raise ValueError(f"{where}: {what} in {label} at index {index}. Remove or replace such samples first.")
