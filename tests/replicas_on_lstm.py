"""The ordered neurons LSTM in plain float64 loops over samples, steps, chunks and units, from the paper's equations."""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def master_gates(read, levels, master_input="paper"):
    """Forget and input gate of one step, from what they read: first the input gate's part, then the forget gate's."""
    enter, forget = softmax(read[:levels]), softmax(read[levels : 2 * levels])
    forget_gate, input_gate = np.zeros(levels), np.zeros(levels)
    for k in range(levels):
        forget_gate[k] = sum(forget[j] for j in range(k + 1))
        if master_input == "paper":
            input_gate[k] = 1.0 - sum(enter[j] for j in range(k + 1))
        else:
            input_gate[k] = sum(enter[j] for j in range(k, levels))
    return forget_gate, input_gate


def on_lstm(x, kernel, recurrent, bias, chunk, *, master_input="paper", start=None, mask=None, on=None):
    """Returns all h and c, `(samples, steps, units)`, and both master gates, `(samples, steps, levels)`.

    `on` says which units the recurrent kernel reads. At a masked step everything stays what it was.
    """
    x, kernel, recurrent = (np.asarray(array, "float64") for array in (x, kernel, recurrent))
    units = len(recurrent)
    levels = units // chunk
    on = np.ones(units) if on is None else on
    found = {"h": [], "c": [], "forget": [], "input": []}
    for sample in range(len(x)):
        h, c = (np.zeros(units), np.zeros(units)) if start is None else (start[0][sample], start[1][sample])
        h, c = h.astype("float64"), c.astype("float64")
        forget_gate, input_gate = np.zeros(levels), np.zeros(levels)
        own = {name: [] for name in found}
        for step in range(x.shape[1]):
            if mask is None or mask[sample, step]:
                read = x[sample, step] @ kernel + (on * h) @ recurrent + np.asarray(bias, "float64")
                forget_gate, input_gate = master_gates(read, levels, master_input)
                o, candidate, i, f = np.split(read[2 * levels :], 4)
                new = np.zeros(units)
                for k in range(levels):
                    w = forget_gate[k] * input_gate[k]
                    for unit in range(k * chunk, (k + 1) * chunk):
                        forget = sigmoid(f[unit]) * w + (forget_gate[k] - w)
                        enter = sigmoid(i[unit]) * w + (input_gate[k] - w)
                        new[unit] = forget * c[unit] + enter * np.tanh(candidate[unit])
                c = new
                h = sigmoid(o) * np.tanh(c)
            for name, value in (("h", h), ("c", c), ("forget", forget_gate), ("input", input_gate)):
                own[name].append(value)
        for name, values in own.items():
            found[name].append(values)
    return {name: np.array(values) for name, values in found.items()}
