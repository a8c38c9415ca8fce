"""Scores of weights once more, slowly: finite differences, plain loops and full Hessians in float64."""

import keras
import numpy as np
import tensorflow as tf


def in_float64(model):
    """The same model with all layers, inputs and weights in float64."""
    copy = type(model).from_config(_with_dtype(model.get_config()))
    for old, new in zip(model.weights, copy.weights, strict=True):
        new.assign(keras.ops.convert_to_numpy(old).astype(new.dtype))
    return copy


def _with_dtype(config):
    if isinstance(config, dict):
        floats = str(config.get("dtype", "float")) if not isinstance(config.get("dtype"), dict) else "float"
        changed = {key: _with_dtype(value) for key, value in config.items()}
        return changed | {"dtype": "float64"} if "dtype" in config and "float" in floats else changed
    return [_with_dtype(value) for value in config] if isinstance(config, list | tuple) else config


class Mse:
    """The mean squared error of a float64 model as a function of some of its variables, and its gradient."""

    def __init__(self, model, variables, x, y):
        self.model, self.variables, self.x, self.y = model, variables, x, y

    @property
    def arrays(self):
        return [keras.ops.convert_to_numpy(variable).copy() for variable in self.variables]

    def _assign(self, arrays):
        for variable, array in zip(self.variables, arrays, strict=True):
            variable.assign(array)

    @tf.function(autograph=False)
    def _loss(self):
        return tf.reduce_mean((self.y.astype("float64") - self.model(self.x, training=False)) ** 2)

    @tf.function(autograph=False)
    def _gradient(self):
        values = [variable.value for variable in self.variables]
        with tf.GradientTape() as tape:
            loss = self._loss()
        found = tape.gradient(loss, values, unconnected_gradients="zero")
        return [tf.convert_to_tensor(own) for own in found]

    def __call__(self, arrays):
        self._assign(arrays)
        return self._loss().numpy()

    def gradient(self, arrays):
        self._assign(arrays)
        return np.concatenate([own.numpy().ravel() for own in self._gradient()])


def _moved(arrays, place, amount):
    """Arrays with the entry number `place` of all of them moved by `amount`."""
    flat = np.concatenate([array.ravel() for array in arrays])
    flat[place] += amount
    return _unflat(flat, arrays)


def _unflat(flat, arrays):
    pieces = np.split(flat, np.cumsum([array.size for array in arrays])[:-1])
    return [piece.reshape(array.shape) for piece, array in zip(pieces, arrays, strict=True)]


def _size(arrays):
    return sum(array.size for array in arrays)


def gradient(loss, arrays, h=1e-5):
    """Central differences of the loss."""
    return np.array(
        [(loss(_moved(arrays, i, h)) - loss(_moved(arrays, i, -h))) / (2 * h) for i in range(_size(arrays))]
    )


def hessian(loss, arrays, h=1e-3):
    """Second differences of the loss, every pair of weights."""
    n = _size(arrays)
    result = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            corners = [
                one * other * loss(_moved(_moved(arrays, i, one * h), j, other * h))
                for one in (1, -1)
                for other in (1, -1)
            ]
            result[i, j] = sum(corners) / (4 * h * h)
    return result


def hessian_of_gradients(slope, arrays, h=1e-5):
    """Central differences of gradients."""
    rows = [(slope(_moved(arrays, i, h)) - slope(_moved(arrays, i, -h))) / (2 * h) for i in range(_size(arrays))]
    return np.array(rows)


def loss_changes(loss, arrays):
    """One loss for each weight that is zero."""
    flat = np.concatenate([array.ravel() for array in arrays])
    whole = loss(arrays)
    return np.array([loss(_moved(arrays, i, -flat[i])) - whole for i in range(len(flat))])


def steps(flat, step, eps):
    moves = []
    for weight in flat:
        if step == "prune":
            moves.append(-weight)
        else:
            moves.append(0.0 if weight == 0 else -eps if weight > 0 else eps)
    return np.array(moves)


def scores(name, flat, slope, second, step="prune", eps=1e-2, curvature="row_sum"):
    """The formulas of the thesis, weight by weight; `second` is the whole Hessian."""
    moves = steps(flat, step, eps)
    result = []
    for i, move in enumerate(moves):
        first = move * slope[i]
        row = sum(second[i, j] * moves[j] for j in range(len(moves)))
        curved = move * row if curvature == "row_sum" else second[i, i] * move**2 / 2
        result.append({"taylor1": first, "hessian": curved, "taylor2": first + curved}[name])
    return np.array(result)


def two_layers(arrays, biases, x, classes, sample_weights):
    """The mean cross-entropy of a dense net, tanh and softmax, by loops over samples and units."""
    total = 0.0
    for row, target, weight in zip(x, classes, sample_weights, strict=True):
        for kernel, bias, last in zip(arrays, biases, [False, True], strict=True):
            row = [bias[j] + sum(row[i] * kernel[i, j] for i in range(len(row))) for j in range(len(bias))]
            row = row if last else [np.tanh(value) for value in row]
        total += weight * (np.log(sum(np.exp(value) for value in row)) - row[int(target)])
    return total / len(x)
