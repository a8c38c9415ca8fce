"""The public verb of cutting: `remove`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfprune.borders import public, warn
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.opened import is_opened
from tfprune.graph.walk import functional
from tfprune.masking import refuse_masked
from tfprune.repair import Repair, find_repair
from tfprune.surgery.biases import moved_biases
from tfprune.surgery.forms import FORMS, finished
from tfprune.surgery.rebuild import Cut
from tfprune.surgery.repairing import Repairer, needs_bias
from tfprune.units import LayerValues, check_like


@public
def remove(
    model: keras.Model,
    mask: LayerValues,
    *,
    repair: Any = "zero",
    data: Any = None,
    form: str = "auto",
    sequential: bool = True,
    keep_optimizer: bool = False,
) -> keras.Model:
    """Cuts units out: a new, smaller model of plain Keras layers that computes what the masked model computes.

    With the repair "zero" the new model equals `with_on_nodes(model)` at this mask. The other repairs change what reads
    the removed units so that it still computes about the same:

    - "mean": a removed unit's mean goes into the next bias;
    - "affine": every unit is guessed from those that are left;
    - "least_squares": the next kernel is refitted so that its output stays what it was. The one to recommend: half of
      the units of a small network often go at a loss of one or two points, without any training.

    Behind whole blocks that are cut "least_squares" refits what reads the stream; the other repairs leave it.

    Where a constant has nowhere to go, the layer gets a bias; but where blocks were opened "least_squares" does without
    it, so that a class that builds its layers without biases can hold the result.

    Layers that are cut are built anew from their configuration; all others are copied with everything that they hold.
    What cannot be copied is shared by both models, with a warning.

    Repairs work where units are read, in the order of the graph, each on what the repaired part before it gives.

    Args:
        model: a Keras model, as for `unit_groups`. It is not changed.
        mask: True = kept, one array of bool, or of whole numbers 0 and 1, per group of `unit_groups(model)`; groups
            that it leaves out stay whole.
        repair: one of the names above, "zero", a `tfprune.repair.Repair` such as `merge(...)`, or a function that takes
            `tfprune.repair.Channels` and returns `(A, c)`: units are guessed as `left @ A + c`.
        data: inputs for the repairs that need them, whatever `model.fit` takes; targets are not used. About 2000
            samples are enough; below 300 there is a warning.
        form: where the result lives, if the model is subclassed or has layers that are made of layers: in "class", its
            own class with smaller numbers; in "layers", a functional model of its own blocks, each built from its
            configuration; in "plain", layers of Keras alone (weights that code reads itself become rows of an
            Embedding); in "copy", a copy that holds the cut layers in the place of the old ones; in "graph", layers of
            Keras and operations of this package, where no copy runs. "auto" takes the first of these that can be, a
            copy before "plain" where code reads weights; `form_of(result)` says which, and why no other. A model of
            layers that are all known is cut in the form "plain".
        sequential: False fits every reader to the original's activations alone, without regard to what the repairs
            before it leave: cheaper to reason about, and decidedly worse on deep models.
        keep_optimizer: whether the new model's optimizer gets the old one's moments, cut likewise.

    Returns:
        A model with the same structure, names, policies, flags and regularisers. It is compiled if `model` is, with the
        same loss, fresh metrics and a fresh optimizer of the same settings.

    Raises:
        ValueError: if the mask does not fit, empties a group, or leaves sides unequal that a row of one's own wants
            equal; if a repair lacks data or cannot be used on a layer, or a weight that it would look at is NaN or
            infinite; if a layer that is cut cannot be built anew.
        TypeError: if `model`, `mask` or `repair` is of the wrong kind.

    Example:
        >>> scores = tfprune.saliency.weight_norm(net)                                     # doctest: +SKIP
        >>> small = remove(net, tfprune.keep_top(scores, 0.5), repair="least_squares", data=x)   # doctest: +SKIP

    Reference: mean: U. Evci (2018), section 4.2; refitting: Y. He, X. Zhang, J. Sun, "Channel pruning for accelerating
    very deep neural networks" (2017), equation 1.
    """
    refuse_masked(model)
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(map(repr, FORMS))}, received {form!r}.")
    repair = find_repair(repair)
    graph = unit_groups(model)
    on = checked_mask(graph, mask)
    if repair.check is not None:
        repair.check({name: on[group.start : group.start + group.size] for name, group in graph.items()})
    if repair.needs_data:
        _check_data(data, repair.name)
    cut = cut_out(graph, on, repair, data, sequential=sequential)
    warn_of_moved_biases(cut)
    return finished(model, cut, form=form, keep_optimizer=keep_optimizer)


def cut_out(
    graph: UnitGraph, on: np.ndarray, repair: Repair, data: Any, *, sequential: bool = True, warns: bool = True
) -> Cut:
    """Cuts and repairs, everything but the weights checked already; the new model is not compiled.

    With `warns` a repair that has too few samples says so.
    """
    repairs = repair.guess is not None and not on.all()
    if repairs:
        check_finite_weights(graph.model)
    # A bias more would take an opened model its class. What refits the kernel hardly needs it.
    with_bias = repairs and not (repair.refits and is_opened(functional(graph.model)))
    cut = Cut(graph, on, needs_bias(graph, on) if with_bias else ())
    if repairs:
        Repairer(cut, repair, data, sequential=sequential, warns=warns).run()
    return cut


def warn_of_moved_biases(cut: Cut) -> None:
    """Warns where the cut model computes something else than the masked one: a bias is added along another axis."""
    for moved in moved_biases(cut):
        warn(f"remove: {moved} than the original with a mask. Keep another number of units there.")


def _check_data(data: Any, name: str) -> None:
    if data is None:
        raise ValueError(f"data: repair {name!r} learns from data. Pass inputs, about 2000 samples: data=x.")


def _layer_names(graph: UnitGraph) -> set[str]:
    members = {member.name for group in graph.values() for member in group.members}
    return members | {layer.name for layer in graph.model._flatten_layers()}


def checked_mask(graph: UnitGraph, mask: Any) -> np.ndarray:
    """Returns which units stay, shape `(num_units,)`; groups that `mask` leaves out stay whole.

    Raises:
        ValueError: if a group is unknown or of another length, if a group would be empty, or if a layer needs equal
            numbers of two kinds of units and would not have them.
    """
    for name in mask if isinstance(mask, Mapping) else ():
        if np.ndim(mask[name]) > 1:
            raise ValueError(
                f"mask: {name!r} has the shape {np.shape(mask[name])}; units are expected, one value each. A mask of "
                "weights goes into zero_weights(model, mask)."
            )
        # A layer may make units that stay and units that go: its group has the name of both.
        if name not in graph and (name in graph.fixed or name in _layer_names(graph)):
            raise ValueError(f"mask: {graph.unknown(name).removeprefix('layers: ')}")
    mask = check_like(mask, graph.sizes_with_blocks, "mask", partial=True, boolean=True)
    on = np.ones(graph.num_columns if graph.blocks_name in mask else graph.num_units, bool)
    for name, kept in mask.items():
        group = graph[name]
        if not kept.any():
            left = "no block" if name not in graph.sizes else f"{group.members[0].name!r} without units"
            raise ValueError(
                f"mask: all {group.size} units of group {name!r} are off, which would leave {left}. Keep at least one "
                "(keep_top has min_units=1)."
            )
        on[group.start : group.start + group.size] = kept
    for one, other, reason in graph.records.equal:
        counts = int(graph.kept(one, on).sum()), int(graph.kept(other, on).sum())
        if counts[0] != counts[1]:
            raise ValueError(
                f"mask: {reason}, but {counts[0]} and {counts[1]} would stay. Keep equal numbers: keep_top with "
                "scope='group' does."
            )
    return on
