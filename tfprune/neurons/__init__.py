"""Finding neurons: their activations, what can be read from them, rankings across models, and how alike layers are."""

from tfprune.neurons.activations import Activations, activations
from tfprune.neurons.class_means import Selectivity, probeless, selectivity
from tfprune.neurons.clusters import Clusters, clusters
from tfprune.neurons.control import class_shift, control
from tfprune.neurons.control_tasks import control_labels
from tfprune.neurons.directions import CanonicalCorrelations, Directions
from tfprune.neurons.examples import Example, TopExamples, top_examples
from tfprune.neurons.gaussian import GaussianProbe, gaussian_probe
from tfprune.neurons.probes import Probe, ProbeAblation, probe
from tfprune.neurons.ranking import Ranking
from tfprune.neurons.rankings import linear_regression, max_correlation, min_correlation
from tfprune.neurons.similarity import cca, cka, pwcca, svcca
from tfprune.relevance import Conductance, conductance

__all__ = [
    "Activations",
    "CanonicalCorrelations",
    "Clusters",
    "Conductance",
    "Directions",
    "Example",
    "GaussianProbe",
    "Probe",
    "ProbeAblation",
    "Ranking",
    "Selectivity",
    "TopExamples",
    "activations",
    "cca",
    "cka",
    "class_shift",
    "control",
    "clusters",
    "conductance",
    "control_labels",
    "gaussian_probe",
    "linear_regression",
    "max_correlation",
    "min_correlation",
    "probe",
    "probeless",
    "pwcca",
    "selectivity",
    "svcca",
    "top_examples",
]
