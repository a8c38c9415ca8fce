"""The examples at which a neuron says most: what it looks at, read with one's own eyes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from tfprune.borders import public
from tfprune.neurons.activations import Activations
from tfprune.neurons.labelled import Points, points_of
from tfprune.neurons.ranking import units_of_labels
from tfprune.plots import activation_html, activation_text
from tfprune.ties import rising_order

# What an example that is no text is called by, at most so long.
_LONGEST = 40


@dataclass(frozen=True, eq=False)
class Example:
    """One example and what one unit says at it.

    Attributes:
        number: which example it is, from 0.
        position: which of its tokens has the value; 0 for examples that are one point.
        value: of the unit there.
        tokens: the whole example.
        values: of the unit at each token, `(tokens,)`.
    """

    number: int
    position: int
    value: float
    tokens: tuple[Any, ...]
    values: np.ndarray


class TopExamples(Mapping[Any, tuple[Example, ...]]):
    """Examples by unit, the best first: a position, or `(layer name, unit)`. Notebooks show the coloured text.

    Args:
        by_unit: the examples of each unit.
        which: "highest", "lowest" or "absolute".
    """

    def __init__(self, by_unit: Mapping[Any, tuple[Example, ...]], which: str):
        self._by_unit, self.which = dict(by_unit), which

    def __getitem__(self, unit: Any) -> tuple[Example, ...]:
        return self._by_unit[unit]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._by_unit)

    def __len__(self) -> int:
        return len(self._by_unit)

    def figure(self, unit: Any) -> Figure:
        """Draws the examples of a unit as coloured text.

        Args:
            unit: one of the keys.

        Raises:
            KeyError: if there are no examples of this unit.
        """
        return activation_text(**self._drawn(unit))

    def html(self, *, page: bool = False) -> str:
        """The examples of all units as coloured text in HTML.

        Args:
            page: True for a whole page to be written to a file.
        """
        pieces = [activation_html(**self._drawn(unit)) for unit in self]
        if not page:
            return "\n".join(pieces)
        head = '<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>top examples</title></head><body>'
        return "\n".join([head, *pieces, "</body></html>\n"])

    def __repr__(self) -> str:
        lines = [f"TopExamples of {len(self)} units ({self.which}):"]
        for unit, examples in self._by_unit.items():
            lines.append(f"  {_called(unit)}")
            for own in examples:
                words = [f"[{token}]" if place == own.position else token for place, token in enumerate(own.tokens)]
                lines.append(f"    {own.value:9.4g}  {' '.join(map(str, words))}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return self.html()

    def _drawn(self, unit: Any) -> dict[str, Any]:
        examples = self[unit]
        return {
            "tokens": [own.tokens for own in examples],
            "values": [own.values for own in examples],
            "titles": [f"{own.number}: {own.value:.3g}" for own in examples],
            "title": f"{_called(unit)}: {self.which} activations",
        }


@public
def top_examples(
    activations: Any, examples: Sequence[Any], units: Any, *, num_examples: int = 5, which: str = "highest"
) -> TopExamples:
    """Finds the examples at which units say most.

    An example is a point, or a sequence of tokens that are points each: it counts by its strongest token, once, and its
    other tokens show beside it. Masked steps are no points, so give sequences without their padding.

    Args:
        activations: `(points, units)`, or several layers by name.
        examples: one for each point, or sequences of tokens, `sentence.split()`, which are as many as the points all
            together, in their order.
        units: which ones: whole numbers; of layers by name lists of such by name, or labels such as "hidden[3]", as
            `ranking.labels(10)` gives them.
        num_examples: how many for each unit, at most.
        which: "highest", "lowest", or "absolute" for the largest either way.

    Returns:
        A `TopExamples`: `found[unit]`, or `found[name, unit]` for layers by name; `found.figure(unit)` and
        `found.html()` draw them.

    Raises:
        TypeError: if activations, examples or units are of no such kind.
        ValueError: if they do not fit each other, hold NaN, or there is no such unit.

    Example:
        >>> units = np.array([[0.1], [0.9], [-0.3], [0.2], [0.8]])
        >>> top_examples(units, [["a", "(", "b"], ["c", ")"]], 0)
        TopExamples of 1 units (highest):
          0
                  0.9  a [(] b
                  0.8  c [)]

    Reference: A. Karpathy, J. Johnson, L. Fei-Fei (2015), "Visualizing and understanding recurrent networks".
    """
    if which not in ("highest", "lowest", "absolute"):
        raise ValueError(f"top_examples: which expects 'highest', 'lowest' or 'absolute', received {which!r}.")
    if isinstance(num_examples, bool) or not isinstance(num_examples, int) or num_examples < 1:
        raise ValueError(f"top_examples: num_examples expects a whole number of at least 1, received {num_examples!r}.")
    if isinstance(examples, str) or not hasattr(examples, "__len__"):
        raise TypeError(f"top_examples: examples expects a sequence of examples, received {type(examples).__name__}.")
    if not isinstance(activations, Mapping):
        points = points_of(activations, "top_examples")
        spans = _spans(examples, len(points.values), None)
        own = points.positions(units, "top_examples")
        found = {unit: _best(points.values[:, unit], spans, num_examples, which) for unit in own.tolist()}
        return TopExamples(found, which)
    if not isinstance(units, Mapping):
        units = units_of_labels(units, "top_examples: units")
    Points(np.zeros((1, 0)), {name: np.shape(own)[-1] for name, own in activations.items()}).positions(
        units, "top_examples"
    )
    found = {}
    for name, chosen in units.items():
        values = points_of(activations[name], "top_examples").values
        # Where samples are points, their numbers say nothing of sentences.
        cut = isinstance(activations, Activations) and activations.points != "samples"
        spans = _spans(examples, len(values), activations.samples[name] if cut else None)
        for unit in np.atleast_1d(chosen).tolist():
            found[name, unit] = _best(values[:, unit], spans, num_examples, which)
    return TopExamples(found, which)


class _Span(NamedTuple):
    """The number of an example, its points, and what they are called."""

    number: int
    points: np.ndarray
    tokens: tuple[Any, ...]


def _spans(examples: Sequence[Any], num_points: int, samples: np.ndarray | None) -> list[_Span]:
    """Returns which points each example has; those without any are left out."""
    if not len(examples):
        raise ValueError("top_examples: there are no examples.")
    if len(examples) == num_points:
        return [_Span(number, np.array([number]), (_shown(own, number),)) for number, own in enumerate(examples)]
    counts = [len(own) if _is_sequence(own) else 1 for own in examples]
    if sum(counts) != num_points:
        mend = " Cut text into tokens: sentence.split()." if isinstance(examples[0], str) else ""
        raise ValueError(
            f"top_examples: expected one example for each of the {num_points} points, or sequences with as many tokens "
            f"in all, received {len(examples)} examples with {sum(counts)}. Padding that is masked counts for nothing."
            f"{mend}"
        )
    if samples is not None and not np.array_equal(np.bincount(samples, minlength=len(counts)), counts):
        wrong = int(np.flatnonzero(np.bincount(samples, minlength=len(counts))[: len(counts)] != counts)[0])
        raise ValueError(
            f"top_examples: example {wrong} has {counts[wrong]} tokens, but {np.sum(samples == wrong)} points. Give "
            "the examples in the order of the data."
        )
    ends = np.cumsum(counts)
    return [
        _Span(number, np.arange(end - count, end), tuple(own) if _is_sequence(own) else (_shown(own, number),))
        for number, (own, count, end) in enumerate(zip(examples, counts, ends, strict=True))
        if count
    ]


def _best(values: np.ndarray, spans: list[_Span], num_examples: int, which: str) -> tuple[Example, ...]:
    strength = {"highest": values, "lowest": -values, "absolute": np.abs(values)}[which]
    places = [span.points[int(np.argmax(strength[span.points]))] for span in spans]
    chosen = rising_order(-strength[places])[:num_examples]
    return tuple(
        Example(
            spans[k].number,
            int(places[k] - spans[k].points[0]),
            float(values[places[k]]),
            spans[k].tokens,
            values[spans[k].points],
        )
        for k in chosen
    )


def _is_sequence(example: Any) -> bool:
    return isinstance(example, list | tuple) or isinstance(example, np.ndarray) and example.ndim == 1


def _shown(example: Any, number: int) -> str:
    """Returns what an example that is one point is called: images and the like by their number."""
    text = str(example)
    return text if len(text) <= _LONGEST and "\n" not in text else f"example {number}"


def _called(unit: Any) -> str:
    return f"{unit[0]}[{unit[1]}]" if isinstance(unit, tuple) else str(unit)
