"""Cutting units out of models, and putting new ones in."""

from tfprune.surgery.dead import remove_dead
from tfprune.surgery.forms import Form, form_of
from tfprune.surgery.removal import remove
from tfprune.surgery.saving import load, save
from tfprune.surgery.widening import widen
from tfprune.surgery.zeroing import zero_weights

__all__ = ["Form", "form_of", "load", "remove", "remove_dead", "save", "widen", "zero_weights"]
