"""Figures of random subsets, flip paths and maps of the plane."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from tfprune.plots.drawing import panels_of

PROBABILITY_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
ON_COLOUR, OFF_COLOUR = "goldenrod", "midnightblue"
START_COLOUR, END_COLOUR = "darkturquoise", "hotpink"
KERNEL_WIDTH = 0.03


def kernel_density(samples: np.ndarray, positions: np.ndarray, width: float = KERNEL_WIDTH) -> np.ndarray:
    """Probability density of samples, each blurred by a Gaussian.

    ``density(x) = mean_i exp(-(x - sample_i)^2 / (2 width^2)) / (width sqrt(2 pi))``. The width is fixed, unlike that
    of rules that adapt it to the spread, so that curves of different spread are blurred alike.

    Args:
        samples: Any shape; taken flat.
        positions: Where to evaluate, shape ``(n,)``.
        width: Standard deviation of the Gaussian, in the unit of the samples.

    Returns:
        Density at the positions, in 1 / unit of the samples, shape ``(n,)``.

    Raises:
        ValueError: If the width is not positive or there are no samples.

    Example:
        >>> kernel_density(np.zeros(5), np.array([0.0]), width=1.0).round(4).tolist()
        [0.3989]

    Reference:
        Silverman (1986), Density Estimation for Statistics and Data Analysis, equation 2.2a.
    """
    samples = np.ravel(samples)
    if not width > 0.0 or samples.size == 0:
        raise ValueError(
            f"kernel_density: expected a positive width and at least one sample, received width {width} and "
            f"{samples.size} samples."
        )
    total = np.zeros(len(positions))
    # Chunks bound the memory: tens of thousands of samples against hundreds of positions.
    for chunk in np.array_split(samples, max(1, samples.size // 4096)):
        total += np.exp(-0.5 * ((positions[:, np.newaxis] - chunk) / width) ** 2).sum(axis=1)
    return total / (samples.size * width * math.sqrt(2.0 * math.pi))


def density_figure(
    samples: Mapping[str, np.ndarray],
    *,
    title: str,
    x_label: str,
    colours: Sequence[str] = PROBABILITY_COLOURS,
    normals: bool = False,
    reference: tuple[str, float] | None = None,
    published_means: Mapping[str, float] | None = None,
) -> Figure:
    """Densities of several samples in one picture, smoothed by a Gaussian of width 0.03.

    Args:
        samples: Label -> samples of any shape.
        title: Title of the figure.
        x_label: What is on the horizontal axis, with its unit.
        colours: One per label.
        normals: Whether to dot the normal distribution of the same mean and standard deviation.
        reference: Label and position of a grey vertical line.
        published_means: Label -> mean that a source published, marked on the horizontal axis.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(11.0, 4.8), layout="constrained")
    axes = figure.add_subplot(title=title, xlabel=x_label, ylabel="probability density")
    _draw_densities(axes, samples, colours, normals=normals)
    for (label, mean), colour in zip((published_means or {}).items(), colours, strict=False):
        axes.plot(mean, 0.0, marker="^", color=colour, markersize=10, clip_on=False, linestyle="none", zorder=5)
        axes.plot([], [], "^", color=colour, label=f"published mean, {label}: {mean:.3f}")
    if reference is not None:
        axes.axvline(reference[1], color="grey", label=f"{reference[0]}: {reference[1]:.3f}")
    # Beside the axes, since densities and the reference line may reach into any corner.
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def subset_losses(records: Sequence[Any], *, log: bool = False, published_means: Sequence[float] = ()) -> Figure:
    """Density of the loss, or of the log loss, over random subsets of the units.

    Args:
        records: Records of ``experiments.random_subsets``, one per probability.
        log: Whether to draw the log loss, with its best-fit normals.
        published_means: A source's mean for each record.

    Returns:
        The figure, with a grey line at the loss of the full network.
    """
    labels = [_probability_label(record) for record in records]
    full_loss = float(records[0].full_loss)
    return density_figure(
        {label: record.log_losses if log else record.losses for label, record in zip(labels, records, strict=True)},
        title=f"{'Log loss' if log else 'Loss'} when each unit is on with probability p",
        x_label="natural logarithm of the loss" if log else "loss (cross-entropy in nats)",
        normals=log,
        reference=("all units on", math.log(full_loss) if log else full_loss),
        published_means=dict(zip(labels, published_means, strict=False)),
    )


def subset_gradients(records: Sequence[Any], *, log: bool = False, published_means: Sequence[float] = ()) -> Figure:
    """Density of the gradient with respect to ``on_nodes`` over all units of all random subsets.

    Args:
        records: Records of ``experiments.random_subsets``, one per probability.
        log: Whether to draw the gradient of the log loss, which is gradient / loss.
        published_means: A source's mean for each record.

    Returns:
        The figure, with the best-fit normals dotted.
    """
    labels = [_probability_label(record) for record in records]
    return density_figure(
        {
            label: record.log_loss_gradients if log else record.gradients
            for label, record in zip(labels, records, strict=True)
        },
        title=f"Gradient of the {'log ' if log else ''}loss with respect to on_nodes, all units together",
        x_label=f"change of the {'log ' if log else ''}loss per unit of on_nodes (negative: more of the unit helps)",
        normals=True,
        published_means=dict(zip(labels, published_means, strict=False)),
    )


def gradients_on_off(record: Any, *, published_means: Sequence[float] = ()) -> Figure:
    """Density of the gradient of the log loss, split by whether the unit was on or off.

    Args:
        record: A record of ``experiments.random_subsets``.
        published_means: A source's means for on and for off.

    Returns:
        The figure, with the best-fit normals dotted.
    """
    samples = split_on_off(record.log_loss_gradients, record.masks)
    return density_figure(
        samples,
        title=f"Gradient of the log loss, units that are on and units that are off ({_probability_label(record)})",
        x_label="change of the log loss per unit of on_nodes (negative: more of the unit helps)",
        colours=(ON_COLOUR, OFF_COLOUR),
        normals=True,
        published_means=dict(zip(samples, published_means, strict=False)),
    )


def split_on_off(values: np.ndarray, masks: np.ndarray) -> dict[str, np.ndarray]:
    """Values of units that are on and of units that are off.

    Args:
        values: Shape ``(num_masks, num_units)``.
        masks: Bool of the same shape.

    Returns:
        ``{"unit is on": ..., "unit is off": ...}``, each flat.

    Example:
        >>> split_on_off(np.array([[1.0, 2.0]]), np.array([[True, False]]))["unit is off"].tolist()
        [2.0]
    """
    return {"unit is on": values[masks], "unit is off": values[~masks]}


def gradients_per_unit(record: Any, unit_names: Sequence[str]) -> Figure:
    """Density of the gradient of the log loss for each unit on its own, split by on and off.

    Args:
        record: A record of ``experiments.random_subsets``.
        unit_names: Title of each panel, ``num_units`` of them.

    Returns:
        The figure. Axes differ between panels: some units move the loss far less than others.
    """
    figure, panels = panels_of(
        len(unit_names),
        f"Gradient of the log loss of each unit, on and off ({_probability_label(record)})",
        size=(2.9, 2.3),
    )
    gradients = record.log_loss_gradients
    for unit, (axes, name) in enumerate(zip(panels, unit_names, strict=True)):
        samples = split_on_off(gradients[:, unit], record.masks[:, unit])
        _draw_densities(axes, samples, (ON_COLOUR, OFF_COLOUR), mean_in_label=False)
        axes.axvline(0.0, color="lightgrey", linewidth=0.8, zorder=0)
        axes.set_title(name, fontsize=10)
        axes.tick_params(labelsize=8)
    figure.supxlabel("change of the log loss per unit of on_nodes; each panel has its own axes")
    figure.supylabel("probability density")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower right", ncols=2)
    return figure


def flip_path_covariance(record: Any) -> Figure:
    """Covariance of the log loss along flip paths: the whole matrix, and the two curves from its edges.

    Args:
        record: A record of ``experiments.flip_paths``.

    Returns:
        The figure. Bands show two standard errors.
    """
    covariance, error = record.covariance(), record.covariance_standard_error()
    steps = np.arange(len(covariance))
    figure = Figure(figsize=(7.0, 10.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=(3, 2))
    upper.set(title="Covariance of the log loss along flip paths", xlabel="units flipped", ylabel="units flipped")
    limit = np.abs(covariance).max()
    image = upper.imshow(covariance, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower")
    upper.set_xticks(steps[::5])
    upper.set_yticks(steps[::5])
    figure.colorbar(image, ax=upper, label="covariance of the log loss")
    for label, colour, values, errors in (
        ("with the start of the path", START_COLOUR, covariance[0], error[0]),
        ("with the end of the path", END_COLOUR, covariance[-1, ::-1], error[-1, ::-1]),
    ):
        lower.plot(steps, values, color=colour, marker="o", markersize=3, label=label)
        lower.fill_between(steps, values - 2 * errors, values + 2 * errors, color=colour, alpha=0.2)
    lower.axhline(0.0, color="grey", linewidth=0.8)
    correlation, correlation_error = record.complement_correlation()
    lower.set(
        xlabel="units flipped between the two masks (band: two standard errors)",
        ylabel="covariance of the log loss",
        title=f"A mask and its complement: correlation {correlation:.3f} ± {correlation_error:.3f}",
        xticks=steps[:: max(1, len(steps) // 10)],
    )
    lower.legend()
    return figure


def plane_maps(
    values: np.ndarray,
    *,
    titles: Sequence[str],
    title: str,
    colour_label: str,
    limit: float,
    circle_radius: float | None = None,
    training_square: float | None = None,
    colour_map: str | Colormap = "viridis",
    colour_range: tuple[float, float] | None = None,
    circle_colour: str = "crimson",
) -> Figure:
    """Maps of the plane, one panel per quantity, all with one colour scale.

    Args:
        values: Shape ``(num_maps, resolution, resolution)``; second index upwards, third to the right.
        titles: One per map.
        title: Title of the figure.
        colour_label: What the colours mean, with its unit.
        limit: The maps cover ``[-limit, limit]^2``.
        circle_radius: Radius of a circle to draw around the origin.
        training_square: Half the side of a dashed square to draw around the origin.
        colour_map: A Matplotlib colour map, or its name.
        colour_range: Values at the ends of the scale; ``None`` takes the smallest and the largest.
        circle_colour: Colour of the circle; choose one that the colour map does not hold.

    Returns:
        The figure.

    Raises:
        ValueError: If ``values`` is not one square map per title.
    """
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[1] != values.shape[2] or len(values) != len(titles):
        raise ValueError(
            f"plane_maps: expected values of shape ({len(titles)}, resolution, resolution), one map per title, "
            f"received {values.shape}."
        )
    low, high = colour_range or (float(values.min()), float(values.max()))
    figure, panels = panels_of(len(titles), title, size=(6.5, 5.6) if len(titles) == 1 else (2.6, 2.7))
    for axes, panel_title, panel in zip(panels, titles, values, strict=True):
        image = axes.imshow(
            panel, cmap=colour_map, norm=Normalize(low, high), origin="lower", extent=(-limit, limit, -limit, limit)
        )
        _draw_outlines(axes, circle_radius, circle_colour, training_square)
        axes.set_title(panel_title, fontsize=10)
    beyond = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    extend = beyond[bool(values.min() < low), bool(values.max() > high)]
    figure.colorbar(image, ax=panels, label=colour_label, extend=extend, shrink=0.8)
    figure.supxlabel("first input", fontsize=10)
    figure.supylabel("second input", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower right", ncols=2, fontsize=9)
    return figure


def symmetric_range(values: np.ndarray, *, percentile: float = 99.5) -> tuple[float, float]:
    """A colour range with zero in its middle that a few extreme values do not stretch.

    Args:
        values: Any shape.
        percentile: Percentage of the absolute values that the range holds.

    Returns:
        ``(-bound, bound)``; the bound is 1 where all values are zero.

    Example:
        >>> symmetric_range(np.array([-3.0, 1.0]), percentile=100.0)
        (-3.0, 3.0)
    """
    bound = float(np.percentile(np.abs(values), percentile)) or 1.0
    return -bound, bound


def _probability_label(record: Any) -> str:
    return f"p = {record.settings['probability']:g}"


def _draw_densities(
    axes: Axes,
    samples: Mapping[str, np.ndarray],
    colours: Sequence[str],
    *,
    normals: bool = False,
    mean_in_label: bool = True,
) -> None:
    """Draw one line per sample, and a dotted normal where wanted, over the middle 99.8 % of all samples."""
    present = {label: np.ravel(values) for label, values in samples.items() if np.size(values)}
    low, high = np.percentile(np.concatenate(list(present.values())), (0.1, 99.9))
    positions = np.linspace(low - 3 * KERNEL_WIDTH, high + 3 * KERNEL_WIDTH, 500)
    for (label, values), colour in zip(samples.items(), colours, strict=False):
        if label not in present:
            continue
        mean, deviation = float(np.mean(values)), float(np.std(values))
        text = f"{label}: mean {mean:.3f}, std {deviation:.3f}" if mean_in_label else label
        axes.plot(positions, kernel_density(values, positions), color=colour, label=text)
        if normals and deviation > 0.0:
            normal = np.exp(-0.5 * ((positions - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
            axes.plot(positions, normal, color=colour, linestyle=":")
    if normals:
        axes.plot([], [], color="black", linestyle=":", label="normal of the same mean and std")
    axes.set_ylim(bottom=0.0)
    axes.set_xlim(positions[0], positions[-1])


def _draw_outlines(axes: Axes, circle_radius: float | None, circle_colour: str, training_square: float | None) -> None:
    if circle_radius is not None:
        axes.add_patch(
            Circle((0, 0), circle_radius, fill=False, edgecolor=circle_colour, linewidth=1.1, label="true circle")
        )
    if training_square is not None:
        corner, side = (-training_square, -training_square), 2 * training_square
        axes.add_patch(
            Rectangle(corner, side, side, fill=False, edgecolor="grey", linestyle="--", label="training square")
        )
