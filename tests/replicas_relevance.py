"""Relevance once more, slowly: every rule as loops over the entries of a matrix, in float64."""

import numpy as np


def blip(z, epsilon):
    return z + (epsilon if z >= 0 else -epsilon)


def linear(rule, a, w, b, r, **options):
    """Relevance of inputs `a` (i,) and biases `b` (j,) of `a @ w + b` when the outputs have relevance `r` (j,)."""
    inputs, biases = np.zeros(len(a)), np.zeros(len(b))
    for j in range(len(b)):
        for share, part, own in LINEAR[rule](a, w[:, j], b[j], **options):
            inputs += np.array(part) * share * r[j]
            biases[j] += own * share * r[j]
    return inputs, biases


def _gradient(a, w, b):
    yield 1.0, w, b


def _normalized(a, w, b, epsilon=0.0, biases=True):
    z = [a[i] * w[i] for i in range(len(a))]
    yield 1.0 / blip(sum(z) + (b if biases else 0.0), epsilon), z, b if biases else 0.0


def _gamma(a, w, b, gamma=0.25, biases=True):
    b = b if biases else 0.0
    z = []
    for i in range(len(a)):
        z.append(a[i] * w[i] + gamma * max(a[i] * w[i], 0.0))
    own = b + gamma * max(b, 0.0)
    yield 1.0 / (sum(z) + own), z, own


def _alpha_beta(a, w, b, alpha=2.0, beta=1.0, biases=True):
    b = b if biases else 0.0
    up = [max(a[i] * w[i], 0.0) for i in range(len(a))]
    down = [min(a[i] * w[i], 0.0) for i in range(len(a))]
    total, total_down = sum(up) + max(b, 0.0), sum(down) + min(b, 0.0)
    if total:
        yield alpha / total, up, max(b, 0.0)
    if beta and total_down:
        yield -beta / total_down, down, min(b, 0.0)


def _w_square(a, w, b, biases=True):
    b = b if biases else 0.0
    yield 1.0 / (sum(x * x for x in w) + b * b), [x * x for x in w], b * b


def _flat(a, w, b, biases=True):
    own = 1.0 if biases else 0.0
    yield 1.0 / (len(a) + own), [1.0] * len(a), own


def _z_box(a, w, b, low=0.0, high=1.0, biases=False):
    b = b if biases else 0.0
    z = [a[i] * w[i] - low * max(w[i], 0.0) - high * min(w[i], 0.0) for i in range(len(a))]
    yield 1.0 / (sum(z) + b), z, b


LINEAR = {
    "gradient": _gradient,
    "normalized": _normalized,
    "gamma": _gamma,
    "alpha_beta": _alpha_beta,
    "z_plus": lambda a, w, b, biases=True: _alpha_beta(a, w, b, 1.0, 0.0, biases),
    "w_square": _w_square,
    "flat": _flat,
    "z_box": _z_box,
}


def nonlinearity(rule, f, derivative, a, r):
    """Relevance of one number `a` and of the bias f(0), when f(a) has relevance `r`."""
    at_zero = f(0.0)
    if rule == "ignore":
        return r * (f(a) - at_zero) / f(a) if at_zero else r, r * at_zero / f(a) if at_zero else 0.0
    if rule == "gradient":
        return derivative(a) * r, 0.0
    if rule == "slope":
        return ((f(a) - at_zero) / a if a else derivative(0.0)) * r, at_zero * r
    if rule == "repeat":
        return f(r), 0.0
    return derivative(a) * max(r, 0.0), 0.0  # guided


def maximum(rule, a, r):
    """Relevance of the entries `a` when their maximum has relevance `r`."""
    a = np.asarray(a, "float64")
    if rule == "gradient":
        return np.where(np.arange(len(a)) == np.argmax(a), r, 0.0)
    if a.max() > 0:
        return r * np.maximum(a, 0.0) / sum(x for x in a if x > 0)
    return r * (1.0 / a) / sum(1.0 / x for x in a)


def soft_maximum_difference(a, a0, softness, num_steps=20000):
    """What each entry has to do with `m - m0`, for a soft maximum made of the source's building blocks.

    m = softness * log(sum_i exp(a_i / softness)): exp and log pass relevance by the slope of differences, the sum by
    the gradient.
    """
    a, a0 = np.asarray(a, "float64") / softness, np.asarray(a0, "float64") / softness
    top = max(a.max(), a0.max())
    powers, powers0 = np.exp(a - top), np.exp(a0 - top)
    total, total0 = powers.sum(), powers0.sum()
    slope = (np.log(total) - np.log(total0)) / (total - total0)
    return softness * slope * (powers - powers0)


def folded_maximum_difference(a, a0):
    """The same for max(a, b) = a + relu(b - a), entry after entry."""
    most, most0, shares = a[0], a0[0], np.zeros(len(a))
    shares[0] = a[0] - a0[0]
    for k in range(1, len(a)):
        gap, gap0 = a[k] - most, a0[k] - most0
        rise = max(gap, 0.0) - max(gap0, 0.0)
        slope = rise / (gap - gap0)
        # d max = d most + slope * (d a_k - d most): what came before keeps the share 1 - slope.
        shares *= 1.0 - slope
        shares[k] += slope * (a[k] - a0[k])
        most, most0 = max(most, a[k]), max(most0, a0[k])
    return shares


def matrix_of(function, shape):
    """The matrix `(inputs, outputs)` of a linear map, from what it does to each basis vector, and its offset."""
    size = int(np.prod(shape))
    offset = np.asarray(function(np.zeros((1, *shape)))).ravel()
    rows = np.asarray(function(np.eye(size).reshape(size, *shape))).reshape(size, -1) - offset
    return rows, offset


def q_form(weights, activations, x, start):
    """Q of the inputs of a dense net, and relevance of all its biases, for one sample, by the source's table."""
    values, before = [np.asarray(x, "float64")], []
    for (w, b), f in zip(weights, activations, strict=True):
        before.append(values[-1] @ w + b)
        values.append(f(before[-1]))
    q, biases = np.asarray(start, "float64"), []
    for (w, b), f, z in reversed(list(zip(weights, activations, before, strict=True))):
        offset = f(np.zeros(1))[0]
        biases.append(offset * q)
        slope = np.array([(f(np.array([t]))[0] - offset) / t for t in z])
        q = slope * q
        biases.append(b * q)
        q = w @ q
    return q, biases[::-1]


def attention(query, value, key, value_mask=None, query_mask=None, *, scale=1.0, causal=False, additive=None):
    """Attention without heads for one sample, as loops: the output, and the weights `(queries, keys)`.

    `additive` is None for products of query and key, else the weights of the sum of tanh(query + key).
    """
    weights = np.zeros((len(query), len(key)))
    output = np.zeros((len(query), value.shape[1]))
    for t in range(len(query)):
        for s in range(len(key)):
            if additive is None:
                score = scale * sum(query[t, d] * key[s, d] for d in range(query.shape[1]))
            else:
                score = sum(additive[d] * np.tanh(query[t, d] + key[s, d]) for d in range(query.shape[1]))
            hidden = (value_mask is not None and not value_mask[s]) or (causal and s > t)
            weights[t, s] = 0.0 if hidden else np.exp(score)
        weights[t] /= weights[t].sum()
        if query_mask is None or query_mask[t]:
            output[t] = weights[t] @ value
    return output, weights


def attention_relevance(value, weights, r, query_mask=None):
    """Relevance of the values, when the output has relevance `r` and the weights count as given."""
    found = np.zeros_like(value)
    for t in range(len(weights)):
        if query_mask is not None and not query_mask[t]:
            continue
        for d in range(value.shape[1]):
            total = sum(weights[t, s] * value[s, d] for s in range(len(value)))
            for s in range(len(value)):
                found[s, d] += weights[t, s] * value[s, d] / total * r[t, d]
    return found


def simple_rnn(x, kernel, recurrent, bias, mask, *, zero=False, backwards=False):
    """Outputs of every step of a SimpleRNN with tanh for one sample, in the order in which it goes through them."""
    state, output, outputs = np.zeros(len(bias)), np.zeros(len(bias)), []
    for t in reversed(range(len(x))) if backwards else range(len(x)):
        if mask[t]:
            state = np.tanh(x[t] @ kernel + state @ recurrent + bias)
            output = state
        elif zero:
            output = np.zeros(len(bias))
        outputs.append(output)
    return np.array(outputs)


def simple_rnn_q(x, kernel, recurrent, bias, mask, start):
    """Q of the input and relevance of the bias, from the last state, which has the multiplier `start`."""
    states, before = [np.zeros(len(bias))], []
    for t in range(len(x)):
        z = x[t] @ kernel + states[-1] @ recurrent + bias
        before.append(z)
        states.append(np.tanh(z) if mask[t] else states[-1])
    q, inputs, biases = np.asarray(start, "float64"), np.zeros_like(x), np.zeros(len(bias))
    for t in reversed(range(len(x))):
        if not mask[t]:
            continue
        q = q * np.tanh(before[t]) / before[t]
        biases += bias * q
        inputs[t] = kernel @ q
        q = recurrent @ q
    return inputs, biases


def conductance(weights, activations, x, baseline, target, num_steps):
    """What the units of each layer of a dense net conduct, for one sample, from a great many short stretches."""

    def run(fraction):
        value, values, slopes = baseline + fraction * (x - baseline), [], []
        for (w, b), (f, derivative) in zip(weights, activations, strict=True):
            z = value @ w + b
            value = f(z)
            values.append(value)
            slopes.append(derivative(z))
        gradient, gradients = np.eye(len(value))[target], []
        for (w, _), slope in reversed(list(zip(weights, slopes, strict=True))):
            gradients.append(gradient)
            gradient = w @ (slope * gradient)
        return values, gradients[::-1]

    totals = [np.zeros(len(b)) for _, b in weights]
    values, _ = run(0.0)
    for step in range(num_steps):
        _, gradients = run((step + 0.5) / num_steps)
        after, _ = run((step + 1.0) / num_steps)
        totals = [t + g * (y - y0) for t, g, y, y0 in zip(totals, gradients, after, values, strict=True)]
        values = after
    return totals
