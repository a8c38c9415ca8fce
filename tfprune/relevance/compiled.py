"""Compiled functions, one per model and method, kept for the next call."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune.cache import Recent
from tfprune.compiling import compiled
from tfprune.relevance.composites import PRESETS, Composite
from tfprune.relevance.path import Conducted, Point, between, conducted_at, point_on_path, slopes_between, values_at
from tfprune.relevance.plan import Plan
from tfprune.relevance.propagate import Forward, Tensors, forward, relevance_tensors
from tfprune.relevance.targets import Target


class Compiled:
    """The compiled functions of one method on one model.

    Args:
        plan: of the model.
        composite: the rules.
        target: what is explained.
        output: the number of the output.
        start: None, "output", "one", "softmax", or "array" where one comes with each call.
        units: whether to look at the units of layers too.
        layers: names of layers at which to look in full shape.

    Attributes:
        from_logits: whether relevance starts in front of a softmax; known after the first run.
        num_traces: how often something was traced.
    """

    def __init__(
        self,
        plan: Plan,
        composite: Composite,
        target: Target,
        output: int,
        start: str | None,
        *,
        units: bool,
        layers: tuple[str, ...],
    ):
        self._plan, self._composite, self._target = plan, composite, target
        self._output, self._start, self._units, self._layers = output, start, units, layers
        self._logits = start != "softmax"
        self.from_logits = False
        self.num_traces = 0
        self.rules = compiled(self._run_rules, reduce_retracing=True)
        self.score = compiled(self._run_score, reduce_retracing=True)
        self.point = compiled(self._run_point, reduce_retracing=True)
        self.next_point = compiled(self._run_next_point, reduce_retracing=True)
        self.last_conducted = compiled(self._run_last_conducted, reduce_retracing=True)
        self.stretch = compiled(self._run_stretch, reduce_retracing=True)
        self.values = compiled(self._run_values, reduce_retracing=True)
        self.slopes = compiled(self._run_slopes, reduce_retracing=True)

    def _run_rules(self, inputs: list[Any], baseline: list[Any] | None, indices: Any, start: Any) -> Tensors:
        self.num_traces += 1
        given = self._start if self._start in ("output", "one") else start

        def seed(value: Any, known: Any = None) -> tuple:
            return self._target.seed(value, indices if known is None else known)

        options = {"output": self._output, "logits": self._logits, "start": given, "units": self._units}
        options["layers"] = self._layers
        return relevance_tensors(self._plan, self._composite, inputs, baseline, seed, note=self._note, **options)

    def _run_score(self, inputs: list[Any], indices: Any, num_samples: Any) -> tuple[Any, Any]:
        """The numbers to explain, and the classes; where all samples have one baseline it runs once."""
        self.num_traces += 1
        run = forward(self._plan, self._composite, inputs, None, self._output, self._logits)
        self._note(run)
        value = run.output.tensor
        value = tf.broadcast_to(value, tf.concat([[num_samples], tf.shape(value)[1:]], axis=0))
        target, score, _ = self._target.seed(value, indices)
        return score, target

    def _seed(self, indices: Any) -> Any:
        return lambda value: self._target.seed(value, indices)

    def _run_point(self, inputs: list[Any], baseline: list[Any], fraction: Any, indices: Any) -> Point:
        self.num_traces += 1
        options = {"sites": self._units, "output": self._output, "logits": self._logits, "layers": self._layers}
        return point_on_path(self._plan, inputs, baseline, fraction, self._seed(indices), **options)

    def _run_next_point(
        self, inputs: list[Any], baseline: list[Any], fraction: Any, indices: Any, last: list[Point], older: list[Any]
    ) -> tuple[Point, Conducted]:
        """A point with an even number, and what the two points before it conduct."""
        point = self._run_point(inputs, baseline, fraction, indices)
        two_back, one_back = last
        four, three, two, one = *older, two_back.values, one_back.values
        parts = [
            conducted_at(self._plan, one_back.slopes, [two, point.values], even=False),
            conducted_at(self._plan, two_back.slopes, [three, one, four, point.values], even=True),
        ]
        return point, tf.nest.map_structure(tf.add, *parts)

    def _run_last_conducted(self, point: Point, two_back: Any, one_back: Any) -> Conducted:
        self.num_traces += 1
        values = [one_back, point.values, two_back, point.values]
        return conducted_at(self._plan, point.slopes, values, even=True)

    def _run_stretch(
        self, inputs: list[Any], baseline: list[Any], before: Any, after: Any, indices: Any
    ) -> tuple[list[Any], Conducted]:
        """One stretch of the way as a comparison of its ends: multipliers of the inputs, and what is conducted."""
        self.num_traces += 1
        ends = [
            (between(self._plan, b, x, before), between(self._plan, b, x, after))
            for x, b in zip(inputs, baseline, strict=True)
        ]
        start, end = zip(*ends, strict=True)
        options = {"output": self._output, "logits": self._logits, "units": self._units, "layers": self._layers}

        def seed(value: Any, known: Any = None) -> tuple:
            return self._target.seed(value, indices if known is None else known)

        composite = PRESETS["compare_to_baseline"]
        found = relevance_tensors(self._plan, composite, list(end), list(start), seed, **options)
        return found.multipliers, Conducted(found.units, found.at)

    def _run_values(self, inputs: list[Any]) -> dict[str, Any]:
        self.num_traces += 1
        inputs = [tf.cast(x, self._plan.dtype) for x in inputs]
        return values_at(self._plan, inputs, output=self._output, logits=self._logits, layers=self._layers)

    def _run_slopes(self, inputs: list[Any], start: Any, end: Any, fraction: Any, indices: Any, layer: str) -> Any:
        self.num_traces += 1
        options = {"output": self._output, "logits": self._logits, "layers": (layer,)}
        return slopes_between(self._plan, inputs, start, end, fraction, self._seed(indices), **options)

    def _note(self, run: Forward) -> None:
        """Remembers where relevance starts, and refuses a start that the method cannot take."""
        self.from_logits = run.from_logits
        if self._start != "softmax":
            return
        if run.output.logits is None:
            raise ValueError("start='softmax': the output does not end in a softmax, so there is no probability.")
        if not (self._composite.is_gradient or self._composite.needs_baseline):
            raise ValueError(
                "start='softmax': this method needs the logits, as no sum of relevances makes up a probability. Leave "
                "start out, or take a method that compares or differentiates: 'compare_to_baseline', "
                "'integrated_gradients', 'gradient'."
            )


_kept, _plans = Recent(16), Recent(16)


def plan_of(model: keras.Model) -> Plan:
    """Returns the plan of a model, that of an earlier call if there is one."""

    def make() -> Plan:
        # Reading tries activations out, which wants numbers, also where a training step is being traced.
        with tf.init_scope():
            return Plan(model)

    return _plans.get(model, None, make)


def compiled_for(
    plan: Plan,
    composite: Composite,
    target: Target,
    output: int,
    start: str | None,
    *,
    units: bool,
    layers: tuple[str, ...] = (),
) -> Compiled:
    """Returns the compiled functions, those of an earlier call if there are any."""
    key = (composite, target.key, output, start, units, layers)
    # The indices come with each call.
    bare = target._replace(indices=None)

    def make() -> Compiled:
        return Compiled(plan, composite, bare, output, start, units=units, layers=layers)

    return _kept.get(plan.model, key, make, target.function)
