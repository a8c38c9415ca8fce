"""The public door: checks, chunks, compiled functions that are kept, and results in NumPy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.borders import public
from tfprune.data import as_batches, collect
from tfprune.graph.walk import functional, samples_at_once
from tfprune.relevance.compiled import compiled_for, plan_of
from tfprune.relevance.composites import PATH_METHODS, Composite, composite_of
from tfprune.relevance.explanation import Explanation
from tfprune.relevance.plan import Plan
from tfprune.relevance.propagate import Tensors, relevance_tensors
from tfprune.relevance.targets import Target, checked_axis, target_of
from tfprune.relevance.walk import WALKS
from tfprune.units import LayerValues, describe_unknown

# Numbers that one chunk may fill on the way forward.
_FLOATS_AT_ONCE = 2**25
_STARTS = ("output", "one", "softmax")


@public
def explain(
    model: keras.Model,
    x: Any,
    *,
    method: str | Composite = "lrp",
    target: Any = None,
    baseline: Any = None,
    output: str | int | None = None,
    start: Any = None,
    steps: int = 32,
    units: bool = True,
    layers: Iterable[str] | str | None = None,
    class_axis: int = -1,
) -> Explanation:
    """Says how much each input, each bias and each unit has to do with an output of a model.

    Methods, by name: "gradient" and "gradient_times_input"; "deconvolution"; "lrp", which divides every sum among what
    was added up, biases included ("lrp_inputs_only" leaves biases out, "lrp_epsilon" and "lrp_epsilon_plus" are the
    field's stabler ones); "blame_the_bias", the same as "lrp" without a division by anything small;
    "compare_to_baseline", which explains the difference from another input; "integrated_gradients" and "conductance",
    which add up gradients on the way from a baseline; "conductance_by_differences", the same by comparisons from point
    to point, which sees where between two points a relu switches and keeps the sum at any number of steps: for nets
    with several layers of relus, at twice the cost of a step. A `Composite` mixes rules at will.

    Where a method promises it, relevance of inputs + biases = output (or the difference from the baseline's). What is
    missing is in `.delta`: `found.inputs.sum() + sum(own.sum() for own in found.biases.values()) + found.delta.sum()`
    is `found.output.sum()`. A model that ends in a softmax is explained from its logits. One that ends in a sigmoid is
    explained as it is: the probability of class 1 is its only output, and so its target 0. Give the model up to the
    logit to explain that.

    Args:
        model: a Sequential or functional model; it runs as at inference.
        x: samples; a list for several inputs.
        method: a name or a `Composite`.
        target: the class to explain, one for each sample, None for the predicted ones, or a function of the output
            tensor that returns one number per sample.
        baseline: for methods that compare: one sample, or one per sample of x; None for zeros. Time masks are those of
            x there too.
        output: name or number of the output, for models with several.
        start: None for the method's own start; "output" or "one": relevance of the target at the start; "softmax":
            explain the probability, not the logit (methods that differentiate or compare); or an array shaped like the
            output.
        steps: stretches of the way, for methods that walk; "conductance" takes them in pairs, an odd number is one
            more.
        units: whether to look at the units of layers too, which takes a little longer.
        layers: names of layers at which to look in full shape, for `.at`; those inside a model as 'model/layer'. For
            conductance what each number there conducts; for "integrated_gradients" those of the layer itself: the
            gradients by its output on the straight way between what it gives out at the baseline and at x, while all
            that goes past it stays as at x; each layer is a walk of its own.
        class_axis: the axis of the output that holds the classes, where it is not the last.

    Returns:
        An `Explanation`.

    Raises:
        ValueError: if model, method, data, target, baseline or start do not fit, or the model's output is not finite.
        TypeError: if a layer is not known to relevance, or an argument is of the wrong kind.

    Example:
        >>> net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="sum")])
        >>> net.set_weights([np.array([[2.0], [1.0]]), np.array([0.5])])
        >>> found = explain(net, np.array([[1.0, 3.0]]), method="blame_the_bias")
        >>> found.inputs, found.biases["sum"], found.output
        (array([[2., 3.]], dtype=float32), array([[0.5]], dtype=float32), array([5.5], dtype=float32))

    Reference: Hobson, "Visualizing neural networks, how to blame the bias"; S. Bach et al. (2015); A. Shrikumar et al.
    (2017); M. Sundararajan et al. (2017); K. Dhamdhere et al. (2019).
    """
    options = {"start": start, "steps": steps, "units": units, "layers": layers, "class_axis": class_axis}
    request = _Request(model, x, method, target, baseline, output, **options)
    found = [_as_numpy(request.explain_rows(rows)) for rows in request.chunks()]
    return request.explanation(found)


@public
def tensors(
    model: keras.Model,
    x: Any,
    *,
    method: str | Composite = "lrp",
    target: Any = None,
    baseline: Any = None,
    output: str | int | None = None,
    layers: Iterable[str] | str | None = None,
    class_axis: int = -1,
) -> Tensors:
    """Relevance as tensors, differentiable with respect to inputs and weights: for a loss that looks at relevance.

    Use it inside `tf.GradientTape` and `tf.function`, or in the `train_step` of a model; layers act as at inference.

    Args:
        model: a Sequential or functional model.
        x: a tensor, or a list of one per input.
        method: a name of a method that is made of rules, or a `Composite`.
        target: a class, a tensor of classes `(samples,)`, a function of the output, or None for the predicted classes.
        baseline: a tensor (or list) with one row or one per sample; None for zeros where the method compares.
        output: name or number of the output, for models with several.
        layers: names of layers at which to look in full shape, for `.at`.
        class_axis: the axis of the output that holds the classes.

    Returns:
        `Tensors`: `.inputs` (a list), `.biases`, `.units`, `.delta` and more.

    Raises:
        ValueError: if model, method or output do not fit.
        TypeError: if a layer is not known to relevance.

    Example:
        >>> with tf.GradientTape() as tape:                                                      # doctest: +SKIP
        ...     outside = tf.reduce_sum(tf.square(tensors(net, x, target=y).inputs[0] * (1 - inside)))
        >>> gradient = tape.gradient(outside, net.trainable_variables)                           # doctest: +SKIP
    """
    if method in PATH_METHODS:
        raise ValueError(
            f"method: {method!r} is a sum over many runs; only `explain` gives it. Take a rule-made method."
        )
    composite = composite_of(method)
    plan = plan_of(model)
    number = output_number(plan, output)
    inputs = [tf.convert_to_tensor(one) for one in (x if isinstance(x, list | tuple) else [x])]
    given = None
    if composite.needs_baseline:
        given = [tf.zeros_like(one[:1]) for one in inputs] if baseline is None else baseline
        given = [tf.convert_to_tensor(one) for one in (given if isinstance(given, list | tuple) else [given])]
    wanted = Target("function", target)
    if not callable(target):
        shape, name = tuple(functional(model).outputs[number].shape), plan.output_names()[number]
        axis = checked_axis(class_axis, shape, name)
        wanted = target_of(None, 0, shape, name, axis) if target is None else Target("index", axis=axis)
    indices = None
    if wanted.kind == "index":
        indices = tf.broadcast_to(tf.cast(target, "int32"), tf.shape(inputs[0])[:1])

    def seed(value: Any, known: Any = None) -> tuple:
        return wanted.seed(value, indices if known is None else known)

    names = plan.checked_layers(layers)
    return relevance_tensors(plan, composite, inputs, given, seed, output=number, layers=names)


class _Request:
    """One call of `explain`, checked."""

    def __init__(self, model: Any, x: Any, method: Any, target: Any, baseline: Any, output: Any, **options: Any):
        start, steps, units = (options[name] for name in ("start", "steps", "units"))
        functional(model)
        self.model, self.method, self.steps = model, method, steps
        self.composite = composite_of(method)
        self.is_path = method in PATH_METHODS if isinstance(method, str) else False
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise ValueError(f"steps: expected a whole number of at least 1, received {steps!r}.")
        self.plan = plan_of(model)
        self.output = output_number(self.plan, output)
        self.inputs = [np.asarray(array) for array in collect(as_batches(x, model, targets="ignore")).inputs]
        self.num_samples = len(self.inputs[0])
        self.baseline = self._checked_baseline(baseline)
        shape = tuple(functional(model).outputs[self.output].shape)
        self.output_name = self.plan.output_names()[self.output]
        self.target = target_of(target, self.num_samples, shape, self.output_name, options["class_axis"])
        self.start = self._checked_start(start, shape)
        kind = "array" if isinstance(self.start, np.ndarray) else self.start
        units = method != "integrated_gradients" if self.is_path else bool(units)
        self.layers = self.plan.checked_layers(options["layers"])
        looks = {"units": units, "layers": self.layers}
        self.compiled = compiled_for(self.plan, self.composite, self.target, self.output, kind, **looks)

    def _checked_baseline(self, baseline: Any) -> list[np.ndarray] | None:
        if not self.composite.needs_baseline and not self.is_path:
            if baseline is not None:
                raise ValueError(
                    f"baseline: method {self.method!r} compares with none. Methods that do: 'compare_to_baseline', "
                    "'integrated_gradients', 'conductance', and composites with such rules."
                )
            return None
        if self.is_path and any(array.dtype.kind not in "f" for array in self.inputs):
            raise ValueError(
                f"method {self.method!r} walks through the input space, but the model reads integers or words. Explain "
                "the part behind the embedding, or take 'compare_to_baseline'."
            )
        if baseline is None:
            return [np.zeros_like(array[:1]) for array in self.inputs]
        given = baseline if isinstance(baseline, list | tuple) else [baseline]
        if len(given) != len(self.inputs):
            raise ValueError(f"baseline: the model has {len(self.inputs)} inputs, received {len(given)} arrays.")
        return [self._fitted(np.asarray(b), x) for b, x in zip(given, self.inputs, strict=True)]

    def _fitted(self, baseline: np.ndarray, x: np.ndarray) -> np.ndarray:
        baseline = baseline[None] if baseline.shape == x.shape[1:] else baseline
        if baseline.shape[1:] != x.shape[1:] or len(baseline) not in (1, len(x)):
            raise ValueError(
                f"baseline: expected one sample {x.shape[1:]}, or one for each of the {len(x)} samples, received the "
                f"shape {baseline.shape}. For an average baseline give x.mean(axis=0)."
            )
        if not np.isfinite(baseline).all():
            raise ValueError("baseline: there are values that are NaN or infinite.")
        return baseline.astype(x.dtype)

    def _checked_start(self, start: Any, shape: tuple) -> Any:
        if start is None or (isinstance(start, str) and start in _STARTS):
            return start
        if isinstance(start, str):
            raise ValueError(f"start: {describe_unknown([start], _STARTS)}")
        start = np.asarray(start, self.plan.dtype)
        if start.shape != (self.num_samples, *shape[1:]) or self.is_path:
            raise ValueError(
                f"start: expected None, 'output', 'one', 'softmax', or (not for path methods) an array of shape "
                f"{(self.num_samples, *shape[1:])}, received the shape {start.shape}."
            )
        return start

    def chunks(self) -> list[slice]:
        """Returns the rows that are explained together."""
        size = samples_at_once(self.model, _FLOATS_AT_ONCE)
        return [slice(start, min(start + size, self.num_samples)) for start in range(0, self.num_samples, size)]

    def explain_rows(self, rows: slice) -> dict:
        """Returns the relevance of some samples as a dictionary of tensors."""
        inputs = [tf.constant(array[rows]) for array in self.inputs]
        baseline = None
        if self.baseline is not None:
            baseline = [tf.constant(b if len(b) == 1 else b[rows]) for b in self.baseline]
        indices = None if self.target.indices is None else tf.constant(self.target.indices[rows])
        if self.is_path:
            return self._walk(inputs, baseline, indices)
        start = tf.constant(self.start[rows]) if isinstance(self.start, np.ndarray) else None
        return self.compiled.rules(inputs, baseline, indices, start)._asdict()

    def _walk(self, inputs: list[Any], baseline: list[Any], indices: Any) -> dict:
        compiled, count = self.compiled, tf.constant(len(inputs[0]))
        score, found = compiled.score(inputs, indices, count)
        indices = found if indices is None else indices
        baseline_score, _ = compiled.score(baseline, indices, count)
        totals, units, at = WALKS[self.method](compiled, inputs, baseline, indices, self.steps, self.layers)
        differences = [x - b for x, b in zip(inputs, baseline, strict=True)]
        shares = [g * tf.cast(d, g.dtype) for g, d in zip(totals, differences, strict=True)]
        explained = sum(tf.reduce_sum(s, axis=list(range(1, len(s.shape)))) for s in shares)
        return {
            "inputs": shares,
            "biases": {},
            "units": units,
            "at": at,
            "output": score,
            "baseline_output": baseline_score,
            "delta": score - baseline_score - explained,
            "multipliers": totals,
            "unit_multipliers": None,
            "target": indices,
        }

    def explanation(self, found: list[dict]) -> Explanation:
        """Joins the chunks."""
        whole = _joined(found)
        if not np.isfinite(whole["output"]).all():
            raise ValueError(
                f"model {self.model.name!r} gives outputs that are NaN or infinite on these data. Check its weights."
            )

        if whole["baseline_output"] is not None and not np.isfinite(whole["baseline_output"]).all():
            raise ValueError(
                f"baseline: model {self.model.name!r} gives outputs there that are NaN or infinite. Where a layer "
                "masks steps of zeros, a baseline of zeros has no step left: give another one, such as x.mean(axis=0)."
            )

        def shaped(arrays: list | None) -> Any:
            return arrays if arrays is None or len(arrays) > 1 else arrays[0]

        place = f"the logits of {self.output_name!r}" if self.compiled.from_logits else f"output {self.output_name!r}"
        multipliers = whole["unit_multipliers"]
        return Explanation(
            inputs=shaped(whole["inputs"]),
            biases=LayerValues(whole["biases"]),
            units=LayerValues(whole["units"]),
            at=LayerValues(whole["at"]),
            delta=whole["delta"],
            multipliers=shaped(whole["multipliers"]),
            unit_multipliers=None if multipliers is None else LayerValues(multipliers),
            output=whole["output"],
            baseline_output=whole["baseline_output"],
            target=whole["target"],
            method=self.method if isinstance(self.method, str) else "composite",
            started_from=place,
        )


def output_number(plan: Plan, output: str | int | None) -> int:
    """Returns which output is meant."""
    names = plan.output_names()
    if output is None:
        if len(names) > 1:
            raise ValueError(
                f"output: model {plan.model.name!r} has {len(names)} outputs, {', '.join(map(repr, names))}. Say which "
                "one is to be explained: output='name'."
            )
        return 0
    if isinstance(output, str):
        if output not in names:
            raise ValueError(f"output: {describe_unknown([output], names)}")
        return names.index(output)
    if isinstance(output, bool) or not isinstance(output, int) or not 0 <= output < len(names):
        raise ValueError(f"output: expected a name or a number from 0 to {len(names) - 1}, received {output!r}.")
    return output


def _as_numpy(found: dict) -> dict:
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf.numpy(), found)


def _joined(found: list[dict]) -> dict:
    return keras.tree.map_structure(lambda *parts: None if parts[0] is None else np.concatenate(parts), *found)
