"""What Hobson's "Exploring toy neural nets under node removal" prints, and whether a run agrees with it.

A finding is a pair: whether the run agrees with what the source says, and a sentence with the numbers of both.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import skew

from tfprune import plots
from tfprune.experiments import FlipPaths, PointGradients, RandomSubsets

Findings = list[tuple[bool, str]]

# What the source prints: at p = .25, .5, .75, then at p = .5 for units that are on and off.
PUBLISHED = {
    "mean loss": (1.0277, 0.8782, 0.5844),
    "mean log loss": (-0.0802, -0.2847, -0.7286),
    "std of log loss": (0.4478, 0.5545, 0.6134),
    "mean gradient": (-0.0693, -0.0475, 0.0270),
    "std of gradient": (0.3680, 0.3351, 0.2671),
    "mean gradient of log loss": (-0.0747, -0.0584, -0.0467),
    "std of gradient of log loss": (0.3606, 0.3839, 0.4456),
}
PUBLISHED_ON_OFF = {"unit is on": (0.0558, 0.3594), "unit is off": (-0.1726, 0.3734)}
PUBLISHED_FULL_LOSS = 0.117
PUBLISHED_FLIPS = (5, 6)


def loss_findings(subsets: Sequence[RandomSubsets], single_losses: np.ndarray) -> Findings:
    """What the source says about the loss of subsets, whether this run agrees, and the numbers."""
    half, full_loss = subsets[1], float(subsets[0].full_loss)
    loss, spread = values_of(subsets, "mean loss"), values_of(subsets, "std of log loss")
    cheapest = int(single_losses.argmin())
    rise = float(single_losses[cheapest]) - full_loss
    skewness, log_skewness = skew(half.losses), skew(half.log_losses)
    predicted, difference = 10 * values_of(subsets, "mean gradient")[1], loss[2] - loss[0]
    return [
        (
            loss[0] > loss[1] > loss[2] > full_loss,
            f"fewer units, higher loss: {series(loss)} at p = .25 / .5 / .75 and {full_loss:.3f} in full; "
            f"source {series(PUBLISHED['mean loss'])} and {PUBLISHED_FULL_LOSS}",
        ),
        (
            rise < 0.01,
            f"one unit can go at almost no loss: here unit {cheapest} is the cheapest, {rise:+.3f}; source +0.002",
        ),
        (
            0.0 < abs(log_skewness) < skewness,
            f"the loss leans to the right, its logarithm is nearer to a normal: skewness {skewness:.2f} and "
            f"{log_skewness:.2f} at p = .5; source gives no number",
        ),
        (
            spread[0] < spread[1] < spread[2],
            f"the log loss spreads more the more units are on: std {series(spread)}; "
            f"source {series(PUBLISHED['std of log loss'])}",
        ),
        (
            abs(predicted - difference) < 0.25 * abs(difference),
            f"mean gradient at p = .5 times 10 units is about the loss at .75 minus that at .25: {predicted:.3f} and "
            f"{difference:.3f}; source -0.475 and -0.443",
        ),
    ]


def gradient_findings(subsets: Sequence[RandomSubsets], points: PointGradients, radius: float) -> Findings:
    """The same about gradients."""
    mean, spread = values_of(subsets, "mean gradient"), values_of(subsets, "std of gradient of log loss")
    troughs = [has_trough_at_zero(record.log_loss_gradients) for record in subsets]
    on, off = (moments[0] for moments in on_off_moments(subsets[1]).values())
    near, far = gradient_by_distance(points, radius)
    return [
        (
            mean[0] < 0.0 and mean[1] < 0.0 < mean[2],
            f"more of a unit helps on average at p = .25 and .5, and hurts at .75: mean gradient {series(mean)}; "
            f"source {series(PUBLISHED['mean gradient'])}",
        ),
        (
            spread[0] < spread[1] < spread[2],
            f"the gradient of the log loss spreads more the more units are on: std {series(spread)}; "
            f"source {series(PUBLISHED['std of gradient of log loss'])}",
        ),
        (
            all(troughs),
            f"the density of the gradient of the log loss has a trough at 0: for {sum(troughs)} of 3 values of p; "
            "source all 3",
        ),
        (
            off < 0.0 < on,
            f"less would be better of units that are on, more of those that are off: mean {on:.3f} and {off:.3f}; "
            f"source {PUBLISHED_ON_OFF['unit is on'][0]:.3f} and {PUBLISHED_ON_OFF['unit is off'][0]:.3f}",
        ),
        (
            near > 2 * far,
            f"units act on the loss of points near the circle: mean |gradient| {near:.3f} within 0.2 of it, {far:.3f} "
            "elsewhere in the training square; source shows an annulus",
        ),
    ]


def path_findings(paths: FlipPaths) -> Findings:
    """The same about flip paths."""
    flips = paths.flips_until_forgotten()
    correlation, error = paths.complement_correlation()
    return [
        (
            flips in PUBLISHED_FLIPS,
            f"5 or 6 flips make the loss forget its start: here the covariance is below a tenth of the variance after "
            f"{flips} flips",
        ),
        (
            correlation > 2 * error,
            f"where a mask does well its complement does too: correlation {correlation:.3f} +- {error:.3f}; source "
            "positive, without a number",
        ),
    ]


def values_of(subsets: Sequence[RandomSubsets], name: str) -> list[float]:
    """One moment for each probability."""
    return [record.moments()[name] for record in subsets]


def on_off_moments(half: RandomSubsets) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of the gradient of the log loss, for units that are on and off."""
    samples = plots.split_on_off(half.log_loss_gradients, half.masks)
    return {label: (float(values.mean()), float(values.std())) for label, values in samples.items()}


def series(values: list[float] | tuple[float, ...]) -> str:
    """Numbers for a sentence."""
    return " / ".join(f"{value:.3f}" for value in values)


def has_trough_at_zero(values: np.ndarray) -> bool:
    """Whether the smoothed density at 0 is below the highest density on either side."""
    positions = np.linspace(-1.0, 1.0, 201)
    density = plots.kernel_density(values, positions)
    return bool(density[100] < min(density[:100].max(), density[101:].max()))


def gradient_by_distance(points: PointGradients, radius: float) -> tuple[float, float]:
    """Mean absolute gradient of the training square's points near the circle, and of its other points."""
    inside_square = np.abs(points.points).max(axis=1) <= 1.0
    near = np.abs(np.linalg.norm(points.points, axis=1) - radius) < 0.2
    size = np.abs(points.gradients).mean(axis=1)
    return float(size[inside_square & near].mean()), float(size[inside_square & ~near].mean())
