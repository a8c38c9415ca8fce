"""SVCCA and MaxCorr of two layers of 512 neurons on 10,000 points, against the linear algebra that they need.

Every ratio is of processor times within one process, each pair measured in turn; medians.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import argparse
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

from tfprune import neurons


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions")
    parser.add_argument("--points", type=int, default=10_000, help="points")
    parser.add_argument("--units", type=int, default=512, help="neurons of each layer")
    options = parser.parse_args()
    table = Table(title=f"{options.units} neurons, {options.points:,} points, medians of {options.repeats} runs")
    for column in ("what", "CPU seconds", "against", "CPU seconds", "ratio", "target"):
        table.add_column(column, justify="left" if column in ("what", "against") else "right")
    # One thread: threads that wait for each other on a busy machine count as work.
    with threadpool_limits(1):
        for row in similarity_rows(options):
            table.add_row(*row)
    Console(width=140).print(table)


def similarity_rows(options: argparse.Namespace) -> list[tuple[str, ...]]:
    one, other = layers(options.points, options.units)
    wide, wide_other = one.astype("float64"), other.astype("float64")
    svcca, max_correlation = (lambda: neurons.svcca([one, other])), (lambda: neurons.max_correlation([one, other]))
    rows = []
    needed, big = needed_work(wide, wide_other), lambda: big_route(one, other)
    np.testing.assert_allclose(svcca().correlations, big(), atol=1e-6)
    for against, work, form, target in (
        ("its products and decompositions", needed, "{:.2f} x", "at most 1.1 x"),
        ("the decompositions of the activations", big, "{:.2f} x", "at most 0.25 x"),
    ):
        rows.append(compared("svcca", svcca, against, work, options.repeats, form, target))
    product = compared(
        "max_correlation", max_correlation, "its product", lambda: wide.T @ wide_other, options.repeats, "{:.2f} x",
        "at most 1.5 x",
    )  # fmt: skip
    return [*rows, product]


def layers(points: int, units: int) -> tuple[np.ndarray, np.ndarray]:
    """Two layers with falling variances that have half of their directions in common, as trained nets have."""
    generator = np.random.default_rng(0)
    common = generator.normal(size=(points, units)) * np.arange(1, units + 1) ** -0.5
    own = [common + 0.1 * generator.normal(size=common.shape) for _ in range(2)]
    return tuple((values @ generator.normal(size=(units, units))).astype("float32") for values in own)


def needed_work(one: np.ndarray, other: np.ndarray) -> Callable:
    """What SVCCA cannot do without: three products, the eigenvectors of two, and the decomposition between them."""

    def run() -> None:
        kept = []
        for values in (one, other):
            eigenvalues, vectors = np.linalg.eigh(values.T @ values)
            shares = np.cumsum(eigenvalues[::-1]) / eigenvalues.sum()
            kept.append(vectors[:, ::-1][:, : int(np.argmax(shares >= 0.99)) + 1])
        np.linalg.svd(kept[0].T @ (one.T @ other) @ kept[1], full_matrices=False)

    return run


def big_route(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """SVCCA as it is mostly written: decompositions of the activations themselves."""
    found = []
    for values in (one.astype("float64"), other.astype("float64")):
        left, s, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        found.append(left[:, : int(np.argmax(np.cumsum(s**2) >= 0.99 * np.sum(s**2))) + 1])
    return np.linalg.svd(found[0].T @ found[1], compute_uv=False)


def compared(
    what: str, ours: Callable, against: str, theirs: Callable, repeats: int, form: str, target: str
) -> tuple[str, ...]:
    ours(), theirs()
    times = np.array([(cpu_seconds(ours), cpu_seconds(theirs)) for _ in range(repeats)])
    ratio = np.median(times[:, 0] / times[:, 1])
    seconds = np.median(times, axis=0)
    return what, f"{seconds[0]:.3f}", against, f"{seconds[1]:.3f}", form.format(ratio), target


def cpu_seconds(function: Callable) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


if __name__ == "__main__":
    main()
