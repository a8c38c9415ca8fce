"""Figures of pruning while training: what scores would cost along the way, and what is left of the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfprune.plots.drawing import panels_of

Lines = Mapping[str, tuple[Any, Any]]
"""Name of a line -> x and y; y `(points,)`, or `(lines, points)` for a median with a band."""


def line_panels(
    panels: Mapping[str, Lines],
    *,
    title: str,
    x_label: str,
    y_label: str,
    linear_within: float | None = None,
    marks: Sequence[tuple[float, str]] = (),
    shared_y: bool = False,
) -> Figure:
    """Lines in panels, each name in the same colour everywhere.

    Args:
        panels: Title of a panel -> its lines.
        title: Title of the figure.
        x_label: What the horizontal axes show.
        y_label: What the vertical axes show.
        linear_within: Values further from zero than this are drawn on a logarithmic scale; None for a linear one.
        marks: Places on the horizontal axes with a dotted line, and what to write there.
        shared_y: Whether all panels have the same vertical range.

    Returns:
        The figure. Bands run from the smallest to the largest of several lines, the line is their median.
    """
    figure, grid = panels_of(len(panels), title, size=(4.2, 3.5) if len(panels) > 1 else (6.5, 4.2))
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    colours = dict(zip(names, matplotlib.colormaps["tab10"].colors * (1 + len(names) // 10), strict=False))
    for axes, (panel, lines) in zip(grid, panels.items(), strict=True):
        for name, (x, y) in lines.items():
            _draw(axes, np.asarray(x), np.asarray(y), name, colours[name])
        if linear_within is not None:
            axes.set_yscale("symlog", linthresh=linear_within)
            axes.axhline(0.0, color="black", linewidth=0.6)
        for place, text in marks:
            axes.axvline(place, color="grey", linestyle=":", linewidth=1)
            axes.annotate(text, (place, 0.99), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=7)
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel(x_label, fontsize=9)
        axes.tick_params(labelsize=8)
    if shared_y:
        limits = np.array([axes.get_ylim() for axes in grid])
        for axes in grid:
            axes.set_ylim(limits[:, 0].min(), limits[:, 1].max())
    figure.supylabel(y_label, fontsize=10)
    handles = {label: handle for axes in grid for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=8)
    return figure


def _draw(axes: Axes, x: np.ndarray, y: np.ndarray, name: str, colour: Any) -> None:
    style = {"color": colour, "linewidth": 1.4, "label": name}
    if y.ndim == 1:
        axes.plot(x, y, **style, marker="." if len(x) < 12 else None)
        return
    axes.fill_between(x, y.min(0), y.max(0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, np.median(y, 0), **style, marker="." if len(x) < 12 else None)


def kernel_maps(
    rows: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
    label: str = "|w|, the largest of each map = 1",
    count_units: bool = True,
) -> Figure:
    """Kernels as colour maps: units from left to right, everything else that a kernel has from top to bottom.

    Args:
        rows: What a row shows, such as "pruned" -> name of a layer -> its kernel `(..., units)`, or numbers for it.
        title: Title of the figure.
        label: What the colours mean.
        count_units: Whether the titles say how many units have a number that is not zero.

    Returns:
        The figure, one row of maps for each entry; each map is divided by its largest magnitude.
    """
    names = list(dict.fromkeys(name for kernels in rows.values() for name in kernels))
    figure = Figure(figsize=(3.1 * len(names) + 1, 3.0 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), len(names), squeeze=False)
    image = None
    for line, (row, kernels) in zip(grid, rows.items(), strict=True):
        for axes, name in zip(line, names, strict=True):
            values = np.abs(np.asarray(kernels[name], "float64"))
            values = values.reshape(-1, values.shape[-1])
            image = axes.imshow(
                values / max(values.max(), np.finfo(float).tiny), aspect="auto", interpolation="nearest", vmin=0, vmax=1
            )
            on = f": {int((values != 0).any(0).sum())} of {values.shape[1]} units" if count_units else ""
            axes.set_title(f"{name}, {row}{on}", fontsize=9)
            axes.set_xlabel("unit", fontsize=8)
            axes.set_ylabel("weights of the unit", fontsize=8)
            axes.tick_params(labelsize=7)
    figure.colorbar(image, ax=grid, label=label, shrink=0.8)
    figure.suptitle(title)
    return figure
