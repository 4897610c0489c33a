from __future__ import annotations

import numpy as np
import pytest
from agegender.inference.ages import AGES, AgeInterval, EndCorrection, expectation, quantiles, read_ages
from hypothesis import given, settings
from hypothesis import strategies as st


def one_age(age: int) -> np.ndarray:
    distribution = np.zeros((1, AGES), np.float32)
    distribution[0, age] = 1
    return distribution


@settings(deadline=None)
@given(st.integers(0, 100))
def test_a_certain_age_is_that_age_and_fills_its_year(age: int) -> None:
    assert expectation(one_age(age))[0] == age
    low, middle, high = quantiles(one_age(age), (0.1, 0.5, 0.9))[0]
    assert (low, middle, high) == pytest.approx((max(0.0, age - 0.4), age, age + 0.4))


def test_two_halves_put_the_mean_between_them_and_the_quartiles_on_them() -> None:
    halves = (one_age(20) + one_age(40)) / 2
    assert expectation(halves)[0] == 30
    assert quantiles(halves, (0.25, 0.75))[0] == pytest.approx([20, 40])


def test_mass_below_the_middle_of_the_first_year_counts_as_age_0() -> None:
    assert quantiles(one_age(0), (0.1, 0.4))[0].tolist() == [0, 0]


def test_probabilities_that_add_up_only_nearly_give_the_same_ages() -> None:
    assert expectation(one_age(70) * np.float32(0.999))[0] == pytest.approx(70, abs=1e-9)
    assert quantiles(one_age(70) * np.float32(0.999), (0.9,))[0] == pytest.approx(70.4)


@settings(deadline=None)
@given(
    st.lists(st.floats(0.001, 1), min_size=AGES, max_size=AGES),
    st.floats(0.01, 0.99),
    st.floats(0.01, 0.99),
)
def test_quantiles_rise_with_their_level_and_hold_that_share(
    weights: list[float], a: float, b: float
) -> None:
    distribution = np.array([weights]) / np.sum(weights)
    low, high = quantiles(distribution, (min(a, b), max(a, b)))[0]
    assert 0 <= low <= high <= 100.5
    # Draws from the distribution, each spread over its year, lie below the quantile as often as its level says.
    edges = np.arange(AGES) - 0.5
    share_below = float(np.sum(distribution[0] * np.clip(high - edges, 0, 1)))
    assert share_below == pytest.approx(max(a, b), abs=1e-6) or high == 0


def test_each_row_is_read_by_itself() -> None:
    rows = np.concatenate([one_age(5), one_age(95)])
    assert expectation(rows).tolist() == [5, 95]
    assert quantiles(rows, (0.5,)).tolist() == [[5], [95]]


def test_no_rows_give_no_ages() -> None:
    assert expectation(np.zeros((0, AGES))).shape == (0,)
    assert quantiles(np.zeros((0, AGES)), (0.1, 0.9)).shape == (0, 2)


SKEWED = one_age(20) * 0.6 + one_age(50) * 0.4
PLAIN = AgeInterval(coverage=0.8, low_quantile=0.1, high_quantile=0.9)


def test_the_estimate_is_the_expectation_or_the_median() -> None:
    assert read_ages(SKEWED, "expectation", PLAIN).years[0] == pytest.approx(32)
    assert read_ages(SKEWED, "median", PLAIN).years[0] == pytest.approx(20.333, abs=1e-3)


def corrected(ends: tuple[float, float]) -> tuple[float, float]:
    """Where the ends of an interval come to lie when 20 is to become 10, 40 to become 60, and so on between."""
    distribution = np.concatenate([one_age(int(end)) for end in ends]).mean(axis=0, keepdims=True)
    correction = EndCorrection(age=(10, 60), low=(20, 40), high=(30, 50))
    interval = AgeInterval(coverage=0.5, low_quantile=0.25, high_quantile=0.75, correction=correction)
    ages = read_ages(distribution, "expectation", interval)
    return float(ages.low[0]), float(ages.high[0])


@pytest.mark.parametrize(
    ("ends", "moved"),
    [
        ((20, 50), (10, 60)),  # as said
        ((24, 45), (20, 47.5)),  # a part of the way between
        ((15, 60), (5, 70)),  # beyond the outermost: as there
        ((5, 95), (0, 100.5)),  # but not beyond what ages there are
    ],
)
def test_the_ends_are_moved_along_the_correction(
    ends: tuple[float, float], moved: tuple[float, float]
) -> None:
    assert corrected(ends) == pytest.approx(moved)


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1), min_size=AGES, max_size=AGES).filter(lambda weights: sum(weights) > 0.1),
    st.sampled_from(["expectation", "median"]),
    st.lists(st.floats(0, 100), min_size=6, max_size=6, unique=True),
)
def test_the_interval_holds_the_estimate_whatever_moves_its_ends(
    weights: list[float], estimate: str, points: list[float]
) -> None:
    a, b, c, d, e, f = points
    correction = EndCorrection(age=sorted((a, b)), low=sorted((c, d)), high=sorted((e, f)))
    interval = PLAIN.model_copy(update={"correction": correction})
    ages = read_ages(np.array([weights]), estimate, interval)  # type: ignore[arg-type]
    assert 0 <= ages.low[0] <= ages.years[0] <= ages.high[0] <= 100.5
