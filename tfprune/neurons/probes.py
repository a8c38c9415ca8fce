"""Linear probes: what can be read from units, which ones it stands in, and how much of that is memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tfprune.borders import public, warn
from tfprune.neurons.control_tasks import control_labels
from tfprune.neurons.fitting import Linear, logistic, ridge
from tfprune.neurons.labelled import Points, classes_of, held_out, numbers_of, points_of
from tfprune.neurons.ranking import Ranked, Ranking
from tfprune.ties import rising_order

_TASKS = ("classification", "regression")
_L1, _L2 = 1e-3, 1e-3
_PARTS = ("top", "bottom", "random")


@dataclass(frozen=True, eq=False)
class Probe(Ranked):
    """A linear model that reads labels from units, and what it says of them.

    `scores` and `order` make it a ranking, for `experiments.ablation_curve` and masks.

    Attributes:
        task: "classification" or "regression".
        classes: the labels, in order, `(classes,)`; None for numbers.
        weights: of the units in standard deviations, `(classes, units)`; `(1, units)` for numbers.
        bias: `(classes,)`.
        ranking: all units, best first, over all classes.
        test: which points were held out, bool `(points,)`.
        train_accuracy: share of the points it learned from that are classified right. For numbers R2, the share of
            the variance that is explained, stands here and below.
        test_accuracy: the same of the points that were held out.
        majority_accuracy: what always naming the commonest class is worth on them; for numbers, always naming the mean.
        control_accuracy: accuracy at the control task, on the points that were held out; None without types.
    """

    task: str
    classes: np.ndarray | None
    weights: np.ndarray
    bias: np.ndarray
    ranking: Ranking
    test: np.ndarray
    train_accuracy: float
    test_accuracy: float
    majority_accuracy: float
    control_accuracy: float | None
    _linear: Linear = field(repr=False)
    _sizes: dict[str, int] | None = field(repr=False)

    @property
    def selectivity(self) -> float:
        """Accuracy less that of the control task.

        Raises:
            ValueError: if the probe was given no types.
        """
        if self.control_accuracy is None:
            raise ValueError(
                "selectivity: this probe has no control task, as it was given no types. Give what each point is an "
                "instance of: probe(activations, labels, types=words)."
            )
        return self.test_accuracy - self.control_accuracy

    def of_class(self, label: Any) -> Ranking:
        """The ranking for one class alone, by its own weights.

        Args:
            label: one of `classes`.

        Raises:
            ValueError: if there is no such class.
        """
        return Ranking(self._wrapped(_class_scores(np.abs(self.weights[[self._row(label)]]))))

    def top(self, share: float, label: Any = None) -> np.ndarray:
        """The fewest units that hold a share of the weight mass of each class, joined over classes.

        Args:
            share: of the sum of absolute weights of a class, 0 to 1. Every class with a weight gives one unit at least.
            label: one class alone; None for all.

        Returns:
            Flat positions, the most important first.

        Raises:
            ValueError: if the share is out of range, or there is no such class.
        """
        if isinstance(share, bool) or not 0 <= share <= 1:
            raise ValueError(f"top: expected a share of the weight mass from 0 to 1, received {share!r}.")
        rows = np.abs(self.weights if label is None else self.weights[[self._row(label)]])
        chosen = np.zeros(rows.shape[1], bool)
        for row in rows[rows.any(axis=1)]:
            falling = rising_order(-row)
            mass = np.cumsum(row[falling])
            # What rounding adds to a sum must not ask for a unit more.
            number = int(np.searchsorted(mass, share * mass[-1] * (1 - 1e-12))) + 1
            chosen[falling[:number]] = True
        order = self.order if label is None else self.of_class(label).order
        return order[chosen[order]]

    def predict(self, activations: Any) -> np.ndarray:
        """The labels that the probe reads from activations, `(points,)`.

        Raises:
            TypeError: if activations are no numbers.
            ValueError: if they do not fit those that the probe was fitted to.
        """
        return self._read(self._linear.outputs(self._points(activations, "predict").values))

    def ablate(
        self,
        activations: Any,
        labels: Any,
        *,
        shares: Sequence[float] = (0.1, 0.25, 0.5),
        num_random: int = 5,
        seed: int = 0,
    ) -> ProbeAblation:
        """Accuracy of this same probe with only, and without, some share of the units; the others stand at their mean.

        Args:
            activations: of points that the probe has not seen: `found["hidden"][probe.test]`.
            labels: theirs.
            shares: of the units, 0 to 1.
            num_random: how many random choices are averaged.
            seed: of these.

        Returns:
            A `ProbeAblation`.

        Raises:
            TypeError: if activations are no numbers.
            ValueError: if activations, labels or shares do not fit.
        """
        points = self._points(activations, "ablate")
        truth = self._truth(labels, len(points.values))
        shares = np.asarray(shares, "float64")
        if shares.ndim != 1 or not shares.size or not ((shares >= 0) & (shares <= 1)).all():
            raise ValueError(f"ablate: expected shares of the units from 0 to 1, received {shares.tolist()}.")
        if isinstance(num_random, bool) or not isinstance(num_random, int) or num_random < 1:
            raise ValueError(f"ablate: num_random expects a whole number of at least 1, received {num_random!r}.")
        rows = self._linear.standardised(points.values)
        generator = np.random.default_rng(seed)
        orders = {"top": [self.order], "bottom": [self.order[::-1]]}
        orders["random"] = [generator.permutation(rows.shape[1]) for _ in range(num_random)]

        def accuracy(units: np.ndarray) -> float:
            return _quality(truth, self._read(rows[:, units] @ self.weights[:, units].T + self.bias), self.task)

        found = {
            part: np.array([[_with_and_without(own, share, accuracy) for share in shares] for own in orders[part]])
            for part in _PARTS
        }
        means = {part: own.mean(axis=0) for part, own in found.items()}
        return ProbeAblation(
            shares,
            accuracy(np.arange(rows.shape[1])),
            {part: own[:, 0] for part, own in means.items()},
            {part: own[:, 1] for part, own in means.items()},
        )

    def __repr__(self) -> str:
        what = "accuracy" if self.task == "classification" else "R2"
        kinds = "numbers" if self.classes is None else f"{len(self.classes)} classes"
        lines = [f"Probe of {self.weights.shape[1]} units for {kinds}; {what} on {self.test.sum()} held-out points:"]
        rows = [("this probe", self.test_accuracy), ("the commonest answer", self.majority_accuracy)]
        if self.control_accuracy is not None:
            rows += [("its control task", self.control_accuracy), ("selectivity", self.selectivity)]
        return "\n".join([*lines, *(f"  {name.ljust(20)}  {value:6.3f}" for name, value in rows)])

    def _row(self, label: Any) -> int:
        if self.classes is None:
            raise ValueError(f"This probe reads numbers, not classes, so that there is no class {label!r}.")
        found = np.flatnonzero(self.classes == label)
        if not len(found):
            raise ValueError(f"There is no class {label!r}. Classes: {', '.join(map(str, self.classes.tolist()))}.")
        return int(found[0])

    def _wrapped(self, flat: np.ndarray) -> Any:
        return Points(flat, self._sizes).wrapped(flat)

    def _read(self, outputs: np.ndarray) -> np.ndarray:
        return outputs[:, 0] if self.classes is None else self.classes[outputs.argmax(axis=1)]

    def _points(self, activations: Any, where: str) -> Points:
        points = points_of(activations, where)
        given = points.values.shape[1] if points.sizes is None else points.sizes
        expected = self.weights.shape[1] if self._sizes is None else self._sizes
        if given != expected:
            raise ValueError(f"{where}: the probe reads {expected} units, received {given}.")
        return points

    def _truth(self, labels: Any, num_points: int) -> np.ndarray:
        if self.classes is None:
            return numbers_of(labels, num_points, "ablate")
        labels = np.asarray(labels)
        if labels.shape != (num_points,):
            raise ValueError(f"ablate: expected one label for each of {num_points} points, received {labels.shape}.")
        unknown = np.setdiff1d(labels, self.classes)
        if unknown.size:
            raise ValueError(
                f"ablate: the probe knows no class {unknown.tolist()[0]!r}. Classes: {self.classes.tolist()}."
            )
        return labels


@dataclass(frozen=True, eq=False)
class ProbeAblation:
    """Accuracy of a probe when some of its units say nothing.

    Attributes:
        shares: of the units, `(shares,)`.
        whole: accuracy with all of them.
        only: with the top, bottom or a random share of the units alone, `(shares,)` each.
        without: with all units beside these.
    """

    shares: np.ndarray
    whole: float
    only: dict[str, np.ndarray]
    without: dict[str, np.ndarray]

    def __repr__(self) -> str:
        lines = [f"Accuracy of a probe with all units {self.whole:.3f}; with some of them:"]
        lines.append("  share   " + "".join(f"{part} only  without  " for part in _PARTS).rstrip())
        for place, share in enumerate(self.shares):
            cells = [
                f"{self.only[part][place]:>{len(part) + 5}.3f}  {self.without[part][place]:>7.3f}  " for part in _PARTS
            ]
            lines.append(f"  {share:>5.3f}   " + "".join(cells).rstrip())
        return "\n".join(lines)


@public
def probe(
    activations: Any,
    labels: Any,
    *,
    task: str = "classification",
    l1: float | None = None,
    l2: float = _L2,
    types: Any = None,
    test: Any = 0.25,
    seed: int = 0,
) -> Probe:
    """Learns to read labels from activations with a linear model, and ranks units by what it reads them for.

    Classes by logistic regression with an elastic net,

        mean cross-entropy + l1 * sum |W| + l2 / 2 * sum W^2,

    numbers by ridge regression, half the mean squared error + l2 / 2 * sum W^2; to convergence, with units in standard
    deviations (constant ones have no weight). (The source's public code penalises the square root of sum W^2, and stops
    after ten epochs.) Take it to see whether a property can be read from a layer, and from how
    few of its units. It says what could be read, not what the model reads: for that erase units, by
    `experiments.ablation_curve`.

    A unit's score is 1 less the share of a class's weight mass (the sum of its |W|) that lies in heavier units, at its
    best class. So the units with scores above 1 - p are those that hold the share p of some class's mass: the source's
    order, with steps as fine as units are. The heaviest unit of a class, which would score 1, gains its share of the
    mass, so that their order says more than a place in a list. A unit without weight scores 0.

    Args:
        activations: `(points, units)`, or several layers by name, such as `activations` gives them.
        labels: of each point: classes (whole numbers or text), or numbers for task="regression".
        task: "classification" or "regression".
        l1: strength of the penalty that sets weights to zero; None for 0.001, and for 0 where numbers are read.
        l2: strength of the penalty that shares weights among units that say the same; above 0.
        types: what each point is an instance of, such as its word: adds a control task (`control_labels`).
        test: share of the points to hold out, of every class; or which ones, bool `(points,)`.
        seed: of the points that are held out, and of the control task.

    Returns:
        A `Probe`.

    Raises:
        TypeError: if activations or labels are of no such kind.
        ValueError: if they do not fit each other, hold NaN, no unit changes, there is one class or a class of one
            point, or an option is out of range.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> units = generator.normal(size=(400, 4))
        >>> found = probe(units, units[:, 2] + 0.5 * units[:, 0] > 0)
        >>> found.order.tolist()[:2], found.scores.round(1)
        ([2, 0], array([0.3, 0. , 1.7, 0. ]))
        >>> found.test_accuracy > found.majority_accuracy
        True

    Reference: F. Dalvi et al. (2019), "What is one grain of sand in the desert?", section 3.1; J. Hewitt, P. Liang
    (2019), "Designing and interpreting probes with control tasks".
    """
    if task not in _TASKS:
        raise ValueError(f"probe: task expects {' or '.join(map(repr, _TASKS))}, received {task!r}.")
    points = points_of(activations, "probe")
    is_classes = task == "classification"
    l1 = _checked_penalties(l1, l2, is_classes)
    num_points = len(points.values)
    classes = classes_of(labels, num_points, "probe") if is_classes else None
    truth = classes.codes if is_classes else numbers_of(labels, num_points, "probe")
    control = None
    if types is not None:
        if not is_classes:
            raise ValueError("probe: a control task draws classes; types are for task='classification'.")
        control = _control_codes(types, labels, num_points, seed)
    mask = held_out(test, classes.codes if is_classes else None, num_points, seed, "probe")
    rows, own, held = points.values[~mask], truth[~mask], truth[mask]
    linear = logistic(rows, own, l1, l2, seed) if is_classes else ridge(rows, own, l2)

    def quality(points: np.ndarray, truth: np.ndarray) -> float:
        outputs = linear.outputs(points)
        return _quality(truth, outputs.argmax(axis=1) if is_classes else outputs[:, 0], task)

    common = np.bincount(own).argmax() if is_classes else own.mean()
    return Probe(
        task=task,
        classes=classes.names if is_classes else None,
        weights=linear.weights,
        bias=linear.bias,
        ranking=Ranking(points.wrapped(_class_scores(np.abs(linear.weights)))),
        test=mask,
        train_accuracy=quality(rows, own),
        test_accuracy=quality(points.values[mask], held),
        majority_accuracy=_quality(held, np.full(len(held), common), task),
        control_accuracy=None if control is None else _control_accuracy(points.values, control, mask, l1, l2, seed),
        _linear=linear,
        _sizes=points.sizes,
    )


def _checked_penalties(l1: float | None, l2: float, is_classes: bool) -> float:
    """Returns l1."""
    for name, value in (("l1", l1), ("l2", l2)):
        if value is not None and not (np.isscalar(value) and np.isfinite(value) and value >= 0):
            raise ValueError(f"probe: {name} expects a number of at least 0, received {value!r}.")
    if not l2:
        raise ValueError(
            "probe: l2=0 leaves the weights open where classes can be told apart without error, or units say the same. "
            "Take a small number: l2=1e-6."
        )
    if not is_classes and l1:
        raise ValueError(f"probe: numbers are read by ridge regression, which has no l1; received l1={l1!r}.")
    return (_L1 if is_classes else 0.0) if l1 is None else l1


def _class_scores(mass: np.ndarray) -> np.ndarray:
    """Returns the scores of units from absolute weights `(classes, units)`; equal weights have equal scores."""
    scores = np.zeros(mass.shape[1])
    for row in mass[mass.any(axis=1)]:
        # Without the last bits, which depend on the processor, and of which clones would get different scores.
        share = np.round(row / row.sum(), 9)
        rising = np.sort(share)
        heavier = np.concatenate([np.cumsum(rising[::-1])[::-1], [0.0]])
        own = 1.0 - heavier[np.searchsorted(rising, share, side="right")]
        scores = np.maximum(scores, np.where(share == rising[-1], 1.0 + share, np.where(share > 0, own, 0.0)))
    return scores


def _quality(truth: np.ndarray, found: np.ndarray, task: str) -> float:
    """Returns the share that is right; of numbers the share of their variance that is explained."""
    if task == "classification":
        return float(np.mean(truth == found))
    spread = np.mean(np.square(truth - truth.mean()))
    left = np.mean(np.square(truth - found))
    return float(1.0 - left / spread) if spread else float(left == 0)


def _with_and_without(order: np.ndarray, share: float, accuracy: Any) -> tuple[float, float]:
    number = round(float(share) * len(order))
    return accuracy(order[:number]), accuracy(order[number:])


def _control_codes(types: Any, labels: Any, num_points: int, seed: int) -> np.ndarray:
    if np.shape(types) != (num_points,):
        raise ValueError(f"probe: types expects one for each of the {num_points} points, received {np.shape(types)}.")
    return np.unique(control_labels(types, labels, seed=seed), return_inverse=True)[1].reshape(-1)


def _control_accuracy(
    points: np.ndarray, codes: np.ndarray, mask: np.ndarray, l1: float, l2: float, seed: int
) -> float:
    """Returns how well a probe of the same kind learns the control task, on the points that are held out."""
    seen, own = np.unique(codes[~mask], return_inverse=True)
    if len(seen) < 2:
        warn(
            "probe: the control task gave all points that are learned from the same label, so that it says nothing. "
            "Take another seed, or data with more types."
        )
        return float(np.mean(codes[mask] == seen[0]))
    linear = logistic(points[~mask], own.reshape(-1), l1, l2, seed)
    return float(np.mean(seen[linear.outputs(points[mask]).argmax(axis=1)] == codes[mask]))
