"""Kill units by a learning rate that is far too high for a moment, and watch them (Evci 2018, chapter 3).

    python examples/dead_units.py [--quick true] [--workers 2]
    python examples/dead_units.py --config examples/settings/dead_units.yaml --cifar cifar10.npz

A small convolutional net is trained by plain SGD. At some steps the gradient of the incoming weights of a single unit
is multiplied, by 100 or 1000; every so often all units are measured on validation images. Without ``--cifar`` the net
learns scikit-learn's digits in some three minutes. Each training lies in a folder of its own; a second start goes on
where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from support.dead_units import Attacks, NetKind, split_unit, train
from support.dead_units_report import Trainings, accuracy_table, attack_table, correlation_table, draw, summary
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder

DIGITS_ATTACKS = (
    Attacks(
        "relu_norm_units",
        "relu_norm",
        units=("conv1/0", "conv1/4", "conv1/2"),
        starts=(50,),
        multipliers=(100.0,),
        title="Units of conv1, relu and batch norm",
        thesis="figure 3.1: conv1/0 loses most of its MRP, conv1/4 does not; the loss curve tells nothing of it",
    ),
    Attacks(
        "tanh_units",
        "tanh",
        units=("conv1/0", "conv1/1"),
        starts=(150,),
        multipliers=(1000.0,),
        title="Units of conv1, tanh",
        thesis="figure 3.5: the MRP of all four attacked units falls to the same low value",
    ),
    Attacks(
        "relu_units",
        "relu",
        units=("conv2/0", "conv2/4"),
        starts=(150,),
        multipliers=(1000.0,),
        title="Units of conv2, relu",
        thesis="figure 3.9: conv2/0 becomes more important, conv2/4 dies: all its outputs are below zero",
    ),
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained, attacked and measured.

    Attributes:
        seed: Seed of weights and order of the images.
        epochs: Length of the trainings with relu.
        tanh_epochs: Length of the trainings with tanh.
        batch_size: Images of a step.
        learning_rate: Of plain SGD, constant.
        count: Number of attacked steps of an attack.
        every: Steps from one measurement of all units to the next.
        num_validation: Images kept back from training for the measurements.
        attacks: Each gives one picture of curves and two of histograms.
        cifar: File of CIFAR-10; without it, the net learns scikit-learn's digits.
        output: Where everything goes; output/dead_units or output/dead_units_digits by default.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
        quick: Two short trainings only, a look and not a result.
    """

    seed: int = 0
    epochs: int = 12
    tanh_epochs: int = 18
    batch_size: int = 32
    learning_rate: float = 0.01
    count: int = 10
    every: int = 25
    num_validation: int = 300
    attacks: tuple[Attacks, ...] = DIGITS_ATTACKS
    cifar: Path | None = None
    output: Path | None = None
    workers: int = 0
    quick: bool = False

    def __post_init__(self):
        for name in ("epochs", "tanh_epochs", "batch_size", "count", "every", "num_validation"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")
        names = [attacks.name for attacks in self.attacks]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected attacks of different names, received {names}")

    def shortened(self) -> Settings:
        """Two trainings of three epochs."""
        first = self.attacks[0]
        few = dataclasses.replace(first, units=first.units[:1], starts=(10,), multipliers=first.multipliers[:1])
        return dataclasses.replace(self, epochs=3, tanh_epochs=3, every=33, num_validation=100, attacks=(few,))

    def plain(self, net: NetKind) -> dict:
        """Settings of the training without an attack."""
        return {"net": net, "seed": self.seed, "epochs": self.tanh_epochs if net == "tanh" else self.epochs}

    def points(self) -> list[dict]:
        """Settings of all trainings, each once: pictures share some."""
        points = [self.plain(net) for net in dict.fromkeys(attacks.net for attacks in self.attacks)]
        for attacks in self.attacks:
            for unit in attacks.units:
                layer, place = split_unit(unit)
                for line in attacks.lines().values():
                    points.append({**self.plain(attacks.net), "layer": layer, "place": place, **line})
        return [point for number, point in enumerate(points) if point not in points[:number]]


def train_all(settings: Settings, folder: Path) -> experiments.GridResults:
    """Makes what trainings are missing."""
    names = ("count", "every", "batch_size", "learning_rate", "num_validation")
    fixed = {name: getattr(settings, name) for name in names}
    fixed["cifar"] = None if settings.cifar is None else str(settings.cifar.resolve())
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    with in_process as executor:
        return experiments.grid(
            train,
            [{name: [value] for name, value in point.items()} for point in settings.points()],
            executor,
            folder=folder / "trainings",
            fixed=fixed,
            pass_folder=True,
            num_workers=settings.workers or None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    if settings.quick:
        settings = settings.shortened()
    name = "dead_units" if settings.cifar else "dead_units_digits"
    folder = check_writable_folder(settings.output or Path("output") / name)
    save_settings(settings, folder)
    trainings = Trainings(train_all(settings, folder), settings.plain, settings.count)
    console = Console(width=150)
    console.print(accuracy_table(trainings, on_cifar=settings.cifar is not None))
    for attacks in settings.attacks:
        console.print(attack_table(trainings, attacks))
        draw(trainings, attacks, folder)
    console.print(correlation_table(trainings))
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(summary(trainings, settings.attacks), indent=1) + "\n")
    console.print(f"Records, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
