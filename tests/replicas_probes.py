"""Probes, rankings by classes, clusters and conductance once more, slowly: plain loops in float64."""

import numpy as np


def elastic_net(rows, codes, l1, l2, num_steps=6000):
    """Weights (classes, units) and biases that minimise mean cross-entropy + l1 |W| + l2/2 W^2, by proximal steps."""
    num_classes = max(codes) + 1
    weights, bias = np.zeros((num_classes, rows.shape[1])), np.zeros(num_classes)
    size = 1.0 / (0.5 * np.linalg.norm(np.c_[rows, np.ones(len(rows))], 2) ** 2 / len(rows) + l2)
    truth = np.eye(num_classes)[codes]
    for _ in range(num_steps):
        scores = np.exp(rows @ weights.T + bias)
        errors = scores / scores.sum(axis=1, keepdims=True) - truth
        bias = bias - size * errors.mean(axis=0)
        moved = weights - size * (errors.T @ rows / len(rows) + l2 * weights)
        weights = np.sign(moved) * np.maximum(np.abs(moved) - size * l1, 0.0)
    return weights, bias


def ridge(rows, numbers, l2):
    """Weights and bias that minimise half the mean squared error + l2/2 W^2, from the normal equations."""
    centred, own = rows - rows.mean(axis=0), numbers - numbers.mean()
    weights = np.linalg.solve(centred.T @ centred / len(rows) + l2 * np.eye(rows.shape[1]), centred.T @ own / len(rows))
    return weights, numbers.mean() - rows.mean(axis=0) @ weights


def fewest_units(mass, share):
    """The fewest units that hold a share of the mass, as a set; one at least."""
    chosen, held = set(), 0.0
    for unit in sorted(range(len(mass)), key=lambda k: (-mass[k], k)):
        chosen.add(unit)
        held += mass[unit]
        if held >= share * sum(mass) - 1e-12:
            break
    return chosen


def ordering_in_steps(weights, num_steps=100):
    """Groups of units in the order in which they enter the union over classes as the share of the mass grows."""
    entered, groups = set(), []
    for step in range(num_steps + 1):
        union = set()
        for row in np.abs(weights):
            if row.any():
                union |= fewest_units(list(row), step / num_steps)
        groups.append(union - entered)
        entered |= union
    return [group for group in groups if group]


def means_by_class(points, labels):
    found = {}
    for label in sorted(set(labels)):
        own = [points[k] for k in range(len(points)) if labels[k] == label]
        found[label] = sum(own) / len(own)
    return found


def probeless(points, labels):
    means = list(means_by_class(points, labels).values())
    scores = np.zeros(points.shape[1])
    for a in range(len(means)):
        for b in range(a + 1, len(means)):
            scores += abs(means[a] - means[b])
    return scores


def selectivity(points, labels):
    means = list(means_by_class(points, labels).values())
    scores = []
    for unit in range(points.shape[1]):
        own = sorted(mean[unit] for mean in means)
        rest = sum(own[:-1]) / (len(own) - 1)
        scores.append((own[-1] - rest) / (own[-1] + rest) if own[-1] + rest > 0 else 0.0)
    return np.array(scores)


def gaussian_log_shares(train, codes, points, units, prior_points):
    """log p(class | some units) at points, `(points, classes)`, from Gaussians fitted to these units alone."""
    train, points = train[:, units], points[:, units]
    joint = np.zeros((len(points), max(codes) + 1))
    for code in range(max(codes) + 1):
        own = train[codes == code]
        mean = own.mean(axis=0)
        covariance = sum(np.outer(row - mean, row - mean) for row in own) + prior_points * np.diag(train.var(axis=0))
        covariance = covariance / (len(own) + prior_points)
        for k, point in enumerate(points):
            distance = (point - mean) @ np.linalg.inv(covariance) @ (point - mean)
            joint[k, code] = np.log(len(own) / len(train)) - 0.5 * (distance + np.linalg.slogdet(covariance)[1])
    return joint - np.log(np.exp(joint).sum(axis=1, keepdims=True))


def greedy_gaussian(train, codes, number, prior_points):
    """Units in the order in which each adds most to the mean log p(class | units)."""
    picked = []
    for _ in range(number):
        left = [unit for unit in range(train.shape[1]) if unit not in picked]
        gains = [
            gaussian_log_shares(train, codes, train, [*picked, unit], prior_points)[np.arange(len(codes)), codes].mean()
            for unit in left
        ]
        picked.append(left[int(np.argmax(gains))])
    return picked


def clusters(points, threshold):
    """Clusters by average linkage of 1 - |correlation|, as sets: the two nearest are joined again and again."""
    size = points.shape[1]
    distances = np.ones((size, size))
    for a in range(size):
        for b in range(size):
            x, y = points[:, a] - points[:, a].mean(), points[:, b] - points[:, b].mean()
            length = np.sqrt((x @ x) * (y @ y))
            distances[a, b] = 1.0 - abs(x @ y) / length if length > 1e-12 else 1.0
    found = [{unit} for unit in range(size)]
    while len(found) > 1:
        pairs = [(a, b) for a in range(len(found)) for b in range(a + 1, len(found))]
        mean = {(a, b): np.mean([distances[i, j] for i in found[a] for j in found[b]]) for a, b in pairs}
        a, b = min(pairs, key=mean.get)
        if mean[a, b] > threshold:
            break
        found[a] |= found.pop(b)
    return sorted(found, key=min)


def conductance(values, slopes, x, baseline, num_steps):
    """Sum over stretches of the way of the gradient in the middle times what a layer's values change.

    Args:
        values: what the layer gives out, for one sample.
        slopes: gradient of the output by the layer's values, at these.
        x: a sample.
        baseline: another one.
        num_steps: stretches.
    """
    total, before = 0.0, values(baseline)
    for step in range(num_steps):
        after = values(baseline + (step + 1.0) / num_steps * (x - baseline))
        middle = values(baseline + (step + 0.5) / num_steps * (x - baseline))
        total = total + slopes(middle) * (after - before)
        before = after
    return total


def convolution(x, kernel, bias):
    """Convolution without padding of one sample `(height, width, channels)`, then relu."""
    height, width = x.shape[0] - kernel.shape[0] + 1, x.shape[1] - kernel.shape[1] + 1
    output = np.zeros((height, width, len(bias)))
    for i in range(height):
        for j in range(width):
            patch = x[i : i + kernel.shape[0], j : j + kernel.shape[1]]
            output[i, j] = np.tensordot(patch, kernel, 3) + bias
    return np.maximum(output, 0.0)
