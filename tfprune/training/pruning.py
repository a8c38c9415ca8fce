"""Pruning while training: a callback for plain `model.fit`."""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from tfprune.data import as_batches
from tfprune.graph.walk import functional
from tfprune.masking import refuse_masked
from tfprune.objectives import sample_loss
from tfprune.repair import find_repair
from tfprune.schedules import Schedule, as_schedule
from tfprune.select import SCOPES
from tfprune.tracing import ByLengths
from tfprune.training.stepping import Hold, StepCounter, attach, detach, refuse_uncompiled
from tfprune.training.targets import Units, Weights, choose_top
from tfprune.units import LayerValues

_LEAST_SAMPLES = 10


@dataclass(frozen=True)
class PruningStep:
    """One pruning step.

    Attributes:
        step: training steps (batches) that were done before it.
        epoch: epochs that were done before it.
        sparsity: what the schedule wanted.
        off: how many units (or weights) are off after it, by name.
        total: how many there are, by name.
        loss_before: mean loss on the callback's data just before; None without targets or a compiled loss.
        loss_after: the same just after, repair included.
    """

    step: int
    epoch: int
    sparsity: float
    off: dict[str, int]
    total: dict[str, int]
    loss_before: float | None
    loss_after: float | None


class PruneDuringTraining(StepCounter):
    """Prunes units or weights while a model is trained by `fit`, by a schedule; what is off stays off.

    Whenever the schedule rises, the model as it is then is scored, `keep_top` chooses (what is off stays off and counts
    as off), a repair makes up for the units that went, and the weights of what is off are set to zero: of a unit all
    weights that `remove` would cut, so that the training model computes what the smaller one will. Between pruning
    steps these weights stay exactly zero whatever the optimizer does: their gradients are masked before the optimizer
    sees them, and its moments of them are zero; with optimizers that mix entries (Muon, Lamb, Adafactor, a user's own)
    and where a weight has a constraint, the weights are masked once more after each update. All of that is compiled
    into the training step, so it works with `jit_compile`, mixed precision, `tf.data` and `steps_per_execution`; with
    the latter, pruning steps come between executions. Nothing of it is saved with the model.

    A training that is taken up from a saved model is recognised: units whose weights are all zero are off (single
    weights that are zero, likewise); pass `initial_epoch` to `fit` as usual. At the end
    `tfprune.remove(model, callback.mask)` gives the smaller model; for weights the zeros are in the model.

    Args:
        saliency: what scores: a function `(model, data) -> LayerValues` of scores per unit, by group name, such as
            those of `tfprune.saliency`, or of scores in the shape of kernels for single weights. With `layers` it is
            called with `layers=...` if it has such an argument.
        schedule: one of `tfprune.schedules`, or a function of the step.
        data: what scores and repairs look at, whatever `fit` takes; about 1000 training samples, with targets if the
            saliency needs them. With targets the loss before and after each pruning step is noted too.
        scope: "group" prunes so much of each group, "global" of all together.
        min_units: how many units of every group stay at least.
        layers: names of groups or layers (for weights: of kernels); None takes all. Units that a layer normalization
            or a sum counts cannot be held off and are left out, see `left_out`.
        repair: what `remove` takes as repair; None is "mean" for units, which adds the mean of a removed unit times its
            weights to the next bias, and "zero" for weights, which know no other.
        mask: what is off from the beginning; None for what the model shows to be off.

    Attributes:
        mask: what is on, bool by group (or kernel) name; None before the first `fit`.
        history: a list of `PruningStep`.
        left_out: why groups cannot be held off, by name.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; and when `fit` begins, before any training: if the schedule
            falls, the saliency does not fit (it is called once), the data are too few or do not fit, or a repair has no
            place for its constants. During training if a saliency gives NaN.

    Example:
        >>> schedule = tfprune.schedules.by_epoch({2: 0.1, 3: 0.2, 4: 0.4, 5: 0.6})                 # doctest: +SKIP
        >>> prune = PruneDuringTraining(tfprune.saliency.mean_replacement, schedule, (x[:1000], y[:1000]))
        ...                                                                                         # doctest: +SKIP
        >>> net.fit(x, y, epochs=10, callbacks=[prune])                                             # doctest: +SKIP
        >>> small = tfprune.remove(net, prune.mask)                                                 # doctest: +SKIP

    Reference: U. Evci (2018), sections 2.4 and 4.2; M. Zhu, S. Gupta (2017), "To prune, or not to prune".
    """

    def __init__(
        self,
        saliency: Callable[..., LayerValues],
        schedule: Any,
        data: Any,
        *,
        scope: str = "group",
        min_units: int = 1,
        layers: Iterable[str] | str | None = None,
        repair: Any = None,
        mask: LayerValues | None = None,
    ):
        super().__init__()
        check_saliency("PruneDuringTraining", saliency)
        self._saliency, self._schedule, self._data = saliency, as_schedule(schedule), data
        check_selection("PruneDuringTraining", scope, min_units)
        self._scope, self._min_units, self._layers = scope, min_units, layers
        self._repair = None if repair is None else find_repair(repair)
        self._given = mask
        self._what = f"The saliency {name_of(saliency)!r}"
        self._target: Units | Weights | None = None
        self._hold: Hold | None = None
        self._held_model: keras.Model | None = None
        self.mask: LayerValues | None = None
        self.history: list[PruningStep] = []
        self.left_out: dict[str, str] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, takes up what is off already, and makes the training step hold it."""
        self.release()
        self.begin()
        model = self.model
        refuse_uncompiled(model, "PruneDuringTraining")
        refuse_masked(model)
        check_enough(self._data, model, "PruneDuringTraining: `data`")
        self._check_schedule()
        scores = call_saliency(self._saliency, model, self._data, self._layers)
        is_units = all(values.ndim == 1 for values in scores.values())
        self._target = (Units if is_units else Weights)(model, self._layers)
        self.left_out = self._target.left_out
        repair = find_repair("mean" if is_units else "zero") if self._repair is None else self._repair
        self._target.check_repair(repair)
        self._repair_now = repair
        if is_units and self._scope == "global" and self._target.graph.records.equal:
            raise ValueError(
                "PruneDuringTraining: scope='global' can leave a Bidirectional with unequal directions, which cannot "
                "be cut. Use scope='group', or leave it out by layers=[...]."
            )
        self._loss = mean_loss(model, self._data)
        mask = self._start()
        self._target.check_scores(scores, mask, self._what)
        self._sparsity = 0.0
        self._hold = Hold(self._target.variables, model.optimizer)
        self._set(mask)
        self._held_model = model
        attach(model, self._hold)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Prunes what is due before the epoch begins."""
        self.begin_epoch(epoch)
        if self._schedule.counts == "epochs":
            self._reach(epoch, self._before_epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Prunes what is due at this step."""
        step = self.begin_step(batch)
        if self._schedule.counts == "steps":
            self._reach(step, step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Prunes what is due when the epoch is done."""
        step = self.end_epoch()
        self._reach(epoch + 1 if self._schedule.counts == "epochs" else step, step, epoch + 1)

    def on_train_end(self, logs: Any = None) -> None:
        """Takes everything out of the training step again."""
        # An optimizer that averages weights has just written its averages.
        self._hold.apply()
        self.release()

    def release(self) -> None:
        """Gives the model back as it was, apart from its weights. `fit` does so, unless it is interrupted."""
        if self._hold is not None and self._held_model is not None:
            detach(self._held_model, self._hold)
        self._hold = None

    def _check_schedule(self) -> None:
        last = self.params.get("epochs") if self._schedule.counts == "epochs" else self.num_steps
        if last is not None:
            self._schedule.check(last)

    def _start(self) -> LayerValues:
        """Returns what is on when the training begins."""
        masks = [self._target.recognised()]
        if self._given is not None:
            masks.append(self._target.checked(self._given))
        if self.mask is not None and self._held_model is self.model:
            masks.append(self._target.checked(self.mask))
        return LayerValues({name: np.logical_and.reduce([own[name] for own in masks]) for name in masks[0]})

    def _reach(self, count: int, step: int, epoch: int | None = None) -> None:
        sparsity = self._schedule(count)
        if sparsity < self._sparsity:
            raise ValueError(
                f"{self._schedule.name}: it falls from {self._sparsity:g} to {sparsity:g} after {count} "
                f"{self._schedule.counts}. What is off stays off, so a schedule must never fall."
            )
        if sparsity > self._sparsity:
            self._sparsity = sparsity
            self._prune(sparsity, step, self._epoch if epoch is None else epoch)

    def _prune(self, sparsity: float, step: int, epoch: int) -> None:
        scores = call_saliency(self._saliency, self.model, self._data, self._layers)
        scores = self._target.check_scores(scores, self.mask, self._what)
        mask = choose_top(scores, self.mask, sparsity, self._scope, self._min_units)
        if mask == self.mask:
            return
        before = self._loss()
        self._target.repair(mask, self._repair_now, self._data)
        self._set(mask)
        self.history.append(
            PruningStep(
                step=step,
                epoch=epoch,
                sparsity=sparsity,
                off={name: int((~own).sum()) for name, own in mask.items()},
                total={name: own.size for name, own in mask.items()},
                loss_before=before,
                loss_after=self._loss(),
            )
        )

    def _set(self, mask: LayerValues) -> None:
        self.mask = mask
        self._hold.set(self._target.keeps(mask))


def name_of(function: Any) -> str:
    """Returns what to call a function in a message, that inside a `functools.partial` too."""
    return getattr(getattr(function, "func", function), "__name__", type(function).__name__)


def check_saliency(what: str, saliency: Any) -> None:
    """Raises TypeError if what should score units is no function, or a schedule."""
    if isinstance(saliency, Schedule) or not callable(saliency):
        swapped = " Are saliency and schedule swapped?" if isinstance(saliency, Schedule) else ""
        raise TypeError(
            f"{what}: `saliency` expects a function (model, data) -> LayerValues, such as "
            f"tfprune.saliency.weight_norm, received an object of type {type(saliency).__name__}.{swapped}"
        )


def check_selection(what: str, scope: Any, min_units: Any) -> None:
    """Raises ValueError if the arguments of `keep_top` are out of their range."""
    if scope not in SCOPES:
        raise ValueError(f"{what}: `scope` expects one of {', '.join(map(repr, SCOPES))}, received {scope!r}.")
    if isinstance(min_units, bool) or not isinstance(min_units, int | np.integer) or min_units < 1:
        raise ValueError(f"{what}: `min_units` expects a whole number of at least 1, received {min_units!r}.")


def call_saliency(saliency: Callable, model: keras.Model, data: Any, layers: Any) -> LayerValues:
    """Returns the scores, asked for by `layers` if the function knows that argument.

    Raises:
        TypeError: if what it returns is no mapping of names to arrays.
    """
    knows = layers is not None and "layers" in inspect.signature(saliency).parameters
    with naming_data(f"The saliency {name_of(saliency)!r}, on the data for scores (not those of fit)"):
        scores = saliency(model, data, layers=layers) if knows else saliency(model, data)
    try:
        return scores if isinstance(scores, LayerValues) else LayerValues(scores)
    except (TypeError, ValueError) as error:
        raise TypeError(f"The saliency {name_of(saliency)!r} must return LayerValues of scores: {error}") from error


@contextlib.contextmanager
def naming_data(what: str) -> Iterator[None]:
    """Says in messages which data are meant: `fit` has others."""
    try:
        yield
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}") from error


def check_enough(data: Any, model: keras.Model, what: str, targets: str = "optional") -> None:
    """Raises ValueError, or TypeError, if the data do not fit or are too few samples for a mean.

    Args:
        data: whatever `model.fit` takes.
        model: the model.
        what: what messages call the data.
        targets: as for `as_batches`.
    """
    with naming_data(what):
        batches = as_batches(data, model, targets=targets)
    count = batches.num_samples
    if count is None:
        count = 0
        for batch in itertools.islice(batches, _LEAST_SAMPLES):
            count += len(batch.inputs[0])
    if count < _LEAST_SAMPLES:
        raise ValueError(
            f"{what}: {count} samples are too few for means of units, expected at least {_LEAST_SAMPLES}; about 1000 "
            "are good."
        )


def mean_loss(model: keras.Model, data: Any) -> Callable[[], float | None]:
    """Returns a function, traced once, that gives the mean loss on the data now.

    Without targets or a compiled loss it gives None.
    """
    batches = as_batches(data, model)
    if getattr(model, "loss", None) is None or next(iter(batches)).targets is None:
        return lambda: None
    per_sample = sample_loss(model)
    struct = functional(model)._inputs_struct

    @ByLengths
    def total(inputs: list[Any], targets: Any, weights: Any) -> Any:
        losses = per_sample(targets, model(tree.pack_sequence_as(struct, inputs), training=False))
        losses = losses if weights is None else losses * tf.cast(weights, losses.dtype)
        return tf.reduce_sum(tf.cast(losses, "float64"))

    def mean() -> float:
        sums, count = 0.0, 0
        for batch in batches:
            parts = tree.map_structure(lambda x: None if x is None else tf.convert_to_tensor(x), tuple(batch))
            sums += float(total(*parts))
            count += len(batch.inputs[0])
        return sums / count

    return mean
