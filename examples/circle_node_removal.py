"""Train the circle network, remove its nodes in every way, and print and draw what happens.

    python examples/circle_node_removal.py [--output FOLDER] [--seed N] [--as-published] [--quick]

A net with 20 hidden units learns whether a point of a square lies outside a circle. Its units then switch off: at
random, one by one along paths, and by an infinitesimal amount (the gradient). Tables stand beside the figures of
Hobson, "Exploring toy neural nets under node removal", whose net was another random one.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from support.circle_findings import (
    PUBLISHED,
    PUBLISHED_FULL_LOSS,
    PUBLISHED_ON_OFF,
    Findings,
    gradient_findings,
    loss_findings,
    on_off_moments,
    path_findings,
    values_of,
)

import tfprune as tfp
from tfprune import datasets, experiments, plots
from tfprune.files import atomic_write, check_writable_folder, run_information

NUM_UNITS, NUM_POINTS = 20, 1000
# Gradients are zero far from the circle, so their maps look closer than those of the certainty.
CERTAINTY_LIMIT, GRADIENT_LIMIT = 2.0, 1.25
UNIT_TITLES = [f"unit {unit}" for unit in range(NUM_UNITS)]
PROBABILITIES = (0.25, 0.5, 0.75)
SUBSET_SEED, TEST_SEED = 17, 23
SAVED_MODEL = Path(__file__).resolve().parents[1] / "saved_models" / "circle.keras"


@dataclass(frozen=True)
class Settings:
    """What one run was asked for."""

    seed: int = 0
    as_published: bool = False
    num_epochs: int = 20
    num_subsets: int = 1000
    num_paths: int = 5000
    resolution: int = 161


QUICK = {"num_epochs": 5, "num_subsets": 60, "num_paths": 60, "resolution": 25}


def train(settings: Settings) -> tuple[keras.Model, keras.Model]:
    """The circle network and the same network with its extra input, trained with every unit on."""
    keras.utils.set_random_seed(settings.seed)
    inputs = keras.Input((2,), name="point")
    hidden = keras.layers.Dense(NUM_UNITS, activation="relu", name="hidden")(inputs)
    net = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", name="outside")(hidden), name="circle")
    masked = tfp.with_on_nodes(net)
    for model in (net, masked):
        model.compile(keras.optimizers.Adam(0.01), loss="sparse_categorical_crossentropy", metrics=["accuracy"])
        # An optimizer without its variables would be saved as such, and loading would warn.
        model.optimizer.build(model.trainable_variables)
    x, y = datasets.circle(NUM_POINTS, settings.seed, as_published=settings.as_published)
    masked.fit([x, np.ones((NUM_POINTS, NUM_UNITS))], y, epochs=settings.num_epochs, batch_size=32, verbose=0)
    return net, masked


@dataclass(frozen=True)
class Results:
    """All records of one run."""

    subsets: list[experiments.RandomSubsets]
    paths: experiments.FlipPaths
    points: experiments.PointGradients
    chosen: experiments.MaskedOutputs
    chosen_titles: list[str]
    single_losses: np.ndarray
    accuracy: float

    @property
    def full_loss(self) -> float:
        return float(self.subsets[0].full_loss)

    def save(self, folder: Path) -> None:
        for probability, record in zip(PROBABILITIES, self.subsets, strict=True):
            record.save(folder / f"subsets_{probability}.npz")
        self.paths.save(folder / "flip_paths.npz")
        self.points.save(folder / "point_gradients.npz")
        self.chosen.save(folder / "chosen_masks.npz")


def run_experiments(net: keras.Model, settings: Settings) -> Results:
    """Remove units in every way."""
    test = datasets.circle(NUM_POINTS, TEST_SEED, as_published=settings.as_published)
    subsets = [
        experiments.random_subsets(
            net, test, probability=probability, num_subsets=settings.num_subsets, seed=SUBSET_SEED
        )
        for probability in PROBABILITIES
    ]
    paths = experiments.flip_paths(net, test, num_paths=settings.num_paths, seed=SUBSET_SEED)
    single_losses = tfp.sweep(net, test, ~np.eye(NUM_UNITS, dtype=bool), gradients=False).losses
    grid = experiments.plane_grid(GRADIENT_LIMIT, settings.resolution)
    labels = datasets.outside_circle(grid, as_published=settings.as_published)
    chosen = choose_masks(subsets, single_losses)
    masks = np.stack(list(chosen.values()))
    losses = tfp.sweep(net, test, masks, gradients=False).losses
    return Results(
        subsets=subsets,
        paths=paths,
        points=experiments.point_gradients(net, (grid, labels)),
        chosen=experiments.masked_outputs(net, experiments.plane_grid(CERTAINTY_LIMIT, settings.resolution), masks),
        chosen_titles=[f"{title}\nloss {loss:.3f}" for title, loss in zip(chosen, losses, strict=True)],
        single_losses=single_losses,
        accuracy=float(net.evaluate(*test, verbose=0)[1]),
    )


def choose_masks(subsets: list[experiments.RandomSubsets], single_losses: np.ndarray) -> dict[str, np.ndarray]:
    """Masks worth a look: single units off, the best and the worst half and their complements."""
    order = np.argsort(single_losses)
    few, half, _ = subsets
    best, worst = half.masks[half.losses.argmin()], half.masks[half.losses.argmax()]
    chosen = {"all on": np.ones(NUM_UNITS, bool)}
    for which, units in (("matters least", order[:2]), ("matters most", order[:-4:-1])):
        chosen |= {f"unit {unit} off ({which})": np.arange(NUM_UNITS) != unit for unit in units}
    chosen[f"best subset, p = 0.5 ({best.sum()} on)"] = best
    chosen[f"its complement ({(~best).sum()} on)"] = ~best
    chosen[f"worst subset, p = 0.5 ({worst.sum()} on)"] = worst
    chosen[f"complement of that ({(~worst).sum()} on)"] = ~worst
    sparse = few.masks[few.losses.argmin()]
    chosen[f"best subset, p = 0.25 ({sparse.sum()} on)"] = sparse
    chosen["all off"] = np.zeros(NUM_UNITS, bool)
    return chosen


def print_report(results: Results, sentences: Findings, console: Console) -> None:
    """Tables beside the source's figures, then the sentences."""
    table = Table(title=f"Random subsets of {NUM_UNITS} units (left ours, right the source's)")
    table.add_column("")
    for probability in PROBABILITIES:
        table.add_column(f"p = {probability}", justify="right")
        table.add_column("source", justify="right", style="dim")
    for name, published in PUBLISHED.items():
        pairs = zip(values_of(results.subsets, name), published, strict=True)
        table.add_row(name, *(f"{value:.4f}" for pair in pairs for value in pair))
    console.print(table)
    table = Table("", "mean", "source", "std", "source", title="Gradient of the log loss at p = 0.5")
    for label, moments in on_off_moments(results.subsets[1]).items():
        pairs = zip(moments, PUBLISHED_ON_OFF[label], strict=True)
        table.add_row(label, *(f"{value:.4f}" for pair in pairs for value in pair))
    console.print(table)
    console.print(
        f"Full network: loss {results.full_loss:.4f} (source {PUBLISHED_FULL_LOSS}), accuracy {results.accuracy:.3f}"
    )
    console.print("What the source says, and whether this run agrees:")
    for agrees, sentence in sentences:
        console.print(f"{'[green]agrees[/]  ' if agrees else '[red]differs[/] '} {sentence}", highlight=False)


def write_summary(results: Results, sentences: Findings, settings: Settings, path: Path) -> None:
    """All numbers of the tables, with the settings and versions that gave them."""
    summary = {
        "settings": asdict(settings),
        "versions": run_information(),
        "full_loss": results.full_loss,
        "accuracy": results.accuracy,
        "loss_without_unit": results.single_losses.tolist(),
        "random_subsets": {str(record.settings["probability"]): record.moments() for record in results.subsets},
        "on_off_mean_and_std": on_off_moments(results.subsets[1]),
        "complement_correlation_and_standard_error": results.paths.complement_correlation(),
        "findings": [{"agrees": bool(agrees), "sentence": sentence} for agrees, sentence in sentences],
    }
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")


def draw_densities(results: Results) -> dict[str, Figure]:
    """Figures of random subsets and flip paths, by file name."""
    subsets, half = results.subsets, results.subsets[1]
    return {
        "loss": plots.subset_losses(subsets, published_means=PUBLISHED["mean loss"]),
        "log_loss": plots.subset_losses(subsets, log=True, published_means=PUBLISHED["mean log loss"]),
        "gradient": plots.subset_gradients(subsets, published_means=PUBLISHED["mean gradient"]),
        "log_loss_gradient": plots.subset_gradients(
            subsets, log=True, published_means=PUBLISHED["mean gradient of log loss"]
        ),
        "gradient_on_off": plots.gradients_on_off(half, published_means=[on for on, _ in PUBLISHED_ON_OFF.values()]),
        "gradient_per_unit": plots.gradients_per_unit(half, UNIT_TITLES),
        "flip_paths": plots.flip_path_covariance(results.paths),
    }


def draw_maps(results: Results, settings: Settings) -> dict[str, Figure]:
    """Figures of the plane, by file name."""
    resolution = settings.resolution
    radius = datasets.circle_radius(as_published=settings.as_published)
    certainty = results.chosen.outputs[..., 0].reshape(-1, resolution, resolution)
    gradients = results.points.gradients.T.reshape(-1, resolution, resolution)
    losses = results.points.losses.reshape(1, resolution, resolution)
    believed = {
        "colour_label": "certainty that the point is inside (0: outside, 1: inside)",
        "colour_range": (0.0, 1.0),
        "limit": CERTAINTY_LIMIT,
        "circle_radius": radius,
        "training_square": 1.0,
    }
    at_points = {"limit": GRADIENT_LIMIT, "circle_radius": radius, "training_square": 1.0}
    return {
        "certainty": plots.plane_maps(certainty[:1], titles=["all on"], title="What the network believes", **believed),
        "certainty_units_off": plots.plane_maps(
            certainty, titles=results.chosen_titles, title="What the network believes with units off", **believed
        ),
        "unit_gradient_maps": plots.plane_maps(
            gradients,
            titles=UNIT_TITLES,
            title="Where more of a unit lowers the loss (blue) and where it raises the loss (red)",
            colour_label="change of the point's loss per unit of on_nodes (nats)",
            colour_map="RdBu_r",
            colour_range=plots.symmetric_range(gradients),
            circle_colour="black",
            **at_points,
        ),
        "loss_map": plots.plane_maps(
            losses,
            titles=["all on"],
            title="Loss of the full network at each point",
            colour_label="loss (cross-entropy in nats)",
            colour_map="magma",
            colour_range=(0.0, float(np.percentile(losses, 99.5))),
            circle_colour="deepskyblue",
            **at_points,
        ),
    }


def save_models(net: keras.Model, masked: keras.Model, settings: Settings, folder: Path) -> None:
    """The net with its extra input as a SavedModel; the plain net among the saved models, by default settings alone."""
    with atomic_write(folder / "saved_model") as path:
        masked.export(path, verbose=False)
    if settings == Settings() and not holds_same_weights(SAVED_MODEL, net):
        with atomic_write(SAVED_MODEL) as path:
            net.save(path)


def holds_same_weights(path: Path, net: keras.Model) -> bool:
    """Whether the file is there and need not be written again: files differ by their date alone, too."""
    if not path.is_file():
        return False
    saved = keras.models.load_model(path).get_weights()
    return all(np.allclose(a, b, atol=1e-3) for a, b in zip(saved, net.get_weights(), strict=True))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output/circle_node_removal"))
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights and the training points")
    parser.add_argument("--as-published", action="store_true", help="the circle of the source's listing, not its text")
    parser.add_argument("--quick", action="store_true", help="few epochs, subsets and paths: a look, not a result")
    options = parser.parse_args(arguments)
    folder = check_writable_folder(options.output)
    quick = QUICK if options.quick else {}
    settings = Settings(seed=options.seed, as_published=options.as_published, **quick)
    net, masked = train(settings)
    results = run_experiments(net, settings)
    radius = datasets.circle_radius(as_published=settings.as_published)
    sentences = [
        *loss_findings(results.subsets, results.single_losses),
        *gradient_findings(results.subsets, results.points, radius),
        *path_findings(results.paths),
    ]
    console = Console()
    print_report(results, sentences, console)
    results.save(folder)
    write_summary(results, sentences, settings, folder / "results.json")
    for name, figure in (draw_densities(results) | draw_maps(results, settings)).items():
        plots.save_figure(figure, folder / f"{name}.png")
    save_models(net, masked, settings, folder)
    console.print(f"Figures, records and the exported model are in {folder}.")


if __name__ == "__main__":
    main()
