"""Age as a distribution: read an estimate, an interval and calibrated probabilities out of a model's answer."""

from __future__ import annotations

from bisect import bisect
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

AGES = 101
"""Classes of a model's age output: 0 to 100 years."""

OLDEST = AGES - 0.5
"""Where the last class ends, years."""

YOUNGEST = 0.5
"""The least estimate, years: half a year is the middle of a baby's first."""

DEFAULT_COVERAGE = 0.8
MIN_COVERAGE, MAX_COVERAGE = 0.5, 0.99

AgeEstimate = Literal["expectation", "median"]
"""Which age of the distribution is the estimate."""

Years = tuple[float, ...]

_LEVELS = (0.1, 0.9)
"""The quantiles whose distances from the estimate are scaled to an interval."""

_LEAST_DISTANCE = 0.5
"""Years that such a quantile is at least away: a model that is certain of an age still errs."""

_LONGER_SIDE = 9.0
"""How much longer one side of an interval may be than the other: the estimate keeps a tenth of the width."""


class AgeInterval(BaseModel):
    """How far from the estimate an interval ends, fitted by coverage and by estimated age.

    At the coverage `coverage[i]` and an estimate of `age[j]` years the interval reaches `low[i][j]` times as far down
    as the 10 % quantile of the model's distribution, and `high[i][j]` times as far up as the 90 % quantile. Factors
    are interpolated linearly over ages and, over coverages, in the quantile of the normal distribution.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coverage: tuple[float, ...] = Field(min_length=2)
    age: Years = Field(min_length=1)
    low: tuple[Years, ...]
    high: tuple[Years, ...]
    usual_width: Years
    """Median width of the interval at the default coverage, years, by estimated age."""

    def reach(self, years: NDArray[np.float64], coverage: float) -> tuple[NDArray[np.float64], ...]:
        """The factors of both sides, (n,) each, for estimates `years` (n,)."""
        known, wanted = [_normal_quantile(value) for value in self.coverage], _normal_quantile(coverage)
        above = min(max(bisect(known, wanted), 1), len(known) - 1)
        share = (wanted - known[above - 1]) / (known[above] - known[above - 1])
        rows = (
            (1 - share) * np.array(side[above - 1]) + share * np.array(side[above])
            for side in (self.low, self.high)
        )
        return tuple(np.interp(years, self.age, row) for row in rows)


class Ages(NamedTuple):
    """Estimates and interval ends of n faces, each (n,), years; `low` <= `years` <= `high`."""

    years: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def read_ages(
    distributions: NDArray[np.floating],
    estimate: AgeEstimate,
    interval: AgeInterval,
    coverage: float = DEFAULT_COVERAGE,
) -> Ages:
    """Ages in years of `distributions` (n, 101): probabilities over ages 0..100.

    The interval holds the true age with the probability `coverage`, 0.5 to 0.99, and grows with it. Below 90 years
    the estimate keeps at least a tenth of the interval's width from either end. Raises ValueError for any other
    coverage.
    """
    if not MIN_COVERAGE <= coverage <= MAX_COVERAGE:
        raise ValueError(f"coverage must be between {MIN_COVERAGE} and {MAX_COVERAGE}")
    years, below, above = distances(distributions, estimate)
    low_factor, high_factor = interval.reach(years, coverage)
    below, above = below * low_factor, above * high_factor
    below = np.minimum(np.maximum(below, above / _LONGER_SIDE), years)
    above = np.clip(above, below / _LONGER_SIDE, below * _LONGER_SIDE)
    return Ages(years, years - below, np.minimum(years + above, OLDEST))


def certainty(ages: Ages, interval: AgeInterval) -> NDArray[np.float64]:
    """How sure a model is of `ages` at the default coverage, beside other faces of those ages: (n,), 0 to 1.

    1 where the interval is no wider than usual, 0.5 where it is 10 years wider. Compared by age, since the older a face
    is, the wider its interval, however good its picture.
    """
    years, low, high = ages
    usual = np.interp(years, interval.age, interval.usual_width)
    return np.asarray(10 / (10 + np.maximum(0, high - low - usual)))


def distances(
    distributions: NDArray[np.floating], estimate: AgeEstimate
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Estimates (n,) and how far below and above them the 10 % and the 90 % quantile lie, years."""
    low, median, high = quantiles(distributions, (_LEVELS[0], 0.5, _LEVELS[1])).T
    years = np.maximum(YOUNGEST, median if estimate == "median" else expectation(distributions))
    return years, np.maximum(years - low, _LEAST_DISTANCE), np.maximum(high - years, _LEAST_DISTANCE)


def calibrate_distributions(
    distributions: NDArray[np.floating], estimate: AgeEstimate, interval: AgeInterval
) -> NDArray[np.float64]:
    """Probabilities of the ages 0..100 (n, 101), adding up to 1, that agree with the intervals.

    A model's cumulative probability at an end of an interval becomes the share of faces that are younger; between the
    ends it is interpolated, so that the distribution keeps its shape there.
    """
    cumulative = _cumulative(distributions)
    ends = [read_ages(distributions, estimate, interval, coverage) for coverage in interval.coverage]
    tails = [(1 - coverage) / 2 for coverage in interval.coverage]
    levels = np.array([*tails[::-1], *(1 - tail for tail in tails)])
    positions = np.array([*(end.low for end in ends[::-1]), *(end.high for end in ends)]).T
    result = np.empty((len(cumulative), AGES))
    for row, (shares, ages) in enumerate(zip(cumulative, positions, strict=True)):
        inside = (ages > 0) & (ages < OLDEST)  # an interval that ends where ages do leaves no share beyond
        known = np.concatenate([[0.0], np.interp(ages[inside], _EDGES, shares), [1.0]])
        known = np.maximum.accumulate(known + 1e-9 * np.arange(len(known)))
        result[row] = np.diff(np.interp(shares, known / known[-1], [0.0, *levels[inside], 1.0]))
    return np.asarray(result / result.sum(axis=1, keepdims=True))


def expectation(distributions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean ages (n,), years, of `distributions` (n, 101): probabilities over ages 0..100."""
    mass = np.asarray(distributions, np.float64)
    return np.asarray(mass @ np.arange(AGES) / mass.sum(axis=1))


def quantiles(distributions: NDArray[np.floating], levels: tuple[float, ...]) -> NDArray[np.float64]:
    """Ages (n, len(levels)), years, below which the shares `levels` of `distributions` (n, 101) lie.

    The mass of age k counts as spread evenly over [k - 0.5, k + 0.5]; no quantile is below 0.
    """
    rows = [np.interp(levels, row, _EDGES) for row in _cumulative(distributions)]
    return np.maximum(0.0, np.reshape(rows, (len(rows), len(levels))))


_EDGES = np.arange(AGES + 1) - 0.5


def _cumulative(distributions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Shares (n, 102) of `distributions` (n, 101) below the ages' edges."""
    cumulative = np.zeros((len(distributions), AGES + 1))
    np.cumsum(distributions, axis=1, out=cumulative[:, 1:])
    cumulative /= cumulative[:, -1:]  # float32 probabilities add up to 1 only nearly
    return cumulative


@lru_cache(maxsize=64)
def _normal_quantile(coverage: float) -> float:
    """How many standard deviations to either side hold a share of a normal distribution."""
    return NormalDist().inv_cdf((1 + coverage) / 2)
