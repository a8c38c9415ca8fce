"""Figures of the angles between units, and of what pruning by them costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.spatial.distance import squareform

from tfprune.plots.drawing import panels_of

SIMILAR_COLOUR, COMPLEMENTARY_COLOUR = "tab:blue", "tab:red"
TRANSFER_COLOURS = {"exact": "tab:green", "gedeon": "tab:purple", "none": "tab:red", "least_squares": "tab:blue"}


def angle_maps(angles: Mapping[str, Any], *, title: str = "Angles between units") -> Figure:
    """Heat maps of the angles between units, like ones side by side: similar units are blue, opposite ones red.

    Args:
        angles: Name of a group -> angles in degrees, `(units, units)`, as `distinctiveness.angles` gives them.
        title: Title of the figure.

    Returns:
        The figure, one panel for each group; units are ordered by average linkage.
    """
    figure, panels = panels_of(len(angles), title, size=(4.6, 4.0))
    image = None
    for axes, (name, matrix) in zip(panels, angles.items(), strict=True):
        matrix = np.asarray(matrix)
        order = _clustered(matrix)
        image = axes.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=0, vmax=180, interpolation="nearest")
        axes.set_title(f"{name} ({len(matrix)} units)", fontsize=10)
        axes.set_xlabel("unit, clustered", fontsize=9)
        axes.set_ylabel("unit, clustered", fontsize=9)
        if len(matrix) <= 20:
            axes.set_xticks(range(len(matrix)), order, fontsize=7)
            axes.set_yticks(range(len(matrix)), order, fontsize=7)
    bar = figure.colorbar(image, ax=panels, ticks=range(0, 181, 45))
    bar.set_label("angle (degrees)")
    return figure


def _clustered(angles: np.ndarray) -> np.ndarray:
    if len(angles) < 3:
        return np.arange(len(angles))
    # Imported here, as it is needed for this figure alone.
    from scipy.cluster.hierarchy import leaves_list, linkage

    distances = np.array((angles + angles.T) / 2)
    np.fill_diagonal(distances, 0.0)
    return leaves_list(linkage(squareform(distances, checks=False), "average", optimal_ordering=True))


def angle_histograms(
    angles: Mapping[str, Any],
    *,
    similar: float = 15.0,
    complementary: float = 165.0,
    title: str = "How far apart units are",
) -> Figure:
    """Histograms of the angles between all pairs of units, with the two thresholds.

    Args:
        angles: Name -> angles in degrees, `(units, units)` or `(runs, units, units)`.
        similar: Threshold of similar pairs in degrees.
        complementary: Threshold of complementary pairs in degrees.
        title: Title of the figure.

    Returns:
        The figure, one panel for each name; counts are on a logarithmic scale.
    """
    figure, panels = panels_of(len(angles), title, size=(4.6, 3.4))
    for axes, (name, matrices) in zip(panels, angles.items(), strict=True):
        matrices = np.asarray(matrices)
        upper = np.triu_indices(matrices.shape[-1], 1)
        pairs = matrices[..., upper[0], upper[1]].ravel()
        counts, edges, bars = axes.hist(pairs, bins=np.arange(0, 181, 5), color="grey")
        for start, bar in zip(edges[:-1], bars, strict=True):
            if start + 5 <= similar:
                bar.set_color(SIMILAR_COLOUR)
            elif start >= complementary:
                bar.set_color(COMPLEMENTARY_COLOUR)
        _threshold(axes, similar, f"{np.sum(pairs < similar)} similar", SIMILAR_COLOUR)
        _threshold(axes, complementary, f"{np.sum(pairs > complementary)} complementary", COMPLEMENTARY_COLOUR)
        axes.set_yscale("symlog", linthresh=10)
        axes.set_xticks(range(0, 181, 45))
        axes.set_xlabel("angle (degrees)", fontsize=9)
        axes.set_ylabel("pairs", fontsize=9)
        axes.set_title(f"{name}: {pairs.size:,} pairs", fontsize=10)
        axes.legend(fontsize=8)
    return figure


def _threshold(axes: Axes, angle: float, label: str, colour: str) -> None:
    axes.axvline(angle, color=colour, linestyle="--", linewidth=1.2, label=f"{label} ({angle:g} degrees)")


def accuracy_against_threshold(
    panels: Mapping[str, Mapping[str, Any]],
    thresholds: Any,
    *,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    title: str = "Accuracy against the threshold",
) -> Figure:
    """Accuracy after pruning with a threshold t for similar and 180 - t for complementary units.

    Args:
        panels: Title of a panel -> transfer -> accuracies `(runs, thresholds)`.
        thresholds: Degrees, `(thresholds,)`.
        baselines: Title of a panel -> what a dashed grey line stands for -> its height.
        title: Title of the figure.

    Returns:
        The figure: means over runs, with bands of one standard deviation.
    """
    figure, grid = panels_of(len(panels), title, size=(4.6, 3.6))
    thresholds = np.asarray(thresholds)
    for axes, (panel, curves) in zip(grid, panels.items(), strict=True):
        for name, runs in curves.items():
            runs = np.asarray(runs)
            mean, spread = runs.mean(axis=0), runs.std(axis=0)
            colour = TRANSFER_COLOURS.get(name, "black")
            axes.plot(thresholds, mean, color=colour, marker="o", markersize=3, label=name)
            axes.fill_between(thresholds, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
        for style, (name, height) in zip(("--", ":"), (baselines or {}).get(panel, {}).items(), strict=False):
            axes.axhline(height, color="grey", linestyle=style, linewidth=1, label=name)
        axes.axvline(15.0, color="black", linewidth=0.6)
        axes.annotate("15, as published", (15, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=7)
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("threshold (degrees)", fontsize=9)
        axes.set_ylabel("test accuracy", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    return figure
