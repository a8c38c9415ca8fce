"""Cutting units out of models."""

from tfprune.surgery.removal import remove

__all__ = ["remove"]
