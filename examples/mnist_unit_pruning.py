"""Chapter 4 of the thesis: which score finds the units that can go, and how small a net remains.

    python examples/mnist_unit_pruning.py                                      # scikit-learn's digits, minutes
    python examples/mnist_unit_pruning.py --config examples/settings/mnist_unit_pruning.yaml --mnist mnist.npz

Three parts, each a grid of runs of which none is made twice: scores compared along a training (figures 4.1 to 4.5), the
schedule of table 4.2 (figures 4.6 to 4.10), and nets a tenth and a fifteenth of the size. Tables give the thesis's
figures beside ours.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from support import unit_pruning
from support.settings import read_settings, save_settings

from tfprune import experiments, plots

PARTS = ("scores", "schedule", "beyond")
THESIS = {"parameters": 4019, "pruned": 0.9842, "whole": 0.988}
THESIS_TEST = {"relu": (0.988, 0.039), "tanh": (0.9831, 0.056)}
STARTS = ("cut", "cut, taught", "scratch", "scratch, taught")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the example.

    Attributes:
        mnist: npz file of MNIST; scikit-learn's digits without one.
        parts: Which parts to run: scores, schedule, beyond.
        seeds: Seeds of schedule and beyond; the scores take the first.
        activations: Activations of the scores.
        epochs: Epochs of every training.
        full_epochs: Epochs of the full net before it is cut, in the part beyond.
        every: Steps between two measurements of the scores.
        optimizers: Optimizers of the schedule, sgd or adam.
        widths: Units of conv1, conv2 and fc1 that stay, for each net of the part beyond.
        starts: What these nets are trained from: cut or scratch, or one of both and "taught" by the full net.
        output: Folder of records and pictures.
        num_workers: Processes at once.
    """

    mnist: str | None = None
    parts: list[str] = dataclasses.field(default_factory=lambda: list(PARTS))
    seeds: list[int] = dataclasses.field(default_factory=lambda: [0])
    activations: list[str] = dataclasses.field(default_factory=lambda: ["relu", "tanh"])
    epochs: int = 30
    full_epochs: int = 12
    every: int = 150
    optimizers: list[str] = dataclasses.field(default_factory=lambda: ["adam"])
    widths: list[list[int]] = dataclasses.field(default_factory=lambda: [[4, 7, 10], [3, 5, 9]])
    starts: list[str] = dataclasses.field(default_factory=lambda: list(STARTS))
    output: str = "output/mnist_unit_pruning"
    num_workers: int = 1

    def __post_init__(self):
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"parts: expected some of {', '.join(PARTS)}; received {unknown[0]!r}.")
        if unknown := [start for start in self.starts if start not in STARTS]:
            raise ValueError(f"starts: expected some of {STARTS}; received {unknown[0]!r}.")


def main(arguments: list[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = Path(settings.output)
    save_settings(settings, folder)
    console = Console(width=120)
    for part in settings.parts:
        {"scores": study_scores, "schedule": study_schedule, "beyond": study_beyond}[part](settings, folder, console)
    console.print(f"Records and figures are in {folder}.")


def run_grid(function, grid, settings: Settings, folder: Path, **fixed) -> experiments.GridResults:
    fixed |= {"mnist": settings.mnist, "epochs": settings.epochs}
    return experiments.grid(function, grid, folder=folder, fixed=fixed, num_workers=settings.num_workers)


# Scores ---------------------------------------------------------------------------------------------------------------


def study_scores(settings: Settings, folder: Path, console: Console) -> None:
    """Figures 4.1 to 4.5."""
    grid = {"seed": settings.seeds[:1], "activation": settings.activations}
    runs = run_grid(unit_pruning.compare_scores, grid, settings, folder / "scores", every=settings.every)
    for run in runs:
        activation, result = run.settings["activation"], run.result
        accuracy, loss = THESIS_TEST[activation]
        console.print(
            f"\n{activation}: test accuracy {result['test_accuracy']:.4f} (thesis {accuracy}), "
            f"loss {result['test_loss']:.3f} (thesis {loss})"
        )
        console.print(score_table(activation, result))
        draw_scores(activation, result, folder)


def score_table(activation: str, result) -> Table:
    """Mean change of the loss over the second half of the training; the least of a row in bold."""
    late = slice(len(result["steps"]) // 2, None)
    title = f"{activation}: mean change of the loss when units go, over the second half of the training"
    table = Table("units", *unit_pruning.SCORES, title=title)
    rows = {f"half of {layer}": result["changes"][late, k].mean(0) for k, layer in enumerate(unit_pruning.LAYERS)}
    for k, fraction in enumerate(unit_pruning.FRACTIONS):
        rows[f"{fraction:.0%} of fc1"] = result["by_fraction"][late, k].mean(0)
    for name, values in rows.items():
        best = np.argmin(values)
        table.add_row(name, *(f"[bold]{v:.4f}[/]" if k == best else f"{v:.4f}" for k, v in enumerate(values)))
    return table


def draw_scores(activation: str, result, folder: Path) -> None:
    steps, names = result["steps"], list(unit_pruning.SCORES)
    panels = {
        f"half of {layer}": {name: (steps, result["changes"][:, k, n]) for n, name in enumerate(names)}
        for k, layer in enumerate(unit_pruning.LAYERS)
    }
    options = {"x_label": "training step", "y_label": "change of the loss on 1000 training images"}
    title = f"Units replaced by their means along a training, chosen by each score ({activation})"
    figure = plots.line_panels(panels, title=title, linear_within=0.01, **options)
    plots.save_figure(figure, folder / f"scores_{activation}.png")
    panels = {
        f"{fraction:.0%} of fc1": {name: (steps, result["by_fraction"][:, k, n]) for n, name in enumerate(names)}
        for k, fraction in enumerate(unit_pruning.FRACTIONS)
    }
    figure = plots.line_panels(panels, title=title, linear_within=0.01, **options)
    plots.save_figure(figure, folder / f"fractions_{activation}.png")
    lines = {layer: (steps, result["correlations"][:, k]) for k, layer in enumerate(unit_pruning.LAYERS)}
    figure = plots.line_panels(
        {f"MRS and MRP of the units of a layer ({activation})": lines},
        title="Does the gradient rank units as the exact change does?",
        x_label="training step",
        y_label="rank correlation (Spearman)",
    )
    plots.save_figure(figure, folder / f"correlation_{activation}.png")


# Schedule -------------------------------------------------------------------------------------------------------------


def study_schedule(settings: Settings, folder: Path, console: Console) -> None:
    """Table 4.2 and figures 4.6 to 4.10."""
    grid = {"seed": settings.seeds, "optimizer": settings.optimizers, "pruned": [True, False]}
    runs = run_grid(unit_pruning.prune_by_schedule, grid, settings, folder / "schedule")
    columns = ("optimizer", "", "parameters", "accuracy, median (range)", "thesis (SGD)")
    table = Table(*columns, title=f"The schedule of table 4.2 by MRS; {len(settings.seeds)} trainings each")
    for optimizer in settings.optimizers:
        whole, pruned = (runs.where(optimizer=optimizer, pruned=own) for own in (False, True))
        table.add_row(optimizer, "all units", *spread(whole), f"{THESIS['whole']}")
        table.add_row(optimizer, "pruned", *spread(pruned), f"{THESIS['pruned']} at {THESIS['parameters']:,}")
        for repair in ("mean", "least_squares"):
            cells = spread(whole, "untrained_parameters", f"untrained_{repair}")
            table.add_row(optimizer, f"cut at the end, {repair}, not trained", *cells, "")
        draw_schedule(optimizer, whole, pruned, folder)
    console.print(table)


def spread(runs: experiments.GridResults, parameters: str = "parameters", accuracy: str = "test_accuracy") -> list[str]:
    """Parameters and accuracy of some runs as cells of a table."""
    values, counts = runs.column(accuracy), runs.column(parameters)
    return [f"{np.median(counts):,.0f}", f"{np.median(values):.4f} ({values.min():.4f} to {values.max():.4f})"]


def draw_schedule(optimizer: str, whole, pruned, folder: Path) -> None:
    lines = {
        name: (runs[0].result["steps"], np.stack([run.result["losses"] for run in runs]))
        for name, runs in (("all units", whole), ("pruned", pruned))
    }
    marks = [(step, f"{sparsity:.0%} off") for step, sparsity in pruned[0].result["pruning_steps"]]
    figure = plots.line_panels(
        {f"training with {optimizer}": lines},
        title="Training loss with units pruned by MRS along the way",
        x_label="training step",
        y_label="training loss, mean since the epoch began",
        marks=marks,
    )
    plots.save_figure(figure, folder / f"schedule_{optimizer}.png")
    kernels = {
        name: {key[7:]: value for key, value in run.result.items() if key.startswith("kernel_")}
        for name, run in (("all units", whole[0]), ("pruned", pruned[0]))
    }
    figure = plots.kernel_maps(kernels, title=f"Kernels after the training with {optimizer}, same seed")
    plots.save_figure(figure, folder / f"kernels_{optimizer}.png")


# Beyond ---------------------------------------------------------------------------------------------------------------


def study_beyond(settings: Settings, folder: Path, console: Console) -> None:
    """Nets smaller than the thesis's, cut and from scratch."""
    grid = {"seed": settings.seeds, "widths": settings.widths, "start": settings.starts}
    fixed = {"full_epochs": settings.full_epochs}
    runs = run_grid(unit_pruning.beyond, grid, settings, folder / "beyond", **fixed)
    title = (
        f"{settings.epochs} epochs each; cut: {settings.full_epochs} of them for the full net. Scratch, taught: "
        f"{settings.full_epochs} more for the teacher. {len(settings.seeds)} trainings"
    )
    columns = ("widths", "start", "parameters", "accuracy, median (range)", "before training on", "full net then")
    table = Table(*columns, title=title)
    for widths in settings.widths:
        for start in settings.starts:
            own = runs.where(widths=widths, start=start)
            medians = (float(np.median(own.column(name))) for name in ("untrained_accuracy", "full_accuracy"))
            cells = ["" if np.isnan(value) else f"{value:.4f}" for value in medians]
            table.add_row("/".join(map(str, widths)), start, *spread(own), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
