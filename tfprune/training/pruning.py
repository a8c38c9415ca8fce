"""Pruning while training: a callback for plain `model.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from tfprune.borders import warn
from tfprune.masking import refuse_masked
from tfprune.repair import find_repair
from tfprune.schedules import as_schedule
from tfprune.training.scoring import (
    call_saliency,
    check_enough,
    check_saliency,
    check_selection,
    mean_loss,
    name_of,
)
from tfprune.training.stepping import Hold, StepCounter, attach, detach, refuse_uncompiled
from tfprune.training.targets import Units, Weights, choose_top
from tfprune.units import LayerValues


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

    A pruning step that is due after so many epochs is made as the next epoch begins, so that the validation of an epoch
    sees what was cut, and a checkpoint of it holds what was validated; one that is due after the last epoch is made
    when training ends, unless it was stopped early or a callback has brought other weights back.

    A training that is taken up from a saved model is recognised, by `BackupAndRestore` too: units whose weights are all
    zero are off (single weights that are zero, likewise); pass `initial_epoch` to `fit` as usual. At the end
    `tfprune.remove(model, callback.mask)` gives the smaller model; for weights the zeros are in the model. The mask is
    always true of the weights that the model has: where weights from before a pruning step come back
    (`EarlyStopping(restore_best_weights=True)`, `load_weights` of a checkpoint), what went at that step is on again, in
    any order of the callbacks, and a warning says so; while training goes on, the next epoch prunes it anew. Let
    `EarlyStopping(start_from_epoch=...)` count only epochs after the last pruning step. `callback.mask_of(model)` gives
    the mask of a checkpoint that was loaded as a model of its own.

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
        repair: what `remove` takes as repair. None is "least_squares" for units and "zero" for weights, which know no
            other. Three small nets with `THESIS_UNITS` up to 60 % off have by zero, mean and least squares the test
            accuracy: just after the last cut, dense .69, .79, .93, convolutional .75, .68, .92, LSTM .31, .46, .72; and
            some epochs later .945, .947, .956; .922, .922, .930; .787, .828, .836. Least squares takes longest; where
            steps are very many "mean" may serve.
        mask: what is off from the beginning; None for what the model shows to be off.

    Attributes:
        mask: what is on in the model as it is now, bool by group (or kernel) name; None before the first `fit`.
        history: a list of `PruningStep`.
        left_out: why groups cannot be held off, by name.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; and when `fit` begins, before any training: if the schedule
            falls, the saliency does not fit (it is called once), the data are too few or do not fit, or a repair has no
            place for its constants. During training if a saliency gives NaN, or a weight is NaN or infinite.

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
        self._mask: LayerValues | None = None
        self._hold: Hold | None = None
        self._held_model: keras.Model | None = None
        self.history: list[PruningStep] = []
        self.left_out: dict[str, str] = {}

    @property
    def mask(self) -> LayerValues | None:
        """What is on in the model as it is now, bool by group (or kernel) name; None before the first `fit`."""
        self._settle()
        return self._mask

    def mask_of(self, model: keras.Model) -> LayerValues:
        """Returns what is on in another model of this training, such as a checkpoint that was saved on the way.

        Args:
            model: a model of the same structure. What is all zero in it is off.

        Raises:
            ValueError: before the first `fit`, or if the model has other units.

        Example:
            >>> best = keras.models.load_model("best.keras")                                        # doctest: +SKIP
            >>> small = tfprune.remove(best, prune.mask_of(best))                                   # doctest: +SKIP
        """
        if self._target is None:
            raise ValueError("PruneDuringTraining: `fit` has not begun, so whether units or weights go is not known.")
        target = type(self._target)(model, self._layers)
        if target.sizes != self._target.sizes:
            raise ValueError(
                f"PruneDuringTraining: model {model.name!r} has {target.sizes}, which are not those of the model that "
                f"was trained: {self._target.sizes}. Pass a model of the same structure."
            )
        return target.recognised()

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, takes up what is off already, and makes the training step hold it."""
        self.release()
        self.begin()
        model = self.model
        refuse_uncompiled(model, "PruneDuringTraining")
        refuse_masked(model)
        if self._held_model is model:
            self._settle()
        check_enough(self._data, model, "PruneDuringTraining: `data`")
        self._check_schedule()
        scores = call_saliency(self._saliency, model, self._data, self._layers)
        is_units = all(values.ndim == 1 for values in scores.values())
        self._target = (Units if is_units else Weights)(model, self._layers)
        self.left_out = self._target.left_out
        repair = find_repair("least_squares" if is_units else "zero") if self._repair is None else self._repair
        self._target.check_repair(repair)
        self._repair_now = repair
        if is_units and self._scope == "global" and self._target.graph.records.equal:
            raise ValueError(
                "PruneDuringTraining: scope='global' can leave unequal numbers of units where a layer needs equal ones "
                f"({self._target.graph.records.equal[0][2]}). Use scope='group', or leave it out by layers=[...]."
            )
        self._loss = mean_loss(model, self._data)
        mask = self._start()
        self._target.check_scores(scores, mask, self._what)
        self._wanted = self._reached = 0.0
        self._begins, self._done = True, (0, 0)
        self._hold = Hold(self._target.variables, model.optimizer)
        self._set(mask)
        self._held_model = model
        attach(model, self._hold)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Prunes what is due before the epoch begins."""
        self.begin_epoch(epoch)
        self._settle()
        if self._begins:
            # Since `on_train_begin` a callback may have loaded what an earlier training has pruned.
            self._begins = False
            self._set(self._start())
        if self._schedule.counts == "epochs":
            self._reach(epoch, self._before_epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Prunes what is due at this step."""
        step = self.begin_step(batch)
        if self._schedule.counts == "steps":
            self._reach(step, step)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes how far the training has come; what is due now is pruned as the next epoch begins."""
        self._done = self.end_epoch(), epoch + 1

    def on_train_end(self, logs: Any = None) -> None:
        """Prunes what is due at the end of the training, and takes everything out of the training step again."""
        came_back = self._settle()
        step, epochs = self._done
        # Weights that a callback has chosen as the best are left as they are.
        if epochs == self.params.get("epochs") and not came_back:
            self._reach(epochs if self._schedule.counts == "epochs" else step, step, epochs)
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
        return LayerValues({name: np.logical_and.reduce([own[name] for own in masks]) for name in masks[0]})

    def _reach(self, count: int, step: int, epoch: int | None = None) -> None:
        sparsity = self._schedule(count)
        if sparsity < self._wanted:
            raise ValueError(
                f"{self._schedule.name}: it falls from {self._wanted:g} to {sparsity:g} after {count} "
                f"{self._schedule.counts}. What is off stays off, so a schedule must never fall."
            )
        self._wanted = sparsity
        if sparsity > self._reached:
            self._settle()
            self._reached = sparsity
            self._prune(sparsity, step, self._epoch if epoch is None else epoch)

    def _prune(self, sparsity: float, step: int, epoch: int) -> None:
        scores = call_saliency(self._saliency, self.model, self._data, self._layers)
        scores = self._target.check_scores(scores, self._mask, self._what)
        mask = choose_top(scores, self._mask, sparsity, self._scope, self._min_units)
        if mask == self._mask:
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
        self._mask = mask
        self._hold.set(self._target.keeps(mask))

    def _settle(self) -> bool:
        """Makes the mask true of the weights that the model has now: what is not zero is on, whoever brought it back.

        The schedule is then followed from there.

        Returns:
            Whether anything came back.
        """
        if self._mask is None:
            return False
        alive = self._target.alive()
        mask = LayerValues({name: own | alive[name] for name, own in self._mask.items()})
        if mask == self._mask:
            return False
        self._warn_of_return(mask)
        self._reached = 0.0
        if self._hold is None:
            self._mask = mask
        else:
            self._set(mask)
        return True

    def _warn_of_return(self, mask: LayerValues) -> None:
        before, now = (int((~own.flat).sum()) for own in (self._mask, mask))
        off = {name: int((~own).sum()) for name, own in mask.items()}
        like = next((f", as after the step at epoch {own.epoch}" for own in self.history[::-1] if own.off == off), "")
        warn(
            f"PruneDuringTraining: after {self._done[1]} epochs {before} of {mask.size} were off (sparsity "
            f"{before / mask.size:.3f}), but in the weights that the model has now {now} are off (sparsity "
            f"{now / mask.size:.3f}{like}). A callback has brought others back, such as "
            "EarlyStopping(restore_best_weights=True), load_weights has, or they were trained without this callback; "
            "`mask` says what is on in those. To keep what was pruned, let EarlyStopping(start_from_epoch=...) compare "
            "only epochs after the last pruning step."
        )
