"""The loss of the age distribution, and a metric."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from agegender.inference.ages import AGES
from keras import ops
from numpy.typing import NDArray

from training.data import Faces

LABEL_SIGMA = 2.0
"""Years: width of the Gaussian around an exact age label (label distribution learning, Gao et al. 2017)."""
EXPECTATION_WEIGHT = 0.1
"""Of the L1 of the expectation, per year, beside the divergence."""
WITHIN_BIN_WEIGHT = 0.1
"""Of the spread within a bin: without it, nothing bounds the ages of faces in the open last bin."""
SMOOTHNESS_WEIGHT = 1.0
"""Of the third differences of the logits: steps at the borders of bins have them, a Gaussian of any width has not."""


def smooth_age_prior(faces: Faces, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """How common each age is among the binned faces of `rows`, (101,): a smooth curve through the bins.

    Logarithms of a bin's faces per year are interpolated between the bins' centres. In an open last bin, the number of
    people halves every six years, about as in populations of old people.
    """
    binned = rows[faces.age_high[rows] > faces.age_low[rows]]
    labels = np.stack([faces.age_low[binned], faces.age_high[binned]], axis=1)
    bins, counts = np.unique(labels, axis=0, return_counts=True)
    closed = bins[:, 1] < AGES
    if not closed.any():
        return np.ones(AGES, np.float32)
    low, high = bins[closed].T
    years = np.arange(AGES)
    log_density = np.interp(years, (low + high) / 2, np.log(counts[closed] / (high + 1 - low)))
    log_density -= np.log(2) / 6 * np.maximum(0, years - high.max())
    return np.asarray(np.exp(log_density) / counts.sum(), np.float32)


class AgeLoss(keras.losses.Loss):
    """The loss of age labels (n, 2), first and last year, and logits (n, 101).

    An exact age costs the divergence from a narrow Gaussian plus the L1 of the expectation (Gao et al. 2018). A bin
    costs its negative log-likelihood, the divergence within it from how common its ages are (`prior`, (101,)), and the
    roughness of the logits (Whittaker 1923; Eilers and Marx 1996). Labels may include a teacher's probabilities,
    (n, 2 + 101), the divergence from which has the weight `teacher_share`, and the labels the rest.
    """

    def __init__(self, prior: NDArray[np.float32], teacher_share: float = 0.0) -> None:
        super().__init__(name="age_loss")
        self._log_prior = ops.convert_to_tensor(np.log(prior)[None, :])
        self._teacher_share = teacher_share

    def call(self, label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
        """Return the loss of each face, (n,)."""
        years = _years()
        low = ops.minimum(label[:, :1], AGES - 1.0)
        high = ops.minimum(label[:, 1:2], AGES - 1.0)
        log_probabilities = ops.log_softmax(logits, axis=-1)
        target = ops.softmax(-0.5 * ops.square((years - low) / LABEL_SIGMA), axis=-1)
        exact = self._divergence(target, log_probabilities)

        outside = ops.where(ops.logical_and(years >= low, years <= high), 0.0, -1e9)
        log_bin = ops.logsumexp(log_probabilities + outside, axis=-1)
        within = ops.softmax(self._log_prior + outside, axis=-1)
        spread = _divergence(within, log_probabilities - log_bin[:, None])
        differences = logits
        for _ in range(3):
            differences = differences[:, 1:] - differences[:, :-1]
        rough = ops.mean(ops.square(differences), axis=-1)
        binned = -log_bin + WITHIN_BIN_WEIGHT * spread + SMOOTHNESS_WEIGHT * rough

        loss = ops.where(high[:, 0] > low[:, 0], binned, exact)
        if label.shape[-1] == 2:
            return loss
        distillation = self._divergence(label[:, 2:], log_probabilities)
        return (1 - self._teacher_share) * loss + self._teacher_share * distillation

    def _divergence(
        self, target: keras.KerasTensor, log_probabilities: keras.KerasTensor
    ) -> keras.KerasTensor:
        off = ops.sum((ops.exp(log_probabilities) - target) * _years(), axis=-1)
        return _divergence(target, log_probabilities) + EXPECTATION_WEIGHT * ops.abs(off)


def age_error(label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Years by which the expected age lies outside its label, (n,)."""
    expectation = ops.sum(ops.softmax(logits, axis=-1) * _years(), axis=-1)
    return ops.maximum(0.0, ops.maximum(label[:, 0] - expectation, expectation - label[:, 1]))


def _divergence(target: keras.KerasTensor, log_probabilities: keras.KerasTensor) -> keras.KerasTensor:
    """Kullback-Leibler divergence (n,) of log probabilities (n, 101) from `target` (n, 101)."""
    return ops.sum(target * (ops.log(target + 1e-9) - log_probabilities), axis=-1)


def _years() -> Any:
    return ops.arange(AGES, dtype="float32")[None, :]
