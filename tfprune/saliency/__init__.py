"""Scores of units, and of weights (`weights`): functions `(model, data=None, *, ...) -> LayerValues`, higher = keep."""

from tfprune.saliency import weights
from tfprune.saliency.distinctiveness import distinctiveness
from tfprune.saliency.elimination import least_squares
from tfprune.saliency.losses import loss_change, mean_replacement, mean_replacement_penalty, on_nodes_gradient
from tfprune.saliency.nonzero import nonzero_fraction
from tfprune.saliency.relevance import conductance, relevance
from tfprune.saliency.units import activation_std, batch_norm_scale, random, weight_norm, zero_fraction

__all__ = [
    "activation_std",
    "batch_norm_scale",
    "conductance",
    "distinctiveness",
    "least_squares",
    "loss_change",
    "mean_replacement",
    "mean_replacement_penalty",
    "nonzero_fraction",
    "on_nodes_gradient",
    "random",
    "relevance",
    "weight_norm",
    "weights",
    "zero_fraction",
]
