from __future__ import annotations

import json

import numpy as np
import pytest
from agegender.inference.ages import AgeInterval

from training.data import FAIRFACE, UTKFACE, Faces
from training.evaluate import (
    MEASURES,
    Gap,
    Group,
    Measured,
    Outcome,
    as_json,
    by_group,
    coverage_by_decade,
    expected_calibration_error,
    figure,
    largest_gaps,
    measure,
)

NOT_INSTALLED = "the training job's packages are not installed: `make env-train`"


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


def test_a_bin_is_missed_by_the_years_outside_it_and_held_where_the_interval_meets_it() -> None:
    faces = outcome(
        years=[9.0, 15.0, 26.0, 84.0, 58.0],
        age=[10, 10, 10, 70, 70],
        age_high=[19, 19, 19, 116, 116],
        interval=4.0,
    )
    groups = by_group(faces, MEASURES[FAIRFACE])
    figures = named(groups, "all")
    assert figures["age_mae"] == pytest.approx((1 + 0 + 7 + 0 + 12) / 5)
    assert figures["age_bias"] == pytest.approx((-1 + 0 + 7 + 0 - 12) / 5)
    assert figures["age_cs5"] == pytest.approx(3 / 5)
    assert figures["interval_coverage"] == pytest.approx(3 / 5)
    assert named(groups, "10-19")["n"] == 3
    assert named(groups, "70 and older")["age_mae"] == 6


def test_decades_of_a_hundred_faces_say_how_evenly_the_interval_holds() -> None:
    ages = [25] * 100 + [35] * 99 + [45] * 120
    off = [0.0] * 70 + [9.0] * 30 + [9.0] * 99 + [0.0] * 90 + [-9.0] * 30
    faces = outcome([age + error for age, error in zip(ages, off, strict=True)], ages)
    assert coverage_by_decade(faces) == {"20-29": pytest.approx(0.7), "40-49": pytest.approx(0.75)}


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


def gap_in(faces: Outcome, measure: str, among: str) -> Gap:
    (gap,) = [gap for gap in largest_gaps(faces) if (gap.measure, gap.among) == (measure, among)]
    return gap


def test_the_largest_gap_between_groups_of_race_and_gender_is_named() -> None:
    sizes = {("Asian", True): 50, ("Asian", False): 50, ("White", True): 50, ("unknown", True): 50}
    right = {("Asian", True): 45, ("Asian", False): 40, ("White", True): 48, ("unknown", True): 0}
    people = [group for group, n in sizes.items() for _ in range(n)]
    correct = [i < right[group] for group, n in sizes.items() for i in range(n)]
    male = [is_male for _, is_male in people]
    adults = outcome(
        [30.0] * 50 + [33.0] * 50 + [31.0] * 100,
        [30] * 200,
        race=[race for race, _ in people],
        male=male,
        male_probability=[0.9 if ok == is_male else 0.1 for ok, is_male in zip(correct, male, strict=True)],
    )
    gap = gap_in(adults, "gender_accuracy", "5 and older")
    assert (gap.highest.name, gap.highest.n, gap.highest.value) == ("White, male", 50, 0.96)
    assert (gap.lowest.name, gap.lowest.n, gap.lowest.value) == ("Asian, female", 50, 0.8)
    assert gap.difference.value == pytest.approx(0.16)
    # Standard error: sqrt(0.96 * 0.04 / 50 + 0.8 * 0.2 / 50) = 0.063
    assert gap.difference.low == pytest.approx(0.16 - 1.96 * 0.063, abs=0.03)
    assert gap.difference.high == pytest.approx(0.16 + 1.96 * 0.063, abs=0.03)
    years = gap_in(adults, "age_mae", "5 and older")
    assert (years.highest.name, years.lowest.name, years.difference.value) == (
        "Asian, female",
        "Asian, male",
        3,
    )


def test_gaps_are_named_for_small_children_apart_and_never_by_a_handful() -> None:
    # Ten Asian and ten Black children and as many adults; nine White adults, all of them misread.
    age = [2] * 20 + [30] * 29
    race = ["Asian", "Black"] * 20 + ["White"] * 9
    right = [0.9, 0.1] * 10 + [0.1, 0.9] * 10 + [0.1] * 9
    faces = outcome([float(a) for a in age], age, race=race, male_probability=right)
    adults, children = (gap_in(faces, "gender_accuracy", among) for among in ("5 and older", "under 5"))
    assert (adults.highest.name, adults.lowest.name, adults.difference.value) == (
        "Black, male",
        "Asian, male",
        1,
    )
    assert (children.highest.name, children.lowest.name) == ("Asian, male", "Black, male")
    assert largest_gaps(outcome([30.0] * 5, [30] * 5, race=list("abcde"))) == []


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
    utkface, fairface = measure(Halves(), "expectation", interval, faces)
    assert utkface.all.n == 2
    assert utkface.all.figures["age_mae"].value == 2  # the mean of both ages is 30
    assert utkface.all.figures["interval_width"].value == 20  # the quartiles lie in the middle of either
    assert utkface.all.figures["gender_accuracy"].value == 0.5
    assert utkface.gender_calibration_error == pytest.approx(0.25)
    assert (fairface.dataset, fairface.all.n) == (FAIRFACE, 1)
    assert fairface.all.figures["right_or_next_bin"].value == 1
    stored = json.loads(json.dumps(as_json([utkface, fairface])))
    assert stored["utkface"]["groups"][0]["figures"]["age_mae"]["value"] == 2
    assert stored["fairface"]["groups"][0]["figures"]["interval_coverage"]["value"] == 1
    (utkface, _) = measure(Halves(), "median", interval, faces)
    # Half lies below every age from 20.5 to 39.5: the last of them is the median.
    assert utkface.all.figures["age_mae"].value == pytest.approx((9.5 + 5.5) / 2)


def test_faces_of_unknown_race_have_their_tables_but_that_by_race() -> None:
    report = pytest.importorskip("training.report", reason=NOT_INSTALLED, exc_type=ModuleNotFoundError)
    unknown = outcome(years=[3.0, 30.0], age=[1, 33], male=[False, True], race=["unknown", "unknown"])
    groups = by_group(unknown, MEASURES[UTKFACE])
    measured = Measured(UTKFACE, unknown, groups, expected_calibration_error(unknown), largest_gaps(unknown))
    titles = [grid.title for grid in report.grids(measured)]
    assert "UTKFace: By gender and by race" in titles
    assert "UTKFace: By race and gender" not in titles
