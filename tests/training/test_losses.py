from __future__ import annotations

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.losses import AgeLoss

FLAT = np.full(101, 1 / 101, np.float32)


def bell(middle: float, deviation: float) -> np.ndarray:
    return np.array([-0.5 * ((np.arange(101) - middle) / deviation) ** 2], np.float32)


def loss(low: float, high: float, logits: np.ndarray, prior: np.ndarray = FLAT) -> float:
    label = np.array([[low, high]], np.float32)
    return float(
        keras.ops.convert_to_numpy(AgeLoss(prior).call(label, keras.ops.convert_to_tensor(logits)))[0]
    )


def test_an_exact_age_costs_nothing_where_it_is_expected_and_more_further_away() -> None:
    assert loss(30, 30, bell(30, 2)) == pytest.approx(0, abs=1e-4)
    assert 0 < loss(30, 30, bell(31, 2)) < loss(30, 30, bell(34, 2)) < loss(30, 30, bell(60, 2))
    # A Gaussian of 2 years that is off by 1: the divergence is 1 / (2 * 4), and 0.1 a year is added.
    assert loss(30, 30, bell(31, 2)) == pytest.approx(0.125 + 0.1, abs=0.01)


def test_a_bin_costs_its_negative_log_likelihood_above_all() -> None:
    inside, at_the_border, outside = (loss(20, 29, bell(middle, 3)) for middle in (24.5, 30, 45))
    assert inside < at_the_border < outside
    mass = np.exp(bell(24.5, 3)[0])
    likelihood = mass[20:30].sum() / mass.sum()
    assert loss(20, 29, bell(24.5, 3)) == pytest.approx(-np.log(likelihood), abs=0.1)
    # As long as a face is sure to be within the bin, where in it hardly matters.
    assert abs(loss(20, 29, bell(24, 1)) - loss(20, 29, bell(25, 1))) < 0.05


def test_a_teacher_counts_for_its_share() -> None:
    teacher = np.exp(bell(50, 3)[0])
    teacher /= teacher.sum()
    label = np.concatenate([[30, 30], teacher])[None].astype(np.float32)

    def cost(logits: np.ndarray, share: float) -> float:
        value = AgeLoss(FLAT, share).call(label, keras.ops.convert_to_tensor(logits))
        return float(keras.ops.convert_to_numpy(value)[0])

    assert cost(bell(50, 3), 0.999) == pytest.approx(0, abs=0.1)
    assert cost(bell(30, 2), 0.0) == pytest.approx(loss(30, 30, bell(30, 2)), abs=1e-5)
    halves = (cost(bell(40, 3), 0.0) + cost(bell(40, 3), 1.0)) / 2
    assert cost(bell(40, 3), 0.5) == pytest.approx(halves, rel=1e-4)
