"""What training minimises: age as a distribution, gender as a binary label."""

from __future__ import annotations

import keras
import numpy as np
from agegender.inference.ages import AGES
from keras import ops
from numpy.typing import NDArray

from training.data import Faces

LABEL_SIGMA = 2.0
"""Years: width of the Gaussian around an exact age label (label distribution learning, Gao et al. 2017)."""

EXPECTATION_WEIGHT = 0.1
"""Weight of the L1 of the expectation, per year, beside the divergence."""

WITHIN_BIN_WEIGHT = 0.1
SMOOTHNESS_WEIGHT = 1.0

TEACHERS_SHARE = 0.5
"""How much the answers that `--teacher` names weigh against labels."""


def age_loss(label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Loss of each age in a batch, (n,): `label` is (n, 2) first and last year, `logits` (n, 101).

    An exact age (both equal) costs the KL divergence to a narrow Gaussian plus the L1 of the expectation
    (Gao et al. 2018); a bin costs its negative log-likelihood. Of teachers, `label` has the ages' probabilities
    too, (n, 2 + 101), and the divergence from those counts for `TEACHERS_SHARE` of the whole.
    """
    years = _years()
    last = float(AGES - 1)
    low = ops.minimum(label[:, :1], last)
    high = ops.minimum(label[:, 1:2], last)
    log_probabilities = ops.log_softmax(logits, axis=-1)
    probabilities = ops.exp(log_probabilities)

    target = ops.softmax(-0.5 * ops.square((years - low) / LABEL_SIGMA), axis=-1)
    expectation = ops.sum(probabilities * years, axis=-1)
    exact = _divergence(target, log_probabilities) + EXPECTATION_WEIGHT * ops.abs(expectation - low[:, 0])

    inside = ops.cast(ops.logical_and(years >= low, years <= high), "float32")
    binned = -ops.log(ops.sum(probabilities * inside, axis=-1) + 1e-6)
    loss = ops.where(high[:, 0] > low[:, 0], binned, exact)
    if label.shape[-1] == 2:
        return loss
    return (1 - TEACHERS_SHARE) * loss + TEACHERS_SHARE * _divergence(label[:, 2:], log_probabilities)


def _divergence(target: keras.KerasTensor, log_probabilities: keras.KerasTensor) -> keras.KerasTensor:
    """Kullback and Leibler's, (n,), of (n, classes) from `target`."""
    return ops.sum(target * (ops.log(target + 1e-9) - log_probabilities), axis=-1)


def gender_loss(label: keras.KerasTensor, logit: keras.KerasTensor) -> keras.KerasTensor:
    """Binary cross-entropy of each gender in a batch, (n,): `label` (n, 1) is the probability of male."""
    positive = ops.maximum(logit, 0.0) - logit * label
    return ops.mean(positive + ops.log1p(ops.exp(-ops.abs(logit))), axis=-1)


def taught_error(
    answers: dict[str, keras.KerasTensor], logits: dict[str, keras.KerasTensor]
) -> keras.KerasTensor:
    """How far `logits` are from a teacher's probabilities `answers` of the same faces, (n,).

    The divergence of the ages and the error of their expectation, as of a label, and the cross-entropy of gender.
    """
    log_probabilities = ops.log_softmax(logits["age"], axis=-1)
    off = ops.sum((ops.exp(log_probabilities) - answers["age"]) * _years(), axis=-1)
    return (
        _divergence(answers["age"], log_probabilities)
        + EXPECTATION_WEIGHT * ops.abs(off)
        + gender_loss(answers["gender"], logits["gender"])
    )


def squared_error(target: keras.KerasTensor, features: keras.KerasTensor) -> keras.KerasTensor:
    """Mean squared error of each face's features in a batch, (n,), both (n, size)."""
    return ops.mean(ops.square(target - features), axis=-1)


def weighed(weight: keras.KerasTensor, error: keras.KerasTensor) -> keras.KerasTensor:
    """The loss of what is an error already, (n,), by what it weighs, (n, 1)."""
    return ops.reshape(weight, (-1,)) * error


def features_weight(done: float) -> float:
    """What the error in features weighs after the share `done` of all epochs.

    Much at first, when a network learns most from them, and less in the end, when they would keep it from telling age
    and gender as well as it could.
    """
    return 5.0 - 4.5 * done


def _years() -> keras.KerasTensor:
    return ops.arange(AGES, dtype="float32")[None, :]


def smooth_age_prior(faces: Faces, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """How common each age is among the binned faces of `rows`, (101,): a smooth curve through the bins.

    Logarithms of a bin's faces per year are interpolated between the bins' centres. In an open last bin ages halve
    every six years, about as in populations of old people.
    """
    binned = rows[faces.age_high[rows] > faces.age_low[rows]]
    bins, counts = np.unique(
        np.stack([faces.age_low[binned], faces.age_high[binned]], axis=1), axis=0, return_counts=True
    )
    years = np.arange(AGES)
    closed = bins[:, 1] < AGES
    if not closed.any():
        return np.ones(AGES, np.float32)
    low, high = bins[closed].T
    log_density = np.interp(years, (low + high) / 2, np.log(counts[closed] / (high + 1 - low)))
    log_density -= np.log(2) / 6 * np.maximum(0, years - high.max())
    return np.asarray(np.exp(log_density) / counts.sum(), np.float32)


class FaceLoss(keras.losses.Loss):
    """The age loss of labels (n, 2), first and last year, and logits (n, 101).

    An exact age costs the divergence from a narrow Gaussian plus the L1 of the expectation (Gao et al. 2018). A bin
    costs its negative log-likelihood, and a little the divergence within the bin from how common its ages are
    (`prior`, (101,)); a penalty on third differences of the logits keeps the distribution smooth across bins: what
    has none is a Gaussian (Whittaker 1923; Eilers and Marx 1996).
    """

    def __init__(self, prior: NDArray[np.float32]) -> None:
        super().__init__(name="age_loss")
        self._log_prior = np.log(prior)[None, :]

    def call(self, label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
        """See the class; (n,)."""
        years = _years()
        low = ops.minimum(label[:, :1], AGES - 1.0)
        high = ops.minimum(label[:, 1:2], AGES - 1.0)
        log_probabilities = ops.log_softmax(logits, axis=-1)
        target = ops.softmax(-0.5 * ops.square((years - low) / LABEL_SIGMA), axis=-1)
        expectation = ops.sum(ops.exp(log_probabilities) * years, axis=-1)
        exact = _divergence(target, log_probabilities) + EXPECTATION_WEIGHT * ops.abs(expectation - low[:, 0])

        outside = ops.where(ops.logical_and(years >= low, years <= high), 0.0, -1e9)
        log_bin = ops.logsumexp(log_probabilities + outside, axis=-1)
        within = ops.softmax(self._log_prior + outside, axis=-1)
        spread = _divergence(within, log_probabilities - log_bin[:, None])
        differences = logits
        for _ in range(3):
            differences = differences[:, 1:] - differences[:, :-1]
        rough = ops.mean(ops.square(differences), axis=-1)
        binned = -log_bin + WITHIN_BIN_WEIGHT * spread + SMOOTHNESS_WEIGHT * rough
        return ops.where(high[:, 0] > low[:, 0], binned, exact)


def age_error(label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Years by which the expected age lies outside its label, (n,)."""
    expectation = ops.sum(ops.softmax(logits, axis=-1) * _years(), axis=-1)
    outside = ops.maximum(label[:, 0] - expectation, expectation - label[:, 1])
    return ops.maximum(outside, 0.0)
