"""Figures of what is lost as units are erased, and of how far neurons must be pushed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfprune.plots.drawing import panels_of

ORDER_COLOURS = {"top": "tab:red", "bottom": "tab:blue", "random": "dimgrey"}
ORDER_MEANINGS = {"top": "highest scores first", "bottom": "lowest scores first", "random": "at random"}
_STYLES = ("-", "--", ":", "-.")


def ablation_curves(panels: Mapping[str, Any], *, title: str, unit: str = "units") -> Figure:
    """A metric against the share of units that is erased, one panel per ranking, one colour per order.

    Args:
        panels: Title -> record of ``experiments.ablation_curve`` or ``removal_curve``, or several of trainings of one
            net, with the same steps.
        title: Title of the figure.
        unit: What is erased, in the plural, for the axis: "units", "directions".

    Returns:
        The figure. Lines are means over trainings and random orders, bands run from the lowest to the highest; line
        styles tell ways of erasing apart where there are several. Beside each order stands the mean height of its line.
    """
    if not isinstance(panels, Mapping):
        raise TypeError(f"ablation_curves: expected {{title of the panel: record}}, received {type(panels).__name__}.")
    figure, grid = panels_of(len(panels), title, size=(4.4, 3.8))
    for axes, (name, given) in zip(grid, panels.items(), strict=True):
        records = list(given) if isinstance(given, Sequence) else [given]
        ways = list(dict.fromkeys(erased for _, erased in records[0].kinds))
        share = 100 * records[0].shares
        for order, erased in records[0].kinds:
            curves = np.concatenate([record.curves(order, erased) for record in records])
            area = np.mean([record.area(order, erased) for record in records])
            meaning = (
                f"{order}, {erased.removeprefix('remove, ')}" if len(ways) > 1 else f"{order}: {ORDER_MEANINGS[order]}"
            )
            label = f"{meaning} ({area:.3g})"
            style = _STYLES[ways.index(erased) % len(_STYLES)]
            axes.plot(share, curves.mean(axis=0), style, color=ORDER_COLOURS[order], marker="o", ms=3, label=label)
            axes.fill_between(
                share, curves.min(axis=0), curves.max(axis=0), color=ORDER_COLOURS[order], alpha=0.12, lw=0
            )
        axes.set_title(name, fontsize=10)
        axes.xaxis.set_major_formatter("{x:.0f} %")
        axes.grid(alpha=0.3)
        options = {"fontsize": 7, "title": "erased first (mean height)", "title_fontsize": 7}
        if len(records[0].kinds) > 4:  # So many hide lines.
            options |= {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 2}
        axes.legend(**options)
        if axes.get_subplotspec().is_first_col():
            axes.set_ylabel(records[0].settings["metric"])
    figure.supxlabel(f"share of the {unit} that is erased", fontsize=10)
    return figure


def dose_curves(curves: Mapping[str, Any], *, title: str, dose: str = "z, in standard deviations") -> Figure:
    """Success rate and quality against the dose, one line per record.

    Args:
        curves: Name -> record of ``experiments.dose_curve``, all with the same metric.
        title: Title of the figure.
        dose: Label of the axis of doses.

    Returns:
        The figure: above how often the measured property flipped, below the quality; the dashed lines are those of the
        model without control.
    """
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for number, (name, record) in enumerate(curves.items()):
        colour = f"C{number}"
        order = np.argsort(record.doses)
        above.plot(record.doses[order], 100 * record.success[order], "o-", color=colour, ms=4, label=name)
        below.plot(record.doses[order], record.quality[order], "o-", color=colour, ms=4)
        below.axhline(float(record.full_quality), color=colour, linestyle="--", linewidth=1)
    above.set_ylabel("property flipped as wanted")
    above.yaxis.set_major_formatter("{x:.0f} %")
    above.set_ylim(-3, 103)
    below.set_ylabel(f"{next(iter(curves.values())).settings['metric']}\n(dashed: without control)")
    below.set_xlabel(dose)
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=min(2, len(curves)))
    figure.suptitle(title)
    return figure
