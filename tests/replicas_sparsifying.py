"""Penalties on whole units once more, slowly: plain loops in float64 over a dense net."""

import math

import numpy as np


def members(weights):
    """Entries of every hidden unit of a dense net `[(kernel, bias), ...]`: `[(layer, 0 kernel | 1 bias, place), ...]`.

    By `(hidden layer, unit)`: what leads in, the bias, and what leads out.
    """
    result = {}
    for layer in range(len(weights) - 1):
        kernel, following = weights[layer][0], weights[layer + 1][0]
        for unit in range(kernel.shape[1]):
            own = [(layer, 0, (row, unit)) for row in range(kernel.shape[0])]
            own.append((layer, 1, (unit,)))
            own += [(layer + 1, 0, (unit, column)) for column in range(following.shape[1])]
            result[layer, unit] = own
    return result


def norm(weights, entries):
    """The L2 norm of some entries."""
    total = 0.0
    for layer, kind, place in entries:
        total += float(weights[layer][kind][place]) ** 2
    return math.sqrt(total)


def shrunk(weights, by):
    """The proximal step: every unit's entries times `max(0, 1 - by sqrt(n) / norm)`, all norms taken before."""
    result = [[np.array(w, "float64") for w in pair] for pair in weights]
    for entries in members(weights).values():
        length = norm(weights, entries)
        left = max(0.0, 1 - by * math.sqrt(len(entries)) / length) if length else 1.0
        for layer, kind, place in entries:
            result[layer][kind][place] *= left
    return [tuple(pair) for pair in result]


def pull(weights, strength):
    """The derivative of the penalty, like `weights`."""
    result = [[np.zeros(w.shape) for w in pair] for pair in weights]
    for entries in members(weights).values():
        length = norm(weights, entries)
        for layer, kind, place in entries:
            if length:
                result[layer][kind][place] += strength * math.sqrt(len(entries)) * weights[layer][kind][place] / length
    return [tuple(pair) for pair in result]


def crossed_dense(x, blocks, survived_in, survived_out, crossing):
    """A dense layer between two kinds of units, number by number; `blocks[from, to]` with kinds "s" and "r"."""
    kind_in, kind_out = (["s" if own else "r" for own in flags] for flags in (survived_in, survived_out))
    result = np.zeros((len(x), len(kind_out)))
    for sample in range(len(x)):
        for out, kind in enumerate(kind_out):
            sums = {"s": 0.0, "r": 0.0}
            column = kind_out[:out].count(kind)
            for place, source in enumerate(kind_in):
                if (source, kind) in blocks:
                    row = kind_in[:place].count(source)
                    sums[source] += x[sample, place] * blocks[source, kind][row, column]
            straight, across = sums[kind], sums["r" if kind == "s" else "s"]
            factor = 2 / (1 + math.exp(-straight)) if crossing == "attention" else 1.0
            result[sample, out] = straight + factor * across
    return result
