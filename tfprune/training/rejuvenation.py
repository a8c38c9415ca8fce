"""Neural rejuvenation: dead units are found while training, cut out, and put in again as new ones that learn anew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from tfprune.borders import public, warn
from tfprune.data import as_batches, collect
from tfprune.graph import UnitGraph, unit_groups
from tfprune.graph.flops import Costs
from tfprune.layers import CROSSINGS
from tfprune.masking import refuse_masked
from tfprune.surgery import remove, widen
from tfprune.surgery.crossing import Kinds, cross
from tfprune.surgery.scaling import rescale_batch_norms
from tfprune.surgery.widened import position_counts
from tfprune.training.shrinking import Clock, checked_options
from tfprune.training.sparsifying import SparsifyDuringTraining, is_number
from tfprune.training.stepping import refuse_uncompiled
from tfprune.units import LayerValues

_MOST_REPAIR_SAMPLES = 2000
_BISECTIONS = 40
_MOST_TIMES = 2**20
_SCALE = 0.5
"""The scale of batch norms that new units begin with."""


class RejuvenatedModel(NamedTuple):
    """What `rejuvenate` returns.

    Attributes:
        model: the model at the end, compiled.
        epoch: epochs that were done when it was rejuvenated, None if it never was.
        survived: how many units of each group survived; they are the first ones. None likewise.
        history: one entry per epoch, by name: what `fit` notes, `utilisation`, and `seconds` and `parameters`.
    """

    model: keras.Model
    epoch: int | None
    survived: dict[str, int] | None
    history: dict[str, list[float]]

    def __repr__(self) -> str:
        when = "never rejuvenated" if self.epoch is None else f"rejuvenated after {self.epoch} epochs"
        return f"RejuvenatedModel: {self.model.name!r}, {when}, {self.model.count_params():,} parameters"


@dataclasses.dataclass(frozen=True)
class _Settings:
    """What a rejuvenation does once it is due."""

    crossing: str
    rescale: float | None
    data: Any
    resource: str
    seed: int


class NeuralRejuvenation(SparsifyDuringTraining):
    """Trains with a penalty on whole units, and stops the training as soon as too little of the model is used.

    The first half of neural rejuvenation. After an epoch in which the utilisation (the share of the parameters or FLOPs
    that the model would have without the units that are off) is no more than a threshold, `fit` is stopped, as
    `model.stop_training` does it. `rejuvenated()` then returns the model for the epochs that are left:

    1. *squeeze*: units that are off are removed;
    2. *rescale*, if wanted: small scales of batch normalizations are raised, and what reads their units lowered, where
       that keeps the function (through relu, not through a sigmoid);
    3. *expand*: every group that was penalised gets r times as many units, with the largest r at which the model costs
       no more than before. New units begin with drawn weights (the He normal distribution by fan out), a scale of .5
       and a shift of zero, and all weights that lead from one kind of units to the other or from new ones to the
       outputs are zero, so that the model computes what the squeezed one does;
    4. *crossing*: how survived units S and rejuvenated ones R are connected from now on: "full" by plain layers of the
       original kinds, "none" not at all, which leaves room for more units, "attention" by
       `S_out = W_SS S + 2 sigmoid(W_SS S) * (W_RS R)` and its mirror image, see `tfprune.layers.CrossedConv`. Dense
       layers and convolutions between units are crossed; others, and those that read inputs or make outputs, stay full.

    The optimizer is a fresh one with the settings that it has then, and goes on in its learning-rate schedule; there is
    no penalty any more. `rejuvenate` does both halves, at an equal number of epochs in all.

    Args:
        strength: the weight of the penalty, see `SparsifyDuringTraining`. The source takes 1.5e-4 (CIFAR-10).
        schedule: as for `SparsifyDuringTraining`; "rising" is the source's for ImageNet, with a strength of 5e-5.
        penalty: "batch_norm_scale", or "group_norm" for models without batch normalization.
        utilisation: at what share of utilisation the training is stopped. The source takes .25 (CIFAR) and .5
            (ImageNet).
        resource: what it is a share of, and what stays the same: "parameters" or "flops".
        crossing: "full", "none" or "attention".
        rescale: the least scale of batch normalizations after the squeeze, such as .5; None leaves them as they are.
        data: if given, the constants of units that are off go into the next bias before they are cut (repair "mean"),
            looked at on these data, whatever `fit` takes.
        **options: `method` ("gradient" as in the source, or "proximal"), `threshold`, `layers` as for
            `SparsifyDuringTraining`, and `seed`, a whole number for the weights of the new units.

    Attributes:
        epoch: epochs that were done when the training was stopped; None if it was not.
        mask, history, left_out: as for `SparsifyDuringTraining`.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range; when `fit` begins, as for `SparsifyDuringTraining`.

    Example:
        >>> rejuvenation = NeuralRejuvenation(1.5e-4, utilisation=0.5)                                 # doctest: +SKIP
        >>> net.fit(x, y, epochs=40, callbacks=[rejuvenation])                                         # doctest: +SKIP
        >>> if rejuvenation.epoch is not None:                                                         # doctest: +SKIP
        ...     net = rejuvenation.rejuvenated()
        ...     net.fit(x, y, initial_epoch=rejuvenation.epoch, epochs=40)

    Reference: S. Qiao, Z. Lin, J. Zhang, A. Yuille (2019), "Neural rejuvenation: improving deep network training by
    enhancing computational resource utilization", section 3.
    """

    def __init__(
        self,
        strength: float,
        schedule: Any = None,
        *,
        penalty: str = "batch_norm_scale",
        utilisation: float = 0.5,
        resource: str = "parameters",
        crossing: str = "full",
        rescale: float | None = None,
        data: Any = None,
        **options,
    ):
        seed = options.pop("seed", 0)
        super().__init__(
            penalty, strength, schedule, resource=resource, **{"method": "gradient", **_checked_names(options)}
        )
        if not is_number(utilisation) or not 0 < utilisation < 1:
            raise ValueError(
                f"NeuralRejuvenation: `utilisation` expects a number above 0 and below 1, received {utilisation!r}."
            )
        if rescale is not None and (not is_number(rescale) or rescale <= 0):
            raise ValueError(f"NeuralRejuvenation: `rescale` expects a number above 0 or None, received {rescale!r}.")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"NeuralRejuvenation: `seed` expects a whole number of at least 0, received {seed!r}.")
        self._least = float(utilisation)
        self._settings = _Settings(_checked_crossing(crossing), rescale, data, resource, int(seed))
        self.epoch: int | None = None
        self.survived: dict[str, int] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks everything, and makes the penalty part of the training step."""
        self.epoch = None
        super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Notes how much of the model is used, and stops the training if that is too little."""
        super().on_epoch_end(epoch, logs)
        if self.epoch is None and self.history[-1].utilisation <= self._least:
            self.epoch = epoch + 1
            self.model.stop_training = True

    def _warn_of_nothing(self) -> None:
        if self.epoch is None and self.history:
            warn(
                f"NeuralRejuvenation: after {len(self.history)} epochs the utilisation is "
                f"{self.history[-1].utilisation:.3f}, above {self._least:g}, so the model was not rejuvenated. Give a "
                "larger strength (or schedule='rising'), a higher utilisation to stop at, or more epochs."
            )

    def rejuvenated(self, *, crossing: str | None = None, data: Any = None) -> keras.Model:
        """Returns a new model with the units that are off replaced by new ones; the trained one stays as it is.

        It may be called whether or not the training was stopped, and more than once.

        Args:
            crossing: in the place of what was given at first.
            data: likewise.

        Raises:
            ValueError: if `fit` has not begun, the crossing is unknown, or the data do not fit.

        Example:
            >>> ways = {crossing: rejuvenation.rejuvenated(crossing=crossing) for crossing in ("full", "none")}
            ...                                                                                        # doctest: +SKIP
        """
        if self._units is None:
            raise ValueError("NeuralRejuvenation: `fit` has not begun, so which units are off is not known.")
        settings = self._settings
        if crossing is not None:
            settings = dataclasses.replace(settings, crossing=_checked_crossing(crossing))
        model, mask = self._units.graph.model, self.mask
        data = settings.data if data is None else data
        squeezed = remove(model, mask, repair="zero" if data is None else "mean", data=data)
        graph = unit_groups(squeezed)
        if settings.rescale is not None:
            rescale_batch_norms(graph, settings.rescale)
        self.survived = {name: int(on.sum()) for name, on in mask.items()}
        units = _most_units(graph, self.survived, self._whole, settings)
        result = _expanded(squeezed, units, self.survived, settings)
        _go_on(model.optimizer, result)
        return result


def _checked_crossing(crossing: Any) -> str:
    if crossing not in CROSSINGS:
        raise ValueError(
            f"NeuralRejuvenation: `crossing` expects one of {', '.join(map(repr, CROSSINGS))}, received {crossing!r}."
        )
    return crossing


@public
def rejuvenate(
    model: keras.Model,
    data: Any,
    rejuvenation: NeuralRejuvenation,
    *,
    epochs: int,
    fit_options: Mapping[str, Any] | None = None,
) -> RejuvenatedModel:
    """Trains a model, rejuvenates it once if too little of it is used, and goes on training, so many epochs in all.

    Args:
        model: a compiled Sequential or functional model. It is not changed; a copy is trained, with its optimizer's
            state.
        data: what `model.fit` takes to train on: `(x, y)`, or a dataset.
        rejuvenation: the callback, with its settings. Without `data` of its own it repairs with the first 2000 samples
            of `data`.
        epochs: the number of epochs in all.
        fit_options: further arguments for `fit`, such as `batch_size`, `validation_data`, `callbacks` and `verbose`.
            Callbacks see one training before and one after.

    Returns:
        The model, when it was rejuvenated, and what happened. There is a warning if it never was.

    Raises:
        TypeError: if an argument is of the wrong kind.
        ValueError: if an argument is out of its range, the model is not compiled, the penalty can act on nothing, or
            the data do not fit.

    Example:
        >>> how = NeuralRejuvenation(1.5e-4, crossing="attention")                                     # doctest: +SKIP
        >>> done = rejuvenate(net, (x, y), how, epochs=40)                                             # doctest: +SKIP
        >>> done.epoch, done.history["utilisation"][done.epoch - 1] <= 0.5                             # doctest: +SKIP
        (13, True)

    Reference: as for `NeuralRejuvenation`.
    """
    if not isinstance(rejuvenation, NeuralRejuvenation):
        raise TypeError(
            "rejuvenate: `rejuvenation` expects a NeuralRejuvenation, such as NeuralRejuvenation(1.5e-4), received an "
            f"object of type {type(rejuvenation).__name__}."
        )
    options = checked_options("rejuvenate", epochs, fit_options)
    refuse_masked(model)
    refuse_uncompiled(model, "rejuvenate")
    repair_data = rejuvenation._settings.data
    if repair_data is None:
        batch = collect(as_batches(data, model), _MOST_REPAIR_SAMPLES)
        repair_data = batch.inputs if len(batch.inputs) > 1 else batch.inputs[0]
    arrays = data if isinstance(data, tuple) else (data,)
    options |= dict(zip(("x", "y", "sample_weight"), arrays, strict=False))
    clock = Clock()
    others = options.pop("callbacks")
    trained = remove(model, LayerValues({}), keep_optimizer=True)
    history: dict[str, list[float]] = {}
    fitted = trained.fit(**options, epochs=epochs, callbacks=[rejuvenation, *others, clock])
    _note(history, fitted)
    epoch = rejuvenation.epoch
    if epoch is None:
        return RejuvenatedModel(trained, None, None, history | clock.noted)
    result = rejuvenation.rejuvenated(data=repair_data)
    if epoch < epochs:
        watch = SparsifyDuringTraining(
            rejuvenation._penalty,
            0.0,
            layers=rejuvenation._layers,
            threshold=rejuvenation._threshold,
            resource=rejuvenation._resource,
        )
        callbacks = [watch, *others, clock]
        _note(history, result.fit(**options, initial_epoch=epoch, epochs=epochs, callbacks=callbacks))
    return RejuvenatedModel(result, epoch, rejuvenation.survived, history | clock.noted)


def _note(history: dict[str, list[float]], fitted: Any) -> None:
    done = len(next(iter(history.values()), ()))
    for name, values in fitted.history.items():
        history.setdefault(name, [float("nan")] * done).extend(float(value) for value in values)


def _checked_names(options: dict[str, Any]) -> dict[str, Any]:
    unknown = set(options) - {"method", "threshold", "layers"}
    if unknown:
        raise TypeError(f"NeuralRejuvenation: no such arguments: {', '.join(sorted(unknown))}.")
    return options


def _go_on(source: Any, model: keras.Model) -> None:
    """Lets a learning-rate schedule go on where the old optimizer was; without one a fresh optimizer begins anew."""
    old, new = (getattr(own, "inner_optimizer", own) for own in (source, model.optimizer))
    if isinstance(old._learning_rate, LearningRateSchedule):
        model.optimizer.build(model.trainable_variables)
        # The attribute, as the property counts accumulated gradients as one.
        new._iterations.assign(old._iterations)


def _most_units(graph: UnitGraph, survived: Mapping[str, int], budget: int, settings: _Settings) -> dict[str, int]:
    """Returns so many units of each group, all by the same factor, that the model costs no more than the budget."""
    cost = _cost_of_wider(graph, survived, settings)

    def wider(factor: float) -> dict[str, int]:
        return {name: int(size * factor) for name, size in survived.items()}

    low, high = 1.0, 2.0
    while cost(wider(high)) <= budget and high < _MOST_TIMES:
        low, high = high, 2 * high
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(wider(middle)) <= budget else (low, middle)
    return wider(low)


def _cost_of_wider(
    graph: UnitGraph, survived: Mapping[str, int], settings: _Settings
) -> Callable[[Mapping[str, int]], int]:
    """Returns a function that tells what a model would cost with more units in its groups."""
    costs = Costs(graph, flops=settings.resource == "flops")
    # As if all units were new, so that every layer is found that will be crossed.
    crossed = [layer for layer, _, _ in Kinds(graph, dict.fromkeys(survived, 0)).crossed().values()]
    crossed = crossed if settings.crossing == "none" else []

    def cost(units: Mapping[str, int]) -> int:
        more = {name: units[name] - graph[name].size for name in units}
        counts = position_counts(graph, more)[:-1]
        crosses = {layer.name: _cross_weights(graph, layer, counts) for layer in crossed}
        if settings.resource == "parameters":
            return costs.parameters(counts) - sum(cross for cross, _ in crosses.values())
        by_layer = costs.flops(counts)
        return sum(by_layer.values()) - sum(int(by_layer[n] * cross / all_) for n, (cross, all_) in crosses.items())

    return cost


def _cross_weights(graph: UnitGraph, layer: Any, counts: np.ndarray) -> tuple[int, int]:
    """Returns how many weights of a layer would lead from one kind of units to the other, and how many it would have.

    Args:
        graph: the units before new ones come.
        layer: a dense layer or convolution between units.
        counts: how many units stand in the place of each.
    """
    ids = graph.records.weights[id(layer.kernel)].axes[-2:]
    old = [len(own) for own in ids]
    every = [int(counts[graph.columns(own)].sum()) for own in ids]
    new = [many - few for many, few in zip(every, old, strict=True)]
    taps = math.prod(layer.kernel.shape[:-2])
    crosses = old[0] * new[1] + new[0] * old[1] if all(new) else 0
    return taps * crosses, taps * math.prod(every)


def _expanded(
    model: keras.Model, units: Mapping[str, int], survived: Mapping[str, int], settings: _Settings
) -> keras.Model:
    """Returns the model with new units that change nothing yet."""
    drawn = keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal", seed=settings.seed)
    gamma = _SCALE if _have_scales(unit_groups(model), units) else None
    wide = widen(model, units, initializer=drawn, outgoing=drawn, gamma=gamma, seed=settings.seed)
    Kinds(unit_groups(wide), survived).silence()
    return wide if settings.crossing == "full" else cross(wide, survived, settings.crossing)


def _have_scales(graph: UnitGraph, names: Iterable[str]) -> bool:
    """Whether a batch normalization scales units of some groups."""
    starts = [(graph[name].start, graph[name].start + graph[name].size) for name in names]
    for layer in graph.model._flatten_layers():
        weight = graph.records.weights.get(id(getattr(layer, "gamma", None)))
        if isinstance(layer, keras.layers.BatchNormalization) and weight is not None and weight.axes[0] is not None:
            columns = graph.columns(weight.axes[0])
            if any(((columns >= start) & (columns < end)).any() for start, end in starts):
                return True
    return False
