"""Orders that do not hang on rounding: against slow choices, and with clones under every saliency and selection."""

import doctest

import keras
import numpy as np
import pytest
from conftest import SEED, randomise
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import tfprune as tfp
from tfprune import distinctiveness, saliency, ties
from tfprune.ties import first_lowest, rising_order

SHIFTS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-1e-8, 1e-8)), max_size=12)


@given(SHIFTS)
def test_what_differs_by_rounding_alone_keeps_its_order(drawn):
    whole = np.array([number for number, _ in drawn], float)
    values = whole * np.array([1 + noise for _, noise in drawn])
    expected = sorted(range(len(whole)), key=lambda place: (whole[place], place))
    assert rising_order(values).tolist() == expected
    if expected:
        assert first_lowest(values) == expected[0]


@given(st.lists(st.floats(-1e3, 1e3), max_size=30), st.sampled_from([0.0, 1e-3]))
def test_no_two_that_differ_are_exchanged(drawn, absolute):
    values = np.array(drawn)
    ordered = values[rising_order(values, absolute=absolute)]
    assert sorted(ordered.tolist()) == sorted(drawn)
    allowed = np.maximum(1e-6 * np.abs(ordered), absolute)
    highest = np.maximum.accumulate(ordered) if len(ordered) else ordered
    assert (highest - ordered <= allowed * 1.001).all()


def test_infinite_and_whole_numbers():
    assert rising_order(np.array([np.inf, 1.0, -np.inf, np.inf, -np.inf])).tolist() == [2, 4, 1, 0, 3]
    assert rising_order(np.array([10_000_001, 10_000_000])).tolist() == [1, 0]
    assert first_lowest(np.array([np.inf, np.inf])) == 0
    assert rising_order(np.array([])).tolist() == []
    assert first_lowest(np.array([0.003, 0.002, 0.0]), absolute=0.0025) == 1


def test_examples_in_docstrings():
    assert doctest.testmod(ties).failed == 0


# Clones ---------------------------------------------------------------------------------------------------------------

FAMILIES = 5
X = np.random.default_rng(SEED).normal(size=(37, 6)).astype("float32")
Y = np.random.default_rng(SEED + 1).normal(size=(37, 2)).astype("float32")


def clones_net(versions=3):
    """Five units, each `versions` times: unit k and unit k + 5 are read by the same weights too.

    Fifteen are no multiple of what a processor computes at once, so that clones are rounded in different ways.
    """
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(FAMILIES * versions, "tanh", name="hidden"),
            layers.Dense(2, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    randomise(model)
    kernel, bias = model.layers[0].get_weights()
    family = np.arange(FAMILIES * versions) % FAMILIES
    model.layers[0].set_weights([kernel[:, family], bias[family]])
    kernel, bias = model.layers[1].get_weights()
    model.layers[1].set_weights([kernel[family], bias])
    return model


SALIENCIES = {
    "weight_norm": lambda model: saliency.weight_norm(model),
    "outgoing_norm": lambda model: saliency.weight_norm(model, which="outgoing"),
    "activation_std": lambda model: saliency.activation_std(model, X),
    "zero_fraction": lambda model: saliency.zero_fraction(model, X),
    "on_nodes_gradient": lambda model: saliency.on_nodes_gradient(model, (X, Y)),
    "mean_replacement": lambda model: saliency.mean_replacement(model, (X, Y)),
    "mean_replacement_penalty": lambda model: saliency.mean_replacement_penalty(model, (X, Y)),
    "loss_change": lambda model: saliency.loss_change(model, (X, Y)),
    "relevance": lambda model: saliency.relevance(model, X),
}
"""Those that say the same of every clone; the others see that one clone is enough."""


def moved(model, order):
    """Exchanges the units of the hidden layer, so that other sums are rounded."""
    first, second = model.layers
    kernel, bias = first.get_weights()
    first.set_weights([kernel[:, order], bias[order]])
    kernel, bias = second.get_weights()
    second.set_weights([kernel[order], bias])
    return model


@pytest.mark.parametrize("name", SALIENCIES)
def test_of_clones_the_first_go_first(name):
    """Whatever their order: two thirds off leave the last of equal scores, in each of three ways to choose."""
    for number in range(3):
        order = np.random.default_rng(number).permutation(FAMILIES * 3) if number else np.arange(FAMILIES * 3)
        model = moved(clones_net(), order)
        scores = SALIENCIES[name](model)
        values = scores["hidden"]
        family = order % FAMILIES
        means = np.array([values[family == own].mean() for own in range(FAMILIES)])
        np.testing.assert_allclose(values, means[family], rtol=2e-5, atol=1e-7)
        # The families in rising order, those that are equal (no zeros at all) as one.
        rank = np.unique(np.round(means / max(np.abs(means).max(), 1e-30), 5), return_inverse=True)[1][family]
        for sparsity in (0.2, 0.5, 2 / 3):
            gone = sorted(range(len(family)), key=lambda unit: (rank[unit], unit))[: int(len(family) * sparsity + 1e-9)]
            for mask in (tfp.keep_top(scores, sparsity), tfp.keep_top(scores, sparsity, scope="global")):
                assert np.flatnonzero(~mask["hidden"]).tolist() == sorted(gone)
        budget = tfp.keep_budget(model, scores, parameters=0.5)["hidden"]
        gone = sorted(range(len(family)), key=lambda unit: (rank[unit], unit))[: int((~budget).sum())]
        assert np.flatnonzero(~budget).tolist() == sorted(gone)


REDUNDANCY = {
    "least_squares": lambda model: saliency.least_squares(model, X),
    "distinctiveness": lambda model: saliency.distinctiveness(model, X),
}


@pytest.mark.filterwarnings("ignore:data. saliency.least_squares has")
@pytest.mark.parametrize("name", REDUNDANCY)
def test_choices_that_see_clones_do_not_hang_on_rounding(name):
    """Noise of a few last bits in what the units show changes no mask."""
    masks = []
    for number in range(4):
        model = clones_net()
        if number:
            kernel, bias = model.layers[0].get_weights()
            noise = 1 + np.random.default_rng(number).integers(-1, 2, kernel.shape) * 6e-8
            model.layers[0].set_weights([kernel * noise, bias])
        masks.append(tfp.keep_top(REDUNDANCY[name](model), 2 / 3)["hidden"])
        kept = np.flatnonzero(masks[-1]) % FAMILIES
        assert sorted(kept.tolist()) == list(range(FAMILIES))
    assert all((mask == masks[0]).all() for mask in masks), masks


@pytest.mark.parametrize("transfer", ["exact", "gedeon"])
def test_merging_clones_does_not_hang_on_rounding(transfer):
    plans = []
    for number in range(4):
        model = clones_net()
        if number:
            kernel, bias = model.layers[0].get_weights()
            noise = 1 + np.random.default_rng(number).integers(-1, 2, kernel.shape) * 6e-8
            model.layers[0].set_weights([kernel * noise, bias])
        plan = distinctiveness.plan(model, X, transfer=transfer)
        plans.append([(gone.unit, gone.reason, gone.partners) for gone in plan.removals])
    assert len(plans[0]) >= 2 * FAMILIES and all(plan == plans[0] for plan in plans)
    if transfer == "exact":
        assert plans[0] == [(unit, "similar", (unit % FAMILIES,)) for unit in range(FAMILIES, 3 * FAMILIES)]
