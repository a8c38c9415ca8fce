"""The record of curves of ablation."""

from __future__ import annotations

import dataclasses

import numpy as np

from tfprune.experiments.records import Record


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AblationCurves(Record):
    """A metric of a model as units are erased, one curve per order (several for "random").

    Attributes:
        orders: what each curve erases first: "top", "bottom" or "random"; text, shape `(num_curves,)`.
        erased: what stood in for erased units in each curve: "zero", "mean", ..., or "remove, " and a repair; text,
            shape `(num_curves,)`.
        num_off: how many units are erased at each step, rising from 0, shape `(num_steps + 1,)`.
        values: the metric, in its own unit, shape `(num_curves, num_steps + 1)`.
    """

    orders: np.ndarray
    erased: np.ndarray
    num_off: np.ndarray
    values: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """The share of the ranked units that is erased at each step, 0 to 1, shape `(num_steps + 1,)`."""
        return self.num_off / self.settings["num_units"]

    @property
    def kinds(self) -> tuple[tuple[str, str], ...]:
        """The order and the way of erasing of each curve, each pair once, in the order of the curves."""
        return tuple(dict.fromkeys(zip(self.orders.tolist(), self.erased.tolist(), strict=True)))

    def curves(self, order: str, erased: str | None = None) -> np.ndarray:
        """All curves of one order, shape `(num_such, num_steps + 1)`.

        Args:
            order: "top", "bottom" or "random".
            erased: what stood in for the erased units; None where the record has one way only.

        Raises:
            ValueError: if the record has none.
        """
        chosen = (self.orders == order) & ((self.erased == erased) | (erased is None))
        if not chosen.any() or (erased is None and len(set(self.erased[chosen].tolist())) > 1):
            raise ValueError(f"AblationCurves: expected one of the curves {self.kinds}, received {(order, erased)}.")
        return self.values[chosen]

    def area(self, order: str, erased: str | None = None) -> float:
        """The mean height of the curve, in the metric's unit: the area under it over the share that is erased.

        The trapezoidal rule, divided by the largest share; the mean over the curves of "random". For a metric that is
        good when high, the area from the bottom minus that from the top says how much the ranking knows.

        Args:
            order: as for `curves`.
            erased: as for `curves`.
        """
        heights, shares = self.curves(order, erased).mean(axis=0), self.shares
        return float(((heights[1:] + heights[:-1]) / 2 * np.diff(shares)).sum() / (shares[-1] - shares[0]))

    def __repr__(self) -> str:
        rows = [f"{'erased first':14}{'by':24}{'area':>9}{'all on':>9}{'half':>9}{'last':>9}"]
        for order, erased in self.kinds:
            heights = self.curves(order, erased).mean(axis=0)
            half = np.interp(self.shares[-1] / 2, self.shares, heights)
            cells = (self.area(order, erased), heights[0], half, heights[-1])
            rows.append(f"{order:14}{erased:24}" + "".join(f"{cell:9.4g}" for cell in cells))
        title = f"AblationCurves: {self.settings['metric']}, {self.num_off[-1]} of {self.settings['num_units']} units"
        return "\n".join([title, *rows])
