"""Finding neurons: their activations as arrays, rankings across models, how alike layers are; and holding them."""

from tfprune.neurons.activations import Activations, activations
from tfprune.neurons.control import class_shift, control
from tfprune.neurons.directions import CanonicalCorrelations, Directions
from tfprune.neurons.ranking import Ranking
from tfprune.neurons.rankings import linear_regression, max_correlation, min_correlation
from tfprune.neurons.similarity import cca, cka, pwcca, svcca

__all__ = [
    "Activations",
    "CanonicalCorrelations",
    "Directions",
    "Ranking",
    "activations",
    "cca",
    "cka",
    "class_shift",
    "control",
    "linear_regression",
    "max_correlation",
    "min_correlation",
    "pwcca",
    "svcca",
]
