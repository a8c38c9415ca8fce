"""Runs over a model whose units switch off, grids of such runs, and the records that they leave.

Each run takes a model and data and returns a frozen record. Nothing is drawn here; `tfprune.plots` draws from records.
"""

from tfprune.experiments.doses import DoseCurve, dose_curve
from tfprune.experiments.erasing import AblationCurves, ablation_curve, removal_curve
from tfprune.experiments.grid_results import FailedRun, GridResults, Run, load_grid
from tfprune.experiments.grids import grid
from tfprune.experiments.records import FlipPaths, MaskedOutputs, PointGradients, RandomSubsets, Record
from tfprune.experiments.removal import REPAIRS, RemovalGrid, accuracy_curves, removal_grid
from tfprune.experiments.retraining import TrainingAfterRemoval, train_after_removal
from tfprune.experiments.runs import flip_paths, masked_outputs, plane_grid, point_gradients, random_subsets

__all__ = [
    "REPAIRS",
    "AblationCurves",
    "DoseCurve",
    "FailedRun",
    "FlipPaths",
    "GridResults",
    "MaskedOutputs",
    "PointGradients",
    "RandomSubsets",
    "Record",
    "RemovalGrid",
    "Run",
    "TrainingAfterRemoval",
    "ablation_curve",
    "accuracy_curves",
    "dose_curve",
    "flip_paths",
    "grid",
    "load_grid",
    "masked_outputs",
    "plane_grid",
    "point_gradients",
    "random_subsets",
    "removal_curve",
    "removal_grid",
    "train_after_removal",
]
