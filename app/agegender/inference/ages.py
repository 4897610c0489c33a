"""Age as a distribution: what the probabilities over whole years say in years."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

AGES = 101
"""Classes of a model's age output: 0 to 100 years."""

OLDEST = AGES - 0.5
"""Where the last class ends, years."""

AgeEstimate = Literal["expectation", "median"]
"""Which age of the distribution is the estimate."""

Years = tuple[float, ...]


class EndCorrection(BaseModel):
    """Where the ends of an interval are moved to: an end at `low[i]` or `high[i]` to `age[i]`, all in years.

    Between those it is moved by what lies between, beyond the outermost by as much as there: each end keeps its
    order. Distributions of faces lean to the ages that training showed most; this takes the lean back.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    age: Years = Field(min_length=1)
    low: Years
    high: Years

    @model_validator(mode="after")
    def _rising(self) -> EndCorrection:
        for column in (self.age, self.low, self.high):
            if len(column) != len(self.age) or any(b <= a for a, b in pairwise(column)):
                raise ValueError("age, low and high must be equally long and rise")
        return self

    @cached_property
    def columns(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """`age`, `low` and `high` as arrays, which are made once."""
        return np.array(self.age), np.array(self.low), np.array(self.high)


class AgeInterval(BaseModel):
    """The quantiles of the age distribution that hold the true age with probability `coverage`, corrected or not."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coverage: float = Field(gt=0, lt=1)
    low_quantile: float = Field(gt=0, lt=1)
    high_quantile: float = Field(gt=0, lt=1)
    correction: EndCorrection | None = None

    @model_validator(mode="after")
    def _ordered(self) -> AgeInterval:
        if self.low_quantile >= self.high_quantile:
            raise ValueError("low_quantile must be below high_quantile")
        return self


class Ages(NamedTuple):
    """What is said of n faces: estimates and interval ends, each (n,), years; `low` <= `years` <= `high`."""

    years: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def read_ages(distributions: NDArray[np.floating], estimate: AgeEstimate, interval: AgeInterval) -> Ages:
    """Ages in years of `distributions` (n, 101): probabilities over ages 0..100."""
    low, median, high = quantiles(distributions, (interval.low_quantile, 0.5, interval.high_quantile)).T
    years = median if estimate == "median" else expectation(distributions)
    if interval.correction is not None:
        age, low_end, high_end = interval.correction.columns
        low, high = _moved(low, low_end, age), _moved(high, high_end, age)
    # Where a distribution has a long tail, or a correction moved an end far, the estimate could lie outside.
    return Ages(years, np.minimum(low, years), np.maximum(high, years))


def expectation(distributions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean ages (n,), years, of `distributions` (n, 101): probabilities over ages 0..100."""
    mass = np.asarray(distributions, np.float64)
    return np.asarray(mass @ np.arange(AGES) / mass.sum(axis=1))


def quantiles(distributions: NDArray[np.floating], levels: tuple[float, ...]) -> NDArray[np.float64]:
    """Ages (n, len(levels)), years, below which the shares `levels` of `distributions` (n, 101) lie.

    The mass of age k counts as spread evenly over [k - 0.5, k + 0.5]; no quantile is below 0.
    """
    edges = np.arange(AGES + 1) - 0.5
    cumulative = np.zeros((len(distributions), AGES + 1))
    np.cumsum(distributions, axis=1, out=cumulative[:, 1:])
    cumulative /= cumulative[:, -1:]  # float32 probabilities add up to 1 only nearly
    rows = [np.interp(levels, row, edges) for row in cumulative]
    return np.maximum(0.0, np.reshape(rows, (len(rows), len(levels))))


def _moved(
    ends: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.clip(ends + np.interp(ends, before, after - before), 0.0, OLDEST)
