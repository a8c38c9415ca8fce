"""Pruning while training, and watching units die."""

from tfprune.training.attack import LearningRateAttack
from tfprune.training.pruning import PruneDuringTraining, PruningStep

__all__ = ["LearningRateAttack", "PruneDuringTraining", "PruningStep"]
