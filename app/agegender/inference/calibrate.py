"""Calibrate a model on labelled faces that it was not trained on: age estimate, interval and gender temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agegender.inference.ages import (
    AGES,
    AgeEstimate,
    AgeInterval,
    distances,
    expectation,
    quantiles,
    read_ages,
)
from agegender.inference.gender import logit

COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)

_KNOTS = (2, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 80)
"""Estimated ages at which the interval is fitted."""

_REACH = 4.0
"""Years around such an age from which faces are taken, more where there are fewer than `_ENOUGH`."""

_ENOUGH = 300

_BIN_WEIGHT = 0.1
"""Weight of a face of which only a bin is known, beside faces of exact age: bins decide where those are few.

With equal weights the interval holds 92 % of UTKFace's children, since the bins of FairFace's are wide.
"""

_TEMPERATURES = np.geomspace(0.25, 4.0, 161)


@dataclass(frozen=True, slots=True)
class Calibration:
    """The calibration part of a model's metadata."""

    age_estimate: AgeEstimate
    age_interval: AgeInterval
    gender_temperature: float


def fit(
    distributions: NDArray[np.floating],
    male_probability: NDArray[np.floating],
    age_low: NDArray[np.int64],
    age_high: NDArray[np.int64],
    male: NDArray[np.bool_],
) -> Calibration:
    """Fit to age probabilities (n, 101), probabilities of male (n,) and the labels of the same faces, (n,) each."""
    estimate = choose_estimate(distributions, age_low, age_high)
    return Calibration(
        estimate,
        fit_interval(distributions, estimate, age_low, age_high),
        fit_temperature(male_probability, male),
    )


def fit_temperature(male_probability: NDArray[np.floating], male: NDArray[np.bool_]) -> float:
    """The temperature that makes the labels (n,) likeliest under probabilities (n,) (Guo et al. 2017)."""
    logits = logit(male_probability)
    signed = np.where(male, logits, -logits)
    losses = [np.logaddexp(0, -signed / temperature).mean() for temperature in _TEMPERATURES]
    return round(float(_TEMPERATURES[int(np.argmin(losses))]), 4)


def choose_estimate(
    distributions: NDArray[np.floating], age_low: NDArray[np.int64], age_high: NDArray[np.int64]
) -> AgeEstimate:
    """Which age of the distributions (n, 101) errs less, by faces of exact age if there are any."""
    exact = age_low == age_high
    if exact.any():
        distributions, age_low, age_high = distributions[exact], age_low[exact], age_high[exact]
    median = quantiles(distributions, (0.5,))[:, 0]
    errors = [
        np.maximum(0, np.maximum(age_low - years, years - age_high)).mean()
        for years in (median, expectation(distributions))
    ]
    return "median" if errors[0] < errors[1] else "expectation"


def fit_interval(
    distributions: NDArray[np.floating],
    estimate: AgeEstimate,
    age_low: NDArray[np.int64],
    age_high: NDArray[np.int64],
) -> AgeInterval:
    """Conformalised quantiles by estimated age (Romano et al. 2019): each side misses half of what it may.

    A face of which only a bin is known counts at each year of it, as much as its own distribution says: a bin that
    lies on one side of an end counts there whole.
    """
    years, below, above = distances(distributions, estimate)
    face, age, weight = _possible_ages(distributions, age_low, age_high)
    scores = {"low": (years[face] - age) / below[face], "high": (age - years[face]) / above[face]}
    factors: dict[str, list[list[float]]] = {"low": [], "high": []}
    for knot in _KNOTS:
        near = _near(years, knot)[face]
        for side, score in scores.items():
            shares = [(1 + coverage) / 2 for coverage in COVERAGES]
            ends = _weighted_quantiles(score[near], weight[near], shares)
            factors[side].append(np.maximum.accumulate(np.maximum(ends, 0)).round(3).tolist())
    low, high = (tuple(map(tuple, np.array(factors[side]).T.tolist())) for side in ("low", "high"))
    interval = AgeInterval(coverage=COVERAGES, age=_KNOTS, low=low, high=high, usual_width=(0,) * len(_KNOTS))
    ages = read_ages(distributions, estimate, interval)
    widths = [float(np.median((ages.high - ages.low)[_near(ages.years, knot)])) for knot in _KNOTS]
    return interval.model_copy(update={"usual_width": tuple(round(width, 1) for width in widths)})


def _near(years: NDArray[np.float64], knot: float) -> NDArray[np.bool_]:
    away = np.abs(years - knot)
    return np.asarray(away <= max(_REACH, np.sort(away)[:_ENOUGH][-1]))


def _possible_ages(
    distributions: NDArray[np.floating], age_low: NDArray[np.int64], age_high: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Face, age and weight of every age that a label allows."""
    ages = np.arange(AGES)
    exact = age_low == age_high
    allowed = (ages >= age_low[:, None]) & (ages <= age_high[:, None]) & ~exact[:, None]
    mass = np.where(allowed, np.asarray(distributions, np.float64) + 1e-6, 0)
    face, age = np.nonzero(mass)
    weight = (mass / np.maximum(mass.sum(axis=1, keepdims=True), 1e-12))[face, age]
    if exact.any():
        weight *= _BIN_WEIGHT
    known = np.flatnonzero(exact)
    return (
        np.concatenate([face, known]),
        np.concatenate([age, age_low[known]]),
        np.concatenate([weight, np.ones(len(known))]),
    )


def _weighted_quantiles(
    sample: NDArray[np.float64], weight: NDArray[np.float64], shares: list[float]
) -> NDArray[np.float64]:
    """Quantiles of all from a weighted sample of them: of n, the k-th has k / (n + 1) below it (Weibull 1939)."""
    order = np.argsort(sample)
    below = np.cumsum(weight[order]) / (weight.sum() + 1)
    return np.interp(shares, below, sample[order])
