from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

keras = pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.data import Faces
from training.losses import AgeLoss, age_error, smooth_age_prior

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


def test_within_the_open_bin_ages_follow_the_prior() -> None:
    prior = np.exp(-0.12 * np.arange(101)).astype(np.float32)
    at = {middle: loss(70, 116, bell(middle, 4), prior) for middle in (78, 90, 98)}
    assert at[78] < at[90] < at[98]


def test_a_smooth_distribution_is_cheaper_than_one_with_steps_at_the_borders_of_bins() -> None:
    steps = np.where((np.arange(101) >= 20) & (np.arange(101) <= 29), 4.0, 0.0)[None].astype(np.float32)
    wide = bell(24.5, 6)
    mass = np.exp(wide[0]) / np.exp(wide[0]).sum()
    likelihood = mass[20:30].sum()
    share = np.exp(steps[0]) / np.exp(steps[0]).sum()
    assert share[20:30].sum() > likelihood  # though it is likelier
    assert loss(20, 29, steps) > loss(20, 29, wide)


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


def test_a_bin_is_missed_by_the_years_outside_of_it() -> None:
    labels = np.array([[20, 29], [20, 29], [20, 29], [33, 33]], np.float32)
    logits = np.concatenate([bell(25, 1), bell(15, 1), bell(31, 1), bell(30, 1)])
    errors = keras.ops.convert_to_numpy(age_error(labels, keras.ops.convert_to_tensor(logits)))
    assert errors == pytest.approx([0, 5, 2, 3], abs=1e-3)


def test_the_prior_follows_the_bins_smoothly_and_falls_in_the_open_one() -> None:
    counts = {(0, 2): 30, (3, 9): 140, (10, 19): 300, (20, 29): 600, (30, 39): 300, (70, 116): 50}
    labels = np.array([bin_ for bin_, n in counts.items() for _ in range(n)] + [(24, 24)] * 500)
    n = len(labels)
    faces = Faces(
        crops=np.zeros((n, 0, 0, 3), np.uint8),
        age_low=labels[:, 0],
        age_high=labels[:, 1],
        male=np.zeros(n, bool),
        race=np.full(n, "White"),
        dataset=np.full(n, "fairface"),
        split=np.full(n, "train"),
        name=np.arange(n).astype(str),
    )
    prior = smooth_age_prior(faces, np.arange(n))
    assert prior[24] / prior[14] == pytest.approx(2, rel=0.1)  # exact ages do not count
    assert prior[14] < prior[19] < prior[24]
    assert np.diff(np.log(prior[70:])) == pytest.approx(-np.log(2) / 6, abs=1e-3)
    assert smooth_age_prior(faces, np.arange(n - 500, n)) == pytest.approx(np.ones(101))


def test_keras_can_train_with_it(tmp_path: Path) -> None:
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(101)(inputs))
    model.compile(keras.optimizers.Adam(0.1), AgeLoss(FLAT))
    x, y = np.ones((64, 1), np.float32), np.tile(np.array([[20, 29]], np.float32), (64, 1))
    before = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=30, verbose=0)
    assert model.evaluate(x, y, verbose=0) < before / 2
