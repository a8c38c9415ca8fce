"""Figures of relevance: heat maps around zero, and what flipping pixels does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from tfprune.plots.drawing import panels_of

RELEVANCE_COLOURS = "RdBu_r"
METHOD_COLOURS = {
    "random": "dimgrey",
    "gradient": "tab:orange",
    "gradient_times_input": "gold",
    "deconvolution": "tab:brown",
    "lrp": "tab:blue",
    "lrp_inputs_only": "tab:cyan",
    "lrp_epsilon": "navy",
    "lrp_epsilon_plus": "tab:purple",
    "blame_the_bias": "tab:red",
    "compare_to_baseline": "tab:green",
    "integrated_gradients": "tab:olive",
    "conductance": "tab:pink",
}


def relevance_maps(
    images: np.ndarray, maps: Mapping[str, np.ndarray], *, titles: Sequence[str], title: str, note: str
) -> Figure:
    """One row per image, one column per method; every panel has its own scale, with zero in the middle.

    Args:
        images: Shape ``(rows, height, width)``.
        maps: Method -> relevance of every pixel, shape ``(rows, height, width)``.
        titles: One per row, such as the class that is explained.
        title: Title of the figure.
        note: What the colours mean, below the panels.

    Returns:
        The figure: red speaks for the class, blue against it.

    Raises:
        ValueError: If maps, images and titles do not fit each other.
    """
    images = np.asarray(images)
    if len(titles) != len(images) or any(np.shape(own) != images.shape for own in maps.values()):
        raise ValueError(
            f"relevance_maps: expected one title per image and maps of the images' shape {images.shape}, received "
            f"{len(titles)} titles and the shapes {[np.shape(own) for own in maps.values()]}."
        )
    rows, columns = len(images), len(maps) + 1
    figure = Figure(figsize=(1.15 * columns + 0.6, 1.05 * rows + 1.3), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for row, (line, image, row_title) in enumerate(zip(grid, images, titles, strict=True)):
        line[0].imshow(image, cmap="gray_r")
        line[0].set_ylabel(row_title, fontsize=9)
        for axes, (method, values) in zip(line[1:], maps.items(), strict=True):
            bound = float(np.abs(values[row]).max()) or 1.0
            axes.imshow(values[row], cmap=RELEVANCE_COLOURS, vmin=-bound, vmax=bound)
            if not row:
                axes.set_title(method.replace("_", "\n"), fontsize=8)
    grid[0, 0].set_title("image", fontsize=8)
    for axes in grid.ravel():
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(title)
    figure.supxlabel(note, fontsize=9)
    return figure


def pixel_flipping(
    shares: Sequence[float], curves: Mapping[str, np.ndarray], *, areas: Mapping[str, float], title: str
) -> Figure:
    """Accuracy against the share of pixels that were flipped, the most relevant first, one line per method.

    Args:
        shares: Shares of the pixels, 0 to 1.
        curves: Method -> accuracy at each share.
        areas: Method -> area below its curve, for the legend.
        title: Title of the figure.

    Returns:
        The figure; the lower a curve, the better its method found the pixels that matter.
    """
    figure, (axes,) = panels_of(1, title, size=(7.2, 4.6))
    for method in sorted(curves, key=areas.get):
        dashed = {"linestyle": "--"} if method == "random" else {}
        label = f"{method} ({areas[method]:.3f})"
        axes.plot(100 * np.asarray(shares), curves[method], color=METHOD_COLOURS.get(method), label=label, **dashed)
    axes.set_xlabel("pixels flipped, the most relevant first (%)")
    axes.set_ylabel("accuracy on the test images")
    axes.set_ylim(0.0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend(title="method (area below its curve)", fontsize=8)
    return figure


def relevance_per_unit(
    panels: Mapping[str, Sequence[np.ndarray]], *, limit: float, titles: Sequence[str], title: str
) -> Figure:
    """Maps of the plane, one row per unit and one column per quantity; each column has one scale around zero.

    Args:
        panels: Quantity -> one map ``(resolution, resolution)`` per unit; first index upwards.
        limit: The maps cover ``[-limit, limit]^2``.
        titles: One per unit.
        title: Title of the figure.

    Returns:
        The figure, with a colour bar below each column.
    """
    columns = len(panels)
    figure = Figure(figsize=(2.6 * columns + 0.8, 1.9 * len(titles) + 1.4), layout="constrained")
    grid = figure.subplots(len(titles), columns, squeeze=False)
    for column, (quantity, maps) in enumerate(panels.items()):
        bound = float(np.percentile(np.abs(maps), 99.5)) or 1.0
        for axes, own, unit_title in zip(grid[:, column], maps, titles, strict=True):
            options = {"vmin": -bound, "vmax": bound, "origin": "lower", "extent": (-limit, limit, -limit, limit)}
            image = axes.imshow(own, cmap=RELEVANCE_COLOURS, **options)
            axes.tick_params(labelsize=7)
            if not column:
                axes.set_ylabel(unit_title, fontsize=9)
        grid[0, column].set_title(quantity, fontsize=9)
        figure.colorbar(image, ax=list(grid[:, column]), location="bottom", shrink=0.8, aspect=15)
    figure.suptitle(title)
    return figure
