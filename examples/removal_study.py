"""Cut units out of trained nets, repair what reads them, and print and draw what accuracy is left.

    python examples/removal_study.py [--quick] [--output FOLDER]
    python examples/removal_study.py --nets-folder output/real_nets --mnist mnist.npz --cifar cifar10.npz

Without a folder of nets, three tiny nets are trained on scikit-learn's digits. With a folder that ``real_nets.py``
filled, every net in it is studied: several trainings of one net give a median and a range. Nothing is trained after the
cut unless ``--train`` says for how many epochs. Results are saved one by one; what is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import real_nets
from rich.console import Console
from support.removal_targets import (
    DIGITS_STUDIES,
    REAL_STUDIES,
    Study,
    accuracy_table,
    target_rows,
    target_table,
)
from support.training_after import training_study, training_table

from tfprune import datasets, experiments, plots
from tfprune.files import atomic_write, check_writable_folder, run_information

NUM_CALIBRATION = 2000
Grids = dict[str, list[experiments.RemovalGrid]]


def digits_net(kind: str, seed: int, epochs: int) -> tuple[keras.Model, real_nets.Data]:
    """A tiny net, trained on the digits: "dense", or with two convolutions, padded ("same") or not ("valid")."""
    keras.utils.set_random_seed(seed)
    data = datasets.digits()
    layers = [keras.Input((8, 8, 1))]
    if kind != "dense":
        layers += [
            keras.layers.Conv2D(units, 3, padding=kind, activation="relu", name=f"conv{number}")
            for number, units in enumerate((16, 32))
        ]
        layers.append(keras.layers.MaxPooling2D(2))
    layers += [keras.layers.Flatten(), keras.layers.Dense(64, activation="relu", name="dense0")]
    if kind == "dense":
        layers.append(keras.layers.Dense(32, activation="relu", name="dense1"))
    layers.append(keras.layers.Dense(10, name="logits"))
    model = real_nets.compile_classifier(keras.Sequential(layers, name=kind), keras.optimizers.Adam(2e-3))
    model.fit(*data[0], epochs=epochs, batch_size=64, verbose=0)
    return model, data


def run_study(
    study: Study, name: str, seed: int, net: tuple[keras.Model, real_nets.Data], folder: Path
) -> experiments.RemovalGrid:
    """All removals of one trained net."""
    model, ((x_train, _), test) = net
    return experiments.removal_grid(
        model,
        test,
        calibration=x_train[:NUM_CALIBRATION],
        saliencies=study.functions(model, seed),
        sparsities=study.sparsities,
        path=folder / f"{name}_{seed}.npz",
    )


def study_digits(folder: Path, *, quick: bool, seed: int) -> Grids:
    """Trains and studies the three nets on the digits."""
    epochs = 20 if quick else 30
    return {
        name: [run_study(study, name, seed, digits_net(name, seed, epochs), folder)]
        for name, study in DIGITS_STUDIES.items()
    }


def load_net(folder: Path, net: str, seed: int) -> keras.Model:
    """One net that ``real_nets.py`` trained, compiled anew: its schedule is spent."""
    with warnings.catch_warnings():
        # The old optimizer is not used.
        warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
        return real_nets.compile_classifier(keras.models.load_model(folder / f"{net}_{seed}.keras"))


def trained_seeds(folder: Path, net: str) -> list[int]:
    """Seeds of the nets that are whole: their record lies beside them."""
    return sorted(int(path.stem.rsplit("_", 1)[1]) for path in folder.glob(f"{net}_*.json"))


def study_real(names: Sequence[str], nets: Path, folder: Path, load: Callable[[str], real_nets.Data]) -> Grids:
    """Studies every net that is there."""
    results = {}
    for name in names:
        study = REAL_STUDIES[name]
        seeds = trained_seeds(nets, study.net)
        data = load(study.net) if seeds else None
        grids = [run_study(study, name, seed, (load_net(nets, study.net, seed), data), folder) for seed in seeds]
        if grids:
            results[name] = grids
    return results


def recorded(names: Sequence[str], folder: Path) -> Grids:
    """What earlier runs left, complete or not."""
    found = {
        name: sorted(path for path in folder.glob(f"{name}_*.npz") if path.stem[len(name) + 1 :].isdigit())
        for name in names
    }
    return {name: [experiments.RemovalGrid.load(path) for path in paths] for name, paths in found.items() if paths}


def draw(results: Grids, studies: Mapping[str, Study], folder: Path) -> None:
    """One figure per study with a panel per saliency; studies of a single saliency share one figure."""
    panels = {}
    for name, grids in results.items():
        study = studies[name]
        if len(study.saliencies) == 1:
            panels[study.title] = (grids, study.saliencies[0])
            continue
        own = {f"units chosen by {saliency}": (grids, saliency) for saliency in study.saliencies}
        figure = plots.accuracy_against_sparsity(own, title=f"{study.title}: units cut out, no training afterwards")
        plots.save_figure(figure, folder / f"{name}.png")
    if panels:
        figure = plots.accuracy_against_sparsity(panels, title="Units cut out, no training afterwards")
        plots.save_figure(figure, folder / "accuracy_against_sparsity.png")


def draw_picture(grids: Sequence[experiments.RemovalGrid], path: Path) -> None:
    """The picture for people who know nothing of the package yet."""
    panels = {
        "smallest weights go first (L1 norm)": (grids, "weight_norm"),
        "what the others can replace goes first": (grids, "least_squares"),
    }
    figure = plots.accuracy_against_sparsity(
        panels, title="Units cut out of a convolutional net on MNIST, without any training afterwards"
    )
    plots.save_figure(figure, path, dots_per_inch=90, num_colours=64)


def write_summary(results: Grids, rows: Sequence[Mapping], settings: Mapping, path: Path) -> None:
    """Settings, versions, all accuracies and the targets."""
    columns = experiments.RemovalGrid.array_names()
    summary = {
        "settings": dict(settings),
        "versions": run_information(),
        "targets": list(rows),
        "results": {
            name: [grid.settings | {column: getattr(grid, column).tolist() for column in columns} for grid in grids]
            for name, grids in results.items()
        },
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1) + "\n")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, help="output/removal_study or output/removal_study_digits by default")
    parser.add_argument("--quick", action="store_true", help="digits: few epochs, a look and not a result")
    parser.add_argument("--seed", type=int, default=0, help="digits: of the initial weights")
    parser.add_argument("--nets-folder", type=Path, help="folder of nets that real_nets.py trained")
    parser.add_argument("--mnist", help="npz file of MNIST; downloaded if missing")
    parser.add_argument("--cifar", help="npz file of CIFAR-10; downloaded if missing")
    parser.add_argument("--studies", nargs="+", choices=REAL_STUDIES, default=list(REAL_STUDIES))
    parser.add_argument("--train", nargs="*", type=int, default=[], help="train the halved residual net so many epochs")
    parser.add_argument("--report", action="store_true", help="remove nothing: tables and figures of what is recorded")
    parser.add_argument("--picture", type=Path, help="where to put the picture of the thesis net, a PNG")
    return parser.parse_args(arguments)


def train_afterwards(nets: Path, folder: Path, data: real_nets.Data, epochs: Sequence[int], console: Console) -> None:
    """Trains the halved residual net, one training of the full net only: an epoch takes minutes."""
    seed = trained_seeds(nets, "residual")[0]
    net = load_net(nets, "residual", seed), data
    calibration = data[0][0][:NUM_CALIBRATION]
    path = folder / f"training_{seed}.npz"
    record = training_study(net, "residual", seed, epochs=epochs, calibration=calibration, path=path)
    console.print(training_table(record))
    title = "Residual net on CIFAR-10, half of every group cut out, then trained"
    plots.save_figure(plots.training_after_removal([record], title=title), folder / "training.png")


def report(results: Grids, studies: Mapping[str, Study], settings: Mapping, folder: Path, console: Console) -> None:
    """Tables, the summary and the figures of all studies."""
    for name, grids in results.items():
        console.print(accuracy_table(studies[name], grids))
    rows = target_rows(results, studies)
    console.print(target_table(rows))
    write_summary(results, rows, settings, folder / "results.json")
    draw(results, studies, folder)
    console.print(f"Records and figures are in {folder}.")


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    real = options.nets_folder is not None
    folder = check_writable_folder(options.output or Path(f"output/removal_study{'' if real else '_digits'}"))
    # The tables have one column per repair, with a range each.
    console = Console(width=130)
    settings = {"num_calibration": NUM_CALIBRATION, "quick": options.quick, "seed": options.seed}
    if not real:
        results = study_digits(folder, quick=options.quick, seed=options.seed)
        report(results, DIGITS_STUDIES, settings, folder, console)
        return

    def load(net: str) -> real_nets.Data:
        return real_nets.load_data(net, mnist=options.mnist, cifar=options.cifar)

    if options.report:
        results = recorded(options.studies, folder)
    else:
        results = study_real(options.studies, options.nets_folder, folder, load)
    report(results, REAL_STUDIES, settings, folder, console)
    if options.picture:
        draw_picture(results["thesis"], options.picture)
    if options.train:
        train_afterwards(options.nets_folder, folder, load("residual"), options.train, console)


if __name__ == "__main__":
    main()
