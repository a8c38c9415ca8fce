"""How the runs of a grid get to workers, whatever executor carries them, and what happens when something is killed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from tfprune.experiments.grid_runs import Job, execute
from tfprune.files import disk_refusal

LONGEST_PAUSE = 1.0
WORKER_DIED = "The worker process died: killed, out of memory, or a crash in native code.\n"


def carry_out(jobs: list[Job], num_runs: int, executor: Any, num_workers: int | None) -> None:
    """Carries out runs and waits for them.

    Args:
        jobs: The runs, none of which is finished.
        num_runs: Number of runs of the whole grid, for the progress bar.
        executor: Where the runs go; ``None`` takes new processes.
        num_workers: Number of processes without an executor; ``None`` takes one per core.

    Raises:
        RuntimeError: If worker processes die before any run begins.
        OSError: If the disk is full.
        KeyboardInterrupt: At Ctrl-C, not when a run raises it.
    """
    if not jobs:
        return
    with _refusals_explained(), _interrupts_noticed() as interrupts:
        for job in jobs:
            job.prepare()
        with tqdm(total=num_runs, initial=num_runs - len(jobs), desc="grid", unit="run", disable=None) as progress:
            carrier = _Carrier(interrupts, progress)
            if executor is None:
                _run_in_processes(carrier, jobs, num_workers or _num_cores())
                return
            for job, error in carrier.run(executor, jobs):
                if not job.is_finished():
                    job.write_error(f"{type(error).__name__}: {error}\n")


@contextlib.contextmanager
def _refusals_explained() -> Iterator[None]:
    """Says what a full disk means for a grid."""
    try:
        yield
    except OSError as error:
        if disk_refusal(error) is None:
            raise
        raise OSError(
            error.errno,
            f"grid: stopped, as its folder cannot be written to. {error.strerror}. Finished runs are kept; start the "
            "grid again once there is space",
        ) from error


class _Interrupts:
    """Tells Ctrl-C, which is a signal, from a run that raises `KeyboardInterrupt` by itself.

    Attributes:
        came: Whether the user has interrupted.
    """

    def __init__(self):
        self.came = False

    def check(self) -> None:
        """Ends the grid if a run in this very thread has caught the user's interrupt."""
        if self.came:
            raise KeyboardInterrupt


@contextlib.contextmanager
def _interrupts_noticed() -> Iterator[_Interrupts]:
    interrupts, before = _Interrupts(), signal.getsignal(signal.SIGINT)
    # Python gives signals to the main thread alone, and lets no other one set a handler.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield interrupts
        return

    def notice(number: int, frame: Any) -> None:
        interrupts.came = True
        before(number, frame)

    signal.signal(signal.SIGINT, notice)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _run_in_processes(carrier: _Carrier, jobs: list[Job], num_workers: int) -> None:
    """Runs on new processes. When one dies it takes the pool with it: the runs in flight are then tried one by one."""
    while jobs:
        lost = [job for job, _ in _run_in_pool(carrier, jobs, num_workers)]
        begun = [job for job in lost if job.has_begun() and not job.is_finished()]
        if lost and not begun:
            raise RuntimeError(
                "grid: worker processes died before a run began. A script must start its grid below "
                'if __name__ == "__main__", since each process imports the script anew.'
            )
        for job in begun:
            job.prepare()
            if _run_in_pool(carrier, [job], 1):
                job.write_error(WORKER_DIED)
        jobs = [job for job in lost if job not in begun and not job.is_finished()]


def _run_in_pool(carrier: _Carrier, jobs: Sequence[Job], num_workers: int) -> list[tuple[Job, BaseException]]:
    num_workers = min(num_workers, len(jobs))
    # TensorFlow does not survive a fork.
    context = multiprocessing.get_context("spawn")
    stop, ours = context.Pipe(duplex=False)
    try:
        with (
            stop,
            concurrent.futures.ProcessPoolExecutor(
                num_workers,
                mp_context=context,
                initializer=_start_worker,
                initargs=(max(1, _num_cores() // num_workers), stop),
            ) as pool,
            # Closed before the pool waits for its processes: at Ctrl-C nobody wants to wait for the runs in flight.
            ours,
        ):
            return carrier.run(pool, jobs)
    except BaseException:
        for job in jobs:
            job.delete_half_written()
        raise


class _Carrier:
    """Submits runs and waits for them."""

    def __init__(self, interrupts: _Interrupts, progress: tqdm):
        self._interrupts = interrupts
        self._progress = progress

    def run(self, executor: Any, jobs: Sequence[Job]) -> list[tuple[Job, BaseException]]:
        """Returns those whose worker failed, not those whose function did."""
        waiting = dict(enumerate(self._submit(executor, jobs)))
        lost, pause = [], 0.01
        try:
            while waiting:
                done = [number for number, future in waiting.items() if future.done()]
                for number in done:
                    error = self._error_of(waiting.pop(number))
                    if error is None:
                        self._progress.update()
                    else:
                        lost.append((jobs[number], error))
                # Some futures, such as submitit's, can only be asked; on a cluster each question costs.
                pause = 0.01 if done else min(LONGEST_PAUSE, 1.5 * pause)
                if waiting:
                    time.sleep(pause)
        finally:
            for future in waiting.values():
                future.cancel()
        return lost

    def _submit(self, executor: Any, jobs: Sequence[Job]) -> list[Any]:
        """One future per run; on a cluster all runs become one job array, so that its limits hold."""
        if hasattr(executor, "map_array"):
            return executor.map_array(execute, jobs)
        futures = []
        for job in jobs:
            try:
                futures.append(executor.submit(execute, job))
            except concurrent.futures.BrokenExecutor as error:
                futures.append(concurrent.futures.Future())
                futures[-1].set_exception(error)
            self._interrupts.check()
        return futures

    def _error_of(self, future: Any) -> BaseException | None:
        """Returns why a worker failed; raises what no other run would survive either."""
        try:
            refused = future.result()
        # Every library has its own error for a worker that died, and not all of them are an Exception.
        except BaseException as error:
            self._interrupts.check()
            return error
        self._interrupts.check()
        if refused is not None:
            raise refused
        return None


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker(num_threads: int, stop: Any) -> None:
    """Shares the machine with the other workers, and does not outlive the grid."""
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ.setdefault(name, str(num_threads))
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    # A terminal sends Ctrl-C to all processes; the one that started the grid ends the others. A handler of ours, not
    # SIG_IGN, which programs that a run starts would inherit.
    signal.signal(signal.SIGINT, _leave_to_parent)
    threading.Thread(target=_end_with_grid, args=(stop,), daemon=True).start()


def _leave_to_parent(number: int, frame: Any) -> None:
    """Does nothing."""


def _end_with_grid(stop: Any) -> None:
    """Waits until the parent has closed its end of the pipe, by will or by dying."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel, stop])
    os._exit(1)
