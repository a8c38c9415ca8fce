"""What a row of the layer table sees: one call of one operation, with ids in place of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from tfprune.graph.batch import Batch, batch_of
from tfprune.graph.checks import check_weight, named
from tfprune.graph.ids import NOTHING, Ids
from tfprune.graph.probe import is_elementwise

Axes = tuple[np.ndarray | None, ...]
"""The ids along each axis of a tensor or weight; None for an axis that nothing tracks (batch, space, model inputs)."""


@dataclass(frozen=True, eq=False)
class Signal:
    """A tensor of the graph as a row sees it.

    Attributes:
        tensor: the graph's symbolic tensor.
        axes: ids per axis.
        shape: length per axis, None where unknown.
        real_axes: for each axis, which axis of `tensor` it is (they differ inside TimeDistributed).
    """

    tensor: Any
    axes: Axes
    shape: tuple[int | None, ...]
    real_axes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def axis(self, axis: int) -> int:
        """Returns `axis` counted from the front."""
        return axis % self.rank

    def replaced(self, axis: int, ids: np.ndarray | None) -> Axes:
        """Returns the axes of this signal with `ids` along `axis`."""
        axis = self.axis(axis)
        return (*self.axes[:axis], ids, *self.axes[axis + 1 :])

    def without(self, axis: int) -> Signal:
        """Returns this signal as seen by a layer that does not see `axis`."""
        drop = self.axis(axis)
        take = [k for k in range(self.rank) if k != drop]
        return Signal(
            self.tensor,
            tuple(self.axes[k] for k in take),
            tuple(self.shape[k] for k in take),
            tuple(self.real_axes[k] for k in take),
        )


def signal_of(tensor: Any, axes: Sequence[np.ndarray | None]) -> Signal:
    """Returns the signal of a whole graph tensor."""
    return Signal(tensor, tuple(axes), tuple(tensor.shape), tuple(range(len(tensor.shape))))


@dataclass(frozen=True, eq=False)
class Exit:
    """A place where an operation contracts over units: `node` reads `tensor` along `axis`, whose positions are `ids`.

    `operation` is the reader's layer and `name` its name. `tensor` is None where the place lies inside the layer (the
    state of a recurrent layer, the heads of attention); the layer's twin masks those. `kernel` is False for a norm that
    sums over units without a kernel: nothing but zero can stand in for a unit there. `batch` says where the samples lie
    in `tensor`.
    """

    node: Any
    operation: Any
    name: str
    tensor: Any
    axis: int
    ids: np.ndarray
    kernel: bool = True
    batch: Batch = Batch()


@dataclass(frozen=True, eq=False)
class Spot:
    """Where units can be looked at: `axis` of `tensor`, behind the operations that follow the layer that makes them."""

    tensor: Any
    axis: int
    behind: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Emitter:
    """A layer whose kernel makes the units `ids`.

    Attributes:
        trails: for each node that calls it, where its units show: in what it gives out, then behind each layer that
            alone reads what came before; empty where they show in no tensor.
    """

    operation: Any
    name: str
    ids: np.ndarray
    trails: dict[Any, list[Spot]] = field(default_factory=dict)

    @property
    def homes(self) -> tuple[Spot, ...]:
        """Where to look at the units: a spot for each call, as far behind it as all calls are followed alike."""
        calls = [node for node, own in self.trails.items() if own]
        if len(calls) > 1:
            calls.sort(key=lambda node: node.operation._inbound_nodes.index(node))
        trails = [self.trails[node] for node in calls]
        alike = 0
        for spots in list(zip(*trails, strict=False))[1:]:
            if not all(_does_the_same(spot.behind[-1], spots[0].behind[-1]) for spot in spots):
                break
            alike += 1
        return tuple(own[alike] for own in trails)


def _does_the_same(one: Any, other: Any) -> bool:
    """Whether two operations are one, or layers without weights of one class, one activation and one config."""
    if one is other:
        return True
    if type(one) is not type(other) or not isinstance(one, keras.Layer) or one.weights or other.weights:
        return False
    if isinstance(one, keras.layers.Activation):
        return one.activation is other.activation
    try:
        mine, theirs = one.get_config(), other.get_config()
        return bool({**mine, "name": ""} == {**theirs, "name": ""})
    except Exception:  # Whatever a stranger's configuration raises, it cannot be said that both are alike.
        return False


@dataclass(frozen=True, eq=False)
class WeightAxes:
    """The ids along each axis of one weight, and what else a cut does to its numbers.

    `rescale`, if given, takes `kept` (one flag per position of the last tracked axis) and returns a factor.
    """

    variable: Any
    axes: Axes
    rescale: Callable[[np.ndarray], float] | None = None


@dataclass(frozen=True, eq=False)
class Edit:
    """A size inside a layer's config, or inside the arguments of one call, that follows how many of `ids` are kept.

    `change` takes the size as it is, and for each of `ids` how many positions are to stand in its place: bool, kept or
    not, in a cut; whole numbers where units are added, behind the position with more than one.
    """

    path: tuple[str | int, ...]
    ids: np.ndarray
    change: Callable[[Any, np.ndarray], Any]


@dataclass(frozen=True, eq=False)
class Twin:
    """The layer class that stands in for an operation in a masked model, and the ids of each mask row that it takes.

    `name` is that of the operation.
    """

    layer_class: type
    ids: tuple[np.ndarray, ...]
    name: str = ""


@dataclass
class Records:
    """Everything the rows say while a model is read."""

    ids: Ids = field(default_factory=Ids)
    exits: list[Exit] = field(default_factory=list)
    emitters: dict[tuple[int, str], Emitter] = field(default_factory=dict)
    made: dict[int, list[Emitter]] = field(default_factory=dict)
    weights: dict[int, WeightAxes] = field(default_factory=dict)
    edits: dict[int, dict[tuple, Edit]] = field(default_factory=dict)
    call_edits: dict[int, list[Edit]] = field(default_factory=dict)
    twins: dict[int, Twin] = field(default_factory=dict)
    signals: dict[int, Signal] = field(default_factory=dict)
    walls: dict[str, str] = field(default_factory=dict)
    equal: list[tuple[np.ndarray, np.ndarray, str]] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)
    uniform: set[tuple[int, int]] = field(default_factory=set)
    batches: dict[int, tuple[Any, Batch | None]] = field(default_factory=dict)
    picks: dict[int, np.ndarray] = field(default_factory=dict)
    blocks: dict[int, np.ndarray] = field(default_factory=dict)
    not_in_blocks: frozenset[int] = frozenset()


def count_kept(old: Any, kept: np.ndarray) -> Any:
    """The usual change of a size: the number of kept positions (a size that is left open stays open)."""
    return old if old in (None, -1) else int(kept.sum())


class Step:
    """One call of one operation. A row asks for ids, says where they meet and where they are contracted."""

    def __init__(self, records: Records, node: Any, name: str, operation: Any = None, prefix: tuple[str, ...] = ()):
        self.records = records
        self.node = node
        self.operation = node.operation if operation is None else operation
        self.name = name
        self._prefix = prefix

    @property
    def config(self) -> dict:
        """The operation's own `get_config()`."""
        return self.operation.get_config()

    def inner(self, operation: Any, *prefix: str) -> Step:
        """Returns the step of a layer inside this one, whose config lies below the keys `prefix`."""
        return Step(self.records, self.node, self.name, operation, (*self._prefix, *prefix))

    def emit(self, count: int, slot: str = "") -> np.ndarray:
        """Returns the ids of the `count` units that this layer makes; the same ids at every call of the layer."""
        key = (id(self.operation), slot)
        if key not in self.records.emitters:
            name = f"{self.name}/{slot}" if slot else self.name
            self.records.emitters[key] = Emitter(self.operation, name, self.records.ids.new(count))
        emitter = self.records.emitters[key]
        if self.node not in emitter.trails:
            emitter.trails[self.node] = []
            self.records.made.setdefault(id(self.node), []).append(emitter)
        return emitter.ids

    def fix(self, ids: np.ndarray | None, reason: str) -> None:
        """Says that these units must stay."""
        self.records.ids.fix(ids, f"{self.name}: {reason}")

    def fix_axes(self, signal: Signal, reason: str, *, keep: Sequence[int] = ()) -> None:
        """Fixes every axis of `signal` except those in `keep`."""
        spared = {signal.axis(axis) for axis in keep}
        for axis, ids in enumerate(signal.axes):
            if axis not in spared:
                self.fix(ids, reason)

    def unite(self, one: np.ndarray | None, other: np.ndarray | None, reason: str | None = None) -> np.ndarray | None:
        """Says that two axes meet position by position; returns what comes out."""
        return self.records.ids.unite(one, other, f"{self.name}: {reason or 'meets something that is not a unit'}")

    def contract(self, signal: Signal, axis: int = -1, *, kernel: bool = True) -> np.ndarray | None:
        """Says that this operation sums over `axis` of `signal`: an exit of its units. Returns their ids.

        `kernel` is False where the sum is no weighted one (the length that a norm divides by).
        """
        axis = signal.axis(axis)
        ids, real_axis = signal.axes[axis], signal.real_axes[axis]
        batch = self.batch(signal)
        if batch is None or batch.axis == real_axis:
            self.fix(ids, "it sums over them where there is no batch axis")
        elif ids is not None:
            self.records.exits.append(
                Exit(self.node, self.operation, self.name, signal.tensor, real_axis, ids, kernel, batch)
            )
        return ids

    def batch(self, signal: Signal) -> Batch | None:
        """Returns where the samples lie in the tensor of `signal`; None if it has none, or if nobody can say."""
        return batch_of(signal.tensor, self.records.batches)

    def contract_inside(self, ids: np.ndarray, axis: int = -1) -> None:
        """Says that the operation sums over its own units inside itself (a recurrent kernel, attention's heads)."""
        self.records.exits.append(Exit(self.node, self.operation, self.name, None, axis, ids))

    def weight(
        self,
        variable: Any,
        *axes: np.ndarray | None,
        rescale: Callable[[np.ndarray], float] | None = None,
    ) -> None:
        """Gives ids to the axes of a weight; a weight that gets ids twice unites them. `variable` may be None."""
        if variable is None:
            return
        check_weight(variable, axes)
        if rescale is not None:
            rescale = named(rescale, self.operation, self.name, "a `rescale` of a weight")
        known = self.records.weights.get(id(variable))
        if known is not None:
            axes = tuple(
                self.unite(one, other, "a shared weight is read by something that is not a unit")
                for one, other in zip(known.axes, axes, strict=True)
            )
        self.records.weights[id(variable)] = WeightAxes(variable, tuple(axes), rescale)

    def size(
        self,
        path: str | tuple[str | int, ...],
        ids: np.ndarray | None,
        change: Callable[[Any, np.ndarray], Any] = count_kept,
    ) -> None:
        """Says that the config entry at `path` follows the ids: by default it is the number of kept ones."""
        if ids is None:
            return
        path = (*self._prefix, *((path,) if isinstance(path, str) else path))
        edits = self.records.edits.setdefault(id(self.node.operation), {})
        if path in edits and edits[path].ids is not ids:
            ids = self.unite(edits[path].ids, ids, "a shared layer has one size for two calls")
        edits[path] = Edit(path, ids, named(change, self.operation, self.name, f"a change of the size at {path}"))

    def argument(
        self,
        path: tuple[str | int, ...],
        ids: np.ndarray,
        change: Callable[[Any, np.ndarray], Any],
    ) -> None:
        """Says that a literal in this call's arguments follows the ids; path starts with a position or a name."""
        change = named(change, self.operation, self.name, f"a change of the argument at {path}")
        self.records.call_edits.setdefault(id(self.node), []).append(Edit(path, ids, change))

    def part(self, ids: np.ndarray) -> np.ndarray:
        """Says that these units are taken out as a tensor of their own, which must not be emptied; returns them."""
        self.records.parts.append(ids)
        return ids

    def in_blocks(self, ids: np.ndarray) -> bool:
        """Whether the units that a reshape parts go in whole blocks (the heads of attention), as far as they can."""
        if id(self.node) in self.records.not_in_blocks:
            return False
        self.records.blocks[id(self.node)] = np.unique(ids)
        return True

    def uniform(self, axis: int, output: int = 0) -> None:
        """Says that along `axis` of an output no unit differs from its neighbours (masks that were broadcast, say)."""
        self.records.uniform.add((id(self.node.outputs[output]), axis))

    def is_uniform(self, signal: Signal, axis: int) -> bool:
        """Whether the units along `axis` of `signal` hold the same numbers, so that any of them speaks for all."""
        return (id(signal.tensor), signal.real_axes[axis]) in self.records.uniform

    def picks(self, ids: np.ndarray, output: int = 0) -> None:
        """Says that the numbers in an output are places among `ids`: who takes them for anything else fixes these."""
        self.records.picks[id(self.node.outputs[output])] = ids

    def picked(self, signal: Signal) -> np.ndarray | None:
        """Returns the ids among which the numbers of `signal` are places, or None."""
        return self.records.picks.get(id(signal.tensor))

    def twin(self, layer_class: type, *ids: np.ndarray | None) -> None:
        """Says which layer stands in for this call in a masked model; untracked rows count as always on."""
        if all(row is None for row in ids):
            return
        if not isinstance(layer_class, type):
            raise ValueError(f"step.twin: expected the class of a layer, received {layer_class!r}.")
        self.records.twins[id(self.node)] = Twin(
            layer_class, tuple(np.full(0, NOTHING) if row is None else row for row in ids), self.name
        )

    def activation(self, function: Any, ids: np.ndarray | None) -> None:
        """Fixes `ids` unless the activation `function` works on each number alone."""
        if not is_elementwise(function):
            name = getattr(function, "__name__", type(function).__name__)
            self.fix(ids, f"its activation {name!r} looks across units")

    def equal(self, one: np.ndarray, other: np.ndarray, reason: str) -> None:
        """Says that a cut must leave as many of `one` as of `other`, and why."""
        self.records.equal.append((one, other, f"{self.name}: {reason}"))

    def wall(self, reason: str, signals: Sequence[Signal]) -> None:
        """Gives up on this operation: all units that enter stay, and the table says why."""
        self.records.walls[self.name] = reason
        for signal in signals:
            self.fix_axes(signal, reason)

    def untracked(self, index: int = 0) -> Axes:
        """Returns axes without ids for output number `index`."""
        return (None,) * len(self.node.outputs[index].shape)
