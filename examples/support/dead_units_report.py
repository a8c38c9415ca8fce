"""Tables and pictures of attacked units, from the records of the trainings."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from scipy.stats import spearmanr
from support.dead_units import RECORD_FILE, Attacks, split_unit

from tfprune import plots
from tfprune.experiments import GridResults, Run
from tfprune.training import LivenessRecord

NO_ATTACK = "no attack"
THESIS_ACCURACY = {"relu_norm": 0.67, "tanh": 0.64, "relu": 0.61}
NET_NAMES = {"relu_norm": "relu, then batch norm", "tanh": "tanh", "relu": "relu"}
PENALTY = "mean_replacement_penalty"
QUANTITIES = {
    PENALTY: "MRP\n(nats per sample)",
    "mean_replacement": "MRS\n(nats per sample)",
    "incoming_norm": "L2 norm of\nincoming weights",
    "outgoing_norm": "L2 norm of\noutgoing weights",
    "output_gradient": "output gradient\n(mean norm, nats)",
    "weight_gradient": "gradient of incoming\nweights (norm, nats)",
    "loss": "validation loss\n(nats)",
}
PREDICTORS = {
    "mean_replacement": "MRS",
    "incoming_norm": "incoming weights",
    "outgoing_norm": "outgoing weights",
    "output_gradient": "output gradient",
    "weight_gradient": "weight gradient",
}
VALUES = {"outputs": "output, before the nonlinearity", "activations": "activation, as the next layer sees it"}
# The end of a training is the mean over this share of its measurements: single ones vary with the last batch.
END_SHARE = 0.2


class Trainings:
    """The finished trainings by their settings, and their records.

    Args:
        results: What the grid left.
        plain: Gives the settings of the training of a net without an attack.
        count: Number of attacked steps.
    """

    def __init__(self, results: GridResults, plain: Callable[[str], dict], count: int):
        self.runs = list(results)
        self.plain = plain
        self.count = count

    def find(self, point: Mapping[str, Any]) -> Run | None:
        """The training with just these settings; None where it failed."""
        keys = {"net", "seed", "epochs", "layer", "place", "multiplier", "start", "interval"}
        found = [run for run in self.runs if {k: v for k, v in run.settings.items() if k in keys} == dict(point)]
        return found[0] if found else None

    def of_unit(self, attacks: Attacks, unit: str) -> dict[str, Run]:
        """Trainings of one row of a picture: the one without an attack first, then those that attack the unit."""
        layer, place = split_unit(unit)
        points = {NO_ATTACK: self.plain(attacks.net)}
        for name, line in attacks.lines().items():
            points[name] = {**points[NO_ATTACK], "layer": layer, "place": place, **line}
        found = {name: self.find(point) for name, point in points.items()}
        return {name: run for name, run in found.items() if run is not None}


@functools.lru_cache(maxsize=64)
def load_record(folder: Path) -> LivenessRecord:
    """The record of one training."""
    return LivenessRecord.load(folder / RECORD_FILE)


def unit_curves(run: Run, unit: str) -> dict[str, np.ndarray]:
    """All quantities of a unit over the steps of a training."""
    record, (layer, place) = load_record(run.folder), split_unit(unit)
    curves = {name: record.of(name, layer)[:, place] for name in QUANTITIES if name != "loss"}
    return {"steps": np.asarray(record.step), "loss": np.asarray(record.loss), **curves}


def at_end(curve: np.ndarray) -> float:
    """Mean over the last measurements."""
    return float(np.mean(curve[-max(1, round(END_SHARE * len(curve))) :]))


def verdict(run: Run, unit: str) -> str:
    """Whether the unit was frozen or dead at the last measurement."""
    record, (layer, place) = load_record(run.folder), split_unit(unit)
    return " and ".join(name for name in ("frozen", "dead") if record.of(name, layer)[-1, place]) or "alive"


def attack_rows(trainings: Trainings, attacks: Attacks) -> list[dict[str, Any]]:
    """What every attack did, as ratios to the same unit in the training without an attack."""
    rows = []
    for unit in attacks.units:
        runs = trainings.of_unit(attacks, unit)
        plain = runs.pop(NO_ATTACK, None)
        for name, run in runs.items() if plain else ():
            before, after = unit_curves(plain, unit), unit_curves(run, unit)
            rows.append(
                {
                    "net": attacks.net,
                    "unit": unit,
                    "attack": name,
                    **{key: _ratio(at_end(after[key]), at_end(before[key])) for key in QUANTITIES if key != "loss"},
                    "accuracy": run.result["accuracy"],
                    "accuracy_without": plain.result["accuracy"],
                    "verdict": verdict(run, unit),
                    "verdict_without": verdict(plain, unit),
                }
            )
    return rows


def attack_table(trainings: Trainings, attacks: Attacks) -> Table:
    """One row per attack."""
    title = f"{attacks.title} ({attacks.name}): at the end, as multiples of the same unit without an attack"
    caption = f"thesis, {attacks.thesis}" if attacks.thesis else None
    table = Table("unit", "attack", title=title, caption=caption, caption_justify="left")
    for name in ("MRP", "MRS", "in norm", "out norm", "output grad.", "weight grad.", "accuracy", "without"):
        table.add_column(name, justify="right")
    table.add_column("verdict (without)")
    for row in attack_rows(trainings, attacks):
        ratios = (f"{row[key]:.3g}" for key in QUANTITIES if key != "loss")
        table.add_row(
            row["unit"],
            row["attack"],
            *ratios,
            f"{row['accuracy']:.4f}",
            f"{row['accuracy_without']:.4f}",
            f"{row['verdict']} ({row['verdict_without']})",
        )
    return table


def accuracy_rows(trainings: Trainings) -> list[dict[str, Any]]:
    """Test accuracy of each kind of net, without an attack and over all attacks."""
    rows = []
    for net in dict.fromkeys(run.settings["net"] for run in trainings.runs):
        attacked = [run.result["accuracy"] for run in trainings.runs if _is_attacked(run, net)]
        plain = trainings.find(trainings.plain(net))
        rows.append(
            {
                "net": net,
                "accuracy": None if plain is None else plain.result["accuracy"],
                "attacked": [min(attacked), max(attacked)] if attacked else None,
                "num_attacked": len(attacked),
                "thesis": THESIS_ACCURACY[net],
            }
        )
    return rows


def accuracy_table(trainings: Trainings, *, on_cifar: bool) -> Table:
    """Accuracies beside those of the thesis."""
    images = "CIFAR-10" if on_cifar else "scikit-learn's digits (the thesis: CIFAR-10)"
    table = Table("net", title=f"Accuracy on the test images of {images}")
    for name in ("without an attack", "with attacks", "thesis"):
        table.add_column(name, justify="right")
    for row in accuracy_rows(trainings):
        plain = "" if row["accuracy"] is None else f"{row['accuracy']:.4f}"
        low, high = row["attacked"] or (np.nan, np.nan)
        attacked = f"{low:.4f} to {high:.4f} ({row['num_attacked']} trainings)" if row["attacked"] else ""
        table.add_row(NET_NAMES[row["net"]], plain, attacked, f"{row['thesis']:.2f}")
    return table


def correlation_rows(trainings: Trainings) -> list[dict[str, Any]]:
    """Rank correlation of the MRP with what may foretell it, over the units of a layer at the end of all trainings."""
    rows = []
    for net in dict.fromkeys(run.settings["net"] for run in trainings.runs):
        runs = [run for run in trainings.runs if run.settings["net"] == net]
        for layer in load_record(runs[0].folder).groups:
            found = {name: [] for name in PREDICTORS}
            for run in runs:
                record = load_record(run.folder)
                penalty = record.of(PENALTY, layer)[-1]
                for name in PREDICTORS:
                    values = record.of(name, layer)[-1]
                    if np.ptp(values) > 0.0 and np.ptp(penalty) > 0.0:
                        found[name].append(float(spearmanr(values, penalty).statistic))
            means = {name: float(np.mean(values)) if values else None for name, values in found.items()}
            rows.append({"net": net, "layer": layer, "num_trainings": len(runs), **means})
    return rows


def correlation_table(trainings: Trainings) -> Table:
    """One row per net and layer."""
    table = Table(
        "net",
        "layer",
        title="What foretells the MRP: rank correlation over the units of a layer at the end, mean over trainings",
        caption="thesis, section 3.7: MRS foretells units of low MRP best, better than norms and gradients",
    )
    for name in PREDICTORS.values():
        table.add_column(name, justify="right")
    for row in correlation_rows(trainings):
        values = ("" if row[name] is None else f"{row[name]:.3f}" for name in PREDICTORS)
        table.add_row(NET_NAMES[row["net"]], row["layer"], *values)
    return table


def summary(trainings: Trainings, all_attacks: Sequence[Attacks]) -> dict[str, Any]:
    """Everything that the tables say, for a file."""
    return {
        "accuracy": accuracy_rows(trainings),
        "attacks": {attacks.name: attack_rows(trainings, attacks) for attacks in all_attacks},
        "rank_correlation_with_mrp": correlation_rows(trainings),
    }


def draw(trainings: Trainings, attacks: Attacks, folder: Path) -> None:
    """One picture of curves, and histograms of outputs and of activations."""
    rows = {unit: trainings.of_unit(attacks, unit) for unit in attacks.units}
    rows = {unit: runs for unit, runs in rows.items() if NO_ATTACK in runs and len(runs) > 1}
    if not rows:
        return
    windows = {
        name: (line["start"], line["start"] + (trainings.count - 1) * line["interval"])
        for name, line in attacks.lines().items()
    }
    curves = {unit: {name: unit_curves(run, unit) for name, run in runs.items()} for unit, runs in rows.items()}
    title = f"{attacks.title}: what an attack on a unit's learning rate does to it"
    figure = plots.liveness_curves(curves, QUANTITIES, title=title, windows=windows)
    plots.save_figure(figure, folder / f"{attacks.name}.png")
    for kind, label in VALUES.items():
        panels = {
            f"{unit}, {name}": unit_histogram(run, unit, kind)
            for unit, runs in rows.items()
            for name, run in runs.items()
        }
        figure = plots.histograms_over_time(
            panels,
            title=f"{attacks.title}: {kind} on validation images",
            value_label=label,
            num_columns=1 + len(attacks.lines()),
            windows={f"{unit}, {name}": window for unit in rows for name, window in windows.items()},
        )
        plots.save_figure(figure, folder / f"{attacks.name}_{kind}.png")


def unit_histogram(run: Run, unit: str, kind: str) -> dict[str, np.ndarray]:
    """Histogram of a unit's outputs or activations at each measurement."""
    record, (layer, place) = load_record(run.folder), split_unit(unit)
    return {"steps": np.asarray(record.step), "edges": record.edges, "counts": record.of(kind, layer)[:, place]}


def _is_attacked(run: Run, net: str) -> bool:
    return run.settings["net"] == net and "layer" in run.settings


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else float("nan")
