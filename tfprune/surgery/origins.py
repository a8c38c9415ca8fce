"""What a model was made of that Keras cannot build anew: the configuration of its original, and the cuts."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import keras
import numpy as np

from tfprune.borders import in_one_line
from tfprune.graph.nodes import nodes_in
from tfprune.graph.walk import functional
from tfprune.surgery.rebuild import Cut, Rebuild

ORIGIN = "_tfprune_origin"


@dataclass(frozen=True)
class CutStep:
    """What was cut: the units that stayed, the form, how many each group had, and the layers that got a bias.

    `on` is None for other changes than a cut. Layers are the numbers of their calls: names are numbered as Keras likes.
    """

    on: np.ndarray | None
    form: str
    sizes: list[int]
    with_bias: list[int]


@dataclass(frozen=True)
class Origin:
    """What a model in the form "copy" or "graph" was made of: the original's configuration, and the cuts.

    `reason` says why there is no configuration.
    """

    config: dict | None
    reason: str
    steps: tuple[CutStep, ...]


def origin_of(model: keras.Model) -> Origin | None:
    """Returns what a model in the form "copy" was made of; None for every other model."""
    origin = vars(model).get(ORIGIN)
    return origin if isinstance(origin, Origin) else None


def origin_after(rebuilt: Rebuild, form: str) -> Origin:
    """Returns what a rebuilt model in a form was made of, with what its own original was made of."""
    graph, before = rebuilt.graph, origin_of(rebuilt.graph.model)
    numbers = {id(node.operation): number for number, node in enumerate(nodes_in(functional(graph.model)))}
    on = rebuilt.on if isinstance(rebuilt, Cut) else None
    step = CutStep(on, form, list(graph.sizes.values()), sorted(numbers[key] for key in rebuilt.with_bias))
    if before is not None:
        return Origin(before.config, before.reason, (*before.steps, step))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Origin(keras.saving.serialize_keras_object(graph.model), "", (step,))
    except Exception as error:  # A class without a configuration, or with one that cannot be written.
        return Origin(None, in_one_line(error), (step,))
