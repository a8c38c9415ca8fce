"""Builds the larger model: its sizes grow with the units, and what it is cut to is the original.

Where on an axis new units come is not told by the ids of the original (the one unit of a recurrent layer is on every
position of a gate's axis). So the larger model is read in its turn; its old units are the first ones of each group, and
every weight of the original goes where cutting the others out would find it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.kernels import row_axes
from tfprune.graph.step import Axes, Edit
from tfprune.graph.walk import flat_nodes
from tfprune.graph.weights import kernel_weights
from tfprune.surgery.carrying import own_variables
from tfprune.surgery.draws import Draws
from tfprune.surgery.rebuild import Rebuild


def position_counts(graph: UnitGraph, more: Mapping[str, int]) -> np.ndarray:
    """Returns for each unit how many stand in its place, `(num_units + 1,)`: new ones come behind the last of a group.

    The entry behind the last one answers for the -1 of a position without a unit.
    """
    counts = np.ones(graph.num_units + 1, int)
    for name, count in more.items():
        counts[graph[name].start + graph[name].size - 1] += count
    return counts


class Widened(Rebuild):
    """A model with new units; cutting them out gives the weights of the original.

    Args:
        graph: the units of the original model.
        more: how many units are new, by group.
        draws: what their weights begin with.
    """

    verb = "widen"

    def __init__(self, graph: UnitGraph, more: Mapping[str, int], draws: Draws):
        self._more = more
        self._draws = draws
        self._counts = position_counts(graph, more)
        self._values: dict[int, np.ndarray] = {}
        # What holds an edited array, its path, the array as it was, and as it has become.
        self._arrays: dict[tuple[int, tuple], tuple[Any, Any, Any]] = {}
        with draws.of_layers():
            super().__init__(graph)

    def counts(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` how many positions of the new model stand for it."""
        return self._counts[self.graph.columns(ids)]

    def _changed(self, holder: Any, edit: Edit, old: Any) -> Any:
        new = super()._changed(holder, edit, old)
        if np.ndim(old) and np.asarray(old).dtype.kind in "biufc":
            wanted = int(self.counts(edit.ids).sum())
            if len(edit.ids) in np.shape(old) and wanted not in np.shape(new):
                raise ValueError(
                    f"the row's change at {edit.path} gives numbers of shape {np.shape(new)} for {wanted} units. It is "
                    "given how often each unit is to stand there: np.repeat(old, counts)."
                )
            _, first, _ = self._arrays.get((id(holder), edit.path), (None, old, None))
            self._arrays[id(holder), edit.path] = (holder, first, new)
        return new

    def _rebuilt(self, old: Any) -> Any:
        new = super()._rebuilt(old)
        self._draws.give_seeds(new)
        return new

    def _carry(self) -> None:
        self.wide = unit_groups(self.model)
        self._old_columns = self._find_old_columns()
        self._check_reading()
        self._check_arrays()
        self._layers = {
            id(own): (new, its)
            for old, new, _ in self._pairs()
            for own, its in zip(own_variables(old), own_variables(new), strict=False)
        }
        self._kernels = {id(kernel.variable) for kernel in kernel_weights(self.model).values()}
        self._rows: dict[int, set[int]] = {}
        for exit in self.wide.records.exits:
            if not self._kept(exit.ids).all():
                for variable, axis in row_axes(self.wide, exit):
                    self._rows.setdefault(id(variable), set()).add(axis)
        super()._carry()

    def _find_old_columns(self) -> np.ndarray:
        """Returns for each unit of the larger model which one of the original it is; -1 for new ones and at the end."""
        wide, sizes = self.wide, self.graph.sizes
        expected = {name: size + self._more.get(name, 0) for name, size in sizes.items()}
        if dict(wide.sizes) != expected:
            self._refuse(f"it would have the units {dict(wide.sizes)}, not {expected}")
        columns = np.full(wide.num_units + 1, -1)
        for name, group in self.graph.items():
            start = wide[name].start
            columns[start : start + group.size] = np.arange(group.start, group.start + group.size)
        return columns

    def _kept(self, ids: np.ndarray) -> np.ndarray:
        """Returns for each of `ids` of the larger model whether it is there in the original, too."""
        columns = self.wide.columns(ids)
        return (columns < 0) | (self._old_columns[columns] >= 0)

    def _check_reading(self) -> None:
        """Raises ValueError if cutting the new units out would give anything else than the original."""
        for node in flat_nodes(self.graph.model):
            for one, other in zip(node.outputs, self.nodes[id(node)].outputs, strict=True):
                signals = self.graph.records.signals.get(id(one)), self.wide.records.signals.get(id(other))
                axes = [(None,) * len(one.shape) if signal is None else signal.axes for signal in signals]
                if not self._are_alike(*axes):
                    self._refuse(f"the units would lie otherwise in what {node.operation.name!r} gives out")

    def _are_alike(self, old: Axes, new: Axes) -> bool:
        return len(old) == len(new) and all(map(self._is_like, old, new))

    def _is_like(self, old: np.ndarray | None, new: np.ndarray | None) -> bool:
        if old is None or new is None:
            return all(ids is None or bool((graph.columns(ids) < 0).all()) for ids, graph in self._beside(old, new))
        return np.array_equal(self.graph.columns(old), self._old_columns[self.wide.columns(new)][self._kept(new)])

    def _beside(self, old: Any, new: Any) -> list[tuple[Any, UnitGraph]]:
        return [(old, self.graph), (new, self.wide)]

    def _check_arrays(self) -> None:
        """Raises ValueError if an array with a number per unit would give anything else than the original's."""
        records = self.wide.records
        for (_, path), (holder, first, value) in self._arrays.items():
            if isinstance(holder, keras.Operation):
                edits = [records.edits.get(id(self.operations[id(holder)]), {}).get(path)]
            else:
                edits = [e for e in records.call_edits.get(id(self.nodes[id(holder)]), []) if e.path == path]
            for edit in filter(None, edits):
                value = edit.change(value, self._kept(edit.ids))
            first, value = (np.asarray(keras.ops.convert_to_numpy(own)) for own in (first, value))
            if not np.array_equal(first, value):
                name = getattr(holder, "operation", holder).name
                self._refuse(f"the numbers per unit that {name!r} holds would lie otherwise")

    def _refuse(self, reason: str) -> None:
        names = ", ".join(repr(name) for name, count in self._more.items() if count)
        raise ValueError(
            f"units: {names} cannot be widened as asked: the larger model would be read otherwise ({reason}). Try "
            "other numbers of units, or each group by itself."
        )

    def _flags(self, variable: Any) -> list[np.ndarray] | None:
        """Returns for each axis of a weight of the larger model which positions are old; None if all are."""
        record = self.wide.records.weights.get(id(variable))
        if record is None:
            return None
        flags = [
            np.ones(length, bool) if ids is None else self._kept(ids)
            for length, ids in zip(variable.shape, record.axes, strict=True)
        ]
        return None if all(own.all() for own in flags) else flags

    def carried(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns an optimizer's moment, shaped like `variable`, with zeros for what is new."""
        _, new = self._layers.get(id(variable), (None, None))
        flags = None if new is None else self._flags(new)
        if flags is None:
            return value
        result = np.zeros(tuple(new.shape), value.dtype)
        result[np.ix_(*flags)] = value
        return result

    def _value(self, variable: Any, value: np.ndarray) -> np.ndarray:
        """Returns what a weight becomes in the new model; layers ask for some more than once."""
        if id(variable) not in self._values:
            self._values[id(variable)] = self._filled(variable, value)
        return self._values[id(variable)]

    def _filled(self, variable: Any, value: np.ndarray) -> np.ndarray:
        layer, new = self._layers[id(variable)]
        flags = self._flags(new)
        if flags is None:
            return value
        result = self._draws.made(layer, new, id(new) in self._kernels)
        for axis in sorted(self._rows.get(id(new), ())):
            if not flags[axis].all():
                places = (slice(None),) * axis + (~flags[axis],)
                result[places] = self._draws.read(new)[places]
        record = self.wide.records.weights[id(new)]
        if record.rescale is not None:
            tracked = [own for own, ids in zip(flags, record.axes, strict=True) if ids is not None]
            value = value / record.rescale(tracked[-1])
        result[np.ix_(*flags)] = value
        return result
