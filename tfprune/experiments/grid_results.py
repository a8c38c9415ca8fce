"""What a grid of runs has left in its folder, as a value."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, overload

import numpy as np

from tfprune.experiments.grid_runs import ARRAYS_FILE, ERROR_FILE, RESULT_FILE, SETTINGS_FILE, canonical, to_plain
from tfprune.units import describe_unknown

UNFINISHED = "not finished: still running, or killed"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """A run that finished.

    Attributes:
        settings: Arguments of the call by name.
        result: What the function returned; arrays are read-only.
        seed: Seed that the run began with.
        seconds: Time that the function took.
        versions: Versions that it ran with.
        folder: Where it is stored.
    """

    settings: Mapping[str, Any]
    result: Mapping[str, Any]
    seed: int
    seconds: float
    versions: Mapping[str, str]
    folder: Path


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class FailedRun:
    """A run that has no result.

    Attributes:
        settings: Arguments of the call by name.
        seed: Seed that the run began with.
        error: The traceback, or what else is known.
        folder: Where it is stored.
    """

    settings: Mapping[str, Any]
    seed: int
    error: str
    folder: Path

    @property
    def reason(self) -> str:
        """Last line of the error."""
        return (self.error.strip() or UNFINISHED).splitlines()[-1]


@dataclasses.dataclass(frozen=True, eq=False)
class GridResults(Sequence):
    """Finished runs of a grid, a sequence of :class:`Run`, and the ones that failed.

    Attributes:
        runs: The runs that finished.
        failures: The runs that did not.

    Example:
        >>> runs = [
        ...     Run(settings={"rate": rate}, result={"loss": rate**2}, seed=0, seconds=1.0, versions={}, folder=Path())
        ...     for rate in (0.5, 1.0)
        ... ]
        >>> results = GridResults(tuple(runs))
        >>> results.column("loss").tolist()
        [0.25, 1.0]
        >>> results.where(rate=1.0)[0].result["loss"]
        1.0
    """

    runs: tuple[Run, ...]
    failures: tuple[FailedRun, ...] = ()

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Run, ...]: ...

    def __getitem__(self, index):
        return self.runs[index]

    def where(self, **settings: Any) -> GridResults:
        """The runs and failures that have all these settings.

        Args:
            **settings: Wanted values by name. Numbers are compared by value: 1 finds 1.0.

        Returns:
            The part, in the same order; it may be empty.

        Raises:
            ValueError: If no run has a setting of that name.
        """
        known = sorted({name for run in (*self.runs, *self.failures) for name in run.settings})
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise ValueError(f"GridResults.where: {describe_unknown(unknown, known)}")
        wanted = {name: to_plain(value, name, finite=False) for name, value in settings.items()}

        def matches(run: Run | FailedRun) -> bool:
            return all(name in run.settings and _same(run.settings[name], value) for name, value in wanted.items())

        return GridResults(tuple(filter(matches, self.runs)), tuple(filter(matches, self.failures)))

    def column(self, name: str) -> np.ndarray:
        """One result, or one setting, of every finished run.

        Args:
            name: Name of a result or of a setting.

        Returns:
            Shape ``(num_runs, ...)``, in the order of the runs.

        Raises:
            ValueError: If not every run has it, if it is both a result and a setting, or if shapes differ.
        """
        sources = [_holders(run, name) for run in self.runs]
        if any(len(found) > 1 for found in sources):
            raise ValueError(
                f"GridResults.column: {name!r} is both a setting and a result; take it from run.settings or run.result."
            )
        if not sources or not all(sources):
            known = sorted({key for run in self.runs for key in (*run.settings, *run.result)})
            raise ValueError(
                f"GridResults.column: {name!r} is in {sum(map(bool, sources))} of {len(self)} runs. "
                f"{describe_unknown([name], known)}"
            )
        values = [np.asarray(found[0]) for found in sources]
        shapes = {value.shape for value in values}
        if len(shapes) > 1:
            raise ValueError(
                f"GridResults.column: {name!r} has another shape in other runs, {sorted(shapes)}; take it from each "
                "run.result."
            )
        return np.stack(values)

    def report(self) -> str:
        """Which runs failed, and why; an empty text if none did."""
        if not self.failures:
            return ""
        num_runs = len(self) + len(self.failures)
        lines = [f"{len(self.failures)} of {num_runs} runs failed; the next start tries them again:"]
        for failure in self.failures:
            lines.append(f"  {failure.folder.name}: {failure.reason}")
        return "\n".join([*lines, f"The tracebacks are in {ERROR_FILE} in the folders of the runs."])

    def __repr__(self) -> str:
        title = f"GridResults: {len(self)} runs finished, {len(self.failures)} failed"
        scalars = [{**run.settings, **run.result} for run in self.runs]
        names = [name for name in dict.fromkeys(name for row in scalars for name in row) if _is_short(name, scalars)]
        cells = [names, *([_text(row.get(name, "")) for name in names] for row in scalars)]
        widths = [max(len(row[column]) for row in cells) for column in range(len(names))]
        rows = ("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)
        return "\n".join([title, *rows]) if names else title


def load_grid(folder: str | os.PathLike) -> GridResults:
    """Reads what :func:`tfprune.experiments.grid` has left in a folder, without running anything.

    Args:
        folder: The folder that was given to ``grid``.

    Returns:
        Finished and failed runs, in the order of their folders' names. A run that is under way counts as failed.

    Raises:
        ValueError: If the folder does not exist, holds no run, or a file in it is broken.

    Example:
        >>> load_grid("output/rates").column("accuracy")  # doctest: +SKIP
        array([0.91, 0.94, 0.93])
    """
    folder = Path(folder)
    paths = sorted(path.parent for path in folder.glob(f"*/{SETTINGS_FILE}"))
    if not paths:
        raise ValueError(f"load_grid: expected a folder that grid has filled, but {str(folder)!r} holds no run.")
    return collect_runs(paths)


def collect_runs(folders: Sequence[Path]) -> GridResults:
    """What lies in the folders of runs."""
    found = [_read_run(folder) for folder in folders]
    return GridResults(
        tuple(run for run in found if isinstance(run, Run)),
        tuple(run for run in found if isinstance(run, FailedRun)),
    )


def read_settings_file(folder: Path) -> dict[str, Any]:
    """Settings, seed, function and versions of a run."""
    return _read_json(folder / SETTINGS_FILE, ("settings", "seed", "function", "code", "versions"))


def _read_run(folder: Path) -> Run | FailedRun:
    description = read_settings_file(folder)
    common = {
        "settings": MappingProxyType(description["settings"]),
        "seed": description["seed"],
        "folder": folder,
    }
    if not (folder / RESULT_FILE).is_file():
        path = folder / ERROR_FILE
        return FailedRun(**common, error=path.read_text(encoding="utf-8") if path.is_file() else UNFINISHED)
    content = _read_json(folder / RESULT_FILE, ("values", "arrays", "seconds"))
    result = {**content["values"], **_read_arrays(folder / ARRAYS_FILE, content["arrays"])}
    return Run(
        **common,
        result=MappingProxyType(result),
        seconds=content["seconds"],
        versions=MappingProxyType(description["versions"]),
    )


def _read_arrays(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    if not names:
        return {}
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path}: expected the arrays {list(names)} of a finished run; delete its folder to run anew.")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[f"array_{number}"] for number, name in enumerate(names)}
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _read_json(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: expected a file that grid wrote, but it cannot be read: {error}.") from error
    missing = [key for key in keys if not isinstance(content, dict) or key not in content]
    if missing:
        raise ValueError(f"{path}: expected a file that grid wrote, but {missing} are missing; choose another folder.")
    return content


def _holders(run: Run, name: str) -> list[Any]:
    return [source[name] for source in (run.settings, run.result) if name in source]


def _same(value: Any, wanted: Any) -> bool:
    """Numbers by value, but True is not 1."""
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    return value == wanted or canonical(value) == canonical(wanted)


def _is_short(name: str, rows: Sequence[Mapping[str, Any]]) -> bool:
    return all(not isinstance(row.get(name), (np.ndarray, list, dict)) for row in rows)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
