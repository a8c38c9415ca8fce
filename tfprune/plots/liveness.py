"""Figures of how units live and die while a net is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

ORIGINAL_COLOUR = "black"
ATTACK_COLOURS = ("tab:orange", "tab:blue", "tab:green", "tab:red", "tab:purple", "tab:brown")
STEPS_LABEL = "training steps"
# A curve that spans more than this factor is drawn on a logarithmic axis.
LARGEST_LINEAR_RATIO = 50.0
# Values of units that go beyond are drawn on an axis that is logarithmic far out.
LARGEST_LINEAR_VALUE = 3.0
# Smallest share of a histogram that has a colour of its own.
SMALLEST_SHARE = 1e-3

Curves = Mapping[str, np.ndarray]


def liveness_curves(
    rows: Mapping[str, Mapping[str, Curves]],
    quantities: Mapping[str, str],
    *,
    title: str,
    windows: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """Several quantities of units over the steps of a training, one row of panels per unit, one line per training.

    Args:
        rows: Name of the unit -> name of the training -> curves by quantity, and ``"steps"``; each of shape
            ``(num_times,)``. The first training of a row is drawn in black: the one without an attack.
        quantities: Names of the curves in the order of the panels -> title of the panel, with its unit.
        title: Title of the figure.
        windows: Name of a training -> first and last step of its attack, shaded in its colour.

    Returns:
        The figure. Axes are logarithmic where a curve spans a factor of more than 50.

    Raises:
        ValueError: If there is nothing to draw, or a curve is missing or has another length than ``"steps"``.
    """
    _check_rows(rows, quantities)
    figure = Figure(figsize=(2.4 * len(quantities) + 0.6, 2.2 * len(rows) + 1.6), layout="constrained")
    figure.suptitle(f"{title}\n(shaded: while the unit is attacked)" if windows else title)
    labels = list(dict.fromkeys(label for lines in rows.values() for label in lines))
    colours = line_colours(labels)
    grid = figure.subplots(len(rows), len(quantities), squeeze=False)
    for row, (unit, lines) in zip(grid, rows.items(), strict=True):
        for axes, name in zip(row, quantities, strict=True):
            for label, curves in lines.items():
                axes.plot(curves["steps"], curves[name], color=colours[label], linewidth=1.3, label=label)
                if windows and label in windows:
                    axes.axvspan(*windows[label], color=colours[label], alpha=0.2, linewidth=0.0)
            _choose_scale(axes, [curves[name] for curves in lines.values()])
            axes.tick_params(labelsize=8)
        row[0].set_ylabel(unit, fontsize=11, fontweight="bold")
    for axes in grid[-1]:
        axes.set_xlabel(STEPS_LABEL, fontsize=9)
    for axes, text in zip(grid[0], quantities.values(), strict=True):
        axes.set_title(text, fontsize=9.5)
    handles = {line.get_label(): line for axes in grid[:, 0] for line in axes.get_lines()}
    figure.legend([handles[label] for label in labels], labels, loc="outside lower center", ncols=min(6, len(labels)))
    return figure


def line_colours(labels: Sequence[str]) -> dict[str, str]:
    """Black for the first, then one colour after the other.

    Args:
        labels: Names of the lines.

    Returns:
        Colour by name.

    Example:
        >>> line_colours(["original", "attacked"])
        {'original': 'black', 'attacked': 'tab:orange'}
    """
    return {
        label: ORIGINAL_COLOUR if number == 0 else ATTACK_COLOURS[(number - 1) % len(ATTACK_COLOURS)]
        for number, label in enumerate(labels)
    }


def histograms_over_time(
    panels: Mapping[str, Mapping[str, np.ndarray]],
    *,
    title: str,
    value_label: str,
    num_columns: int = 2,
    windows: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """How the distribution of a unit's values moves during training, one panel per unit and training.

    Args:
        panels: Title -> ``steps`` of shape ``(num_times,)``, ``edges`` of shape ``(num_bins + 1,)`` and ``counts`` of
            shape ``(num_times, num_bins)``.
        title: Title of the figure.
        value_label: What the values are, with their unit.
        num_columns: How many panels stand side by side; those of a row share their axes.
        windows: Title of a panel -> first and last step of the attack, marked by dotted lines.

    Returns:
        The figure. Colours give the share of the values that lie in a bin, on a logarithmic scale. Where values go
        beyond +-3, their axis is linear around 0 and logarithmic far out.

    Raises:
        ValueError: If there is nothing to draw or shapes do not fit.
    """
    _check_histograms(panels)
    num_rows = -(-len(panels) // num_columns)
    figure = Figure(figsize=(4.6 * num_columns + 1.0, 2.5 * num_rows + 1.0), layout="constrained")
    figure.suptitle(title)
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharex="row", sharey="row")
    for axes in grid.ravel()[len(panels) :]:
        axes.set_visible(False)
    for axes, (name, panel) in zip(grid.ravel(), panels.items(), strict=False):
        counts = np.asarray(panel["counts"], np.float64)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        image = axes.pcolormesh(
            _borders(panel["steps"]),
            panel["edges"],
            np.ma.masked_less_equal(shares.T, 0.0),
            norm=LogNorm(SMALLEST_SHARE, 1.0),
            cmap="viridis",
            rasterized=True,
        )
        for step in (windows or {}).get(name, ()):
            axes.axvline(step, color="crimson", linestyle=":", linewidth=1.2)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
        _scale_values(axes, *_filled_range(panels))
    figure.supxlabel(f"{STEPS_LABEL}; dotted: first and last step of the attack" if windows else STEPS_LABEL)
    figure.supylabel(value_label)
    figure.colorbar(image, ax=grid, label="share of the values in the bin", extend="min", shrink=0.8)
    return figure


def _check_rows(rows: Mapping[str, Mapping[str, Curves]], quantities: Mapping[str, str]) -> None:
    if not quantities or not rows or not all(rows.values()):
        raise ValueError("liveness_curves: expected at least one quantity and one training of each unit.")
    for unit, lines in rows.items():
        for label, curves in lines.items():
            missing = [name for name in ("steps", *quantities) if name not in curves]
            if missing:
                raise ValueError(f"liveness_curves: the training {label!r} of {unit!r} has no {missing}.")
            shapes = {name: np.shape(curves[name]) for name in ("steps", *quantities)}
            if len(set(shapes.values())) > 1 or len(shapes["steps"]) != 1:
                raise ValueError(f"liveness_curves: curves of {label!r}, {unit!r} have unequal shapes: {shapes}.")


def _check_histograms(panels: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    if not panels:
        raise ValueError("histograms_over_time: expected at least one panel.")
    for name, panel in panels.items():
        wanted = (len(panel["steps"]), len(panel["edges"]) - 1)
        if np.shape(panel["counts"]) != wanted or not len(panel["steps"]):
            raise ValueError(
                f"histograms_over_time: expected counts of shape {wanted}, one row per step and one column per bin, in "
                f"the panel {name!r}, received {np.shape(panel['counts'])}."
            )


def _choose_scale(axes: Axes, curves: Sequence[np.ndarray]) -> None:
    """Logarithmic for values above zero that span far; zeros keep their place at the bottom of a mixed axis."""
    values = np.concatenate([np.ravel(curve) for curve in curves])
    positive = values[np.isfinite(values) & (values > 0.0)]
    if positive.size == 0 or np.any(values < 0.0) or positive.max() < LARGEST_LINEAR_RATIO * positive.min():
        return
    if np.any(values == 0.0):
        # A unit that dies falls to exactly zero, which a logarithmic axis cannot show.
        axes.set_yscale("symlog", linthresh=max(float(positive.min()), 1e-5 * float(positive.max())))
    else:
        axes.set_yscale("log")


def _filled_range(panels: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[float, float]:
    """Lower and upper end of the bins that hold anything in any panel."""
    lows, highs = [], []
    for panel in panels.values():
        filled = np.flatnonzero(np.any(np.asarray(panel["counts"]) > 0, axis=0))
        if filled.size:
            lows.append(panel["edges"][filled[0]])
            highs.append(panel["edges"][filled[-1] + 1])
    return (min(lows), max(highs)) if lows else (-1.0, 1.0)


def _scale_values(axes: Axes, low: float, high: float) -> None:
    if max(-low, high) > LARGEST_LINEAR_VALUE:
        axes.set_yscale("asinh")
        ticks = [sign * 10.0**power for sign in (-1, 1) for power in range(6)]
        axes.set_yticks([0.0, *(tick for tick in ticks if low <= tick <= high)])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylim(low, high)


def _borders(steps: np.ndarray) -> np.ndarray:
    """Borders of the columns around each step: halfway between neighbours."""
    steps = np.asarray(steps, np.float64)
    if len(steps) == 1:
        return np.array([steps[0] - 0.5, steps[0] + 0.5])
    middles = (steps[1:] + steps[:-1]) / 2
    return np.concatenate([[2 * steps[0] - middles[0]], middles, [2 * steps[-1] - middles[-1]]])
