from __future__ import annotations

import json

import numpy as np
import pytest

from app.inference.variants import AgeInterval
from training.data import FAIRFACE, UTKFACE, Faces
from training.evaluate import (
    MEASURES,
    Group,
    Outcome,
    by_group,
    expected_calibration_error,
    figure,
    gender_gaps,
    measure,
)


def outcome(
    years: list[float],
    age: list[int],
    *,
    age_high: list[int] | None = None,
    interval: float = 4.0,
    male_probability: list[float] | None = None,
    male: list[bool] | None = None,
    race: list[str] | None = None,
) -> Outcome:
    n = len(years)
    return Outcome(
        years=np.array(years, float),
        low=np.array(years, float) - interval,
        high=np.array(years, float) + interval,
        share_below=np.full(n, 0.5),
        male_probability=np.array(male_probability or [0.9] * n),
        age_low=np.array(age),
        age_high=np.array(age_high or age),
        male=np.array(male or [True] * n),
        race=np.array(race or ["White"] * n),
    )


def named(groups: list[Group], name: str) -> dict[str, float]:
    group = next(group for group in groups if group.name == name)
    return {"n": group.n} | {key: figure.value for key, figure in group.figures.items()}


FIVE = outcome(
    years=[3.0, 12.0, 30.0, 55.0, 80.0],
    age=[1, 12, 33, 50, 90],
    male_probability=[0.6, 0.2, 0.9, 0.5, 0.4],
    male=[False, False, True, True, True],
    race=["White", "Black", "White", "Black", "White"],
)  # errors of 2, 0, -3, 5 and -10 years; gender wrong in the first and the last


def test_all_faces() -> None:
    assert named(by_group(FIVE, MEASURES[UTKFACE]), "all") == pytest.approx(
        {
            "n": 5,
            "age_mae": (2 + 0 + 3 + 5 + 10) / 5,
            "age_bias": (2 + 0 - 3 + 5 - 10) / 5,
            "age_cs5": 4 / 5,  # exactly 5 years off counts
            "gender_accuracy": 3 / 5,  # a half is male
            "interval_coverage": 3 / 5,
            "interval_width": 8,
        }
    )


def test_groups_hold_those_whom_their_names_say() -> None:
    groups = by_group(FIVE, MEASURES[UTKFACE])
    assert {group.name for group in groups if group.kind == "decade"} == {
        "0-9",
        "10-19",
        "30-39",
        "50-59",
        "90-99",
    }
    assert named(groups, "under 5")["age_mae"] == 2
    assert named(groups, "5 and older")["gender_accuracy"] == 3 / 4
    assert named(groups, "21-60")["age_mae"] == 4
    assert named(groups, "50-59")["age_bias"] == 5
    assert named(groups, "female")["n"] == 2
    assert named(groups, "White")["age_mae"] == 5
    assert named(groups, "White, male")["age_mae"] == 6.5
    assert named(groups, "White, 5 and older")["gender_accuracy"] == 0.5
    assert named(groups, "Black, 50-59")["age_mae"] == 5
    assert named(groups, "male, 90-99")["age_mae"] == 10
    assert "female, 90-99" not in {group.name for group in groups}


def test_fairface_is_measured_by_bins() -> None:
    faces = outcome(
        years=[19.4, 19.6, 45.0, 99.0, 9.0],
        age=[10, 20, 20, 70, 3],
        age_high=[19, 29, 29, 116, 9],
    )
    figures = named(by_group(faces, MEASURES[FAIRFACE]), "all")
    assert figures["right_bin"] == pytest.approx(4 / 5)
    assert figures["right_or_next_bin"] == pytest.approx(4 / 5)
    next_one = outcome(years=[31.0], age=[20], age_high=[29])
    assert named(by_group(next_one, MEASURES[FAIRFACE]), "all")["right_or_next_bin"] == 1


def test_a_bootstrap_interval_holds_the_mean_and_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(0).normal(10, 3, 900)
    result = figure(values)
    assert result.low < result.value < result.high
    assert result.value == pytest.approx(values.mean())
    # 1.96 standard errors of 3 / sqrt(900) to either side
    assert result.high - result.low == pytest.approx(2 * 1.96 * 0.1, rel=0.1)
    assert figure(values) == result


def test_calibration_error_is_the_mean_gap_over_bins() -> None:
    honest = outcome([30] * 10, [30] * 10, male_probability=[0.9] * 10, male=[True] * 9 + [False])
    assert expected_calibration_error(honest) == pytest.approx(0)
    # Ten said at 0.9, of whom 7 are right; ten said at 0.6 (female), all right: half of 0.2 and half of 0.4.
    mixed = outcome(
        [30] * 20,
        [30] * 20,
        male_probability=[0.9] * 10 + [0.4] * 10,
        male=[True] * 7 + [False] * 3 + [False] * 10,
    )
    assert expected_calibration_error(mixed) == pytest.approx(0.3)


def test_the_largest_gap_between_races_is_named() -> None:
    sizes = {"Asian": 50, "Black": 50, "White": 50, "unknown": 5}
    right = {"Asian": 45, "Black": 40, "White": 48, "unknown": 0}
    race = [name for name, n in sizes.items() for _ in range(n)]
    correct = [i < right[name] for name, n in sizes.items() for i in range(n)]
    adults = outcome(
        [30] * 155,
        [30] * 155,
        race=race,
        male=[True] * 155,
        male_probability=[0.9 if ok else 0.1 for ok in correct],
    )
    (gap,) = gender_gaps(adults)
    assert (gap.among, gap.best, gap.worst) == ("5 and older", "White", "Black")
    assert gap.difference.value == pytest.approx(0.16)
    # Standard error: sqrt(0.96 * 0.04 / 50 + 0.8 * 0.2 / 50) = 0.063
    assert gap.difference.low == pytest.approx(0.16 - 1.96 * 0.063, abs=0.03)
    assert gap.difference.high == pytest.approx(0.16 + 1.96 * 0.063, abs=0.03)


def test_gaps_are_named_for_small_children_apart_and_never_by_a_handful() -> None:
    # Ten Asian and ten Black children and as many adults; nine White adults, all of them misread.
    age = [2] * 20 + [30] * 29
    race = ["Asian", "Black"] * 20 + ["White"] * 9
    right = [0.9, 0.1] * 10 + [0.1, 0.9] * 10 + [0.1] * 9
    gaps = gender_gaps(outcome([float(a) for a in age], age, race=race, male_probability=right))
    named = [(gap.among, gap.best, gap.worst, gap.difference.value) for gap in gaps]
    assert named == [("5 and older", "Black", "Asian", 1), ("under 5", "Asian", "Black", 1)]
    assert gender_gaps(outcome([30.0] * 5, [30] * 5, race=list("abcde"))) == []


class Halves:
    """Says 20 or 40 years, and male at 0.75, to whatever it sees."""

    def run(self, crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        age = np.zeros((len(crops), 101), np.float32)
        age[:, [20, 40]] = 0.5
        return age, np.full(len(crops), 0.75, np.float32)


def test_a_model_is_measured_on_the_test_split_alone_and_as_the_service_reads_it() -> None:
    faces = Faces(
        crops=np.zeros((5, 128, 128, 3), np.uint8),
        age_low=np.array([30, 34, 90, 40, 20]),
        age_high=np.array([30, 34, 90, 40, 29]),
        male=np.array([True, False, True, True, True]),
        race=np.array(["White", "Black", "White", "White", "East Asian"]),
        dataset=np.array([UTKFACE] * 4 + [FAIRFACE]),
        split=np.array(["test", "test", "train", "validation", "test"]),
        name=np.array(list("abcde")),
    )
    interval = AgeInterval(coverage=0.8, low_quantile=0.25, high_quantile=0.75)
    utkface, fairface = measure(Halves(), interval, faces)
    assert utkface.all.n == 2
    assert utkface.all.figures["age_mae"].value == 2  # the mean of both ages is 30
    assert utkface.all.figures["interval_width"].value == 20  # the quartiles lie in the middle of either
    assert utkface.all.figures["gender_accuracy"].value == 0.5
    assert utkface.gender_calibration_error == pytest.approx(0.25)
    assert (fairface.dataset, fairface.all.n) == (FAIRFACE, 1)
    assert fairface.all.figures["right_or_next_bin"].value == 1
    assert json.loads(json.dumps(utkface.as_json()))["groups"][0]["figures"]["age_mae"]["value"] == 2
