"""Labels of points, checked at the border, and the shares of points that are held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from tfprune.neurons.activations import Activations
from tfprune.neurons.sources import check_points, checked_array
from tfprune.units import LayerValues, describe_unknown

_FEWEST_EXAMPLES = 2


class Points(NamedTuple):
    """Values of units at points.

    Attributes:
        values: float64 `(points, units)`, the units of all layers side by side.
        sizes: how many units each layer has, by name; None where one array was given.
    """

    values: np.ndarray
    sizes: dict[str, int] | None

    def wrapped(self, flat: np.ndarray) -> Any:
        """Returns one value per unit as what was given has it: an array, or `LayerValues`."""
        return flat if self.sizes is None else LayerValues.from_flat(flat, self.sizes)

    def positions(self, units: Any, where: str) -> np.ndarray:
        """Returns flat positions of units.

        Args:
            units: whole numbers; for values of layers by the layer's name.
            where: the function that was called, for messages.

        Raises:
            TypeError: if they are no whole numbers, or of the other form.
            ValueError: if there is no such layer or unit.
        """
        if isinstance(units, Mapping) != (self.sizes is not None):
            form = "a dict of layer names to units" if self.sizes is not None else "whole numbers"
            raise TypeError(f"{where}: units expects {form}, as the activations are, received {units!r}.")
        if self.sizes is None:
            return _checked_units(units, self.values.shape[1], "", where)
        unknown = [name for name in units if name not in self.sizes]
        if unknown:
            raise ValueError(f"{where}: {describe_unknown(unknown, self.sizes)}")
        starts = dict(zip(self.sizes, np.cumsum([0, *self.sizes.values()]), strict=False))
        own = [starts[k] + _checked_units(v, self.sizes[k], f" of {k!r}", where) for k, v in units.items()]
        return np.concatenate([np.zeros(0, "int64"), *own])


def points_of(activations: Any, where: str) -> Points:
    """Returns activations as one matrix.

    Args:
        activations: an array `(points, units)`, or arrays by the name of their layer.
        where: the function that was called, for messages.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they have another shape, no points or units, different numbers of points, or values that are NaN
            or infinite.

    Example:
        >>> points_of({"first": np.ones((3, 2)), "second": np.ones((3, 1))}, "probe").values.shape
        (3, 3)
    """
    if not isinstance(activations, Mapping):
        return Points(_matrix(activations, "", where), None)
    named = activations if isinstance(activations, Activations) else Activations(activations)
    check_points(f"{where}: activations", named)
    matrices = [_matrix(own, f" of {name!r}", where) for name, own in named.items()]
    return Points(np.concatenate(matrices, axis=1), named.sizes)


def _matrix(array: Any, of: str, where: str) -> np.ndarray:
    array = checked_array(f"{where}: activations{of}", array).astype("float64")
    bad = np.argwhere(~np.isfinite(array))
    if len(bad):
        raise ValueError(
            f"{where}: activations{of} hold {array[tuple(bad[0])]} at point {bad[0][0]}, unit {bad[0][1]} ({len(bad)} "
            "values are NaN or infinite). Check the model's weights and the scale of the data."
        )
    return array


def _checked_units(units: Any, size: int, of: str, where: str) -> np.ndarray:
    units = np.atleast_1d(np.asarray(units))
    if not units.size:
        return np.zeros(0, "int64")
    if units.dtype.kind not in "iu" or units.ndim != 1:
        raise TypeError(f"{where}: units{of} are whole numbers from 0 to {size - 1}, received {units!r}.")
    wrong = units[(units < 0) | (units >= size)]
    if wrong.size:
        raise ValueError(f"{where}: there is no unit {wrong[0]}{of}: expected 0 to {size - 1}.")
    return units.astype("int64")


class Classes(NamedTuple):
    """Labels that name classes.

    Attributes:
        names: what the labels are called, in order, `(classes,)`.
        codes: the class of each point, as a position in `names`, `(points,)`.
    """

    names: np.ndarray
    codes: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """How many points each class has."""
        return np.bincount(self.codes, minlength=len(self.names))


def classes_of(labels: Any, num_points: int, where: str) -> Classes:
    """Returns labels as classes.

    Args:
        labels: one for each point: whole numbers, bool, or text.
        num_points: how many there must be.
        where: the function that was called, for messages.

    Raises:
        TypeError: if labels are no such kind.
        ValueError: if their number does not fit, one is NaN, there is one class alone, or one of a single example.

    Example:
        >>> classes_of(["noun", "verb", "verb", "noun"], 4, "probe").codes
        array([0, 1, 1, 0])
    """
    labels = _vector(labels, num_points, where)
    if labels.dtype.kind == "f":
        _refuse_not_finite(labels, where)
        broken = labels[labels != np.rint(labels)]
        if broken.size:
            raise ValueError(
                f"{where}: labels name classes, received the number {broken[0]:.6g}. Numbers are for "
                "probe(..., task='regression'); classes are whole numbers or text."
            )
    elif labels.dtype.kind not in "iubUS":
        raise TypeError(
            f"{where}: expected labels that are whole numbers, bool or text, received the dtype {labels.dtype}. "
            "Convert them, for instance by np.asarray(labels, dtype=str)."
        )
    names, codes = np.unique(labels, return_inverse=True)
    codes = codes.reshape(-1)
    if len(names) < 2:
        raise ValueError(
            f"{where}: expected labels of two classes or more, received {names.tolist()[0]!r} for all {num_points} "
            "points. There is nothing to tell apart."
        )
    counts = np.bincount(codes)
    if counts.min() < _FEWEST_EXAMPLES:
        few = [str(name) for name, count in zip(names, counts, strict=True) if count < _FEWEST_EXAMPLES]
        raise ValueError(
            f"{where}: expected at least {_FEWEST_EXAMPLES} points of each class, received one of "
            f"{', '.join(map(repr, few[:5]))}{' and others' if len(few) > 5 else ''} ({len(few)} of {len(names)} "
            "classes). Leave these points out, or join classes."
        )
    return Classes(names, codes)


def numbers_of(labels: Any, num_points: int, where: str) -> np.ndarray:
    """Returns labels as float64 numbers.

    Args:
        labels: one number for each point.
        num_points: how many there must be.
        where: the function that was called, for messages.

    Raises:
        TypeError: if labels are no numbers.
        ValueError: if their number does not fit, one is NaN or infinite, or all are the same.

    Example:
        >>> numbers_of([1, 2.5], 2, "probe")
        array([1. , 2.5])
    """
    labels = _vector(labels, num_points, where)
    if labels.dtype.kind not in "iuf":
        raise TypeError(
            f"{where}: task='regression' expects labels that are numbers, received the dtype {labels.dtype}. "
            "task='classification' takes classes."
        )
    labels = labels.astype("float64")
    _refuse_not_finite(labels, where)
    if labels.min() == labels.max():
        raise ValueError(f"{where}: all {num_points} labels are {labels[0]:.6g}. There is nothing to tell apart.")
    return labels


def held_out(test: Any, codes: np.ndarray | None, num_points: int, seed: int, where: str) -> np.ndarray:
    """Returns which points are held out: as given, or a share of each class by chance.

    Args:
        test: a share between 0 and 1, or bool `(points,)`.
        codes: the class of each point, so that each has its share; None for none.
        num_points: how many points there are.
        seed: of the choice.
        where: the function that was called, for messages.

    Returns:
        Bool `(points,)`. Of each class at least one point is held out and at least one is not.

    Raises:
        TypeError: if `test` is neither.
        ValueError: if the share is not between 0 and 1, or bools do not fit, or leave no point, or a class that is
            held out has no point left to learn from.

    Example:
        >>> int(held_out(0.5, np.array([0, 0, 1, 1]), 4, 0, "probe").sum())
        2
    """
    if np.ndim(test) == 0:
        if isinstance(test, bool | str) or not isinstance(test, int | float | np.number):
            raise TypeError(f"{where}: test expects a share of the points, or bool (points,), received {test!r}.")
        if not 0 < test < 1:
            raise ValueError(f"{where}: test expects a share between 0 and 1, such as 0.25, received {test!r}.")
        generator, mask = np.random.default_rng(seed), np.zeros(num_points, bool)
        for code in range(1 if codes is None else codes.max() + 1):
            own = np.flatnonzero(codes == code) if codes is not None else np.arange(num_points)
            number = min(max(1, round(float(test) * len(own))), len(own) - 1)
            mask[generator.permutation(own)[:number]] = True
        return mask
    mask = np.asarray(test)
    if mask.dtype != np.bool_:
        raise TypeError(f"{where}: test expects a share, or an array of bool, received the dtype {mask.dtype}.")
    if mask.shape != (num_points,):
        raise ValueError(f"{where}: test expects one bool for each of the {num_points} points, received {mask.shape}.")
    if not mask.any() or mask.all():
        raise ValueError(f"{where}: test holds {'all' if mask.all() else 'none'} of the points. Hold out some of them.")
    if codes is not None and len(np.unique(codes[~mask])) <= codes.max():
        raise ValueError(f"{where}: test holds all points of some class, so that there are none to learn it from.")
    return mask


def _vector(labels: Any, num_points: int, where: str) -> np.ndarray:
    if labels is None:
        raise TypeError(f"{where}: labels are needed: one for each of the {num_points} points.")
    labels = np.asarray(labels)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (num_points,):
        mend = " Of one-hot rows make classes by labels.argmax(axis=1)." if labels.ndim == 2 else ""
        mend += " Of labels (samples, steps) take labels[found.samples[name], found.positions[name]]."
        raise ValueError(
            f"{where}: expected one label for each of the {num_points} points, shape ({num_points},), received "
            f"{labels.shape}.{mend}"
        )
    return labels


def _refuse_not_finite(labels: np.ndarray, where: str) -> None:
    bad = np.flatnonzero(~np.isfinite(labels))
    if bad.size:
        raise ValueError(
            f"{where}: labels hold {labels[bad[0]]} at point {bad[0]} ({bad.size} of {len(labels)} are NaN or "
            "infinite). Leave these points out."
        )
