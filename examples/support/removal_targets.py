"""Which removals the study makes, what they are expected to give, and the tables that compare the two."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from rich.table import Table

import tfprune as tfp
from tfprune.experiments import REPAIRS, RemovalGrid, accuracy_curves

LEAST_SQUARES = "least_squares"
VERDICTS = {True: "[green]met[/]", False: "[red]not met[/]", None: "not measured"}
SALIENCIES = ("weight_norm", "activation_std", LEAST_SQUARES, "random")
TWO_SALIENCIES = ("weight_norm", LEAST_SQUARES)


@dataclass(frozen=True)
class Target:
    """Median accuracy over the trainings that a removal should reach; ``within`` is measured from the full net."""

    sparsity: float
    at_least: float | None = None
    within: float | None = None

    def check(self, grids: Sequence[RemovalGrid], repair: str = LEAST_SQUARES) -> tuple[float, float, bool]:
        """Median accuracy, the accuracy that is wanted, and whether it is reached."""
        reached = median_accuracy(grids, LEAST_SQUARES, repair, self.sparsity)
        full = float(np.median([grid.full_accuracy for grid in grids]))
        wanted = self.at_least if self.at_least is not None else full - self.within
        return reached, wanted, bool(reached >= wanted)


@dataclass(frozen=True)
class Study:
    """One net, the units that go, and how.

    Attributes:
        net: Name of the net's recipe.
        title: What the tables and figures call it.
        sparsities: In the order of work: what the targets need comes first.
        saliencies: Names of scores.
        targets: For the saliency and the repair "least_squares".
        groups: Pattern of the names of the groups that lose units; the others stay whole.
    """

    net: str
    title: str
    sparsities: tuple[float, ...]
    saliencies: tuple[str, ...] = TWO_SALIENCIES
    targets: tuple[Target, ...] = ()
    groups: str = ""

    def functions(self, model: keras.Model, seed: int) -> Mapping[str, Callable[[keras.Model, Any], tfp.LayerValues]]:
        """The scores of this study as functions of model and data."""
        names = [name for name in tfp.unit_groups(model).names if re.search(self.groups, name)]
        functions = {name: partial(getattr(tfp.saliency, name), layers=names) for name in self.saliencies}
        if "random" in functions:
            functions["random"] = partial(functions["random"], seed=seed)
        return functions


TENTHS = (0.5, 0.25, 0.75, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)
QUARTERS = (0.5, 0.25, 0.75)
REAL_STUDIES = {
    "thesis": Study(
        "thesis", "Small convolutional net, MNIST", TENTHS, SALIENCIES, (Target(0.5, 0.975), Target(0.25, within=0.005))
    ),
    "lstm": Study("lstm", "LSTM, rows of MNIST", QUARTERS, targets=(Target(0.5, 0.94),)),
    "residual": Study(
        "residual", "Residual net, CIFAR-10", (0.5, 0.25), targets=(Target(0.5, 0.60), Target(0.25, 0.74))
    ),
    "residual_interiors": Study(
        "residual",
        "Residual net, CIFAR-10, interiors of blocks",
        (0.5, 0.25),
        targets=(Target(0.5, 0.75),),
        groups="conv1$",
    ),
    "gru": Study("gru", "GRU, rows of MNIST", QUARTERS),
    "attention": Study("attention", "Attention, rows of MNIST", QUARTERS),
}
DIGITS_STUDIES = {
    name: Study(name, title, QUARTERS, (LEAST_SQUARES,), (Target(0.5, within=0.015),))
    for name, title in (
        ("dense", "Dense net, digits"),
        ("same", "Convolution 'same', digits"),
        ("valid", "Convolution 'valid', digits"),
    )
}


def median_accuracy(grids: Sequence[RemovalGrid], saliency: str, repair: str, sparsity: float) -> float:
    """Median over the trainings."""
    return float(np.median(accuracy_curves(grids, saliency, repair, [sparsity])))


def accuracy_table(study: Study, grids: Sequence[RemovalGrid]) -> Table:
    """Median accuracy of every removal, with the smallest and the largest where there are several trainings."""
    full = [grid.full_accuracy for grid in grids]
    count = f"median (range) of {len(grids)} trainings" if len(grids) > 1 else "one training"
    title = f"{study.title}: accuracy without any training after the cut, {count}; full net {np.median(full):.4f}"
    table = Table("units removed", "saliency", *REPAIRS, title=title)
    for sparsity in sorted(study.sparsities):
        for saliency in study.saliencies:
            curves = [accuracy_curves(grids, saliency, repair, [sparsity])[:, 0] for repair in REPAIRS]
            if not np.isnan(curves).any(axis=1).all():
                table.add_row(f"{sparsity:.0%}", saliency, *map(_median_and_range, curves))
    return table


def _median_and_range(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "-"
    median = f"{np.median(values):.4f}"
    return median if len(values) == 1 else f"{median} ({values.min():.3f}-{values.max():.3f})"


def target_rows(results: Mapping[str, Sequence[RemovalGrid]], studies: Mapping[str, Study]) -> list[dict[str, Any]]:
    """One row per target: what was removed, what is wanted, what was reached."""
    rows = []
    for name, grids in results.items():
        for target in studies[name].targets:
            reached, wanted, met = target.check(grids)
            values = {"net": studies[name].title, "sparsity": target.sparsity, "wanted": wanted, "reached": reached}
            zero = median_accuracy(grids, LEAST_SQUARES, "zero", target.sparsity)
            measured = not np.isnan(reached)
            rows.append(values | {"zero": zero, "trainings": len(grids), "met": met if measured else None})
    return rows


def target_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The targets beside what was reached, for the saliency and the repair least_squares."""
    columns = ("net", "units removed", "trainings", "zero", "least_squares", "wanted at least", "")
    table = Table(*columns, title="Targets: saliency least_squares, repair least_squares, no training after the cut")
    for row in rows:
        values = (f"{row[name]:.4f}" for name in ("zero", "reached", "wanted"))
        verdict = VERDICTS[row["met"]]
        table.add_row(row["net"], f"{row['sparsity']:.0%}", str(row["trainings"]), *values, verdict)
    return table
