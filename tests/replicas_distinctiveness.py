"""Slow float64 versions of what the room of distinctiveness computes: plain loops over units and patterns."""

import math

import numpy as np


def angle(one, other):
    """The angle between two vectors in degrees."""
    product = sum(float(a) * float(b) for a, b in zip(one, other, strict=True))
    lengths = [math.sqrt(sum(float(a) ** 2 for a in vector)) for vector in (one, other)]
    return math.degrees(math.acos(max(-1.0, min(1.0, product / (lengths[0] * lengths[1])))))


def angle_matrix(values, centre):
    """The source's double loop: angles between the columns of `values` `(patterns, units)`, less `centre`."""
    values = np.asarray(values, "float64") - centre
    size = values.shape[1]
    result = np.zeros((size, size))
    for one in range(size):
        for other in range(size):
            if one != other:
                result[one, other] = angle(values[:, one], values[:, other])
    return result


def lstm_states(layer, x):
    """Hidden states h_1..h_T of an LSTM in NumPy, `(samples, steps, units)`."""
    kernel, recurrent, bias = (np.asarray(w, "float64") for w in layer.get_weights())
    size = layer.units
    h, c = np.zeros((len(x), size)), np.zeros((len(x), size))
    states = []
    for step in range(x.shape[1]):
        z = x[:, step].astype("float64") @ kernel + h @ recurrent + bias
        i, f, o = (1 / (1 + np.exp(-z[:, k * size : (k + 1) * size])) for k in (0, 1, 3))
        c = f * c + i * np.tanh(z[:, 2 * size : 3 * size])
        h = o * np.tanh(c)
        states.append(h)
    return np.stack(states, axis=1)


def gedeon_dense(values, outgoing, centre, similar, complementary):
    """The published elimination for one dense layer without chains: who stays, and the kernel behind it.

    Pairs are taken in the order of the units; a removed unit is never looked at again.
    """
    measured = angle_matrix(values, centre)
    outgoing = np.array(outgoing, "float64")
    alive = [True] * values.shape[1]
    for one in range(len(alive)):
        for other in range(one + 1, len(alive)):
            if not (alive[one] and alive[other]):
                continue
            if measured[one, other] < similar:
                outgoing[one] += outgoing[other]
                alive[other] = False
            elif measured[one, other] > complementary:
                alive[one] = alive[other] = False
    return alive, outgoing[alive]


def farthest_first(angles, lengths, complementary):
    """Scores: the longest first, then whoever is farthest from all before; its distance at that moment."""
    size = len(lengths)
    distance = [
        [min(a, 180.0 - a) if complementary else a for a in (float(angles[i, j]) for j in range(size))]
        for i in range(size)
    ]
    order = [max(range(size), key=lambda unit: lengths[unit])]
    scores = [0.0] * size
    scores[order[0]] = 180.0
    while len(order) < size:
        rest = [unit for unit in range(size) if unit not in order]
        best = max(rest, key=lambda unit: min(distance[unit][other] for other in order))
        scores[best] = min(distance[best][other] for other in order)
        order.append(best)
    return scores
