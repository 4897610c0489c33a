"""How sure a trained network may be: fitted on the validation split, which trained nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.ages import AGES

COVERAGE = 0.8
"""Share of true ages that the interval shall hold."""

_TEMPERATURES = np.geomspace(0.25, 4.0, 161)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is built into an exported model."""

    gender_temperature: float = 1.0
    low_quantile: float = (1 - COVERAGE) / 2
    high_quantile: float = (1 + COVERAGE) / 2


def fit(
    distributions: NDArray[np.floating],
    logits: NDArray[np.floating],
    age: NDArray[np.int64],
    male: NDArray[np.bool_],
) -> Calibration:
    """From age probabilities (n, 101), gender logits (n,) and what is true of the same faces."""
    return Calibration(fit_temperature(logits, male), *fit_interval(distributions, age))


def fit_temperature(logits: NDArray[np.floating], male: NDArray[np.bool_]) -> float:
    """The temperature that makes (n,) logits likeliest for (n,) labels (Guo et al. 2017)."""
    signed = np.where(male, logits, -logits).astype(np.float64)
    losses = [np.logaddexp(0, -signed / temperature).mean() for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def fit_interval(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> tuple[float, float]:
    """Quantile levels, equally far from both ends, between which `COVERAGE` of the true ages (n,) lie."""
    from_median = np.abs(share_below(distributions, age) - 0.5)
    # Levels of 0 and 1 would be no quantiles, and an interval of no width would be none.
    half = float(np.clip(np.quantile(from_median, COVERAGE), 0.001, 0.499))
    return 0.5 - half, 0.5 + half


def share_below(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> NDArray[np.float64]:
    """The share of each distribution (n, 101) that lies below the age (n,): uniform in 0..1 for an honest model.

    An age lies between two quantiles of `app.inference.ages` where its share lies between their levels.
    """
    mass = np.asarray(distributions, np.float64)
    edges = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    rows, year = np.arange(len(mass)), np.minimum(age, AGES - 1)
    middle = (edges[rows, year] + edges[rows, year + 1]) / 2
    return np.asarray(np.where(age < AGES, middle, edges[:, -1]) / edges[:, -1])
