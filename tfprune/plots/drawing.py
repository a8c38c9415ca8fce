"""Figures with panels, and how they are written to files."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from tfprune.files import atomic_write


def save_figure(
    figure: Figure, path: str | os.PathLike, *, dots_per_inch: int = 110, num_colours: int | None = None
) -> None:
    """Write a figure to a file whose ending names the format; nothing half written stays behind.

    Args:
        figure: The figure.
        path: File to write; its folder must exist.
        dots_per_inch: Resolution.
        num_colours: For a PNG, at most 256: keep so many colours, which makes the file several times smaller.
    """
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=dots_per_inch)
        if num_colours is not None:
            with Image.open(temporary) as image:
                reduced = image.convert("RGB").quantize(num_colours, dither=Image.Dither.NONE)
            reduced.save(temporary, optimize=True)


def panels_of(num_panels: int, title: str, *, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of panels, at most five in a row; surplus panels are hidden.

    Args:
        num_panels: How many panels.
        title: Title of the whole figure.
        size: Width and height of a panel in inches.

    Returns:
        The figure and its panels, row by row.
    """
    num_columns = num_panels if num_panels <= 5 else 4 if num_panels <= 12 else 5
    num_rows = math.ceil(num_panels / num_columns)
    figure = Figure(figsize=(size[0] * num_columns + 1.0, size[1] * num_rows + 0.9), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in grid[num_panels:]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure, list(grid[:num_panels])


def save_animation(
    pictures: Iterable[np.ndarray], path: str | os.PathLike, *, pictures_per_second: float = 12.0, num_colours: int = 64
) -> None:
    """Write pictures to an animated GIF that plays for ever; nothing half written stays behind.

    Args:
        pictures: Each ``(height, width, 3)`` of uint8, all of one size; taken one after the other.
        path: File to write; its folder must exist.
        pictures_per_second: Speed. The last picture stays for a second longer.
        num_colours: At most 256; fewer make the file smaller.

    Raises:
        ValueError: If there are no pictures or the speed is not above 0.
    """
    if not pictures_per_second > 0:
        raise ValueError(f"save_animation: expected pictures_per_second above 0, received {pictures_per_second!r}.")
    frames = [
        Image.fromarray(np.asarray(picture)).quantize(num_colours, dither=Image.Dither.NONE) for picture in pictures
    ]
    if not frames:
        raise ValueError("save_animation: expected at least one picture, received none.")
    milliseconds = [round(1000 / pictures_per_second)] * len(frames)
    milliseconds[-1] += 1000
    with atomic_write(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=milliseconds,
            loop=0,
            optimize=True,
        )
