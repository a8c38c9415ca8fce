"""Training a model that becomes smaller on the way: fit and remove by turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tfprune.borders import public
from tfprune.data import as_batches, collect
from tfprune.graph import unit_groups
from tfprune.masking import refuse_masked
from tfprune.repair import find_repair
from tfprune.schedules import Schedule, as_schedule
from tfprune.surgery import remove
from tfprune.training.pruning import PruningStep
from tfprune.training.scoring import (
    call_saliency,
    check_enough,
    check_saliency,
    check_selection,
    mean_loss,
    name_of,
)
from tfprune.training.stepping import refuse_uncompiled
from tfprune.training.targets import check_scores, choose_top
from tfprune.units import LayerValues, describe_unknown

_MOST_SCORE_SAMPLES = 2000
_OWN_FIT_OPTIONS = ("x", "y", "epochs", "initial_epoch")


class ShrunkModel(NamedTuple):
    """What `shrink_while_training` returns.

    Attributes:
        model: the smaller model, compiled, with the optimizer's moments of what is left.
        mask: which units of the original are left, bool by group name.
        history: one entry per epoch, by name: what `fit` notes, and `seconds` and `parameters` of the epoch.
        steps: a list of `PruningStep`.
    """

    model: keras.Model
    mask: LayerValues
    history: dict[str, list[float]]
    steps: list[PruningStep]


@public
def shrink_while_training(
    model: keras.Model,
    data: Any,
    schedule: Any,
    saliency: Callable[..., LayerValues],
    *,
    epochs: int,
    score_data: Any = None,
    repair: Any = "least_squares",
    scope: str = "group",
    layers: Iterable[str] | str | None = None,
    fit_options: Mapping[str, Any] | None = None,
) -> ShrunkModel:
    """Trains a model and cuts units out between epochs, so that the later epochs take less time and memory.

    Whenever an epoch is done and the schedule has risen, the units are scored, `keep_top` chooses, and `remove` builds
    the smaller model, which takes over what is left of the weights and of the optimizer's moments. Sparsity is that of
    the original model: `floor(n * sparsity)` of the n units that a group had at first are gone. Use
    `PruneDuringTraining` to prune within epochs, or if the model must stay the same object.

    Args:
        model: a compiled Sequential or functional model. It is not changed; a copy is trained, with its optimizer's
            state.
        data: what `model.fit` takes to train on: `(x, y)`, or a dataset.
        schedule: one of `tfprune.schedules`, or a function of the step; it is looked at after every epoch.
        saliency: a function `(model, data) -> LayerValues` of scores per unit, by group name; with `layers` it is
            called with `layers=...` if it has such an argument.
        epochs: the number of epochs in all.
        score_data: what scores and repairs look at; None takes the first 2000 samples of `data`.
        repair: what `remove` takes as repair.
        scope: "group" removes so much of each group, "global" of all together.
        layers: names of groups or layers; None takes all units that can be removed.
        fit_options: further arguments for `fit`, such as `batch_size`, `validation_data`, `callbacks` and `verbose`.
            Callbacks see one training for each stretch between removals.

    Returns:
        The smaller model, which units are left, and what happened.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, the schedule falls, the saliency does not fit (it is called once
            before any training), the model is not compiled, or the data do not fit.

    Example:
        >>> shrunk = shrink_while_training(                                                         # doctest: +SKIP
        ...     net, (x, y), tfprune.schedules.by_epoch({2: 0.3, 4: 0.6}), tfprune.saliency.least_squares, epochs=10
        ... )
        >>> shrunk.model.count_params() < net.count_params()                                        # doctest: +SKIP
        True
    """
    check_saliency("shrink_while_training", saliency)
    schedule, repair = as_schedule(schedule), find_repair(repair)
    check_selection("shrink_while_training", scope, 1)
    options = checked_options("shrink_while_training", epochs, fit_options)
    if schedule.counts == "epochs":
        schedule.check(epochs)
    refuse_masked(model)
    refuse_uncompiled(model, "shrink_while_training")
    if score_data is None:
        batch = collect(as_batches(data, model), _MOST_SCORE_SAMPLES)
        inputs = batch.inputs if len(batch.inputs) > 1 else batch.inputs[0]
        score_data = inputs if batch.targets is None else (inputs, batch.targets)
    check_enough(score_data, model, "shrink_while_training: `data`")
    state = _Shrinking(model, schedule, saliency, score_data, repair, scope, layers)
    state.check()
    state.cut(0, 0)
    arrays = data if isinstance(data, tuple) else (data,)
    options |= dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
    options["callbacks"].append(Clock(state.history))
    while state.epoch < epochs:
        stop = state.next_cut(epochs)
        state.note(state.model.fit(**options, initial_epoch=state.epoch, epochs=stop))
        if state.epoch < stop:
            break
        state.cut(state.epoch, state.step)
    return ShrunkModel(state.model, state.mask, state.history, state.steps)


class _Shrinking:
    """A training under way: the model as it is, and which of the original's units it has."""

    def __init__(
        self,
        model: keras.Model,
        schedule: Schedule,
        saliency: Callable,
        data: Any,
        repair: Any,
        scope: str,
        layers: Any,
    ):
        graph = unit_groups(model)
        self._names = graph.choose(layers)
        if not self._names:
            raise ValueError(f"model {model.name!r} has no units that can be removed.\n{graph!r}")
        self.model = remove(model, LayerValues({}), keep_optimizer=True)
        self.mask = LayerValues({name: np.ones(graph[name].size, bool) for name in self._names})
        self._schedule, self._saliency, self._data = schedule, saliency, data
        self._repair, self._scope, self._layers = repair, scope, layers
        self._what = f"The saliency {name_of(saliency)!r}"
        self._sparsity = 0.0
        self._steps_per_epoch: int | None = None
        self.epoch = self.step = 0
        self.history: dict[str, list[float]] = {}
        self.steps: list[PruningStep] = []

    def check(self) -> None:
        """Calls the saliency once, before any work."""
        self._scores()

    def _scores(self) -> LayerValues:
        """Returns scores for all units of the original; those that are gone have minus infinity."""
        scores = call_saliency(self._saliency, self.model, self._data, self._layers)
        names = unit_groups(self.model).names
        unknown = [name for name in scores if name not in names]
        if unknown:
            raise ValueError(f"{self._what} returns names that are no groups. {describe_unknown(unknown, names)}")
        left = LayerValues({name: np.ones(int(on.sum()), bool) for name, on in self.mask.items()})
        scores = LayerValues({name: scores[name] for name in self._names if name in scores})
        check_scores(scores, left, self._what)
        whole = {}
        for name, own in scores.items():
            whole[name] = np.full(len(self.mask[name]), -np.inf)
            whole[name][self.mask[name]] = own
        return LayerValues(whole)

    def next_cut(self, epochs: int) -> int:
        """Returns the epoch after which the schedule has risen next, or the last one."""
        if self._schedule.counts == "steps":
            if self._steps_per_epoch is None:
                return self.epoch + 1
            return self._next(lambda epoch: self._schedule(epoch * self._steps_per_epoch), epochs)
        return self._next(self._schedule, epochs)

    def _next(self, sparsity: Callable[[int], float], epochs: int) -> int:
        return next((e for e in range(self.epoch + 1, epochs) if sparsity(e) > self._sparsity), epochs)

    def note(self, fitted: Any) -> None:
        """Takes down what `fit` noted."""
        done = len(fitted.epoch)
        for name, values in fitted.history.items():
            # A metric may appear late, as those of validation do.
            self.history.setdefault(name, [float("nan")] * self.epoch).extend(float(value) for value in values)
        self.epoch += done
        self._steps_per_epoch = fitted.params["steps"]
        if self._steps_per_epoch is None and self._schedule.counts == "steps":
            raise ValueError(
                f"{self._schedule.name}: it counts steps, but how many steps an epoch has is not known. Put "
                "steps_per_epoch into `fit_options`, or use schedules.by_epoch."
            )
        self.step += done * (self._steps_per_epoch or 0)

    def cut(self, epoch: int, step: int) -> None:
        """Removes what the schedule wants gone by now."""
        sparsity = self._schedule(epoch if self._schedule.counts == "epochs" else step)
        if sparsity < self._sparsity:
            raise ValueError(
                f"{self._schedule.name}: it falls from {self._sparsity:g} to {sparsity:g}. What is gone stays gone, so "
                "a schedule must never fall."
            )
        if sparsity == self._sparsity:
            return
        self._sparsity = sparsity
        mask = choose_top(self._scores(), self.mask, sparsity, self._scope, 1)
        if mask == self.mask:
            return
        before = mean_loss(self.model, self._data)()
        now = LayerValues({name: mask[name][on] for name, on in self.mask.items()})
        self.model = remove(self.model, now, repair=self._repair, data=self._data, keep_optimizer=True)
        self.mask = mask
        off = {name: int((~on).sum()) for name, on in mask.items()}
        total = {name: len(on) for name, on in mask.items()}
        after = mean_loss(self.model, self._data)()
        self.steps.append(PruningStep(step, epoch, sparsity, off, total, before, after))


class Clock(keras.callbacks.Callback):
    """Notes how long each epoch took, and how large the model was.

    Args:
        noted: where to, lists by name; None for a place of its own.
    """

    def __init__(self, noted: dict[str, list[float]] | None = None):
        super().__init__()
        self.noted = {} if noted is None else noted

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Reads it."""
        self.noted.setdefault("seconds", []).append(time.perf_counter() - self._start)
        self.noted.setdefault("parameters", []).append(self.model.count_params())


def checked_options(what: str, epochs: Any, fit_options: Any) -> dict[str, Any]:
    """Returns the further arguments for `fit`, with a list of callbacks.

    Raises:
        ValueError: if the number of epochs is no whole one of at least 1, or an argument is given twice.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int | np.integer) or epochs < 1:
        raise ValueError(f"{what}: `epochs` expects a whole number of at least 1, received {epochs!r}.")
    options = dict(fit_options or {})
    own = [name for name in options if name in _OWN_FIT_OPTIONS]
    if own:
        raise ValueError(
            f"{what}: `fit_options` may not have {', '.join(map(repr, own))}; data and epochs are "
            "arguments of their own."
        )
    callbacks = options.get("callbacks") or ()
    options["callbacks"] = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    return options
