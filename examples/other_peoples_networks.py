"""Rank the units of a layer inside MobileNetV2 and inside a transformer block, and erase them along the rankings.

    python examples/other_peoples_networks.py [--nets [transformer]] [--output FOLDER]
    python examples/other_peoples_networks.py --config examples/settings/other_peoples_networks.yaml --cifar cifar10.npz

Neither network was made for this package: MobileNetV2 comes from keras.applications as it is, the block is
keras.layers.MultiHeadAttention and two dense layers over the rows of an image. Each is trained twice, so that rankings
across models (which units does another training find again?) have a partner; they stand beside two saliencies. Then
the units of one layer are erased by masks, and cut out with each repair. By default both learn scikit-learn's digits.

``--weights imagenet``, or a file of weights without the head, starts MobileNetV2 from trained weights. Both trainings
begin at the same place then and share most of their units, which makes rankings across them easier than they are.

A second start goes on where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from support.other_networks import DIRECTIONS, NETWORKS, RANKINGS, SALIENCIES, NetName, cut, measure, train
from support.other_networks_report import (
    agreement_table,
    area_table,
    cut_table,
    draw,
    summary,
    training_table,
)
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, ranked and erased.

    Attributes:
        nets: Which networks.
        seeds: Trainings of each network, at least two.
        mobilenet_epochs: Length of the trainings of MobileNetV2.
        transformer_epochs: Length of the trainings of the transformer block.
        mobilenet_layer: The group of units of MobileNetV2 that is looked at.
        batch_size: Images of a step.
        weights: What MobileNetV2 starts from: imagenet, a file of weights without the head, or nothing.
        replacement: What stands in for an erased unit.
        steps: In how many steps all units of the layer are erased.
        repeats: Number of random orders.
        repairs: How the layers behind are repaired after a cut. least_squares refits all of them.
        shares: Shares of the units that are cut out.
        num_cut: How many trainings of each network are cut: a smaller model is made for each share and repair.
        num_training: Training images at most.
        num_test: Test images at most.
        cifar: File of CIFAR-10; without it, the networks learn scikit-learn's digits.
        output: Where everything goes; output/other_networks or output/other_networks_digits by default.
    """

    nets: tuple[NetName, ...] = ("mobilenet", "transformer")
    seeds: tuple[int, ...] = (0, 1)
    mobilenet_epochs: int = 5
    transformer_epochs: int = 15
    mobilenet_layer: str = NETWORKS["mobilenet"].layer
    batch_size: int = 32
    weights: str | None = None
    replacement: Literal["zero", "mean"] = "zero"
    steps: int = 12
    repeats: int = 3
    repairs: tuple[str, ...] = ("zero", "mean", "affine")
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    num_cut: int = 1
    num_training: int = 10000
    num_test: int = 2000
    cifar: Path | None = None
    output: Path | None = None

    def __post_init__(self):
        if not self.nets or len(set(self.nets)) < len(self.nets):
            raise ValueError(f"expected each network once, received {self.nets}")
        if len(set(self.seeds)) < 2 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"expected two or more different seeds, received {self.seeds}")
        names = ("mobilenet_epochs", "transformer_epochs", "batch_size", "steps", "repeats", "num_cut")
        for name in (*names, "num_training", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        if self.num_cut > len(self.seeds):
            raise ValueError(f"expected num_cut of at most {len(self.seeds)}, received {self.num_cut}")

    @property
    def rankings(self) -> list[str]:
        """Names of all rankings; of two models the weakest partner is the strongest one."""
        across = [name for name in RANKINGS if name != "min_correlation" or len(self.seeds) > 2]
        return [*SALIENCIES, *across, DIRECTIONS]

    @property
    def data(self) -> dict[str, Any]:
        """What every run needs to load its images."""
        cifar = None if self.cifar is None else str(self.cifar.resolve())
        return {"cifar": cifar, "num_training": self.num_training, "num_test": self.num_test}

    def layer(self, net: NetName) -> str:
        """The group of units that is looked at."""
        return self.mobilenet_layer if net == "mobilenet" else NETWORKS[net].layer

    def training_points(self) -> list[dict[str, list]]:
        """One training of each network and seed."""
        return [
            {"net": [net], "seed": list(self.seeds), "epochs": [getattr(self, f"{net}_epochs")]} for net in self.nets
        ]

    def points(self, rankings: Sequence[str], seeds: Sequence[int]) -> list[dict[str, list]]:
        """Every ranking of every training."""
        return [
            {"net": [net], "seed": list(seeds), "ranking": list(rankings), "layer": [self.layer(net)]}
            for net in self.nets
        ]


def run_all(settings: Settings, folder: Path) -> tuple[experiments.GridResults, ...]:
    """Makes what trainings, curves of masks and cuts are missing."""
    shared = {"seeds": list(settings.seeds), **settings.data}
    start = {"batch_size": settings.batch_size, "weights": settings.weights, **settings.data}
    masks = {name: getattr(settings, name) for name in ("replacement", "steps", "repeats")}
    cuts = {"repairs": list(settings.repairs), "shares": list(settings.shares)}
    # One thread of this process: runs of one network share its models and activations.
    with concurrent.futures.ThreadPoolExecutor(1) as executor:

        def grid(function: Callable, points: list, name: str, fixed: dict) -> experiments.GridResults:
            results = experiments.grid(function, points, executor, folder=folder / name, fixed=fixed, pass_folder=True)
            if results.failures:
                # What comes next needs all of them.
                raise SystemExit(results.report())
            return results

        trainings = grid(train, settings.training_points(), "trainings", start)
        curves = grid(measure, settings.points(settings.rankings, settings.seeds), "curves", {**shared, **masks})
        by = settings.points(["mean_replacement"], settings.seeds[: settings.num_cut])
        return trainings, curves, grid(cut, by, "cuts", {**shared, **cuts})


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    name = "other_networks" if settings.cifar else "other_networks_digits"
    folder = check_writable_folder(settings.output or Path("output") / name)
    save_settings(settings, folder)
    data = "CIFAR-10" if settings.cifar else "scikit-learn's digits"
    trainings, curves, cuts = run_all(settings, folder)
    console = Console(width=140)
    console.print(training_table(trainings, data))
    console.print(area_table(curves))
    for net in settings.nets:
        console.print(agreement_table(curves, net))
    console.print(cut_table(cuts))
    draw(curves, cuts, folder, data)
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(summary(trainings, curves, cuts), indent=1) + "\n")
    console.print(f"Records, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
