"""The one value type, for scores, masks and means alike: an immutable mapping from group or layer names to arrays."""

import difflib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from tfprune.files import atomic_write

_HEADER = "tfprune.LayerValues"
_FORMAT_VERSION = 1
_DTYPE_KINDS = {"b": "bool", "i": "integer", "u": "integer", "f": "float"}


class LayerValues(Mapping[str, np.ndarray]):
    """An immutable mapping *name -> array* with one flat vector view in a fixed order.

    Names are those of groups of units (or of layers), the order is that of the given mapping. Arrays are copied and
    cannot be written to. Arithmetic is left to NumPy, on `flat` or through `map`. Two are equal if names (in order),
    dtypes, shapes and values are, where NaN equals NaN; equal ones have equal hashes.

    Args:
        values: arrays of bool, integers or floats by name; whatever `np.asarray` reads.

    Raises:
        TypeError: if `values` is no mapping, a name no string, or an array not of bool, integers or floats.
        ValueError: if a name is empty, or rows of a nested list differ in length.

    Example:
        >>> scores = LayerValues({"first": [0.1, 0.7, 0.2], "second": [0.4, 0.3]})
        >>> scores.map(lambda values: values > 0.25).flat
        array([False,  True, False,  True,  True])
        >>> scores
        LayerValues: 2 names, 5 values
          name    shape  dtype    min   mean  max
          first   (3,)   float64  0.1  0.333  0.7
          second  (2,)   float64  0.3   0.35  0.4
    """

    __slots__ = ("_arrays", "_flat")

    def __init__(self, values: Mapping[str, Any]):
        if not isinstance(values, Mapping):
            raise TypeError(
                f"LayerValues expects a mapping of names to arrays, received {type(values).__name__}. "
                "Give a dict, or use LayerValues.from_flat for a vector."
            )
        arrays = {_checked_name(name): _checked_array(name, array) for name, array in values.items()}
        self._flat = _joined(arrays.values())
        self._arrays = _views(arrays, self._flat)

    @classmethod
    def from_flat(cls, flat: Any, like: Mapping[str, Any]) -> "LayerValues":
        """Cuts a vector into named arrays; the inverse of `flat`.

        Args:
            flat: vector `(total size,)`; its dtype is kept.
            like: the names, their order and shapes: a `LayerValues`, or a mapping of names to shapes or lengths.

        Returns:
            Values with the names and shapes of `like`.

        Raises:
            TypeError: if `like` is no such mapping.
            ValueError: if `flat` is no vector, or not as long as the shapes need.

        Example:
            >>> LayerValues.from_flat([1, 0, 1, 1], {"first": 1, "second": (3,)})["second"]
            array([0, 1, 1])
        """
        shapes = like.shapes if isinstance(like, LayerValues) else _checked_shapes(like)
        flat = _checked_array("flat", flat)
        sizes = [int(np.prod(shape)) for shape in shapes.values()]
        if flat.shape != (sum(sizes),):
            per_name = ", ".join(f"{name} {size}" for name, size in zip(shapes, sizes, strict=True))
            raise ValueError(
                f"`flat` expects the shape ({sum(sizes)},), received {flat.shape}. "
                f"The names need: {per_name or 'nothing'}. Give one value for each, in this order."
            )
        pieces = np.split(flat, np.cumsum(sizes)[:-1]) if sizes else []
        return cls({name: piece.reshape(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)})

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(self._arrays)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array, by name."""
        return {name: array.shape for name, array in self._arrays.items()}

    @property
    def size(self) -> int:
        """How many values there are, over all names."""
        return self._flat.size

    @property
    def flat(self) -> np.ndarray:
        """All values as one read-only vector `(size,)` in the order of names, in their common dtype."""
        return self._flat

    def map(self, function: Callable[[np.ndarray], Any]) -> "LayerValues":
        """Returns new values: `function` applied to the array of each name."""
        return LayerValues({name: function(array) for name, array in self._arrays.items()})

    def save(self, path: str | os.PathLike) -> None:
        """Writes an npz file, without pickle, to exactly `path`; `load` reads it.

        Args:
            path: the file. It is written whole or not at all.

        Raises:
            ValueError: if its folder does not exist.
        """
        header = json.dumps({"version": _FORMAT_VERSION, "names": self.names}).encode()
        # Members of a zip file are paths, and names may hold "/" or "..": so the names stand in the header.
        members = {str(index): array for index, array in enumerate(self._arrays.values())}
        with atomic_write(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, **{_HEADER: np.frombuffer(header, np.uint8)}, **members)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "LayerValues":
        """Reads what `save` has written.

        Args:
            path: the file.

        Returns:
            Values equal to those that were saved.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged or was not written by `save`.
        """
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as members:
                header = json.loads(members[_HEADER].tobytes())
                if header["version"] != _FORMAT_VERSION:
                    raise ValueError(f"its format is {header['version']}, expected {_FORMAT_VERSION}")
                return cls({name: members[str(index)] for index, name in enumerate(header["names"])})
        except (ValueError, TypeError, KeyError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"{os.fspath(path)!r} is no file of LayerValues, or is damaged ({error}). "
                "Expected a file that LayerValues.save has written."
            ) from error

    def __getitem__(self, name: str) -> np.ndarray:
        try:
            return self._arrays[name]
        except KeyError:
            raise KeyError(describe_unknown([name], self._arrays)) from None

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerValues):
            return NotImplemented
        return self.names == other.names and all(
            mine.dtype == theirs.dtype and np.array_equal(mine, theirs, equal_nan=mine.dtype.kind == "f")
            for mine, theirs in zip(self.values(), other.values(), strict=True)
        )

    def __hash__(self) -> int:
        # Adding 0 turns -0.0 into 0.0, which it equals; NaN has many bit patterns, and here they are all equal.
        canonical = np.asarray(self._flat, np.float64) + 0.0
        canonical[np.isnan(canonical)] = np.nan
        dtypes = tuple(array.dtype.str for array in self.values())
        return hash((tuple(self.shapes.items()), dtypes, canonical.tobytes()))

    def __copy__(self) -> "LayerValues":
        return self

    def __deepcopy__(self, memo: dict) -> "LayerValues":
        return self

    def __reduce__(self) -> tuple:
        return LayerValues, (dict(self._arrays),)

    def __repr__(self) -> str:
        title = f"LayerValues: {len(self)} {'name' if len(self) == 1 else 'names'}, {self.size} values"
        only_bool = all(array.dtype.kind == "b" for array in self.values())
        columns = ("true / total",) if only_bool else ("min", "mean", "max")
        rows = [("name", "shape", "dtype", *columns)]
        for name, array in self._arrays.items():
            rows.append((name, str(array.shape), str(array.dtype), *_summary(array)))
        return "\n".join([title, *_aligned(rows)]) if self._arrays else title


def check_like(
    values: Mapping[str, Any],
    sizes: Mapping[str, int | tuple[int, ...]],
    what: str,
    *,
    partial: bool = False,
    boolean: bool = False,
) -> LayerValues:
    """Checks that a mask or scores fit groups of units, or kernels: one finite value for each unit or weight.

    Args:
        values: vectors `(size of the group,)` by the group's name; or arrays of a kernel's shape by the kernel's name.
        sizes: how many units each group has, by name; or the shapes of the kernels.
        what: what the values are, for messages, such as "mask".
        partial: whether groups may be missing.
        boolean: whether the values are a mask: bool, or integers that are all 0 or 1, which become bool.

    Returns:
        The values as `LayerValues` in the order of `sizes`.

    Raises:
        TypeError: if `values` is no mapping of numeric arrays, or no mask where `boolean` is set.
        ValueError: if a name is unknown or missing, a length wrong, or a value NaN or infinite.

    Example:
        >>> check_like({"second": [True], "first": [True, False]}, {"first": 2, "second": 1}, "mask").names
        ('first', 'second')
    """
    if values is None:
        raise TypeError(
            f"{what}: expected LayerValues or a dict of arrays by name, received None. (A callback has its mask once "
            "`fit` has begun.)"
        )
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{what}: expected LayerValues, or a mapping of names to arrays, received {type(values).__name__}. "
            "LayerValues.from_flat(vector, sizes) names the entries of a vector."
        )
    values = values if isinstance(values, LayerValues) else LayerValues(values)
    unknown = [name for name in values if name not in sizes]
    if unknown:
        raise ValueError(f"The {what} has unknown {_kind(sizes)}s. {describe_unknown(unknown, sizes)}")
    missing = [name for name in sizes if name not in values]
    if missing and not partial:
        raise ValueError(
            f"The {what} lacks the {_kind(sizes)}s {', '.join(map(repr, missing))}. Expected one entry for each of: "
            f"{', '.join(sizes)}."
        )
    for name, array in values.items():
        _check_group(name, array, sizes[name], what, boolean)
    return LayerValues(
        {name: values[name].astype(bool) if boolean else values[name] for name in sizes if name in values}
    )


def check_flags(array: np.ndarray, what: str) -> None:
    """Raises TypeError unless an array says on or off: bool, or integers that are all 0 or 1; `what` names it.

    Floats are refused though they may be 0 and 1, since scores are floats; other integers, as they may be positions.
    """
    if array.dtype == np.bool_:
        return
    if array.dtype.kind not in "iu":
        raise TypeError(
            f"{what} expects the dtype bool (True = on = kept) or integers 0 and 1, received {array.dtype}. Compare "
            "scores with a threshold, for instance: scores.map(lambda values: values > 0); a row of 0. and 1. is "
            "values.astype(bool)."
        )
    others = array[(array != 0) & (array != 1)]
    if others.size:
        raise TypeError(
            f"{what} expects bool (True = on = kept) or integers 0 and 1, received {array.dtype} with the value "
            f"{others.flat[0]}. Of the positions of what stays make np.isin(np.arange(size), positions)."
        )


def describe_unknown(unknown: Iterable[str], known: Iterable[str]) -> str:
    """Says which names are unknown, which ones were probably meant, and which ones there are.

    Args:
        unknown: the names that were not found.
        known: the names that exist.

    Returns:
        One or two sentences for an error message.

    Example:
        >>> describe_unknown(["dens"], ["dense", "conv"])
        "Unknown: 'dens' (did you mean 'dense'?). Known names: dense, conv."
    """
    known = list(known)
    parts = []
    for name in unknown:
        if not isinstance(name, str) and isinstance(getattr(name, "name", None), str):
            parts.append(f"{name!r}, which is no name (give {name.name!r})")
            continue
        near = difflib.get_close_matches(str(name), known, n=1)
        parts.append(f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name))
    return f"Unknown: {', '.join(parts)}. Known names: {', '.join(known) or 'none'}."


def _kind(sizes: Mapping[str, int | tuple[int, ...]]) -> str:
    return "kernel" if any(isinstance(size, tuple) for size in sizes.values()) else "group"


def _check_group(name: str, array: np.ndarray, size: int | tuple[int, ...], what: str, boolean: bool) -> None:
    shape, kind, one = (size, "kernel", "weight") if isinstance(size, tuple) else ((size,), "group", "unit")
    if array.shape != shape:
        raise ValueError(
            f"The {what} of {kind} {name!r} expects the shape {shape}, one value for each {one}, "
            f"received {array.shape}."
        )
    if boolean:
        check_flags(array, f"The {what} of {kind} {name!r}")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise ValueError(
            f"The {what} of {kind} {name!r} expects finite values, received {array.flat[bad[0]]} for {one} {bad[0]} "
            f"({bad.size} of {array.size} {one}s are NaN or infinite)."
        )


def _checked_name(name: Any) -> str:
    if not isinstance(name, str):
        own = getattr(name, "name", None)
        mend = f" Give its name: {own!r}." if isinstance(own, str) else ""
        raise TypeError(f"Names are strings, received {name!r} of type {type(name).__name__}.{mend}")
    if not name:
        raise ValueError("A name is empty. Give each array the name of its group or layer.")
    return name


def _checked_array(name: str, array: Any) -> np.ndarray:
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise ValueError(f"The values of {name!r} are no array: {error}.") from error
    if array.dtype.kind not in _DTYPE_KINDS:
        raise TypeError(
            f"The values of {name!r} have the dtype {array.dtype}, expected bool, integers or floats. "
            "Convert them first, for instance by .astype('float32')."
        )
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _checked_shapes(like: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    if not isinstance(like, Mapping):
        raise TypeError(
            f"`like` expects LayerValues or a mapping of names to shapes or lengths, received {type(like).__name__}."
        )
    shapes = {}
    for name, shape in like.items():
        dimensions = shape if isinstance(shape, tuple | list) else (shape,)
        if not all(isinstance(dimension, int | np.integer) and dimension >= 0 for dimension in dimensions):
            raise TypeError(f"`like` expects a shape or a length for {name!r}, received {shape!r}.")
        shapes[_checked_name(name)] = tuple(int(dimension) for dimension in dimensions)
    return shapes


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Copies all arrays into one read-only vector of their common dtype."""
    arrays = list(arrays)
    dtype = np.result_type(*(array.dtype for array in arrays)) if arrays else np.dtype(np.float32)
    flat = np.concatenate([np.zeros(0, dtype), *(array.ravel() for array in arrays)], dtype=dtype)
    flat.setflags(write=False)
    return flat


def _views(arrays: dict[str, np.ndarray], flat: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the arrays as views of `flat`; one whose dtype is not the common one is a read-only copy."""
    views, start = {}, 0
    for name, array in arrays.items():
        same = array.dtype == flat.dtype
        view = flat[start : start + array.size].reshape(array.shape) if same else array.copy()
        view.setflags(write=False)
        views[name] = view
        start += array.size
    return views


def _summary(array: np.ndarray) -> tuple[str, ...]:
    if array.dtype.kind == "b":
        return (f"{int(array.sum())} / {array.size}",)
    if not array.size:
        return ("-", "-", "-")
    # In float64, so that a sum of half-precision values does not overflow; infinities may meet without a warning.
    with np.errstate(all="ignore"):
        wide = array.astype(np.float64)
        return tuple(f"{number:.3g}" for number in (wide.min(), wide.mean(), wide.max()))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Pads the cells of a table: text to the left, numbers to the right."""
    num_columns = max(map(len, rows))
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(num_columns)]
    return ["  " + "  ".join(map(_padded, range(len(row)), row, widths)).rstrip() for row in rows]


def _padded(column: int, cell: str, width: int) -> str:
    return cell.ljust(width) if column < 3 else cell.rjust(width)
