"""Cutting units out of models."""

from tfprune.surgery.removal import remove, remove_dead

__all__ = ["remove", "remove_dead"]
