"""What pruning while training costs, and what a shrinking model saves.

Targets: PruneDuringTraining adds at most 3 % to an epoch outside its pruning steps (with and without the callback by
turns, medians; beside the time also that of the processors, which says more on a machine that is shared).
shrink_while_training: time of an epoch and peak memory of a training before and after, each peak in a process of its
own. A LivenessMonitor's measurement is timed too, and what the penalties of SparsifyDuringTraining add to an epoch.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from networks import print_table, residual_net, thesis_net

import tfprune as tfp
from tfprune import saliency, schedules
from tfprune.training import LivenessMonitor, PruneDuringTraining, SparsifyDuringTraining, shrink_while_training


def dense_net():
    layers = [keras.layers.Dense(512, activation="relu", name=f"dense_{k}") for k in range(3)]
    return keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10, name="out")], name="dense")


def compiled(build, jit_compile="auto"):
    model = build()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def data_for(model, num_samples):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(num_samples, *model.input_shape[1:])).astype("float32")
    return x, generator.integers(0, 10, num_samples)


class Timer(keras.callbacks.Callback):
    """Times every epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []
        self.cpu_seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self._start[0])
        self.cpu_seconds.append(time.process_time() - self._start[1])


def overhead(build, num_samples, rounds, make, jit_compile="auto"):
    """Returns the median time of an epoch without the callback, and of the ratios with it: of time and of processors'.

    `make(x)` makes the callback. Two models train by turns; the first epoch of every `fit` traces and does not count,
    nor does the pruning step.
    """
    models = compiled(build, jit_compile), compiled(build, jit_compile)
    x, y = data_for(models[0], num_samples)
    times, cpu = ([], []), ([], [])
    for number in range(rounds):
        order = (0, 1) if number % 2 else (1, 0)
        for which in order:
            timer = Timer()
            # The timer stands before the callback, so that it stops first and starts first.
            callbacks = [timer, *([make(x)] if which else [])]
            models[which].fit(x, y, batch_size=32, epochs=4, verbose=0, callbacks=callbacks)
            times[which].append(statistics.median(timer.seconds[1:]))
            cpu[which].append(statistics.median(timer.cpu_seconds[1:]))
    ratios = [statistics.median(b / a for a, b in zip(*own, strict=True)) for own in (times, cpu)]
    return [statistics.median(times[0]), *ratios]


def print_overhead(rounds):
    at_start = schedules.by_epoch({0: 0.5})
    every_step = schedules.Schedule(lambda step: 0.5, "steps", "half")
    rows = []
    for build, num_samples, schedule, name, jit in (
        (thesis_net, 6400, at_start, "by epoch", "auto"),
        (thesis_net, 6400, every_step, "by step", "auto"),
        (thesis_net, 6400, every_step, "by step, XLA", True),
        (dense_net, 6400, every_step, "by step", "auto"),
        (residual_net, 960, every_step, "by step", "auto"),
    ):

        def make(x, schedule=schedule):
            return PruneDuringTraining(saliency.weight_norm, schedule, x[:1000])

        rows.append([f"{build.__name__}, {name}", *overhead(build, num_samples, rounds, make, jit)])
        print("  ".join(str(cell) for cell in rows[-1]), flush=True)
    header = ["model, schedule", "epoch s", "ratio (target <= 1.03)", "of processors' time"]
    print_table("An epoch outside of pruning steps", header, rows)


def print_sparsifying(rounds):
    rows = []
    for build, num_samples, penalty, method in (
        (thesis_net, 6400, "group_norm", "proximal"),
        (thesis_net, 6400, "group_norm", "gradient"),
        (dense_net, 6400, "group_norm", "proximal"),
        (residual_net, 960, "batch_norm_scale", "proximal"),
        (residual_net, 960, "group_norm", "proximal"),
    ):

        def make(x, penalty=penalty, method=method):
            return SparsifyDuringTraining(penalty, 1e-6, method=method)

        rows.append([f"{build.__name__}, {penalty}, {method}", *overhead(build, num_samples, rounds, make)])
        print("  ".join(str(cell) for cell in rows[-1]), flush=True)
    print_table("SparsifyDuringTraining", ["model, penalty", "epoch s", "ratio", "of processors' time"], rows)


def resident_gigabytes(which):
    """Returns the memory that this process holds ("VmRSS") or has held at most ("VmHWM").

    What `resource` tells of a new process may be the memory of the one that started it.
    """
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(which)) / 2**20


def peak_of_training(build, sparsity):
    """Prints how far the memory of a process grows that trains the model, cut or not, for two epochs."""
    model = compiled(build)
    if sparsity:
        model = tfp.remove(model, tfp.keep_top(saliency.weight_norm(model), sparsity), keep_optimizer=True)
    x, y = data_for(model, 2048)
    before = resident_gigabytes("VmRSS")
    model.fit(x, y, batch_size=1024, epochs=2, verbose=0)
    print(resident_gigabytes("VmHWM") - before)


def print_shrinking():
    rows = []
    for build, num_samples in ((thesis_net, 6400), (residual_net, 960), (dense_net, 6400)):
        model = compiled(build)
        data = data_for(model, num_samples)
        table = schedules.by_epoch({3: 0.5, 6: 0.75})
        options = {"epochs": 9, "repair": "zero", "fit_options": {"verbose": 0}}
        shrunk = shrink_while_training(model, data, table, saliency.weight_norm, **options)
        seconds, parameters = shrunk.history["seconds"], shrunk.history["parameters"]
        for number, sparsity in enumerate((0.0, 0.5, 0.75)):
            command = [sys.executable, __file__, "--peak", build.__name__, str(sparsity)]
            peak = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
            # The first epoch of each stretch traces.
            epoch = statistics.median(seconds[3 * number + 1 : 3 * number + 3])
            first = statistics.median(seconds[1:3])
            rows.append([build.__name__, sparsity, f"{parameters[3 * number]:,}", epoch, epoch / first, peak])
            print("  ".join(str(cell) for cell in rows[-1]), flush=True)
    header = ["model", "sparsity", "parameters", "epoch s", "of the first", "memory GB (batches of 1024)"]
    print_table("shrink_while_training: epochs before and after", header, rows)


def print_monitor():
    rows = []
    for build in (thesis_net, residual_net):
        model = compiled(build)
        x, y = data_for(model, 1000)
        monitor = LivenessMonitor((x, y), every=1)
        seconds = []
        measure = monitor._measure

        def timed(step, epoch, measure=measure, seconds=seconds):
            start = time.perf_counter()
            measure(step, epoch)
            seconds.append(time.perf_counter() - start)

        monitor._measure = timed
        model.fit(x[:160], y[:160], batch_size=32, epochs=1, verbose=0, callbacks=[monitor])
        rows.append([build.__name__, str(tfp.unit_groups(model).num_units), seconds[0], statistics.median(seconds[1:])])
    print_table("LivenessMonitor, 1000 samples", ["model", "units", "first s", "later s"], rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["overhead", "sparsifying", "shrinking", "monitor"])
    parser.add_argument("--peak", nargs=2, metavar=("NET", "SPARSITY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        name, sparsity = options.peak
        peak_of_training({f.__name__: f for f in (thesis_net, residual_net, dense_net)}[name], float(sparsity))
        return
    if options.only in (None, "overhead"):
        print_overhead(options.rounds)
    if options.only in (None, "sparsifying"):
        print_sparsifying(options.rounds)
    if options.only in (None, "shrinking"):
        print_shrinking()
    if options.only in (None, "monitor"):
        print_monitor()


if __name__ == "__main__":
    main()
