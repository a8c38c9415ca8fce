"""The rules, and their names."""

from tfprune.relevance.rules.base import KINDS, Gradient, Rule
from tfprune.relevance.rules.linear import (
    AlphaBeta,
    Flat,
    Gamma,
    Normalized,
    Part,
    Term,
    WeightRule,
    WSquare,
    ZBox,
    ZPlus,
)
from tfprune.relevance.rules.maximum import FoldedMaximum, LargerMaximum, ProductOfDifferences, Radial, SignalTakesAll
from tfprune.relevance.rules.nonlinearity import Guided, Ignore, Repeat, Slope, SlopeOfDifferences

NAMED = {
    "gradient": Gradient(),
    "normalized": Normalized(),
    "epsilon": Normalized(epsilon=1e-6),
    "gamma": Gamma(),
    "alpha_beta": AlphaBeta(),
    "z_plus": ZPlus(),
    "w_square": WSquare(),
    "flat": Flat(),
    "z_box": ZBox(),
    "ignore": Ignore(),
    "slope": Slope(),
    "repeat": Repeat(),
    "guided": Guided(),
    "slope_of_differences": SlopeOfDifferences(),
    "radial": Radial(),
    "larger_maximum": LargerMaximum(),
    "folded_maximum": FoldedMaximum(),
    "signal_takes_all": SignalTakesAll(),
    "product_of_differences": ProductOfDifferences(),
}
"""Rules by name, with their default options."""

__all__ = [
    "AlphaBeta",
    "Flat",
    "FoldedMaximum",
    "Gamma",
    "Gradient",
    "Guided",
    "Ignore",
    "KINDS",
    "LargerMaximum",
    "NAMED",
    "Normalized",
    "Part",
    "ProductOfDifferences",
    "Radial",
    "Repeat",
    "Rule",
    "SignalTakesAll",
    "Slope",
    "SlopeOfDifferences",
    "Term",
    "WSquare",
    "WeightRule",
    "ZBox",
    "ZPlus",
]
