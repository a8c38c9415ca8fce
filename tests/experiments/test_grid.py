"""Grids of runs: what is stored, what is skipped, what a crash costs, on every kind of executor."""

import concurrent.futures
import doctest
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import distributed
import grid_functions
import numpy as np
import pytest
import submitit

from tfprune.experiments import grid, grid_results, grid_runs, load_grid
from tfprune.experiments.grid_runs import run_name

TESTS = Path(__file__).resolve().parent


@pytest.fixture
def threads():
    """One thread: quick, and the random generators are its own."""
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        yield executor


def names(folder):
    """What lies in a folder, the lock apart."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".grid.lock")


def calls(log):
    return sorted(int(line) for line in log.read_text().split())


@pytest.mark.parametrize("module", [grid_runs, grid_results])
def test_docstring_examples(module):
    assert doctest.testmod(module).failed == 0


def test_results_come_back_in_the_order_of_the_grid(threads, tmp_path):
    results = grid(grid_functions.score, {"seed": [1, 0], "rate": [0.5, 0.25]}, threads, folder=tmp_path)
    assert [dict(run.settings) for run in results] == [
        {"seed": seed, "rate": rate} for seed in (1, 0) for rate in (0.5, 0.25)
    ]
    assert results.column("loss").tolist() == [1.25, 1.0625, 0.25, 0.0625]
    assert results.column("rate").tolist() == [0.5, 0.25, 0.5, 0.25]
    assert results.column("curve").shape == (4, 3) and results.column("curve").dtype == np.float32
    assert len(results) == 4 and results.failures == () and results.report() == ""
    assert results[0].seed == 1 and results[0].versions["python"] and results[0].seconds >= 0.0
    with pytest.raises(ValueError, match="read-only"):
        results[0].result["curve"][0] = 1.0
    with pytest.raises(TypeError, match="does not support item assignment"):
        results[0].result["loss"] = 1.0


def test_part_of_the_results(threads, tmp_path):
    results = grid(grid_functions.score, {"seed": [1, 0], "rate": [1, 0.25]}, threads, folder=tmp_path)
    assert results.where(rate=np.float64(1.0)).column("seed").tolist() == [1, 0]
    assert results.where(rate=0.25, seed=0)[0].result["loss"] == 0.0625
    assert len(results.where(seed=True)) == len(results.where(rate=7)) == 0
    with pytest.raises(ValueError, match=r"where: Unknown: 'rates' \(did you mean 'rate'\?\). Known names: rate, seed"):
        results.where(rates=1)
    with pytest.raises(ValueError, match=r"column: 'los' is in 0 of 4 runs. Unknown: 'los' \(did you mean 'loss'"):
        results.column("los")


def test_table(threads, tmp_path):
    results = grid(grid_functions.score, {"rate": [0.5, 0.25]}, threads, folder=tmp_path)
    assert str(results).splitlines() == [
        "GridResults: 2 runs finished, 0 failed",
        "  rate  loss    name",
        "  0.5   0.25    CONV",
        "  0.25  0.0625  CONV",
    ]
    assert str(results.where(rate=3)) == "GridResults: 0 runs finished, 0 failed"


def test_what_a_run_leaves(threads, tmp_path):
    grid(grid_functions.score, {"rate": [0.5], "seed": [3]}, threads, folder=tmp_path, fixed={"layer": "fc"})
    assert names(tmp_path) == ["seed=3,rate=0.5"]
    folder = tmp_path / "seed=3,rate=0.5"
    assert names(folder) == ["result.json", "result.npz", "settings.json"]
    description = json.loads((folder / "settings.json").read_text())
    assert description["settings"] == {"layer": "fc", "rate": 0.5, "seed": 3} and description["seed"] == 3
    assert description["function"] == "grid_functions:score"
    assert set(description["versions"]) == {"tfprune", "keras", "tensorflow", "numpy", "python"}
    assert json.loads((folder / "result.json").read_text())["values"] == {"loss": 3.25, "name": "FC"}


def test_results_are_loaded_without_running(threads, tmp_path):
    results = grid(grid_functions.score, {"rate": [0.25, 0.5]}, threads, folder=tmp_path)
    loaded = load_grid(tmp_path)
    assert [dict(run.settings) for run in loaded] == [dict(run.settings) for run in results]
    assert loaded.column("loss").tolist() == results.column("loss").tolist() == [0.0625, 0.25]
    assert np.array_equal(loaded.column("curve"), results.column("curve"))
    with pytest.raises(ValueError, match="load_grid: expected a folder that grid has filled, .* holds no run"):
        load_grid(tmp_path / "absent")


def test_several_grids_and_arrays_of_values(threads, tmp_path):
    parts = [{"rate": np.array([0.5, 0.25])}, {"rate": (2,), "layer": ["fc"]}]
    results = grid(functools.partial(grid_functions.score, seed=1), parts, threads, folder=tmp_path)
    assert results.column("loss").tolist() == [1.25, 1.0625, 5.0]
    assert names(tmp_path) == ["seed=0,layer=fc,rate=2", "seed=0,rate=0.25", "seed=0,rate=0.5"]


def test_finished_runs_are_skipped(threads, tmp_path):
    log = tmp_path / "log"
    settings = {"fixed": {"log": str(log)}, "folder": tmp_path / "runs"}
    grid(grid_functions.counted, {"number": [0, 1]}, threads, **settings)
    results = grid(grid_functions.counted, {"number": [2, 1, 0]}, threads, **settings)
    assert results.column("double").tolist() == [4, 2, 0]
    assert calls(log) == [0, 1, 2]


def test_crash_loses_no_other_run_and_is_tried_again(threads, tmp_path):
    def run():
        return grid(grid_functions.fails_at, {"number": [0, 1, 2]}, threads, folder=tmp_path, fixed={"bad": 1})

    message = r"1 of 3 runs failed; .*\n  seed=0,number=1: ArithmeticError: number 1 is bad\n.*error.txt"
    with pytest.warns(RuntimeWarning, match=message):
        results = run()
    assert results.column("double").tolist() == [0, 4]
    (failure,) = results.failures
    assert failure.settings == {"number": 1, "bad": 1}
    assert "Traceback" in failure.error and failure.error == (failure.folder / "error.txt").read_text()
    assert results.where(number=1).failures == (failure,) and results.where(number=0).failures == ()
    assert load_grid(tmp_path).failures[0].reason == "ArithmeticError: number 1 is bad"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid_functions.fails_at, "__code__", (lambda number, bad: {"double": -1}).__code__)
        with pytest.warns(RuntimeWarning, match="2 finished runs come from an earlier text of grid_functions:fails_at"):
            assert run().column("double").tolist() == [0, -1, 4]
    assert names(tmp_path / "seed=0,number=1") == ["result.json", "settings.json"]


def test_every_run_has_its_seed(threads, tmp_path):
    results = grid(grid_functions.draws, {"seed": [3, 4]}, threads, folder=tmp_path)
    generator = np.random.RandomState(3)
    assert results[0].result["numpy"] == generator.rand() != results[1].result["numpy"]
    again = grid(grid_functions.draws, {"seed": [4, 3]}, threads, folder=tmp_path / "again")
    assert again.column("keras").tolist() == results.column("keras").tolist()[::-1]


def test_run_with_files_of_its_own(threads, tmp_path):
    results = grid(grid_functions.writes_a_file, {"number": [5]}, threads, folder=tmp_path, pass_folder=True)
    assert (results[0].folder / "own.txt").read_text() == "5"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("number", r"must return a dict with text as keys.*received float"),
        ("object", r"result\['model'\]: expected what JSON can store"),
        ("objects", r"result\['array'\]: expected an array of numbers"),
        ("exit", "SystemExit: 2"),
    ],
)
def test_results_that_cannot_be_stored(threads, tmp_path, kind, reason):
    with pytest.warns(RuntimeWarning, match=reason):
        results = grid(grid_functions.returns, {"kind": [kind]}, threads, folder=tmp_path)
    assert names(results.failures[0].folder) == ["error.txt", "settings.json"]


def test_results_keep_numbers_of_numpy_and_nan(threads, tmp_path):
    numpy, nan = grid(grid_functions.returns, {"kind": ["numpy", "nan"]}, threads, folder=tmp_path)
    assert numpy.result["loss"] == 0.5 and numpy.result["many"] == [1, 2]
    assert numpy.result["file"].tolist() == [0.0, 0.0]
    assert np.isnan(nan.result["loss"])


def test_processes_and_one_that_dies(tmp_path):
    with pytest.warns(RuntimeWarning, match="number=1: The worker process died: killed, out of memory"):
        results = grid(grid_functions.dies_at, {"number": [0, 1, 2]}, folder=tmp_path, fixed={"bad": 1}, num_workers=1)
    assert results.column("double").tolist() == [0, 4]
    assert os.getpid() not in results.column("process")


def test_killed_grid_loses_only_the_run_in_flight(threads, tmp_path):
    log, folder = tmp_path / "log", tmp_path / "runs"
    waiting = Path(f"{log}.wait")
    waiting.touch()
    numbers = list(range(4))
    command = (
        "import grid_functions; from tfprune.experiments import grid; "
        f"grid(grid_functions.waits_from_two, {{'number': {numbers}}}, folder={str(folder)!r}, num_workers=1, "
        f"fixed={{'log': {str(log)!r}}})"
    )
    path = os.pathsep.join([str(TESTS), str(TESTS.parents[1])])
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while not (log.exists() and len(calls(log)) == 3):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        process.kill()
    # The end of the output comes when the worker has ended too.
    assert process.communicate(timeout=60) == (b"", None)
    assert calls(log) == [0, 1, 2]
    killed = folder / "seed=0,number=2"
    assert names(killed) == ["settings.json"]
    assert load_grid(folder).failures[0].reason == "not finished: still running, or killed"
    (killed / ".0a1b2c3d.result.json").write_text('{"values": {"dou')
    waiting.unlink()
    results = grid(grid_functions.waits_from_two, {"number": numbers}, threads, folder=folder, fixed={"log": str(log)})
    assert results.column("double").tolist() == [0, 2, 4, 6]
    assert calls(log) == [0, 1, 2, 2, 3]
    assert names(killed) == ["result.json", "settings.json"]


def test_dask(tmp_path):
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        client.get_executor() as executor,
        pytest.warns(RuntimeWarning, match="number=1: ArithmeticError"),
    ):
        results = grid(grid_functions.fails_at, {"number": [0, 1, 2]}, executor, folder=tmp_path, fixed={"bad": 1})
    assert results.column("double").tolist() == [0, 4]


def test_submitit(tmp_path, monkeypatch):
    # Its jobs are new processes, which know nothing of pytest's path.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parents[1])]))
    executor = submitit.AutoExecutor(folder=tmp_path / "logs", cluster="local")
    executor.update_parameters(timeout_min=5)
    results = grid(grid_functions.dies_at, {"number": [3]}, executor, folder=tmp_path / "runs", fixed={"bad": 1})
    assert results[0].result["double"] == 6 and results[0].result["process"] != os.getpid()


def test_worker_of_a_given_executor_that_dies(tmp_path):
    class Dying(concurrent.futures.ThreadPoolExecutor):
        def submit(self, function, job):
            if job.settings["number"] == 1:
                raise concurrent.futures.BrokenExecutor("out of memory")
            return super().submit(function, job)

    with Dying(1) as executor, pytest.warns(RuntimeWarning, match="number=1: BrokenExecutor: out of memory"):
        results = grid(grid_functions.fails_at, {"number": [1, 2]}, executor, folder=tmp_path, fixed={"bad": 9})
    assert results.column("double").tolist() == [4]
    assert names(results.failures[0].folder) == ["error.txt", "settings.json"]


def test_names_tell_runs_apart():
    settings = [
        {"a": 1},
        {"a": 1.0},
        {"a": True},
        {"a": "1"},
        {"a": "true"},
        {"a": None},
        {"a": "x"},
        {"a": "X"},
        {"A": 1},
        {"a": "x/y"},
        {"a": "x-y"},
        {"a": [1, 2]},
        {"a": [12]},
        {"a": "1+2"},
        {"a": "x,b=1"},
        {"a": "x", "b": 1},
        {"a": "ä"},
        {"a": ".."},
        {"a": ""},
        {"a": "long" * 50},
        {"a": "long" * 51},
    ]
    found = [run_name(point, 0) for point in settings]
    assert len({name.casefold() for name in found}) == len(settings)
    for name in found:
        assert name.lower().startswith("seed=0,a")
        assert len(name) <= 111 and name[-1].isalnum() and not set(name) & set('/\\:*?"<>| ')
    assert run_name({"b": 1e-5, "seed": 2, "a": "conv_1"}, 2) == "seed=2,a=conv_1,b=1e-05"
    assert run_name({"a": "x" * 300, "seed": 2}, 2).startswith("seed=2,a=xxx")


def test_folder_of_another_run_is_refused(threads, tmp_path):
    def run(function=grid_functions.fails_at, fixed=9, folder=tmp_path):
        return grid(function, {"number": [0]}, threads, folder=folder, fixed={"bad": fixed})

    run()
    with pytest.raises(ValueError, match=r"other settings: bad = 9 there, 8 now. Delete it to run anew, or choose"):
        run(fixed=8)
    with pytest.raises(ValueError, match=r"another function: grid_functions:fails_at there, grid_functions:dies_at"):
        run(grid_functions.dies_at)
    path = tmp_path / "seed=0,number=0" / "settings.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"settings.json: expected a file that grid wrote, but it cannot be read"):
        run()
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"expected a file that grid wrote, but \['settings', .* are missing"):
        run()
    path.unlink()
    with pytest.raises(ValueError, match=r"has a result.json but no settings.json; delete that folder"):
        run()


def test_lost_arrays_are_told(threads, tmp_path):
    (run,) = grid(grid_functions.score, {"rate": [1]}, threads, folder=tmp_path)
    (run.folder / "result.npz").unlink()
    with pytest.raises(ValueError, match=r"result.npz: expected the arrays \['curve'\] of a finished run; delete"):
        load_grid(tmp_path)


BAD_GRIDS = [
    ({}, ValueError, "received an empty grid"),
    ([], ValueError, "received an empty grid"),
    ([{}], ValueError, "received an empty grid"),
    ("rate", TypeError, "expected a mapping from settings to lists"),
    ({"rate": []}, ValueError, "'rate' has no values"),
    ({"rate": 0.1}, TypeError, r"list of values for the setting 'rate', received 0.1; use \[value\]"),
    ({"rate": "high"}, TypeError, "list of values for the setting 'rate', received 'high'"),
    ({"rate": [object()]}, TypeError, "setting 'rate': expected what JSON can store"),
    ({"rate": [{1: 2}]}, TypeError, "dicts with text as keys"),
    ({"rate": [float("nan")]}, ValueError, "setting 'rate': expected a finite number, received nan"),
    ({"rate": [1, 1]}, ValueError, r"two runs have the settings \{'rate': 1\}; give every value once"),
    ({"learning rate": [1]}, ValueError, "names of arguments as settings.*received 'learning rate'"),
    ({"rate": [1], "folder": [2]}, ValueError, "'folder' excepted"),
    ({"rate": [1], "seed": ["a"]}, ValueError, r"seeds as integers from 0 to 2\^32 - 1, received 'a'"),
    ({"rate": [1], "seed": [-1]}, ValueError, "received -1"),
    ({"rates": [1]}, TypeError, r"score\(rate, seed=0, layer='conv'\) does not take the settings \['layer', 'rates'\]"),
    ({"rate": [1], "layer": ["fc"]}, ValueError, "'layer' is in the grid and in `fixed`"),
]


@pytest.mark.parametrize(("settings", "error", "message"), BAD_GRIDS)
def test_bad_grids(threads, tmp_path, settings, error, message):
    with pytest.raises(error, match=message):
        grid(grid_functions.score, settings, threads, folder=tmp_path / "runs", fixed={"layer": "conv"})
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("function", "executor", "options", "error", "message"),
    [
        (None, None, {}, TypeError, "expected a function, received None"),
        (lambda rate: {}, None, {}, TypeError, "cannot be sent to another process .* define it at the top level"),
        (grid_functions.score, "processes", {}, TypeError, "expected an executor, .* received 'processes'"),
        (grid_functions.score, concurrent.futures.ThreadPoolExecutor, {}, TypeError, "expected an executor"),
        (grid_functions.score, None, {"num_workers": 0}, ValueError, "num_workers as an integer of at least 1"),
        (grid_functions.score, None, {"num_workers": True}, ValueError, "num_workers as an integer of at least 1"),
        (grid_functions.score, None, {"pass_folder": True}, TypeError, "does not take the settings .*'folder'"),
    ],
)
def test_bad_functions_and_executors(tmp_path, function, executor, options, error, message):
    with pytest.raises(error, match=message):
        grid(function, {"rate": [1]}, executor, folder=tmp_path / "runs", **options)
    assert not (tmp_path / "runs").exists()


def test_bad_folders_and_workers(threads, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="output folder '.*file' cannot be written to"):
        grid(grid_functions.score, {"rate": [1]}, threads, folder=tmp_path / "file")
    with pytest.raises(ValueError, match="num_workers is for executor=None"):
        grid(grid_functions.score, {"rate": [1]}, threads, folder=tmp_path, num_workers=2)
