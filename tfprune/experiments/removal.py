"""What cutting units out costs: accuracy of the smaller models, by saliency, repair and sparsity."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import keras
import numpy as np
from tqdm import tqdm

from tfprune.borders import public
from tfprune.compiling import without_retracing_warnings
from tfprune.experiments.records import Record
from tfprune.files import run_information
from tfprune.objectives import check_classes
from tfprune.select import keep_top
from tfprune.surgery import remove
from tfprune.units import LayerValues

REPAIRS = ("zero", "mean", "affine", "least_squares")
AnyRows = TypeVar("AnyRows", bound="Rows")
Saliency = Callable[[keras.Model, Any], LayerValues]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Rows(Record):
    """A record whose arrays are the columns of one table, so that results can be added one by one."""

    @classmethod
    def empty(cls: type[AnyRows], settings: dict[str, Any]) -> AnyRows:
        """A table without rows."""
        kinds = {field.name: str if field.metadata.get("text") else float for field in dataclasses.fields(cls)}
        return cls(settings=settings, **{name: np.array([], kinds[name]) for name in cls.array_names()})

    @classmethod
    def resume(cls: type[AnyRows], path: Path | None, settings: dict[str, Any]) -> AnyRows:
        """What an earlier run left at the path, or a table without rows.

        Raises:
            ValueError: If the file comes from another model or other data.
        """
        if path is None or not Path(path).is_file():
            return cls.empty(settings)
        found = cls.load(path)
        if found.settings.get("fingerprint") != settings["fingerprint"]:
            raise ValueError(
                f"{path}: its results come from another model or other data. Delete the file or choose another path."
            )
        return found

    def where(self, **labels: Any) -> np.ndarray:
        """Which rows have all these values, bool of shape ``(num_rows,)``."""
        chosen = np.ones(len(getattr(self, self.array_names()[0])), bool)
        for name, value in labels.items():
            column = getattr(self, name)
            chosen &= column == value if column.dtype.kind == "U" else np.isclose(column, value)
        return chosen

    def with_row(self: AnyRows, **values: Any) -> AnyRows:
        """The same table with one row more."""
        columns = {name: np.append(getattr(self, name), values[name]) for name in self.array_names()}
        return dataclasses.replace(self, **columns)


def text_column() -> Any:
    """A column of words, for the fields of a `Rows` class."""
    return dataclasses.field(metadata={"text": True})


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RemovalGrid(Rows):
    """Smaller models made from one model. Its own accuracy is ``settings["full_accuracy"]``.

    Attributes:
        saliency: Name of the score that chose the units, one per row.
        repair: Name of the repair.
        sparsity: Fraction of the units of each scored group that are gone.
        accuracy: Of the smaller model on the test data, from 0 to 1, without any training.
        loss: Its loss on the test data.
        parameters: Number of parameters that are left.
        seconds: Time that cutting and repairing took.
    """

    saliency: np.ndarray = text_column()
    repair: np.ndarray = text_column()
    sparsity: np.ndarray
    accuracy: np.ndarray
    loss: np.ndarray
    parameters: np.ndarray
    seconds: np.ndarray

    @property
    def full_accuracy(self) -> float:
        """Accuracy of the model with all its units."""
        return self.settings["full_accuracy"]

    def accuracy_at(self, saliency: str, repair: str, sparsity: float) -> float:
        """Accuracy of one smaller model, NaN where it was not made. At sparsity 0 it is the full model's."""
        if sparsity == 0.0:
            return self.full_accuracy
        found = self.accuracy[self.where(saliency=saliency, repair=repair, sparsity=sparsity)]
        return float(found[0]) if found.size else float("nan")


def accuracy_curves(
    grids: Sequence[RemovalGrid], saliency: str, repair: str, sparsities: Sequence[float]
) -> np.ndarray:
    """Accuracies of several trainings of one net.

    Args:
        grids: One record per training.
        saliency: Name of the score.
        repair: Name of the repair.
        sparsities: Where to look.

    Returns:
        Shape ``(num_grids, num_sparsities)``, NaN where a model was not made.
    """
    return np.array([[grid.accuracy_at(saliency, repair, sparsity) for sparsity in sparsities] for grid in grids])


@public
def removal_grid(
    model: keras.Model,
    data: tuple[np.ndarray, np.ndarray],
    *,
    calibration: Any,
    saliencies: Mapping[str, Saliency],
    sparsities: Iterable[float],
    repairs: Sequence[str] = REPAIRS,
    path: Path | None = None,
) -> RemovalGrid:
    """Cuts units out at every sparsity, by every score and with every repair, and tests each smaller model.

    Nothing is trained. With a path, every result is saved at once, and one that is there already is not made again.

    Args:
        model: A compiled Sequential or functional model with the metric "accuracy".
        data: ``(x, y)`` to test on.
        calibration: Inputs for scores and repairs; they must not be those of the test.
        saliencies: Functions ``(model, calibration) -> scores`` by name. Groups without scores stay whole.
        sparsities: Fractions of the units of each scored group that go, in the order of work.
        repairs: Names of repairs.
        path: npz file to save to and to resume from.

    Returns:
        The record, with all rows that the file holds.

    Raises:
        ValueError: If the model has no accuracy, or the file comes from another model or other data.
    """
    settings = {"fingerprint": fingerprint(model, calibration, data), **run_information()}
    grid = RemovalGrid.resume(path, settings)
    if "full_accuracy" not in grid.settings:
        loss, accuracy = evaluate(model, data)
        full = {"full_accuracy": accuracy, "full_loss": loss, "full_parameters": model.count_params()}
        grid = dataclasses.replace(grid, settings=grid.settings | full)
    cells = [(score, repair, sparsity) for sparsity in sparsities for score in saliencies for repair in repairs]
    cells = [cell for cell in cells if np.isnan(grid.accuracy_at(*cell))]
    scores: dict[str, LayerValues] = {}
    for name, repair, sparsity in tqdm(cells, desc=model.name, leave=False, disable=None):
        if name not in scores:
            scores[name] = saliencies[name](model, calibration)
        start = time.perf_counter()
        small = remove(model, keep_top(scores[name], sparsity), repair=repair, data=calibration)
        seconds = time.perf_counter() - start
        loss, accuracy = evaluate(small, data)
        labels = {"saliency": name, "repair": repair, "sparsity": sparsity, "seconds": seconds}
        grid = grid.with_row(**labels, accuracy=accuracy, loss=loss, parameters=small.count_params())
        if path is not None:
            grid.save(path)
    return grid


def evaluate(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Loss and accuracy of a compiled model.

    Raises:
        ValueError: If the model is not compiled, or has no metric "accuracy".
    """
    if not model.compiled:
        raise ValueError(f"model {model.name!r} is not compiled; compile it with a loss and metrics=['accuracy'].")
    check_classes(model, data[1])
    with without_retracing_warnings():
        results = model.evaluate(*data, batch_size=500, verbose=0, return_dict=True)
    if "accuracy" not in results:
        raise ValueError(
            f"model {model.name!r} has the metrics {sorted(results)}; compile it with metrics=['accuracy']."
        )
    return results["loss"], results["accuracy"]


def fingerprint(model: keras.Model, *arrays: Any) -> str:
    """A digest of a model's weights and of arrays, to tell whether results belong to them."""
    digest = hashlib.sha256()
    for array in [*model.get_weights(), *keras.tree.flatten(arrays)]:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
