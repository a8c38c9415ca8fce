"""Compiles a new model as the one that it was made of, with what the optimizer remembers of what is left."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any

import keras
from keras import tree

from tfprune.borders import warn
from tfprune.surgery.carrying import carry_moments
from tfprune.surgery.rebuild import Cut, Rebuild


def compile_like(old: keras.Model, rebuilt: Rebuild, *, keep_optimizer: bool) -> None:
    """Compiles the new model with the old one's own loss, metrics and a fresh optimizer of the same settings."""
    new = rebuilt.model
    if not old.compiled or old._compile_config is None:
        if keep_optimizer:
            raise ValueError(f"keep_optimizer: model {old.name!r} is not compiled, so it has no optimizer.")
        return
    arguments = dict(old._compile_config.config)
    arguments["optimizer"] = old.optimizer.from_config(old.optimizer.get_config())
    for key in ("metrics", "weighted_metrics"):
        arguments[key] = tree.map_structure(_fresh_metric, arguments.get(key))
    accepted = inspect.signature(new.compile).parameters
    new.compile(**{key: value for key, value in arguments.items() if key in accepted or "kwargs" in accepted})
    if keep_optimizer:
        gone = rebuilt.removal.variables if isinstance(rebuilt, Cut) else ()
        carry_moments(old.optimizer, new.optimizer, _in_order_of(old, rebuilt, gone), rebuilt.carried, gone)


def _in_order_of(old: keras.Model, rebuilt: Rebuild, gone: Collection[int]) -> list[Any]:
    """Returns the new model's trainable variables in the order of the old one's, which need not be its own.

    A functional model counts its layers as they are called, a subclassed one as they are held.
    """
    pairs, mine = rebuilt.new_variables(), {id(own) for own in rebuilt.model.variables}
    found = [pairs.get(id(own)) for own in old.trainable_variables if id(own) not in gone]
    ordered = all(id(own) in mine for own in found) and len(found) == len(rebuilt.model.trainable_variables)
    return found if ordered else rebuilt.model.trainable_variables


def _fresh_metric(metric: Any) -> Any:
    if not isinstance(metric, keras.metrics.Metric):
        return metric
    try:
        return type(metric).from_config(metric.get_config())
    except (TypeError, NotImplementedError):
        warn(f"metric {metric.name!r} cannot be copied, so both models count in the same one.")
        return metric
