"""Text coloured by the activation of a neuron: as a figure, and as HTML."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from tfprune.plots.relevance import RELEVANCE_COLOURS

# In inches: a letter of the fixed-width font, and a line; of the points that letters are high.
_LETTER, _LINE, _POINTS = 0.092, 0.26, 11
# Colours stay this far from the ends of the scale, so that black letters can be read on them.
_PALE = 0.7


def activation_text(
    tokens: Sequence[Any],
    values: Sequence[Any],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    bound: float | None = None,
    width: int = 80,
) -> Figure:
    """Text with each token on a ground of the colour of its value: red above zero, blue below.

    Args:
        tokens: Words or other pieces of one text, or several texts of such.
        values: One number for each token, likewise.
        titles: One per text, in front of it.
        title: Title of the figure.
        bound: The value at which colours are strongest; None for the largest absolute value.
        width: Letters in a line; longer texts go on in the next one.

    Returns:
        The figure, with a colour bar.

    Raises:
        ValueError: If there is no text, tokens, values and titles do not fit each other, or values are NaN or infinite.
    """
    texts, numbers, bound = _checked(tokens, values, titles, bound, "activation_text")
    placed = [_in_lines(own, width) for own in texts]
    heads = [""] * len(texts) if titles is None else list(titles)
    indent = max(map(_letters, heads)) + 2 if titles is not None else 0
    num_lines = sum(own[-1][0] + 1 if own else 1 for own in placed)
    longest = max((column + length for own in placed for _, column, length in own), default=1)
    size = (max(4.0, (indent + longest + 2) * _LETTER), (num_lines + 0.3 * len(texts)) * _LINE + 1.0)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set_xlim(0, size[0] / _LETTER)
    axes.axis("off")
    # Dollar signs are letters here.
    font = {"family": "monospace", "fontsize": _POINTS, "va": "center", "parse_math": False}
    top = 0.0
    for head, own, text, row in zip(heads, placed, texts, numbers, strict=True):
        axes.text(0, top + 0.5, head, color="dimgrey", **font)
        for (line, column, length), token, value in zip(own, text, row, strict=True):
            place = (indent + column, top + line)
            axes.add_patch(Rectangle((place[0] - 0.1, place[1] + 0.05), length + 0.2, 0.9, color=_colour(value, bound)))
            axes.text(place[0], place[1] + 0.5, token, **font)
        top += (own[-1][0] + 1 if own else 1) + 0.3
    axes.set_ylim(top, 0)
    figure.suptitle(title, parse_math=False)
    scale = ScalarMappable(Normalize(-bound, bound), _pale_map())
    figure.colorbar(scale, ax=axes, location="bottom", shrink=0.5, aspect=40, label="activation")
    return figure


def activation_html(
    tokens: Sequence[Any],
    values: Sequence[Any],
    *,
    titles: Sequence[str] | None = None,
    title: str = "",
    bound: float | None = None,
    page: bool = False,
) -> str:
    """The same text as HTML, which needs no other file; the value of a token shows where the mouse rests on it.

    Args:
        tokens: Words or other pieces of one text, or several texts of such.
        values: One number for each token, likewise.
        titles: One per text, in front of it.
        title: Heading.
        bound: The value at which colours are strongest; None for the largest absolute value.
        page: True for a whole page to be written to a file, False for a piece of one, as notebooks show it.

    Returns:
        The HTML.

    Raises:
        ValueError: As for `activation_text`.
    """
    texts, numbers, bound = _checked(tokens, values, titles, bound, "activation_html")
    heads = [""] * len(texts) if titles is None else list(titles)
    rows = []
    for head, text, row in zip(heads, texts, numbers, strict=True):
        spans = " ".join(
            f'<span style="background:{_hex(value, bound)};color:#000;padding:1px 2px;border-radius:2px" '
            f'title="{value:.4g}">{html.escape(token)}</span>'
            for token, value in zip(text, row, strict=True)
        )
        label = f'<td style="color:#666;padding-right:1em;white-space:nowrap">{html.escape(head)}</td>'
        rows.append(f'<tr>{label if titles is not None else ""}<td style="text-align:left">{spans}</td></tr>')
    heading = f"<h4>{html.escape(title)}</h4>" if title else ""
    scale = f'<p style="color:#666">blue {-bound:.3g} &hellip; white 0 &hellip; red {bound:.3g}</p>'
    body = f'<div style="font-family:sans-serif;line-height:1.8">{heading}<table>{"".join(rows)}</table>{scale}</div>'
    if not page:
        return body
    name = html.escape(title or "activations")
    return (
        f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{name}</title></head><body>{body}</body></html>\n'
    )


def _checked(
    tokens: Any, values: Any, titles: Any, bound: float | None, where: str
) -> tuple[list[list[str]], list[np.ndarray], float]:
    """Returns texts as lists of strings, their values, and the bound of the colours."""
    tokens, values = list(tokens), list(values)
    if tokens and not isinstance(tokens[0], list | tuple | np.ndarray):
        tokens, values = [tokens], [values]
    texts = [[str(token) for token in text] for text in tokens]
    numbers = [np.asarray(own, "float64").reshape(-1) for own in values]
    lengths = [len(text) for text in texts], [len(own) for own in numbers]
    if not texts or lengths[0] != lengths[1] or (titles is not None and len(titles) != len(texts)):
        raise ValueError(
            f"{where}: expected one value for each token of each text, and one title for each text, received texts of "
            f"{lengths[0]} tokens, {lengths[1]} values and {'no' if titles is None else len(titles)} titles."
        )
    whole = np.concatenate([np.zeros(0), *numbers])
    if not np.isfinite(whole).all():
        raise ValueError(f"{where}: there are values that are NaN or infinite.")
    if bound is not None and not bound > 0:
        raise ValueError(f"{where}: bound expects a number above 0, received {bound!r}.")
    return texts, numbers, float(bound or np.abs(whole).max(initial=0.0) or 1.0)


def _letters(text: str) -> int:
    """Returns how many letters wide a text is; those of East Asia are two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _in_lines(tokens: list[str], width: int) -> list[tuple[int, int, int]]:
    """Returns the line, column and length of each token."""
    line, column, placed = 0, 0, []
    for token in tokens:
        length = _letters(token)
        if column and column + length > width:
            line, column = line + 1, 0
        placed.append((line, column, length))
        column += length + 1
    return placed


def _colour(value: float, bound: float) -> tuple:
    return colormaps[RELEVANCE_COLOURS](0.5 + 0.5 * _PALE * float(np.clip(value / bound, -1.0, 1.0)))


def _hex(value: float, bound: float) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in _colour(value, bound)[:3])


def _pale_map() -> Any:
    return ListedColormap([_colour(value, 1.0) for value in np.linspace(-1.0, 1.0, 256)])
