"""The study of distinctiveness: nets A, B and C on small tables, pruned by angles, beside the source's figures.

    python examples/distinctiveness.py                                        # nets A and B, generated table, minutes
    python examples/distinctiveness.py --config examples/settings/distinctiveness.yaml       # everything, hours
    python examples/distinctiveness.py --tables [own.csv] --target Accuracy --drop [Subject]

The source's data are not public. Every run is stored and none is made twice.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from support import distinctiveness_study as runs
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.plots import accuracy_against_threshold, angle_histograms, angle_maps, save_figure

SOURCE = {"A": "98.46 % test, 2 pairs", "B": "97.16 % train", "C": "85.97 % train, 79.10 % test, 4 pairs"}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of the example.

    Attributes:
        nets: Some of A, B, C.
        tables: Tables by name (generated, breast_cancer, wine) or path of a CSV or XLSX file.
        target: Name of the column that holds the class, for files.
        drop: Names of columns that are left out, for files.
        seeds: One training for each.
        epochs: Share of the source's epochs.
        sweep: Whether to try all thresholds from 0 to 60 degrees.
        output: Folder of records and pictures.
        num_workers: Processes at once.
    """

    nets: list[str] = dataclasses.field(default_factory=lambda: ["A", "B"])
    tables: list[str] = dataclasses.field(default_factory=lambda: ["generated"])
    target: str | None = None
    drop: list[str] = dataclasses.field(default_factory=list)
    seeds: list[int] = dataclasses.field(default_factory=lambda: list(range(10)))
    epochs: float = 1.0
    sweep: bool = True
    output: str = "output/distinctiveness"
    num_workers: int = 1

    def __post_init__(self):
        if unknown := [net for net in self.nets if net not in runs.NETS]:
            raise ValueError(f"nets: expected some of {', '.join(runs.NETS)}; received {unknown[0]!r}.")
        if not self.epochs > 0:
            raise ValueError(f"epochs: expected a share above 0, received {self.epochs}.")


def main(arguments: list[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = Path(settings.output)
    save_settings(settings, folder)
    console = Console(width=120)
    fixed = {name: getattr(settings, name) for name in ("target", "drop", "epochs", "sweep")}
    grid = {"seed": settings.seeds, "net": settings.nets, "table": settings.tables}
    results = experiments.grid(runs.study, grid, folder=folder / "runs", fixed=fixed, num_workers=settings.num_workers)
    for net in settings.nets:
        for table in settings.tables:
            own = [run.result for run in results.where(net=net, table=table)]
            if own:
                show(net, table, own, console)
                draw(net, Path(table).stem, own, folder, sweep=settings.sweep)
    console.print(f"Records and figures are in {folder}.")


def spread(own: list, key: str, scale: float = 1.0, digits: int = 1) -> str:
    values = np.array([result[key] for result in own]) * scale
    return f"{values.mean():.{digits}f} ± {values.std():.{digits}f}"


def show(net: str, table: str, own: list, console: Console) -> None:
    whole = ("whole/accuracy", "whole/train", "whole/majority")
    test, train, majority = (spread(own, key, 100) for key in whole)
    console.print(f"\n[bold]Net {net}, {table}[/]: test {test} %, train {train} %, majority class {majority} %")
    console.print(f"source, on its own data: {SOURCE[net]}; {len(own)} seeds, mean and standard deviation")
    rows = Table("layers", "vectors", "transfer", "test %", "units gone", "similar", "compl.", "parameters")
    rows.add_row("", "", "whole net", test, "", "", "", spread(own, "whole/parameters", digits=0))
    for scope in ("published", "all"):
        for vectors in runs.VECTORS:
            for transfer in runs.TRANSFERS:
                name = f"pruned/{scope}/{vectors}/{transfer}"
                counts = [spread(own, f"{name}/{key}") for key in ("removed", "similar", "complementary")]
                parameters = spread(own, f"{name}/parameters", digits=0)
                rows.add_row(scope, vectors, transfer, spread(own, f"{name}/accuracy", 100), *counts, parameters)
        refitted = [
            spread(own, f"refitted/{scope}/{key}", s, d) for key, s, d in (("accuracy", 100, 1), ("parameters", 1, 0))
        ]
        rows.add_row(scope, "activations", "least squares", refitted[0], "", "", "", refitted[1])
    console.print(rows)
    others = Table(
        "chosen by", *(f"{repair}, test %" for repair in runs.REPAIRS), title="As many units of each layer gone"
    )
    for score in runs.SCORES:
        others.add_row(score, *(spread(own, f"others/{score}/{repair}", 100) for repair in runs.REPAIRS))
    console.print(others)
    for title, key in (
        ("before", "whole/confusion"),
        ("after, as published", "pruned/published/activations/gedeon/confusion"),
    ):
        console.print(f"confusion matrix {title} (seed 0): {np.array(own[0][key]).tolist()}")


def draw(net: str, table: str, own: list, folder: Path, *, sweep: bool) -> None:
    names = [key.removeprefix("angles/") for key in own[0] if key.startswith("angles/")]
    first = {name: own[0][f"angles/{name}"] for name in names}
    every = {name: np.stack([result[f"angles/{name}"] for result in own]) for name in names}
    where = f"net {net}, {table}"
    save_figure(angle_maps(first, title=f"Angles between units: {where}, seed 0"), folder / f"angles_{net}_{table}.png")
    histogram = angle_histograms(every, title=f"How far apart units are: {where}, {len(own)} seeds")
    save_figure(histogram, folder / f"histogram_{net}_{table}.png")
    if sweep:
        curves = {name: [result["sweep"][k] for result in own] for k, name in enumerate(runs.TRANSFERS)}
        heights = {"whole net": "whole/accuracy", "majority class": "whole/majority"}
        lines = {name: float(np.mean([result[key] for result in own])) for name, key in heights.items()}
        title = f"Net {net}, {table}"
        figure = accuracy_against_threshold(
            {f"all layers, {len(own)} seeds": curves},
            runs.THRESHOLDS,
            baselines={f"all layers, {len(own)} seeds": lines},
            title=title,
        )
        save_figure(figure, folder / f"thresholds_{net}_{table}.png")


if __name__ == "__main__":
    main()
