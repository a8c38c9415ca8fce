"""tfprune removes nodes from Keras networks: switch them off, find out which matter, cut them out."""

from importlib.metadata import PackageNotFoundError, version

from tfprune import (
    datasets,
    distinctiveness,
    experiments,
    export,
    graph,
    layers,
    neurons,
    plots,
    relevance,
    repair,
    saliency,
    schedules,
    statistics,
    training,
)
from tfprune.export import compare
from tfprune.graph import UnitGraph, unit_groups
from tfprune.masking import sweep, with_on_nodes
from tfprune.select import keep_above, keep_budget, keep_layers, keep_random, keep_top
from tfprune.surgery import form_of, load, remove, remove_dead, save, widen, zero_weights
from tfprune.units import LayerValues

try:
    __version__ = version("tfprune")
except PackageNotFoundError:  # A source tree that was never installed has no metadata.
    __version__ = "0+unknown"

__all__ = [
    "LayerValues",
    "UnitGraph",
    "compare",
    "datasets",
    "distinctiveness",
    "experiments",
    "export",
    "form_of",
    "graph",
    "keep_above",
    "keep_budget",
    "keep_layers",
    "keep_random",
    "keep_top",
    "layers",
    "load",
    "neurons",
    "plots",
    "relevance",
    "remove",
    "remove_dead",
    "repair",
    "saliency",
    "save",
    "schedules",
    "statistics",
    "sweep",
    "training",
    "unit_groups",
    "widen",
    "with_on_nodes",
    "zero_weights",
]
