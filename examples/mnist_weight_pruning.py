"""Chapter 2 of the thesis: scores of single weights, magnitude pruning while training, and the units that it empties.

    python examples/mnist_weight_pruning.py                                    # scikit-learn's digits, minutes
    python examples/mnist_weight_pruning.py --config examples/settings/mnist_weight_pruning.yaml --mnist mnist.npz

Two parts, each a grid of runs of which none is made twice: the scores of the weights of conv1 along a training (figures
2.1 to 2.6), and the schedule of table 2.2 (figures 2.8 to 2.11).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from support import weight_pruning
from support.settings import read_settings, save_settings

from tfprune import experiments, plots

PARTS = ("scores", "schedule")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the example.

    Attributes:
        mnist: npz file of MNIST; scikit-learn's digits without one.
        parts: Which parts to run: scores, schedule.
        seed: Seed of weights, samples and shuffling.
        activations: Activations of the scores.
        score_epochs: Epochs of the trainings that scores are compared along.
        epochs: Epochs of the schedule.
        every: Steps between two measurements of the scores.
        samples: Images that the scores look at.
        output: Folder of records and pictures.
        num_workers: Processes at once.
    """

    mnist: str | None = None
    parts: list[str] = dataclasses.field(default_factory=lambda: list(PARTS))
    seed: int = 0
    activations: list[str] = dataclasses.field(default_factory=lambda: ["relu"])
    score_epochs: int = 20
    epochs: int = 60
    every: int = 90
    samples: int = 1000
    output: str = "output/mnist_weight_pruning"
    num_workers: int = 1

    def __post_init__(self):
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise ValueError(f"parts: expected some of {', '.join(PARTS)}; received {unknown[0]!r}.")


def main(arguments: list[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = Path(settings.output)
    save_settings(settings, folder)
    console = Console(width=120)
    for part in settings.parts:
        {"scores": study_scores, "schedule": study_schedule}[part](settings, folder, console)
    console.print(f"Records and figures are in {folder}.")


def run_grid(function, grid, settings: Settings, folder: Path, **fixed) -> experiments.GridResults:
    fixed |= {"mnist": settings.mnist}
    return experiments.grid(function, grid, folder=folder, fixed=fixed, num_workers=settings.num_workers)


# Scores ---------------------------------------------------------------------------------------------------------------


def study_scores(settings: Settings, folder: Path, console: Console) -> None:
    """Figures 2.1 to 2.6."""
    fixed = {"every": settings.every, "samples": settings.samples, "epochs": settings.score_epochs}
    grid = {"seed": [settings.seed], "activation": settings.activations}
    for run in run_grid(weight_pruning.compare_weight_scores, grid, settings, folder / "scores", **fixed):
        activation = run.settings["activation"]
        console.print(score_table(activation, run.result))
        draw_negative(activation, run.result, folder)
        draw_changes(activation, run.result, folder)
        draw_rankings(activation, run.result, folder)


def score_table(activation: str, result) -> Table:
    """Shares of negative scores, and mean changes of the loss."""
    fractions = [f"loss change, {fraction:.0%} zeroed" for fraction in weight_pruning.FRACTIONS]
    title = f"Weights of conv1, {activation}, means over the training (test accuracy {result['test_accuracy']:.4f})"
    table = Table("score", "below zero (thesis: about 35 %)", *fractions, title=title)
    names = [name for name in weight_pruning.RAW if name != "random"]
    negative = dict(zip(names, result["negative"].mean(0), strict=True))
    for kind, scores in (("raw", weight_pruning.RAW), ("absolute", weight_pruning.ABSOLUTE)):
        for column, name in enumerate(scores):
            if kind == "absolute" and name == "random":
                continue
            share = f"{negative[name]:.0%}" if kind == "raw" and name in negative else ""
            table.add_row(name, share, *(f"{value:+.4f}" for value in result[kind][:, :, column].mean(0)))
    return table


def draw_negative(activation: str, result, folder: Path) -> None:
    names = [name for name in weight_pruning.RAW if name != "random"]
    lines = {name: (result["steps"], result["negative"][:, k]) for k, name in enumerate(names)}
    figure = plots.line_panels(
        {f"conv1, {activation}": lines},
        title="Weights whose removal should lower the loss",
        x_label="training step",
        y_label="share of scores below zero",
    )
    plots.save_figure(figure, folder / f"negative_{activation}.png")


def draw_changes(activation: str, result, folder: Path) -> None:
    for kind, scores in (("raw", weight_pruning.RAW), ("absolute", weight_pruning.ABSOLUTE)):
        panels = {
            f"{fraction:.0%} of the weights zeroed": {
                name: (result["steps"], result[kind][:, row, column]) for column, name in enumerate(scores)
            }
            for row, fraction in enumerate(weight_pruning.FRACTIONS)
        }
        figure = plots.line_panels(
            panels,
            title=f"Weights of conv1 set to zero along a training, chosen by {kind} scores ({activation})",
            x_label="training step",
            y_label="change of the loss",
            linear_within=1e-3,
        )
        plots.save_figure(figure, folder / f"changes_{kind}_{activation}.png")


def draw_rankings(activation: str, result, folder: Path) -> None:
    for kind, scores in (("raw", weight_pruning.RAW), ("absolute", weight_pruning.ABSOLUTE)):
        maps = {name: result[f"ranking_{kind}_{name}"] for name in scores if name != "random"}
        figure = plots.kernel_maps(
            {activation: maps},
            title=f"Order of the weights of conv1 by {kind} scores, at the end of the training",
            label="place in the order, 1 = kept longest",
            count_units=False,
        )
        plots.save_figure(figure, folder / f"rankings_{kind}_{activation}.png")


# Schedule -------------------------------------------------------------------------------------------------------------


def study_schedule(settings: Settings, folder: Path, console: Console) -> None:
    """Table 2.2 and figures 2.8 to 2.11."""
    grid = {"seed": [settings.seed], "pruned": [True, False]}
    options = {"epochs": settings.epochs}
    runs = run_grid(weight_pruning.prune_weights_by_schedule, grid, settings, folder / "schedule", **options)
    (pruned,), (whole,) = (runs.where(pruned=own) for own in (True, False))
    table = Table("", "weights that are not zero", "test accuracy", "test loss", title="The schedule of table 2.2")
    for name, run in (("all weights", whole), ("pruned by magnitude", pruned)):
        result = run.result
        cells = f"{result['nonzero']:.0%}", f"{result['test_accuracy']:.4f}", f"{result['test_loss']:.4f}"
        table.add_row(name, *cells)
    console.print(table)
    console.print(share_table(pruned.result))
    lines = {
        name: (run.result["steps"], run.result["losses"]) for name, run in (("all weights", whole), ("pruned", pruned))
    }
    figure = plots.line_panels(
        {"SGD, rate 0.01": lines},
        title="Training loss with weights pruned by magnitude along the way",
        x_label="training step",
        y_label="training loss, mean since the epoch began",
        marks=[(step, f"{sparsity:.0%} off") for step, sparsity in pruned.result["pruning_steps"]],
    )
    plots.save_figure(figure, folder / "schedule.png")
    kernels = {
        name: {key[7:]: value for key, value in run.result.items() if key.startswith("kernel_")}
        for name, run in (("all weights", whole), ("pruned", pruned))
    }
    figure = plots.kernel_maps(kernels, title="Kernels after the training, same seed")
    plots.save_figure(figure, folder / "kernels.png")
    plots.save_figure(shares_figure(pruned.result, whole.result), folder / "units_removed.png")


def share_table(result) -> Table:
    title = "Units cut out that have at most the share f_nz of their incoming or outgoing weights left"
    table = Table("f_nz", "parameters", "accuracy, just cut", "accuracy, means passed on", title=title)
    columns = (result[name] for name in ("shares", "parameters_left", "accuracy_zero", "accuracy_mean"))
    for share, parameters, zero, mean in zip(*columns, strict=True):
        table.add_row(f"{share:.2f}", f"{int(parameters):,}", f"{zero:.4f}", f"{mean:.4f}")
    return table


def shares_figure(result, whole) -> Figure:
    """Figure 2.11: parameters and accuracy against f_nz."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    x = result["shares"]
    left.plot(x, result["parameters_left"], "o-", color="tab:blue", label="parameters (left)")
    left.axhline(whole["parameters"], color="tab:blue", linestyle="--", linewidth=1, label="parameters before (left)")
    right.plot(x, result["accuracy_zero"], "s--", color="tab:red", label="accuracy, just cut (right)")
    right.plot(x, result["accuracy_mean"], "s-", color="tab:orange", label="accuracy, means passed on (right)")
    left.set_xlabel("f_nz: units with at most this share of incoming or outgoing weights left are cut out")
    left.set_ylabel("parameters")
    left.set_ylim(0, None)
    right.set_ylabel("accuracy on the test data")
    right.set_ylim(0, 1.02)
    figure.suptitle("Units that pruning of single weights has emptied")
    handles = [own for axes in (left, right) for own in axes.get_lines()]
    figure.legend(handles, [str(own.get_label()) for own in handles], loc="outside lower center", ncol=2, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
