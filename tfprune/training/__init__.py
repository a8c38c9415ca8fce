"""Pruning while training, and watching units die."""

from tfprune.training.attack import LearningRateAttack
from tfprune.training.liveness import LivenessMonitor, LivenessRecord
from tfprune.training.pruning import PruneDuringTraining, PruningStep
from tfprune.training.shrinking import ShrunkModel, shrink_while_training

__all__ = [
    "LearningRateAttack",
    "LivenessMonitor",
    "LivenessRecord",
    "PruneDuringTraining",
    "PruningStep",
    "ShrunkModel",
    "shrink_while_training",
]
