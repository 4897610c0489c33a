from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("fairlearn", reason="the training job's packages are not installed: `make env-train`")

from training import evaluate
from training.evaluate import Outcome


def outcome(dataset: str = "utkface", **columns: Any) -> Outcome:
    """Faces of 30 years, female and White, about whom the model is right, but for the `columns`."""
    n = max(len(np.atleast_1d(column)) for column in columns.values())
    years = np.asarray(columns.get("years", np.full(n, 30.0)), float)
    known = {
        "distribution": np.zeros((n, 0)),
        "years": years,
        "low": years - 5,
        "high": years + 5,
        "male_probability": np.full(n, 0.1),
        "age_low": np.full(n, 30),
        "age_high": np.full(n, 30),
        "male": np.zeros(n, bool),
        "race": np.full(n, "White"),
    }
    return Outcome(dataset, **{key: np.asarray(columns.get(key, value)) for key, value in known.items()})


def values(of: Outcome) -> dict[str, float]:
    return {key: figure.value for key, figure in evaluate.figures(of).items()}


def test_figures_of_exact_ages() -> None:
    found = values(outcome(years=[30, 33, 37, 24], male_probability=[0.1, 0.4, 0.6, 0.2]))
    assert found["age_mae"] == pytest.approx((0 + 3 + 7 + 6) / 4)
    assert found["age_bias"] == pytest.approx((0 + 3 + 7 - 6) / 4)
    assert found["age_cs5"] == 0.5
    assert found["gender_accuracy"] == 0.75
    assert found["interval_coverage"] == 0.5
    assert found["interval_width"] == 10
    assert "right_bin" not in found


def test_figures_of_bins() -> None:
    found = values(
        outcome(
            "fairface",
            years=[25, 29.4, 29.6, 41, 90],
            age_low=[20, 20, 20, 20, 70],
            age_high=[29, 29, 29, 29, 116],
        )
    )
    assert found["right_bin"] == pytest.approx(3 / 5)  # in whole years, as labels are, 29.6 is 30
    assert found["right_or_next_bin"] == pytest.approx(4 / 5)
    assert found["age_mae"] == pytest.approx((0 + 0.4 + 0.6 + 12 + 0) / 5)
    assert found["interval_coverage"] == pytest.approx(4 / 5)  # where interval and bin meet


def test_an_interval_of_a_mean_is_as_wide_as_the_sample_tells() -> None:
    sample = np.random.default_rng(1).normal(5, 2, 400)
    figure = evaluate.figure(sample)
    assert figure.value == pytest.approx(sample.mean())
    assert figure.high - figure.low == pytest.approx(2 * 1.96 * 2 / 20, rel=0.15)
    assert evaluate.figure(np.ones(10)) == evaluate.Figure(1, 1, 1)


def test_the_calibration_error_is_the_gap_between_promise_and_truth() -> None:
    promised = np.repeat([0.9, 0.2], 50)  # 0.9 of being male, and 0.8 of being female
    male = np.concatenate([np.arange(50) < 45, np.arange(50) < 20])  # of the latter 0.6 are female
    error = evaluate.expected_calibration_error(
        outcome(male_probability=promised, male=male, years=np.full(100, 30.0))
    )
    assert error == pytest.approx((0 + 0.2) / 2)


def test_a_face_counts_in_every_group_that_it_is_in() -> None:
    some = outcome(
        years=[8, 28, 61, 33],
        age_low=[3, 25, 60, 31],
        age_high=[3, 25, 60, 31],
        race=["Black", "Asian", "Asian", "unknown"],
        male=[True, False, True, False],
    )
    groups = {(kind, name): members.tolist() for kind, name, members in evaluate.parts(some)}
    assert groups["range", "under 5"] == [True, False, False, False]
    assert groups["range", "21-60"] == [False, True, True, True]
    assert groups["true", "60-69"] == [False, False, True, False]
    assert groups["estimated", "20-29"] == [False, True, False, False]
    assert groups["race", "Asian"] == [False, True, True, False]
    assert ("race", "unknown") not in groups
    assert groups["gender", "male"] == [True, False, True, False]


def test_fairness_shows_each_group_and_the_largest_difference() -> None:
    # Twenty faces each: all White women are right, and half of the Black men.
    black = np.arange(40) >= 20
    some = outcome(
        years=np.full(40, 30.0),
        race=np.where(black, "Black", "White"),
        male=black,
        male_probability=np.where(black, np.where(np.arange(40) % 2, 0.8, 0.2), 0.1),
    )
    (table,) = evaluate.fairness(some)
    column = table.columns.index("gender right")
    assert [(row[0], row[1], row[column]) for row in table.rows] == [
        ("Black, male", "20", "50.0 %"),
        ("White, female", "20", "100.0 %"),
        ("largest difference", "", "50.0 %"),
    ]
