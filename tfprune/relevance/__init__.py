"""Why a model said what it said: relevance of inputs, biases and units, by rules that can be mixed."""

from tfprune.relevance import rules
from tfprune.relevance.composites import PRESETS, Composite
from tfprune.relevance.conductance import Conductance, conductance
from tfprune.relevance.explain import explain, tensors
from tfprune.relevance.explanation import Explanation
from tfprune.relevance.propagate import Tensors
from tfprune.relevance.steps import Step, Trace, Value
from tfprune.relevance.table import register, row_of

__all__ = [
    "PRESETS",
    "Composite",
    "Conductance",
    "Explanation",
    "Step",
    "Tensors",
    "Trace",
    "Value",
    "conductance",
    "explain",
    "register",
    "row_of",
    "rules",
    "tensors",
]
