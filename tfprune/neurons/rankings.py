"""Rankings of neurons by how well those of other models, run on the same points, know them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.borders import public
from tfprune.neurons.covariances import principal_axes
from tfprune.neurons.ranking import Ranking
from tfprune.neurons.sources import Measured, Source, source_of
from tfprune.ties import RELATIVE, rising_order


@public
def max_correlation(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    progress: bool = True,
) -> tuple[Ranking, ...]:
    """Ranks the neurons of each model by their strongest correlation with any neuron of any other model.

    What networks find again from other seeds is likely to matter. A neuron ranks high if one other model at least has
    a neuron like it; `min_correlation` asks that all of them have one.

    score(i, j) = max over models i' != i, max over neurons j' of i': |rho(j, j')|

    with Pearson's rho over points. A constant neuron scores 0 and comes last. One pass over the points; nothing of the
    size points x points is made, and of models no more than a batch is in memory.

    Args:
        representations: two or more arrays `(points, units)` or `Activations`, on the same points in the same order; or
            as many models, which may differ in width.
        data: for models: whatever `model.fit` takes; all of them run on each batch.
        layers: for models: names of groups or layers for all of them, or a list of names for each; None takes all
            groups. Their units together are the model's neurons.
        points: for models: "samples", "steps" or "positions", as for `activations`.
        progress: for models: whether to show a progress bar.

    Returns:
        One `Ranking` for each model, in order; `partners` says which neuron of which model each one is most like.

    Raises:
        TypeError: if there are no models or arrays, or models without data.
        ValueError: if there is one model only, numbers of points differ, there are no points, names do not fit, or
            values are NaN or infinite.

    Warns:
        UserWarning: if there are fewer than 5 points a neuron, as then neurons are alike by chance.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one, other = generator.normal(size=(100, 3)), generator.normal(size=(100, 2))
        >>> other[:, 1] = -2 * one[:, 2]
        >>> first, second = max_correlation([one, other])
        >>> first.labels(1), first.partners[2], round(float(first.scores[2]), 3)
        (['[2]'], array([1, 1]), 1.0)

    Reference: A. Bau et al. (2019), "Identifying and controlling important neurons in neural machine translation",
    section 3.1.
    """
    return _by_correlation(source_of(representations, data, layers, points, progress), np.max)


@public
def min_correlation(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    progress: bool = True,
) -> tuple[Ranking, ...]:
    """Ranks the neurons of each model by their strongest correlation within the other model that knows them least.

    Like `max_correlation`, but a neuron ranks high only if every other model has one like it. For two models both are
    the same.

    score(i, j) = min over models i' != i, max over neurons j' of i': |rho(j, j')|

    Args:
        representations: as for `max_correlation`.
        data: likewise.
        layers: likewise.
        points: likewise.
        progress: likewise.

    Returns:
        One `Ranking` for each model, in order; `partners` are the most like neurons of the model that knows them least.

    Raises:
        TypeError: if there are no models or arrays, or models without data.
        ValueError: as for `max_correlation`.

    Warns:
        UserWarning: if there are fewer than 5 points a neuron.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one, other, third = (generator.normal(size=(200, 2)) for _ in range(3))
        >>> other[:, 0] = third[:, 1] = one[:, 0]
        >>> other[:, 1] = one[:, 1]
        >>> [found.labels(1) for found in min_correlation([one, other, third])]
        [['[0]'], ['[0]'], ['[1]']]

    Reference: A. Bau et al. (2019), "Identifying and controlling important neurons in neural machine translation",
    section 3.1.
    """
    return _by_correlation(source_of(representations, data, layers, points, progress), np.min)


@public
def linear_regression(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    progress: bool = True,
) -> tuple[Ranking, ...]:
    """Ranks the neurons of each model by how well all neurons of another model together predict them.

    Finds what other models know in a spread form, where no single neuron is alike. All values are standardised, and the
    score is that of the other model that predicts worst:

    score(i, j) = min over models i' != i: R^2 of regressing neuron j on all neurons of i'

    The mean squared error of the worst model, by which the source ranks, is 1 - score: the order is the same. Neurons
    that depend on each other linearly are no obstacle. The expected R^2 of noise is units / points.

    Args:
        representations: as for `max_correlation`.
        data: likewise.
        layers: likewise.
        points: likewise.
        progress: likewise.

    Returns:
        One `Ranking` for each model, in order; `partners` are the most correlated neurons of the model that predicts
        worst.

    Raises:
        TypeError: if there are no models or arrays, or models without data.
        ValueError: as for `max_correlation`.

    Warns:
        UserWarning: if there are fewer than 5 points a neuron.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one, other = generator.normal(size=(100, 2)), generator.normal(size=(100, 3))
        >>> one[:, 1] = other[:, 0] + other[:, 1]
        >>> linear_regression([one, other])[0].scores.round(2)
        array([0.02, 1.  ])

    Reference: A. Bau et al. (2019), "Identifying and controlling important neurons in neural machine translation",
    section 3.1.
    """
    source = source_of(representations, data, layers, points, progress)
    measured = source.covariances()
    number = len(source.widths)
    found = []
    whitening = [_whitening(measured, other) for other in range(number)]
    for own in range(number):
        shares, partners = [], []
        for other in _others(own, number):
            correlation = measured.correlation(own, other)
            shares.append(np.clip(np.square(correlation @ whitening[other]).sum(axis=1), 0.0, 1.0))
            partners.append(_best(correlation)[1])
        found.append(_ranking(source, measured, own, np.stack(shares), np.stack(partners), np.min))
    return tuple(found)


def _whitening(measured: Measured, number: int) -> np.ndarray:
    """Returns a matrix `(units, rank)` that makes the standardised units of a model uncorrelated, of variance 1."""
    values, vectors = principal_axes(measured.correlation(number, number))
    return vectors / np.sqrt(values)


def _by_correlation(source: Source, choose: Any) -> tuple[Ranking, ...]:
    measured = source.covariances(own="squares")
    number = len(source.widths)
    best = {}
    for own in range(number):
        for other in range(own + 1, number):
            correlation = measured.correlation(own, other)
            best[own, other], best[other, own] = _best(correlation), _best(correlation.T)
    found = []
    for own in range(number):
        scores, partners = zip(*(best[own, other] for other in _others(own, number)), strict=True)
        found.append(_ranking(source, measured, own, np.stack(scores), np.stack(partners), choose))
    return tuple(found)


def _others(own: int, number: int) -> list[int]:
    return [other for other in range(number) if other != own]


def _best(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each row the largest absolute value and where it is; of equal ones the first."""
    strength = np.abs(correlation)
    largest = strength.max(axis=1)
    return largest, np.argmax(strength >= largest[:, None] * (1 - RELATIVE), axis=1)


def _ranking(
    source: Source, measured: Measured, own: int, scores: np.ndarray, partners: np.ndarray, choose: Any
) -> Ranking:
    """Makes the ranking of one model from scores and partners `(other models, units)`."""
    score = choose(scores, axis=0)
    # Of models that say the same the first one counts.
    which = np.argmax(np.abs(scores - score) <= RELATIVE * score, axis=0)
    units = np.arange(len(score))
    varies = measured.varies[own]
    pairs = np.stack([np.array(_others(own, len(source.widths)))[which], partners[which, units]], axis=1)
    pairs[~varies | (score <= 0)] = -1
    score = np.where(varies, score, 0.0)
    order = rising_order(-score)
    # A neuron that is constant comes behind one that is merely like no other.
    order = np.concatenate([order[varies[order]], order[~varies[order]]])
    return Ranking(source.named(own, score), order, pairs)
