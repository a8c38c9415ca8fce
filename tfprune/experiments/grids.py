"""The cross product of settings, each run in a folder of its own, on whatever executor there is."""

from __future__ import annotations

import concurrent.futures
import contextlib
import inspect
import itertools
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfprune.borders import public, warn
from tfprune.experiments.grid_results import GridResults, collect_runs, read_settings_file
from tfprune.experiments.grid_runs import (
    RESULT_FILE,
    SETTINGS_FILE,
    Job,
    canonical,
    describe_function,
    run_name,
    to_plain,
)
from tfprune.experiments.grid_workers import carry_out
from tfprune.files import check_writable_folder

LOCK_FILE = ".grid.lock"


@public
def grid(
    function: Callable[..., Mapping[str, Any]],
    grid: Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Sequence[Any]]],
    executor: Any = None,
    *,
    folder: str | os.PathLike,
    fixed: Mapping[str, Any] | None = None,
    pass_folder: bool = False,
    num_workers: int | None = None,
) -> GridResults:
    """Calls a function with every combination of settings; each run is stored as it ends, and is not made twice.

    A run calls ``function(**settings)`` after seeding Python, NumPy and Keras by the setting named ``seed`` (0 if there
    is none). Its folder, named after seed and settings such as ``seed=3,rate=0.01``, holds ``settings.json`` (settings,
    seed, function, versions), then ``result.json`` and ``result.npz``, or ``error.txt`` with the traceback. The worker
    itself writes them, each whole or not at all: a killed grid loses only the runs in flight. Started again, it
    makes what is missing or failed. A run fails by whatever it raises, `SystemExit` and `KeyboardInterrupt` too; Ctrl-C
    ends the grid and its processes. While a grid runs it holds a lock on the folder, so that no other one writes there.

    Without an executor, runs go to new processes, so the calling script must guard its start by
    ``if __name__ == "__main__"``. Otherwise whatever has ``submit(function, argument)`` and gives futures with
    ``done()`` and ``result()`` will do: any ``concurrent.futures.Executor``, the one of a Dask client
    (``client.get_executor()``), or one of submitit, which sends each run to a SLURM cluster::

        executor = submitit.AutoExecutor(folder="logs")
        executor.update_parameters(timeout_min=60, cpus_per_task=4, slurm_partition="main", slurm_array_parallelism=20)
        experiments.grid(train, {"seed": range(5), "rate": [0.1, 0.01]}, executor, folder="output/rates")

    Threads share one set of random generators: with more than one, seed inside the function by generators of its own.

    Args:
        function: Called with the settings by name; returns a dict of numbers, text, lists or NumPy arrays.
        grid: Values by setting, all of which are combined, or several such mappings, whose runs are put together.
        executor: Where the runs go; ``None`` takes ``num_workers`` new processes.
        folder: Folder for the folders of the runs.
        fixed: Settings that are the same in every run. They are stored, but stay out of the folders' names.
        pass_folder: Whether the function also takes ``folder``, the `Path` of the run's folder, for files of its own.
        num_workers: Number of processes without an executor; by default one per core. They share the cores.

    Returns:
        The runs of this grid in its order, and those that failed. A ``RuntimeWarning`` says which failed and why.

    Raises:
        TypeError: If a value cannot be stored as JSON, the function does not take the settings or cannot be sent to
            another process, or the executor is none.
        ValueError: If there is nothing to run, two runs are the same, or the folder cannot be written to or
            holds runs of another function or of other settings.
        RuntimeError: If worker processes die before any run begins, or another grid is writing to the folder.
        OSError: If the disk is full; what is there stays, and the next start goes on from it.

    Example:
        >>> def train(rate, seed):
        ...     return {"loss": (rate - 0.1) ** 2 + seed}
        >>> with concurrent.futures.ThreadPoolExecutor(1) as threads:  # doctest: +SKIP
        ...     results = grid(train, {"seed": [0, 1], "rate": [0.1, 0.3]}, threads, folder="output/rates")
        >>> print(results)  # doctest: +SKIP
        GridResults: 4 runs finished, 0 failed
          seed  rate  loss
          0     0.1   0
          0     0.3   0.04
          1     0.1   1
          1     0.3   1.04
    """
    points = _points(grid, fixed or {})
    _check_call(function, points[0][1], pass_folder)
    _check_executor(executor, num_workers)
    root = Path(os.path.abspath(folder))
    identity = describe_function(function)
    jobs = [
        Job(function, settings, _seed(settings), root / run_name(point, _seed(settings)), pass_folder, identity)
        for point, settings in points
    ]
    if executor is None or isinstance(executor, concurrent.futures.ProcessPoolExecutor):
        _check_pickles(jobs[0])
    check_writable_folder(root)
    with _locked(root):
        _check_folders(jobs)
        carry_out([job for job in jobs if not job.is_finished()], len(jobs), executor, num_workers)
        results = collect_runs([job.folder for job in jobs])
    if results.failures:
        warn(results.report(), RuntimeWarning)
    return results


def _points(grids: Any, fixed: Mapping[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each run's own settings, and these together with the fixed ones."""
    parts = [grids] if isinstance(grids, Mapping) else grids
    if not isinstance(parts, (list, tuple)) or not all(isinstance(part, Mapping) for part in parts):
        raise TypeError(f"grid: expected a mapping from settings to lists of values, or a list of such, got {grids!r}.")
    if not parts or not all(parts):
        raise ValueError("grid: expected at least one setting, received an empty grid; give {'seed': [0]} for one run.")
    fixed = {name: to_plain(value, f"grid: fixed setting {name!r}", finite=True) for name, value in fixed.items()}
    points = []
    for part in parts:
        columns = {name: _values(name, values, fixed) for name, values in part.items()}
        points += [dict(zip(columns, values, strict=True)) for values in itertools.product(*columns.values())]
    seen = set()
    for point in points:
        if canonical(point) in seen:
            raise ValueError(f"grid: two runs have the settings {point}; give every value once.")
        seen.add(canonical(point))
    return [(point, {**fixed, **point}) for point in points]


def _values(name: Any, values: Any, fixed: Mapping[str, Any]) -> list[Any]:
    """The values of one setting, as JSON stores them."""
    if not isinstance(name, str) or not name.isidentifier() or name == "folder":
        raise ValueError(f"grid: expected names of arguments as settings, 'folder' excepted, received {name!r}.")
    if name in fixed:
        raise ValueError(f"grid: the setting {name!r} is in the grid and in `fixed`; give it once.")
    if isinstance(values, np.ndarray) and values.ndim == 1:
        values = values.tolist()
    if not isinstance(values, (list, tuple, range)):
        raise TypeError(f"grid: expected a list of values for the setting {name!r}, received {values!r}; use [value].")
    if not values:
        raise ValueError(f"grid: the setting {name!r} has no values, so there is nothing to run.")
    return [to_plain(value, f"grid: setting {name!r}", finite=True) for value in values]


def _seed(settings: Mapping[str, Any]) -> int:
    seed = settings.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"grid: expected seeds as integers from 0 to 2^32 - 1, received {seed!r}.")
    return seed


def _check_call(function: Any, settings: Mapping[str, Any], pass_folder: bool) -> None:
    """The function must take the settings; better said now than by every run."""
    if not callable(function):
        raise TypeError(f"grid: expected a function, received {function!r}.")
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some functions written in C tell nothing about their arguments.
        return
    try:
        signature.bind(**settings, **({"folder": None} if pass_folder else {}))
    except TypeError as error:
        raise TypeError(
            f"grid: {describe_function(function)['function']}{signature} does not take the settings {list(settings)}: "
            f"{error}."
        ) from error


def _check_executor(executor: Any, num_workers: Any) -> None:
    if executor is not None:
        if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
            raise TypeError(
                "grid: expected an executor, an object with `submit` such as ThreadPoolExecutor(4) or a Dask client's "
                f"get_executor(), received {executor!r}."
            )
        if num_workers is not None:
            raise ValueError("grid: num_workers is for executor=None; a given executor has its own number of workers.")
    elif num_workers is not None and (
        isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1
    ):
        raise ValueError(f"grid: expected num_workers as an integer of at least 1, received {num_workers!r}.")


def _check_pickles(job: Job) -> None:
    """A process gets the function by its name, which it must be able to import."""
    advice = "define it at the top level of a file, or give a ThreadPoolExecutor"
    try:
        pickle.dumps(job.function)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise TypeError(
            f"grid: {job.identity['function']} cannot be sent to another process ({error}); {advice}."
        ) from error
    main = sys.modules["__main__"]
    if getattr(job.function, "__module__", None) == "__main__" and not hasattr(main, "__file__"):
        raise TypeError(f"grid: other processes cannot import a function that was typed in a session; {advice}.")


def _check_folders(jobs: Sequence[Job]) -> None:
    """What lies in the folders already must come from the same function and the same settings."""
    name, changed = jobs[0].identity["function"], 0
    for job in jobs:
        if not (job.folder / SETTINGS_FILE).is_file():
            if job.is_finished():
                raise ValueError(f"grid: {job.folder} has a {RESULT_FILE} but no {SETTINGS_FILE}; delete that folder.")
            continue
        found = read_settings_file(job.folder)
        advice = "Delete it to run anew, or choose another folder for this grid"
        if canonical(found["settings"]) != canonical(job.settings):
            raise ValueError(
                f"grid: {job.folder} holds a run with other settings: {_difference(found['settings'], job.settings)}. "
                f"{advice}."
            )
        if found["function"] != name:
            raise ValueError(
                f"grid: {job.folder} holds a run of another function: {found['function']} there, {name} now. {advice}."
            )
        changed += job.is_finished() and found["code"] != job.identity["code"]
    if changed:
        warn(
            f"grid: {changed} finished runs come from an earlier text of {name}. They are kept; "
            "delete their folders to run them anew.",
            RuntimeWarning,
        )


def _difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    absent = "(none)"
    return ", ".join(
        f"{name} = {found.get(name, absent)!r} there, {wanted.get(name, absent)!r} now"
        for name in sorted({*found, *wanted})
        if canonical(found.get(name, absent)) != canonical(wanted.get(name, absent))
    )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Holds the folder, so that no second grid takes away what this one is writing. A killed process holds nothing."""
    import filelock  # Only grids need it.

    lock = filelock.FileLock(str(root / LOCK_FILE), timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(
            f"grid: another grid is writing to {root}. Wait until it has ended, or give this one another folder. (It "
            f"holds {LOCK_FILE}; the lock of a process that has ended is gone, and the file alone means nothing.)"
        ) from None
    except (NotImplementedError, OSError) as error:
        warn(
            f"grid: the file system of {root} cannot lock files ({error}). See to it that no other grid writes there.",
            RuntimeWarning,
        )
    try:
        yield
    finally:
        lock.release()
