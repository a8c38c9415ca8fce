"""Finding neurons: their activations as arrays, rankings across models, and how alike layers are."""

from tfprune.neurons.activations import Activations, activations
from tfprune.neurons.control import class_shift, control
from tfprune.neurons.ranking import Ranking

__all__ = ["Activations", "Ranking", "activations", "class_shift", "control"]
