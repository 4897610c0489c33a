from __future__ import annotations

import numpy as np
import pytest
from agegender.inference.ages import read_ages

from training.calibrate import (
    Calibration,
    choose_estimate,
    fit,
    fit_end_correction,
    fit_temperature,
    share_below,
)

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


@pytest.mark.parametrize(("middle", "tail", "better"), [(34, 0.3, "median"), (30, 0.5, "expectation")])
def test_the_estimate_that_errs_less_is_chosen(middle: int, tail: float, better: str) -> None:
    # Faces of 34 years, seen as `middle` with a tail at 40: the mean is 35.8, or 35 where the median is 30.
    distributions = np.zeros((20, 101))
    distributions[:, middle] = 1 - tail
    distributions[:, 40] = tail
    assert choose_estimate(distributions, np.full(20, 34)) == better


def held(distributions: np.ndarray, age: np.ndarray, calibration: Calibration) -> np.ndarray:
    ages = read_ages(distributions, calibration.age_estimate, calibration.age_interval)
    return (ages.low <= age) & (age <= ages.high)


@pytest.mark.parametrize("width", [2.5, 5.0, 10.0])
def test_a_distribution_honest_or_too_sure_or_too_shy_gets_ends_that_hold_80_percent(width: float) -> None:
    estimates, age = people(scatter=5)
    distributions = bells(estimates, width)
    calibration = Calibration(end_correction=fit_end_correction(distributions, age))
    assert held(distributions, age, Calibration()).mean() == pytest.approx(
        {2.5: 0.49, 5.0: 0.8, 10.0: 0.99}[width], abs=0.02
    )
    assert held(distributions, age, calibration).mean() == pytest.approx(0.8, abs=0.02)


def test_faces_of_every_age_are_held_equally_often_though_the_network_leans_to_the_middle() -> None:
    random = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        age = random.integers(10, 80, n)
        said = 40 + 0.8 * (age - 40) + random.normal(0, 6, n)
        return bells(said, width=7), age

    def shares(calibration: Calibration) -> list[float]:
        holds = held(distributions, age, calibration)
        return [float(holds[age // 10 == decade].mean()) for decade in range(1, 8)]

    correction = fit_end_correction(*draw(4000))
    distributions, age = draw(4000)  # others than it was fitted on
    before, after = shares(Calibration()), shares(Calibration(end_correction=correction))
    assert min(before) < 0.7
    assert max(before) > 0.86
    assert min(after) > 0.76
    assert max(after) < 0.84


def test_faces_of_the_first_age_that_the_network_takes_for_adult_are_held_as_often() -> None:
    random = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        age = random.integers(12, 27, n)
        return bells(age + 6 * (age >= 19) + random.normal(0, 2, n), width=3), age

    calibration = Calibration(end_correction=fit_end_correction(*draw(3000)))
    distributions, age = draw(20_000)
    assert held(distributions, age, calibration)[age == 19].mean() == pytest.approx(0.8, abs=0.05)


def test_the_ends_hold_80_percent_of_others_too_where_few_faces_were_there_to_fit_them() -> None:
    random = np.random.default_rng(0)

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        said = 40 + random.normal(0, 6, n)
        return bells(said, width=7), np.full(n, 40)

    shares = []
    for _ in range(200):
        calibration = Calibration(end_correction=fit_end_correction(*draw(40)))
        shares.append(held(*draw(200), calibration).mean())
    # By quantiles of the 40 alone it would be 0.765.
    assert np.mean(shares) == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize("age", [np.full(7, 90), np.arange(0, 90, 3).repeat(50)])
def test_a_network_that_says_the_same_of_all_gets_a_correction_too(age: np.ndarray) -> None:
    correction = fit_end_correction(bells(np.full(len(age), 20.0), width=5), age)
    for column in (correction.age, correction.low, correction.high):
        assert (np.diff(column) > 0).all()


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
    assert calibration.age_estimate in ("expectation", "median")
    assert held(bells(estimates, 2.5), age, calibration).mean() == pytest.approx(0.8, abs=0.02)
