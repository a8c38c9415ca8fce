"""How often a property of the output changes as neurons are pushed further, and what that costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from tfprune.borders import public, warn
from tfprune.data import as_batches, collect
from tfprune.experiments.metrics import Metric, check_metric, is_function, name_of, outputs_and_metric, refuse_weights
from tfprune.experiments.records import Record
from tfprune.files import run_information
from tfprune.graph import unit_groups
from tfprune.neurons import control
from tfprune.neurons.control import check_neurons
from tfprune.objectives import sample_loss

_ANY = "any other"


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DoseCurve(Record):
    """How often a measured property changes under control of neurons, beside the quality of the outputs.

    Attributes:
        doses: how far the neurons were pushed: z in standard deviations, or multiples of a shift, `(num_doses,)`.
        success: the share of the examples whose measured property changed as wanted, 0 to 1, `(num_doses,)`.
        quality: the metric at each dose, in its own unit, `(num_doses,)`.
        full_quality: the metric of the model as it is, `()`.
        labels: the measured property of every example at each dose, as text, `(num_doses, num_examples)`.
        full_labels: that of the model as it is, `(num_examples,)`.
    """

    doses: np.ndarray
    success: np.ndarray
    quality: np.ndarray
    full_quality: np.ndarray
    labels: np.ndarray
    full_labels: np.ndarray

    def __repr__(self) -> str:
        settings = self.settings
        rows = [f"{'dose':>10}{'success rate':>14}{settings['metric']:>14}"]
        for dose, success, quality in zip(self.doses, self.success, self.quality, strict=True):
            rows.append(f"{dose:10.3g}{success:14.1%}{quality:14.4g}")
        title = (
            f"DoseCurve: {settings['num_neurons']} neurons by {settings['by']}, {settings['num_counted']} examples, "
            f"wanted: {settings['wanted']}; {settings['metric']} without control {float(self.full_quality):.4g}"
        )
        return "\n".join([title, *rows])


@public
def dose_curve(
    model: keras.Model,
    data: Any,
    neurons: Any,
    doses: Sequence[float],
    *,
    measured: Callable[[Any], Any],
    wanted: Any = None,
    metric: Metric = None,
    shift: Mapping[str, Any] | None = None,
    calibration: Any = None,
    positions: Any = None,
    predict: Callable[[keras.Model, list[np.ndarray]], Any] | None = None,
) -> DoseCurve:
    """Controls neurons with rising doses: how often does a property of the output flip, and what becomes of the rest?

    A success is counted by what is measured in the output, not by what the neuron is thought to stand for; and beside
    it stands the quality, since an output that has fallen apart has flipped, too.

    Args:
        model: a Sequential or functional model. It is not changed.
        data: inputs and targets, whatever `model.fit` takes.
        neurons: as for `neurons.control`.
        doses: values of z, or multiples of `shift`, in the order of work.
        measured: takes the outputs of all examples, gives the property of each, such as its tense, `(num_examples,)`.
        wanted: the property to be reached; examples that have it without control do not count. None counts every
            change of the property, over all examples.
        metric: the quality: None for the compiled loss, or as for `ablation_curve`.
        shift: what is added at dose 1, as for `neurons.control`; None clamps to mean + dose * std.
        calibration: over what mean and standard deviation are taken, as `data` of `neurons.control`; None takes `data`.
        positions: as for `neurons.control`; or `(num_examples, steps)` of bool, where each example has its own.
        predict: what gives the outputs, as for `ablation_curve`; None runs the model.

    Returns:
        The record. Printed, it is a table; `plots.dose_curves` draws several.

    Raises:
        TypeError: as `neurons.control` and `ablation_curve` do.
        ValueError: likewise; if there is no dose, `measured` does not give one label for each example, or no example
            lacks what is wanted.

    Example:
        >>> net = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, name="hidden"), keras.layers.Dense(1)])
        >>> net.set_weights([np.ones((1, 1)), np.zeros(1), np.ones((1, 1)), np.zeros(1)])
        >>> net.compile("sgd", "mse")
        >>> x = np.array([[-1.0], [1.0]])
        >>> dose_curve(net, (x, x), "hidden[0]", [0.0, 2.0], measured=lambda outputs: outputs[:, 0] > 0).success
        array([0.5, 0.5])

    Reference: A. Bau et al. (2019), "Identifying and controlling important neurons in neural machine translation",
    section 6 and figure 6.
    """
    check_metric(metric, model)
    if metric is None:
        sample_loss(model)
    doses = np.atleast_1d(np.asarray(doses, "float64"))
    if not doses.size or doses.ndim != 1 or not np.isfinite(doses).all():
        raise ValueError(f"doses: expected finite numbers, at least one, received {doses!r}.")
    if predict is not None and not is_function(metric):
        raise TypeError(
            "metric: where `predict` gives the outputs, the quality is a function (targets, outputs) -> number; "
            f"received {metric!r}."
        )
    run = _Run(model, data, measured, metric, positions, predict)
    calibration = run.inputs_alone if calibration is None else calibration
    full_labels, full_quality = run(model, fed=False)
    counted = np.ones(len(full_labels), bool) if wanted is None else full_labels != wanted
    if not counted.any():
        raise ValueError(f"wanted: every example has the property {wanted!r} without control, so that none can flip.")
    success, quality, labels = [], [], []
    for dose in tqdm(doses.tolist(), desc="doses", leave=False, disable=None):
        how = {"z": dose, "data": calibration} if shift is None else {"shift": _times(shift, dose)}
        own, value = run(control(model, neurons, positions=run.positions, **how))
        flipped = (own != full_labels) if wanted is None else (own == wanted)
        success.append(float(flipped[counted].mean()))
        quality.append(value)
        labels.append(own.astype(str))
    if wanted is not None and not any(success):
        seen = sorted({str(own) for row in [full_labels, *labels] for own in row})
        warn(
            f"wanted: no example turns to {wanted!r} at any dose, so that the success is 0 throughout. Labels that "
            f"`measured` gives: {', '.join(seen[:10])}{', ...' if len(seen) > 10 else ''}. Check its spelling and "
            "type, or give larger doses."
        )
    settings = {
        "metric": name_of(metric),
        "by": "mean + z * std" if shift is None else "a shift",
        "wanted": _ANY if wanted is None else str(wanted),
        "num_counted": int(counted.sum()),
        "num_neurons": sum(int(own.sum()) for own in check_neurons(unit_groups(model), neurons).values()),
    }
    return DoseCurve(
        settings={**settings, **run_information()},
        doses=doses,
        success=np.array(success),
        quality=np.array(quality),
        full_quality=np.array(full_quality),
        labels=np.array(labels),
        full_labels=full_labels.astype(str),
    )


class _Run:
    """Runs models on the data and measures what they give."""

    def __init__(self, model: keras.Model, data: Any, measured: Callable, metric: Metric, positions: Any, predict: Any):
        self._inputs, self._targets, weights = collect(as_batches(data, model, targets="required"))
        if is_function(metric):
            refuse_weights(weights)
        self._weights = [] if weights is None else [weights]
        self._loss = getattr(model, "loss", None)
        self._measured, self._metric, self._predict = measured, metric, predict
        own = None if positions is None or isinstance(positions, str) else np.asarray(positions)
        self._at = own.astype("float32") if own is not None and own.ndim == 2 else None
        if self._at is not None and len(self._at) != len(self._inputs[0]):
            raise ValueError(
                f"positions: expected a row for each of the {len(self._inputs[0])} examples, received {own.shape}."
            )
        if isinstance(positions, str):
            raise ValueError(
                "positions: 'input' is for `neurons.control`. Give steps, or (num_examples, steps) of bool."
            )
        self.positions = positions if self._at is None else "input"

    @property
    def inputs_alone(self) -> Any:
        """What mean and standard deviation of neurons are taken over."""
        return self._inputs if len(self._inputs) > 1 else self._inputs[0]

    def __call__(self, model: keras.Model, *, fed: bool = True) -> tuple[np.ndarray, float]:
        """Returns the labels and the quality; `fed` says whether the model takes positions, if there are any."""
        inputs = [*self._inputs, *([self._at] if fed and self._at is not None else [])]
        data = (inputs if len(inputs) > 1 else inputs[0], self._targets, *self._weights)
        outputs, value = outputs_and_metric(model, data, self._metric, loss=self._loss, predict=self._predict)
        labels = np.asarray(self._measured(outputs))
        if labels.shape != (len(inputs[0]),):
            raise ValueError(
                f"measured: expected one label for each of the {len(inputs[0])} examples, received the shape "
                f"{labels.shape}."
            )
        return labels, value


def _times(shift: Mapping[str, Any] | float, dose: float) -> Any:
    if isinstance(shift, Mapping):
        return {name: np.asarray(own) * dose for name, own in shift.items()}
    return shift * dose
