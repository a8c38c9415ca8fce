"""Runs over a model whose units switch off, and the records that they leave.

Each run takes a model and data and returns a frozen record. Nothing is drawn here; `tfprune.plots` draws from records.
"""

from tfprune.experiments.records import FlipPaths, MaskedOutputs, PointGradients, RandomSubsets, Record
from tfprune.experiments.removal import REPAIRS, RemovalGrid, accuracy_curves, removal_grid
from tfprune.experiments.retraining import TrainingAfterRemoval, train_after_removal
from tfprune.experiments.runs import flip_paths, masked_outputs, plane_grid, point_gradients, random_subsets

__all__ = [
    "REPAIRS",
    "FlipPaths",
    "MaskedOutputs",
    "PointGradients",
    "RandomSubsets",
    "Record",
    "RemovalGrid",
    "TrainingAfterRemoval",
    "accuracy_curves",
    "flip_paths",
    "masked_outputs",
    "plane_grid",
    "point_gradients",
    "random_subsets",
    "removal_grid",
    "train_after_removal",
]
