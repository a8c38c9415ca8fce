"""tfprune removes nodes from Keras networks."""

from tfprune.graph import unit_groups

__all__ = ["unit_groups"]
