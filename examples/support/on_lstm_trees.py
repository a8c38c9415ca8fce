"""Trees of sentences: read greedily from distances, and compared with the brackets that are there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Tree = int | tuple["Tree", ...]
"""The place of a token, or the parts of a constituent."""


def tree_of(distances: Sequence[float]) -> Tree:
    """Returns the tree of a sentence: the largest distance splits it into what is before, the token, and what follows.

    Args:
        distances: One for every token, how much is erased as it is read.

    Reference: Y. Shen et al. (2019), section 5.2.
    """
    return _split(np.asarray(distances, float), 0, len(distances))


def _split(distances: np.ndarray, start: int, stop: int) -> Tree:
    if stop - start == 1:
        return start
    at = start + int(np.argmax(distances[start:stop]))
    right: Tree = at if at + 1 == stop else (at, _split(distances, at + 1, stop))
    return right if at == start else (_split(distances, start, at), right)


def spans_of(tree: Tree) -> set[tuple[int, int]]:
    """Returns all constituents of two tokens or more, `(first, last)`."""
    found: set[tuple[int, int]] = set()

    def walk(part: Tree) -> tuple[int, int]:
        if isinstance(part, int):
            return part, part
        ends = [walk(own) for own in part]
        found.add((ends[0][0], ends[-1][1]))
        return ends[0][0], ends[-1][1]

    walk(tree)
    return found


def recall(found: list[set], true: list[set]) -> float:
    """Returns the share of the true constituents that were found, over all sentences."""
    return sum(len(one & other) for one, other in zip(found, true, strict=True)) / max(1, sum(map(len, true)))


def written(tree: Tree, tokens: Sequence[str]) -> str:
    """Returns the tree in one line."""
    return tokens[tree] if isinstance(tree, int) else f"({' '.join(written(part, tokens) for part in tree)})"
