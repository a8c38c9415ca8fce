"""Tables and pictures of what was erased in other people's networks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr
from support.other_networks import CURVES_FILE, DIRECTIONS, NETWORKS

from tfprune import plots
from tfprune.experiments import AblationCurves, GridResults, Run

ORDERS = ("top", "bottom", "random")


def load_curves(run: Run) -> AblationCurves:
    """The curves of one run."""
    return AblationCurves.load(run.folder / CURVES_FILE)


def names_in(results: GridResults, setting: str) -> list[str]:
    """The values of a setting, each once, in the order of the runs."""
    return list(dict.fromkeys(run.settings[setting] for run in results))


def training_table(trainings: GridResults, data: str) -> Table:
    """Accuracy of every trained net."""
    table = Table("net", title=f"Trained on {data}")
    for name in ("seed", "parameters", "accuracy on training images", "on test images", "seconds"):
        table.add_column(name, justify="right")
    for run in trainings:
        result = run.result
        scores = (f"{result[name]:.4f}" for name in ("training_accuracy", "accuracy"))
        title = NETWORKS[run.settings["net"]].title
        table.add_row(title, str(run.settings["seed"]), f"{result['parameters']:,}", *scores, f"{run.seconds:.0f}")
    return table


def area_rows(curves: GridResults) -> list[dict[str, Any]]:
    """Area of each ranking of each net, mean and range over its trainings."""
    rows = []
    for net in names_in(curves, "net"):
        of_net = curves.where(net=net)
        for ranking in names_in(of_net, "ranking"):
            runs = of_net.where(ranking=ranking)
            areas = runs.column("areas")
            gaps = areas[:, 1] - areas[:, 0]
            rows.append(
                {
                    "net": net,
                    "layer": runs[0].settings["layer"],
                    "ranking": ranking,
                    "num_trainings": len(runs),
                    "num_ranked": [len(run.result["scores"]) for run in runs],
                    **{order: float(areas[:, place].mean()) for place, order in enumerate(ORDERS)},
                    "gap": float(gaps.mean()),
                    "gap_range": [float(gaps.min()), float(gaps.max())],
                }
            )
    return rows


def area_table(curves: GridResults) -> Table:
    """One row per ranking; the gap says how much the ranking knows."""
    table = Table(
        "net, layer",
        "ranking",
        title="Mean accuracy while all units of one layer are erased, masks, no training",
        caption="gap: lowest scores first minus highest scores first; above 0 where high scores are what matters",
        caption_justify="left",
    )
    for name in ("erased", "highest first", "lowest first", "at random", "gap", "gap, range"):
        table.add_column(name, justify="right")
    previous = None
    for row in area_rows(curves):
        if previous not in (None, row["net"]):
            table.add_section()
        previous = row["net"]
        low, high = row["gap_range"]
        kind = "directions" if row["ranking"] == DIRECTIONS else "units"
        counts = " and ".join(str(count) for count in dict.fromkeys(row["num_ranked"]))
        table.add_row(
            f"{NETWORKS[row['net']].title}, {row['layer']}",
            row["ranking"],
            f"{counts} {kind}",
            *(f"{row[order]:.3f}" for order in ORDERS),
            f"{row['gap']:+.3f}",
            f"{low:+.3f} to {high:+.3f}",
        )
    return table


def agreement(curves: GridResults, net: str) -> tuple[list[str], np.ndarray]:
    """Rankings of units of a net, and their rank correlations with each other, the mean over trainings."""
    of_net = curves.where(net=net)
    names = [name for name in names_in(of_net, "ranking") if name != DIRECTIONS]
    scores = np.stack([of_net.where(ranking=name).column("scores") for name in names])
    found = [
        [np.mean([spearmanr(*pair).statistic for pair in zip(one, other, strict=True)]) for other in scores]
        for one in scores
    ]
    return names, np.array(found)


def agreement_table(curves: GridResults, net: str) -> Table:
    """Whether rankings put the same units first."""
    names, matrix = agreement(curves, net)
    table = Table("ranking", title=f"{NETWORKS[net].title}: rank correlation between rankings of the units")
    for name in names:
        table.add_column(name, justify="right")
    for name, row in zip(names, matrix, strict=True):
        table.add_row(name, *(f"{value:+.2f}" for value in row))
    return table


def cut_rows(cuts: GridResults) -> list[dict[str, Any]]:
    """Accuracy of every net after every cut."""
    rows = []
    for run in cuts:
        record = load_curves(run)
        for (_, erased), values in zip(record.kinds, record.values, strict=True):
            places = zip(record.shares.tolist(), values.tolist(), strict=True)
            rows.append({"net": run.settings["net"], "seed": run.settings["seed"], "erased": erased})
            rows[-1]["accuracy_at_share"] = [list(place) for place in places]
    return rows


def cut_table(cuts: GridResults) -> Table:
    """One row per net and repair."""
    rows, ranking = cut_rows(cuts), cuts[0].settings["ranking"]
    table = Table("net", "seed", "how", title=f"Accuracy after units of lowest {ranking} are cut out, no training")
    for share, _ in rows[0]["accuracy_at_share"]:
        table.add_column("all units" if share == 0 else f"{100 * share:.0f} % out", justify="right")
    for row in rows:
        values = (f"{value:.4f}" for _, value in row["accuracy_at_share"])
        table.add_row(NETWORKS[row["net"]].title, str(row["seed"]), row["erased"], *values)
    return table


def draw(curves: GridResults, cuts: GridResults, folder: Path, data: str) -> None:
    """For each net, the curves of masks of all its rankings, and those of the cuts with each repair."""
    for net in names_in(curves, "net"):
        of_net, of_cuts, title = curves.where(net=net), cuts.where(net=net), NETWORKS[net].title
        layer = of_net[0].settings["layer"]
        panels = {
            f"directions of {name}" if name == DIRECTIONS else f"units by {name}": _records(of_net.where(ranking=name))
            for name in names_in(of_net, "ranking")
        }
        word = f"{title} on {data}: units of {layer} erased by masks, {len(names_in(of_net, 'seed'))} trainings"
        figure = plots.ablation_curves(panels, title=word, unit="layer")
        for axes in figure.axes:
            axes.set_ylim(0.0, 1.02)
        plots.save_figure(figure, folder / f"{net}_erased.png")
        ranking, seeds = of_cuts[0].settings["ranking"], ", ".join(map(str, names_in(of_cuts, "seed")))
        figure = plots.ablation_curves(
            {f"units with the lowest {ranking} go first, training of seed {seeds}": _records(of_cuts)},
            title=f"{title} on {data}:\nunits of {layer} cut out, nothing trained",
        )
        plots.save_figure(figure, folder / f"{net}_cut.png")


def _records(runs: Sequence[Run]) -> list[AblationCurves]:
    return [load_curves(run) for run in runs]


def summary(trainings: GridResults, curves: GridResults, cuts: GridResults) -> dict[str, Any]:
    """All figures of the tables."""
    agreements = {}
    for net in names_in(curves, "net"):
        names, matrix = agreement(curves, net)
        agreements[net] = {"rankings": names, "rank_correlation": matrix.tolist()}
    return {
        "trainings": [{**run.settings, **run.result, "seconds": run.seconds} for run in trainings],
        "areas": area_rows(curves),
        "agreement": agreements,
        "cuts": cut_rows(cuts),
    }
