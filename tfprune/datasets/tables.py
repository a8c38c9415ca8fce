"""Tables of numbers with a class to predict: generated, bundled with scikit-learn, or the user's own CSV or XLSX."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tfprune.datasets.sheets import read_sheet
from tfprune.units import describe_unknown

Split = tuple[np.ndarray, np.ndarray]

_BUNDLED = ("breast_cancer", "wine")
_ROWS, _FEATURES, _MAJORITY = 330, 11, 0.8


def tables(
    source: str | os.PathLike = "generated",
    *,
    target: str | None = None,
    drop: Iterable[str] = (),
    test_fraction: float = 0.2,
    seed: int = 0,
) -> tuple[Split, Split]:
    """A table of numeric features and a class, split into a training and a test part.

    Features are scaled so that the training part fills [0, 1]; a column that is constant there becomes 0. The test part
    holds the same share of every class as the whole.

    - ``"generated"``: 330 rows with 11 features of skewed times and counts, and two classes, of which four fifths of
      the rows are one. It stands in for a study of mobile web search whose data are not public.
    - ``"breast_cancer"`` (569 rows, 30 features, 2 classes) and ``"wine"`` (178 rows, 13 features, 3 classes) come with
      scikit-learn.
    - the path of a CSV (comma, semicolon or tab) or XLSX file (its first sheet) with names in the first row, and
      ``target`` as one of them.

    Args:
        source: One of the names above, or a path.
        target: Name of the column that holds the class, for a file; words or numbers.
        drop: Names of columns of the file that are left out, such as identifiers.
        test_fraction: Fraction of the rows in the test part, between 0 and 1 (both excluded).
        seed: Seed of the generated table, and of the shuffling before the split.

    Returns:
        ``(x_train, y_train), (x_test, y_test)``; features float32 of shape ``(n, features)``, classes int64 of shape
        ``(n,)`` from 0 in the order of their names.

    Raises:
        ValueError: If the source or a column is unknown, a target is missing or not wanted, a cell is empty or not
            numeric, there is one class only, or a part of the split would be empty.

    Example:
        >>> (x_train, y_train), (x_test, y_test) = tables()
        >>> x_train.shape, x_test.shape, round(float(1 - y_test.mean()), 1)
        ((264, 11), (66, 11), 0.8)
    """
    if source == "generated" or source in _BUNDLED:
        if target is not None or list(drop):
            raise ValueError(
                f"tables: target and drop are for files; {source!r} has a target of its own. Leave them out."
            )
        x, y = _generated(seed) if source == "generated" else _bundled(source)
    else:
        x, y = _from_file(source, target, tuple(drop))
    return _split(x, y, test_fraction, seed)


def _generated(seed: int) -> Split:
    """Skewed features that hang together, and a class that most of them bear on a little."""
    generator = np.random.default_rng(seed)
    habits = generator.standard_normal((_ROWS, 3))
    mixing = generator.normal(0.0, 0.7, (3, _FEATURES))
    features = np.exp(0.6 * (habits @ mixing + 0.6 * generator.standard_normal((_ROWS, _FEATURES))))
    features[:, 6:] = np.floor(4.0 * features[:, 6:])
    bent = np.sin(1.5 * habits[:, 0]) + habits[:, 1] * habits[:, 2] + 0.5 * habits[:, 1]
    score = bent + 0.25 * generator.standard_normal(_ROWS)
    return features, (score > np.quantile(score, _MAJORITY)).astype(np.int64)


def _bundled(name: str) -> Split:
    # scikit-learn takes about a second to import, which users of the other data sets need not pay.
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    return bunch.data.astype(np.float64), bunch.target.astype(np.int64)


def _from_file(source: str | os.PathLike, target: str | None, drop: tuple[str, ...]) -> Split:
    path = Path(source)
    if not path.is_file():
        known = ", ".join(map(repr, ("generated", *_BUNDLED)))
        raise ValueError(
            f"tables: expected one of {known}, or the path of a CSV or XLSX file; there is none at {source}."
        )
    names, rows = _read(path)
    if target is None:
        raise ValueError(
            f"{path}: a file needs target=..., the column that holds the class. Columns: {', '.join(names)}."
        )
    unknown = [name for name in (target, *drop) if name not in names]
    if unknown:
        raise ValueError(f"{path}: the table has no such column. {describe_unknown(unknown, names)}")
    features = [name for name in names if name != target and name not in drop]
    if not features:
        raise ValueError(f"{path}: no column is left to learn from beside the target {target!r}.")
    x = np.array([[_number(path, row, names, name, line) for name in features] for line, row in enumerate(rows, 2)])
    labels = [row[names.index(target)].strip() for row in rows]
    empty = [line for line, label in enumerate(labels, 2) if not label]
    if empty:
        raise ValueError(f"{path}: row {empty[0]} has no value in the target column {target!r}.")
    classes = sorted(set(labels), key=_in_order)
    if len(classes) < 2:
        raise ValueError(
            f"{path}: the target column {target!r} holds one class only, {classes[0]!r}; expected at least two."
        )
    return x, np.array([classes.index(label) for label in labels], np.int64)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Returns the names of the columns and the rows as text."""
    if path.suffix.lower() == ".xlsx":
        cells = read_sheet(path)
    else:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: expected a CSV file in UTF-8, or a file that ends in .xlsx ({error})."
            ) from error
        first = text.splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=first.count)
        cells = list(csv.reader(text.splitlines(), delimiter=delimiter))
    cells = [row for row in cells if any(cell.strip() for cell in row)]
    if len(cells) < 2:
        raise ValueError(
            f"{path}: expected names in the first row and at least one row below, received {len(cells)} rows."
        )
    names = [name.strip() for name in cells[0]]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the columns {', '.join(map(repr, twice))} appear more than once.")
    for line, row in enumerate(cells[1:], 2):
        if len(row) > len(names):
            raise ValueError(f"{path}: row {line} has {len(row)} cells, but there are {len(names)} columns.")
    return names, [row + [""] * (len(names) - len(row)) for row in cells[1:]]


def _number(path: Path, row: list[str], names: list[str], name: str, line: int) -> float:
    cell = row[names.index(name)].strip()
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{path}: expected a number in column {name!r} of row {line}, received {cell!r}. Mend the cell, or leave "
            f"the column out with drop=[{name!r}]."
        )
    return value


def _in_order(label: str) -> tuple[int, float, str]:
    """Numbers come before words, and in their own order."""
    try:
        return 0, float(label), label
    except ValueError:
        return 1, 0.0, label


def _split(x: np.ndarray, y: np.ndarray, test_fraction: float, seed: int) -> tuple[Split, Split]:
    """Shuffles, gives every class its share of the test part, and scales."""
    num_test = round(len(y) * test_fraction) if 0 < test_fraction < 1 else 0
    if not 0 < num_test < len(y):
        raise ValueError(
            f"tables: expected test_fraction between 0 and 1 so that both parts of the {len(y)} rows hold some, "
            f"received {test_fraction}."
        )
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = x[order], y[order]
    # Each row's place within its class, as a share: the smallest ones are the test part.
    place = np.empty(len(y))
    for label in np.unique(y):
        own = np.flatnonzero(y == label)
        place[own] = (np.arange(len(own)) + 0.5) / len(own)
    first = np.argsort(place, kind="stable")
    test, train = np.sort(first[:num_test]), np.sort(first[num_test:])
    low, high = x[train].min(axis=0), x[train].max(axis=0)
    scaled = ((x - low) / np.where(high > low, high - low, 1.0)).astype(np.float32)
    scaled[:, high == low] = 0.0
    return (scaled[train], y[train]), (scaled[test], y[test])
