"""Reading Keras graphs: units, groups, homes and exits, by one table row per layer class."""

from tfprune.graph.groups import Group, Member, UnitGraph, unit_groups
from tfprune.graph.step import Signal, Step
from tfprune.graph.table import register, row_of

__all__ = ["Group", "Member", "Signal", "Step", "UnitGraph", "register", "row_of", "unit_groups"]
