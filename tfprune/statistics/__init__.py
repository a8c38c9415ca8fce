"""Statistics of units in one streaming pass: at their homes, and at the exits where kernels read them."""

from tfprune.statistics.measures import ExitStatistics, UnitStatistics, exit_means, exit_statistics, unit_statistics
from tfprune.statistics.passes import Moments

__all__ = ["ExitStatistics", "Moments", "UnitStatistics", "exit_means", "exit_statistics", "unit_statistics"]
