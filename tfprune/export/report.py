"""What a cut has changed: size, speed, quality."""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree
from rich.console import Console
from rich.table import Table

from tfprune.borders import public
from tfprune.compiling import compiled, without_retracing_warnings
from tfprune.data import Batch, as_batches
from tfprune.export.inputs import fixed_batch, input_shapes, plain_call, random_inputs, unchanged_states
from tfprune.graph import unit_groups
from tfprune.graph.flops import count_flops, guessed_flops
from tfprune.graph.walk import functional
from tfprune.objectives import check_classes, sample_loss

LATENCY_BATCHES = (1, 32)
_SECONDS_A_BATCH = 3.0
"""How long the runs of both models at one batch size take at most, if each has had `_FEWEST_RUNS`."""
_FEWEST_RUNS = 3
_NUMBERS_AT_ONCE = 2**22


@dataclass(frozen=True)
class Row:
    """One line of a comparison.

    Attributes:
        name: what was measured.
        original: the value of the original model; None where only the difference has a meaning.
        small: the value of the small model.
        ratio: small / original; for the output difference, the difference relative to the largest output. None where
            the original's value is zero or NaN.
        unit: the unit of both values, "" for counts and pure numbers.
    """

    name: str
    original: float | None
    small: float
    ratio: float | None
    unit: str = ""


@dataclass(frozen=True, repr=False)
class Comparison(Mapping[str, Row]):
    """What a cut has changed: a mapping from name to `Row` that prints as a table.

    Attributes:
        rows: the lines, in order.
        notes: what was left out or has to be known, and why.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{name!r} was not compared. Rows: {', '.join(self)}. Notes: {' '.join(self.notes) or 'none'}")

    def __iter__(self) -> Iterator[str]:
        return iter(row.name for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        table = Table()
        for column in ("", "original", "small", "ratio"):
            table.add_column(column, justify="right" if column else "left")
        for row in self.rows:
            name = f"{row.name} ({row.unit})" if row.unit else row.name
            table.add_row(name, *map(_number, (row.original, row.small, row.ratio)))
        console = Console(width=100, color_system=None)
        with console.capture() as capture:
            console.print(table)
            for note in self.notes:
                console.print(note, markup=False, highlight=False)
        return capture.get()


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


@public
def compare(
    model: keras.Model, small: keras.Model, data: Any = None, *, loss: Any = None, latency_runs: int = 30
) -> Comparison:
    """Compares a model with a smaller one: parameters, FLOPs, file size, latency, loss, metrics, outputs.

    - *FLOPs*: floating-point operations of one sample, as `tfprune.graph.count_flops` counts them.
    - *file size*: of the `.keras` file without the optimizer.
    - *latency*: the median time of a compiled call on random inputs, with 1 and with 32 samples, after a warm-up; the
      models take turns, so that other work on the machine meets both.
    - *loss and metrics*: what `evaluate` gives for both models with the loss and metrics that `model` was compiled
      with; accuracy too where the loss is a cross-entropy.
    - *largest output difference*: on the data, or on random inputs if there are none; relative to the largest one.

    Args:
        model: the original, a Sequential or functional model.
        small: the small one, with the same inputs and outputs.
        data: whatever `model.fit` takes; with targets if losses are wanted. None leaves losses out.
        loss: replaces the compiled loss; needed for losses if `model` is not compiled.
        latency_runs: how often each model runs for its latency, fewer if that takes more than a few seconds; 0 leaves
            the latency out.

    Returns:
        The comparison: a frozen value that prints as a table.

    Raises:
        TypeError: if one of the models is no Keras model.
        ValueError: if one is subclassed or not built, if their inputs or outputs differ in shape, or if the data do not
            fit.

    Example:
        >>> report = compare(model, small, (x, y))                    # doctest: +SKIP
        >>> report["parameters"].ratio                                # doctest: +SKIP
        0.25
    """
    _check_alike(model, small)
    if isinstance(latency_runs, bool) or not isinstance(latency_runs, int) or latency_runs < 0:
        raise ValueError(f"latency_runs: expected an integer of at least 0, received {latency_runs!r}.")
    batches = None if data is None else as_batches(data, functional(model).inputs, batch_size=_batch_size(model))
    first = next(iter(batches)) if batches is not None else None
    shapes = input_shapes(model) if first is None else [array.shape[1:] for array in first.inputs]
    rows, notes = [_row("parameters", model.count_params(), small.count_params())], []
    rows += _flops_rows(model, small, shapes, notes)
    rows += _file_size_rows(model, small, notes)
    for measure in (
        lambda: _latency_rows(model, small, shapes, latency_runs),
        lambda: _loss_rows(model, small, batches, first, loss, notes),
        lambda: [_difference_row(model, small, batches, shapes, notes)],
    ):
        with unchanged_states(model), unchanged_states(small), without_retracing_warnings():
            rows += measure()
    return Comparison(tuple(rows), tuple(notes))


def _batch_size(model: keras.Model) -> int:
    """So many samples that their inputs take a few megabytes at most, since large images need far more inside."""
    numbers = sum(prod(shape) for shape in input_shapes(model))
    return fixed_batch(model) or min(256, max(1, _NUMBERS_AT_ONCE // max(1, numbers)))


def _check_alike(model: keras.Model, small: keras.Model) -> None:
    one, other = functional(model), functional(small)
    for what in ("inputs", "outputs"):
        # How many samples a model takes is no difference.
        shapes = [[tuple(tensor.shape[1:]) for tensor in getattr(graph, what)] for graph in (one, other)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"compare: the {what} of the models differ in shape: {model.name!r} has {shapes[0]}, {small.name!r} "
                f"has {shapes[1]}. Compare a model with one that was cut from it."
            )


def _row(name: str, original: float, small: float, unit: str = "") -> Row:
    usable = original != 0 and np.isfinite(original)
    return Row(name, original, small, float(small / original) if usable else None, unit)


def _flops_rows(model: keras.Model, small: keras.Model, shapes: list, notes: list[str]) -> list[Row]:
    graphs = [unit_groups(own) for own in (model, small)]
    if shapes != [tuple(tensor.shape[1:]) for tensor in functional(model).inputs]:
        notes.append(f"Where the model leaves lengths open, samples of shape {shapes} were taken.")
    guessed = sorted({name for graph in graphs for name in guessed_flops(graph)})
    if guessed:
        notes.append(f"FLOPs: too few for {', '.join(guessed)}, whose class has no row; teach it with register_flops.")
    try:
        counts = [count_flops(graph, shapes=shapes) for graph in graphs]
    except ValueError as error:
        notes.append(f"FLOPs left out: {error}")
        return []
    return [_row("FLOPs", *counts, "per sample")]


def _file_size_rows(model: keras.Model, small: keras.Model, notes: list[str]) -> list[Row]:
    sizes = []
    with tempfile.TemporaryDirectory() as folder:
        for own in (model, small):
            path = os.path.join(folder, "model.keras")
            try:
                _uncompiled(own).save(path)
            except Exception as error:
                notes.append(f"File size left out: model {own.name!r} cannot be saved ({error}).")
                return []
            sizes.append(os.path.getsize(path))
    return [_row("file size", *sizes, "bytes")]


def _uncompiled(model: keras.Model) -> keras.Model:
    """Returns a model of the same layers without optimizer, loss and metrics."""
    graph = functional(model)
    return keras.Model(graph._inputs_struct, graph._outputs_struct, name=model.name)


def _latency_rows(model: keras.Model, small: keras.Model, shapes: list, runs: int) -> list[Row]:
    if not runs:
        return []
    fixed = fixed_batch(model) or fixed_batch(small)
    rows = []
    for batch in [fixed] if fixed else LATENCY_BATCHES:
        tensors = list(map(tf.constant, random_inputs(model, batch, shapes=shapes)))
        calls = [functools.partial(_traced(own, tensors), *tensors) for own in (model, small)]
        medians = _median_milliseconds(calls, runs)
        samples = "1 sample" if batch == 1 else f"{batch} samples"
        rows.append(_row(f"latency, {samples}", *medians, "ms"))
    return rows


def _traced(model: keras.Model, tensors: list[tf.Tensor], *, any_batch: bool = False) -> Callable[..., list]:
    """Returns the model's forward pass, compiled for the shapes of `tensors`: one trace, which TensorFlow accepts."""
    specs = [tf.TensorSpec([None if any_batch else len(own), *own.shape[1:]], own.dtype) for own in tensors]
    return compiled(plain_call(model)).get_concrete_function(*specs)


def _median_milliseconds(calls: list[Callable[[], list]], runs: int) -> list[float]:
    """Runs the calls in turn and returns the median time of each."""
    for call in calls * 2:
        _finished(call())
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + _SECONDS_A_BATCH
    while len(times[0]) < runs and (len(times[0]) < _FEWEST_RUNS or time.perf_counter() < end):
        for own, call in zip(times, calls, strict=True):
            start = time.perf_counter()
            _finished(call())
            own.append(1000 * (time.perf_counter() - start))
    return [float(np.median(own)) for own in times]


def _finished(outputs: list) -> None:
    # An accelerator works on after the call has returned, until a number is asked for.
    for output in outputs:
        output.numpy()


def _loss_rows(
    model: keras.Model, small: keras.Model, batches: Any, first: Batch | None, loss: Any, notes: list[str]
) -> list[Row]:
    if first is None:
        notes.append("Loss left out: no data were given.")
        return []
    if not [leaf for leaf in tree.flatten(first.targets) if leaf is not None]:
        notes.append("Loss left out: the data have no targets. Give (x, y).")
        return []
    if loss is None and (not model.compiled or model.loss is None):
        notes.append(f"Loss left out: model {model.name!r} is not compiled. Compile it, or pass loss=...")
        return []
    sample_loss(model, loss)
    results = [_evaluated(model, own, batches, model.loss if loss is None else loss) for own in (model, small)]
    names = sorted(results[0], key=lambda name: name != "loss")
    return [_row(name, results[0][name], results[1][name]) for name in names]


def _evaluated(model: keras.Model, own: keras.Model, batches: Any, loss: Any) -> dict[str, float]:
    """Evaluates `own` with the loss and the metrics of `model`, through a model of its own that holds their state."""
    view = _uncompiled(own)
    known = model._compile_config.config if model.compiled and model._compile_config is not None else {}
    metrics, weighted = (tree.map_structure(_fresh, known.get(key)) for key in ("metrics", "weighted_metrics"))
    if not metrics and not weighted and _is_cross_entropy(loss):
        metrics = ["accuracy"]
    view.compile(
        loss=loss, metrics=metrics, weighted_metrics=weighted, loss_weights=known.get("loss_weights"), jit_compile=False
    )
    structure = functional(own)._inputs_struct
    results: dict[str, Any] = {}
    for number, batch in enumerate(batches):
        check_classes(model, batch.targets, loss)
        part = (tree.pack_sequence_as(structure, batch.inputs), batch.targets, batch.weights)
        if not number:
            # Builds metrics and the compiled step, which then counts on from batch to batch.
            view.test_on_batch(*part)
            view.reset_metrics()
        results = view.test_function(iter([part]))
    return {name: float(value) for name, value in results.items()}


def _fresh(metric: Any) -> Any:
    """A metric object counts on from where it is, so a new one of the same settings is used."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _is_cross_entropy(loss: Any) -> bool:
    try:
        loss = keras.losses.get(loss)
    except (ValueError, TypeError):
        return False
    name = getattr(loss, "name", None) or getattr(loss, "__name__", "")
    return "crossentropy" in name


def _difference_row(model: keras.Model, small: keras.Model, batches: Any, shapes: list, notes: list[str]) -> Row:
    if batches is None:
        batch = fixed_batch(model) or 32
        notes.append(f"Outputs were compared on {batch} random samples.")
        batches = [Batch(random_inputs(model, batch, shapes=shapes), None, None)]
    calls: list[Callable] = []
    largest = difference = 0.0
    for batch in batches:
        tensors = list(map(tf.constant, batch.inputs))
        any_batch = fixed_batch(model) is None
        calls = calls or [_traced(own, tensors, any_batch=any_batch) for own in (model, small)]
        for one, other in zip(*(call(*tensors) for call in calls), strict=True):
            one, other = (np.asarray(keras.ops.convert_to_numpy(output), np.float64) for output in (one, other))
            # np.maximum passes NaN on, max() may not.
            largest = float(np.maximum(largest, np.abs(one).max()))
            difference = float(np.maximum(difference, np.abs(one - other).max()))
    return Row("largest output difference", None, difference, difference / largest if largest else None)
