"""From scores to masks: which units, or weights, are kept. A mask is a `LayerValues` of bool, True = on = kept."""

from tfprune.select.budget import keep_budget
from tfprune.select.depth import keep_layers
from tfprune.select.masks import SCOPES, keep_above, keep_random, keep_top

__all__ = ["SCOPES", "keep_above", "keep_budget", "keep_layers", "keep_random", "keep_top"]
