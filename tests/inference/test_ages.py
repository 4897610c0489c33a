from __future__ import annotations

import numpy as np
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

COVERAGES = st.floats(MIN_COVERAGE, MAX_COVERAGE)


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
