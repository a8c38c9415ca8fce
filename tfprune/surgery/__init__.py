"""Cutting units out of models."""

from tfprune.surgery.dead import remove_dead
from tfprune.surgery.removal import remove

__all__ = ["remove", "remove_dead"]
