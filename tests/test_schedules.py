"""Schedules: values at known counts, and what is refused."""

import numpy as np
import pytest

from tfprune import schedules


def test_constant():
    schedule = schedules.constant(0.3, start=5)
    assert [schedule(step) for step in (0, 4, 5, 100)] == [0.0, 0.0, 0.3, 0.3]
    assert schedules.constant(0.3)(0) == 0.3 and schedule.counts == "steps"


def test_polynomial_is_the_cubic_at_each_pruning_step():
    schedule = schedules.polynomial(0.1, 0.9, begin=10, end=50, frequency=7)
    for step in range(80):
        at = 10 + 7 * ((step - 10) // 7)
        cubic = 0.9 - 0.8 * (1 - (at - 10) / 40) ** 3
        assert schedule(step) == pytest.approx(0.0 if step < 10 else 0.9 if step >= 50 else cubic, abs=1e-12)
    rises = np.count_nonzero(np.diff([schedule(step) for step in range(80)]))
    assert rises == 7  # At 10, 17, ..., 45 and at 50, where it ends.


def test_polynomial_of_power_one_is_a_line():
    schedule = schedules.polynomial(0.0, 0.5, 0, 10, power=1, frequency=1)
    np.testing.assert_allclose([schedule(step) for step in range(11)], np.arange(11) / 20, atol=1e-12)


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (schedules.THESIS_WEIGHTS, [0, 0, 0.2, 0.5, 0.8, 0.9, 0.9]),
        (schedules.THESIS_UNITS, [0, 0, 0.1, 0.2, 0.4, 0.6, 0.6]),
    ],
)
def test_tables_of_the_thesis(table, expected):
    schedule = schedules.by_epoch(table)
    assert [schedule(epochs) for epochs in range(7)] == expected and schedule.counts == "epochs"


def test_tables_cannot_be_changed():
    with pytest.raises(TypeError):
        schedules.THESIS_UNITS[2] = 0.5


def test_any_function_of_the_step():
    schedule = schedules.as_schedule(lambda step: min(0.5, step / 100))
    assert schedule(20) == 0.2 and schedule.counts == "steps"
    schedule.check(1000)
    assert schedules.as_schedule(schedule) is schedule


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: schedules.constant(1.0), "at least 0 and below 1"),
        (lambda: schedules.constant(-0.1), "at least 0 and below 1"),
        (lambda: schedules.constant(float("nan")), "at least 0 and below 1"),
        (lambda: schedules.constant(0.5, start=-1), "`start` expects a whole number of at least 0"),
        (lambda: schedules.polynomial(0.5, 0.2, 0, 10), "would fall from initial=0.5 to final=0.2"),
        (lambda: schedules.polynomial(0.1, 1.2, 0, 10), "`final` expects"),
        (lambda: schedules.polynomial(0.1, 0.2, 10, 10), "`end` expects a whole number of at least 11"),
        (lambda: schedules.polynomial(0.1, 0.2, 0, 10, frequency=0), "`frequency` expects"),
        (lambda: schedules.polynomial(0.1, 0.2, 0, 10, power=0), "`power` expects a number above 0"),
        (lambda: schedules.by_epoch({}), "the table is empty"),
        (lambda: schedules.by_epoch({2: 0.5, 3: 0.4}), "falls from 0.5 after 2 epochs to 0.4 after 3"),
        (lambda: schedules.by_epoch({2: 1}), "sparsity after 2 epochs expects"),
        (lambda: schedules.by_epoch({-1: 0.1}), "a number of epochs expects"),
        (lambda: schedules.Schedule(abs, "days"), "`counts` expects"),
        (lambda: schedules.as_schedule(lambda step: 2.0)(3), "after 3 steps expects"),
        (lambda: schedules.as_schedule(lambda step: 0.5 - step / 100).check(9), "it falls from 0.5 after 0 steps"),
        (lambda: schedules.as_schedule(lambda s: 0.5 * (s != 99_999)).check(99_999), "to 0 after 99999"),
    ],
)
def test_refused(make, match):
    with pytest.raises(ValueError, match=match):
        make()


def test_refused_types():
    with pytest.raises(TypeError, match="schedules.constant"):
        schedules.as_schedule(0.5)
    with pytest.raises(TypeError, match="expected a mapping"):
        schedules.by_epoch([0.1])
    with pytest.raises(TypeError, match="a function of the step"):
        schedules.Schedule(0.5)
