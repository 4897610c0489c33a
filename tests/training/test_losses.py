from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("keras", reason="the training job's packages are not installed: `make env-train`")

from training.losses import age_loss, gender_loss, taught_error

YEARS = np.arange(101)


def age(label: tuple[float, float], logits: np.ndarray) -> float:
    labels = np.array([label], np.float32)
    return float(np.asarray(age_loss(labels, np.asarray(logits, np.float32)[None]))[0])


def peak(at: int, height: float = 50.0) -> np.ndarray:
    """Logits of an age that is all but certain."""
    return np.where(at == YEARS, height, 0.0)


def bell(at: float) -> np.ndarray:
    """Logits of a Gaussian of two years."""
    return -((YEARS - at) ** 2) / 8


def test_an_exact_age_costs_nothing_where_the_answer_is_the_bell_around_it() -> None:
    assert age((30, 30), bell(30)) == pytest.approx(0, abs=1e-4)


def test_an_exact_age_costs_divergence_and_a_tenth_of_the_years_that_the_mean_is_off() -> None:
    # Between Gaussians of equal width: (difference / width)**2 / 2 = (3 / 2)**2 / 2; then 0.1 * 3.
    assert age((40, 40), bell(43)) == pytest.approx(1.125 + 0.3, abs=1e-3)
    # Everything equally likely: log(101) less the entropy of the bell, 0.5 * log(2 pi e 4), and 0.1 * |50 - 40|.
    flat = np.log(101) - 0.5 * np.log(2 * np.pi * np.e * 4) + 1.0
    assert age((40, 40), np.zeros(101)) == pytest.approx(flat, abs=1e-3)


def test_an_age_above_100_is_learned_as_100() -> None:
    assert age((110, 110), bell(90)) == pytest.approx(age((100, 100), bell(90)))


def test_a_bin_costs_the_log_of_the_probability_inside_it() -> None:
    assert age((20, 29), np.zeros(101)) == pytest.approx(np.log(101 / 10), abs=1e-4)
    assert age((20, 29), peak(20)) == pytest.approx(0, abs=1e-4)
    assert age((20, 29), peak(29)) == pytest.approx(0, abs=1e-4)
    assert age((20, 29), peak(30)) > 10
    halves = np.where(YEARS == 25, 1000.0, np.where(YEARS == 60, 1000.0, 0.0))
    assert age((20, 29), halves) == pytest.approx(np.log(2), abs=1e-4)


def test_the_open_bin_holds_every_age_from_70() -> None:
    assert age((70, 116), np.zeros(101)) == pytest.approx(np.log(101 / 31), abs=1e-4)


def test_a_batch_may_hold_both_kinds_of_label() -> None:
    labels = np.array([[40, 40], [20, 29]], np.float32)
    logits = np.stack([bell(43), np.zeros(101)]).astype(np.float32)
    assert np.asarray(age_loss(labels, logits)) == pytest.approx([1.425, np.log(10.1)], abs=1e-3)


def test_half_of_the_cost_is_the_divergence_from_the_teachers_where_there_are_any() -> None:
    taught = np.exp(bell(43)) / np.exp(bell(43)).sum()
    label = np.concatenate([[40, 40], taught]).astype(np.float32)[None]

    def cost(logits: np.ndarray) -> float:
        return float(np.asarray(age_loss(label, np.asarray(logits, np.float32)[None]))[0])

    assert cost(bell(43)) == pytest.approx(age((40, 40), bell(43)) / 2, abs=1e-3)
    assert cost(bell(40)) == pytest.approx(1.125 / 2, abs=1e-3)


def test_gender_costs_minus_the_log_of_the_probability_of_the_label() -> None:
    labels = np.array([[1], [0], [1], [0]], np.float32)
    logits = np.array([[0], [0], [np.log(3)], [np.log(3)]], np.float32)
    wanted = [np.log(2), np.log(2), np.log(4 / 3), np.log(4)]
    assert np.asarray(gender_loss(labels, logits)) == pytest.approx(wanted, abs=1e-5)


def test_a_very_wrong_gender_costs_its_logit_and_not_infinity() -> None:
    cost = np.asarray(gender_loss(np.array([[1.0]], np.float32), np.array([[-200.0]], np.float32)))
    assert cost == pytest.approx([200.0])


def test_what_a_teacher_says_costs_the_divergence_from_its_ages_their_mean_and_its_gender() -> None:
    ages = np.exp(bell(40)) / np.exp(bell(40)).sum()
    answers = {"age": ages.astype(np.float32)[None], "gender": np.array([[0.75]], np.float32)}

    def cost(age: np.ndarray, gender: float) -> float:
        logits = {"age": age.astype(np.float32)[None], "gender": np.array([[gender]], np.float32)}
        return float(np.asarray(taught_error(answers, logits))[0])

    unsure = 0.75 * np.log(4 / 3) + 0.25 * np.log(4)  # what is left where it agrees
    assert cost(bell(40), np.log(3)) == pytest.approx(unsure, abs=1e-3)
    assert cost(bell(43), np.log(3)) == pytest.approx(unsure + 1.125 + 0.3, abs=1e-3)
    assert cost(bell(40), -np.log(3)) == pytest.approx(0.75 * np.log(4) + 0.25 * np.log(4 / 3), abs=1e-3)
