"""Tables and pictures of the study of a causal language model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter
from rich.table import Table
from support.language_study import BEST, SCORES

from tfprune import plots
from tfprune.experiments import GridResults
from tfprune.plots.drawing import panels_of

NAMES = {
    "random": "random",
    "weight_norm": "weight norm",
    "activation_std": "activation",
    "on_nodes_gradient": "gradient",
    "least_squares": "least squares",
    "loss_change": "loss change",
}
WAYS = {"zero": "zero", "least_squares": "least squares"}
_COLOURS = dict(zip(NAMES, ("0.6", "C0", "C1", "C2", "C3", "C4"), strict=True))


def at(results: GridResults, place: int, way: str, **settings: str) -> np.ndarray:
    """The numbers of all seeds at one share; empty where nothing was cut so."""
    own = [run.result["cuts"][place] for run in results.where(**settings)]
    return np.array([cut[way] for cut in own if cut is not None and way in cut])


def spread(values: Sequence[float] | np.ndarray) -> str:
    """Mean, and with several seeds the deviation."""
    values = np.asarray(values, float)
    if not len(values):
        return ""
    digits = 1 if values.mean() >= 100 else 2
    both = f"{values.mean():,.{digits}f}"
    return f"{both} ± {values.std():,.{digits}f}" if len(values) > 1 else both


def training_table(trained: GridResults) -> Table:
    """Perplexity of the held-out rows after every epoch."""
    runs = [run.result for run in trained]
    table = Table(title=f"Held-out perplexity: {runs[0]['parameters']:,} parameters, {runs[0]['num_tokens']:,} tokens")
    table.add_column("epoch", justify="right")
    table.add_column("perplexity", justify="right")
    for epoch in range(len(runs[0]["curve"])):
        table.add_row(str(epoch + 1), spread([own["curve"][epoch] for own in runs]))
    return table


def cut_table(cuts: GridResults, trained: GridResults, kind: str, shares: Sequence[float], whole: str) -> Table:
    """One kind of units: perplexity by score and way, at every share."""
    table = Table(title=f"Perplexity without a share of the {kind}; whole {whole}")
    for column in ("score", "then", *(f"{share:.1%}" for share in shares)):
        table.add_column(column, justify="left" if column in ("score", "then") else "right")
    places = range(len(shares))
    left = [at(trained, place, "parameters", kind=kind) for place in places]
    table.add_row("", "parameters", *(f"{int(own.mean()):,}" if len(own) else "" for own in left))
    for score in SCORES[kind]:
        for way, said in WAYS.items():
            cells = [spread(at(cuts, place, way, kind=kind, score=score)) for place in places]
            if any(cells):
                table.add_row(NAMES[score], said, *cells)
    cells = [spread(at(trained, place, "trained", kind=kind)) for place in places]
    table.add_row(NAMES[BEST[kind]], "trained for some steps", *cells)
    return table


def speed_table(runs: Sequence[dict[str, Any]], share: float) -> Table:
    """What generating costs, before and after; medians over the seeds."""
    table = Table(title=f"Generating, whole and without {share:.0%}, after a short training")
    columns = ("net", "parameters", "perplexity", "tokens a second", "weights, MB", "cache, KB")
    for column in columns:
        table.add_column(column, justify="left" if column == "net" else "right")
    for kind in runs[0]["said"]:
        own = [run["said"][kind] for run in runs]
        table.add_row(
            "whole" if kind == "whole" else f"without {share:.0%} of the {kind}",
            f"{own[0]['parameters']:,}",
            spread([said["perplexity"] for said in own]),
            f"{np.median([said['tokens_per_second'] for said in own]):,.0f}",
            f"{own[0]['weight_bytes'] / 1e6:.1f}",
            f"{own[0]['cache_bytes'] / 1e3:.0f}",
        )
    return table


def texts_table(said: dict[str, Any], prompts: Sequence[str]) -> Table:
    """What the nets say to each prompt."""
    table = Table(title="What they say, the most likely token each time", show_lines=True)
    table.add_column("net")
    for prompt in prompts:
        table.add_column(f"{prompt} ...", overflow="fold")
    for kind, own in said.items():
        table.add_row(kind, *own["texts"])
    return table


def draw_curves(
    cuts: GridResults, trained: GridResults, kinds: Sequence[str], shares: Sequence[float], whole: float, path: Path
) -> None:
    """Perplexity against the share that is gone: a panel for each kind, a line for each score."""
    title = "Held-out perplexity of the cut net, repaired by least squares; the grey line is the whole net"
    figure, panels = panels_of(len(kinds), title, size=(3.4, 3.6))
    for axes, kind in zip(panels, kinds, strict=True):
        lines = {}
        for score in SCORES[kind]:
            own = (cuts, "least_squares", {"score": score}, _COLOURS[score], "o-")
            lines[NAMES[score]] = own
        best = BEST[kind]
        lines[f"{NAMES[best]}, not repaired"] = (cuts, "zero", {"score": best}, _COLOURS[best], "x:")
        lines["trained for some steps"] = (trained, "trained", {}, "black", "s--")
        for label, (results, own, settings, colour, style) in lines.items():
            values = [at(results, place, own, kind=kind, **settings) for place in range(len(shares))]
            points = [(share, found.mean()) for share, found in zip(shares, values, strict=True) if len(found)]
            if points:
                axes.plot(*zip(*points, strict=True), style, color=colour, label=label, markersize=4)
        axes.axhline(whole, color="0.6", linewidth=1)
        axes.set(title=kind, xlabel="share that is gone")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ScalarFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(fontsize=7)
    panels[0].set_ylabel("perplexity")
    plots.save_figure(figure, path)


def draw_map(heads: np.ndarray, blocks: np.ndarray, path: Path) -> None:
    """Which heads and which blocks matter: the rise of the held-out loss when one of them is off."""
    figure = Figure(figsize=(9, 0.5 * len(heads) + 2.2), layout="constrained")
    figure.suptitle("What each head and each block is worth: rise of the held-out loss without it")
    axes = figure.subplots(1, 2, width_ratios=(heads.shape[1], 2.5))
    for own, values, title, labels in (
        (axes[0], heads, "heads of attention", [str(k) for k in range(heads.shape[1])]),
        (axes[1], blocks, "blocks", ["attention", "feed-\nforward"][: blocks.shape[1]]),
    ):
        picture = own.imshow(values, cmap="viridis", aspect="auto", vmin=min(0.0, values.min()))
        own.set(title=title, ylabel="layer", xticks=range(len(labels)), yticks=range(len(values)))
        own.set_xticklabels(labels, fontsize=9)
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            colour = "black" if value > middle else "white"
            own.text(column, row, f"{value:.3f}", ha="center", va="center", fontsize=8, color=colour)
        figure.colorbar(picture, ax=own, label="nats per token")
    plots.save_figure(figure, path)
