"""How alike two layers are: canonical correlations and kernel alignment, from covariances alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfprune.borders import public
from tfprune.neurons.covariances import principal_axes
from tfprune.neurons.directions import Axes, CanonicalCorrelations, Side
from tfprune.neurons.sources import Measured, Source, source_of


@public
def svcca(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    variance: float = 0.99,
    progress: bool = True,
) -> CanonicalCorrelations:
    """Finds the directions that two models share among those that explain most of what their units do.

    Ranks directions instead of neurons, for what is spread over many of them, and says how alike two layers are. Of
    each layer the principal directions are kept that explain the share `variance`: the smallest k for which the first k
    eigenvalues of the covariance sum up to variance * total (s^2 of the singular values of the centred activations).
    Canonical correlations of what is kept:

    C11 = U1 L1 U1', T = L1^(-1/2) U1' C12 U2 L2^(-1/2) = P diag(rho) Q', transform = U1 L1^(-1/2) P

    The similarity is the mean of rho. It does not change with rotations of the units of a layer, a common scale, or
    added constants.

    Args:
        representations: two arrays `(points, units)` or `Activations`, on the same points in the same order; or two
            models, which may differ in width. Two layers of one model are [model, model] with a list of names each.
        data: for models: whatever `model.fit` takes; both run on each batch.
        layers: for models: names of groups or layers for both, or a list of names for each; None takes all groups.
            Their units together are what is compared.
        points: for models: "samples", "steps" or "positions", as for `activations`.
        variance: share of the variance of each layer that is kept, above 0 and up to 1.
        progress: for models: whether to show a progress bar.

    Returns:
        `.correlations`, `.similarity`, and `.directions` for each of the two, the most alike first, with what is needed
        to take them out of activations.

    Raises:
        TypeError: if there are no models or arrays, or models without data.
        ValueError: if there are not two, numbers of points differ, there are no points, names or options do not fit, or
            values are NaN or infinite.

    Warns:
        UserWarning: if there are fewer than 5 points a unit, as then spaces are alike by chance.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one = generator.normal(size=(200, 3))
        >>> other = np.stack([one[:, 0] + one[:, 1], generator.normal(size=200)], axis=1)
        >>> found = svcca([one, other])
        >>> found.correlations.round(2), round(found.similarity, 2)
        (array([1.  , 0.05]), 0.53)
        >>> found.directions[0].without(one, [0]).shape
        (200, 3)

    Reference: M. Raghu et al. (2017), "SVCCA: singular vector canonical correlation analysis for deep learning dynamics
    and interpretability"; as a ranking, A. Bau et al. (2019).
    """
    if isinstance(variance, bool) or not isinstance(variance, int | float) or not 0 < variance <= 1:
        raise ValueError(f"variance: expected a share above 0 and up to 1, received {variance!r}.")
    source = source_of(representations, data, layers, points, progress, exactly=2)
    measured = source.covariances()
    return _canonical(source, measured, [_principal(measured, number, float(variance)) for number in (0, 1)])


@public
def cca(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    progress: bool = True,
) -> CanonicalCorrelations:
    """Finds the canonical correlations of two layers, all their directions counting alike.

    The similarity does not change with any invertible linear map of the units of a layer. So directions in which hardly
    anything happens weigh as much as the others: `svcca` leaves these out, `pwcca` weighs.

    rho_1 = max over w, v of corr(H1 w, H2 v), and so on among what does not correlate with the ones before.

    Args:
        representations: as for `svcca`.
        data: likewise.
        layers: likewise.
        points: likewise.
        progress: likewise.

    Returns:
        `.correlations`, `.similarity` (their mean), and `.directions` for each of the two.

    Raises:
        TypeError: as for `svcca`.
        ValueError: as for `svcca`.

    Warns:
        UserWarning: if there are fewer than 5 points a unit.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one = generator.normal(size=(100, 3))
        >>> round(cca([one, one @ generator.normal(size=(3, 3))]).similarity, 6)
        1.0

    Reference: H. Hotelling (1936), "Relations between two sets of variates".
    """
    source = source_of(representations, data, layers, points, progress, exactly=2)
    measured = source.covariances()
    return _canonical(source, measured, [_standardised(measured, number) for number in (0, 1)])


@public
def pwcca(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    progress: bool = True,
) -> float:
    """Returns the mean canonical correlation of two layers, each weighed by how much of the first one it explains.

    PWCCA = sum_i alpha_i rho_i / sum_i alpha_i, alpha_i = sum_j |<h_i, x_j>|

    with the canonical variates h_i of the first layer and its centred neurons x_j, as the paper defines it. So it is
    not symmetric: take the layer first whose content the question is about. Linear maps of the second one change
    nothing, and rotations of the units of the first one a little.

    Args:
        representations: as for `svcca`; the first one gives the weights.
        data: likewise.
        layers: likewise.
        points: likewise.
        progress: likewise.

    Returns:
        The similarity, 0 to 1; 0 where one of the two never changes.

    Raises:
        TypeError: as for `svcca`.
        ValueError: as for `svcca`.

    Warns:
        UserWarning: if there are fewer than 5 points a unit.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one = generator.normal(size=(200, 2)) * [10.0, 0.1]
        >>> other = np.stack([one[:, 0], generator.normal(size=200)], axis=1)
        >>> round(cca([one, other]).similarity, 2), round(pwcca([one, other]), 2)
        (0.56, 0.99)

    Reference: A. S. Morcos, M. Raghu, S. Bengio (2018), "Insights on representational similarity in neural networks
    with canonical correlation", section 2.2.
    """
    source = source_of(representations, data, layers, points, progress, exactly=2)
    measured = source.covariances()
    found = _canonical(source, measured, [_standardised(measured, number) for number in (0, 1)])
    # The covariances of a variate with the units are its row of the inverse.
    weights = np.abs(found.directions[0].inverse).sum(axis=1)
    return float(weights @ found.correlations / weights.sum()) if len(weights) else 0.0


@public
def cka(
    representations: Sequence[Any],
    data: Any = None,
    *,
    layers: Any = None,
    points: str = "samples",
    debiased: bool = False,
    progress: bool = True,
) -> float:
    """Returns how alike two layers arrange the points: centred kernel alignment with linear kernels.

    Unlike canonical correlations it counts each direction by its variance, and tells layers apart with fewer points
    than units. It does not change with rotations of the units and a common scale, but with other linear maps.

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), K = X X', L = Y Y'; for centred X and Y, HSIC = |X'Y|_F^2

    That estimate grows as points become fewer than units. `debiased` takes the unbiased one, which is about 0 for
    independent layers whatever their width; from covariances, with n points and squared lengths a_p = |x_p|^2, b_p:

    HSIC = |X'Y|_F^2 - n / (n - 2) sum_p a_p b_p + sum_p a_p sum_p b_p / ((n - 1) (n - 2))

    Args:
        representations: as for `svcca`.
        data: likewise.
        layers: likewise.
        points: likewise.
        debiased: whether to take the unbiased estimate of HSIC.
        progress: as for `svcca`.

    Returns:
        The similarity, 0 to 1; the debiased one may fall below 0. 0 where one of the two never changes.

    Raises:
        TypeError: as for `svcca`.
        ValueError: as for `svcca`; or for the debiased one, if there are fewer than 4 points.

    Warns:
        UserWarning: if there are fewer than 5 points a unit and it is not debiased.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> one, other = generator.normal(size=(500, 100)), generator.normal(size=(500, 100))
        >>> round(cka([one, other]), 2), round(abs(cka([one, other], debiased=True)), 2)
        (0.17, 0.0)

    Reference: S. Kornblith et al. (2019), "Similarity of neural network representations revisited"; the unbiased HSIC
    is that of L. Song et al. (2012), "Feature selection via dependence maximization".
    """
    source = source_of(representations, data, layers, points, progress, exactly=2)
    measured = source.covariances(fourth=debiased, warns=not debiased)
    if debiased and measured.count < 4:
        raise ValueError(f"debiased: expected at least 4 points, received {measured.count}.")
    independence = _unbiased if debiased else _biased
    between, first, second = (independence(measured, i, j) for i, j in ((0, 1), (0, 0), (1, 1)))
    if first <= 0 or second <= 0:
        return 0.0
    return float(between / np.sqrt(first) / np.sqrt(second))


def _biased(measured: Measured, i: int, j: int) -> float:
    return float(np.square(measured.covariance(i, j)).sum())


def _unbiased(measured: Measured, i: int, j: int) -> float:
    """Returns the unbiased HSIC, but for the factor n / (n - 3) that cancels."""
    n = measured.count
    lengths = measured.moments.squared_lengths(i, j) / n**2
    traces = [measured.moments.squares[k][measured.varies[k]].sum() / n for k in (i, j)]
    return _biased(measured, i, j) - lengths * n / (n - 2) + traces[0] * traces[1] / ((n - 1) * (n - 2))


def _principal(measured: Measured, number: int, variance: float) -> Axes:
    """Returns the principal axes of a model that explain the share `variance`."""
    values, vectors = principal_axes(measured.covariance(number, number))
    shares = np.cumsum(values) / max(values.sum(), np.finfo("float64").tiny)
    # Where the share is reached but for the rounding of the sum, it is reached.
    kept = int(np.argmax(shares >= variance * (1 - 1e-12))) + 1 if len(values) else 0
    return Axes(vectors[:, :kept], np.sqrt(values[:kept]), np.ones(len(vectors)))


def _standardised(measured: Measured, number: int) -> Axes:
    """Returns the principal axes of the standardised units of a model.

    Units count by their correlations, so that which axes are rounding does not hang on the units' scales.
    """
    values, vectors = principal_axes(measured.correlation(number, number))
    return Axes(vectors, np.sqrt(values), measured.scales(number))


def _canonical(source: Source, measured: Measured, axes: list[Axes]) -> CanonicalCorrelations:
    first, second = axes
    scaled = measured.covariance(0, 1)
    scaled /= first.units[:, None]
    scaled /= second.units
    between = first.vectors.T @ scaled @ second.vectors
    between /= first.scale[:, None]
    between /= second.scale
    if between.size:
        left, found, right = np.linalg.svd(between, full_matrices=False)
    else:
        left, found, right = np.zeros((len(between), 0)), np.zeros(0), np.zeros((0, between.shape[1]))
    sides = (
        Side(own, turn, measured.moments.means[number], source.sizes[number])
        for number, (own, turn) in enumerate(zip(axes, (left, right.T), strict=True))
    )
    return CanonicalCorrelations(np.clip(found, 0.0, 1.0), tuple(sides))
