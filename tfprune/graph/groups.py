"""Units and groups: what a reading of a model means for those who mask, score and cut."""

from __future__ import annotations

import difflib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfprune.borders import names_of, public
from tfprune.graph.blocks import BLOCKS, Block, Removal, find_blocks
from tfprune.graph.grouping import fixed_layers, group_units
from tfprune.graph.ids import NOTHING
from tfprune.graph.members import Group, Home, Member
from tfprune.graph.nodes import name_of
from tfprune.graph.read import read
from tfprune.graph.step import Records
from tfprune.graph.told import tell_input_shapes
from tfprune.units import check_flags, check_like, describe_unknown


class UnitGraph(Mapping[str, Group]):
    """The units of a model: a mapping from group name to `Group`, in the order of the graph. Prints as a table.

    The residual branches of a model are units of one more group, `blocks`, whose columns come last. A whole block is
    worth far more than a unit, so that this group is not gone through with the others and is looked at only where it is
    named: `graph["blocks"]`, or `layers=[*graph, "blocks"]`.

    Attributes:
        model: the model that was read.
        names: the names of the groups.
        num_units: the number of units in all groups but the blocks.
        fixed: for every layer with units that cannot be removed, `name -> (how many, why)`.
        walls: for every operation that could not be read, `name -> why`.
    """

    def __init__(self, model: keras.Model, records: Records):
        self.model = model
        self.records = records
        self.walls = dict(records.walls)
        labels, reasons = records.ids.resolve()
        removable = np.ones(len(labels), bool)
        removable[list(reasons)] = False
        groups, order = group_units(records, labels, removable)
        self._column_of_label = np.full(len(labels), -1)
        self._column_of_label[order] = np.arange(len(order))
        self._labels = labels
        self.num_units = len(order)
        self._groups: dict[str, Group] = {}
        starts = np.cumsum([0, *(len(units) for _, _, units in groups)])
        exits = self._exits_by_group(starts)
        parameters = self._parameters_of_units()
        for (name, emitters, units), start, read_by in zip(groups, starts.tolist(), exits, strict=False):
            self._groups[name] = Group(
                name=name,
                size=len(units),
                start=start,
                members=tuple(self._member(emitter, start, len(units)) for emitter in emitters),
                exits=read_by,
                parameters_per_unit=float(parameters[start : start + len(units)].mean()),
            )
        self.fixed = fixed_layers(records, labels, reasons, removable)

    def __getitem__(self, name: str) -> Group:
        if name == self.blocks_name and self.blocks:
            return self._group_of_blocks
        if name not in self._groups:
            raise KeyError(self.unknown(name))
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the groups, in the order of the graph."""
        return tuple(self._groups)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of units by group name, without the blocks: what `LayerValues.from_flat` wants."""
        return {name: group.size for name, group in self._groups.items()}

    @property
    def sizes_with_blocks(self) -> dict[str, int]:
        """Number of units by group name, the blocks last."""
        return {**self.sizes, **({self.blocks_name: len(self.blocks)} if self.blocks else {})}

    @functools.cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The residual branches that can go, in the order of the graph."""
        return find_blocks(self.model)

    @property
    def blocks_name(self) -> str:
        """The name of the group of blocks."""
        return BLOCKS if BLOCKS not in self._groups else f"residual_{BLOCKS}"

    @property
    def num_columns(self) -> int:
        """The number of units in all groups, and of blocks."""
        return self.num_units + len(self.blocks)

    @functools.cached_property
    def _group_of_blocks(self) -> Group:
        members = tuple(Member(own.name, own.addition.operation, (), np.zeros(0, int)) for own in self.blocks)
        weights = {id(own): math.prod(own.shape) for own in self.model.weights}
        gone = [Removal(self.model, [own]).variables for own in self.blocks]
        mean = float(np.mean([sum(weights.get(key, 0) for key in own) for own in gone]))
        return Group(self.blocks_name, len(members), self.num_units, members, (), mean)

    @functools.cached_property
    def layers_of_blocks(self) -> dict[str, list[int]]:
        """The columns of the blocks in each layer that holds blocks, by its path; one in no such layer stands alone.

        A layer holds blocks if it is one of the model's own that was opened, and all of it is in them.
        """
        around = [_layer_around(block) for block in self.blocks]
        found: dict[str, list[int]] = {}
        for number, name in enumerate(around):
            # A layer may leave one of its additions to a layer of its own.
            outer = [own for own in around if name.startswith(f"{own}/")]
            alone = outer and {own for own in around if own.startswith(f"{outer[0]}/")} == {name}
            found.setdefault(outer[0] if alone else name, []).append(self.num_units + number)
        return found

    def removal(self, on: np.ndarray) -> Removal:
        """Returns what goes with the blocks that are off; `on` of shape `(num_units,)` has none of them off."""
        off = np.flatnonzero(~on[self.num_units :]) if len(on) > self.num_units else ()
        return Removal(self.model, [self.blocks[number] for number in off])

    def columns(self, ids: np.ndarray) -> np.ndarray:
        """Returns the column of `on_nodes` for each of `ids`; -1 for a position that cannot be switched off."""
        return np.where(ids == NOTHING, -1, self._column_of_label[self._labels[ids]])

    def kept(self, ids: np.ndarray, on: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` whether it stays when the units `on`, shape `(num_units,)` of bool, stay."""
        columns = self.columns(ids)
        # The entry behind the last one answers for the -1 of a position without a unit.
        return np.append(on, True)[columns]

    def on_nodes(self, mask: Mapping[str, np.ndarray]) -> np.ndarray:
        """Returns a mask as the row that the input `on_nodes` of `with_on_nodes(model)` takes.

        Args:
            mask: one array per group, of bool or numbers, in any order; groups that it leaves out are on.

        Returns:
            Shape `(1, num_units)`, float32, in the order of the graph; with blocks in the mask they come last, as in
            `with_on_nodes(model, [*graph, "blocks"])`.

        Raises:
            TypeError: if it is no mapping, or holds integers other than 0 and 1.
            ValueError: if a group is unknown or of another length.
        """
        for name in mask if isinstance(mask, Mapping) else ():
            if name not in self:
                raise ValueError(self.unknown(name))
        mask = check_like(mask, self.sizes_with_blocks, "mask", partial=True)
        for name, own in mask.items():
            if own.dtype.kind in "iu":
                check_flags(own, f"The mask of group {name!r}")
        sizes = self.sizes_with_blocks if self.blocks_name in mask else self.sizes
        rows = [np.asarray(mask.get(name, np.ones(size)), "float32") for name, size in sizes.items()]
        return np.concatenate([np.zeros(0, "float32"), *rows])[None]

    def choose(self, layers: Iterable[str] | str | None, *, blocks: bool = False) -> tuple[str, ...]:
        """Returns the names of the groups that `layers` means, in the order of the graph.

        Args:
            layers: names of groups, of member layers, or of a layer or model that holds these (a Bidirectional); None
                for all groups but the blocks. A layer that makes several groups (`first`, `first#2`) names them all,
                and `first#1` the first of them alone.
            blocks: whether the group of blocks may be named.

        Raises:
            TypeError: if something else than names is given, such as a layer.
            ValueError: if a name is unknown, or its units cannot be removed; the message says why.
        """
        if layers is None:
            return self.names
        chosen, last = set(), ()
        for name in names_of(layers, "layers"):
            if name in (self.blocks_name, f"{self.blocks_name}#1") and self.blocks:
                if not blocks:
                    raise ValueError(self.unknown(self.blocks_name))
                last = (self.blocks_name,)
                continue
            found = [group.name for group in self.values() if name in (group.name, *(m.name for m in group.members))]
            if name.endswith("#1") and name[:-2] in self:
                found = [name[:-2]]
            found = found or [g.name for g in self.values() if any(m.name.startswith(f"{name}/") for m in g.members)]
            if not found:
                raise ValueError(self.unknown(name))
            chosen.update(found)
        return (*(name for name in self.names if name in chosen), *last)

    def unknown(self, name: str) -> str:
        """Returns the message for a name that is no group: what is wrong with it, and what was perhaps meant."""
        known = f"Groups with removable units: {', '.join(self.names) or 'none'}."
        if not isinstance(name, str):
            return f"layers: {describe_unknown([name], self.names)}"
        if name == self.blocks_name and self.blocks:
            return (
                f"layers: the units of {name!r} are whole blocks, which have no numbers of their own to look at. Score "
                "them by loss_change or on_nodes_gradient; sweep, with_on_nodes, keep_budget, keep_top and remove take "
                "them, too."
            )
        if name in self.fixed:
            return f"layers: the units of {name!r} cannot be removed ({self.fixed[name][1]}). {known}"
        made = {group.name: [member.name for member in group.members] for group in self.values()}
        holders = [group for group, own in made.items() if any(f"{one}/".startswith(f"{name}/") for one in own)]
        if holders:
            return f"layers: the units of layer {name!r} are in the group {', '.join(map(repr, holders))}. {known}"
        if name in {layer.name for layer in self.model._flatten_layers()}:
            return f"layers: layer {name!r} makes no units that can be removed. {known}"
        near = difflib.get_close_matches(str(name), self.names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"layers: {name!r} is not a layer of model {self.model.name!r}.{hint} {known}"

    def _member(self, emitter: Any, start: int, size: int) -> Member:
        homes = []
        for spot in emitter.homes:
            ids = self.records.signals[id(spot.tensor)].axes[spot.axis]
            own = self.units_along(ids, start, size, emitter.ids)
            homes.append(Home(spot.tensor, spot.axis, self.units_along(ids, start, size), own, spot.behind))
        return Member(emitter.name, emitter.operation, tuple(homes), emitter.ids)

    def units_along(self, ids: np.ndarray, start: int, size: int, own: np.ndarray | None = None) -> np.ndarray:
        """Returns for each position of an axis the unit of a group that it holds, -1 for none.

        Args:
            ids: of the axis.
            start: the group's first column.
            size: how many units it has.
            own: ids of a layer, whose positions alone count if they hold all units; None for all positions.
        """
        columns = self.columns(ids) - start
        units = np.where((columns >= 0) & (columns < size), columns, -1)
        if own is None:
            return units
        alone = np.where(np.isin(ids, own), units, -1)
        return alone if np.isin(np.arange(size), alone).all() else units

    def _exits_by_group(self, starts: np.ndarray) -> list[tuple[str, ...]]:
        names: list[dict[str, None]] = [{} for _ in starts]
        for exit in self.records.exits:
            columns = self.columns(exit.ids)
            for number in np.unique(np.searchsorted(starts, columns[columns >= 0], side="right") - 1).tolist():
                names[number][exit.name] = None
        # Units that nothing else reads may be read by what looks across them.
        unread = [not own for own in names]
        for twin in self.records.twins.values():
            columns = self.columns(np.concatenate(twin.ids))
            for number in np.unique(np.searchsorted(starts, columns[columns >= 0], side="right") - 1).tolist():
                if unread[number]:
                    names[number][twin.name] = None
        return [tuple(own) for own in names]

    def _parameters_of_units(self) -> np.ndarray:
        """Weights that go with each unit.

        Of a weight with `n` positions on an axis, `c` of them the unit's, it is prod(n) - prod(n - c).
        """
        total = np.zeros(self.num_units)
        for weight in self.records.weights.values():
            shape = weight.variable.shape
            columns = [np.zeros(0, int) if ids is None else self.columns(ids) for ids in weight.axes]
            columns = [np.sort(own[own >= 0]) for own in columns]
            if _all_different(columns):
                for own, length in zip(columns, shape, strict=True):
                    total[own] += math.prod(shape) // max(length, 1)
                continue
            units = np.unique(np.concatenate(columns))
            counts = [np.bincount(np.searchsorted(units, own), minlength=len(units)) for own in columns]
            left = np.prod([length - count for length, count in zip(shape, counts, strict=True)], axis=0)
            total[units] += math.prod(shape) - left
        return total

    def __repr__(self) -> str:
        table = Table(title=f"Units of {self.model.name!r}: {self.num_units} in {len(self)} groups")
        for column in ("group", "units", "made by", "read by", "parameters per unit"):
            table.add_column(column, justify="right" if column in ("units", "parameters per unit") else "left")
        for group in self.values():
            table.add_row(
                group.name,
                str(group.size),
                _short(member.name for member in group.members),
                _short(group.exits),
                f"{group.parameters_per_unit:,.0f}",
            )
        if self.blocks:
            own = self._group_of_blocks
            first = _short(member.name for member in own.members)
            table.add_section()
            table.add_row(own.name, str(own.size), first, "only where named", f"{own.parameters_per_unit:,.0f}")
        console = Console(width=120, color_system=None)
        with console.capture() as capture:
            console.print(table)
            if self.fixed:
                stays = Table(title="Units that stay")
                for column in ("layer", "units", "why"):
                    stays.add_column(column)
                for name, (count, reason) in self.fixed.items():
                    stays.add_row(name, str(count), reason)
                console.print(stays)
            for name, reason in self.walls.items():
                console.print(f"Cannot be read: {name}: {reason}.", markup=False)
        return capture.get()


def _layer_around(block: Block) -> str:
    """Returns the path of the layer whose code adds the block; the block's own name where no layer does."""
    around, _, _ = name_of(block.addition.operation).rpartition("/")
    return around or block.name


def _short(names: Iterable[str], most: int = 3) -> str:
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _all_different(columns: list[np.ndarray]) -> bool:
    """Returns whether no number of these sorted arrays occurs twice; False too where arrays reach into each other."""
    columns = sorted((own for own in columns if len(own)), key=lambda own: own[0])
    apart = all(one[-1] < other[0] for one, other in itertools.pairwise(columns))
    return apart and all(bool((own[1:] > own[:-1]).all()) for own in columns)


@public
def unit_groups(
    model: keras.Model,
    *,
    input_shapes: Sequence[int | None]
    | Sequence[Sequence[int | None]]
    | Mapping[str, Sequence[int | None]]
    | None = None,
) -> UnitGraph:
    """Finds the units of a model: which exist, which hang together, where they act, and which cannot be removed.

    A unit is one channel that a layer with a kernel emits; channels that meet (in an addition, say) are one unit. The
    units of the model's outputs stay.

    Args:
        model: a Keras model; a subclassed one must have been called on data.
        input_shapes: for models whose layers are made of layers, or that are subclassed, and whose code does not run
            at every length: the shape of the input, samples first, as `x.shape` says it, None where the package may
            choose; for several inputs a list, or a dictionary by name. Units found so hold for every number of samples,
            and for other lengths where the code runs at twice these too. The model remembers the shapes, so that
            masks, scores and cuts after this call go by them.

    Returns:
        The groups of units, a mapping that prints as a table.

    Raises:
        TypeError: if `model` is no Keras model, or `input_shapes` are no shapes.
        ValueError: if it is not built, or a subclassed model whose code cannot be followed; if `input_shapes` do not
            fit its inputs.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20, name="hidden"), keras.layers.Dense(2)])
        >>> tfprune.unit_groups(net)["hidden"].size
        20
    """
    if input_shapes is not None and isinstance(model, keras.Model):
        tell_input_shapes(model, input_shapes)
    return UnitGraph(model, read(model))
