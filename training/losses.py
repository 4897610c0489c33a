"""What training minimises: age as a distribution, gender as a binary label."""

from __future__ import annotations

import keras
from keras import ops

from app.inference.ages import AGES

LABEL_SIGMA = 2.0
"""Years: width of the Gaussian around an exact age label (label distribution learning, Gao et al. 2017)."""

EXPECTATION_WEIGHT = 0.1
"""Weight of the L1 of the expectation, per year, beside the divergence."""


TEACHERS_SHARE = 0.5
"""How much teachers' answers weigh against labels, where there are any."""


def age_loss(label: keras.KerasTensor, logits: keras.KerasTensor) -> keras.KerasTensor:
    """Loss of each age in a batch, (n,): `label` is (n, 2) first and last year, `logits` (n, 101).

    An exact age (both equal) costs the KL divergence to a narrow Gaussian plus the L1 of the expectation
    (Gao et al. 2018); a bin costs its negative log-likelihood. Of teachers, `label` has the ages' probabilities
    too, (n, 2 + 101), and the divergence from those counts for `TEACHERS_SHARE` of the whole.
    """
    years = ops.arange(AGES, dtype="float32")[None, :]
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


def features_loss(target: keras.KerasTensor, features: keras.KerasTensor) -> keras.KerasTensor:
    """Mean squared error of each face's features in a batch, (n,), both (n, size)."""
    return ops.mean(ops.square(target - features), axis=-1)


def features_weight(done: float) -> float:
    """What the error in features weighs after the share `done` of all epochs.

    Much at first, when a network learns most from them, and little in the end, when they would keep it from telling age
    and gender as well as it could.
    """
    return 5.0 - 4.5 * done
