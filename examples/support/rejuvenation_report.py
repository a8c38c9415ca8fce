"""Tables and pictures of rejuvenated nets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from rich.table import Table
from support.rejuvenation_study import CROSSINGS, REPAIRS

from tfprune.experiments import GridResults
from tfprune.plots.drawing import panels_of, save_figure

COLOURS = {
    "baseline": "black",
    **dict(zip(REPAIRS, ("tab:olive", "tab:orange", "tab:red"), strict=True)),
    **dict(zip(CROSSINGS, ("tab:blue", "tab:cyan", "tab:purple"), strict=True)),
}
MARKERS = dict(zip(COLOURS, "Ds^ov<>", strict=True))
LINES = {"baseline": "-", "least_squares": "-", "full": "-", "none": "--", "attention": ":"}
LABELS = {
    "baseline": "as it is",
    "zero": "slimming, zero",
    "mean": "slimming, mean",
    "least_squares": "slimming, least squares",
    "full": "rejuvenation, full",
    "none": "rejuvenation, no cross connections",
    "attention": "rejuvenation, cross-attention",
}
SOURCE = (
    "source (CIFAR-10, error and parameters): VGG-19 5.44 % with 20.04 M, rejuvenated 4.19 % with 9.99 M; ResNet-164 "
    "6.11 %, rejuvenated 5.13 % with 0.88 M. Slimming of VGG-19 by 70 %: 6.23 %, just cut 67.46 %, fine-tuned 6.22 %."
)


def collected(results: GridResults) -> dict[str, dict[int, dict[str, Any]]]:
    """What all ways left, by net and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for run in results:
        found.setdefault(run.settings["net"], {}).setdefault(run.settings["seed"], {}).update(run.result)
    return found


def values_of(seeds: Mapping[int, Mapping[str, Any]], key: str) -> np.ndarray:
    """One number of every seed that has it."""
    return np.array([result[key] for result in seeds.values() if key in result], "float64")


def mean_and_range(values: np.ndarray, digits: int = 2) -> str:
    """The mean, and behind it the least and the largest where there are several."""
    if not len(values):
        return "-"
    text = f"{values.mean():.{digits}f}"
    return text if len(values) == 1 else f"{text} ({values.min():.{digits}f} to {values.max():.{digits}f})"


def table(net: str, seeds: Mapping[int, Mapping[str, Any]]) -> Table:
    """One row per way: error and parameters at the end, and the error just after the cut or the rejuvenation."""
    title = f"{net}, {len(seeds)} seeds: test error in percent, mean (least to largest)"
    result = Table("way", title=title, caption=SOURCE, caption_justify="left")
    for name in ("just cut or renewed", "at the end", "parameters"):
        result.add_column(name, justify="right")
    for way, label in LABELS.items():
        before, error, size = (values_of(seeds, f"{kind}_{way}") for kind in ("before", "error", "parameters"))
        if len(error):
            result.add_row(label, mean_and_range(before), mean_and_range(error), f"{size.mean():,.0f}")
    return result


def summary(found: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> dict[str, Any]:
    """All numbers of all seeds, by net and name."""
    result: dict[str, Any] = {}
    for net, seeds in found.items():
        keys = dict.fromkeys(key for own in seeds.values() for key in own)
        result[net] = {key: [np.asarray(own[key]).tolist() for own in seeds.values() if key in own] for key in keys}
    return result


def draw_utilisation(found: Mapping[str, Mapping[int, Mapping[str, Any]]], path: Path) -> None:
    """How much of each net is used after each epoch: one thin line per seed."""
    figure, panels = panels_of(
        len(found), "Utilisation over the training: the share of the parameters in units that are on", size=(5.4, 3.6)
    )
    ways = ("baseline", "least_squares", *CROSSINGS)
    for axes, (net, seeds) in zip(panels, found.items(), strict=True):
        for way in ways:
            for result in seeds.values():
                values = np.asarray(result.get(f"utilisation_{way}", []))
                axes.plot(np.arange(1, len(values) + 1), values, LINES[way], color=COLOURS[way], alpha=0.8)
        axes.set(title=net, xlabel="epochs", ylabel="utilisation", ylim=(0, 1.05))
        axes.grid(alpha=0.3)
    handles = [Line2D([], [], color=COLOURS[way], linestyle=LINES[way], label=LABELS[way]) for way in ways]
    panels[-1].legend(handles=handles, fontsize=8, loc="lower right")
    save_figure(figure, path)


def draw_errors(found: Mapping[str, Mapping[int, Mapping[str, Any]]], path: Path) -> None:
    """Error against parameters at the end, one point per seed; below, before and after fine-tuning by repair."""
    figure, panels = panels_of(2 * len(found), "Test error at equal epochs in all", size=(4.6, 3.8))
    for number, (net, seeds) in enumerate(found.items()):
        _draw_sizes(panels[2 * number], net, seeds)
        _draw_repairs(panels[2 * number + 1], net, seeds)
    panels[0].legend(fontsize=7)
    panels[1].legend(fontsize=7)
    save_figure(figure, path)


def _draw_sizes(axes: Any, net: str, seeds: Mapping[int, Mapping[str, Any]]) -> None:
    for way, label in LABELS.items():
        size, error = values_of(seeds, f"parameters_{way}"), values_of(seeds, f"error_{way}")
        if len(error):
            look = {"color": COLOURS[way], "marker": MARKERS[way], "linestyle": "none"}
            axes.plot(size / 1000, error, alpha=0.35, markersize=4, **look)
            axes.plot(size.mean() / 1000, error.mean(), label=label, markersize=9, markerfacecolor="none", **look)
    axes.set(title=f"{net}: single seeds (small) and means", xlabel="parameters (thousands)", ylabel="test error (%)")
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)


def _draw_repairs(axes: Any, net: str, seeds: Mapping[int, Mapping[str, Any]]) -> None:
    places = np.arange(len(REPAIRS))
    for shift, kind, name, colour in (
        (-0.2, "before", "just cut", "tab:gray"),
        (0.2, "error", "fine-tuned", "tab:green"),
    ):
        values = [values_of(seeds, f"{kind}_{repair}") for repair in REPAIRS]
        means = [own.mean() if len(own) else np.nan for own in values]
        axes.bar(places + shift, means, 0.38, color=colour, label=name)
        for place, own in zip(places + shift, values, strict=True):
            axes.plot(np.full(len(own), place), own, ".", color="black", markersize=5)
    uncut = values_of(seeds, "error_uncut")
    if len(uncut):
        axes.axhline(uncut.mean(), color="black", linestyle=":", linewidth=1, label="before the cut")
    axes.set(title=f"{net}: slimming by repair", xticks=places, ylabel="test error (%)", ylim=(0, 100))
    axes.set_xticklabels([repair.replace("_", " ") for repair in REPAIRS])
    axes.grid(axis="y", alpha=0.3)
