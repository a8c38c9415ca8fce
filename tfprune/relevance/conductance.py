"""What units conduct on the way from a baseline to a sample, and whether that makes up all that the model says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.borders import public, warn
from tfprune.graph import unit_groups
from tfprune.graph.walk import functional, run_flat
from tfprune.relevance.compiled import plan_of
from tfprune.relevance.explain import explain, output_number
from tfprune.relevance.plan import Plan, shown_columns, unit_totals
from tfprune.units import LayerValues

_METHODS = ("conductance", "conductance_by_differences")
# Of the mean change of the output: what may be missing without a warning.
_MISSING = 0.1


@dataclass(frozen=True, eq=False)
class Conductance:
    """What units conduct, and what a layer's units leave unexplained together.

    `scores` makes it a ranking of units that can be removed.

    Attributes:
        units: `(samples, units)` by layer name, summed over positions.
        scores: mean over samples of the absolute value, summed over the layers of a group; `(units,)` by group name.
        delta: F(x) - F(baseline) less the sum over the layer's units, `(samples,)` by layer name, for each layer that
            cuts the net in two: that all ways from the inputs to the output pass once. There it is the error of the
            integral alone; for other layers it would say how much goes past them. The directions of a `Bidirectional`
            are summed up together.
        output: F(x), the number that was explained, `(samples,)`.
        baseline_output: F(baseline), `(samples,)`.
    """

    units: LayerValues
    scores: LayerValues
    delta: LayerValues
    output: np.ndarray
    baseline_output: np.ndarray

    def __repr__(self) -> str:
        change = self.output - self.baseline_output
        lines = [f"Conductance of {len(change)} samples; means: output - output at the baseline {change.mean():.4g}"]
        width = max(map(len, self.units), default=0)
        for name, own in self.units.items():
            missing = f"missing {np.abs(self.delta[name]).mean():.2g}" if name in self.delta else "no cut of the net"
            lines.append(f"  {name.ljust(width)}  {own.sum(axis=1).mean():10.4g}  {missing}")
        return "\n".join(lines)


@public
def conductance(
    model: keras.Model,
    data: Any,
    *,
    layers: Iterable[str] | str | None = None,
    baseline: Any = None,
    target: Any = None,
    output: str | int | None = None,
    steps: int = 32,
    method: str = "conductance",
) -> Conductance:
    """Says how much of the way from a baseline's output to a sample's goes through each unit.

    The gradient by the unit times the unit's change, added up on the straight way from the baseline to the sample:

        conductance_j(x) = integral over a of dF / dy_j * dy_j / da,    y_j taken at baseline + a (x - baseline).

    Over the units of a layer that cuts the net in two it makes F(x) - F(baseline), which `delta` checks. It asks what a
    unit does, where `activations` ask what it says: a unit that is loud and not read conducts nothing.

    The integral is taken by parabolas through three points each; a relu behind a unit that switches on the way costs
    it accuracy, which "conductance_by_differences" keeps, at twice the cost of a step. A model that ends in a softmax
    is explained from its logits.

    Args:
        model: a Sequential or functional model with float inputs; it runs as at inference.
        data: inputs, whatever `model.fit` takes; targets are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        baseline: one sample, or one for each; None for zeros.
        target: the class to explain, one for each sample, a function of the output, or None for the predicted class.
        output: name or number of the output, for models with several.
        steps: stretches of the way; an odd number is one more.
        method: "conductance" or "conductance_by_differences".

    Returns:
        A `Conductance`. Heads of attention show in no tensor: they have no entry in `units`, and score 0.

    Raises:
        TypeError: if `model` is no Keras model, or a layer is not known to relevance.
        ValueError: if model, names, data, target, baseline, steps or method do not fit.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="hidden"), keras.layers.Dense(1)])
        >>> net.set_weights([np.array([[1.0, 0.0], [0.0, 2.0]]), np.zeros(2), np.array([[1.0], [3.0]]), np.zeros(1)])
        >>> found = conductance(net, np.array([[1.0, 1.0]]), target=0)
        >>> found.units["hidden"].round(3), found.delta["hidden"].round(3)
        (array([[1., 6.]], dtype=float32), array([0.], dtype=float32))

    Reference: K. Dhamdhere, M. Sundararajan, Q. Yan (2019), "How important is a neuron?", equation 2; A. Shrikumar,
    J. Su, A. Kundaje (2018), "Computationally efficient measures of internal neuron importance".
    """
    if method not in _METHODS:
        raise ValueError(f"conductance: method expects one of {', '.join(map(repr, _METHODS))}, received {method!r}.")
    graph = unit_groups(model)
    names = graph.choose(layers)
    if not names:
        raise ValueError(
            f"conductance: model {model.name!r} has no units that can be removed, so there are none to score."
        )
    options = {"method": method, "baseline": baseline, "target": target, "output": output, "steps": steps}
    found = explain(model, data, **options)
    plan = plan_of(model)
    columns = shown_columns(graph)
    cuts = _cuts(plan, output_number(plan, output), columns)
    chosen = np.concatenate([np.arange(graph.num_units)[graph[name].start :][: graph[name].size] for name in names])
    units = {name: own for name, own in found.units.items() if np.isin(columns[name], chosen).any()}
    change = found.output - found.baseline_output
    delta = {name: change - sum(found.units[own].sum(axis=1) for own in cuts[name]) for name in units if name in cuts}
    _warn_of_missing(delta, change, steps)
    totals = unit_totals(units, columns, graph)
    scores = np.abs(totals).mean(axis=0) if len(totals) else np.zeros(graph.num_units)
    by_group = {name: scores[graph[name].start :][: graph[name].size] for name in names}
    whole = (LayerValues(part) for part in (units, by_group, delta))
    return Conductance(*whole, found.output, found.baseline_output)


@dataclass(frozen=True, eq=False)
class _Passed:
    """How often the ways from the inputs to a tensor have passed each site: at least, and at most, `(sites,)`."""

    fewest: np.ndarray
    most: np.ndarray


def _cuts(plan: Plan, output: int, columns: dict[str, np.ndarray]) -> dict[str, list[str]]:
    """Returns the layers that all ways from the inputs to an output pass exactly once.

    Args:
        plan: of the model.
        output: the number of the output.
        columns: as `shown_columns` has them.

    Returns:
        For each such layer the names of those that show in the same tensor: both directions of a `Bidirectional`.
    """
    names: dict[int, list[str]] = {}
    for site in plan.sites:
        names.setdefault(id(site.tensors[0]), []).append(site.name)
    # Of a tensor in which other channels show, too, the units are no cut.
    whole = [
        site
        for site in plan.sites
        if sum(len(columns[name]) for name in names[id(site.tensors[0])]) == site.tensors[0].shape[site.axis]
    ]
    start = _Passed(np.zeros(len(whole), int), np.zeros(len(whole), int))

    def call(node: Any, args: tuple, kwargs: dict) -> list[_Passed]:
        read = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, _Passed)] or [start]
        fewest = np.min([own.fewest for own in read], axis=0)
        most = np.max([own.most for own in read], axis=0)
        outputs = []
        for tensor in node.outputs:
            here = np.array([any(tensor is own for own in site.tensors) for site in whole], int)
            outputs.append(_Passed(fewest + here, most + here))
        return outputs

    end = run_flat(plan.model, [start] * len(functional(plan.model).inputs), call)[output]
    once = (end.fewest == 1) & (end.most == 1)
    return {site.name: names[id(site.tensors[0])] for site, own in zip(whole, once, strict=True) if own}


def _warn_of_missing(delta: dict[str, np.ndarray], change: np.ndarray, steps: int) -> None:
    missing = {name: np.abs(own).mean() for name, own in delta.items()}
    worst = max(missing, key=missing.get, default=None)
    whole = np.abs(change).mean()
    if worst is not None and missing[worst] > _MISSING * whole:
        warn(
            f"conductance: the units of {worst!r} make up the change of the output, {whole:.3g} on average, only to "
            f"within {missing[worst]:.2g} in {steps} steps. Take more steps, or "
            "method='conductance_by_differences', which keeps the sum where relus switch on the way."
        )
