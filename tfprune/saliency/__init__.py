"""Scores of units: functions `(model, data=None, *, ...) -> LayerValues` of floats, higher = keep."""

from tfprune.saliency.elimination import least_squares
from tfprune.saliency.losses import loss_change, mean_replacement, on_nodes_gradient
from tfprune.saliency.units import activation_std, batch_norm_scale, random, weight_norm, zero_fraction

__all__ = [
    "activation_std",
    "batch_norm_scale",
    "least_squares",
    "loss_change",
    "mean_replacement",
    "on_nodes_gradient",
    "random",
    "weight_norm",
    "zero_fraction",
]
