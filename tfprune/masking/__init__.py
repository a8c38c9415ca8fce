"""Masked models, and the loss of many masks at once."""

from tfprune.masking.build import ON_NODES, on_nodes_input, refuse_masked, with_on_nodes
from tfprune.masking.sweeping import Sweep, sweep

__all__ = ["ON_NODES", "Sweep", "on_nodes_input", "refuse_masked", "sweep", "with_on_nodes"]
