"""Pushing whole units to zero while training: a callback for plain `model.fit`."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.borders import warn
from tfprune.graph.flops import Costs
from tfprune.masking import refuse_masked
from tfprune.schedules import Schedule, as_schedule
from tfprune.training.penalties import METHODS, PENALTIES, PenalisedUnits, Shrinking
from tfprune.training.stepping import StepCounter, attach, detach, refuse_uncompiled
from tfprune.units import LayerValues

RESOURCES = ("parameters", "flops")
_LEAST_FALL = 0.01
"""A utilisation that falls by less than this in an epoch makes a rising strength rise."""


@dataclass(frozen=True)
class UtilisationRecord:
    """How much of a model is used after one epoch.

    Attributes:
        epoch: epochs that were done.
        strength: the strength of the penalty in the epoch.
        utilisation: the share of the parameters or FLOPs that would be left without the units that are off.
        off: how many units are off, by group.
        total: how many there are, by group.
    """

    epoch: int
    strength: float
    utilisation: float
    off: dict[str, int]
    total: dict[str, int]


class SparsifyDuringTraining(StepCounter):
    """Pushes whole units to zero while a model is trained by `fit`, so that cutting them out afterwards costs nothing.

    All numbers `w_u` of a unit u are one group, which a penalty shrinks as a whole (n_u is how many they are):

        strength * sum_u sqrt(n_u) * |w_u|

    The penalty "batch_norm_scale" takes the scales of the batch normalizations that the unit passes, for most networks
    one, so that it is the L1 norm of the scales, as in network slimming. A unit whose scale is zero gives out a
    constant, which the repairs "mean" and "least_squares" put into the next bias. The penalty "group_norm" takes all
    trainable weights that `remove` would cut of the unit, on any graph that `unit_groups` reads; a weight that two
    units share belongs to both.

    By the method "proximal" each training step is followed by one of soft thresholding with the optimizer's learning
    rate r, `w_u * max(0, 1 - r * strength * sqrt(n_u) / |w_u|)`, after which units are exactly zero. By "gradient" the
    derivative of the penalty is added to the gradient before the optimizer sees it, as the source does; units then come
    near zero and stay there. With a momentum m the second pulls 1 / (1 - m) times as hard.

    Both are compiled into the training step, so they work with `jit_compile`, mixed precision, accumulated gradients,
    `tf.data` and `steps_per_execution`, and beside other callbacks, `PruneDuringTraining` among them.
    After each epoch the logs have `utilisation` (see below) and `sparsity`, the share of the units that are off;
    callbacks that read them must come behind this one.

    Args:
        penalty: "batch_norm_scale" or "group_norm".
        strength: the weight of the penalty. A proximal step lowers a scale by the learning rate times the strength, so
            that one of 1 that nothing holds up is gone after 1 / (rate * strength) steps: take about ten times less
            than that for the length of the training. The sources take 1e-5 to 3e-4 for scales, by gradient and a
            momentum of .9, over tens of thousands of steps.
        schedule: what `strength` is multiplied with: None for 1 throughout, one of `tfprune.schedules`, or a function
            of the step. "rising" begins at no strength, and adds `strength` after each epoch in which the utilisation
            fell by less than .01.
        method: "proximal" or "gradient".
        layers: names of groups or layers; None takes all that the penalty can act on, see `left_out`.
        threshold: a unit counts as off if |w_u| is below this share of the largest of its group. One unit of each group
            is always on.
        resource: what utilisation is a share of: "parameters" or "flops". It is what the model would have left without
            the units that are off.

    Attributes:
        mask: what is on in the model as it is now, bool by group name; None before the first `fit`.
        history: a list of `UtilisationRecord`, one for each epoch.
        left_out: why groups are left out, by name.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; and when `fit` begins, if the penalty can act on nothing (no
            batch normalization, say), a name is unknown, or the schedule gives no number of at least 0.

    Example:
        >>> sparsify = SparsifyDuringTraining("batch_norm_scale", 1e-3)                                # doctest: +SKIP
        >>> net.fit(x, y, epochs=10, callbacks=[sparsify])                                             # doctest: +SKIP
        >>> small = tfprune.remove(net, sparsify.mask, repair="mean", data=x)                          # doctest: +SKIP

        Network slimming cuts a share of all units with the lowest scales instead:

        >>> scores = tfprune.saliency.batch_norm_scale(net)                                            # doctest: +SKIP
        >>> mask = tfprune.keep_top(scores, 0.7, scope="global")                                       # doctest: +SKIP
        >>> small = tfprune.remove(net, mask, repair="least_squares", data=x)                          # doctest: +SKIP

    Reference: Z. Liu et al. (2017), "Learning efficient convolutional networks through network slimming", equation 1;
    W. Wen et al. (2016), "Learning structured sparsity in deep neural networks", equation 2; M. Yuan, Y. Lin (2006),
    "Model selection and estimation in regression with grouped variables", equation 2.1.
    """

    def __init__(
        self,
        penalty: str,
        strength: float,
        schedule: Any = None,
        *,
        method: str = "proximal",
        layers: Iterable[str] | str | None = None,
        threshold: float = 0.01,
        resource: str = "parameters",
    ):
        super().__init__()
        own = type(self).__name__
        for name, value, known in (
            ("penalty", penalty, PENALTIES),
            ("method", method, METHODS),
            ("resource", resource, RESOURCES),
        ):
            if value not in known:
                raise ValueError(f"{own}: `{name}` expects one of {', '.join(map(repr, known))}, received {value!r}.")
        if not is_number(strength) or strength < 0:
            raise ValueError(f"{own}: `strength` expects a finite number of at least 0, received {strength!r}.")
        if not is_number(threshold) or not 0 <= threshold < 1:
            raise ValueError(f"{own}: `threshold` expects a number of at least 0 and below 1, received {threshold!r}.")
        self._penalty, self._method, self._layers = penalty, method, layers
        self._full, self._threshold, self._resource = float(strength), float(threshold), resource
        self._rises = isinstance(schedule, str) and schedule == "rising"
        if isinstance(schedule, str) and not self._rises:
            raise ValueError(f"{own}: `schedule` knows by name only 'rising', received {schedule!r}.")
        self._schedule: Schedule | None = None if schedule is None or self._rises else as_schedule(schedule)
        self._strength: tf.Variable | None = None
        self._units: PenalisedUnits | None = None
        self._hook: Shrinking | None = None
        self._shrunk: keras.Model | None = None
        self.history: list[UtilisationRecord] = []
        self.left_out: dict[str, str] = {}

    @property
    def mask(self) -> LayerValues | None:
        """What is on in the model as it is now, bool by group name; None before the first `fit`."""
        return None if self._units is None else self._units.on(self._threshold)

    def mask_of(self, model: keras.Model) -> LayerValues:
        """Returns what is on in another model, such as a checkpoint that was saved on the way.

        Args:
            model: a model whose layers the penalty fits.

        Raises:
            ValueError: if the penalty can act on nothing there.

        Example:
            >>> best = keras.models.load_model("best.keras")                                           # doctest: +SKIP
            >>> small = tfprune.remove(best, sparsify.mask_of(best))                                   # doctest: +SKIP
        """
        return PenalisedUnits(model, self._penalty, self._layers).on(self._threshold)

    def utilisation_of(self, mask: LayerValues) -> float:
        """Returns the share of the parameters or FLOPs that are left when only what is on in a mask stays.

        Args:
            mask: bool by group name.

        Raises:
            ValueError: before the first `fit`, or if the mask does not fit.

        Example:
            >>> sparsify.utilisation_of(sparsify.mask)                                                 # doctest: +SKIP
            0.43
        """
        if self._units is None:
            raise ValueError(f"{type(self).__name__}: `fit` has not begun, so the model is not known.")
        return self._cost(self._units.graph.on_nodes(mask)[0] > 0) / self._whole

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, and makes the penalty part of the training step."""
        self.release()
        self.begin()
        model = self.model
        refuse_uncompiled(model, type(self).__name__)
        refuse_masked(model)
        self._units = PenalisedUnits(model, self._penalty, self._layers)
        self.left_out = self._units.left_out
        self._costs = Costs(self._units.graph, flops=self._resource == "flops")
        self._whole = self._cost(np.ones(self._units.graph.num_units, bool))
        self._last = self.utilisation_of(self._units.on(self._threshold))
        self._strength = tf.Variable(0.0 if self._rises else self._strength_at(0), trainable=False)
        self._hook = Shrinking(self._units, self._strength, self._method, model.optimizer)
        self._shrunk = model
        attach(model, self._hook)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Sets the strength to that of the epoch."""
        self.begin_epoch(epoch)
        if self._schedule is not None and self._schedule.counts == "epochs":
            self._strength.assign(self._strength_at(epoch))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the strength to that of the step."""
        step = self.begin_step(batch)
        if self._schedule is not None and self._schedule.counts == "steps":
            self._strength.assign(self._strength_at(step))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes how much of the model is used."""
        mask = self.mask
        share = self.utilisation_of(mask)
        off = {name: int((~on).sum()) for name, on in mask.items()}
        total = {name: on.size for name, on in mask.items()}
        self.history.append(UtilisationRecord(epoch + 1, float(self._strength.numpy()), share, off, total))
        if logs is not None:
            logs["utilisation"] = share
            logs["sparsity"] = sum(off.values()) / sum(total.values())
        if self._rises and self._last - share < _LEAST_FALL:
            self._strength.assign_add(self._full)
        self._last = share

    def on_train_end(self, logs: Any = None) -> None:
        """Takes the penalty out of the training step; warns if it pushed no unit to zero."""
        self.release()
        self._warn_of_nothing()

    def _warn_of_nothing(self) -> None:
        if self._full > 0 and self.history and not any(self.history[-1].off.values()):
            warn(
                f"{type(self).__name__}: after {len(self.history)} epochs no unit is within {self._threshold:g} of "
                f"zero, so that nothing can be cut at no cost. Give a strength above {self._full:g} (or "
                "schedule='rising'), or more epochs."
            )

    def release(self) -> None:
        """Gives the model's training step back as it was. `fit` does so, unless it is interrupted."""
        if self._hook is not None:
            detach(self._shrunk, self._hook)
        self._hook = None

    def _cost(self, on: np.ndarray) -> int:
        if self._resource == "flops":
            return sum(self._costs.flops(on).values())
        return self._costs.parameters(on)

    def _strength_at(self, count: int) -> float:
        if self._schedule is None:
            return self._full
        factor = self._schedule.function(count)
        if not is_number(factor) or factor < 0:
            raise ValueError(
                f"{type(self).__name__}: {self._schedule.name} expects to give a finite number of at least 0, which "
                f"`strength` is multiplied with; after {count} {self._schedule.counts} it gives {factor!r}."
            )
        return self._full * float(factor)


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
