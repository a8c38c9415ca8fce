"""What `explain` returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tfprune.units import LayerValues


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why a model said what it said. Prints as a table: where the relevance of an average sample went.

    Attributes:
        inputs: relevance of every number of the input, shaped like x; a list for several inputs.
        biases: relevance of every bias, `(samples, channels)` by the name of its layer; "name/f(0)" is what an
            activation adds that is not zero at zero.
        units: relevance of the units of each layer, summed over positions, `(samples, units)` by layer name. For
            "conductance" what they conduct; empty for "integrated_gradients".
        at: relevance at the layers that were asked for, `(samples, *shape of the layer's output)` by name. A layer that
            is called more than once has `name@1`, `name@2`, in the order of its calls; one with several outputs
            `name:1`, `name:2`. Where the explanation starts from logits, a softmax has the relevance of its logits.
        delta: what no input and no bias explains, `(samples,)`: the output (less that of the baseline) less all
            relevance.
        multipliers: Q, shaped like `inputs`, for methods that end by multiplying with the input; None for others.
        unit_multipliers: Q of the units, averaged over positions, `(samples, units)`; None for the others.
        output: the number that was explained, `(samples,)`.
        baseline_output: the same at the baseline, or None.
        target: the class that was explained, `(samples,)`, or None for a function.
        method: the method's name.
        started_from: what the relevance started from, in words.
    """

    inputs: Any
    biases: LayerValues
    units: LayerValues
    at: LayerValues
    delta: np.ndarray
    multipliers: Any
    unit_multipliers: LayerValues | None
    output: np.ndarray
    baseline_output: np.ndarray | None
    target: np.ndarray | None
    method: str
    started_from: str

    def __repr__(self) -> str:
        arrays = self.inputs if isinstance(self.inputs, list) else [self.inputs]
        total = sum(float(array.reshape(len(array), -1).sum(axis=1).mean()) for array in arrays)
        explained = float(self.output.mean())
        if self.baseline_output is not None:
            explained -= float(self.baseline_output.mean())
        rows = [("inputs", total)]
        rows += [(f"bias of {name}", float(array.sum(axis=1).mean())) for name, array in self.biases.items()]
        whole = "output" if self.baseline_output is None else "output - output at the baseline"
        rows += [("unexplained (delta)", float(self.delta.mean())), (whole, explained)]
        width = max(len(name) for name, _ in rows)
        lines = [f"Explanation by {self.method!r} of {len(self.delta)} samples, from {self.started_from}; means:"]
        return "\n".join([*lines, *(f"  {name.ljust(width)}  {value: .4g}" for name, value in rows)])
