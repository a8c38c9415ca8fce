"""What goes wrong around a grid: runs that raise anything, Ctrl-C, two grids in one folder, full disks, signal 9."""

import concurrent.futures
import contextlib
import errno
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed
import filelock
import grid_functions
import numpy as np
import pytest
import submitit

from tfprune.experiments import grid, grid_runs, load_grid

TESTS = Path(__file__).resolve().parent
PATH = os.pathsep.join([str(TESTS), str(TESTS.parents[1])])

REASONS = {
    "surrogate": r"ValueError: the file \udce4.png is broken",
    "keyboard": "KeyboardInterrupt",
    "exit": "SystemExit: 2",
    "generator": "GeneratorExit",
    "unusual": r"grid_functions.Unusual: by \ud800 itself",
}


class InPlace:
    """The simplest executor: it runs everything at once, in the thread that asks."""

    def submit(self, function, argument):
        future = concurrent.futures.Future()
        future.set_result(function(argument))
        return future


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".grid.lock")


@contextlib.contextmanager
def an_executor(kind, folder):
    if kind == "threads":
        with concurrent.futures.ThreadPoolExecutor(2) as executor:
            yield executor
    elif kind == "dask":
        options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
        with (
            distributed.LocalCluster(**options) as cluster,
            distributed.Client(cluster) as client,
            client.get_executor() as executor,
        ):
            yield executor
    elif kind == "submitit":
        executor = submitit.AutoExecutor(folder=folder / "logs", cluster="local")
        executor.update_parameters(timeout_min=5)
        yield executor
    else:
        yield {"in place": InPlace(), "processes": None}[kind]


@pytest.mark.parametrize(
    "kind", ["threads", "in place", "processes", "dask", pytest.param("submitit", marks=pytest.mark.slow)]
)
def test_whatever_a_run_raises_is_a_failed_run(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("PYTHONPATH", PATH)
    # Each run of submitit is a process of its own, which takes its time to start.
    wanted = ["keyboard"] if kind == "submitit" else list(REASONS)
    with an_executor(kind, tmp_path) as executor, pytest.warns(RuntimeWarning, match="runs failed") as caught:
        options = {"num_workers": 1} if executor is None else {}
        results = grid(
            grid_functions.raises, {"kind": [*wanted, "none"]}, executor, folder=tmp_path / "runs", **options
        )
    assert results.column("fine").tolist() == ["none"]
    assert {failure.settings["kind"]: failure.reason for failure in results.failures} == {
        name: REASONS[name] for name in wanted
    }
    assert all("grid_functions.py" in failure.error for failure in results.failures), "the traceback is there"
    assert all(REASONS[name] in str(caught[0].message) for name in wanted)
    for failure in results.failures:
        assert names(failure.folder) == ["error.txt", "settings.json"]


@pytest.fixture
def listening():
    """Ctrl-C is listened to, even where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupt_in_the_thread_of_the_grid_ends_it(tmp_path, listening):
    with pytest.raises(KeyboardInterrupt):
        grid(grid_functions.interrupts, {"number": [0, 1, 2]}, InPlace(), folder=tmp_path)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    left = load_grid(tmp_path)
    assert left.column("made").tolist() == [0]
    assert [failure.reason for failure in left.failures] == ["KeyboardInterrupt"]


def start(call, errors):
    """Starts a grid in a process, and a group of processes, of its own."""
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); import grid_functions; "
        f"from tfprune.experiments import grid; grid(grid_functions.{call})"
    )
    with errors.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": PATH},
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )


def wait_until(condition, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def test_ctrl_c_ends_the_grid_and_its_processes(tmp_path):
    log, folder = tmp_path / "log", tmp_path / "runs"
    Path(f"{log}.wait").touch()
    fixed = {"log": str(log)}
    numbers = [0, 1, 2, 3]
    call = f"waits_from_two, {{'number': {numbers}}}, folder={str(folder)!r}, num_workers=1, fixed={fixed}"
    process = start(call, tmp_path / "errors")
    try:
        wait_until(lambda: log.exists() and len(log.read_text().split()) == 3, process)
        with pytest.raises(RuntimeError, match=rf"another grid is writing to {re.escape(str(folder))}. Wait until it"):
            grid(grid_functions.waits_from_two, {"number": [0]}, InPlace(), folder=folder, fixed=fixed)
        # As a terminal does: every process of the group gets the signal.
        os.killpg(process.pid, signal.SIGINT)
        # The end of the output comes when the workers have ended, too.
        assert process.communicate(timeout=60) == (b"", None)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGINT
    errors = (tmp_path / "errors").read_text()
    assert errors.rstrip().endswith("KeyboardInterrupt") and errors.count("Traceback") == 1
    assert names(folder / "seed=0,number=2") == ["settings.json"]
    Path(f"{log}.wait").unlink()
    again = grid(grid_functions.waits_from_two, {"number": numbers}, InPlace(), folder=folder, fixed=fixed)
    assert again.column("double").tolist() == [0, 2, 4, 6]
    assert sorted(log.read_text().split()) == ["0", "1", "2", "2", "3"]


def test_two_grids_in_one_folder(tmp_path):
    begun, go_on = threading.Event(), threading.Event()

    class Waiting(InPlace):
        def submit(self, function, argument):
            begun.set()
            assert go_on.wait(60)
            return super().submit(function, argument)

    def run(executor, number, folder=tmp_path):
        return grid(grid_functions.fails_at, {"number": [number]}, executor, folder=folder, fixed={"bad": 9})

    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        first = threads.submit(run, Waiting(), 1)
        assert begun.wait(60)
        with pytest.raises(RuntimeError, match="another grid is writing to .* or give this one another folder"):
            run(InPlace(), 2)
        assert names(tmp_path) == ["seed=0,number=1"]
        assert run(InPlace(), 2, tmp_path / "other").column("double").tolist() == [4]
        go_on.set()
        assert first.result().column("double").tolist() == [2]
    assert run(InPlace(), 2).column("double").tolist() == [4]


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_file_systems_that_do_not_lock(tmp_path, monkeypatch, error):
    def refuse(self):
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.warns(RuntimeWarning, match="cannot lock files .* See to it that no other grid writes there") as caught:
        results = grid(grid_functions.fails_at, {"number": [2]}, InPlace(), folder=tmp_path, fixed={"bad": 9})
    assert results.column("double").tolist() == [4]
    assert caught[0].filename == __file__


def fill_disk(monkeypatch, refused):
    """Lets the disk be full for files of these names."""
    written = grid_runs.atomic_write

    @contextlib.contextmanager
    def atomic_write(path):
        with written(path) as temporary:
            yield temporary
            if path.name in refused:
                temporary.write_bytes(b"half")
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(temporary))

    monkeypatch.setattr(grid_runs, "atomic_write", atomic_write)


@pytest.mark.parametrize("refused", [["result.npz"], ["result.json"]])
def test_full_disk_that_takes_the_error(tmp_path, monkeypatch, refused):
    fill_disk(monkeypatch, refused)
    reason = (
        rf"number=0: OSError: \[Errno 28\] Cannot write '.*{refused[0]}': No space left on device. Nothing was left"
    )
    with pytest.warns(RuntimeWarning, match=reason):
        results = grid(grid_functions.large, {"number": [0]}, InPlace(), folder=tmp_path, fixed={"size": 3})
    assert names(results.failures[0].folder) == ["error.txt", "settings.json"]


STOPPING = [
    (["settings.json"], []),
    (["result.json", "error.txt"], ["settings.json"]),
    (["result.npz", "error.txt"], ["settings.json"]),
]


@pytest.mark.parametrize(("refused", "left"), STOPPING)
def test_full_disk_that_takes_nothing_stops_the_grid(tmp_path, monkeypatch, refused, left):
    def run(numbers):
        return grid(grid_functions.large, {"number": numbers}, InPlace(), folder=tmp_path, fixed={"size": 3})

    run([0])
    with pytest.MonkeyPatch.context() as patch:
        fill_disk(patch, refused)
        message = (
            rf"grid: stopped, as its folder cannot be written to. Cannot write '.*{refused[-1]}': No space left.*kept"
        )
        with pytest.raises(OSError, match=message) as caught:
            run([0, 1])
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path / "seed=0,number=1") == left
    results = run([0, 1])
    assert results.column("made").tolist() == [0, 1] and results.column("values").shape == (2, 3)


def test_full_disk_before_anything_is_run(tmp_path, monkeypatch):
    def refuse(self, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))

    monkeypatch.setattr(grid_runs.Path, "mkdir", refuse)
    with pytest.raises(ValueError, match="output folder .* cannot be written to: No space left on device"):
        grid(grid_functions.large, {"number": [0]}, InPlace(), folder=tmp_path / "a", fixed={"size": 3})


@pytest.mark.slow
def test_full_disk_in_earnest(small_disk):
    folder = small_disk / "runs"

    def run():
        return grid(
            grid_functions.large, {"number": list(range(8))}, folder=folder, fixed={"size": 20_000}, num_workers=1
        )

    with pytest.warns(RuntimeWarning, match="No space left on device"):
        results = run()
    num_finished = len(results)
    assert 0 < num_finished < 8
    for failure in results.failures:
        assert set(names(failure.folder)) <= {"error.txt", "settings.json"}
    # Not a byte is free: not even the errors can be written.
    with contextlib.suppress(OSError), open(small_disk / "ballast", "wb", buffering=0) as file:
        while True:
            file.write(bytes(512))
    with pytest.raises((OSError, ValueError), match="No space left on device"):
        run()
    (small_disk / "ballast").unlink()
    finished = [run.folder for run in load_grid(folder)]
    assert len(finished) == num_finished
    for path in folder.rglob("*"):
        assert path.is_dir() or path.name in (".grid.lock", "settings.json", "result.json", "result.npz", "error.txt")


@pytest.mark.slow
def test_signal_9_at_ten_moments_loses_nothing(tmp_path):
    log, folder, numbers = tmp_path / "log", tmp_path / "runs", list(range(40))
    fixed = {"log": str(log)}
    call = f"slow_arrays, {{'number': {numbers}}}, folder={str(folder)!r}, num_workers=2, fixed={fixed}"
    moments, finished = random.Random(3), {}
    for _ in range(10):
        calls_before = len(log.read_text().split()) if log.exists() else 0
        process = start(call, tmp_path / "errors")
        wait_until(lambda before=calls_before: log.exists() and len(log.read_text().split()) > before, process)
        time.sleep(moments.uniform(0, 1.0))
        process.kill()
        assert process.communicate(timeout=60) == (b"", None)
        for path in folder.glob("*/result.json"):
            status = path.stat()
            # A run that was finished is neither lost nor made again.
            assert finished.setdefault(path.parent.name, (status.st_ino, status.st_mtime_ns)) == (
                status.st_ino,
                status.st_mtime_ns,
            )
        assert finished.keys() == {path.parent.name for path in folder.glob("*/result.json")}
        assert {run.folder.name for run in load_grid(folder)} == finished.keys()
    assert 0 < len(finished) < len(numbers)
    results = grid(grid_functions.slow_arrays, {"number": numbers}, folder=folder, fixed=fixed, num_workers=2)
    assert results.column("made").tolist() == numbers
    assert np.array_equal(results.column("values")[:, -1], np.array(numbers, np.float32))
    for run in results:
        assert names(run.folder) == ["result.json", "result.npz", "settings.json"]
        before = finished.get(run.folder.name)
        assert before is None or before[0] == (run.folder / "result.json").stat().st_ino
    calls = [int(number) for number in log.read_text().split()]
    # Each kill costs the two runs in flight at most.
    assert set(calls) == set(numbers) and len(calls) <= len(numbers) + 20
