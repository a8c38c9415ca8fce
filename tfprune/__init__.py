"""tfprune removes nodes from Keras networks: switch them off, find out which matter, cut them out."""

from importlib.metadata import PackageNotFoundError, version

from tfprune import datasets, graph, layers, saliency, statistics
from tfprune.graph import UnitGraph, unit_groups
from tfprune.masking import sweep, with_on_nodes
from tfprune.units import LayerValues

try:
    __version__ = version("tfprune")
except PackageNotFoundError:  # A source tree that was never installed has no metadata.
    __version__ = "0+unknown"

__all__ = [
    "LayerValues",
    "UnitGraph",
    "datasets",
    "graph",
    "layers",
    "sweep",
    "unit_groups",
    "with_on_nodes",
    "saliency",
    "statistics",
]
