"""Tables and pictures of the study of ON-LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.table import Table
from support import on_lstm_corpora as corpora
from support.on_lstm_corpora import Corpus
from support.on_lstm_study import LAYERS, boundaries
from support.on_lstm_trees import Tree, recall, spans_of, tree_of

from tfprune import plots
from tfprune.experiments import GridResults
from tfprune.plots.drawing import panels_of

NETS = {"on_lstm": "ON-LSTM", "lstm": "LSTM"}
_COLOURS = {"on_lstm": "C0", "lstm": "C1"}


def of(results: GridResults, net: str) -> list[dict[str, Any]]:
    """What the finished trainings of a net gave."""
    return [run.result for run in results.where(net=net)]


def spread(own: list[dict], key: str, digits: int = 3) -> str:
    values = np.array([result[key] for result in own])
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}" if len(own) > 1 else f"{values[0]:.{digits}f}"


def perplexity_table(results: GridResults, corpus: str, held: Corpus) -> Table:
    """Both nets at the end of their training."""
    floor = f"; whoever knows the process has {held.floor:.2f}" if held.floor is not None else ""
    table = Table(title=f"Perplexity of the test sentences, {corpus}: {len(held.vocabulary)} tokens{floor}")
    for column in ("net", "units", "parameters", "perplexity", "seeds"):
        table.add_column(column, justify="left" if column == "net" else "right")
    for net, name in NETS.items():
        own = of(results, net)
        if own:
            row = (f"2 x {own[0]['units']}", f"{own[0]['parameters']:,}", spread(own, "perplexity", 2), str(len(own)))
            table.add_row(name, *row)
    return table


def dead_table(own: list[dict[str, Any]], corpus: str) -> Table:
    """What becomes of the ON-LSTM without the chunks that nothing enters."""
    table = Table(title=f"remove_dead, {corpus}: {len(own)} seeds")
    for column in ("", "parameters", "chunks gone by layer", "perplexity", "largest change of a logit"):
        table.add_column(column, justify="right" if column else "left")
    table.add_row("whole", f"{own[0]['parameters']:,}", "", spread(own, "perplexity", 4), "")
    change = f"{max(result['dead/difference'] for result in own):.1e}"
    chunks = "; ".join(dict.fromkeys(", ".join(map(str, result["dead/chunks"])) for result in own))
    small = " or ".join(dict.fromkeys(f"{result['dead/parameters']:,}" for result in own))
    table.add_row("without dead chunks", small, chunks, spread(own, "dead/perplexity", 4), change)
    return table


def gates_table(own: list[dict[str, Any]], corpus: str, held: Corpus) -> Table:
    """What the distances tell, trained and untrained."""
    if held.depth is None:
        columns = {"behind_mark": "tells words behind a mark (AUC)"}
        title = f"Master forget gate, {corpus}: does a step erase more behind a mark of punctuation? 0.5 is chance"
    else:
        columns = {
            "depth": "with depth, all tokens",
            "depth_opening": "at opening brackets",
            "depth_closing": "at closing brackets",
            "found_before": "pairs found, split before",
            "found_behind": "split behind",
        }
        title = f"Master-gate distance, {corpus}: rank correlation with depth, and the brackets that its tree finds"
    table = Table(title=title)
    for column in ("layer", "", *columns.values()):
        table.add_column(column, justify="left" if column in ("layer", "") else "right")
    for name in LAYERS:
        for prefix, state in (("", "trained"), ("untrained/", "untrained")):
            table.add_row(name, state, *(spread(own, f"{prefix}{name}/{key}") for key in columns))
    if held.depth is not None:
        for name, found in baselines(held).items():
            table.add_row(name, "", "", "", "", f"{found:.3f}", f"{found:.3f}")
    return table


def baselines(held: Corpus) -> dict[str, float]:
    """The share of the pairs of brackets that trees find which look at no net."""
    tokens = [held.tokens(row)[1:] for row in held.test]
    generator = np.random.default_rng(0)
    ways = {
        "right-branching": lambda n: np.arange(n, 0.0, -1.0),
        "left-branching": lambda n: np.arange(n, dtype=float),
        "random tree": lambda n: generator.random(n),
    }
    true = [corpora.true_spans(own) for own in tokens]
    return {name: recall([spans_of(tree_of(way(len(own)))) for own in tokens], true) for name, way in ways.items()}


def draw_curves(results: dict[str, GridResults], held: dict[str, Corpus], path: Path) -> None:
    """Perplexity against epochs, a line for each seed."""
    figure, panels = panels_of(len(held), "Perplexity of the test sentences", size=(4.6, 3.4))
    for axes, (corpus, own) in zip(panels, held.items(), strict=True):
        for net, name in NETS.items():
            for number, result in enumerate(of(results[corpus], net)):
                label = f"{name}, {result['parameters']:,} parameters" if number == 0 else None
                # Before the first epoch it is the number of tokens, which would press the rest together.
                axes.plot(range(1, len(result["curve"])), result["curve"][1:], color=_COLOURS[net], label=label)
        if own.floor is not None:
            axes.axhline(own.floor, color="0.4", linestyle="--", label="whoever knows the process")
        axes.set(title=corpus, xlabel="epochs", ylabel="perplexity")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(fontsize=8)
    plots.save_figure(figure, path)


def draw_depth(result: dict[str, Any], held: Corpus, path: Path) -> None:
    """One sentence of brackets, its depth and the distances of both layers; and the distances at every depth."""
    number = interesting(held)
    tokens = held.tokens(held.test[number])
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1)
    top, below = upper.subplots(), lower.subplots(1, 4)
    # One scale for each layer.
    below[1].sharey(below[0]), below[3].sharey(below[2])
    figure.suptitle("What an ON-LSTM erases at every token (1 - mean of its master forget gate), and the depth")
    places = np.arange(len(tokens))
    for name, colour in zip(LAYERS, ("C0", "C2"), strict=True):
        top.plot(places, result[f"{name}/distances"][number, : len(tokens)], "o-", color=colour, label=f"{name} layer")
    top.set_xticks(places, tokens, fontsize=9)
    top.set(ylabel="distance", xlabel="token")
    depth = top.twinx()
    depth.step(places, held.depth[number, : len(tokens)], where="mid", color="0.6", label="brackets open")
    depth.set(ylabel="brackets open behind the token", yticks=range(held.depth[number].max() + 1))
    lines = [*top.get_legend_handles_labels()[0], *depth.get_legend_handles_labels()[0]]
    top.legend(lines, [line.get_label() for line in lines], fontsize=8, ncols=3, loc="upper right")
    kinds = np.array(held.vocabulary)[held.test]
    panels = [(name, group) for name in LAYERS for group in ("opening", "closing")]
    for axes, (name, group) in zip(below, panels, strict=True):
        _boxes(axes, result[f"{name}/distances"], held, kinds, name, group)
    plots.save_figure(figure, path)


def _boxes(axes: Axes, own: np.ndarray, held: Corpus, kinds: np.ndarray, name: str, group: str) -> None:
    count = len(own)
    at = np.isin(kinds[:count], list(corpora.OPENING if group == "opening" else corpora.CLOSING))
    depths = held.depth[:count][at]
    found = {depth: own[at][depths == depth] for depth in np.unique(depths).tolist()}
    found = {depth: values for depth, values in found.items() if len(values) >= 5}
    axes.boxplot(list(found.values()), positions=list(found), widths=0.6, showfliers=False)
    axes.set_title(f"{name} layer, {group} brackets", fontsize=9)
    axes.set(xlabel="brackets open behind it", ylabel="distance")


def interesting(held: Corpus) -> int:
    """A whole sentence of middle length: of brackets nested three deep, or with few unknown words; else the longest."""
    lengths, unknown = [], []
    for number, row in enumerate(held.test[:100]):
        tokens = held.tokens(row)
        whole = 14 <= len(tokens) <= 26 and tokens[-1] == corpora.END
        if whole and held.depth is not None and held.depth[number].max() >= 3:
            return number
        lengths.append(len(tokens) if len(tokens) <= 26 else 0)
        unknown.append(tokens.count(corpora.UNKNOWN) if whole else len(row))
    return int(np.argmin(unknown) if held.depth is None and min(unknown) < len(row) else np.argmax(lengths))


def one_tree(result: dict[str, Any], held: Corpus) -> tuple[list[str], np.ndarray]:
    """The tokens of one sentence, without start and end, and the boundaries before them by the second layer.

    Brackets are split behind what erases, words before it.
    """
    number = interesting(held)
    tokens = [token for token in held.tokens(held.test[number])[1:] if token != corpora.END]
    side = "before" if held.depth is None else "behind"
    return tokens, boundaries(tokens, result["second/distances"][number], side)


def draw_trees(results: dict[str, dict[str, Any]], held: dict[str, Corpus], path: Path) -> None:
    """The tree of one sentence of each corpus, read from the distances of the second layer."""
    figure = Figure(figsize=(13, 4.2 * len(results)), layout="constrained")
    figure.suptitle("Trees read from the second layer: each split is where most of what is left is erased")
    for axes, (corpus, result) in zip(np.ravel(figure.subplots(len(results), 1)), results.items(), strict=True):
        tokens, own = one_tree(result, held[corpus])
        _draw_tree(axes, tree_of(own), tokens)
        # Words stand aslant and need room.
        low = -2.6 if max(map(len, tokens)) <= 2 else -5.6
        # From the least to the largest: layers differ in how much they erase of all, and how little that changes.
        height = 0.1 + (own - own.min()) / max(np.ptp(own), 1e-9)
        axes.bar(np.arange(len(tokens)) - 0.5, height, 0.3, bottom=low, color="C2", alpha=0.7)
        axes.text(-1.2, low + 0.5, "boundary", ha="right", va="center", fontsize=9, color="C2")
        axes.set_title(f"{corpus}, boundaries from {own.min():.4f} to {own.max():.4f}", fontsize=10)
    plots.save_figure(figure, path)


def _draw_tree(axes: Axes, tree: Tree, tokens: Sequence[str]) -> None:
    def place(part: Tree) -> tuple[float, float]:
        if isinstance(part, int):
            slant = {"ha": "right", "rotation": 35, "rotation_mode": "anchor"} if wide else {"ha": "center"}
            axes.text(part, -0.4, tokens[part], va="top", fontsize=10, **slant)
            return float(part), 0.0
        parts = [place(own) for own in part]
        x, height = float(np.mean([own[0] for own in parts])), 1.0 + max(own[1] for own in parts)
        for left, low in parts:
            axes.plot([left, left, x], [low, height, height], color="0.3", linewidth=1)
        return x, height

    wide = max(map(len, tokens)) > 2
    place(tree)
    axes.set_axis_off()
