"""Figures of merit of a served model on prepared faces, each with its 95 % bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.inference.ages import expectation, quantiles
from app.inference.session import Session
from app.inference.variants import AgeInterval
from training.data import Faces

BOOTSTRAP_SAMPLES = 1000
CALIBRATION_BINS = 15
SMALL_CHILD = 5
"""Years below which the gender label can hardly be seen in a face."""

FAIRFACE_BINS = np.array([0, 3, 10, 20, 30, 40, 50, 60, 70])
"""First years of FairFace's age bins."""

Figure = tuple[float, float, float]
"""A value and the ends of its 95 % bootstrap interval."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a model said of some faces, beside what is true; every array has one entry a face."""

    years: Floats
    low: Floats
    high: Floats
    male_probability: Floats
    age_low: NDArray[np.int64]
    age_high: NDArray[np.int64]
    male: Bools
    race: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.years)

    def where(self, chosen: Bools) -> Outcome:
        """The faces for which `chosen` is true."""
        return Outcome(**{name: getattr(self, name)[chosen] for name in self.__dataclass_fields__})


def run(session: Session, interval: AgeInterval, faces: Faces, rows: NDArray[np.int64]) -> Outcome:
    """Put the crops of `rows` through `session`, read as the service reads them."""
    parts = [session.run(np.asarray(faces.crops[rows[i : i + 256]])) for i in range(0, len(rows), 256)]
    age = np.concatenate([part[0] for part in parts])
    bounds = quantiles(age, (interval.low_quantile, interval.high_quantile))
    return Outcome(
        years=expectation(age),
        low=bounds[:, 0],
        high=bounds[:, 1],
        male_probability=np.concatenate([part[1] for part in parts]).astype(np.float64),
        age_low=faces.age_low[rows],
        age_high=faces.age_high[rows],
        male=faces.male[rows],
        race=faces.race[rows],
    )


def absolute_error(outcome: Outcome) -> Floats:
    """|estimate - true age|, years."""
    return np.abs(outcome.years - outcome.age_low)


def signed_error(outcome: Outcome) -> Floats:
    """estimate - true age, years."""
    return outcome.years - outcome.age_low


def within_five_years(outcome: Outcome) -> Floats:
    """1 where the estimate is at most 5 years off (their mean is CS@5)."""
    return (absolute_error(outcome) <= 5).astype(np.float64)


def gender_correct(outcome: Outcome) -> Floats:
    """1 where the likelier gender is the label."""
    return ((outcome.male_probability >= 0.5) == outcome.male).astype(np.float64)


def interval_covers(outcome: Outcome) -> Floats:
    """1 where the true age lies in the interval."""
    return ((outcome.low <= outcome.age_low) & (outcome.age_low <= outcome.high)).astype(np.float64)


def interval_width(outcome: Outcome) -> Floats:
    """Width of the interval, years."""
    return outcome.high - outcome.low


def _bin_distance(outcome: Outcome) -> NDArray[np.int64]:
    said = np.searchsorted(FAIRFACE_BINS, outcome.years, side="right")
    return np.abs(said - np.searchsorted(FAIRFACE_BINS, outcome.age_low, side="right"))


def right_bin(outcome: Outcome) -> Floats:
    """1 where the estimate lies in FairFace's bin of the label."""
    return (_bin_distance(outcome) == 0).astype(np.float64)


def right_or_next_bin(outcome: Outcome) -> Floats:
    """1 where it lies in that bin or a neighbouring one."""
    return (_bin_distance(outcome) <= 1).astype(np.float64)


Measure = Callable[[Outcome], Floats]

EXACT_AGE_MEASURES: dict[str, Measure] = {
    "age_mae": absolute_error,
    "age_bias": signed_error,
    "age_cs5": within_five_years,
    "gender_accuracy": gender_correct,
    "interval_coverage": interval_covers,
    "interval_width": interval_width,
}
"""Each a value per face, averaged; for faces whose age is known to the year."""

BINNED_AGE_MEASURES: dict[str, Measure] = {
    "right_bin": right_bin,
    "right_or_next_bin": right_or_next_bin,
    "gender_accuracy": gender_correct,
}
"""The same for FairFace."""


def mean_with_interval(values: Floats, seed: int = 0) -> Figure:
    """Mean of (n,) values with its 95 % percentile-bootstrap interval (Efron 1979)."""
    random = np.random.default_rng(seed)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def expected_calibration_error(outcome: Outcome) -> float:
    """Mean gap between the probability of the label given and how often it is right, over 15 equal bins of it."""
    confidence = np.maximum(outcome.male_probability, 1 - outcome.male_probability)
    correct = gender_correct(outcome)
    which = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = [abs(float((correct - confidence)[which == b].sum())) for b in range(CALIBRATION_BINS)]
    return sum(gaps) / len(outcome)


def groups(outcome: Outcome) -> Iterator[tuple[str, str, Bools]]:
    """Kind, name and members of each group that figures are given for; empty ones left out."""
    everyone = np.ones(len(outcome), bool)
    children = outcome.age_high < SMALL_CHILD
    working = (outcome.age_low >= 21) & (outcome.age_high <= 60)
    genders = (("female", ~outcome.male), ("male", outcome.male))
    candidates: list[tuple[str, str, Bools]] = [
        ("all", "all", everyone),
        ("age", f"under {SMALL_CHILD}", children),
        ("age", f"{SMALL_CHILD} and older", outcome.age_low >= SMALL_CHILD),
        ("age", "21-60", working),
    ]
    for decade in range(0, 120, 10):
        inside = (outcome.age_low >= decade) & (outcome.age_high <= decade + 9)
        candidates.append(("decade", f"{decade}-{decade + 9}", inside))
    candidates += [("gender", name, members) for name, members in genders]
    races = sorted(set(outcome.race))
    candidates += [("race", race, outcome.race == race) for race in races]
    candidates += [
        ("race and gender", f"{race}, {name}", (outcome.race == race) & members)
        for race in races
        for name, members in genders
    ]
    yield from ((kind, name, members) for kind, name, members in candidates if members.any())


def report(outcome: Outcome, measures: dict[str, Measure]) -> list[dict[str, object]]:
    """One row a group: kind, name, n, and each measure as `Figure`."""
    values = {name: measure(outcome) for name, measure in measures.items()}
    return [
        {"kind": kind, "group": name, "n": int(members.sum())}
        | {measure: mean_with_interval(values[measure][members]) for measure in measures}
        for kind, name, members in groups(outcome)
    ]
