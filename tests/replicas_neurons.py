"""Slow float64 forms of rankings across models and of the similarity of layers, by the equations alone."""

import numpy as np


def pearson(one, other):
    """E[ab] - E[a]E[b] over the standard deviations; 0 where one of them never changes."""
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    a, b = one - one.mean(), other - other.mean()
    scale = np.sqrt((a * a).mean()) * np.sqrt((b * b).mean())
    return float((a * b).mean() / scale) if scale > 0 else 0.0


def correlation_scores(models, choose):
    """MaxCorr (choose=max) and MinCorr (choose=min), neuron by neuron; with the partner `(model, neuron)`."""
    scores, partners = [], []
    for i, own in enumerate(models):
        of_model, with_whom = [], []
        for unit in range(own.shape[1]):
            best = []
            for k, other in enumerate(models):
                if k != i:
                    strengths = [abs(pearson(own[:, unit], other[:, u])) for u in range(other.shape[1])]
                    best.append((max(strengths), (k, int(np.argmax(strengths)))))
            score, partner = choose(best, key=lambda pair: pair[0])
            of_model.append(score)
            with_whom.append(partner if score > 0 else (-1, -1))
        scores.append(np.array(of_model))
        partners.append(np.array(with_whom))
    return scores, partners


def worst_errors(models):
    """The mean squared error of regressing each standardised neuron on a model, of the model that is worst."""
    standard = []
    for own in models:
        centred = np.asarray(own, "float64") - np.mean(own, axis=0, dtype="float64")
        deviation = centred.std(axis=0)
        standard.append(np.where(deviation > 0, centred / np.where(deviation > 0, deviation, 1), 0))
    found = []
    for i, own in enumerate(standard):
        errors = []
        for unit in range(own.shape[1]):
            each = []
            for k, other in enumerate(standard):
                if k != i:
                    weights = np.linalg.lstsq(other, own[:, unit], rcond=1e-6)[0]
                    each.append(np.mean((own[:, unit] - other @ weights) ** 2))
            errors.append(max(each) if own[:, unit].any() else 1.0)
        found.append(np.array(errors))
    return found


def subspace(values, variance=1.0):
    """Orthonormal left singular vectors of the centred values: the fewest whose s^2 reach the share."""
    centred = np.asarray(values, "float64") - np.mean(values, axis=0, dtype="float64")
    left, s, _ = np.linalg.svd(centred, full_matrices=False)
    kept = int(np.sum(s > 1e-6 * s[0]))
    total, so_far = np.sum(s**2), 0.0
    for k in range(kept):
        so_far += s[k] ** 2
        if so_far >= variance * total * (1 - 1e-12):
            return left[:, : k + 1]
    return left[:, :kept]


def canonical_correlations(one, other, variance=1.0):
    """By the big singular value decomposition of the activations themselves."""
    return np.linalg.svd(subspace(one, variance).T @ subspace(other, variance), compute_uv=False)


def projection_weighted(one, other):
    """PWCCA as the paper has it: h_i are the canonical variates of the first layer, x_j its centred neurons."""
    first, second = subspace(one), subspace(other)
    left, rho, _ = np.linalg.svd(first.T @ second, full_matrices=False)
    variates = first @ left
    centred = np.asarray(one, "float64") - np.mean(one, axis=0, dtype="float64")
    weights = []
    for i in range(len(rho)):
        weights.append(sum(abs(variates[:, i] @ centred[:, j]) for j in range(centred.shape[1])))
    return float(np.sum(np.array(weights) * rho) / np.sum(weights))


def hsic(one, other):
    """|X'Y|^2 of the kernels H K H and H L H, points by points."""
    n = len(one)
    h = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(h @ (one @ one.T) @ h @ (other @ other.T)))


def unbiased_hsic(one, other):
    """Song et al.: kernels whose diagonal is zero, points by points."""
    n = len(one)
    first, second = one @ one.T, other @ other.T
    np.fill_diagonal(first, 0.0)
    np.fill_diagonal(second, 0.0)
    ones = np.ones(n)
    total = np.trace(first @ second) + (ones @ first @ ones) * (ones @ second @ ones) / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (ones @ first @ second @ ones)) / (n * (n - 3)))


def cka(one, other, estimate=hsic):
    """The alignment with either estimate."""
    one, other = np.asarray(one, "float64"), np.asarray(other, "float64")
    return estimate(one, other) / np.sqrt(estimate(one, one) * estimate(other, other))
