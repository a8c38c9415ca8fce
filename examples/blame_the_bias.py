"""Ask a net why: heat maps by every method, pixel flipping, training with relevance, and Q of the circle's nodes.

    python examples/blame_the_bias.py [--mnist mnist.npz] [--output FOLDER] [--seed N] [--quick]

The bundled digits by default, MNIST with `--mnist`. The methods are those of Hobson, "Visualizing neural networks, how
to blame the bias", and of the field.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from support.relevance_study import background_study, flip_curves, image_net, scores_of, trained, unstable_net

import tfprune as tfp
from tfprune import datasets, plots, relevance
from tfprune.files import atomic_write, check_writable_folder, run_information
from tfprune.plots import pixel_flipping, relevance_maps, relevance_per_unit

# What conductance gives to pixels is what integrated gradients do.
METHODS = [*relevance.PRESETS, "integrated_gradients"]
CONSERVING = ("lrp", "lrp_inputs_only", "lrp_epsilon", "lrp_epsilon_plus", "blame_the_bias")
CIRCLE_MODEL = Path(__file__).resolve().parents[1] / "saved_models" / "circle.keras"
BACKGROUND_WEIGHT = 0.3


def one_per_class(data: tuple, net: keras.Model) -> np.ndarray:
    """The first image of each class that the net gets right."""
    x, y = data
    right = net.predict(x, batch_size=512, verbose=0).argmax(axis=1) == y
    return np.stack([x[np.flatnonzero(right & (y == number))[0]] for number in range(10)])


def bias_table(net: keras.Model, x: np.ndarray) -> Table:
    """Where the relevance of the predicted logits went, in percent of the logits' mean."""
    table = Table(title="Share of the output that each layer's biases take (mean over the test images, %)")
    found = {method: relevance.explain(net, x, method=method, units=False) for method in CONSERVING}
    names = ["inputs", *found["blame_the_bias"].biases, "unexplained"]
    for column in ("method", *names):
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, one in found.items():
        whole = one.output.mean() / 100.0
        parts = [one.inputs.reshape(len(x), -1).sum(axis=1).mean() / whole]
        parts += [
            one.biases[name].sum(axis=1).mean() / whole if name in one.biases else 0.0
            for name in found["blame_the_bias"].biases
        ]
        table.add_row(method, *(f"{part:.2f}" for part in [*parts, one.delta.mean() / whole]))
    return table


def instability_table() -> Table:
    """Five points that hardly differ, where a bias of 5 makes the value."""
    net, x = unstable_net()
    table = Table(title="relu(a - b + 5): relevance of a and b, at a = 1")
    for column in ("b", "output", "LRP without biases", "Q form", "Q form: the bias"):
        table.add_column(column, justify="right")
    loud = relevance.explain(net, x, method="lrp_inputs_only")
    quiet = relevance.explain(net, x, method="blame_the_bias")
    for k in range(len(x)):
        pairs = [f"{one[0]:.6g}, {one[1]:.6g}" for one in (loud.inputs[k], quiet.inputs[k])]
        table.add_row(f"{x[k, 1]:.5f}", f"{loud.output[k]:.4g}", *pairs, f"{quiet.biases['unit'][k, 0]:.4g}")
    return table


def draw_heat_maps(net: keras.Model, x: np.ndarray, steps: int, path: Path) -> None:
    maps = scores_of(net, x, METHODS, steps)
    note = "Red speaks for the class, blue against it; each panel has its own scale, with zero in the middle (white)."
    figure = relevance_maps(
        x[..., 0], maps, titles=[f"class {number}" for number in range(10)], title="Why this class?", note=note
    )
    plots.save_figure(figure, path)


def study_flipping(net: keras.Model, data: tuple, steps: int, path: Path) -> tuple[Table, dict[str, float]]:
    """Draws the curves; returns the areas below them."""
    scores = scores_of(net, data[0], METHODS, steps)
    scores["random"] = np.random.default_rng(0).random(data[0].shape[:-1])
    shares = np.linspace(0.0, 0.5, 26)
    curves = flip_curves(net, data, scores, shares)
    areas = {method: float(np.mean(0.5 * (curve[1:] + curve[:-1]))) for method, curve in curves.items()}
    title = f"Pixel flipping, {len(data[0])} test images: x becomes 1 - x"
    plots.save_figure(pixel_flipping(shares, curves, areas=areas, title=title), path)
    table = Table(title="Mean accuracy while half of the pixels are flipped, most relevant first (lower is better)")
    table.add_column("method")
    table.add_column("area", justify="right")
    for method in sorted(areas, key=areas.get):
        table.add_row(method, f"{areas[method]:.3f}")
    return table, areas


def background_table(rows: list[dict]) -> Table:
    table = Table(title="Digits beside a stripe that gives the class away in training and misleads in the test")
    columns = {"seed": "seed", "loss": "loss", "helpful": "accuracy, helpful stripe"}
    columns |= {"misleading": "accuracy, misleading stripe", "relevance_outside": "relevance on the stripe"}
    for title in columns.values():
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(*(f"{row[key]:.3f}" if isinstance(row[key], float) else str(row[key]) for key in columns))
    for kind in ("plain", "with relevance"):
        chosen = [row for row in rows if row["loss"] == kind]
        means = [np.mean([row[key] for row in chosen]) for key in ("helpful", "misleading", "relevance_outside")]
        table.add_row("mean", kind, *(f"{mean:.3f}" for mean in means))
    return table


def draw_circle(path: Path, resolution: int) -> None:
    """Q of each node beside what switching it off does to the same logit, first order, over the plane."""
    net, limit = keras.models.load_model(CIRCLE_MODEL), 1.25
    grid = tfp.experiments.plane_grid(limit, resolution)

    def difference(logits):
        return logits[:, 1] - logits[:, 0]

    q_form = relevance.explain(net, grid, method="blame_the_bias", target=difference)
    masked = tfp.experiments.point_gradients(net, (grid, datasets.outside_circle(grid)))
    gradients = np.asarray(masked.gradients).reshape(len(grid), -1)
    units = np.argsort(-np.abs(q_form.units["hidden"]).mean(axis=0))[:6]

    def maps(values: np.ndarray) -> list[np.ndarray]:
        return [values[:, unit].reshape(resolution, resolution) for unit in units]

    panels = {
        "Q of the node\n(logits)": maps(q_form.unit_multipliers["hidden"]),
        "relevance = value * Q\n(logits)": maps(q_form.units["hidden"]),
        "d loss / d on_nodes\n(nats)": maps(gradients),
    }
    title = "Circle net: the six nodes with most relevance for 'outside' minus 'inside'\n"
    title += "With one hidden layer, Q is the difference of a node's two outgoing weights"
    figure = relevance_per_unit(panels, limit=limit, titles=[f"unit {unit}" for unit in units], title=title)
    plots.save_figure(figure, path)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("output/blame_the_bias"))
    parser.add_argument("--mnist", type=Path, help="npz file of MNIST; the bundled digits without it")
    parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
    parser.add_argument("--quick", action="store_true", help="few epochs and images: a look, not a result")
    options = parser.parse_args(arguments)
    folder, console = check_writable_folder(options.output), Console(width=130)
    train, test = datasets.mnist(options.mnist) if options.mnist else datasets.digits()
    epochs, steps = (2 if options.mnist else 20), 16
    if options.quick:
        train, test, epochs, steps = tuple(a[:500] for a in train), tuple(a[:100] for a in test), 8, 4
    net = trained(image_net(train[0].shape[1:], options.seed), train, epochs)
    part = tuple(array[:1000] for array in test)
    accuracy = float(net.evaluate(*test, verbose=0)[1])
    console.print(f"{'MNIST' if options.mnist else 'Digits'}: accuracy {accuracy:.4f} on {len(test[0])} test images.")
    draw_heat_maps(net, one_per_class(test, net), steps, folder / "heat_maps.png")
    console.print(bias_table(net, part[0]), instability_table())
    table, areas = study_flipping(net, part, steps, folder / "pixel_flipping.png")
    console.print(table)
    few = tuple(array[:10_000] for array in train)
    seeds = (0,) if options.quick else (0, 1, 2)
    rows = background_study(few, part, seeds=seeds, epochs=epochs + 4, weight=BACKGROUND_WEIGHT, report=console.print)
    console.print(background_table(rows))
    draw_circle(folder / "circle_nodes.png", 41 if options.quick else 101)
    summary = {"accuracy": accuracy, "areas": areas, "background": rows, "run": run_information()}
    with atomic_write(folder / "results.json") as path:
        path.write_text(json.dumps(summary, indent=2))
    console.print(f"Figures and results are in {folder}.")


if __name__ == "__main__":
    main()
