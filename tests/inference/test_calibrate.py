from __future__ import annotations

import numpy as np
import pytest
from agegender.inference.ages import AGES, Ages, certainty, read_ages
from agegender.inference.calibrate import choose_estimate, fit_interval, fit_temperature
from numpy.typing import NDArray

BINS = np.array([0, 3, 10, 20, 30, 40, 50, 60, 70])


def bells(middle: NDArray[np.floating], deviation: float) -> NDArray[np.float64]:
    weights = np.exp(-0.5 * ((np.arange(AGES) - np.reshape(middle, (-1, 1))) / deviation) ** 2)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def faces(
    n: int, seed: int, error: float, older_error: float | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distributions that promise an error of 4 years, and true ages that are off by another one, from 50 on too."""
    random = np.random.default_rng(seed)
    estimated = random.uniform(15, 75, n)
    scale = np.where(estimated < 50, error, error if older_error is None else older_error)
    true = np.clip(np.rint(estimated + scale * random.normal(size=n)), 0, 100).astype(np.int64)
    return bells(estimated, 4), true


def held(ages: Ages, true: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray((ages.low <= true) & (true <= ages.high))


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.95])
def test_the_interval_holds_its_share_of_new_faces_at_every_estimated_age(coverage: float) -> None:
    distributions, true = faces(4000, 0, error=3, older_error=9)
    interval = fit_interval(distributions, "median", true, true)
    new, new_true = faces(4000, 1, error=3, older_error=9)
    ages = read_ages(new, "median", interval, coverage)
    for group in (ages.years < 45, ages.years > 55):
        assert held(ages, new_true)[group].mean() == pytest.approx(coverage, abs=0.04)
    width = ages.high - ages.low
    assert width[ages.years > 55].mean() > 2 * width[ages.years < 45].mean()


def test_the_score_falls_where_the_interval_is_wider_than_usual_at_its_age() -> None:
    distributions, true = faces(4000, 0, error=4, older_error=9)
    interval = fit_interval(distributions, "median", true, true)
    for age in (30, 65):
        usual, wider = (read_ages(bells(np.array([age]), sd), "median", interval) for sd in (4, 8))
        assert certainty(usual, interval)[0] > 0.85
        expected = 10 / (10 + np.ptp(wider[1:]) - np.ptp(usual[1:]))
        assert certainty(wider, interval)[0] == pytest.approx(expected, abs=0.05)


def test_bins_alone_calibrate_an_interval_that_holds_exact_ages() -> None:
    distributions, true = faces(6000, 0, error=4)
    which = np.searchsorted(BINS, true, side="right") - 1
    interval = fit_interval(distributions, "median", BINS[which], np.append(BINS[1:] - 1, 116)[which])
    new, new_true = faces(4000, 1, error=4)
    ages = read_ages(new, "median", interval, 0.8)
    assert held(ages, new_true).mean() == pytest.approx(0.8, abs=0.05)


def test_exact_ages_decide_where_there_are_enough_beside_bins() -> None:
    distributions, true = faces(4000, 0, error=4)
    wide = np.arange(len(true)) % 2 == 0
    low, high = np.where(wide, 0, true), np.where(wide, 100, true)
    with_bins = fit_interval(distributions, "median", low, high)
    without = fit_interval(distributions[~wide], "median", true[~wide], true[~wide])
    middle = slice(4, -2)  # the ages of which there are faces all around
    np.testing.assert_allclose(with_bins.low[1][middle], without.low[1][middle], rtol=0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    random = np.random.default_rng(0)
    logits = 3 * random.normal(size=20_000)
    male = random.random(len(logits)) < 1 / (1 + np.exp(-logits / temperature))
    assert fit_temperature(1 / (1 + np.exp(-logits)), male) == pytest.approx(temperature, rel=0.06)


def test_the_estimate_is_the_one_that_errs_less_on_exact_ages() -> None:
    skewed = 0.7 * bells(np.array([20]), 1) + 0.3 * bells(np.array([60]), 1)
    many = np.repeat(skewed, 10, axis=0)
    assert choose_estimate(many, np.full(10, 20), np.full(10, 20)) == "median"
    assert choose_estimate(many, np.full(10, 32), np.full(10, 32)) == "expectation"
    # A bin in which the median lies does not count beside an exact age.
    low, high = np.array([32] + [20] * 9), np.array([32] + [29] * 9)
    assert choose_estimate(many, low, high) == "expectation"
    assert choose_estimate(many[1:], low[1:], high[1:]) == "median"
