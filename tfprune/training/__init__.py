"""Pruning while training, and watching units die."""

from tfprune.training.pruning import PruneDuringTraining, PruningStep

__all__ = ["PruneDuringTraining", "PruningStep"]
