"""Tables and pictures of the example of translation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from support.translation_data import Pair
from support.translation_properties import Property
from support.translation_study import ORDERS, Finding, Nets, Rankings, texts

from tfprune import plots
from tfprune.experiments import AblationCurves, DoseCurve
from tfprune.files import atomic_write
from tfprune.plots.drawing import save_figure

# BLEU of Bau et al.'s English-Spanish net, 500 neurons, as 10, 20, 30 and 40 % of them are erased.
PUBLISHED_SHARES = (0.1, 0.2, 0.3, 0.4)
PUBLISHED = {
    "min correlation": {"top": (36.5, 30.2, 26.3, 24.4), "bottom": (48.4, 41.0, 32.0, 26.0)},
    "linear regression": {"top": (35.8, 30.6, 26.5, 24.5), "bottom": (47.0, 38.3, 30.0, 26.4)},
}
_NUM_TEXTS = 8


def training_table(histories: Mapping[int, Mapping[str, Sequence[float]]], bleu: Sequence[float]) -> Table:
    """Loss and BLEU of each net."""
    table = Table(title="Nets, on pairs that none has seen")
    for column in ("seed", "loss of training", "loss", "BLEU", "minutes"):
        table.add_column(column, justify="right")
    for (seed, history), own in zip(histories.items(), bleu, strict=True):
        minutes = sum(history["seconds"]) / 60
        row = (history["loss"][-1], history["held_out_loss"][-1])
        table.add_row(str(seed), *(f"{value:.2f}" for value in row), f"{own:.1f}", f"{minutes:.1f}")
    return table


def at_shares(curves: AblationCurves, order: str) -> np.ndarray:
    """BLEU at the shares that the published figures have; the mean over random orders."""
    return np.interp(PUBLISHED_SHARES, curves.shares, curves.curves(order).mean(axis=0))


def erasing_table(curves: Mapping[str, AblationCurves], layer: str) -> Table:
    """BLEU as neurons are erased, beside the published figures."""
    table = Table(title=f"BLEU as neurons of {layer} are erased")
    for column in ("ranked by", "erased first", "area"):
        table.add_column(column)
    for share in PUBLISHED_SHARES:
        table.add_column(f"{share:.0%}", justify="right")
    for name, own in curves.items():
        for order in ORDERS:
            cells = [f"{value:.1f}" for value in at_shares(own, order)]
            table.add_row(name, order, f"{own.area(order):.1f}", *cells, end_section=order == ORDERS[-1])
    for name, orders in PUBLISHED.items():
        for order, values in orders.items():
            table.add_row(f"{name}, published", order, "", *(f"{value:.1f}" for value in values), style="dim")
    return table


def best_dose(curve: DoseCurve) -> int:
    """Where success is highest of the doses that leave half of BLEU, if there are such."""
    whole = curve.quality >= float(curve.full_quality) / 2
    return int(np.where(whole | ~whole.any(), curve.success, -1.0).argmax())


def control_table(findings: Sequence[Finding]) -> Table:
    """How often translations changed, and what it cost."""
    table = Table(title="Controlled properties, at the dose of most success that leaves half of BLEU")
    for column in ("property", "from, to", "neuron", "probe (commonest)", "one neuron at z", "success", "BLEU"):
        table.add_column(column)
    for column in ("shifted at beta", "success", "BLEU", "BLEU without", "published success"):
        table.add_column(column, justify="right")
    for found in findings:
        own = found.wanted
        cells = []
        for curve in (found.by_neuron, found.by_shift):
            best = best_dose(curve)
            cells += [f"{curve.doses[best]:+g}", f"{curve.success[best]:.0%}", f"{curve.quality[best]:.1f}"]
        cells[3] = f"{found.num_shifted} at {cells[3]}"
        table.add_row(
            own.name,
            f"{own.source}, {own.target}",
            found.ranking.labels(1)[0],
            f"{found.accuracy[0]:.0%} ({found.accuracy[1]:.0%})",
            *cells,
            f"{float(found.by_shift.full_quality):.1f}",
            "" if own.published is None else f"{own.published:.0%}",
        )
    return table


def draw_erasing(curves: Mapping[str, AblationCurves], layer: str, folder: Path) -> None:
    """One panel for each ranking; crosses are the published figures."""
    figure = plots.ablation_curves(curves, title=f"BLEU as neurons of {layer} are erased", unit="neurons or directions")
    for name, axes in zip(curves, figure.axes, strict=False):
        for order, values in PUBLISHED.get(name, {}).items():
            shares = 100 * np.array(PUBLISHED_SHARES)
            axes.plot(shares, values, "x", color=plots.ORDER_COLOURS[order], label=f"{order}, Bau et al.")
        axes.set_ylim(bottom=0)
        axes.legend(fontsize=7, title="erased first (mean height)", title_fontsize=7)
    save_figure(figure, folder / "erasing.png", num_colours=128)


def draw_control(findings: Sequence[Finding], folder: Path) -> None:
    """Success and BLEU against the dose: of the best neuron of each property, and of the best ones shifted."""
    by_neuron = {f"{_change(found)}, {found.ranking.labels(1)[0]}": found.by_neuron for found in findings}
    by_shift = {f"{_change(found)}, {found.num_shifted} neurons": found.by_shift for found in findings}
    figure = plots.dose_curves(by_neuron, title="One neuron held at mean + z std")
    save_figure(figure, folder / "control_by_neuron.png", num_colours=128)
    dose = "beta, in differences of class means"
    figure = plots.dose_curves(by_shift, title="Neurons shifted from class to class", dose=dose)
    save_figure(figure, folder / "control_by_shift.png", num_colours=128)


def _change(found: Finding) -> str:
    return f"{found.wanted.name}: {found.wanted.source} to {found.wanted.target}"


def draw_texts(nets: Nets, findings: Sequence[Finding], folder: Path) -> None:
    """Sentences coloured by the best neuron of each property, as a picture each and one page of HTML."""
    pieces = []
    for found in findings:
        unit = int(found.ranking.order[0])
        pairs = _examples(nets.pairs, found.wanted)
        tokens, values = texts(nets, pairs, unit)
        title = f"{found.wanted.name}: neuron {unit} of {nets.layer}"
        titles = [found.wanted.label(pair.target) for pair in pairs]
        # A blank stands before each word.
        tokens = [[token.replace("▁", "") or "▁" for token in own] for own in tokens]
        figure = plots.activation_text(tokens, values, titles=titles, title=title)
        save_figure(figure, folder / f"neuron_{found.wanted.name.replace(' ', '_')}.png", num_colours=128)
        pieces.append(plots.activation_html(tokens, values, titles=titles, title=title))
    page = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>Neurons</title></head><body>{}</body></html>\n'
    with atomic_write(folder / "neurons.html") as temporary:
        temporary.write_text(page.format("\n".join(pieces)), encoding="utf-8")


def _examples(pairs: Sequence[Pair], wanted: Property) -> list[Pair]:
    """As many sentences of the one value as of the other."""
    values = (wanted.source, wanted.target)
    found = [[pair for pair in pairs if wanted.label(pair.target) == value][: _NUM_TEXTS // 2] for value in values]
    return [pair for own in found for pair in own]


def summary(
    histories: Mapping[int, Mapping[str, Sequence[float]]],
    bleu: Sequence[float],
    rankings: Rankings,
    curves: Mapping[str, AblationCurves],
    findings: Sequence[Finding],
) -> dict[str, Any]:
    """All figures, for a file."""
    return {
        "bleu": list(bleu),
        "histories": {str(seed): dict(history) for seed, history in histories.items()},
        "svcca_similarity": rankings.similarity,
        "num_directions": len(rankings.directions),
        "best_neurons": {name: own.labels(10) for name, own in rankings.neurons.items()},
        "erasing": {
            name: {"shares": own.shares.tolist()}
            | {order: own.curves(order).mean(axis=0).tolist() for order in ORDERS}
            | {f"area_{order}": own.area(order) for order in ORDERS}
            for name, own in curves.items()
        },
        "control": [_told(found) for found in findings],
    }


def _told(found: Finding) -> dict[str, Any]:
    told = {
        "property": found.wanted.name,
        "from": found.wanted.source,
        "to": found.wanted.target,
        "neurons": found.ranking.labels(10),
        "probe_accuracy": found.accuracy[0],
        "commonest": found.accuracy[1],
        "num_shifted": found.num_shifted,
        "published_success": found.wanted.published,
    }
    for name, curve in (("one_neuron", found.by_neuron), ("shifted", found.by_shift)):
        told[name] = {
            "doses": curve.doses.tolist(),
            "success": curve.success.tolist(),
            "bleu": curve.quality.tolist(),
            "bleu_without": float(curve.full_quality),
            "num_sentences": int(curve.settings["num_counted"]),
        }
    return told
