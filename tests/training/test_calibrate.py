from __future__ import annotations

import numpy as np
import pytest

from app.inference.ages import quantiles
from training.calibrate import fit, fit_interval, fit_temperature, share_below

YEARS = np.arange(101)


def bells(centres: np.ndarray, width: float) -> np.ndarray:
    """(n, 101) Gaussians over ages."""
    density = np.exp(-0.5 * ((YEARS - centres[:, None]) / width) ** 2)
    return density / density.sum(axis=1, keepdims=True)


def people(scatter: float, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Estimates and the true ages, which scatter around them by so many years."""
    random = np.random.default_rng(0)
    estimates = random.uniform(30, 70, n)
    return estimates, np.rint(estimates + random.normal(0, scatter, n)).astype(np.int64)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_temperature_is_found_by_which_logits_were_multiplied(temperature: float) -> None:
    random = np.random.default_rng(1)
    honest = random.normal(0, 2.5, 20_000)
    male = random.uniform(size=20_000) < 1 / (1 + np.exp(-honest))
    assert fit_temperature(honest * temperature, male) == pytest.approx(temperature, rel=0.05)


def test_an_honest_distribution_keeps_its_tenths() -> None:
    estimates, age = people(scatter=5)
    assert fit_interval(bells(estimates, width=5), age) == pytest.approx((0.1, 0.9), abs=0.012)


@pytest.mark.parametrize("width", [2.5, 10.0])
def test_a_distribution_too_sure_or_too_shy_gets_levels_that_hold_80_percent(width: float) -> None:
    estimates, age = people(scatter=5)
    distributions = bells(estimates, width)
    low, high = fit_interval(distributions, age)
    assert low + high == pytest.approx(1)
    assert (low < 0.1) == (width < 5)
    ends = quantiles(distributions, (low, high))
    assert ((ends[:, 0] <= age) & (age <= ends[:, 1])).mean() == pytest.approx(0.8, abs=0.005)


def test_levels_stay_inside_0_and_1_where_nothing_can_be_held() -> None:
    low, high = fit_interval(bells(np.full(50, 20.0), width=0.5), np.full(50, 90))
    assert 0 < low < high < 1
    low, high = fit_interval(bells(np.full(50, 20.0), width=5), np.full(50, 20))
    assert 0 < low < high < 1


def test_the_share_below_counts_half_of_the_age_itself() -> None:
    distributions = np.zeros((4, 101))
    distributions[:, 20] = 0.25
    distributions[:, 40] = 0.75
    assert share_below(distributions, np.array([19, 20, 40, 41])).tolist() == [0, 0.125, 0.625, 1]
    certain = np.eye(101)[[100, 100]] * 0.999  # float32 probabilities add up to 1 only nearly
    assert share_below(certain, np.array([100, 116])) == pytest.approx([0.5, 1])


def test_all_of_it_is_fitted_at_once() -> None:
    estimates, age = people(scatter=5)
    logits = np.tile([4.0, 4.0, 4.0, -4.0], 1000)
    calibration = fit(bells(estimates, 2.5), logits, age, np.ones(4000, bool))
    # Right three times in four: a logit of log 3.
    assert 4 / calibration.gender_temperature == pytest.approx(np.log(3), rel=0.02)
    assert calibration.low_quantile < 0.03
