"""Finding neurons: their activations as arrays, rankings across models, and how alike layers are.

Every measure takes plain arrays `(points, units)` too. What its name says in other fields: a neuron is a unit.
"""

from tfprune.neurons.activations import Activations, activations
from tfprune.neurons.class_means import Selectivity, probeless, selectivity
from tfprune.neurons.clusters import Clusters, clusters
from tfprune.neurons.control_tasks import control_labels
from tfprune.neurons.examples import Example, TopExamples, top_examples
from tfprune.neurons.gaussian import GaussianProbe, gaussian_probe
from tfprune.neurons.probes import Probe, ProbeAblation, probe
from tfprune.neurons.ranking import Ranking
from tfprune.relevance import Conductance, conductance

__all__ = [
    "Activations",
    "Clusters",
    "Conductance",
    "Example",
    "GaussianProbe",
    "Probe",
    "ProbeAblation",
    "Ranking",
    "Selectivity",
    "TopExamples",
    "activations",
    "clusters",
    "conductance",
    "control_labels",
    "gaussian_probe",
    "probe",
    "probeless",
    "selectivity",
    "top_examples",
]
