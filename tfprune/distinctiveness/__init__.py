"""Distinctiveness (Gedeon and Harris): units that do what others do already, found by angles, merged and cut out."""

from tfprune.distinctiveness.angles import Pair, Pairs, angles, complementary_pairs, similar_pairs
from tfprune.distinctiveness.grouping import Removal
from tfprune.distinctiveness.planning import Plan
from tfprune.distinctiveness.pruning import plan, prune

__all__ = ["Pair", "Pairs", "Plan", "Removal", "angles", "complementary_pairs", "plan", "prune", "similar_pairs"]
