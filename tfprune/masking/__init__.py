"""Masked models, and the loss of many masks at once."""

from tfprune.masking.before import has_values_before, masked_before, means_before
from tfprune.masking.build import ON_NODES, MaskedModel, masked_model, on_nodes_input, refuse_masked, with_on_nodes
from tfprune.masking.fixed import POSITIONS, StandIn, fixed_model, group_of, member_of, replaced_at_homes
from tfprune.masking.outputs import OutputsUnderMasks, outputs_under_masks
from tfprune.masking.single import SingleChanges, single_changes
from tfprune.masking.steps import MaskedSteps
from tfprune.masking.sweeping import Sweep, sweep

__all__ = [
    "ON_NODES",
    "POSITIONS",
    "MaskedModel",
    "MaskedSteps",
    "OutputsUnderMasks",
    "SingleChanges",
    "StandIn",
    "Sweep",
    "fixed_model",
    "group_of",
    "has_values_before",
    "masked_before",
    "masked_model",
    "means_before",
    "member_of",
    "on_nodes_input",
    "outputs_under_masks",
    "refuse_masked",
    "replaced_at_homes",
    "single_changes",
    "sweep",
    "with_on_nodes",
]
