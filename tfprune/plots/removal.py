"""Figures of what cutting units out costs, one line per repair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from tfprune.plots.drawing import panels_of

REPAIR_COLOURS = {
    "zero": "tab:red",
    "mean": "tab:orange",
    "affine": "tab:blue",
    "least_squares": "tab:green",
    "from scratch": "dimgrey",
}
REPAIR_MEANINGS = {
    "zero": "just cut",
    "mean": "mean goes into the next bias",
    "affine": "guessed from the units that stay",
    "least_squares": "next layer refitted",
}


def accuracy_against_sparsity(panels: Mapping[str, tuple[Sequence[Any], str]], *, title: str) -> Figure:
    """Accuracy against the share of units that were cut out, one panel per saliency, one line per repair.

    Args:
        panels: Title -> records of ``experiments.removal_grid``, one per training of the same net, and the name of the
            saliency to draw.
        title: Title of the figure.

    Returns:
        The figure. Lines are medians over the trainings, bands run from the smallest to the largest; the dashed grey
        line is the median of the nets with all their units.
    """
    figure, grid = panels_of(len(panels), title, size=(4.6, 3.9) if len(panels) < 3 else (3.4, 3.6))
    for axes, (panel_title, (records, saliency)) in zip(grid, panels.items(), strict=True):
        _draw_curves(axes, records, saliency)
        full = float(np.median([record.full_accuracy for record in records]))
        axes.axhline(full, color="grey", linestyle="--", linewidth=1.2, label="all units", zorder=0)
        axes.set_title(f"{panel_title}\nall units: {full:.3f}", fontsize=10)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel("accuracy on the test data")
        else:
            axes.tick_params(labelleft=False)
    figure.supxlabel("share of the units of every layer that are cut out", fontsize=10)
    num_trainings = max(len(records) for records, _ in panels.values())
    _legend_beside(figure, grid, f"range of {num_trainings} trainings" if num_trainings > 1 else None)
    return figure


def training_after_removal(records: Sequence[Any], *, title: str) -> Figure:
    """Accuracy before and after training a smaller net, one line per start.

    Args:
        records: Records of ``experiments.train_after_removal``, one per saliency.
        title: Title of the figure.

    Returns:
        The figure. A line joins the start and the separate trainings of one, three, ... epochs; it is no course of one
        training.
    """
    figure, grid = panels_of(len(records), title, size=(4.6, 3.9))
    for axes, record in zip(grid, records, strict=True):
        for start, colour in REPAIR_COLOURS.items():
            chosen = record.where(start=start)
            order = np.argsort(record.epochs[chosen])
            epochs, accuracy = record.epochs[chosen][order], record.accuracy[chosen][order]
            axes.plot(epochs, accuracy, color=colour, marker="o", markersize=4, label=_label(start))
        axes.axhline(record.settings["full_accuracy"], color="grey", linestyle="--", label="all units")
        axes.set_xticks(np.unique(record.epochs))
        axes.set_title(f"units chosen by {record.settings['saliency']}", fontsize=10)
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy on the test data")
    figure.supxlabel("epochs of training after the cut", fontsize=10)
    _legend_beside(figure, grid)
    return figure


def _draw_curves(axes: Axes, records: Sequence[Any], saliency: str) -> None:
    for repair, colour in REPAIR_COLOURS.items():
        sparsities = np.unique([0.0, *(s for record in records for s in record.sparsity)])
        curves = np.array([[record.accuracy_at(saliency, repair, s) for s in sparsities] for record in records])
        whole = np.isfinite(curves).all(axis=0)
        if whole.sum() < 2:
            continue
        share, curves = 100 * sparsities[whole], curves[:, whole]
        axes.plot(share, np.median(curves, axis=0), "o-", color=colour, markersize=3, label=_label(repair))
        axes.fill_between(share, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_formatter("{x:.0f} %")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlim(0.0, 100.0)
    # None at the right end, where it would touch the next panel's zero.
    axes.set_xticks([0, 25, 50, 75])
    axes.grid(alpha=0.3)


def _label(repair: str) -> str:
    return f"{repair}:\n{REPAIR_MEANINGS[repair]}" if repair in REPAIR_MEANINGS else repair


def _legend_beside(figure: Figure, grid: Sequence[Axes], band: str | None = None) -> None:
    """One legend for all panels, beside them, where it hides no line."""
    width, height = figure.get_size_inches()
    figure.set_size_inches(width + 2.5, height)
    handles_of = {}
    for axes in grid:
        handles_of.update(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # A panel may lack a repair; the order of all is that of the colours.
    order = [_label(repair) for repair in REPAIR_COLOURS]
    labels = sorted(handles_of, key=lambda label: order.index(label) if label in order else len(order))
    handles = [handles_of[label] for label in labels]
    if band is not None:
        handles, labels = [*handles, Patch(color="grey", alpha=0.25, linewidth=0)], [*labels, band]
    figure.legend(handles, labels, loc="outside right center", fontsize=9, title="repair")
