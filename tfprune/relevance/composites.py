"""Composites: which step gets which rule. And the methods that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras

from tfprune.relevance import rules as r
from tfprune.units import describe_unknown

FLOWS = ("relevance", "multipliers", "sensitivity")
_CONVOLUTIONS = tuple(
    getattr(keras.layers, f"{kind}Conv{rank}D{transpose}")
    for kind, ranks, transpose in (
        ("", (1, 2, 3), ""),
        ("", (1, 2, 3), "Transpose"),
        ("Depthwise", (1, 2), ""),
        ("Separable", (1, 2), ""),
    )
    for rank in ranks
)


@dataclass(frozen=True)
class Composite:
    """Maps steps to rules; the first match wins: name of the layer, class of the layer, kind of step.

    Args:
        linear: the rule for affine steps (dense, convolution, batch norm, mean, sum), an object of
            `tfprune.relevance.rules` or its name.
        nonlinearity: the rule for activations.
        maximum: the rule for max pooling and maxima.
        product: the rule for products (gates, attention, Multiply).
        by_name: rules by the name of a layer; each holds for those steps of the layer that are of its kinds.
        by_class: rules by the class of a layer, likewise; the exact class counts.
        flow: what flows back. "relevance": it starts with the output. "multipliers": it starts with one and ends by
            multiplying with the input (less the baseline). "sensitivity": it starts with one and ends as it is.

    Raises:
        ValueError: if a name of a rule is unknown, or a rule does not fit its kind of step or the flow.
        TypeError: if something else than a rule stands for a rule.

    Example:
        >>> Composite(linear="normalized", nonlinearity="ignore", by_name={"first": rules.ZBox(low=0.0, high=1.0)}).flow
        'relevance'
    """

    linear: Any = "normalized"
    nonlinearity: Any = "ignore"
    maximum: Any = "gradient"
    product: Any = "signal_takes_all"
    by_name: Any = field(default_factory=dict)
    by_class: Any = field(default_factory=dict)
    flow: str = "relevance"

    def __post_init__(self):
        if self.flow not in FLOWS:
            raise ValueError(f"Composite: flow expects one of {', '.join(map(repr, FLOWS))}, received {self.flow!r}.")
        for kind in r.KINDS:
            rule = self._checked(getattr(self, kind), kind)
            if kind not in rule.kinds:
                raise ValueError(
                    f"Composite: {kind}= does not take the rule {type(rule).__name__}, which is for "
                    f"{', '.join(rule.kinds)} steps. {_fitting(kind)}"
                )
            object.__setattr__(self, kind, rule)
        for where in ("by_name", "by_class"):
            given = getattr(self, where)
            pairs = given.items() if isinstance(given, Mapping) else given
            checked = tuple((key, self._checked(rule, f"{where}[{key!r}]")) for key, rule in pairs)
            object.__setattr__(self, where, checked)

    def _checked(self, rule: Any, where: str) -> r.Rule:
        if isinstance(rule, str):
            if rule not in r.NAMED:
                raise ValueError(f"Composite: no rule of that name for {where}. {describe_unknown([rule], r.NAMED)}")
            rule = r.NAMED[rule]
        if not isinstance(rule, r.Rule):
            raise TypeError(
                f"Composite: {where} expects a rule of tfprune.relevance.rules or its name, received {rule!r}."
            )
        if rule.flows != "both" and rule.flows != self.flow:
            raise ValueError(
                f"Composite: the rule {type(rule).__name__} for {where} is made for flow={rule.flows!r}, but this "
                f"composite has flow={self.flow!r}."
            )
        return rule

    @property
    def needs_baseline(self) -> bool:
        """Whether one of the rules compares with a baseline."""
        own = [getattr(self, kind) for kind in r.KINDS]
        return any(rule.needs_baseline for rule in [*own, *(rule for _, rule in (*self.by_name, *self.by_class))])

    @property
    def is_gradient(self) -> bool:
        """Whether every step gets the rule of calculus."""
        own = [getattr(self, kind) for kind in r.KINDS]
        return all(isinstance(rule, r.Gradient) for rule in [*own, *(x for _, x in (*self.by_name, *self.by_class))])

    def rule_for(self, step: Any) -> r.Rule | None:
        """Returns the rule of a step; None for kinds of steps that need none."""
        if step.kind not in r.KINDS:
            return None
        for name, rule in self.by_name:
            if step.kind in rule.kinds and step.name in (name, *_below(name, step.name)):
                return rule
        for layer_class, rule in self.by_class:
            if step.kind in rule.kinds and type(step.layer) is layer_class:
                return rule
        return getattr(self, step.kind)

    def check_names(self, kinds_by_name: Mapping[str, set[str]]) -> None:
        """Checks `by_name` against the kinds of steps that the layers of a model have.

        Raises:
            ValueError: if a name is unknown, or a rule fits no step of its layer.
        """
        for name, rule in self.by_name:
            kinds = set().union(*(kinds for own, kinds in kinds_by_name.items() if own == name or _below(name, own)))
            if name not in kinds_by_name and not kinds:
                raise ValueError(f"by_name: no layer of that name. {describe_unknown([name], kinds_by_name)}")
            if not kinds & set(rule.kinds):
                raise ValueError(
                    f"by_name: the rule {type(rule).__name__} is for {', '.join(rule.kinds)} steps and does not fit "
                    f"layer {name!r}, whose steps are: {', '.join(sorted(kinds)) or 'none that take a rule'}."
                )


def _below(name: str, step_name: str) -> tuple[str, ...]:
    """A rule for "attention" holds for the step "attention/query" too."""
    return (step_name,) if step_name.startswith(f"{name}/") else ()


def _fitting(kind: str) -> str:
    return f"Rules that fit: {', '.join(name for name, rule in r.NAMED.items() if kind in rule.kinds)}."


_GRADIENT = {"linear": "gradient", "nonlinearity": "gradient", "maximum": "gradient", "product": "gradient"}

PRESETS = {
    "gradient": Composite(**_GRADIENT, flow="sensitivity"),
    "gradient_times_input": Composite(**_GRADIENT, flow="multipliers"),
    "deconvolution": Composite(linear="gradient", nonlinearity="repeat", flow="sensitivity"),
    "lrp": Composite(),
    "lrp_inputs_only": Composite(linear=r.Normalized(epsilon=1e-6, biases=False)),
    "lrp_epsilon": Composite(linear=r.Normalized(epsilon=0.01)),
    "lrp_epsilon_plus": Composite(
        linear=r.Normalized(epsilon=0.01), by_class={convolution: r.ZPlus() for convolution in _CONVOLUTIONS}
    ),
    "blame_the_bias": Composite(linear="gradient", nonlinearity="slope", flow="multipliers"),
    "compare_to_baseline": Composite(
        linear="gradient",
        nonlinearity="slope_of_differences",
        maximum="larger_maximum",
        product="product_of_differences",
        flow="multipliers",
    ),
}
"""The methods that are a composite."""

PATH_METHODS = ("integrated_gradients", "conductance", "conductance_by_differences")
"""The methods that add up gradients, or slopes of differences, on the way from a baseline."""


def composite_of(method: Any) -> Composite:
    """Returns the composite behind a method that is one; path methods walk on gradients.

    Raises:
        ValueError: if there is no method of that name.
        TypeError: if `method` is neither a name nor a composite.
    """
    if isinstance(method, Composite):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method: expected a name or a relevance.Composite, received {type(method).__name__}.")
    if method in PATH_METHODS:
        return PRESETS["gradient"]
    if method not in PRESETS:
        raise ValueError(f"method: {describe_unknown([method], (*PRESETS, *PATH_METHODS))}")
    return PRESETS[method]
