"""Figures of nets on the plane: what they decide where, along a training too, and how alike their kernels are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from tfprune.plots.drawing import panels_of
from tfprune.plots.subsets import plane_maps

CLASS_COLOURS = ("navy", "darkred")
# Half way to white, so that the points show on it.
_COLOUR_MAP = ListedColormap(0.5 + 0.5 * colormaps["RdBu_r"](np.linspace(0, 1, 256)))


def decision_maps(
    maps: Mapping[str, np.ndarray], points: np.ndarray, labels: np.ndarray, *, limit: float, title: str
) -> Figure:
    """What nets with two inputs and two classes decide in the plane, with the data.

    Args:
        maps: Title -> probability of class 1, ``(resolution, resolution)``: second input upwards, first to the right.
        points: Data ``(points, 2)``.
        labels: Their classes, 0 or 1, ``(points,)``.
        limit: The maps cover ``[-limit, limit]^2``.
        title: Title of the figure.

    Returns:
        The figure.

    Raises:
        ValueError: If a map is not square.
    """
    for name, values in maps.items():
        if np.ndim(values) != 2 or np.shape(values)[0] != np.shape(values)[1]:
            raise ValueError(
                f"decision_maps: expected maps (resolution, resolution), received {np.shape(values)} for {name!r}."
            )
    figure = plane_maps(
        np.stack([np.asarray(values, "float32") for values in maps.values()]),
        titles=list(maps),
        title=title,
        colour_label="probability of class 1 (red points)",
        limit=limit,
        colour_map=_COLOUR_MAP,
        colour_range=(0.0, 1.0),
    )
    for axes in figure.axes[: len(maps)]:
        _draw_points(axes, points, labels)
    return figure


def decision_frames(
    maps: np.ndarray, points: np.ndarray, labels: np.ndarray, *, limit: float, titles: list[str]
) -> Iterator[np.ndarray]:
    """Pictures of a training, for `save_animation`.

    Args:
        maps: As in `decision_maps`, ``(pictures, resolution, resolution)``.
        points: Data ``(points, 2)``.
        labels: Their classes.
        limit: The maps cover ``[-limit, limit]^2``.
        titles: One for each picture.

    Yields:
        Pictures ``(height, width, 3)`` of uint8.
    """
    figure = Figure(figsize=(4.4, 4.6), layout="constrained", dpi=90)
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    extent = (-limit, limit, -limit, limit)
    image = axes.imshow(maps[0].astype("float32"), cmap=_COLOUR_MAP, vmin=0, vmax=1, origin="lower", extent=extent)
    _draw_points(axes, points, labels)
    for values, title in zip(maps, titles, strict=True):
        image.set_data(values)
        axes.set_title(title, fontsize=11)
        canvas.draw()
        yield np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_points(axes: Axes, points: np.ndarray, labels: np.ndarray) -> None:
    for label, colour in enumerate(CLASS_COLOURS):
        axes.scatter(*points[labels == label].T, s=5, color=colour, linewidths=0)


def kernel_scatter(
    pairs: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]],
    initial: np.ndarray,
    *,
    title: str,
    zoom: float = 0.25,
) -> Figure:
    """Kernels of the same shape against each other, one point for each weight: whole above, its middle below.

    Args:
        pairs: Names of the nets on the horizontal and on the vertical axis -> their kernels.
        initial: The kernel that all of them started from.
        title: Title of the figure.
        zoom: Half the side of the square in the lower row, in units of the weights.

    Returns:
        The figure. Weights that are as they began in both nets, bit for bit, have another colour.
    """
    figure = Figure(figsize=(4.1 * len(pairs) + 0.4, 8.6), layout="constrained")
    grid = figure.subplots(2, len(pairs), squeeze=False)
    initial = np.asarray(initial)
    for column, ((x_label, y_label), kernels) in enumerate(pairs.items()):
        first, second = (np.asarray(kernel) for kernel in kernels)
        still = (first == initial) & (second == initial)
        correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        reach = 1.05 * max(np.abs(first).max(), np.abs(second).max())
        for row, limit in enumerate((reach, zoom)):
            axes = grid[row, column]
            axes.plot([-limit, limit], [-limit, limit], color="grey", linewidth=0.8, linestyle="--", label="equal")
            axes.scatter(
                first[~still], second[~still], s=4, alpha=0.6, color="tab:blue", linewidths=0, label="moved by training"
            )
            axes.scatter(
                first[still], second[still], s=7, color="tab:orange", linewidths=0, label="never moved in both"
            )
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
            axes.set_xlabel(f"weight, {x_label}", fontsize=9)
            axes.set_ylabel(f"weight, {y_label}", fontsize=9)
            axes.tick_params(labelsize=8)
        grid[0, column].set_title(f"correlation {correlation:.2f}; {still.mean():.1%} never moved", fontsize=9)
        grid[1, column].set_title("the middle, enlarged", fontsize=9)
    figure.suptitle(title)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def bound_scatter(panels: Mapping[str, Mapping[str, tuple[Any, Any]]], *, title: str, y_label: str) -> Figure:
    """What was measured against an upper bound of it, on logarithmic axes: no point may lie above the line.

    Args:
        panels: Title of a panel -> name of some points -> their bounds and what was measured, both positive; points
            with a zero are left out, as a logarithm has no place for them.
        title: Title of the figure.
        y_label: What was measured.

    Returns:
        The figure.
    """
    figure, grid = panels_of(len(panels), title, size=(4.4, 4.2))
    for axes, (panel, clouds) in zip(grid, panels.items(), strict=True):
        every = []
        for name, (bound, measured) in clouds.items():
            bound, measured = np.ravel(bound), np.ravel(measured)
            drawn = (bound > 0) & (measured > 0)
            axes.scatter(bound[drawn], measured[drawn], s=6, alpha=0.6, linewidths=0, label=name)
            every += [bound[drawn], measured[drawn]]
        bounds, measures = np.concatenate(every[::2]), np.concatenate(every[1::2])
        ends = [bounds.min() / 2, bounds.max() * 2]
        axes.plot(ends, ends, color="black", linewidth=1, label="bound = measured")
        axes.set(xscale="log", yscale="log", xlim=ends, ylim=(measures.min() / 2, max(ends[1], measures.max() * 2)))
        axes.set_title(panel, fontsize=10)
        axes.set_xlabel("bound", fontsize=9)
        axes.tick_params(labelsize=8)
    figure.supylabel(y_label, fontsize=10)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    return figure
