"""What is pruned: units, or single weights. Both say which entries of which weights are held at zero for a mask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.graph import unit_groups
from tfprune.graph.weights import choose_kernels, kernel_weights
from tfprune.layers import CountsUnits
from tfprune.repair import Repair
from tfprune.select import keep_top
from tfprune.surgery.rebuild import Cut
from tfprune.surgery.removal import checked_mask, cut_out
from tfprune.surgery.repairing import needs_bias
from tfprune.units import LayerValues, check_like, describe_unknown


def choose_top(scores: LayerValues, mask: LayerValues, sparsity: float, scope: str, min_units: int) -> LayerValues:
    """Returns the mask after a pruning step: what is off counts as off and stays so; groups without scores stay."""
    # What is off already goes first.
    worst = {name: np.where(mask[name], scores[name], -np.inf) for name in scores}
    kept = keep_top(LayerValues(worst), sparsity, scope=scope, min_units=min_units)
    return LayerValues({**mask, **{name: mask[name] & kept[name] for name in scores}})


def own_weights(model: keras.Model) -> dict[int, Any]:
    """Returns the weights that layers train, or would train if they were not frozen, by `id`."""
    return {id(variable): variable for layer in model._flatten_layers() for variable in layer._trainable_variables}


def holdable(model: keras.Model) -> tuple[Any, dict[str, str]]:
    """Returns the units of a model, and for each group that zero weights cannot switch off the reason, by name."""
    graph = unit_groups(model)
    seen = np.full(graph.num_units, -1)
    reasons = []

    def note(ids: np.ndarray, reason: str) -> None:
        columns = graph.columns(ids)
        seen[columns[columns >= 0]] = len(reasons)
        reasons.append(reason)

    for exit in graph.records.exits:
        if not exit.kernel:
            note(exit.ids, f"{exit.name!r} sums over its units without a kernel")
    for twin in graph.records.twins.values():
        if issubclass(twin.layer_class, CountsUnits):
            note(np.concatenate(twin.ids), "a norm or another statistic counts its units")
    left_out = {}
    for name, group in graph.items():
        own = seen[group.start : group.start + group.size]
        if (own >= 0).any():
            left_out[name] = reasons[own.max()]
    return graph, left_out


class Units:
    """Units of a model that stays as large as it is: a unit is off when all that `remove` would cut is zero.

    Args:
        model: a Sequential or functional model.
        layers: names of groups or layers; None takes all groups that can be held off by zero weights.

    Attributes:
        sizes: how many units each group has.
        left_out: why a group cannot be held off, by its name.

    Raises:
        ValueError: if a name is unknown, a group cannot be held off, or there is none.
    """

    def __init__(self, model: keras.Model, layers: Iterable[str] | str | None):
        self.graph, self.left_out = holdable(model)
        names = self.graph.choose(layers)
        refused = [name for name in names if name in self.left_out]
        if layers is not None and refused:
            raise ValueError(
                f"layers: the units of {refused[0]!r} cannot be held off while the model keeps its size: "
                f"{self.left_out[refused[0]]}. Leave them out, or use training.shrink_while_training."
            )
        self.sizes = {name: self.graph[name].size for name in names if name not in self.left_out}
        if not self.sizes:
            raise ValueError(
                f"model {model.name!r} has no units that can be held off: {self.left_out}.\n{self.graph!r}"
            )
        self._warned = False
        own = own_weights(model)
        self._weights = [
            weight
            for key, weight in self.graph.records.weights.items()
            if key in own and any(ids is not None and (self.graph.columns(ids) >= 0).any() for ids in weight.axes)
        ]

    @property
    def variables(self) -> list[Any]:
        """The weights that may have held entries."""
        return [weight.variable for weight in self._weights]

    def checked(self, mask: Any) -> LayerValues:
        """Returns a mask of the user with all groups; those that it leaves out are on.

        Raises:
            ValueError: if it does not fit, or empties a group.
        """
        mask = check_like(mask, self.sizes, "mask", partial=True, boolean=True)
        checked_mask(self.graph, mask)
        return LayerValues({name: mask.get(name, np.ones(size, bool)) for name, size in self.sizes.items()})

    def check_scores(self, scores: LayerValues, mask: LayerValues, what: str) -> LayerValues:
        """Returns the scores of the groups that can be held.

        Raises:
            ValueError: if there are other names or lengths than the model's, or a unit that is on has NaN.
        """
        unknown = [name for name in scores if name not in self.graph]
        if unknown:
            raise ValueError(f"{what} returns names that are no groups. {describe_unknown(unknown, self.graph.names)}")
        scores = LayerValues({name: scores[name] for name in self.sizes if name in scores})
        if not len(scores):
            raise ValueError(f"{what} returns no scores for any of the groups {', '.join(self.sizes)}.")
        return check_scores(scores, mask, what)

    def keeps(self, mask: LayerValues) -> dict[int, np.ndarray]:
        """Returns for each weight which of its entries are not held, by `id`."""
        on = self.flat(mask)
        return {id(weight.variable): _outer(weight, lambda ids: self.graph.kept(ids, on)) for weight in self._weights}

    def flat(self, mask: LayerValues) -> np.ndarray:
        """Returns a mask as a vector over all units of the graph, `(num_units,)`."""
        return self.graph.on_nodes(mask)[0] > 0

    def recognised(self) -> LayerValues:
        """Returns the mask that a model has been trained with: off is a unit whose weights are all zero.

        A group of which nothing would be left was not pruned but initialised with zeros.
        """
        return _all_on_where_empty(self.alive())

    def alive(self) -> LayerValues:
        """Returns for each unit whether any of its weights is not zero."""
        alive = np.zeros(self.graph.num_units, bool)
        for weight in self._weights:
            nonzero = keras.ops.convert_to_numpy(weight.variable) != 0
            for axis, ids in enumerate(weight.axes):
                if ids is not None:
                    columns = self.graph.columns(ids)
                    along = nonzero.any(tuple(k for k in range(nonzero.ndim) if k != axis))
                    np.logical_or.at(alive, columns[columns >= 0], along[columns >= 0])
        return LayerValues({name: alive[self.graph[name].start :][:size] for name, size in self.sizes.items()})

    def check_repair(self, repair: Repair) -> None:
        """Raises ValueError where a repair has constants that the model has no place for."""
        if repair.guess is None:
            return
        # One unit of each group off shows where constants go.
        probe = {name: np.arange(size) > 0 for name, size in self.sizes.items() if size > 1}
        without = needs_bias(self.graph, self.flat(LayerValues(probe)))
        names = [layer.name for layer in self.graph.model._flatten_layers() if id(layer) in without]
        if names:
            raise ValueError(
                f"repair: {repair.name!r} puts constants into biases, but {', '.join(map(repr, names))} have none, and "
                "a model cannot get any during fit. Build them with use_bias=True, or use repair='zero'."
            )

    def repair(self, mask: LayerValues, repair: Repair, data: Any) -> None:
        """Makes what reads the units that are off make up for them, in the model itself.

        The cut and repaired model is made, and its weights are written back to where they came from.
        """
        if repair.guess is None:
            return
        on = self.flat(mask)
        cut = cut_out(self.graph, on, repair, data, warns=not self._warned)
        self._warned = True
        variables = cut.new_variables()
        for old in self.graph.model.weights:
            new = variables.get(id(old))
            if new is None:  # It takes no part, so that both models share it.
                continue
            value = keras.ops.convert_to_numpy(old).copy()
            value[self._places(cut, old)] = keras.ops.convert_to_numpy(new)
            old.assign(value)

    def _places(self, cut: Cut, variable: Any) -> tuple:
        weight = self.graph.records.weights.get(id(variable))
        if weight is None:
            return (...,)
        kept = [
            np.arange(length) if ids is None else np.flatnonzero(cut.kept(ids))
            for length, ids in zip(variable.shape, weight.axes, strict=True)
        ]
        return np.ix_(*kept)


class Weights:
    """Single weights of a model, by the name of their kernel as `saliency.weights` gives it.

    Args:
        model: a Sequential or functional model.
        layers: names of kernels, layers or nested models; None takes all kernels.

    Attributes:
        sizes: the shapes of the kernels.
        left_out: nothing; any weight can be held at zero.

    Raises:
        ValueError: if a name is unknown.
    """

    def __init__(self, model: keras.Model, layers: Iterable[str] | str | None):
        self._all = tuple(kernel_weights(model))
        self._kernels = {name: kernel.variable for name, kernel in choose_kernels(model, layers).items()}
        self.sizes = {name: tuple(kernel.shape) for name, kernel in self._kernels.items()}
        self.left_out: dict[str, str] = {}

    @property
    def variables(self) -> list[Any]:
        """The weights that may have held entries."""
        return list(self._kernels.values())

    def checked(self, mask: Any) -> LayerValues:
        """Returns a mask of the user with all kernels; those that it leaves out are on.

        Raises:
            ValueError: if it does not fit.
        """
        mask = check_like(mask, self.sizes, "mask", partial=True, boolean=True)
        return LayerValues({name: mask.get(name, np.ones(shape, bool)) for name, shape in self.sizes.items()})

    def check_scores(self, scores: LayerValues, mask: LayerValues, what: str) -> LayerValues:
        """Returns the scores of the kernels that are pruned, looked at as those of units are."""
        unknown = [name for name in scores if name not in self._all]
        if unknown:
            raise ValueError(f"{what} returns names that are no kernels. {describe_unknown(unknown, self._all)}")
        scores = LayerValues({name: scores[name] for name in self._kernels if name in scores})
        if not len(scores):
            raise ValueError(f"{what} returns no scores for any of the kernels {', '.join(self._kernels)}.")
        return check_scores(scores, mask, what)

    def keeps(self, mask: LayerValues) -> dict[int, np.ndarray]:
        """Returns for each kernel which of its entries are not held, by `id`."""
        return {id(kernel): mask[name] for name, kernel in self._kernels.items()}

    def recognised(self) -> LayerValues:
        """Returns the mask that a model has been trained with: off are zeros, save in a kernel that is all zero."""
        return _all_on_where_empty(self.alive())

    def alive(self) -> LayerValues:
        """Returns which weights are not zero."""
        return LayerValues({name: keras.ops.convert_to_numpy(own) != 0 for name, own in self._kernels.items()})

    def check_repair(self, repair: Repair) -> None:
        """Raises ValueError for any repair: there is none for single weights."""
        if repair.guess is not None:
            raise ValueError(f"repair: {repair.name!r} is for units; single weights know 'zero' alone.")

    def repair(self, mask: LayerValues, repair: Repair, data: Any) -> None:
        """Does nothing: see `check_repair`."""


def _all_on_where_empty(mask: LayerValues) -> LayerValues:
    return mask.map(lambda own: own if own.any() else np.ones(own.shape, bool))


def _outer(weight: Any, kept: Any) -> np.ndarray:
    """Returns which entries of a weight are kept on all of its axes."""
    shape = tuple(weight.variable.shape)
    result = np.ones(shape, bool)
    for axis, ids in enumerate(weight.axes):
        if ids is not None:
            result &= kept(ids).reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return result


def check_scores(scores: LayerValues, mask: LayerValues, what: str) -> LayerValues:
    """Returns the scores.

    Raises:
        ValueError: if they have not the shapes of the mask, or something that is on has NaN.
    """
    for name, values in scores.items():
        if values.shape != mask[name].shape or values.dtype.kind not in "iuf":
            raise ValueError(
                f"{what} returns for {name!r} the shape {values.shape} of {values.dtype}, expected one number for each "
                f"of {mask[name].shape}."
            )
        bad = int(np.isnan(values[mask[name]]).sum()) if values.dtype.kind == "f" else 0
        if bad:
            raise ValueError(
                f"{what} returns NaN for {bad} of {mask[name].sum()} entries of {name!r} that are on. Look at the "
                "data, the loss and the weights; a learning rate that is too high does this."
            )
    return scores
