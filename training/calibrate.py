"""How sure a trained network may be, and which age it names: fitted on the validation split, which trained nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from agegender.inference.ages import AGES, AgeEstimate, AgeInterval, EndCorrection, expectation, quantiles
from numpy.typing import NDArray

COVERAGE = 0.8
"""Share of true ages that the interval shall hold."""

LEVELS = ((1 - COVERAGE) / 2, (1 + COVERAGE) / 2)
"""The quantiles at which its ends stand before they are corrected."""

_TEMPERATURES = np.geomspace(0.25, 4.0, 161)

_KNOTS = range(81)
"""Ages at which the correction is fitted; older ones are too few to tell apart from the last."""

_REACH = 2
"""Years around such an age from which faces are taken, more where there are fewer than `_ENOUGH`.

So few, since ends jump by years where a network tells adults from children (EXPERIMENTS.md).
"""

_ENOUGH = 100

_LEAST_RISE = 0.05
"""Years by which a corrected end at least rises from one such age to the next, so that ends keep their order."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is built into an exported model, or said in its metadata."""

    gender_temperature: float = 1.0
    age_estimate: AgeEstimate = "expectation"
    end_correction: EndCorrection | None = None

    @property
    def age_interval(self) -> AgeInterval:
        """As the metadata says it."""
        low, high = LEVELS
        return AgeInterval(
            coverage=COVERAGE, low_quantile=low, high_quantile=high, correction=self.end_correction
        )


def fit(
    distributions: NDArray[np.floating],
    logits: NDArray[np.floating],
    age: NDArray[np.int64],
    male: NDArray[np.bool_],
) -> Calibration:
    """From age probabilities (n, 101), gender logits (n,) and what is true of the same faces."""
    return Calibration(
        fit_temperature(logits, male),
        choose_estimate(distributions, age),
        fit_end_correction(distributions, age),
    )


def fit_temperature(logits: NDArray[np.floating], male: NDArray[np.bool_]) -> float:
    """The temperature that makes (n,) logits likeliest for (n,) labels (Guo et al. 2017)."""
    signed = np.where(male, logits, -logits).astype(np.float64)
    losses = [np.logaddexp(0, -signed / temperature).mean() for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def choose_estimate(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> AgeEstimate:
    """Which age of the distributions (n, 101) errs less from the true ages (n,) in the mean."""
    median = quantiles(distributions, (0.5,))[:, 0]
    better = np.abs(median - age).mean() < np.abs(expectation(distributions) - age).mean()
    return "median" if better else "expectation"


def fit_end_correction(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> EndCorrection:
    """The correction with which the interval holds `COVERAGE` of the faces of each true age, and not just of all.

    A low end may lie above the true age in a tenth of the faces of an age: that age is where it belongs when it
    stands at the ninth tenth of those faces' low ends; and the high end likewise.
    """
    ends = quantiles(distributions, LEVELS)
    off = ends - age[:, None]
    corrected: list[NDArray[np.float64]] = []
    for knot in _KNOTS:
        away = np.abs(age - knot)
        near = off[away <= max(_REACH, np.sort(away)[:_ENOUGH][-1])]
        here = knot + np.array(
            [_population_quantile(near[:, 0], LEVELS[1]), _population_quantile(near[:, 1], LEVELS[0])]
        )
        corrected.append(np.maximum(here, corrected[-1] + _LEAST_RISE) if corrected else here)
    low, high = np.round(corrected, 3).T.tolist()
    return EndCorrection(age=tuple(map(float, _KNOTS)), low=tuple(low), high=tuple(high))


def _population_quantile(sample: NDArray[np.float64], level: float) -> np.float64:
    """An estimate of the quantile of all from a sample of them: numpy's own, the sample's, lies further in.

    The k-th of n is expected to have a share of k / (n + 1) of all below it (Weibull 1939); conformal prediction rests
    on the same (Vovk et al. 2005).
    """
    return np.float64(np.quantile(sample, level, method="weibull"))


def share_below(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each distribution (n, 101) that lies below the age (n,): uniform in 0..1 for an honest model.

    An age lies between two quantiles of `agegender.inference.ages` where its share lies between their levels.
    """
    mass = np.asarray(distributions, np.float64)
    edges = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    rows, year = np.arange(len(mass)), np.minimum(age, AGES - 1)
    middle = (edges[rows, year] + edges[rows, year + 1]) / 2
    return np.asarray(np.where(age < AGES, middle, edges[:, -1]) / edges[:, -1])
