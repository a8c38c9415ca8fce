"""How many samples a fit needs, and the warning where there are fewer."""

from __future__ import annotations

from typing import NamedTuple

from tfprune.borders import warn

FEW_SAMPLES = 300
"""With fewer samples a fit by least squares is told by chance; about 2000 are good."""


class Fit(NamedTuple):
    """One regression.

    Attributes:
        reader: the name of the layer that reads the regressors.
        rows: how many rows it is fitted to: samples times positions.
        columns: how many regressors it has.
    """

    reader: str
    rows: int
    columns: int


def warn_of_few_samples(what: str, num_samples: int, fits: list[Fit]) -> None:
    """Warns where samples are too few, and says where rows are fewest against columns.

    Args:
        what: what is fitted, such as "repair 'least_squares'".
        num_samples: how many samples there are.
        fits: the regressions; none for means.
    """
    if num_samples >= FEW_SAMPLES:
        return
    worst = min(fits, key=lambda own: own.rows / own.columns, default=None)
    told = ""
    if worst is not None:
        told = f" Rows are fewest at {worst.reader!r}: {worst.rows} rows for {worst.columns} columns."
    warn(
        f"data: {what} has {num_samples} samples; below {FEW_SAMPLES} it may lose one to ten points of accuracy "
        f"against 2000.{told}"
    )
