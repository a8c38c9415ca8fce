"""Depth: which whole layers stay, all residual blocks of a layer together."""

from __future__ import annotations

import numbers

import keras
import numpy as np

from tfprune.borders import public
from tfprune.graph import unit_groups
from tfprune.select.checks import checked_scores
from tfprune.ties import rising_order
from tfprune.units import LayerValues, check_like


@public
def keep_layers(model: keras.Model, scores: LayerValues, count: int) -> LayerValues:
    """Keeps so many layers of a model, those whose residual blocks have the highest scores; the others go whole.

    A layer here is what holds residual blocks in one piece of code, as the layers of a transformer hold attention and
    feed-forward. Where nothing else goes, a model whose constructor says its number of layers keeps its class.

    Args:
        model: a Keras model.
        scores: of the group "blocks", as `saliency.loss_change(model, data, layers="blocks")` makes them; others are
            not looked at. A layer is worth the mean of its blocks; of equal ones the first goes first.
        count: how many layers stay, from 1.

    Returns:
        The mask of the blocks: bool by group name, True = kept.

    Raises:
        TypeError: if `model` is no Keras model, or `count` no integer.
        ValueError: if the model has no blocks, there are no scores of them, or fewer layers than `count`.

    Example:
        >>> scores = tfprune.saliency.loss_change(net, (x, y), layers="blocks")                  # doctest: +SKIP
        >>> half = tfprune.remove(net, keep_layers(net, scores, 6))                              # doctest: +SKIP

    Reference: H. Sajjad et al. (2023), "On the effect of dropping layers of pre-trained transformer models".
    """
    scores, graph = checked_scores(scores), unit_groups(model)
    name = graph.blocks_name
    if not graph.blocks:
        raise ValueError(f"keep_layers: model {model.name!r} has no residual blocks that could go.")
    if name not in scores:
        raise ValueError(
            f"keep_layers: there are no scores of {name!r}, only of {', '.join(scores)}. "
            f"Make them by saliency.loss_change(model, data, layers={name!r})."
        )
    values = check_like({name: scores[name]}, {name: len(graph.blocks)}, "scores")[name]
    layers = [np.array(columns) - graph.num_units for columns in graph.layers_of_blocks.values()]
    if isinstance(count, bool) or not isinstance(count, numbers.Integral):
        raise TypeError(f"count: expected an integer, received {count!r}.")
    if not 1 <= count <= len(layers):
        raise ValueError(f"count: expected 1 to {len(layers)}, the layers of {model.name!r}, received {count!r}.")
    order = rising_order(np.array([values[own].mean() for own in layers]))
    on = np.ones(len(values), bool)
    for number in order[: len(layers) - int(count)].tolist():
        on[layers[number]] = False
    return LayerValues({name: on})
