"""Scores of units once more, slowly: plain loops over units in float64."""

import itertools

import numpy as np


def standard_deviation(values):
    """Values `(samples, ..., units)` -> `(units,)`."""
    rows = values.reshape(-1, values.shape[-1]).astype("float64")
    return np.array([np.sqrt(np.mean((row - row.mean()) ** 2)) for row in rows.T])


def norms(kernels, order):
    """Kernels with the units on their last axis -> the norm of all weights of each unit."""
    num_units = kernels[0].shape[-1]
    totals = [
        sum(np.sum(np.abs(kernel[..., unit].astype("float64")) ** order) for kernel in kernels)
        for unit in range(num_units)
    ]
    return np.array(totals) ** (1 / order)


def residual(read, weights, keep):
    """Mean squared error, summed over outputs, of what a kernel computes when only the units `keep` are left.

    `read` has shape `(rows, units)`, `weights` `(units, outputs)`; the fit is by least squares, with an intercept.
    """
    target = read @ weights
    regressors = np.concatenate([read[:, list(keep)], np.ones((len(read), 1))], axis=1)
    fitted = regressors @ np.linalg.lstsq(regressors, target, rcond=None)[0]
    return np.sum((target - fitted) ** 2) / len(read)


def total_residual(readers, keep):
    """The same for several readers `(read, weights)`."""
    return sum(residual(read, weights, keep) for read, weights in readers)


def eliminate(readers):
    """Removes the unit whose removal adds least to the residual, one after the other, each time refitting anew.

    Returns the units in the order of removal and the residual after each removal.
    """
    left, order, residuals = list(range(readers[0][0].shape[1])), [], []
    while left:
        after = [total_residual(readers, [unit for unit in left if unit != gone]) for gone in left]
        order.append(left.pop(int(np.argmin(after))))
        residuals.append(min(after))
    return order, residuals


def best_subset(readers, num_kept):
    """Returns the least residual of all subsets of that size."""
    units = range(readers[0][0].shape[1])
    return min(total_residual(readers, keep) for keep in itertools.combinations(units, num_kept))


def entering_states(run, sequences, num_units):
    """States as they enter each step, `(samples, steps, units)`; `run` gives the last state after some first steps."""
    states = [np.zeros((len(sequences), num_units))]
    for stop in range(1, sequences.shape[1]):
        states.append(run(sequences[:, :stop]))
    return np.stack(states, axis=1)
