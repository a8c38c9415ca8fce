"""Cutting units out of models."""

from tfprune.surgery.dead import remove_dead
from tfprune.surgery.removal import remove
from tfprune.surgery.zeroing import zero_weights

__all__ = ["remove", "remove_dead", "zero_weights"]
