"""What the grids of the tests call: functions that other processes can import."""

import os
import signal
import time
from pathlib import Path

import keras
import numpy as np


def score(rate, seed=0, layer="conv"):
    """Numbers, text and an array."""
    return {"loss": rate**2 + seed, "name": layer.upper(), "curve": np.full(3, rate, np.float32)}


def counted(number, log):
    """Leaves a line at each call, so that calls can be counted."""
    with open(log, "a", encoding="utf-8") as file:
        file.write(f"{number}\n")
    return {"double": 2 * number}


def waits_from_two(number, log):
    """As `counted`, but from number 2 on it waits to be killed while a file beside the log says so."""
    result = counted(number, log)
    if number >= 2 and Path(log + ".wait").exists():
        time.sleep(600)
    return result


def fails_at(number, bad):
    if number == bad:
        raise ArithmeticError(f"number {number} is bad")
    return {"double": 2 * number}


def dies_at(number, bad):
    """Ends its process as a crash in native code does."""
    if number == bad:
        os._exit(1)
    return {"double": 2 * number, "process": os.getpid()}


def returns(kind):
    values = {
        "number": 0.5,
        "object": {"model": object()},
        "objects": {"array": np.array([object()])},
        "nan": {"loss": float("nan")},
        "numpy": {"loss": np.float32(0.5), "many": (np.int64(1), 2), "file": np.zeros(2)},
        "exit": None,
    }
    if kind == "exit":
        raise SystemExit(2)
    return values[kind]


def writes_a_file(number, folder):
    Path(folder, "own.txt").write_text(str(number))
    return {}


def draws(seed):
    return {"numpy": float(np.random.rand()), "keras": float(keras.random.uniform(()))}


class Unusual(BaseException):
    """What an exception may be without being an `Exception`."""


def raises(kind):
    """Raises what is neither caught by `except Exception` nor written down with ease."""
    errors = {
        "surrogate": ValueError("the file \udce4.png is broken"),
        "keyboard": KeyboardInterrupt(),
        "exit": SystemExit(2),
        "generator": GeneratorExit(),
        "unusual": Unusual("by \ud800 itself"),
    }
    if kind in errors:
        raise errors[kind]
    return {"fine": kind}


def interrupts(number):
    """As if the user pressed Ctrl-C while run 1 is under way."""
    if number == 1:
        signal.raise_signal(signal.SIGINT)
    return {"made": number}


def large(number, size):
    return {"made": number, "values": np.random.default_rng(number).random(size)}


def slow_arrays(number, log):
    """Leaves a line at each call, takes some time and returns an array."""
    counted(number, log)
    time.sleep(0.3)
    return {"made": number, "values": np.full(20_000, number, np.float32)}
