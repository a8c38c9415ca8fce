"""Runs over a model whose units switch off, and the records that they leave.

Each run takes a model and data and returns a frozen record. Nothing is drawn here; `tfprune.plots` draws from records.
"""

from tfprune.experiments.records import FlipPaths, MaskedOutputs, PointGradients, RandomSubsets, Record
from tfprune.experiments.runs import flip_paths, masked_outputs, plane_grid, point_gradients, random_subsets

__all__ = [
    "FlipPaths",
    "MaskedOutputs",
    "PointGradients",
    "RandomSubsets",
    "Record",
    "flip_paths",
    "masked_outputs",
    "plane_grid",
    "point_gradients",
    "random_subsets",
]
