"""Checks of what the selections take, and the floor below which a group must not fall unnoticed."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfprune.borders import warn
from tfprune.units import LayerValues

LEAST_SHARE = 0.1
"""Groups that keep less than this share of their units are named in a warning: more than scores of one unit each can
tell is at stake then."""


def checked_scores(scores: Any, *, any_dtype: bool = False) -> LayerValues:
    """Returns scores of groups or kernels, or those that a ranking of `tfprune.neurons` holds, as `LayerValues`.

    Raises:
        TypeError: if they are no mapping, or of bool where `any_dtype` is not set.
        ValueError: if a shape is empty or a score is NaN.
    """
    if isinstance(getattr(scores, "scores", None), Mapping):
        scores = scores.scores
    if not isinstance(scores, Mapping):
        raise TypeError(
            f"scores: expected LayerValues, or a dict of arrays by group name, received {type(scores).__name__}. A "
            "saliency makes them, such as tfprune.saliency.weight_norm(model)."
        )
    scores = scores if isinstance(scores, LayerValues) else LayerValues(scores)
    for name, values in scores.items():
        if not values.ndim or not values.size:
            raise ValueError(
                f"scores: group {name!r} expects a vector with one score for each unit, or an array with one for each "
                f"weight of a kernel; received the shape {values.shape}."
            )
        if values.dtype == np.bool_ and not any_dtype:
            raise TypeError(f"scores: group {name!r} holds bool, which is a mask already; expected numbers.")
        bad = np.flatnonzero(np.isnan(values)) if values.dtype.kind == "f" else np.zeros(0, int)
        if len(bad):
            one = "unit" if values.ndim == 1 else "weight"
            raise ValueError(
                f"scores: {one} {bad[0]} of group {name!r} has NaN ({len(bad)} of {values.size} {one}s). A {one} must "
                "have a score; look at the data and at the loss that the scores were made from."
            )
    return scores


def check_fraction(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value <= 1:
        raise ValueError(f"{name}: expected a fraction from 0 to 1, received {value!r}.")


def check_positive(value: Any, name: str) -> None:
    """Raises ValueError unless `value` is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name}: expected a positive integer, received {value!r}.")


def warn_of_thin_groups(mask: LayerValues, what: str) -> None:
    """Warns of groups of units that keep less than a tenth, where scores of several groups were compared."""
    thin = [
        f"{name} ({int(on.sum())} of {on.size})"
        for name, on in mask.items()
        if on.ndim == 1 and on.sum() < LEAST_SHARE * on.size
    ]
    if thin:
        warn(
            f"{what} leaves fewer than a tenth of the units of {', '.join(thin)}. Scores may not be comparable between "
            "groups, or too much may go where few units can stand in: keep_budget with normalise='group' and "
            "min_share=0.1, or keep_top with a share for each group, keeps more of them."
        )
