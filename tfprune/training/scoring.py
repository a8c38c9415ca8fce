"""What the ways to prune while training have in common: checks at the border, scores, and the loss that is noted."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from tfprune.compiling import ByLengths
from tfprune.data import as_batches
from tfprune.graph.finite import check_finite_weights
from tfprune.graph.walk import functional
from tfprune.objectives import sample_loss
from tfprune.schedules import Schedule
from tfprune.select import SCOPES
from tfprune.units import LayerValues

_LEAST_SAMPLES = 10


def name_of(function: Any) -> str:
    """Returns what to call a function in a message, that inside a `functools.partial` too."""
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)


def check_saliency(what: str, saliency: Any) -> None:
    """Raises TypeError if what should score units is no function, or a schedule."""
    if isinstance(saliency, Schedule) or not callable(saliency):
        swapped = " Are saliency and schedule swapped?" if isinstance(saliency, Schedule) else ""
        raise TypeError(
            f"{what}: `saliency` expects a function (model, data) -> LayerValues, such as "
            f"tfprune.saliency.weight_norm, received an object of type {type(saliency).__name__}.{swapped}"
        )


def check_selection(what: str, scope: Any, min_units: Any) -> None:
    """Raises ValueError if the arguments of `keep_top` are out of their range."""
    if scope not in SCOPES:
        raise ValueError(f"{what}: `scope` expects one of {', '.join(map(repr, SCOPES))}, received {scope!r}.")
    if isinstance(min_units, bool) or not isinstance(min_units, int | np.integer) or min_units < 1:
        raise ValueError(f"{what}: `min_units` expects a whole number of at least 1, received {min_units!r}.")


def call_saliency(saliency: Callable, model: keras.Model, data: Any, layers: Any) -> LayerValues:
    """Returns the scores, asked for by `layers` if the function knows that argument.

    Raises:
        TypeError: if what it returns is no mapping of names to arrays.
        ValueError: if a weight of the model is NaN or infinite.
    """
    check_finite_weights(model)
    knows = layers is not None and "layers" in inspect.signature(saliency).parameters
    with naming_data(f"The saliency {name_of(saliency)!r}, on the data for scores (not those of fit)"):
        scores = saliency(model, data, layers=layers) if knows else saliency(model, data)
    try:
        return scores if isinstance(scores, LayerValues) else LayerValues(scores)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The saliency {name_of(saliency)!r} must return LayerValues of scores: {error}") from error


@contextlib.contextmanager
def naming_data(what: str) -> Iterator[None]:
    """Says in messages which data are meant: `fit` has others."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}") from error


def check_enough(data: Any, model: keras.Model, what: str, targets: str = "optional") -> None:
    """Raises ValueError, or TypeError, if the data do not fit or are too few samples for a mean.

    Args:
        data: whatever `model.fit` takes.
        model: the model.
        what: what messages call the data.
        targets: as for `as_batches`.
    """
    with naming_data(what):
        batches = as_batches(data, model, targets=targets)
    count = batches.num_samples
    if count is None:
        count = 0
        for batch in itertools.islice(batches, _LEAST_SAMPLES):
            count += len(batch.inputs[0])
    if count < _LEAST_SAMPLES:
        raise ValueError(
            f"{what}: {count} samples are too few for means of units, expected at least {_LEAST_SAMPLES}; about 1000 "
            "are good."
        )


def mean_loss(model: keras.Model, data: Any) -> Callable[[], float | None]:
    """Returns a function, traced once, that gives the mean loss on the data now.

    Without targets or a compiled loss it gives None.
    """
    batches = as_batches(data, model)
    if getattr(model, "loss", None) is None or next(iter(batches)).targets is None:
        return lambda: None
    per_sample = sample_loss(model)
    struct = functional(model)._inputs_struct

    @ByLengths
    def total(inputs: list[Any], targets: Any, weights: Any) -> Any:
        losses = per_sample(targets, model(tree.pack_sequence_as(struct, inputs), training=False))
        losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
        return tf.reduce_sum(tf.cast(losses, "float64"))

    def mean() -> float:
        sums, count = 0.0, 0
        for batch in batches:
            parts = tree.map_structure(lambda x: None if x is None else tf.convert_to_tensor(x), tuple(batch))
            sums += float(total(*parts))
            count += len(batch.inputs[0])
        return sums / count

    return mean
