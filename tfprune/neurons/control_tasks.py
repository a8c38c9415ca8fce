"""Control tasks: labels that say nothing of language, which a probe can only learn by heart."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfprune.borders import public, warn
from tfprune.neurons.labelled import classes_of


@public
def control_labels(types: Any, labels: Any, *, seed: int = 0) -> np.ndarray:
    """Gives each type one label by chance, the same at all its points: the control task of a probe.

    A type is what a point is an instance of: the word, for tokens. A probe can learn this task only by learning types
    by heart, so that its accuracy there says how much of its accuracy on the true labels may be memory: what remains
    is its *selectivity*. Each type's label is drawn from the labels as they are distributed over the points.

    Args:
        types: of each point, whatever can be sorted: words, ids; `(points,)`.
        labels: the true classes, `(points,)`.
        seed: of the draw.

    Returns:
        One label per point, `(points,)`, of the dtype of `labels`.

    Raises:
        TypeError: if there are no types, or labels are no classes.
        ValueError: if lengths do not fit, there is one class, or a class of one point.

    Example:
        >>> control_labels(["the", "cat", "the", "dog"], [0, 1, 0, 1], seed=3)
        array([0, 1, 0, 0])

    Reference: J. Hewitt, P. Liang (2019), "Designing and interpreting probes with control tasks", section 2.
    """
    if types is None:
        raise TypeError(
            "control_labels: a control task needs types: what each point is an instance of, such as the word of each "
            "token."
        )
    types = np.asarray(types)
    if types.ndim != 1 or not types.size:
        raise ValueError(f"control_labels: expected one type for each point, shape (points,), received {types.shape}.")
    classes = classes_of(labels, len(types), "control_labels")
    names, codes = np.unique(types, return_inverse=True)
    if len(names) == len(types):
        warn(
            f"control_labels: all {len(types)} points are of different types, so that what is learned by heart of some "
            "says nothing of others. Give the type that points share, such as the word, not the place in the text."
        )
    generator = np.random.default_rng(seed)
    drawn = generator.choice(classes.codes, size=len(names))
    return classes.names[drawn[codes.reshape(-1)]]
