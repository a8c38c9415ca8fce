"""What callbacks do inside the compiled training step: change gradients before an update, and weights after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfprune.surgery.carrying import slots_of

_ENTRY_BY_ENTRY = (
    keras.optimizers.SGD,
    keras.optimizers.RMSprop,
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Adadelta,
    keras.optimizers.Adagrad,
    keras.optimizers.Adamax,
    keras.optimizers.Nadam,
    keras.optimizers.Lion,
)
"""Optimizers that leave an entry alone which is zero, as its gradient and its moments are."""


class Hook(Protocol):
    """Something that takes part in every update of an optimizer."""

    def before(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Returns the gradients (None where there is none) that the optimizer shall see."""

    def after(self, variables: list[Any]) -> None:
        """Called when the optimizer has updated the variables."""


class _Apply:
    """Stands in for `optimizer.apply` while there are hooks."""

    def __init__(self, optimizer: Any):
        self._optimizer = optimizer
        self._apply = optimizer.apply
        self.hooks: list[Hook] = []

    def __call__(self, grads: Any, trainable_variables: Any = None) -> None:
        known = self._optimizer._trainable_variables if trainable_variables is None else trainable_variables
        gradients, variables = list(grads), list(known)
        for hook in self.hooks:
            gradients = hook.before(gradients, variables)
        self._apply(gradients, variables)
        for hook in self.hooks:
            hook.after(variables)


def attach(model: keras.Model, hook: Hook) -> None:
    """Makes a hook part of the training step of a compiled model, which is traced anew; call it in `on_train_begin`.

    The hook is compiled with the step, so that it works with `jit_compile`, `steps_per_execution` and loss scaling.
    """
    optimizer = model.optimizer
    # Not by setattr: the optimizer would look for state to save.
    held = vars(optimizer)
    if not isinstance(held.get("apply"), _Apply):
        held["apply"] = _Apply(optimizer)
    held["apply"].hooks.append(hook)
    model.make_train_function(force=True)


def detach(model: keras.Model, hook: Hook) -> None:
    """Takes a hook out again; the optimizer is as it was once the last one is gone."""
    held = vars(model.optimizer)
    apply = held.get("apply")
    if not isinstance(apply, _Apply) or hook not in apply.hooks:
        return
    apply.hooks.remove(hook)
    if not apply.hooks:
        del held["apply"]
    model.train_function = None


class Hold:
    """Holds entries of weights at exactly zero: a hook.

    Gradients of held entries are zero before the optimizer sees them, so that its moments, norms and averages know
    nothing of them. Most optimizers then leave the entries alone; with others, and where a weight has a constraint of
    its own, they are set to zero once more after each update.

    Args:
        variables: the weights that may have held entries.
        optimizer: the model's optimizer.
    """

    def __init__(self, variables: list[Any], optimizer: Any):
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        self._optimizer = inner
        self._projects = type(inner) not in _ENTRY_BY_ENTRY or any(v.constraint is not None for v in variables)
        # Floats, as one multiplication that knows 0 * NaN = 0 is cheaper than a choice by bool.
        self._kept = {id(v): (v, tf.Variable(tf.ones(v.shape, v.dtype), trainable=False)) for v in variables}

    def set(self, kept: Mapping[int, np.ndarray]) -> None:
        """Says which entries are held, by the `id` of the weight: bool, True = kept; sets all others to zero.

        The optimizer's moments of held entries become zero too.
        """
        for key, keep in kept.items():
            variable, mask = self._kept[key]
            mask.assign(keep.astype(variable.dtype))
        self.apply()
        if not self._optimizer.built:
            return
        slots = slots_of(self._optimizer)
        for slot in self._optimizer.variables:
            entry = self._kept.get(id(slots.get(id(slot))))
            if entry is not None:
                slot.assign(tf.math.multiply_no_nan(slot.value, tf.cast(entry[1], slot.dtype)))

    def apply(self) -> None:
        """Sets the held entries to zero."""
        for variable, mask in self._kept.values():
            variable.assign(tf.math.multiply_no_nan(variable.value, mask))

    def before(self, gradients: list[Any], variables: list[Any]) -> list[Any]:
        """Returns gradients that are zero at held entries."""
        return [self._masked(g, self._kept.get(id(v))) for g, v in zip(gradients, variables, strict=True)]

    def after(self, variables: list[Any]) -> None:
        """Sets the held entries of some variables to zero, where the optimizer may have moved them."""
        for variable in variables if self._projects else ():
            entry = self._kept.get(id(variable))
            if entry is not None:
                variable.assign(tf.math.multiply_no_nan(variable.value, entry[1]))

    @staticmethod
    def _masked(gradient: Any, entry: Any) -> Any:
        if gradient is None or entry is None:
            return gradient
        if isinstance(gradient, tf.IndexedSlices):
            rows = tf.cast(tf.gather(entry[1], gradient.indices), gradient.values.dtype)
            values = tf.math.multiply_no_nan(gradient.values, rows)
            return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
        return tf.math.multiply_no_nan(gradient, tf.cast(entry[1], gradient.dtype))


class StepCounter(keras.callbacks.Callback):
    """A callback that knows how many training steps (batches) are done, counted as `fit` counts its epochs.

    It hears of each step before it is made: a callback that asks to be called after each step makes Keras wait for it.
    """

    def __init__(self):
        super().__init__()
        self._before_epoch = 0
        self._begun = 0
        self._epoch: int | None = None

    def begin(self) -> None:
        """Starts to count anew; to be called in `on_train_begin`."""
        self._before_epoch, self._begun, self._epoch = 0, 0, None

    def begin_epoch(self, epoch: int) -> None:
        """Notes a new epoch; to be called in `on_epoch_begin`.

        Raises:
            ValueError: if the training is taken up later than at its beginning, and the steps before are not known.
        """
        steps = (self.params or {}).get("steps")
        if steps is not None:
            self._before_epoch = epoch * steps
        elif self._epoch is not None:
            self._before_epoch += self._begun
        elif epoch:
            raise ValueError(
                f"{type(self).__name__}: fit starts at epoch {epoch}, but how many steps an epoch has is not known. "
                "Give fit steps_per_epoch=..., or data of known length "
                "(dataset.apply(tf.data.experimental.assert_cardinality(n)))."
            )
        self._epoch, self._begun = epoch, 0

    def begin_step(self, batch: int) -> int:
        """Returns how many steps are done before this one; to be called in `on_train_batch_begin`."""
        self._begun = batch + (self.model.steps_per_execution or 1)
        return self._before_epoch + batch

    def end_epoch(self) -> int:
        """Returns how many steps are done; to be called in `on_epoch_end`."""
        steps = (self.params or {}).get("steps")
        return self._before_epoch + (self._begun if steps is None else min(self._begun, steps))

    @property
    def num_steps(self) -> int | None:
        """How many steps the training will have, or None where that is not known."""
        steps = (self.params or {}).get("steps")
        return None if steps is None else steps * self.params["epochs"]


def refuse_uncompiled(model: keras.Model, what: str) -> None:
    """Raises ValueError if a model has no optimizer to hook into."""
    if getattr(model, "optimizer", None) is None:
        raise ValueError(f"{what}: model {model.name!r} is not compiled, so it has no optimizer. Compile it first.")
