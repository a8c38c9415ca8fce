"""Slow float64 NumPy forms of what masked models compute, written from the equations alone."""

import numpy as np


def mean_replacement(h, on_nodes, replacement, axis=-1):
    """Unit by unit: replacement + on * (h - replacement)."""
    h, on_nodes = np.moveaxis(np.asarray(h, "float64"), axis, -1), np.broadcast_to(on_nodes, (len(h), len(replacement)))
    result = np.empty_like(h)
    for sample in range(len(h)):
        for unit in range(h.shape[-1]):
            mean, on = float(replacement[unit]), float(on_nodes[sample, unit])
            result[sample, ..., unit] = mean + on * (h[sample, ..., unit] - mean)
    return np.moveaxis(result, -1, axis)


def layer_norm(x, on, gamma, beta, epsilon):
    """The norm of the units that are on, each sample with its own row of `on` (bool); units that are off give 0."""
    x = np.asarray(x, "float64")
    result = np.zeros_like(x)
    for sample in range(len(x)):
        kept = x[sample][..., on[sample]]
        mean = kept.mean(axis=-1, keepdims=True)
        variance = ((kept - mean) ** 2).mean(axis=-1, keepdims=True)
        normed = (kept - mean) / np.sqrt(variance + epsilon)
        result[sample][..., on[sample]] = normed * gamma[on[sample]] + beta[on[sample]]
    return result


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def lstm(x, kernel, recurrent, bias, change=lambda h, sample, step: h, keep=None):
    """Outputs at all steps, and last states h, of an LSTM (gates i, f, c, o), sample by sample in float64.

    `change(h, sample, step)` is what is read of h after a step, and given out; a step that `keep` leaves out repeats
    the one before it. Last states are not changed.
    """
    x, kernel, recurrent, bias = (np.asarray(one, "float64") for one in (x, kernel, recurrent, bias))
    units = len(recurrent)
    outputs, last = np.zeros((*x.shape[:2], units)), np.zeros((len(x), units))
    for sample in range(len(x)):
        h, c = np.zeros(units), np.zeros(units)
        for step in range(x.shape[1]):
            entering = change(h, sample, step - 1)
            if keep is None or keep[sample, step]:
                i, f, candidate, o = np.split(x[sample, step] @ kernel + entering @ recurrent + bias, 4)
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
                h = sigmoid(o) * np.tanh(c)
            outputs[sample, step] = change(h, sample, step)
        last[sample] = h
    return outputs, last


def attention(query, value, weights, on):
    """Self or cross attention, head by head; `weights` are the kernels and biases of query, key, value and output."""
    (wq, bq), (wk, bk), (wv, bv), (wo, bo) = [[np.asarray(part, "float64") for part in pair] for pair in weights]
    result = np.zeros((query.shape[0], query.shape[1], wo.shape[-1]))
    for sample in range(len(query)):
        for head in range(wq.shape[1]):
            q = query[sample] @ wq[:, head] + bq[head]
            k, v = value[sample] @ wk[:, head] + bk[head], value[sample] @ wv[:, head] + bv[head]
            scores = np.exp(q @ k.T / np.sqrt(wq.shape[-1]))
            scores /= scores.sum(axis=-1, keepdims=True)
            result[sample] += on[sample, head] * (scores @ v) @ wo[head]
    return result + bo


def parameters_without_unit(graph, unit):
    """Counts the numbers in all weights that a cut of one unit takes away, entry by entry."""
    on = np.arange(graph.num_units) != unit
    gone = 0
    for weight in graph.records.weights.values():
        kept = [np.ones(n, bool) for n in weight.variable.shape]
        for axis, ids in enumerate(weight.axes):
            if ids is not None:
                kept[axis] = graph.kept(ids, on)
        left = np.ones(tuple(weight.variable.shape), bool)[np.ix_(*kept)]
        gone += int(np.prod(weight.variable.shape)) - left.size
    return gone
