"""Reading Keras graphs: units, groups, homes and exits, by one table row per layer class."""

from tfprune.graph.closing import closed
from tfprune.graph.flops import count_flops, count_parameters, flops_by_layer
from tfprune.graph.flops_table import Call, register_flops
from tfprune.graph.groups import UnitGraph, unit_groups
from tfprune.graph.members import Group, Member
from tfprune.graph.step import Signal, Step
from tfprune.graph.table import register, row_of

__all__ = [
    "Call",
    "Group",
    "Member",
    "Signal",
    "Step",
    "UnitGraph",
    "closed",
    "count_flops",
    "count_parameters",
    "flops_by_layer",
    "register",
    "register_flops",
    "row_of",
    "unit_groups",
]
