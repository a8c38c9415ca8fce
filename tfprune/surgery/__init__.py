"""Cutting units out of models, and putting new ones in."""

from tfprune.surgery.dead import remove_dead
from tfprune.surgery.removal import remove
from tfprune.surgery.widening import widen
from tfprune.surgery.zeroing import zero_weights

__all__ = ["remove", "remove_dead", "widen", "zero_weights"]
