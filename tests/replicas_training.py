"""Training once more, slowly: plain loops in float64 over a dense net, with gradients masked by hand."""

import numpy as np


def forward(weights, x):
    """Weights `[(kernel, bias), ...]` with tanh between -> activations of every layer, the inputs first."""
    values = [x]
    for number, (kernel, bias) in enumerate(weights):
        z = values[-1] @ kernel + bias
        values.append(z if number == len(weights) - 1 else np.tanh(z))
    return values


def gradients(weights, x, y):
    """Gradients of the mean squared error, averaged over samples and outputs."""
    values = forward(weights, x)
    delta = 2 * (values[-1] - y) / y.size
    result = []
    for number in reversed(range(len(weights))):
        result.append((values[number].T @ delta, delta.sum(0)))
        delta = (delta @ weights[number][0].T) * (1 - values[number] ** 2)
    return result[::-1]


def held(weights, keep):
    """Sets to zero what is not kept; `keep` is like `weights`, of bool."""
    return [tuple(w * k for w, k in zip(pair, own, strict=True)) for pair, own in zip(weights, keep, strict=True)]


def keep_of_units(weights, off):
    """What is kept of weights when `off[layer]` units of some layers are off: columns, biases, and rows that read."""
    keep = [tuple(np.ones(w.shape, bool) for w in pair) for pair in weights]
    for layer, units in off.items():
        keep[layer][0][:, units] = False
        keep[layer][1][units] = False
        keep[layer + 1][0][units] = False
    return keep


def train(weights, batches, *, rate, momentum=0.0, decay=0.0, nesterov=False, keep=None, prune_at=None, scale=None):
    """SGD with decoupled weight decay; from step `prune_at` on, gradients and weights of what is off are masked.

    `scale(step)` gives factors like `weights` for the gradients. Velocities of what goes off become zero.
    """
    weights = [tuple(np.array(w, "float64") for w in pair) for pair in weights]
    velocity = [tuple(np.zeros_like(w) for w in pair) for pair in weights]
    for step, (x, y) in enumerate(batches):
        if prune_at is not None and step == prune_at:
            weights, velocity = held(weights, keep), held(velocity, keep)
        slopes = gradients(weights, x, y)
        if scale is not None:
            slopes = [
                tuple(g * f for g, f in zip(*pair, strict=True)) for pair in zip(slopes, scale(step), strict=True)
            ]
        if prune_at is not None and step >= prune_at:
            slopes = held(slopes, keep)
        moved = []
        for layer, pair in enumerate(weights):
            new = []
            for number, weight in enumerate(pair):
                weight = weight - rate * decay * weight
                gradient = slopes[layer][number]
                own = momentum * velocity[layer][number] - rate * gradient
                velocity[layer] = tuple(own if k == number else v for k, v in enumerate(velocity[layer]))
                new.append(weight + (momentum * own - rate * gradient if nesterov else own))
            moved.append(tuple(new))
        weights = moved
    return weights
