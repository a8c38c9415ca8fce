"""Figures from records and arrays.

Every function returns a `matplotlib.figure.Figure`, which needs no display; `save_figure` writes it. The same thing has
the same colour everywhere: presence probabilities, units on and off, starts and ends of paths, repairs, attacks,
classes.
"""

from tfprune.plots.decisions import CLASS_COLOURS, bound_scatter, decision_frames, decision_maps, kernel_scatter
from tfprune.plots.distinctiveness import (
    TRANSFER_COLOURS,
    accuracy_against_threshold,
    angle_histograms,
    angle_maps,
)
from tfprune.plots.drawing import save_animation, save_figure
from tfprune.plots.erasing import ORDER_COLOURS, ablation_curves, dose_curves
from tfprune.plots.liveness import ATTACK_COLOURS, ORIGINAL_COLOUR, histograms_over_time, line_colours, liveness_curves
from tfprune.plots.pruning import kernel_maps, line_panels
from tfprune.plots.relevance import pixel_flipping, relevance_maps, relevance_per_unit
from tfprune.plots.removal import REPAIR_COLOURS, accuracy_against_sparsity, training_after_removal
from tfprune.plots.subsets import (
    END_COLOUR,
    KERNEL_WIDTH,
    OFF_COLOUR,
    ON_COLOUR,
    PROBABILITY_COLOURS,
    START_COLOUR,
    density_figure,
    flip_path_covariance,
    gradients_on_off,
    gradients_per_unit,
    kernel_density,
    plane_maps,
    split_on_off,
    subset_gradients,
    subset_losses,
    symmetric_range,
)
from tfprune.plots.text import activation_html, activation_text

__all__ = [
    "ATTACK_COLOURS",
    "CLASS_COLOURS",
    "END_COLOUR",
    "KERNEL_WIDTH",
    "OFF_COLOUR",
    "ON_COLOUR",
    "ORDER_COLOURS",
    "ORIGINAL_COLOUR",
    "PROBABILITY_COLOURS",
    "REPAIR_COLOURS",
    "START_COLOUR",
    "TRANSFER_COLOURS",
    "ablation_curves",
    "accuracy_against_sparsity",
    "accuracy_against_threshold",
    "activation_html",
    "activation_text",
    "angle_histograms",
    "angle_maps",
    "bound_scatter",
    "decision_frames",
    "decision_maps",
    "density_figure",
    "dose_curves",
    "flip_path_covariance",
    "gradients_on_off",
    "gradients_per_unit",
    "histograms_over_time",
    "kernel_density",
    "kernel_maps",
    "kernel_scatter",
    "line_colours",
    "line_panels",
    "liveness_curves",
    "pixel_flipping",
    "plane_maps",
    "relevance_maps",
    "relevance_per_unit",
    "save_animation",
    "save_figure",
    "split_on_off",
    "subset_gradients",
    "subset_losses",
    "symmetric_range",
    "training_after_removal",
]
