"""Train first or prune first? Four nets of one initialisation on two spirals, and a bound on what a unit can cost.

    python examples/spiral_train_vs_prune.py                                        # three seeds, minutes
    python examples/spiral_train_vs_prune.py --config examples/settings/spiral.yaml # ten seeds

A net with two hidden layers is trained, then half of its nodes are cut; or the same nodes are cut from the same initial
weights, and the smaller net is trained. Do both ways end at the same net? Every run is stored and none is made twice.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from support import spiral_study as runs
from support.settings import read_settings, save_settings
from tqdm import tqdm

from tfprune import experiments, plots

NAMES = {
    "whole": "trained, all nodes",
    "pruned": "trained, then pruned",
    "refitted": "the same, least squares",
    "tuned": "trained, pruned, trained on",
    "pruned first": "pruned, then trained",
}
RESOLUTION = 121


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the example.

    Attributes:
        seeds: One initialisation for each; pictures of single nets are of the first.
        units: Nodes of each of the two hidden layers.
        num_points: Points to learn; tests are made on 4000 others.
        turns: How often each arm winds around the middle: how hard the task is.
        steps: Steps of Adam with 100 points each, from the start.
        tuning_steps: Steps of training on after a cut.
        learning_rate: Of Adam.
        fractions: Shares of the nodes of both layers that go.
        animations: Whether to write the trainings as GIFs.
        output: Folder of records and pictures.
        num_workers: Processes at once.
    """

    seeds: list[int] = dataclasses.field(default_factory=lambda: [0, 1, 2])
    units: int = 50
    num_points: int = 1000
    turns: float = 1.5
    steps: int = 1000
    tuning_steps: int = 500
    learning_rate: float = 0.01
    fractions: list[float] = dataclasses.field(default_factory=lambda: [0.1, 0.3, 0.5, 0.7, 0.9])
    animations: bool = True
    output: str = "output/spiral"
    num_workers: int = 1

    def __post_init__(self):
        if not self.fractions or not all(0 < fraction < 1 for fraction in self.fractions):
            raise ValueError(f"fractions: expected shares between 0 and 1, received {self.fractions}.")
        if not self.seeds:
            raise ValueError("seeds: expected at least one, received none.")
        for name in ("units", "num_points", "steps", "tuning_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, received {getattr(self, name)}.")
        for name in ("turns", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, received {getattr(self, name)}.")


def main(arguments: list[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = Path(settings.output)
    save_settings(settings, folder)
    console = Console(width=120)
    names = ("units", "num_points", "turns", "steps", "tuning_steps", "learning_rate")
    fixed = {name: getattr(settings, name) for name in names}
    options = {"num_workers": settings.num_workers}
    studies = experiments.grid(
        runs.study,
        {"seed": settings.seeds},
        folder=folder / "runs",
        fixed={**fixed, "fractions": settings.fractions},
        **options,
    )
    results = [run.result for run in studies]
    for place, method in enumerate(runs.METHODS):
        console.print(accuracy_table(settings, results, place, method))
    console.print(likeness_table(settings, results))
    console.print(bound_table(results))
    draw_curves(settings, results, folder)
    draw_bounds(results, folder)
    portraits = experiments.grid(
        runs.portrait,
        {
            "seed": settings.seeds[:1],
            "method": list(runs.METHODS),
            "fraction": [runs.nearest_to_half(settings.fractions)],
        },
        folder=folder / "portraits",
        fixed={**fixed, "resolution": RESOLUTION},
        **options,
    )
    for run in portraits:
        draw_portrait(settings, run, folder)
    console.print(f"Records and pictures are in {folder}.")


# Tables ---------------------------------------------------------------------------------------------------------------


def spread(values: np.ndarray) -> str:
    """Mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def accuracy_table(settings: Settings, results: list, place: int, method: str) -> Table:
    whole = np.array([result["whole"][0] for result in results])
    title = f"Accuracy on test points, nodes chosen by: {method}; {len(results)} seeds. All nodes: {spread(whole)}"
    table = Table("nodes gone", *(NAMES[name] for name in runs.NETS), title=title)
    measures = np.stack([result["measures"][place, ..., 0] for result in results])
    for number, fraction in enumerate(settings.fractions):
        table.add_row(f"{fraction:.0%}", *(spread(measures[:, number, net]) for net in range(len(runs.NETS))))
    return table


def likeness_table(settings: Settings, results: list) -> Table:
    """How alike the nets are at the fraction nearest to half."""
    fraction = runs.nearest_to_half(settings.fractions)
    half = settings.fractions.index(fraction)
    table = Table("", *runs.METHODS, title=f"How alike are the nets with {fraction:.0%} of the nodes gone?")

    def add(label: str, name: str, *place: int) -> None:
        values = np.stack([result[name] for result in results])
        table.add_row(label, *(spread(values[(slice(None), m, half, *place)]) for m in range(len(runs.METHODS))))

    for net in ("tuned", "pruned first"):
        add(f"weights that never moved: {NAMES[net]}", "unmoved", runs.NETS.index(net))
    moves = np.stack([result["moves"] for result in results])
    rows = [" / ".join(f"{value:.2f}" for value in moves[:, m].mean(0)) for m in range(len(runs.METHODS))]
    table.add_row("how far the others moved, quartiles (pruned, then trained; source: about .59)", *rows)
    table.add_section()
    for number, (first, second) in enumerate(runs.PAIRS):
        pair = f"{NAMES[first]} ~ {NAMES[second]}"
        add(f"{pair}: correlation of kernels", "correlations", number)
        for layer, name in enumerate(runs.HIDDEN):
            for own, role in enumerate(runs.ROLES):
                add(f"    roles in {name}, {role}", "roles", number, layer, own)
    return table


def bound_table(results: list) -> Table:
    title = "Cost of single nodes against the bound K s (K = product of the norms of the later kernels)"
    table = Table(
        "net", "nodes", "above the bound", "cost / bound, median", "largest", "the same, own weights", title=title
    )
    nets = ["whole", *(runs.bound_name(net, method) for method in runs.METHODS for net in runs.BOUNDED)]
    for name in nets:
        change, penalty, bound, own = (
            gather(results, name, what) for what in ("change", "penalty", "bound", "own_bound")
        )
        alive = bound > 0
        ratio, tighter = (
            np.abs(change[alive]) / bound[alive],
            penalty[alive] / np.maximum(own[alive], np.finfo(float).tiny),
        )
        # Rounding of float32 losses is no violation.
        above = int(((np.abs(change) > bound + 1e-6) | (penalty > own + 1e-6)).sum())
        cells = f"{np.median(ratio):.1e}", f"{ratio.max():.3f}", f"{tighter.max():.3f}"
        table.add_row(name, f"{len(bound)}", f"{above}", *cells)
    return table


def gather(results: list, net: str, what: str) -> np.ndarray:
    """The numbers of all nodes of all seeds."""
    return np.concatenate([result[f"bounds/{net}/{what}"] for result in results])


# Pictures -------------------------------------------------------------------------------------------------------------


def draw_curves(settings: Settings, results: list, folder: Path) -> None:
    for column, name, label in (
        (0, "accuracy", "accuracy on test points"),
        (1, "loss", "cross-entropy on test points"),
    ):
        panels = {}
        for place, method in enumerate(runs.METHODS):
            whole = np.array([[result["whole"][column]] * len(settings.fractions) for result in results])
            lines = {NAMES["whole"]: (settings.fractions, whole)}
            for net, kind in enumerate(runs.NETS):
                values = np.stack([result["measures"][place, :, net, column] for result in results])
                lines[NAMES[kind]] = (settings.fractions, values)
            panels[f"nodes chosen by: {method}"] = lines
        figure = plots.line_panels(
            panels,
            title=f"Two spirals: median of {len(results)} seeds, bands from the smallest to the largest",
            x_label="share of the nodes of both hidden layers that are gone",
            y_label=label,
            shared_y=True,
            linear_within=0.1 if column else None,
        )
        plots.save_figure(figure, folder / f"{name}.png")


def draw_bounds(results: list, folder: Path) -> None:
    panels: dict[str, dict] = {"K from whole kernels": {}, "first norm: the node's own outgoing weights": {}}
    nets = {"whole": "whole"} | {net: runs.bound_name(net, runs.METHODS[0]) for net in runs.BOUNDED}
    for net, name in nets.items():
        change = np.abs(gather(results, name, "change"))
        for panel, bound in zip(panels, ("bound", "own_bound"), strict=True):
            panels[panel][NAMES[net]] = (gather(results, name, bound), change)
    figure = plots.bound_scatter(
        panels,
        title="What replacing a node by its mean changes, and how much it can change at most: no point above the line",
        y_label="change of the mean loss (magnitude)",
    )
    plots.save_figure(figure, folder / "bound.png")


def draw_portrait(settings: Settings, run: experiments.Run, folder: Path) -> None:
    method, fraction, result = run.settings["method"], run.settings["fraction"], run.result
    name, (x, y) = method.replace(" ", "_"), runs.load_data(settings.num_points, settings.turns)[0]
    labels = y[:, 0].astype(int)
    maps = {f"{text}\n{result[f'accuracy/{net}']:.1%} right": result[f"map/{net}"] for net, text in NAMES.items()}
    title = f"What the nets decide; {fraction:.0%} of the nodes gone, chosen by: {method}"
    figure = plots.decision_maps(maps, x, labels, limit=runs.LIMIT, title=title)
    plots.save_figure(figure, folder / f"decisions_{name}.png")
    pairs = {(NAMES[a], NAMES[b]): (result[f"kernel/{a}"], result[f"kernel/{b}"]) for a, b in runs.PAIRS}
    title = f"Weights between the hidden layers of two nets; {fraction:.0%} of the nodes gone, chosen by: {method}"
    figure = plots.kernel_scatter(pairs, result["kernel/initial"], title=title)
    plots.save_figure(figure, folder / f"kernels_{name}.png")
    if settings.animations:
        for net in ("whole", "tuned", "pruned first"):
            if net != "whole" or method == runs.METHODS[0]:
                animate(
                    result[f"frames/{net}"], x, labels, net, folder / f"training_{name}_{net.replace(' ', '_')}.gif"
                )


def animate(maps: np.ndarray, x: np.ndarray, labels: np.ndarray, net: str, path: Path) -> None:
    titles = [f"{NAMES[net]}: step {number * runs.STEPS_AT_ONCE}" for number in range(len(maps))]
    pictures = plots.decision_frames(maps, x, labels, limit=runs.LIMIT, titles=titles)
    plots.save_animation(tqdm(pictures, desc=path.name, total=len(maps), leave=False), path)


if __name__ == "__main__":
    main()
