"""Tables, answers and pictures of single directions, from the records of the trained nets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from rich.table import Table
from scipy.stats import spearmanr
from support.single_directions import NUM_CLASSES, REPLACEMENTS

from tfprune import experiments, plots
from tfprune.plots.drawing import panels_of

DATA_NAMES = {"digits": "scikit-learn's digits", "mnist": "MNIST", "cifar": "CIFAR-10"}
NET_NAMES = {"dense": "two dense layers", "conv": "three convolutions"}
NORM_NAMES = {"plain": "no batch norm", "batch_norm": "batch norm"}
STYLES = {"zero": "-", "mean": "--"}
SELECTIVITY_AXIS = "class selectivity: 0 = equally active at all classes, 1 = active at one class alone"
# Mean rank correlations below the first count as no sign of importance, below the second as a weak one.
NO_SIGN, WEAK_SIGN = 0.3, 0.6
# Fewer units that are active say nothing of a layer.
FEWEST_UNITS = 5


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """One trained net and what was measured of its units.

    Attributes:
        net: Kind of the net.
        norm: With batch norm or without.
        share: Share of the labels that was randomised.
        seed: Of the training.
        result: Accuracies and numbers of units.
        curves: What is left as units are erased, by what replaces them.
    """

    net: str
    norm: str
    share: float
    seed: int
    result: Mapping[str, Any]
    curves: Mapping[str, experiments.AblationCurves]

    def units(self, of: str, group: str | None = None) -> np.ndarray:
        """Numbers of the units of a group, or of all, that are ever active: "selectivity", or the change by "zero"."""
        groups = self.result["groups"] if group is None else [group]
        return np.concatenate([self.result[f"{of}/{name}"][self.result[f"active/{name}"]] for name in groups])

    @property
    def num_silent(self) -> int:
        """How many units are never active; their selectivity is not defined."""
        return int(sum((~self.result[f"active/{name}"]).sum() for name in self.result["groups"]))

    @property
    def selectivity(self) -> float:
        """Mean over the active units."""
        return float(self.units("selectivity").mean())

    def rank_correlation(self, by: str) -> float:
        """Selectivity against the change of the loss, mean over the layers; NaN where no layer has enough units."""
        found = []
        for group in self.result["groups"]:
            values = self.units("selectivity", group), self.units(by, group)
            if len(values[0]) >= FEWEST_UNITS and all(np.ptp(own) > 0 for own in values):
                found.append(float(spearmanr(*values).statistic))
        return float(np.mean(found)) if found else float("nan")


Cells = dict[tuple[str, str, float], list[Trained]]


def trained(results: experiments.GridResults) -> Cells:
    """The nets of a grid by kind, batch norm and share; one for each seed."""
    cells: Cells = {}
    for run in results:
        curves = {by: experiments.AblationCurves.load(run.folder / f"{by}.npz") for by in REPLACEMENTS}
        labels = {name: run.settings[name] for name in ("net", "norm", "share", "seed")}
        key = (labels["net"], labels["norm"], labels["share"])
        cells.setdefault(key, []).append(Trained(**labels, result=run.result, curves=curves))
    return cells


def quantities(own: Trained) -> dict[str, float]:
    """What the table says of one net."""
    numbers = {name: float(own.result[f"{name}"]) for name in ("train_accuracy", "test_accuracy", "epochs_taken")}
    for by, curves in own.curves.items():
        numbers[f"area_{by}"] = curves.area("random")
        # Above 0 where erasing selective units first costs more.
        numbers[f"selective_costs_{by}"] = curves.area("bottom") - curves.area("top")
        numbers[f"rank_correlation_{by}"] = own.rank_correlation(by)
    return {**numbers, "selectivity": own.selectivity, "num_silent": float(own.num_silent)}


def rows(cells: Cells) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds, one row for each kind of net, batch norm and share."""
    found = []
    for (net, norm, share), nets in cells.items():
        numbers = [quantities(own) for own in nets]
        columns = {name: [own[name] for own in numbers] for name in numbers[0]}
        labels = {"net": net, "norm": norm, "share": share, "seeds": [own.seed for own in nets]}
        summary = {name: {"mean": _mean(values), "std": _std(values)} for name, values in columns.items()}
        found.append({**labels, **summary})
    return found


def table(found: Sequence[Mapping[str, Any]], data: str) -> Table:
    """One row for each kind of net."""
    title = f"{DATA_NAMES[data]}: mean and standard deviation over the seeds, accuracies in %"
    caption = (
        "area: mean training accuracy while units are erased in random order, replaced by zero or by their mean; "
        "selective first: how much smaller the area is when the most selective of each layer go first, not the least; "
        "rank correlation: selectivity of a unit with the rise of the loss when it alone is zero, within layers; "
        "silent: units that are never active"
    )
    result = Table("net", title=title, caption=caption, caption_justify="left")
    result.add_column("random\nlabels", justify="right")
    for name in ("epochs", "train", "test", "area,\nzero", "area,\nmean", "selective\nfirst", "selectivity"):
        result.add_column(name, justify="right", no_wrap=True)
    for name in ("rank\ncorrelation", "silent"):
        result.add_column(name, justify="right", no_wrap=True)
    for row in found:
        percent = [
            _cell(row[name], 100, 1)
            for name in ("train_accuracy", "test_accuracy", "area_zero", "area_mean", "selective_costs_zero")
        ]
        result.add_row(
            f"{row['net']}, {NORM_NAMES[row['norm']]}",
            f"{100 * row['share']:g} %",
            _cell(row["epochs_taken"], 1, 0),
            *percent,
            _cell(row["selectivity"], 1, 2),
            _cell(row["rank_correlation_zero"], 1, 2),
            _cell(row["num_silent"], 1, 0),
        )
    return result


def answers(cells: Cells) -> list[dict[str, Any]]:
    """The paper's three claims, and what these nets say of them, for each kind of net."""
    found = []
    for net in dict.fromkeys(net for net, _, _ in cells):
        found += [*_memorising(cells, net), *_normalised(cells, net), *_important(cells, net)]
    return found


def answer_table(found: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each question and kind of net."""
    result = Table("question", "paper", "net", "here", "figures", title="Answers (Morcos et al. 2018)", show_lines=True)
    for row in found:
        result.add_row(row["question"], row["paper"], row["net"], row["answer"], row["figures"])
    return result


def _memorising(cells: Cells, net: str) -> list[dict[str, Any]]:
    found = []
    for norm in _norms(cells, net):
        shares = sorted(share for own, other, share in cells if (own, other) == (net, norm))
        if len(shares) < 2:
            continue
        least, most = (_by_seed(cells, (net, norm, share)) for share in (shares[0], shares[-1]))
        for by in REPLACEMENTS:
            areas = [(least[seed][f"area_{by}"], most[seed][f"area_{by}"]) for seed in least if seed in most]
            label = f"{NET_NAMES[net]}, {NORM_NAMES[norm]}, {by}"
            words = f"area {{}} at {100 * shares[0]:g} % random labels, {{}} at {100 * shares[-1]:g} %"
            found.append(_compared("Do nets that memorise lose more?", "yes", label, words, areas, smaller=1))
    return found


def _normalised(cells: Cells, net: str) -> list[dict[str, Any]]:
    pairs = []
    for share in dict.fromkeys(share for own, _, share in cells if own == net):
        kinds = [(net, norm, share) for norm in ("plain", "batch_norm")]
        if any(kind not in cells for kind in kinds):
            continue
        plain, normed = (_by_seed(cells, kind) for kind in kinds)
        pairs += [(plain[seed], normed[seed]) for seed in plain if seed in normed]
    if not pairs:
        return []
    found = []
    for by in REPLACEMENTS:
        areas = [(plain[f"area_{by}"], normed[f"area_{by}"]) for plain, normed in pairs]
        label = f"{NET_NAMES[net]}, {by}"
        words = "area {} without batch norm, {} with it"
        found.append(_compared("Do nets with batch norm lose less?", "yes", label, words, areas, smaller=0))
    values = [(plain["selectivity"], normed["selectivity"]) for plain, normed in pairs]
    words = "selectivity {} without batch norm, {} with it"
    question = "Does batch norm make units less selective?"
    found.append(_compared(question, "yes", NET_NAMES[net], words, values, smaller=1))
    return found


def _important(cells: Cells, net: str) -> list[dict[str, Any]]:
    found = []
    for norm in _norms(cells, net):
        numbers = [quantities(own) for key, nets in cells.items() if key[:2] == (net, norm) for own in nets]
        for by in REPLACEMENTS:
            values = np.array([own[f"rank_correlation_{by}"] for own in numbers])
            values = values[np.isfinite(values)]
            if not len(values):
                continue
            costs = np.mean([own[f"selective_costs_{by}"] for own in numbers])
            found.append(
                {
                    "question": "Is selectivity a sign of importance?",
                    "paper": "hardly",
                    "net": f"{NET_NAMES[net]}, {NORM_NAMES[norm]}, {by}",
                    "answer": _sign(float(values.mean())),
                    "figures": f"rank correlation {values.mean():+.2f} ({values.min():+.2f} to {values.max():+.2f}, "
                    f"{len(values)} nets); selective first costs {100 * costs:+.1f} points of area",
                }
            )
    return found


def _sign(correlation: float) -> str:
    if abs(correlation) < NO_SIGN:
        return "no"
    word = "weak" if abs(correlation) < WEAK_SIGN else "yes"
    return word if correlation > 0 else f"{word}, of unimportance"


def _compared(
    question: str, paper: str, net: str, words: str, pairs: Sequence[tuple[float, float]], *, smaller: int
) -> dict[str, Any]:
    """A claim that one of two numbers is smaller, over all pairs."""
    values = np.array(pairs, "float64").reshape(-1, 2)
    holds = int((values[:, smaller] < values[:, 1 - smaller]).sum())
    share = holds / max(1, len(values))
    words_by_share = {"yes": share == 1, "mostly": share >= 0.75, "mixed": share > 0.25, "mostly not": share > 0}
    answer = next((word for word, fits in words_by_share.items() if fits), "no")
    means = (f"{mean:.2f}" for mean in values.mean(axis=0)) if len(values) else ("", "")
    figures = f"{words.format(*means)}; so in {holds} of {len(values)} pairs"
    return {"question": question, "paper": paper, "net": net, "answer": answer, "figures": figures}


def _by_seed(cells: Cells, key: tuple[str, str, float]) -> dict[int, dict[str, float]]:
    return {own.seed: quantities(own) for own in cells[key]}


def _norms(cells: Cells, net: str) -> list[str]:
    return list(dict.fromkeys(norm for own, norm, _ in cells if own == net))


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _std(values: Sequence[float]) -> float | None:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.std(finite)) if finite else None


def _cell(summary: Mapping[str, float | None], scale: float, digits: int) -> str:
    if summary["mean"] is None:
        return ""
    return f"{scale * summary['mean']:.{digits}f} ± {scale * summary['std']:.{digits}f}"


def draw(cells: Cells, data: str, folder: Path) -> None:
    """Four pictures: curves in random order, selectivity, its relation to importance, curves in order of it."""
    where = DATA_NAMES[data]
    title = f"Units erased in random order, {where}: nets that learn random labels beside others"
    figure = _panels(cells, title, _erased)
    words = "share of the units that is erased (lines: means over seeds and orders; bands, for zero: lowest to highest)"
    figure.supxlabel(words, fontsize=10)
    plots.save_figure(figure, folder / "erased_at_random.png")
    figure = _panels(cells, f"Class selectivity of units, {where}", _histogram)
    figure.supxlabel(SELECTIVITY_AXIS, fontsize=10)
    plots.save_figure(figure, folder / "selectivity.png")
    figure = _panels(cells, f"Is a selective unit an important one? Each point is a unit, {where}", _scatter)
    figure.supxlabel(SELECTIVITY_AXIS, fontsize=10)
    plots.save_figure(figure, folder / "selectivity_and_importance.png")
    for net in dict.fromkeys(net for net, _, _ in cells):
        _draw_orders(cells, net, where, folder / f"erased_by_selectivity_{net}.png")


def _draw_orders(cells: Cells, net: str, where: str, path: Path) -> None:
    """Units erased along their selectivity, for the fewest and the most random labels."""
    shares = {share for own, _, share in cells if own == net}
    panels = {
        f"{NORM_NAMES[norm]}, {100 * share:g} % random labels": [one.curves["zero"] for one in nets]
        for (own, norm, share), nets in cells.items()
        if own == net and share in (min(shares), max(shares))
    }
    title = f"Units erased by class selectivity within their layer, replaced by zero: {NET_NAMES[net]}, {where}"
    figure = plots.ablation_curves(panels, title=title)
    figure.axes[0].set_ylabel("training accuracy")
    plots.save_figure(figure, path)


def _panels(cells: Cells, title: str, fill: Any) -> Any:
    """A figure with a panel for each kind of net, with and without batch norm."""
    kinds = list(dict.fromkeys(key[:2] for key in cells))
    figure, grid = panels_of(len(kinds), title, size=(4.2, 3.8))
    for number, (axes, (net, norm)) in enumerate(zip(grid, kinds, strict=True)):
        fill(axes, {share: nets for (*kind, share), nets in cells.items() if tuple(kind) == (net, norm)}, number == 0)
        axes.set_title(f"{NET_NAMES[net]}, {NORM_NAMES[norm]}", fontsize=10)
        axes.grid(alpha=0.3)
    return figure


def _erased(axes: Axes, shares: Mapping[float, list[Trained]], is_first: bool) -> None:
    for share, nets in shares.items():
        for by in REPLACEMENTS:
            curves = np.concatenate([own.curves[by].curves("random") for own in nets])
            area = np.mean([own.curves[by].area("random") for own in nets])
            erased = 100 * nets[0].curves[by].shares
            label = f"{100 * share:g} % random, {by} ({100 * area:.0f} %)"
            colour = _colour(share)
            axes.plot(erased, 100 * curves.mean(axis=0), STYLES[by], color=colour, marker="o", ms=3, label=label)
            if by == "zero":
                low, high = 100 * curves.min(axis=0), 100 * curves.max(axis=0)
                axes.fill_between(erased, low, high, color=colour, alpha=0.12, lw=0)
    axes.axhline(100 / NUM_CLASSES, color="grey", lw=1, linestyle=":")
    # Room for the legend above the curves.
    axes.set_ylim(0, 160)
    axes.set_yticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter("{x:.0f} %")
    axes.yaxis.set_major_formatter("{x:.0f} %")
    axes.legend(fontsize=7, title="labels, replacement (mean height)", title_fontsize=7)
    if is_first:
        axes.set_ylabel("training accuracy (dotted: chance)")


def _histogram(axes: Axes, shares: Mapping[float, list[Trained]], is_first: bool) -> None:
    by_share = {share: np.concatenate([own.units("selectivity") for own in nets]) for share, nets in shares.items()}
    edges = np.linspace(0, _limit(by_share.values()), 26)
    for share, values in by_share.items():
        weights = np.full(len(values), 100 / len(values))
        label = f"{100 * share:g} % random labels (mean {values.mean():.2f})"
        axes.hist(values, edges, weights=weights, histtype="step", color=_colour(share), lw=1.8, label=label)
    axes.set_xlim(0, edges[-1])
    axes.set_ylim(0, 1.3 * axes.get_ylim()[1])
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.legend(fontsize=7)
    if is_first:
        axes.set_ylabel("share of the units that are ever active")


def _scatter(axes: Axes, shares: Mapping[float, list[Trained]], is_first: bool) -> None:
    limit = _limit(own.units("selectivity") for nets in shares.values() for own in nets)
    for share, nets in shares.items():
        selectivity, change = (np.concatenate([own.units(of) for own in nets]) for of in ("selectivity", "zero"))
        correlation = _mean([own.rank_correlation("zero") for own in nets])
        words = "" if correlation is None else f" ({correlation:+.2f})"
        label = f"{100 * share:g} % random labels{words}"
        axes.plot(selectivity, change, "o", ms=3, mew=0, alpha=0.5, color=_colour(share), label=label)
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_xlim(0, limit)
    axes.set_ylim(top=5 * axes.get_ylim()[1])
    axes.axhline(0, color="grey", lw=1)
    axes.legend(fontsize=7, title="(rank correlation within layers)", title_fontsize=7)
    if is_first:
        axes.set_ylabel("rise of the loss when the unit alone is zero (nats)")


def _limit(values: Iterable[np.ndarray]) -> float:
    """The next tenth above all values: units of convolutions are far less selective than those of dense layers."""
    return min(1.0, np.ceil(10 * max(own.max(initial=0.1) for own in values)) / 10)


def _colour(share: float) -> Any:
    """From blue for true labels to yellow for random ones."""
    return matplotlib.colormaps["plasma"](0.8 * share)
