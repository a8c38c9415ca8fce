"""Repairs: what the readers of removed units do so that they still compute the same."""

from tfprune.repair.rules import Channels, Merged, Repair, affine, find_repair, least_squares, mean, merge, zero

__all__ = ["Channels", "Merged", "Repair", "affine", "find_repair", "least_squares", "mean", "merge", "zero"]
