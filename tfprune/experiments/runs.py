"""Runs over a model whose units switch off: random subsets, flip paths, single points, chosen masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfprune.borders import public
from tfprune.compiling import compiled
from tfprune.data import as_batches, collect
from tfprune.experiments.records import FlipPaths, MaskedOutputs, PointGradients, RandomSubsets
from tfprune.files import run_information
from tfprune.graph import unit_groups
from tfprune.graph.walk import functional
from tfprune.masking import on_nodes_input, outputs_under_masks, sweep, with_on_nodes
from tfprune.objectives import check_classes, sample_loss
from tfprune.units import check_flags


@public
def random_subsets(
    model: keras.Model, data: Any, *, probability: float, num_subsets: int, seed: int, **sweep_options: Any
) -> RandomSubsets:
    """Loss and gradient at random subsets of the units, each unit on with the same probability on its own.

    Shows how the loss spreads when units go at random, and by the gradient which unit a subset would miss most. With
    one seed, the units that are on at a lower probability are on at a higher one too, so that differences between
    probabilities are sharper than those between independent draws.

    Args:
        model: The plain model, or one that ``with_on_nodes`` gave.
        data: Whatever ``model.fit`` takes.
        probability: Chance that a unit is on, between 0 and 1.
        num_subsets: How many subsets to draw.
        seed: Seed of the draw.
        **sweep_options: Passed on to :func:`tfprune.sweep`, such as ``loss`` or ``layers``.

    Returns:
        The record of ``num_subsets`` subsets.

    Raises:
        ValueError: If ``probability`` is not between 0 and 1 or ``num_subsets`` is below 1.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "Plotting the Loss".
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"random_subsets: expected a probability between 0 and 1, received {probability}.")
    _check_count("random_subsets", "num_subsets", num_subsets)
    masks = np.random.default_rng(seed).random((num_subsets, _num_units(model, sweep_options))) < probability
    result = sweep(model, data, np.concatenate([masks, np.ones_like(masks[:1])]), **sweep_options)
    settings = {"probability": probability, "num_subsets": num_subsets, "seed": seed, **run_information()}
    return RandomSubsets(
        settings=settings,
        masks=masks,
        losses=result.losses[:-1],
        gradients=result.gradients[:-1],
        full_loss=result.losses[-1],
    )


@public
def flip_paths(model: keras.Model, data: Any, *, num_paths: int, seed: int, **sweep_options: Any) -> FlipPaths:
    """Losses along random paths from a mask to its complement, one unit flipped at each step.

    The start is a random mask (each unit on with probability 1/2), the order of the flips a random permutation. Shows
    over how many flips the loss forgets where it came from.

    Args:
        model: The plain model, or one that ``with_on_nodes`` gave.
        data: Whatever ``model.fit`` takes.
        num_paths: How many paths to walk, at least 2.
        seed: Seed of starts and permutations.
        **sweep_options: Passed on to :func:`tfprune.sweep`, such as ``loss`` or ``layers``.

    Returns:
        The record of ``num_paths`` paths of ``num_units + 1`` masks.

    Raises:
        ValueError: If ``num_paths`` is below 2.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "How much does N flips matter".
    """
    _check_count("flip_paths", "num_paths", num_paths, at_least=2)
    masks = _draw_paths(num_paths, _num_units(model, sweep_options), np.random.default_rng(seed))
    result = sweep(model, data, masks.reshape(-1, masks.shape[-1]), gradients=False, **sweep_options)
    settings = {"num_paths": num_paths, "seed": seed, **run_information()}
    return FlipPaths(settings=settings, masks=masks, losses=result.losses.reshape(masks.shape[:2]))


@public
def point_gradients(model: keras.Model, data: Any, *, loss: Any = None, batch_size: int = 4096) -> PointGradients:
    """Loss, and its gradient with respect to ``on_nodes``, at each single point with every unit on.

    Shows where in the space of inputs a unit lowers the loss (negative) and where it raises it.

    Args:
        model: The plain model, with one input.
        data: Points and targets: whatever ``model.fit`` takes.
        loss: Loss that gives one value per sample; ``None`` takes the compiled one.
        batch_size: How many points go through the model at once.

    Returns:
        The record, one row per point.

    Raises:
        ValueError: If the model has several inputs, or the loss is neither given nor compiled.

    Reference:
        Hobson, "Exploring toy neural nets under node removal", section "Heatmap of Gradient".
    """
    _check_single_input("point_gradients", model)
    losses_of = sample_loss(model, loss)
    batches = as_batches(data, model, batch_size=batch_size, targets="required")
    masked = with_on_nodes(model)
    num_units = masked.inputs[-1].shape[-1]

    def step(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        on_nodes = tf.ones((tf.shape(x)[0], num_units))
        with tf.GradientTape() as tape:
            tape.watch(on_nodes)
            losses = losses_of(y, masked([x, on_nodes], training=False))
        # Each loss depends on its own row of on_nodes alone, so the gradient of the sum keeps the samples apart.
        return losses, tape.gradient(losses, on_nodes)

    step = compiled(step, reduce_retracing=True)
    collected = []
    for batch in batches:
        check_classes(model, batch.targets, loss)
        collected.append((batch.inputs[0], *step(batch.inputs[0], batch.targets)))
    points, losses, gradients = (
        np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*collected, strict=True)
    )
    return PointGradients(settings=run_information(), points=points, losses=losses, gradients=gradients)


@public
def masked_outputs(model: keras.Model, points: np.ndarray, masks: np.ndarray) -> MaskedOutputs:
    """Outputs of a model at given points, once for each mask.

    Args:
        model: The plain model, with one input and one output.
        points: Shape ``(num_points, ...)``.
        masks: Bool of shape ``(num_masks, num_units)``.

    Returns:
        The record.

    Raises:
        ValueError: If the model has several inputs or outputs, or the masks do not have one column per unit.
    """
    _check_single_input("masked_outputs", model)
    if len(functional(model).outputs) != 1:
        raise ValueError(
            f"masked_outputs: expected a model with one output, received {len(functional(model).outputs)}: "
            f"{', '.join(functional(model).output_names)}. Give keras.Model(model.inputs, model.outputs[0])."
        )
    num_units = unit_groups(model).num_units
    masks = np.asarray(masks)
    if masks.dtype.kind != "f":
        check_flags(masks, "masked_outputs: `masks`")
    if masks.ndim != 2 or masks.shape[1] != num_units or len(masks) == 0:
        raise ValueError(
            f"masked_outputs: expected masks of shape (num_masks, {num_units}), one column per unit and at least one "
            f"row, received {masks.shape}."
        )
    if not np.isfinite(masks).all():
        raise ValueError("masked_outputs: `masks` holds NaN or infinity; a mask is 0 (off) to 1 (on).")
    (points,), _, _ = collect(as_batches(points, model, targets="ignore"))
    parts: dict[int, list[np.ndarray]] = {}
    for part in outputs_under_masks(model, points, masks):
        for number, own in enumerate(part.outputs[0]):
            parts.setdefault(part.first + number, []).append(own)
    outputs = np.stack([np.concatenate(parts[number]) for number in range(len(masks))])
    return MaskedOutputs(settings=run_information(), points=points, masks=masks, outputs=outputs)


def plane_grid(limit: float, resolution: int) -> np.ndarray:
    """Midpoints of the cells of a square grid in the plane, row by row from the bottom left.

    Args:
        limit: The grid covers ``[-limit, limit]^2``.
        resolution: Number of cells along each side.

    Returns:
        float32 of shape ``(resolution ** 2, 2)``.

    Example:
        >>> plane_grid(1.0, 2).tolist()
        [[-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5]]
    """
    midpoints = ((np.arange(resolution) + 0.5) / resolution * 2.0 - 1.0) * limit
    second, first = np.meshgrid(midpoints, midpoints, indexing="ij")
    return np.stack([first.ravel(), second.ravel()], axis=1).astype(np.float32)


def _draw_paths(num_paths: int, num_units: int, generator: np.random.Generator) -> np.ndarray:
    """Masks (num_paths, num_units + 1, num_units): step k has the first k units of the permutation flipped."""
    starts = generator.random((num_paths, num_units)) < 0.5
    # Unit i flips at step ranks[:, i]: the ranks of a random permutation are one too.
    ranks = generator.permuted(np.tile(np.arange(num_units), (num_paths, 1)), axis=1)
    flipped = ranks[:, np.newaxis, :] < np.arange(num_units + 1)[np.newaxis, :, np.newaxis]
    return starts[:, np.newaxis, :] ^ flipped


def _num_units(model: keras.Model, options: Mapping[str, Any]) -> int:
    """Number of columns of the masks that ``sweep`` takes for the model."""
    if on_nodes_input(model) is None:
        model = with_on_nodes(model, layers=options.get("layers"), replacement=options.get("replacement"))
    return model.inputs[on_nodes_input(model)].shape[-1]


def _check_single_input(function: str, model: keras.Model) -> None:
    if len(functional(model).inputs) != 1:
        names = [tensor.name for tensor in functional(model).inputs]
        raise ValueError(f"{function}: expected a model with one input, received {model.name!r} with inputs {names}.")


def _check_count(function: str, name: str, value: int, *, at_least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < at_least:
        raise ValueError(f"{function}: expected {name} as an integer of at least {at_least}, received {value!r}.")
