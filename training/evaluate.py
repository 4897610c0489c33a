"""Figures of merit of a served model on prepared faces, each with its 95 % bootstrap interval."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from agegender.inference.ages import AgeEstimate, AgeInterval, read_ages
from agegender.inference.session import OnnxSession
from numpy.typing import NDArray
from rich.progress import track

from training.calibrate import Calibration, share_below
from training.data import FAIRFACE, UTKFACE, Faces
from training.errors import TrainingError
from training.files import write_aside
from training.labels import UNKNOWN_RACE
from training.splits import TEST

EVALUATION_FILE = "evaluation.json"
BOOTSTRAP_SAMPLES = 1000
CALIBRATION_BINS = 15
SMALL_CHILD = 5
"""Years below which the gender label can hardly be seen in a face."""

FEW = 10
"""Faces below which a group's figures say so little that no gap is named by them."""

MANY = 100
"""Faces from which on a decade's share of ages held is more than chance."""

FAIRFACE_BINS = np.array([0, 3, 10, 20, 30, 40, 50, 60, 70])
"""First years of FairFace's age bins."""

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean and the ends of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """What a model said of some faces, beside what is true; every array has one entry a face."""

    years: Floats
    low: Floats
    high: Floats
    share_below: Floats
    """Of the age distribution below `age_low`: see `training.calibrate.share_below`."""
    male_probability: Floats
    age_low: NDArray[np.int64]
    age_high: NDArray[np.int64]
    male: Bools
    race: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.years)

    def where(self, chosen: Bools) -> Outcome:
        """The faces for which `chosen` is true."""
        return Outcome(
            **{field.name: getattr(self, field.name)[chosen] for field in dataclasses.fields(self)}
        )


def run(
    session: OnnxSession, estimate: AgeEstimate, interval: AgeInterval, faces: Faces, rows: NDArray[np.int64]
) -> Outcome:
    """Put the crops of `rows` through `session`, read as the service reads them."""
    starts = track(range(0, len(rows), 64), "Evaluating", transient=True)
    parts = [session.run(np.asarray(faces.crops[rows[start : start + 64]])) for start in starts]
    age, male = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return read(age, male, estimate, interval, faces, rows)


def read(
    age: NDArray[np.floating],
    male: NDArray[np.floating],
    estimate: AgeEstimate,
    interval: AgeInterval,
    faces: Faces,
    rows: NDArray[np.int64],
) -> Outcome:
    """Probabilities of ages (n, 101) and of male (n,), said of the faces `rows`, in years."""
    ages = read_ages(age, estimate, interval)
    return Outcome(
        **ages._asdict(),
        share_below=share_below(age, faces.age_low[rows]),
        male_probability=male.astype(np.float64),
        age_low=faces.age_low[rows],
        age_high=faces.age_high[rows],
        male=faces.male[rows],
        race=faces.race[rows],
    )


def absolute_error(outcome: Outcome) -> Floats:
    """|estimate - true age|, years; of a bin, by how many years it is missed."""
    return np.asarray(np.abs(signed_error(outcome)))


def signed_error(outcome: Outcome) -> Floats:
    """Estimate - true age, years; of a bin, by how many years the estimate lies above or, negative, below it."""
    above = np.maximum(outcome.years - outcome.age_high, 0)
    return np.asarray(above + np.minimum(outcome.years - outcome.age_low, 0))


def within_five_years(outcome: Outcome) -> Floats:
    """1 where the estimate is at most 5 years off (their mean is CS@5)."""
    return (absolute_error(outcome) <= 5).astype(np.float64)


def gender_correct(outcome: Outcome) -> Floats:
    """1 where the likelier gender is the label."""
    return np.asarray((outcome.male_probability >= 0.5) == outcome.male, np.float64)


def interval_covers(outcome: Outcome) -> Floats:
    """1 where the true age lies in the interval; of a bin, where the two meet."""
    return ((outcome.low <= outcome.age_high) & (outcome.age_low <= outcome.high)).astype(np.float64)


def interval_width(outcome: Outcome) -> Floats:
    """Width of the interval, years."""
    return np.asarray(outcome.high - outcome.low)


def right_bin(outcome: Outcome) -> Floats:
    """1 where the estimate lies in FairFace's bin of the label."""
    return np.asarray(_bins_off(outcome) == 0, np.float64)


def right_or_next_bin(outcome: Outcome) -> Floats:
    """1 where it lies in that bin or a neighbouring one."""
    return np.asarray(_bins_off(outcome) <= 1, np.float64)


def _bins_off(outcome: Outcome) -> Floats:
    """By how many bins the estimate, in whole years as labels are, misses."""
    said = np.searchsorted(FAIRFACE_BINS, np.rint(outcome.years), side="right")
    true = np.searchsorted(FAIRFACE_BINS, outcome.age_low, side="right")
    return np.asarray(np.abs(said - true).astype(np.float64))


@dataclass(frozen=True)
class Calibrated:
    """What was fitted on the validation split, and what is said of its faces without and with that."""

    chosen: Calibration
    before: Outcome
    after: Outcome


Measure = Callable[[Outcome], Floats]

_MEASURES: dict[str, Measure] = {
    "age_mae": absolute_error,
    "age_bias": signed_error,
    "age_cs5": within_five_years,
    "gender_accuracy": gender_correct,
    "interval_coverage": interval_covers,
    "interval_width": interval_width,
}

MEASURES: dict[str, dict[str, Measure]] = {
    UTKFACE: _MEASURES,
    FAIRFACE: {"right_bin": right_bin, "right_or_next_bin": right_or_next_bin, **_MEASURES},
}
"""What is measured on each data set: a value per face, averaged over groups of them."""

GAPS = {key: _MEASURES[key] for key in ("age_mae", "gender_accuracy", "interval_coverage")}
"""What groups are compared by."""


@dataclass(frozen=True, slots=True)
class Group:
    """Figures of one group of faces, by the name of their measure."""

    kind: str
    name: str
    n: int
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Extreme:
    """A group of one race and gender, its faces, and the mean of a measure over them."""

    name: str
    n: int
    value: float


@dataclass(frozen=True, slots=True)
class Gap:
    """The two such groups between which a measure differs most, among faces of some ages."""

    measure: str
    among: str
    highest: Extreme
    lowest: Extreme
    difference: Figure


@dataclass(frozen=True)
class Measured:
    """All that is measured of a model on the test split of one data set."""

    dataset: str
    outcome: Outcome
    groups: list[Group]
    gender_calibration_error: float
    gaps: list[Gap]

    @property
    def all(self) -> Group:
        """The figures of all faces."""
        return self.groups[0]

    def of_kind(self, kind: str) -> list[Group]:
        """The groups of one kind, such as the decades."""
        return [group for group in self.groups if group.kind == kind]


def as_json(measured: Sequence[Measured]) -> dict[str, Any]:
    """Every figure by data set, to four decimal places; the single faces are left out."""
    everything = {
        part.dataset: {
            "groups": [dataclasses.asdict(group) for group in part.groups],
            "gender_calibration_error": part.gender_calibration_error,
            "gaps": [dataclasses.asdict(gap) for gap in part.gaps],
        }
        for part in measured
    }
    rounded: dict[str, Any] = json.loads(
        json.dumps(everything), parse_float=lambda text: round(float(text), 4)
    )
    return rounded


def store(measured: Sequence[Measured], folder: Path) -> None:
    """Keep every figure in `folder`. Raises TrainingError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(as_json(measured)) + "\n"
        write_aside(folder / EVALUATION_FILE, lambda partial: partial.write_text(text))
    except OSError as error:
        raise TrainingError(f"{folder / EVALUATION_FILE} cannot be written ({error.strerror}).") from error


def measure(
    session: OnnxSession, estimate: AgeEstimate, interval: AgeInterval, faces: Faces
) -> list[Measured]:
    """Every figure on the test split of each data set that `faces` holds. Raises TrainingError where it holds none."""
    result = []
    for dataset, measures in MEASURES.items():
        rows = faces.indices(TEST, dataset)
        if len(rows):
            outcome = run(session, estimate, interval, faces, rows)
            result.append(
                Measured(
                    dataset,
                    outcome,
                    by_group(outcome, measures),
                    expected_calibration_error(outcome),
                    largest_gaps(outcome),
                )
            )
    if not result:
        raise TrainingError("No face is in the test split: prepare more.")
    return result


def by_group(outcome: Outcome, measures: dict[str, Measure]) -> list[Group]:
    """The figures of every group; that of all faces comes first."""
    values = {name: measure(outcome) for name, measure in measures.items()}
    return [
        Group(kind, name, int(members.sum()), {key: figure(value[members]) for key, value in values.items()})
        for kind, name, members in groups(outcome)
    ]


def figure(values: Floats) -> Figure:
    """Mean of (n,) values with its percentile-bootstrap interval (Efron 1979)."""
    low, high = np.percentile(_resampled_means(values, 0), [2.5, 97.5])
    return Figure(float(values.mean()), float(low), float(high))


def expected_calibration_error(outcome: Outcome) -> float:
    """Mean gap between the probability of the label given and how often it is right, over 15 equal bins of it."""
    confidence = np.maximum(outcome.male_probability, 1 - outcome.male_probability)
    gaps = np.bincount(confidence_bins(confidence), weights=gender_correct(outcome) - confidence)
    return float(np.abs(gaps).sum() / len(outcome))


def confidence_bins(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each probability of the likelier label, which is at least a half."""
    return np.minimum(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def largest_gaps(outcome: Outcome) -> list[Gap]:
    """The largest gap in each of `GAPS` between groups of one race and gender, of at least `FEW` faces each.

    Small children apart.
    """
    pairs = [(name, members) for kind, name, members in groups(outcome) if kind == "race and gender"]
    gaps = []
    for key, measure in GAPS.items():
        values = measure(outcome)
        for among, chosen in stages(outcome):
            parts = {name: values[chosen & members] for name, members in pairs}
            extremes = [
                Extreme(name, len(part), float(part.mean()))
                for name, part in parts.items()
                if len(part) >= FEW
            ]
            if len(extremes) < 2:
                continue
            highest = max(extremes, key=lambda extreme: extreme.value)
            lowest = min(extremes, key=lambda extreme: extreme.value)
            high, low = (_resampled_means(parts[e.name], seed) for seed, e in enumerate((highest, lowest)))
            ends = np.percentile(high - low, [2.5, 97.5])
            difference = Figure(highest.value - lowest.value, *map(float, ends))
            gaps.append(Gap(key, among, highest, lowest, difference))
    return gaps


def coverage_by_decade(outcome: Outcome) -> dict[str, float]:
    """The share of ages that the interval holds, of each decade of at least `MANY` faces."""
    covers = interval_covers(outcome)
    return {
        name: float(covers[members].mean())
        for kind, name, members in groups(outcome)
        if kind == "decade" and members.sum() >= MANY
    }


def groups(outcome: Outcome) -> Iterator[tuple[str, str, Bools]]:
    """Kind, name and members of each group that figures are given for; empty ones left out."""
    genders = (("female", ~outcome.male), ("male", outcome.male))
    races = [(race, outcome.race == race) for race in sorted(set(outcome.race) - {UNKNOWN_RACE})]
    decades = [
        (f"{decade}-{decade + 9}", (outcome.age_low >= decade) & (outcome.age_high <= decade + 9))
        for decade in range(0, 120, 10)
    ]
    # FairFace's last bin has no end.
    decades.append(("70 and older", (outcome.age_low == 70) & (outcome.age_high > 79)))
    ranges = list(stages(outcome))
    working = (outcome.age_low >= 21) & (outcome.age_high <= 60)
    candidates = [("all", "all", np.ones(len(outcome), bool))]
    candidates += [("age", name, members) for name, members in (*ranges, ("21-60", working))]
    for kind, parts in (("decade", decades), ("gender", genders), ("race", races)):
        candidates += [(kind, name, members) for name, members in parts]
    for kind, parts, others in (
        ("race and gender", races, genders),
        ("race and age", races, ranges),
        ("gender and age", genders, ranges),
        ("race and decade", races, decades),
        ("gender and decade", genders, decades),
    ):
        candidates += [
            (kind, f"{name}, {other}", members & chosen)
            for name, members in parts
            for other, chosen in others
        ]
    yield from ((kind, name, members) for kind, name, members in candidates if members.any())


def stages(outcome: Outcome) -> Iterator[tuple[str, Bools]]:
    """Those whose gender label can be seen in the face, and small children; a bin that straddles is neither."""
    yield f"{SMALL_CHILD} and older", outcome.age_low >= SMALL_CHILD
    yield f"under {SMALL_CHILD}", outcome.age_high < SMALL_CHILD


def _resampled_means(values: Floats, seed: int) -> Floats:
    """Means of as many values, drawn from them with replacement, time and again."""
    draws = np.random.default_rng(seed).integers(0, len(values), (BOOTSTRAP_SAMPLES, len(values)))
    return np.asarray(values[draws].mean(axis=1))
