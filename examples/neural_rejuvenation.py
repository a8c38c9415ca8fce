"""Use the whole of a network: network slimming (Liu 2017) and neural rejuvenation (Qiao 2019) at equal epochs.

    python examples/neural_rejuvenation.py [--quick true] [--workers 2]
    python examples/neural_rejuvenation.py --config examples/settings/neural_rejuvenation.yaml --path cifar10.npz

A small VGG and a small residual net are trained with an L1 penalty on the scales of their batch norms. Slimming then
cuts the units with the smallest scales, with each of three repairs, and trains what is left; rejuvenation replaces dead
units by new ones as soon as too little of the net is used, and connects old and new ones in three ways. All have the
same number of epochs. Without ``--path`` the nets learn scikit-learn's digits. Each training lies in a folder of its
own; a second start goes on where the first ended. ``--help`` lists all settings.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from support.rejuvenation_report import collected, draw_errors, draw_utilisation, summary, table
from support.rejuvenation_study import NETS, WAYS, NetKind, train
from support.settings import read_settings, save_settings

from tfprune import experiments
from tfprune.files import atomic_write, check_writable_folder


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        seeds: Seeds of weights and order of the images, one training of each kind for each.
        nets: Which nets, "vgg" and "residual".
        width: Units of the first layers; the last have four times as many.
        epochs: Epochs of every way in all.
        sparse_epochs: Epochs with the penalty: of slimming just as many, of rejuvenation at most.
        strength: Of the penalty on the scales.
        utilisation: At what share of the parameters in use a net is rejuvenated.
        slimming_sparsity: Share of all units that slimming cuts.
        batch_size: Images of a step.
        learning_rate: Of SGD with momentum at the beginning; it falls to zero by a cosine.
        num_images: Training images that are used, at most.
        num_test: Test images, at most.
        path: File of CIFAR-10; without it, the nets learn scikit-learn's digits.
        output: Where everything goes; output/neural_rejuvenation or output/neural_rejuvenation_digits by default.
        workers: Trainings at the same time, each in a process; 0 makes one after the other in this process.
        quick: One short training of each kind only, a look and not a result.
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    nets: tuple[NetKind, ...] = ("vgg", "residual")
    width: int = 8
    epochs: int = 24
    sparse_epochs: int = 14
    strength: float = 0.004
    utilisation: float = 0.6
    slimming_sparsity: float = 0.4
    batch_size: int = 32
    learning_rate: float = 0.05
    num_images: int = 10000
    num_test: int = 10000
    path: Path | None = None
    output: Path | None = None
    workers: int = 0
    quick: bool = False

    def __post_init__(self):
        for name in ("width", "epochs", "sparse_epochs", "batch_size", "num_images", "num_test"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, received {getattr(self, name)}")
        if self.sparse_epochs > self.epochs:
            raise ValueError(f"expected sparse_epochs of at most epochs, {self.epochs}, received {self.sparse_epochs}")
        if self.workers < 0:
            raise ValueError(f"expected workers of at least 0, received {self.workers}")
        if not self.seeds or not set(self.nets) <= set(NETS) or not self.nets:
            raise ValueError(f"expected seeds, and nets of {', '.join(NETS)}, received {self.seeds} and {self.nets}")

    def shortened(self) -> Settings:
        """One seed, the VGG, six epochs."""
        return dataclasses.replace(
            self, seeds=self.seeds[:1], nets=self.nets[:1], epochs=6, sparse_epochs=4, strength=0.02, num_images=1500
        )


OPTIONS = (
    *("width", "epochs", "sparse_epochs", "strength", "utilisation", "slimming_sparsity"),
    *("batch_size", "learning_rate", "num_images", "num_test"),
)


def train_all(settings: Settings, folder: Path) -> experiments.GridResults:
    """Makes what trainings are missing."""
    fixed = {name: getattr(settings, name) for name in OPTIONS}
    fixed["path"] = None if settings.path is None else str(settings.path.resolve())
    in_process = concurrent.futures.ThreadPoolExecutor(1) if settings.workers == 0 else contextlib.nullcontext()
    with in_process as executor:
        return experiments.grid(
            train,
            {"net": list(settings.nets), "seed": list(settings.seeds), "way": list(WAYS)},
            executor,
            folder=folder / "trainings",
            fixed=fixed,
            num_workers=settings.workers or None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    settings = read_settings(Settings, arguments, description=__doc__.split("\n")[0])
    if settings.quick:
        settings = settings.shortened()
    name = "neural_rejuvenation" if settings.path else "neural_rejuvenation_digits"
    folder = check_writable_folder(settings.output or Path("output") / name)
    save_settings(settings, folder)
    found = collected(train_all(settings, folder))
    console = Console(width=150)
    for net, seeds in found.items():
        console.print(table(net, seeds))
    draw_utilisation(found, folder / "utilisation.png")
    draw_errors(found, folder / "errors.png")
    with atomic_write(folder / "results.json") as temporary:
        temporary.write_text(json.dumps(summary(found), indent=1) + "\n")
    console.print(f"Trainings, settings and pictures are in {folder}.")


if __name__ == "__main__":
    main()
