"""Where activations go while they are collected: to memory, or to a folder of memory-mapped files."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.files import atomic_write, run_information

_INDEX = "activations.json"
_KIND = "tfprune.Activations"
_PARTS = ("values", "samples", "positions")


class Memory(contextlib.AbstractContextManager):
    """Keeps arrays in memory."""

    def __init__(self):
        self._pieces: dict[str, tuple[list, list, list]] = {}
        self.counts: dict[str, int] = {}

    def add(self, name: str, *arrays: np.ndarray) -> None:
        """Adds points: their values, samples and positions."""
        for pieces, own in zip(self._pieces.setdefault(name, ([], [], [])), arrays, strict=True):
            pieces.append(own)
        self.counts[name] = self.counts.get(name, 0) + len(arrays[0])

    def finish(self, points: str, skipped: Mapping[str, str]) -> dict[str, Any]:
        """Returns the arguments of `Activations`."""
        found: dict[str, dict] = {part: {} for part in _PARTS}
        for name in list(self._pieces):
            # One layer after the other, so that no more than one is there twice.
            for part, pieces in zip(_PARTS, self._pieces.pop(name), strict=True):
                found[part][name] = np.concatenate(pieces)
        return {**found, "points": points, "skipped": skipped}

    def __exit__(self, *error: Any) -> None:
        self._pieces.clear()


class Folder(contextlib.AbstractContextManager):
    """Writes arrays to a folder as they come; their length is known at the end only.

    Args:
        path: the folder.

    Raises:
        ValueError: if something else lies there, or its own folder does not exist.
    """

    def __init__(self, path: str | os.PathLike):
        self._path = Path(path)
        if self._path.exists() and not _is_ours(self._path):
            raise ValueError(
                f"path: {str(self._path)!r} exists and holds something else than activations. Give a new name."
            )
        self.counts: dict[str, int] = {}
        self._shapes: dict[tuple[str, str], tuple] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Folder:
        self._temporary = self._stack.enter_context(atomic_write(self._path))
        self._temporary.mkdir()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._stack.__exit__(*error)

    def add(self, name: str, *arrays: np.ndarray) -> None:
        """Adds points: their values, samples and positions."""
        self.counts.setdefault(name, 0)
        for part, own in zip(_PARTS, arrays, strict=True):
            first = (name, part) not in self._shapes
            shape, dtype = self._shapes.setdefault((name, part), (own.shape[1:], own.dtype))
            with open(self._file(name, part), "ab") as file:
                if first:
                    file.write(_header((0, *shape), dtype))
                file.write(np.ascontiguousarray(own, dtype).data)
        self.counts[name] += len(arrays[0])

    def finish(self, points: str, skipped: Mapping[str, str]) -> dict[str, Any]:
        """Completes the files and gives the folder its name; returns the arguments of `Activations`."""
        for (name, part), (shape, dtype) in self._shapes.items():
            with open(self._file(name, part), "r+b") as file:
                file.write(_header((self.counts[name], *shape), dtype))
        index = {"kind": _KIND, "names": list(self.counts), "points": points, "skipped": dict(skipped)}
        index["versions"] = run_information()
        (self._temporary / _INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        self._stack.close()
        return read_folder(self._path)

    def _file(self, name: str, part: str) -> Path:
        # Names may hold "/": so they stand in the index.
        return self._temporary / f"{list(self.counts).index(name)}.{part}.npy"


def read_folder(path: str | os.PathLike) -> dict[str, Any]:
    """Returns the arguments of `Activations` from a folder, arrays memory-mapped.

    Raises:
        ValueError: if there is no such folder, or it holds something else.
    """
    folder = Path(path)
    if not _is_ours(folder):
        raise ValueError(f"{str(folder)!r} is no folder of activations. Expected one that activations(path=) wrote.")
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    found: dict[str, dict] = {part: {} for part in _PARTS}
    for number, name in enumerate(index["names"]):
        for part in _PARTS:
            file = folder / f"{number}.{part}.npy"
            try:
                found[part][name] = np.load(file, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise ValueError(
                    f"{str(file)!r} is damaged or missing ({error}). Collect the activations again."
                ) from error
    return {**found, "points": index["points"], "skipped": index["skipped"]}


def _is_ours(folder: Path) -> bool:
    try:
        return json.loads((folder / _INDEX).read_text(encoding="utf-8"))["kind"] == _KIND
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """Returns the header of an npy file, equally long for every number of rows."""
    buffer = io.BytesIO()
    fields = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()
