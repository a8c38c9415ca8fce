"""Compiled functions, one per model and method, kept for the next call."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfprune.cache import Recent
from tfprune.relevance.composites import Composite
from tfprune.relevance.path import Point, conductance_between, point_on_path
from tfprune.relevance.propagate import Forward, Plan, Tensors, forward, relevance_tensors
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

    Attributes:
        from_logits: whether relevance starts in front of a softmax; known after the first run.
        num_traces: how often something was traced.
    """

    def __init__(
        self, plan: Plan, composite: Composite, target: Target, output: int, start: str | None, *, units: bool
    ):
        self._plan, self._composite, self._target = plan, composite, target
        self._output, self._start, self._units = output, start, units
        self._logits = start != "softmax"
        self.from_logits = False
        self.num_traces = 0
        self.rules = tf.function(self._run_rules, autograph=False, reduce_retracing=True)
        self.score = tf.function(self._run_score, autograph=False, reduce_retracing=True)
        self.point = tf.function(self._run_point, autograph=False, reduce_retracing=True)

    def _run_rules(self, inputs: list[Any], baseline: list[Any] | None, indices: Any, start: Any) -> Tensors:
        self.num_traces += 1
        given = self._start if self._start in ("output", "one") else start

        def seed(value: Any, known: Any = None) -> tuple:
            return self._target.seed(value, indices if known is None else known)

        options = {"output": self._output, "logits": self._logits, "start": given, "units": self._units}
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

    def _run_point(
        self, inputs: list[Any], baseline: list[Any], fraction: Any, indices: Any, last: Point | None
    ) -> tuple[Point, dict[str, Any]]:
        self.num_traces += 1
        options = {"sites": self._units, "output": self._output, "logits": self._logits}

        def seed(value: Any) -> tuple:
            return self._target.seed(value, indices)

        point = point_on_path(self._plan, inputs, baseline, fraction, seed, **options)
        if last is None:
            # Nothing has been conducted yet.
            return point, {name: tf.zeros([]) for name in point.values}
        return point, conductance_between(self._plan, last, point)

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
    plan: Plan, composite: Composite, target: Target, output: int, start: str | None, *, units: bool
) -> Compiled:
    """Returns the compiled functions, those of an earlier call if there are any."""
    key = (composite, target.key, output, start, units)
    # The indices come with each call.
    bare = target._replace(indices=None)
    return _kept.get(
        plan.model, key, lambda: Compiled(plan, composite, bare, output, start, units=units), target.function
    )
