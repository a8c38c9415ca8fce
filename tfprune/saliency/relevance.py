"""Scores of units from relevance: how much of what a model says passes through each unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

from tfprune.borders import public
from tfprune.data import as_batches
from tfprune.masking import refuse_masked
from tfprune.relevance import Composite, explain
from tfprune.relevance.plan import shown_columns, unit_totals
from tfprune.saliency.units import by_group, check_data, chosen_groups
from tfprune.units import LayerValues


@public
def relevance(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    method: str | Composite = "blame_the_bias",
    baseline: Any = None,
    target: Any = None,
    class_axis: int = -1,
    signed: bool = False,
) -> LayerValues:
    """Scores each unit by the relevance that passes through it: the mean over samples of its absolute value.

    Relevance is summed over positions inside the absolute value, and over the layers of a unit's group. Needs no
    targets: by default each sample is explained by the class that the model predicts. Take it where units are to be
    kept that make up the model's answers, right or wrong. The heads of attention show in no tensor and score zero.

    Not comparable between groups of different sizes: what the units of a layer are given adds up to about the same in
    every layer.

    Args:
        model: a Sequential or functional model with one output.
        data: inputs, whatever `model.fit` takes; targets are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        method: a method of `tfprune.relevance.explain`, or a `Composite`.
        baseline: one sample, for methods that compare; None for zeros.
        target: the class to explain for all samples, a function of the output, or None for the predicted class.
        class_axis: the axis of the output that holds the classes, where it is not the last.
        signed: True for the mean of the relevance itself, which may be negative.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the output.

    Raises:
        TypeError: if `model` is no Keras model, there are no data, or a layer is not known to relevance.
        ValueError: if model, names, data, method, target or baseline do not fit, or the model is masked already.

    Example:
        >>> scores = relevance(net, x, method="lrp_epsilon")                                     # doctest: +SKIP

    Reference: S.-K. Yeom et al. (2021), "Pruning by explaining: a novel criterion for deep neural network pruning".
    """
    check_data(data, "relevance")
    if isinstance(method, str) and method == "integrated_gradients":
        raise ValueError("saliency.relevance: 'integrated_gradients' says nothing of units; take method='conductance'.")
    options = {"method": method, "baseline": baseline, "target": target, "class_axis": class_axis}
    return _scores(model, data, layers, signed, **options)


@public
def conductance(
    model: keras.Model,
    data: Any = None,
    *,
    layers: Iterable[str] | str | None = None,
    baseline: Any = None,
    target: Any = None,
    class_axis: int = -1,
    steps: int = 16,
    signed: bool = False,
) -> LayerValues:
    """Scores each unit by what it conducts on the way from a baseline to a sample: mean absolute value over samples.

    The integral of dF / dy along the change of y, by parabolas through three points each; over a layer that cuts the
    net in two that makes F(x) less F(baseline).

    Not comparable between groups of different sizes: what the units of a layer are given adds up to about the same in
    every layer.

    Args:
        model: a Sequential or functional model with one output and float inputs.
        data: inputs, whatever `model.fit` takes; targets are not looked at.
        layers: names of groups or layers; None takes all units that can be removed.
        baseline: one sample; None for zeros.
        target: the class to explain for all samples, a function of the output, or None for the predicted class.
        class_axis: the axis of the output that holds the classes, where it is not the last.
        steps: stretches of the way; an odd number is one more.
        signed: True for the mean of the conductance itself, which may be negative.

    Returns:
        One score per unit, `(units,)` by group name, in the unit of the output.

    Raises:
        TypeError: if `model` is no Keras model, or there are no data.
        ValueError: if model, names, data, target, baseline or steps do not fit, or the model is masked already.

    Example:
        >>> scores = conductance(net, x, steps=32)                                               # doctest: +SKIP

    Reference: K. Dhamdhere et al. (2019), "How important is a neuron?", equation 2.
    """
    check_data(data, "conductance")
    options = {
        "method": "conductance",
        "baseline": baseline,
        "target": target,
        "class_axis": class_axis,
        "steps": steps,
    }
    return _scores(model, data, layers, signed, **options)


def _scores(model: keras.Model, data: Any, layers: Any, signed: bool, **options: Any) -> LayerValues:
    refuse_masked(model)
    graph, names = chosen_groups(model, layers)
    columns = shown_columns(graph)
    totals, num_samples = np.zeros(graph.num_units), 0
    for batch in as_batches(data, model, targets="ignore"):
        inputs = batch.inputs if len(batch.inputs) > 1 else batch.inputs[0]
        found = explain(model, inputs, **options).units
        units = unit_totals(found, columns, graph)
        totals += (units if signed else np.abs(units)).sum(axis=0)
        num_samples += len(batch.inputs[0])
    return by_group(graph, names, totals / num_samples)
