"""Age as a distribution: what the probabilities over whole years say in years."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

AGES = 101
"""Classes of a model's age output: 0 to 100 years."""


def expectation(distributions: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean ages (n,), years, of `distributions` (n, 101): probabilities over ages 0..100."""
    mass = np.asarray(distributions, np.float64)
    return np.asarray(mass @ np.arange(AGES) / mass.sum(axis=1))


def quantiles(distributions: NDArray[np.floating], levels: tuple[float, ...]) -> NDArray[np.float64]:
    """Ages (n, len(levels)), years, below which the shares `levels` of `distributions` (n, 101) lie.

    The mass of age k counts as spread evenly over [k - 0.5, k + 0.5]; no quantile is below 0.
    """
    edges = np.arange(AGES + 1) - 0.5
    cumulative = np.cumsum(np.asarray(distributions, np.float64), axis=1)
    cumulative /= cumulative[:, -1:]  # float32 probabilities add up to 1 only nearly
    rows = [np.interp(levels, np.concatenate([[0.0], row]), edges) for row in cumulative]
    return np.maximum(0.0, np.reshape(rows, (len(rows), len(levels))))
