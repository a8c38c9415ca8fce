"""Repairs a cut model reader by reader, in the order of the graph, each on what the repaired part before it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from tfprune.borders import warn
from tfprune.data import as_batches
from tfprune.graph import UnitGraph
from tfprune.masking.steps import pieces
from tfprune.repair.gates import is_gated, refit_gates
from tfprune.repair.moments import Moments, fit, row_sums
from tfprune.repair.readers import MOST_COLUMNS, Reading, picked_positions
from tfprune.repair.rules import Channels, Repair, affine, least_squares
from tfprune.repair.samples import Fit, warn_of_few_samples
from tfprune.surgery.activations import Activations, Program
from tfprune.surgery.editing import can_get_bias
from tfprune.surgery.rebuild import Cut
from tfprune.surgery.sites import Addition, Followers, Site, batch_size_for, find_sites

_MOST_BYTES = 2**30


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
        if self.new.bias is None:
            self.norm.moving_mean.assign_sub(constant)
        else:
            self.new.add_to_bias(constant)


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
        warns: whether to warn where samples are too few.
    """

    def __init__(self, cut: Cut, repair: Repair, data: Any, *, sequential: bool, warns: bool = True):
        self._cut = cut
        self._repair = repair
        self._data = data
        self._sequential = sequential
        self._warns = warns
        self._num_samples: int | None = None
        self._fits: list[Fit] = []
        self._followers = Followers(cut)
        self._later: tuple[set, set] = (set(), set())
        self._pending: set[int] = set()

    def run(self) -> None:
        """Repairs every site that the cut has changed anything for.

        What refits kernels refits those behind a block that is gone, too.
        """
        sites = find_sites(self._cut)
        self._followers.watch(sites)
        _warn_of_unread(self._cut, sites, self._repair.name)
        if self._repair.needs_data:
            self._open(sites)
        done: set[Site] = set()
        changed: set[Site] = set()
        for site in sites:
            norm = self._followers.batch_norm(site)
            new_norm = None if norm is None else self._cut.operations[id(norm)]
            kernels = [Kernel(self._cut, old, new, new_norm) for old, new in site.kernels]
            lost = any(not kernel.rows.all() for kernel in kernels)
            other = site.behind_gone or site.before & changed
            if lost or (self._repair.refits and self._sequential and other):
                self._plan(sites, done | {site})
                self._pending = {id(other.new) for other in sites if other not in done}
                self._site(site, kernels, done)
                changed.add(site)
            done.add(site)
        if self._warns and self._num_samples is not None:
            warn_of_few_samples(f"repair {self._repair.name!r}", self._num_samples, self._fits)

    def _open(self, sites: list[Site]) -> None:
        """Makes ready what runs the data through both models."""
        size = min((batch_size_for(site) for site in sites), default=1)
        batches = as_batches(self._data, self._cut.graph.model, batch_size=size, targets="ignore")
        if isinstance(self._data, tf.data.Dataset):
            # It may come in another order each time, but both models must see the same samples side by side.
            batches = list(pieces(batches, size, lambda targets: None))
        self._old = Activations(Program(self._cut.graph.model), batches, _MOST_BYTES)
        self._new = Activations(Program(self._cut.model), batches, _MOST_BYTES)

    def _plan(self, sites: list[Site], done: set[Site]) -> None:
        """Notes which tensors the sites that are still to come will ask for."""
        if self._repair.needs_data:
            rest = [site for site in sites if site not in done]
            self._later = tuple(
                {key for site in rest for call in program.calls_of(nodes(site)) for key in call.reads.values()}
                for program, nodes in (
                    (self._old.program, lambda site: site.old_nodes),
                    (self._new.program, lambda site: site.new_nodes),
                )
            )

    def _site(self, site: Site, kernels: list[Kernel], done: set[Site]) -> None:
        if self._repair.refits and is_gated(site.old):
            refit_gates(
                kernels, lambda: ((_tensors(old), _tensors(new), odd) for old, new, _, odd in self._stream(site))
            )
            return
        addition = self._followers.addition(site, done) if self._repair.refits and self._sequential else None
        for kernel in kernels:
            if not kernel.rows.all() and kernel.old.refusal is not None and not self._repair.refits:
                raise ValueError(
                    f"repair: {self._repair.name!r} cannot be used on {site.name!r}: {kernel.old.refusal}. Use "
                    "repair='least_squares' or 'zero', or reset_after=True."
                )
            width = kernel.original.shape[0] * int(kernel.rows.sum())
            if self._repair.refits and kernel.old.regressors is not None and width <= MOST_COLUMNS:
                # Of attention only the last kernel gives out what is added.
                self._refit(site, kernel, addition if kernel is kernels[-1] else None)
            elif self._repair.refits or not kernel.rows.all():
                self._guess(site, kernel)

    def _refit(self, site: Site, kernel: Kernel, addition: Addition | None) -> None:
        """Refits the whole kernel to the products of the original."""
        outputs = np.flatnonzero(kernel.outputs)

        def rows(old: dict, new: dict, extra: Any) -> tuple[Any, Any]:
            x = self._left(kernel, kernel.old.source(old), kernel.new.source(new), kernel.old.regressors)
            z = tf.gather(kernel.old.products(kernel.old.source(old)), outputs, axis=1)
            return x, z if extra is None else z + _rows_like(extra, z)

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

    def _stream(self, site: Site, addition: Addition | None = None) -> Iterator[tuple[dict, dict, Any, int]]:
        """Yields for every batch and call of the site the arguments, `(old, new)`, and what an addition asks for.

        Last comes 1 where the first sample of the batch has an odd number, so that halves do not hang on the batches.
        """
        others = [] if addition is None else addition.others
        sides = []
        for side, nodes, activations in (
            (0, site.old_nodes, self._old),
            (1, site.new_nodes, self._new),
        ):
            program = activations.program
            calls, makers = program.calls_of(nodes), program.calls_of(pair[side] for pair in others)
            wanted = {key for call in calls for key in call.reads.values()}
            wanted.update(call.writes[0] for call in makers)
            pending = self._pending if side else set()
            sides.append((calls, makers, activations.values(wanted, self._later[side], pending)))
        (old_calls, old_makers, old_values), (new_calls, new_makers, new_values) = sides
        odd = num_samples = 0
        for old, new in zip(old_values, new_values, strict=True):
            extra = None
            if addition is not None:
                errors = [old[call.writes[0]] for call in old_makers], [new[call.writes[0]] for call in new_makers]
                extra = _compensation(addition, *errors, self._cut)
            for one, other in zip(old_calls, new_calls, strict=True):
                yield self._cut_beside(one.node, one.named_arguments(old)), other.named_arguments(new), extra, odd
            length = keras.tree.flatten(_tensors(one.named_arguments(old)))[0].shape[0]
            odd, num_samples = (odd + length) % 2, num_samples + length
        self._num_samples = num_samples

    def _cut_beside(self, node: Any, arguments: dict) -> dict:
        """Takes what is kept along axes of units that a dense layer does not contract over: other rows of its input."""
        if type(node.operation) not in (layers.Dense, layers.EinsumDense, layers.TimeDistributed):
            return arguments
        records = self._cut.graph.records
        tensor = node.input_tensors[0]
        contracted = {exit.axis for exit in records.exits if exit.node is node and exit.tensor is tensor}
        name, value = next(iter(arguments.items()))
        for axis, ids in enumerate(records.signals[id(tensor)].axes):
            if ids is not None and axis not in contracted:
                value = tf.gather(value, np.flatnonzero(self._cut.kept(ids)), axis=axis)
        return {**arguments, name: value}

    def _moments(self, site: Site, rows: Callable, shape: tuple, addition: Addition | None) -> tuple[Moments, Moments]:
        """Streams the data once; returns the moments of two halves of the samples."""
        halves = Moments.zero(*shape), Moments.zero(*shape)
        for old, new, extra, odd in self._stream(site, addition):
            num_samples = keras.tree.flatten(_tensors(old))[0].shape[0]
            x, z = rows(old, new, extra)
            for half, sums in zip(halves, _halved_sums(x, z, num_samples, odd), strict=True):
                half.add(sums)
        if self._repair in (affine, least_squares):
            rows = int(sum(half.count for half in halves))
            self._fits.append(Fit(site.name, rows, shape[0]))
        return halves


def _warn_of_unread(cut: Cut, sites: list[Site], name: str) -> None:
    """Says where removed units are read by a kernel that no repair knows: there they count as zero."""
    known = {id(node) for site in sites for node in site.old_nodes}
    known |= cut.removal.nodes
    exits = [exit for exit in cut.graph.records.exits if exit.kernel and id(exit.node) not in known]
    unread = sorted({exit.name for exit in exits if not cut.kept(exit.ids).all()})
    if unread:
        warn(
            f"repair {name!r}: the kernels of {', '.join(map(repr, unread))} have a form that no repair knows, so the "
            "units removed there count as zero."
        )


def _halved_sums(x: Any, z: Any, num_samples: int, odd: int) -> list[tuple]:
    """Returns the sums over the rows of every other sample, and over those of the rest.

    Of a sample with very many rows some are picked.
    """
    per_sample = x.shape[0] // num_samples
    x, z = (tf.reshape(own, [num_samples, per_sample, own.shape[-1]]) for own in (x, z))
    picked = picked_positions(per_sample)
    if picked is not None:
        x, z = tf.gather(x, picked, axis=1), tf.gather(z, picked, axis=1)
    return [
        row_sums(tf.reshape(x[k::2], [-1, x.shape[-1]]), tf.reshape(z[k::2], [-1, z.shape[-1]])) for k in (odd, 1 - odd)
    ]


def _rows_like(extra: Any, rows: Any) -> Any:
    """Returns `extra`, shape `(samples, positions, outputs)`, for the positions that `rows` has: all or picked ones."""
    picked = picked_positions(extra.shape[1])
    if picked is not None and extra.shape[0] * extra.shape[1] != rows.shape[0]:
        extra = tf.gather(extra, picked, axis=1)
    return tf.reshape(extra, [-1, extra.shape[-1]])


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
    return tf.reshape(total, [total.shape[0], -1, total.shape[-1]])


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
        if followers.batch_norm(site) is not None or not can_get_bias(site.old):
            continue
        lost = any(not Kernel(probe, old, new, None).rows.all() for old, new in site.kernels)
        if lost and any(old.bias is None for old, _ in site.kernels):
            result.add(id(site.old))
    return result
