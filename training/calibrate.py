"""How sure a trained network may be: fitted on the validation split, which trained nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.ages import quantiles

COVERAGE = 0.8
"""Share of true ages that the interval shall hold."""

_TEMPERATURES = np.geomspace(0.25, 4.0, 161)
_TAILS = np.linspace(0.01, 0.3, 291)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What is built into an exported model."""

    gender_temperature: float
    low_quantile: float
    high_quantile: float


def fit_temperature(logits: NDArray[np.floating], male: NDArray[np.bool_]) -> float:
    """The temperature that makes (n,) logits likeliest for (n,) labels (Guo et al. 2017)."""
    signed = np.where(male, logits, -logits).astype(np.float64)
    losses = [np.logaddexp(0, -signed / temperature).mean() for temperature in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def fit_interval(distributions: NDArray[np.floating], age: NDArray[np.int64]) -> tuple[float, float]:
    """Quantile levels, equally far from both ends, between which `COVERAGE` of the true ages (n,) lie."""
    levels = np.concatenate([_TAILS, 1 - _TAILS])
    bounds = quantiles(distributions, tuple(levels))
    low, high = bounds[:, : len(_TAILS)], bounds[:, len(_TAILS) :]
    covered = ((low <= age[:, None]) & (age[:, None] <= high)).mean(axis=0)
    tail = float(_TAILS[int(np.argmin(np.abs(covered - COVERAGE)))])
    return tail, 1 - tail
