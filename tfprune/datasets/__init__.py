"""Small data sets, all as NumPy arrays: points of the plane, images, and tables. Labels are integers ``(n,)``."""

from tfprune.datasets.images import Split, cifar10, digits, mnist, standardize_channels
from tfprune.datasets.points import circle, circle_radius, outside_circle, spiral
from tfprune.datasets.tables import tables

__all__ = [
    "Split",
    "cifar10",
    "circle",
    "circle_radius",
    "digits",
    "mnist",
    "outside_circle",
    "spiral",
    "standardize_channels",
    "tables",
]
