"""Repairs a cut model reader by reader, in the order of the graph, each on what the repaired part before it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.data import as_batches
from tfprune.graph import UnitGraph
from tfprune.repair.gates import is_gated, refit_gates
from tfprune.repair.moments import Moments, fit, row_sums
from tfprune.repair.readers import MOST_COLUMNS, Reading
from tfprune.repair.rules import Channels, Repair
from tfprune.surgery.rebuild import Cut
from tfprune.surgery.sites import Addition, Followers, Site, batch_size_for, capture, find_sites


class Kernel:
    """One kernel of a site: which of its rows and outputs are left, and where its bias goes."""

    def __init__(self, cut: Cut, old: Reading, new: Reading, norm: Any):
        self.old, self.new = old, new
        record = cut.graph.records.weights.get(id(old.kernel))
        ids = record.axes if record is not None else (None,) * len(old.kernel.shape)
        flags = [
            np.ones(length, bool) if own is None else cut.kept(own)
            for length, own in zip(old.kernel.shape, ids, strict=True)
        ]
        self.rows, self.outputs = old.view_of_rows(flags)
        self.columns = rows_of_units(cut.graph, old)
        self.norm = norm
        value = np.asarray(keras.ops.convert_to_numpy(old.kernel), "float64")
        # The original kernel, without the outputs that are gone: (taps, rows, outputs).
        self.original = old.view(value)[:, :, self.outputs]

    @property
    def has_intercept(self) -> bool:
        """Whether a constant has somewhere to go."""
        return self.new.bias is not None or self.norm is not None

    def add_constant(self, constant: np.ndarray) -> None:
        """Adds a number to every output: to the bias, or taken from the moving mean of the batch norm behind."""
        bias = self.new.bias
        if bias is None:
            self.norm.moving_mean.assign_sub(constant)
            return
        value = np.array(keras.ops.convert_to_numpy(bias), "float64")
        part = value if self.new.bias_row is None else value[self.new.bias_row]
        part += constant.reshape(part.shape)
        bias.assign(value)


def rows_of_units(graph: UnitGraph, reading: Reading) -> np.ndarray:
    """Returns the unit behind each row of a kernel's view, -1 for none; of rows on several axes, the first one's."""
    record = graph.records.weights.get(id(reading.kernel))
    shape = tuple(reading.kernel.shape)
    result = np.full(shape, -1)
    for axis, ids in enumerate(record.axes if record is not None else ()):
        first = len(shape) - 1 if reading.rows_last else reading.taps
        if ids is not None and first <= axis < first + reading.row_axes:
            along = graph.columns(ids).reshape([-1 if k == axis else 1 for k in range(len(shape))])
            result = np.where(result < 0, along, result)
    return reading.view(result)[0, :, 0]


class Repairer:
    """Applies one repair to a cut model.

    Args:
        cut: the cut model; its weights are changed in place.
        repair: what to do.
        data: the data for repairs that need it, whatever `model.fit` takes; only inputs are used.
        sequential: False fits everything to the original's own activations.
        norms: the batch norm behind a layer, by the layer's `id`, for layers whose constants go there.
    """

    def __init__(self, cut: Cut, repair: Repair, data: Any, *, sequential: bool):
        self._cut = cut
        self._repair = repair
        self._data = data
        self._sequential = sequential
        self._followers = Followers(cut)

    def run(self) -> None:
        """Repairs every site that the cut has changed anything for."""
        sites = find_sites(self._cut)
        self._followers.watch(sites)
        done: set[Site] = set()
        changed: set[Site] = set()
        for site in sites:
            norm = self._followers.batch_norm(site)
            new_norm = None if norm is None else self._cut.operations[id(norm)]
            kernels = [Kernel(self._cut, old, new, new_norm) for old, new in site.kernels]
            lost = any(not kernel.rows.all() for kernel in kernels)
            if lost or (self._repair.refits and self._sequential and site.before & changed):
                self._site(site, kernels, done)
                changed.add(site)
            done.add(site)

    def _site(self, site: Site, kernels: list[Kernel], done: set[Site]) -> None:
        if self._repair.refits and is_gated(site.old):
            refit_gates(kernels, self._stream(site, lambda old, new, *_: (_tensors(old), _tensors(new))))
            return
        addition = self._followers.addition(site, done) if self._repair.refits and self._sequential else None
        for number, kernel in enumerate(kernels):
            if not kernel.rows.all() and kernel.old.refusal is not None and not self._repair.refits:
                raise ValueError(
                    f"repair: {self._repair.name!r} cannot be used on {site.name!r}: {kernel.old.refusal}."
                )
            width = kernel.original.shape[0] * int(kernel.rows.sum())
            if self._repair.refits and kernel.old.regressors is not None and width <= MOST_COLUMNS:
                self._refit(site, kernel, addition)
            elif self._repair.refits or not kernel.rows.all():
                self._guess(site, kernel)

    def _refit(self, site: Site, kernel: Kernel, addition: Addition | None) -> None:
        """Refits the whole kernel to the products of the original."""
        outputs = np.flatnonzero(kernel.outputs)

        def rows(old: dict, new: dict, extra: Any) -> tuple[Any, Any]:
            x = self._left(kernel, kernel.old.source(old), kernel.new.source(new), kernel.old.regressors)
            z = tf.gather(kernel.old.products(kernel.old.source(old)), outputs, axis=1)
            return x, z if extra is None else z + extra

        taps, _, num_outputs = kernel.original.shape
        start = kernel.original[:, kernel.rows].reshape(-1, num_outputs)
        halves = self._moments(site, rows, start.shape, addition)
        weights, constant = fit(halves, start, intercept=kernel.has_intercept)
        kernel.new.set_kernel(weights.reshape(taps, -1, num_outputs))
        if kernel.has_intercept:
            kernel.add_constant(constant)

    def _left(self, kernel: Kernel, old: Any, new: Any, rows: Callable) -> Any:
        """Returns rows of what is left: of the cut model, or of the original's kept units."""
        if self._sequential and not kernel.old.own_state:
            return (kernel.new.regressors if rows is kernel.old.regressors else kernel.new.channels)(new)
        left = rows(old)
        taps = left.shape[-1] // len(kernel.rows)
        return tf.gather(left, np.flatnonzero(np.tile(kernel.rows, taps)), axis=1)

    def _guess(self, site: Site, kernel: Kernel) -> None:
        """Guesses the units from those that are left, and multiplies the guess into the kernel."""
        pool = _pooled(kernel)
        units = len(kernel.rows) // pool
        kept = kernel.rows[:units]
        halves = None
        if self._repair.needs_data:

            def rows(old: dict, new: dict, extra: Any) -> tuple[Any, Any]:
                source = kernel.old.source(old)
                z = tf.reshape(kernel.old.channels(source), [-1, units])
                x = self._left(kernel, source, kernel.new.source(new), kernel.old.channels)
                return tf.reshape(x, [-1, int(kept.sum())]), z

            halves = self._moments(site, rows, (int(kept.sum()), units), None)
            halves = tuple(half.padded(kernel.old.padding_share) for half in halves)
        channels = self._channels(site, kernel, kept, units, halves)
        matrix, constant = _checked_guess(self._repair.guess(channels), channels, self._repair.name)
        taps, _, num_outputs = kernel.original.shape
        original = kernel.original.reshape(taps * pool, units, num_outputs)
        kernel.new.set_kernel(np.einsum("su,tuq->tsq", matrix, original).reshape(taps, -1, num_outputs))
        change = np.einsum("u,tuq->q", constant, original)
        if kernel.has_intercept:
            kernel.add_constant(change)

    def _channels(self, site: Site, kernel: Kernel, kept: np.ndarray, units: int, halves: Any) -> Channels:
        graph = self._cut.graph
        groups: list[str | None] = [None] * units
        places = np.full(units, -1)
        for name, group in graph.items():
            inside = (kernel.columns[:units] >= group.start) & (kernel.columns[:units] < group.start + group.size)
            places[inside] = kernel.columns[:units][inside] - group.start
            for unit in np.flatnonzero(inside):
                groups[unit] = name
        return Channels(site.name, tuple(groups), places, kept, halves)

    def _stream(self, site: Site, build: Callable, addition: Addition | None = None) -> Callable:
        """Returns a function that runs the data up to the site and yields what `build` makes of each call."""
        others = [] if addition is None else addition.others
        old = capture(self._cut.graph.model, site.old_nodes, [node for node, _ in others])
        new = capture(self._cut.model, site.new_nodes, [node for _, node in others])

        def collect(inputs: list[Any]) -> list[Any]:
            old_calls, old_outputs = old(inputs)
            new_calls, new_outputs = new(inputs)
            extra = _compensation(addition, old_outputs, new_outputs, self._cut) if addition is not None else None
            return [build(one, other, extra) for one, other in zip(old_calls, new_calls, strict=True)]

        compiled = tf.function(collect, reduce_retracing=True)

        def stream() -> Any:
            size = batch_size_for(site)
            for batch in as_batches(self._data, self._cut.graph.model, batch_size=size, targets="ignore"):
                yield from compiled([tf.convert_to_tensor(x) for x in batch.inputs])

        return stream

    def _moments(self, site: Site, rows: Callable, shape: tuple, addition: Addition | None) -> tuple[Moments, Moments]:
        """Streams the data once; returns the moments of two halves of the samples."""

        def sums(old: dict, new: dict, extra: Any) -> list[Any]:
            x, z = rows(old, new, extra)
            # Neighbouring rows belong to one sample, so the halves are taken in blocks of a sample's rows.
            num_samples = tf.shape(keras.tree.flatten(_tensors(old))[0])[0]
            per_sample = tf.shape(x)[0] // num_samples
            even = (tf.range(tf.shape(x)[0]) // tf.maximum(per_sample, 1)) % 2 == 0
            return [row_sums(x[even], z[even]), row_sums(x[~even], z[~even])]

        halves = Moments.zero(*shape), Moments.zero(*shape)
        for pair in self._stream(site, sums, addition)():
            for half, new in zip(halves, pair, strict=True):
                half.add(new)
        return halves


def _tensors(arguments: dict) -> dict:
    """Returns the arguments that are tensors: those that may leave a compiled function."""
    return {
        name: value
        for name, value in arguments.items()
        if value is not None and all(tf.is_tensor(leaf) for leaf in keras.tree.flatten(value))
    }


def _pooled(kernel: Kernel) -> int:
    """Returns how many positions of a flattened tensor the rows of a kernel run through, unit by unit; 1 if none."""
    columns = kernel.columns
    if (columns < 0).any() or not len(columns):
        return 1
    units = len(np.unique(columns))
    tiled = len(columns) % units == 0 and np.array_equal(columns, np.tile(columns[:units], len(columns) // units))
    return len(columns) // units if tiled else 1


def _compensation(addition: Addition, old: list[Any], new: list[Any], cut: Cut) -> Any:
    """Returns what the site's output must make up for, as the error that the other addends bring, before the norm."""
    total = None
    for (node, _), one, other in zip(addition.others, old, new, strict=True):
        signal = cut.graph.records.signals[id(node.outputs[0])]
        ids = signal.axes[-1]
        kept = np.arange(one.shape[-1]) if ids is None else np.flatnonzero(cut.kept(ids))
        error = tf.gather(one, kept, axis=-1) - other
        total = error if total is None else total + error
    if addition.norm is not None:
        new_norm = cut.operations[id(addition.norm)]
        scale = tf.math.rsqrt(new_norm.moving_variance.value + new_norm.epsilon)
        scale = scale if new_norm.gamma is None else scale * new_norm.gamma.value
        # A channel that the norm all but switches off cannot make up for anything.
        small = tf.abs(scale) < 1e-3 * tf.reduce_max(tf.abs(scale))
        total = tf.where(small, 0.0, total / tf.where(small, 1.0, scale))
    return tf.reshape(total, [-1, total.shape[-1]])


def _checked_guess(guess: Any, channels: Channels, name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        matrix, constant = (np.asarray(part, "float64") for part in guess)
    except (TypeError, ValueError) as error:
        raise ValueError(f"repair {name!r}: expected a pair (A, c) for {channels.reader!r}.") from error
    units, left = len(channels.kept), int(channels.kept.sum())
    if matrix.shape != (left, units) or constant.shape != (units,):
        raise ValueError(
            f"repair {name!r}: expected A of shape {(left, units)} and c of shape {(units,)} for {channels.reader!r}, "
            f"received {matrix.shape} and {constant.shape}."
        )
    if not (np.isfinite(matrix).all() and np.isfinite(constant).all()):
        raise ValueError(f"repair {name!r}: A or c for {channels.reader!r} is not finite.")
    return matrix, constant


def needs_bias(graph: UnitGraph, on: np.ndarray) -> set[int]:
    """Returns the `id`s of the layers that must get a bias, because a constant has nowhere else to go."""
    probe = Cut(graph, on)
    followers = Followers(probe)
    result = set()
    for site in find_sites(probe):
        if followers.batch_norm(site) is not None or "use_bias" not in site.old.get_config():
            continue
        lost = any(not Kernel(probe, old, new, None).rows.all() for old, new in site.kernels)
        if lost and any(old.bias is None for old, _ in site.kernels) and type(site.old) is not layers.Bidirectional:
            result.add(id(site.old))
    return result
