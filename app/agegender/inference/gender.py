"""Gender as a probability: soften or sharpen a model's answer so that it is right as often as it says."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def temper(probability: NDArray[np.floating], temperature: float) -> NDArray[np.float64]:
    """The probabilities (n,) of male after dividing their logits by `temperature` (Guo et al. 2017)."""
    return np.asarray(1 / (1 + np.exp(-logit(probability) / temperature)))


def logit(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log odds (n,) of probabilities (n,); certainty counts as a millionth less."""
    inside = np.clip(np.asarray(probability, np.float64), 1e-6, 1 - 1e-6)
    return np.asarray(np.log(inside / (1 - inside)))
