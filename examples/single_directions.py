"""What single units are worth in nets that learn and in nets that memorise (Morcos 2018).

    python examples/single_directions.py [--workers 2]                                  # the digits, some minutes
    python examples/single_directions.py --config examples/settings/single_directions.yaml --mnist mnist.npz
    python examples/single_directions.py --config examples/settings/single_directions.yaml --cifar cifar10.npz

Dense and convolutional nets, with and without batch norm, are trained until they fit their training data, of which no,
half or all labels are randomised. Then units are erased, one alone and all of them in random order or along their class
selectivity, replaced by zero or by their mean. Three questions are answered beside what the paper says: do nets that
memorise lose more, does batch norm make single units matter less, and is selectivity a sign of importance?

Each net has a folder of its own; a second start goes on where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from support import single_directions_report as report
from support.settings import read_settings, save_settings
from support.single_directions import NetKind, NormKind, study

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained and measured. The data are scikit-learn's digits unless a file is given.

    Attributes:
        nets: Two dense layers of 128 units, three convolutions of up to 32 maps (64 for larger images), or both.
        norms: Without batch norm, with it, or both.
        shares: Shares of the labels that are randomised.
        seeds: One training of each net for each.
        epochs: The most epochs of a training.
        fit_loss: A training ends when the loss on the training data is as low as this, in nats.
        batch_size: Images of a step.
        learning_rate: Of Adam.
        steps: In how many steps all units are erased.
        repeats: Random orders for each net.
        num_train: How many of the training images are learnt; null for all.
        num_points: On how many of these units are measured; null for all.
        mnist: File of MNIST.
        cifar: File of CIFAR-10.
        output: Where everything goes; output/single_directions_ and the name of the data by default.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
    """

    nets: tuple[NetKind, ...] = ("dense", "conv")
    norms: tuple[NormKind, ...] = ("plain", "batch_norm")
    shares: tuple[float, ...] = (0.0, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 150
    fit_loss: float = 0.05
    batch_size: int = 64
    learning_rate: float = 0.005
    steps: int = 12
    repeats: int = 3
    num_train: int | None = 800
    num_points: int | None = None
    mnist: Path | None = None
    cifar: Path | None = None
    output: Path | None = None
    workers: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "steps", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        for name in ("nets", "norms", "shares", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"expected {name} that are given once each, received {values}")
        if not all(0.0 <= share <= 1.0 for share in self.shares):
            raise ValueError(f"expected shares from 0 to 1, received {self.shares}")
        if not self.fit_loss > 0.0 or not self.learning_rate > 0.0:
            raise ValueError("expected fit_loss and learning_rate above 0")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")
        if self.mnist and self.cifar:
            raise ValueError("expected a file of MNIST or one of CIFAR-10, received both")

    @property
    def data(self) -> str:
        """Name of the data set."""
        return "mnist" if self.mnist else "cifar" if self.cifar else "digits"


def train_all(settings: Settings, folder: Path) -> experiments.GridResults:
    """Makes what trainings are missing."""
    names = ("epochs", "fit_loss", "batch_size", "learning_rate", "steps", "repeats", "num_train", "num_points")
    fixed = {name: getattr(settings, name) for name in (*names, "data")}
    path = settings.mnist or settings.cifar
    fixed["path"] = None if path is None else str(path.resolve())
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    with in_process as executor:
        return experiments.grid(
            study,
            {"net": settings.nets, "norm": settings.norms, "share": settings.shares, "seed": settings.seeds},
            executor,
            folder=folder / "nets",
            fixed=fixed,
            pass_folder=True,
            num_workers=settings.workers or None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    folder = check_writable_folder(settings.output or Path("output") / f"single_directions_{settings.data}")
    save_settings(settings, folder)
    nets = report.trained(train_all(settings, folder))
    console = Console(width=150)
    rows = report.rows(nets)
    answers = report.answers(nets)
    console.print(report.table(rows, settings.data))
    console.print(report.answer_table(answers))
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps({"nets": rows, "answers": answers}, indent=1) + "\n")
    report.draw(nets, settings.data, folder)
    console.print(f"Records, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
