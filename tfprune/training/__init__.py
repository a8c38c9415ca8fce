"""Pruning while training, and watching units die."""

from tfprune.training.attack import LearningRateAttack
from tfprune.training.liveness import LivenessMonitor, LivenessRecord
from tfprune.training.pruning import PruneDuringTraining, PruningStep
from tfprune.training.rejuvenation import NeuralRejuvenation, RejuvenatedModel, rejuvenate
from tfprune.training.shrinking import ShrunkModel, shrink_while_training
from tfprune.training.sparsifying import SparsifyDuringTraining, UtilisationRecord

__all__ = [
    "LearningRateAttack",
    "LivenessMonitor",
    "LivenessRecord",
    "NeuralRejuvenation",
    "PruneDuringTraining",
    "PruningStep",
    "RejuvenatedModel",
    "ShrunkModel",
    "SparsifyDuringTraining",
    "UtilisationRecord",
    "rejuvenate",
    "shrink_while_training",
]
