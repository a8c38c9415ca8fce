"""One run of a grid: its name, its folder, and how a worker carries it out and writes what comes of it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state

from tfprune.files import atomic_write, run_information

SETTINGS_FILE, RESULT_FILE, ARRAYS_FILE, ERROR_FILE = "settings.json", "result.json", "result.npz", "error.txt"
NAME_LENGTH = 100
SAFE_NAME = re.compile(r"[a-z0-9_+.,=-]*[a-z0-9_]")


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What a worker needs to carry out one run.

    Attributes:
        function: What is called.
        settings: Arguments of the call by name, JSON values only.
        seed: Seed of Python, NumPy and Keras for this run.
        folder: Absolute path of the run's own folder.
        pass_folder: Whether the function also takes ``folder``.
        identity: Name of the function and a digest of its text.
    """

    function: Callable[..., Mapping[str, Any]]
    settings: dict[str, Any]
    seed: int
    folder: Path
    pass_folder: bool
    identity: dict[str, str]

    def is_finished(self) -> bool:
        """Whether the folder holds a result. It is the last file that a run writes."""
        return (self.folder / RESULT_FILE).is_file()

    def has_begun(self) -> bool:
        """Whether a worker has taken the run up since :meth:`prepare`."""
        return (self.folder / SETTINGS_FILE).is_file()

    def prepare(self) -> None:
        """Makes the folder and takes away what a run that did not finish has left there under our names."""
        self.folder.mkdir(exist_ok=True)
        for name in (SETTINGS_FILE, RESULT_FILE, ARRAYS_FILE, ERROR_FILE):
            (self.folder / name).unlink(missing_ok=True)
        self.delete_half_written()

    def delete_half_written(self) -> None:
        """Takes away the temporary files that `atomic_write` had begun in a worker that was killed."""
        for name in (SETTINGS_FILE, RESULT_FILE, ARRAYS_FILE, ERROR_FILE):
            for half_written in self.folder.glob(f".*.{name}"):
                half_written.unlink(missing_ok=True)

    def begin(self) -> None:
        """Writes down what is about to run."""
        description = {"settings": self.settings, "seed": self.seed, **self.identity, "versions": run_information()}
        _write_json(self.folder / SETTINGS_FILE, description)

    def write_error(self, text: str) -> None:
        """Says in the folder why the run failed."""
        if not self.has_begun():
            self.begin()
        with atomic_write(self.folder / ERROR_FILE) as temporary:
            # The text may hold lone surrogates, as names of files that are not UTF-8 do; no encoding has them.
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _set_seed(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    # Keras 3.8 goes on with the generator that earlier draws have made; later versions forget it by themselves.
    global_state.set_global_attribute("global_seed_generator", None)


def execute(job: Job) -> OSError | None:
    """Carries a run out, in the worker: settings first, then the result, or the traceback of what went wrong.

    Args:
        job: The run.

    Returns:
        None once something is written down; else why it could not be: the disk is full, say.
    """
    try:
        job.begin()
        _set_seed(job.seed)
        start = time.perf_counter()
        own_folder = {"folder": job.folder} if job.pass_folder else {}
        result = job.function(**job.settings, **own_folder)
        _write_result(job.folder, result, time.perf_counter() - start)
    # Whatever a run raises is the end of that run, not of its worker: a function that parses arguments leaves by
    # SystemExit, one that stops early by KeyboardInterrupt.
    except BaseException:
        try:
            job.write_error(traceback.format_exc())
        except OSError as error:
            return error
    return None


def run_name(settings: Mapping[str, Any], seed: int) -> str:
    """Name of a run's folder: the seed first, then the settings in the order of their names.

    The name depends on nothing but the settings, so that a run is found again when the grid around it changes. Where it
    would be too long, or would not tell every two runs apart on every file system (capital letters, signs that are
    not allowed, a text that looks like a number), it is cut and ends in a digest of the settings.

    Args:
        settings: Settings by name, JSON values only.
        seed: Seed of the run.

    Returns:
        A name of lower and upper case letters, digits and ``_+.,=-``.

    Example:
        >>> run_name({"rate": 0.01, "layer": "conv1", "seed": 3}, 3)
        'seed=3,layer=conv1,rate=0.01'
        >>> run_name({"layers": ["conv1", "fc/1"]}, 0)
        'seed=0,layers=conv1+fc-1-67a6f188d8'
    """
    others = {name: value for name, value in sorted(settings.items()) if name != "seed"}
    readable = ",".join(f"{name}={_readable(value)}" for name, value in {"seed": seed, **others}.items())
    exact = all(_is_told_exactly(value) for value in others.values())
    if exact and len(readable) <= NAME_LENGTH and SAFE_NAME.fullmatch(readable):
        return readable
    digest = hashlib.sha256(canonical(settings).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9_+.,=-]+', '-', readable)[:NAME_LENGTH].rstrip('-+.,=')}-{digest}"


def _readable(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_readable, value))
    if isinstance(value, dict):
        return "+".join(f"{name}-{_readable(part)}" for name, part in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _is_told_exactly(value: Any) -> bool:
    """Whether no other value reads the same: lists and texts such as "1" need the digest."""
    if not isinstance(value, str):
        return not isinstance(value, (list, dict))
    try:
        json.loads(value)
    except ValueError:
        return not set(value) & set(",=+")
    return False


def canonical(value: Any) -> str:
    """One text for equal settings. 1, 1.0 and True are three settings, as JSON has it."""
    return json.dumps(value, sort_keys=True)


def to_plain(value: Any, where: str, *, finite: bool) -> Any:
    """The value in the form in which JSON gives it back: NumPy's numbers become Python's, tuples become lists.

    Args:
        value: Any value.
        where: What it is, for messages.
        finite: Whether NaN and infinity are refused.

    Returns:
        The same value, made of None, bool, int, float, str, list and dict with text as keys.

    Raises:
        TypeError: If it holds something else.
        ValueError: If it holds NaN or infinity and must not.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if finite and not math.isfinite(value):
            raise ValueError(f"{where}: expected a finite number, received {value}.")
        return value
    if isinstance(value, (list, tuple)):
        return [to_plain(part, where, finite=finite) for part in value]
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: to_plain(part, f"{where}[{name!r}]", finite=finite) for name, part in value.items()}
    raise TypeError(
        f"{where}: expected what JSON can store (numbers, text, booleans, None, lists of these, dicts with text as "
        f"keys), received {value!r} of type {type(value).__name__}."
    )


def describe_function(function: Callable) -> dict[str, str]:
    """Name of a function, the same whether its file is run or imported, and a digest of its text."""
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if not hasattr(inner, "__qualname__"):
        inner = type(inner)
    module = inner.__module__
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    try:
        text = inspect.getsource(inner)
    except (OSError, TypeError):
        text = ""
    return {"function": f"{module}:{inner.__qualname__}", "code": hashlib.sha256(text.encode()).hexdigest()[:12]}


def _write_result(folder: Path, result: Any, seconds: float) -> None:
    """Arrays first: the file that marks the run as finished comes last."""
    if not isinstance(result, Mapping) or not all(isinstance(name, str) for name in result):
        raise TypeError(
            "The function of a grid must return a dict with text as keys, such as {'accuracy': 0.9}; received "
            f"{type(result).__name__}."
        )
    arrays = {name: np.asarray(value) for name, value in result.items() if isinstance(value, np.ndarray)}
    values = {
        name: to_plain(value, f"result[{name!r}]", finite=False) for name, value in result.items() if name not in arrays
    }
    _check_arrays(arrays)
    try:
        if arrays:
            # Numbered, so that any text may be an array's name; the result file holds the names in the same order.
            numbered = {f"array_{number}": array for number, array in enumerate(arrays.values())}
            with atomic_write(folder / ARRAYS_FILE) as temporary:
                np.savez_compressed(temporary, **numbered)
        _write_json(folder / RESULT_FILE, {"values": values, "arrays": list(arrays), "seconds": seconds})
    except BaseException:
        (folder / ARRAYS_FILE).unlink(missing_ok=True)
        raise


def _check_arrays(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(
                f"result[{name!r}]: expected an array of numbers, booleans or text, received one of objects; "
                "give lists of unequal length as a list of lists."
            )


def _write_json(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
