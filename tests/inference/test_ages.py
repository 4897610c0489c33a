from __future__ import annotations

import numpy as np
import pytest
from agegender.inference.ages import (
    AGES,
    MAX_COVERAGE,
    MIN_COVERAGE,
    AgeEstimate,
    AgeInterval,
    read_ages,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import NORMAL_INTERVAL

NORMAL = AgeInterval.model_validate(NORMAL_INTERVAL)
COVERAGES = st.floats(MIN_COVERAGE, MAX_COVERAGE)


def bell(middle: float, deviation: float) -> np.ndarray:
    weights = np.exp(-0.5 * ((np.arange(AGES) - middle) / deviation) ** 2)
    return np.array([weights / weights.sum()])


def test_factors_are_those_of_the_estimated_age_and_of_its_side() -> None:
    table = {**NORMAL_INTERVAL, "age": [20, 40], "low": [[1, 2]] * 5, "high": [[3, 5]] * 5}
    table["usual_width"] = [5, 5]
    interval = AgeInterval.model_validate(table)
    at = {years: read_ages(bell(years, 2), "median", interval) for years in (15, 20, 30, 40, 60)}
    plain = read_ages(bell(30, 2), "median", NORMAL)
    one = (plain.high - plain.years)[0]
    below = [float((ages.years - ages.low)[0] / one) for ages in at.values()]
    above = [float((ages.high - ages.years)[0] / one) for ages in at.values()]
    assert below == pytest.approx([1, 1, 1.5, 2, 2], rel=0.01)
    assert above == pytest.approx([3, 3, 4, 5, 5], rel=0.01)


DISTRIBUTIONS = st.lists(st.floats(0, 1), min_size=AGES, max_size=AGES).filter(lambda w: sum(w) > 0.1)
INTERVALS = st.lists(st.floats(0, 4), min_size=10, max_size=10).map(
    lambda factors: AgeInterval.model_validate(
        {
            **NORMAL_INTERVAL,
            "low": [[factor] for factor in sorted(factors[:5])],
            "high": [[factor] for factor in sorted(factors[5:])],
        }
    )
)
ESTIMATES = st.sampled_from(["expectation", "median"])


@settings(deadline=None)
@given(DISTRIBUTIONS, ESTIMATES, INTERVALS, COVERAGES, COVERAGES)
def test_the_interval_holds_the_estimate_well_inside_and_grows_with_the_coverage(
    weights: list[float], estimate: AgeEstimate, interval: AgeInterval, a: float, b: float
) -> None:
    narrow, wide = (read_ages(np.array([weights]), estimate, interval, c) for c in sorted((a, b)))
    assert narrow.years[0] == wide.years[0]
    assert wide.low[0] <= narrow.low[0] + 1e-9
    assert wide.high[0] >= narrow.high[0] - 1e-9
    for ages in (narrow, wide):
        assert 0 <= ages.low[0] <= ages.years[0] <= ages.high[0] <= 100.5
        tenth = (ages.high[0] - ages.low[0]) / 10
        assert ages.years[0] - ages.low[0] >= tenth - 1e-9
        if ages.years[0] < 90:
            assert ages.high[0] - ages.years[0] >= tenth - 1e-9
