"""The engine: runs a model forward as a list of steps, and relevance backward through it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from tfprune.graph.walk import run_flat
from tfprune.layers.opened import HeldWeight, SizedArray
from tfprune.relevance import (  # noqa: F401  (they fill the table)
    rows_attention,
    rows_kernel,
    rows_operation,
    rows_sequence,
    rows_shape,
)
from tfprune.relevance.composites import Composite
from tfprune.relevance.plan import Plan
from tfprune.relevance.rules import KINDS
from tfprune.relevance.steps import Recorder, Step, Trace, Value
from tfprune.relevance.table import row_of


class Tensors(NamedTuple):
    """Relevance as tensors, differentiable with respect to inputs and weights.

    Attributes:
        inputs: relevance of each input of the model, shaped like it.
        biases: relevance of each bias, `(samples, channels)` by name.
        units: relevance of the units of each layer, summed over positions, `(samples, units)` by name.
        output: the number that was explained, `(samples,)`.
        baseline_output: the same at the baseline, or None.
        total: what the relevances should sum to, `(samples,)`.
        delta: `total` less all relevance of inputs and biases, `(samples,)`.
        multipliers: Q of each input where multipliers flow, or None.
        unit_multipliers: Q of each unit, averaged over positions, `(samples, units)` by name, or None.
        target: the explained class of each sample, or None.
        at: relevance at the layers that were named, shaped like their outputs, by name.
    """

    inputs: list[Any]
    biases: dict[str, Any]
    units: dict[str, Any]
    output: Any
    baseline_output: Any
    total: Any
    delta: Any
    multipliers: list[Any] | None
    unit_multipliers: dict[str, Any] | None
    target: Any
    at: dict[str, Any]


class Forward(NamedTuple):
    """A model that has run.

    Attributes:
        steps: what it did.
        inputs: the values of its inputs.
        output: the value of the chosen output.
        sites: the axis of channels and the values of each layer that makes units.
        outputs: what the layers gave out that were to be looked at.
        from_logits: whether `output` is what a softmax was to be taken of.
    """

    steps: list[Step]
    inputs: list[Value]
    output: Value
    sites: dict[str, tuple[int, list[Value]]]
    outputs: dict[str, Value]
    from_logits: bool


def forward(
    plan: Plan,
    composite: Composite,
    inputs: list[Any],
    baseline: list[Any] | None,
    output: int,
    logits: bool,
    *,
    layers: tuple[str, ...] = (),
    instead: dict[str, Any] | None = None,
) -> Forward:
    """Runs a model step by step.

    Args:
        plan: of the model.
        composite: gives each step its rule.
        inputs: one tensor per input.
        baseline: one tensor per input with one row or as many as samples, or None.
        output: the number of the output to explain.
        logits: whether to stop in front of a softmax at the end.
        layers: names of layers whose outputs are to be looked at.
        instead: tensors that take the place of such outputs, by the names that `Forward.outputs` has for them.

    Raises:
        TypeError: if a layer has no row, or its row cannot read the call.
    """
    recorder = Recorder(composite, plan.dtype)

    def entering(tensor: Any) -> Any:
        return tf.cast(tensor, plan.dtype) if tensor.dtype.is_floating else tensor

    references = [None] * len(inputs)
    if baseline is not None:
        # A row for each sample, as some layers fold samples and positions together.
        references = [entering(tf.broadcast_to(b, tf.shape(x))) for b, x in zip(baseline, inputs, strict=True)]
    values = [Value(entering(x), reference) for x, reference in zip(inputs, references, strict=True)]
    seen: dict[int, list[Value]] = {}
    names = {(id(tensor), turn): name for name, (tensor, turn) in plan.names_of_outputs(layers).items()}
    looked: dict[tuple[int, int], Value] = {}

    def call(node: Any, args: tuple, kwargs: dict) -> list[Value]:
        outputs = _called(plan, recorder, node, args, kwargs)
        for number, reference in enumerate(node.outputs):
            own = seen.setdefault(id(reference), [])
            place = id(reference), len(own)
            own.append(outputs[number])
            if place in names:
                other = None if instead is None else instead.get(names[place])
                looked[place] = outputs[number] = _given_out(recorder, node.operation, outputs[number], other)
        return outputs

    result = run_flat(plan.model, values, call)[output]
    from_logits = logits and result.logits is not None
    if from_logits:
        result = result.logits
    if composite.by_name:
        kinds: dict[str, set[str]] = {name: set() for name in plan.names.values()}
        for step in recorder.steps:
            kinds.setdefault(step.name, set()).update({step.kind} & set(KINDS))
        composite.check_names(kinds)
    sites = {}
    for site in plan.sites:
        shown = [own for tensor in site.tensors for own in seen.get(id(tensor), ())]
        if shown:
            sites[site.name] = site.axis, shown
    found = {name: looked[id(tensor), turn] for name, (tensor, turn) in plan.names_of_outputs(layers).items()}
    return Forward(recorder.steps, values, result, sites, found, from_logits)


def _given_out(recorder: Recorder, operation: Any, value: Value, instead: Any) -> Value:
    """What a layer gives out as a value of its own: the same one may be read elsewhere, or inside the layer."""
    if instead is not None:
        return Value(instead, mask=value.mask)
    copy = Trace(recorder, operation, operation.name).move(tf.identity, value)
    copy.mask, copy.logits = value.mask, value.logits
    return copy


def _called(plan: Plan, recorder: Recorder, node: Any, args: tuple, kwargs: dict) -> list[Value]:
    operation = node.operation
    name = plan.names[id(operation)]
    entered = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Value)]
    if not isinstance(operation, keras.layers.Embedding):
        # Numbers that are no floats are masks and indices: given, without relevance.
        args, kwargs = keras.tree.map_structure(_plain, (args, kwargs))
    values = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Value)]
    # So are weights and arrays that the code of an opened layer reads, and what is made of them alone.
    is_given = isinstance(operation, HeldWeight | SizedArray)
    is_given |= bool(entered) and all(own.is_given for own in entered)
    if is_given or not any(tf.as_dtype(tensor.dtype).is_floating for tensor in node.outputs):
        given = keras.tree.map_structure(lambda leaf: leaf.tensor if isinstance(leaf, Value) else leaf, (args, kwargs))
        tensors = keras.tree.flatten(operation(*given[0], **given[1]))
        return [Value(tensor, is_given=is_given) for tensor in tensors]
    if not values:
        raise TypeError(
            f"layer {name!r} ({type(operation).__name__}) reads integers or words, which only an Embedding may do. "
            "Explain the part of the model behind it."
        )
    if kwargs.get("training") is True:
        raise ValueError(
            f"layer {name!r} was built into the graph with training=True, so what it computes is random or hangs on "
            "the batch and has no single explanation. Build the model without training=True."
        )
    row = row_of(operation)
    trace = Trace(recorder, operation, name)
    if row is None:
        if not recorder.composite.is_gradient:
            raise TypeError(_no_row(operation, name))
        outputs = _whole(trace, args, kwargs, len(node.outputs))
    else:
        try:
            result = row(trace, *args, **kwargs)
        except Exception as error:  # A row may be a stranger's; whatever it raises is told with its layer.
            raise TypeError(f"relevance cannot read layer {name!r} ({type(operation).__name__}): {error}") from error
        outputs = list(result) if isinstance(result, list | tuple) else [result]
        if len(outputs) != len(node.outputs) or not all(isinstance(own, Value) for own in outputs):
            raise TypeError(
                f"relevance cannot read layer {name!r} ({type(operation).__name__}): its row must return one Value, as "
                f"the methods of the trace do, for each of its {len(node.outputs)} outputs; received {result!r}."
            )
    _pass_masks(operation, values, outputs)
    return outputs


def _no_row(operation: Any, name: str) -> str:
    return (
        f"relevance knows no layer of the class {type(operation).__name__} (layer {name!r}). Teach it what the layer "
        "does with tfprune.relevance.register, or take a method that needs gradients alone: 'gradient', "
        "'gradient_times_input', 'integrated_gradients', 'conductance'."
    )


def _plain(leaf: Any) -> Any:
    return leaf.tensor if isinstance(leaf, Value) and not leaf.dtype.is_floating else leaf


def _whole(trace: Trace, args: tuple, kwargs: dict, count: int) -> list[Value]:
    """A layer without a row, differentiated as it is; one step for each of its outputs."""
    values = [leaf for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Value)]

    def output(part: int, *tensors: Any) -> Any:
        given = iter(tensors)
        full = keras.tree.map_structure(lambda leaf: next(given) if isinstance(leaf, Value) else leaf, (args, kwargs))
        return tf.cast(keras.tree.flatten(trace.layer(*full[0], **full[1]))[part], trace.dtype)

    return [trace.whole(partial(output, part), *values) for part in range(count)]


def _pass_masks(operation: Any, values: list[Value], outputs: list[Value]) -> None:
    """Carries the time masks on, as Keras does."""
    masks = [value.mask for value in values]
    makes = isinstance(operation, keras.layers.Embedding | keras.layers.Masking)
    if not isinstance(operation, keras.layers.Layer) or not operation.supports_masking and not makes:
        return
    if not makes and all(mask is None for mask in masks):
        return
    one = len(values) == 1
    tensors = [value.tensor for value in values]
    found = operation.compute_mask(tensors[0] if one else tensors, masks[0] if one else masks)
    found = found if isinstance(found, list | tuple) else [found] * len(outputs)
    for value, mask in zip(outputs, found, strict=False):
        if mask is not None and value.mask is None:
            value.mask = mask


def backward(run: Forward, composite: Composite, start: Any, *, blame: bool) -> tuple[dict[int, Any], dict[str, Any]]:
    """Sends relevance from the output back through all steps.

    Args:
        run: what `forward` returned.
        composite: the same as there.
        start: relevance (or multiplier) of the output, shaped like it.
        blame: whether biases take their share.

    Returns:
        The relevance of every value, by `id`, and of every bias, `(samples, channels)` by name.
    """
    parts: dict[int, list[Any]] = {id(run.output): [start]}
    found: dict[int, Any] = {}
    biases: dict[str, Any] = {}
    for step in reversed(run.steps):
        if id(step.result) not in parts:
            continue
        outgoing = _added(parts[id(step.result)])
        found[id(step.result)] = outgoing
        step.blamed.clear()
        for value, share in zip(step.values, _passed(step, composite, outgoing), strict=True):
            if share is not None:
                parts.setdefault(id(value), []).append(share)
        for name, share in step.blamed if blame else ():
            biases[name] = share if name not in biases else biases[name] + share
    for value in (*run.inputs, *run.outputs.values()):
        if id(value) in parts and id(value) not in found:
            found[id(value)] = _added(parts[id(value)])
    return found, dict(reversed(biases.items()))


def _added(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tf.add_n(parts)


def _passed(step: Step, composite: Composite, outgoing: Any) -> list[Any]:
    if step.kind == "embedding":
        value = step.output if step.reference is None else step.output - step.reference
        return [tf.reduce_sum(outgoing if composite.flow == "relevance" else outgoing * value, axis=-1)]
    if step.rule is None:
        return step.pulled(outgoing)
    return step.rule.back(step, outgoing, composite.flow != "relevance")


def relevance_tensors(
    plan: Plan,
    composite: Composite,
    inputs: list[Any],
    baseline: list[Any] | None,
    seed: Callable[[Any], tuple[Any, Any]],
    *,
    output: int = 0,
    logits: bool = True,
    start: Any = None,
    note: Callable[[Forward], None] | None = None,
    units: bool = True,
    layers: tuple[str, ...] = (),
) -> Tensors:
    """Explains a batch, all as tensors.

    Args:
        plan: of the model.
        composite: the rules.
        inputs: one tensor per input.
        baseline: one tensor per input, or None.
        seed: takes the output's values and gives `(target or None, scores (samples,), their gradient by the output)`.
        output: the number of the output.
        logits: whether to start in front of a softmax at the end.
        start: None for what the composite's flow starts with, "one", "output", or a tensor shaped like the output.
        note: called with the run before relevance flows, if given.
        units: whether to sum up the relevance of units.
        layers: names of layers at which to look in full shape.
    """
    run = forward(plan, composite, inputs, baseline, output, logits, layers=layers)
    if note is not None:
        note(run)
    target, score, slope = seed(run.output.tensor)
    value = run.output.tensor
    start = ("output" if composite.flow == "relevance" else "one") if start is None else start
    first = (
        slope * value if isinstance(start, str) and start == "output" else slope if isinstance(start, str) else start
    )
    found, biases = backward(run, composite, first, blame=baseline is None)
    multiplied = composite.flow == "multipliers"
    axes = list(range(1, len(value.shape)))
    total, baseline_score = score, None
    if baseline is not None:
        baseline_score = seed(run.output.reference, target)[1]
        total = score - baseline_score
    if not isinstance(start, str):
        total = tf.reduce_sum(first * value if multiplied else first, axis=axes)
    multipliers = [found.get(id(own), tf.zeros_like(tf.cast(own.tensor, plan.dtype))) for own in run.inputs]
    shares = [_times_value(own, q) if multiplied else q for own, q in zip(run.inputs, multipliers, strict=True)]
    explained = [tf.reduce_sum(share, axis=list(range(1, len(share.shape)))) for share in shares]
    explained += [tf.reduce_sum(share, axis=1) for share in biases.values()]
    own_units, own_multipliers = _unit_relevance(run, found, multiplied) if units else ({}, {})
    return Tensors(
        inputs=shares,
        biases=biases,
        units=plan.own_units(own_units),
        output=score,
        baseline_output=baseline_score,
        total=total,
        delta=total - tf.add_n(explained),
        multipliers=multipliers if multiplied else None,
        unit_multipliers=plan.own_units(own_multipliers) if multiplied else None,
        target=target,
        at={name: relevance_at(run, value, found, multiplied) for name, value in run.outputs.items()},
    )


def relevance_at(run: Forward, value: Value, found: dict[int, Any], multiplied: bool) -> Any:
    """Returns the relevance of what a layer gave out; where that is a softmax at the start, that of its logits."""
    if run.from_logits and value.logits is run.output:
        value = run.output
    if id(value) not in found:
        return tf.zeros_like(value.tensor)
    return _times_value(value, found[id(value)]) if multiplied else found[id(value)]


def _times_value(value: Value, multiplier: Any) -> Any:
    if not value.dtype.is_floating:
        # An entry of a vocabulary is a one; the embedding has multiplied already.
        return multiplier
    return multiplier * (value.tensor if value.reference is None else value.tensor - value.reference)


def _unit_relevance(run: Forward, found: dict[int, Any], multiplied: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    units, multipliers = {}, {}
    for name, (axis, values) in run.sites.items():
        known = [value for value in values if id(value) in found]
        if not known:
            continue

        def reduced(tensors: list[Any], reduce: Callable, axis: int = axis) -> Any:
            parts = []
            for tensor in tensors:
                rank = len(tensor.shape)
                others = [k for k in range(1, rank) if k != axis % rank]
                parts.append(reduce(tensor, axis=others) if others else tensor)
            return _added(parts)

        q = [found[id(value)] for value in known]
        shares = [_times_value(value, own) for value, own in zip(known, q, strict=True)] if multiplied else q
        units[name] = reduced(shares, tf.reduce_sum)
        if multiplied:
            multipliers[name] = reduced(q, tf.reduce_mean)
    return units, multipliers
