"""Measure a served model on faces that were used neither for training nor for any choice or calibration."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter

import numpy as np
from agegender.inference.ages import read_ages
from agegender.inference.gender import temper
from agegender.inference.metadata import Variant
from agegender.inference.session import OnnxSession
from fairlearn.metrics import MetricFrame, count
from numpy.typing import NDArray
from rich.progress import track

from training.data import FAIRFACE, FAIRFACE_VAL, NAMES, UTKFACE, Faces
from training.errors import TrainingError
from training.labels import UNKNOWN_RACE
from training.splits import TEST

BOOTSTRAP_SAMPLES = 1000
CALIBRATION_BINS = 15
SMALL_CHILD = 5
"""Age in years below which gender can hardly be seen in a face."""

FEW = 10
"""Faces below which a group is left out of the comparison between groups."""

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
class Table:
    """A table whose first column names the rows."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """The table in Markdown, without its title."""
        lines = [self.columns, ("---", *["---:"] * (len(self.columns) - 1)), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@dataclass(frozen=True)
class Outcome:
    """A model's answers about faces, and their labels; every array has one entry per face."""

    dataset: str
    distribution: NDArray[np.floating]
    """(n, 101) probabilities of the ages, as the model gives them."""
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
        arrays = {key: value[chosen] for key, value in vars(self).items() if key != "dataset"}
        return Outcome(self.dataset, **arrays)


def answers(
    session: OnnxSession, faces: Faces, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Age probabilities (n, 101) and probabilities of male (n,) of the faces `rows`."""
    starts = track(range(0, len(rows), 64), "Running the model", transient=True)
    parts = [session.run(np.asarray(faces.crops[rows[start : start + 64]])) for start in starts]
    age, male = (np.concatenate(outputs) for outputs in zip(*parts, strict=True))
    return age, male


def measure(session: OnnxSession, variant: Variant, faces: Faces) -> list[Outcome]:
    """Read the test split of each data set in `faces` as the service does. Raises TrainingError if it is empty."""
    outcomes = []
    for dataset in NAMES:
        rows = faces.indices(TEST, dataset)
        if len(rows):
            age, male = answers(session, faces, rows)
            outcomes.append(
                Outcome(
                    dataset,
                    age,
                    *read_ages(age, variant.age_estimate, variant.age_interval),
                    temper(male, variant.gender_temperature),
                    faces.age_low[rows],
                    faces.age_high[rows],
                    faces.male[rows],
                    faces.race[rows],
                )
            )
    if not outcomes:
        raise TrainingError("No face is in the test split: prepare more.")
    return outcomes


def signed_error(outcome: Outcome) -> Floats:
    """Estimate less true age, years; of a bin, by how many years the estimate lies above or, negative, below it."""
    above = np.maximum(outcome.years - outcome.age_high, 0)
    return np.asarray(above + np.minimum(outcome.years - outcome.age_low, 0))


def gender_correct(outcome: Outcome) -> Floats:
    """1 where the likelier gender is the label."""
    return np.asarray((outcome.male_probability >= 0.5) == outcome.male, np.float64)


def _interval_holds(outcome: Outcome) -> Floats:
    return np.asarray((outcome.low <= outcome.age_high) & (outcome.age_low <= outcome.high), np.float64)


def _bins_off(outcome: Outcome) -> Floats:
    """By how many of FairFace's bins the estimate, in whole years as labels are, misses."""
    estimated = np.searchsorted(FAIRFACE_BINS, np.rint(outcome.years), side="right")
    true = np.searchsorted(FAIRFACE_BINS, outcome.age_low, side="right")
    return np.asarray(np.abs(estimated - true), np.float64)


Measure = Callable[[Outcome], Floats]

_MEASURES: dict[str, Measure] = {
    "age_mae": lambda outcome: np.abs(signed_error(outcome)),
    "age_bias": signed_error,
    "age_cs5": lambda outcome: np.asarray(np.abs(signed_error(outcome)) <= 5, np.float64),
    "gender_accuracy": gender_correct,
    "interval_coverage": _interval_holds,
    "interval_width": lambda outcome: outcome.high - outcome.low,
}
_BINNED: dict[str, Measure] = {
    "right_bin": lambda outcome: np.asarray(_bins_off(outcome) == 0, np.float64),
    "right_or_next_bin": lambda outcome: np.asarray(_bins_off(outcome) <= 1, np.float64),
    **_MEASURES,
}
MEASURES: dict[str, dict[str, Measure]] = {UTKFACE: _MEASURES, FAIRFACE: _BINNED, FAIRFACE_VAL: _BINNED}
"""What is measured on each data set: a value per face, averaged over groups of them."""

COLUMNS = {
    "age_mae": "age MAE, years",
    "age_bias": "bias, years",
    "age_cs5": "within 5 years",
    "right_bin": "right age bin",
    "right_or_next_bin": "right or next bin",
    "gender_accuracy": "gender right",
    "interval_coverage": "interval holds",
    "interval_width": "its width, years",
}
"""What a figure is called."""


def write(measure: str, figure: Figure, *, ends: bool = True) -> str:
    """A figure as in a table, with or without the ends of its interval."""
    if measure.endswith(("mae", "width", "bias")):
        sign = "+" if measure.endswith("bias") else ""
        digits = 2 if measure.endswith("mae") else 1
        value, low, high = (f"{end:{sign}.{digits}f}" for end in dataclasses.astuple(figure))
        return f"{value} ({low} to {high})" if ends else value
    value, low, high = (f"{100 * end:.1f}" for end in dataclasses.astuple(figure))
    return f"{value} % ({low} to {high})" if ends else f"{value} %"


def figures(outcome: Outcome) -> dict[str, Figure]:
    """The figures of all faces of an outcome, by the name of the measure."""
    return {key: figure(measure(outcome)) for key, measure in MEASURES[outcome.dataset].items()}


def figure(values: Floats) -> Figure:
    """The mean of (n,) values with its percentile-bootstrap interval (Efron 1979)."""
    random = np.random.default_rng(0)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(BOOTSTRAP_SAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(values.mean()), float(low), float(high))


def expected_calibration_error(outcome: Outcome) -> float:
    """Mean gap between the probability of the likelier gender and how often it is right, over 15 bins of it."""
    confidence = np.maximum(outcome.male_probability, 1 - outcome.male_probability)
    gaps = np.bincount(confidence_bins(confidence), weights=gender_correct(outcome) - confidence)
    return float(np.abs(gaps).sum() / len(outcome))


def confidence_bins(confidence: Floats) -> NDArray[np.int64]:
    """The bin of each probability of the likelier label, which is at least a half."""
    return np.minimum(((confidence - 0.5) * 2 * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def parts(outcome: Outcome) -> Iterator[tuple[str, str, Bools]]:
    """Kind, name and members of the groups of each table; empty ones are left out."""
    everyone = np.ones(len(outcome), bool)
    groups = [
        ("range", "all", everyone),
        ("range", f"{SMALL_CHILD} and older", outcome.age_low >= SMALL_CHILD),
        ("range", f"under {SMALL_CHILD}", outcome.age_high < SMALL_CHILD),
        ("range", "21-60", (outcome.age_low >= 21) & (outcome.age_high <= 60)),
    ]
    groups += [
        ("true", f"{first}-{first + 9}", (outcome.age_low >= first) & (outcome.age_high <= first + 9))
        for first in range(0, 120, 10)
    ]
    groups.append(("true", "70 and older", (outcome.age_low == 70) & (outcome.age_high > 79)))
    decade = outcome.years // 10 * 10
    groups += [("estimated", f"{first}-{first + 9}", decade == first) for first in range(0, 110, 10)]
    groups += [("race", race, outcome.race == race) for race in sorted(set(outcome.race) - {UNKNOWN_RACE})]
    groups += [("gender", "female", ~outcome.male), ("gender", "male", outcome.male)]
    yield from ((kind, name, members) for kind, name, members in groups if members.any())


_KINDS = {
    "range": "All faces, and ranges of true age",
    "true": "By decade of true age",
    "estimated": "By decade of estimated age",
    "race": "By race",
    "gender": "By gender",
}


def tables(outcome: Outcome) -> list[Table]:
    """Every figure of an outcome, with intervals, and how far apart groups of race and gender are."""
    measures = MEASURES[outcome.dataset]
    columns = ("", "faces", *(COLUMNS[key] for key in measures))
    result = []
    for kind, groups in groupby(parts(outcome), itemgetter(0)):
        rows = []
        for _, name, members in groups:
            part = figures(outcome.where(members))
            cells = (write(key, part[key], ends=key != "interval_width") for key in measures)
            rows.append((name, f"{members.sum():,}", *cells))
        result.append(Table(f"{NAMES[outcome.dataset]}: {_KINDS[kind]}", columns, rows))
    return [*result, *fairness(outcome)]


def by_race_and_gender(outcome: Outcome) -> MetricFrame | None:
    """Number and mean figures of the faces of each race and gender; None where not even two groups are large enough."""
    known = outcome.where((outcome.race != UNKNOWN_RACE) & (outcome.age_low >= SMALL_CHILD))
    groups = np.char.add(known.race, np.where(known.male, ", male", ", female"))
    names, counts = np.unique(groups, return_counts=True)
    enough = np.isin(groups, names[counts >= FEW])
    if len(set(groups[enough])) < 2:
        return None
    known = known.where(enough)
    means = {key: partial(_mean, of(known)) for key, of in MEASURES[outcome.dataset].items()}
    faces = np.arange(len(known))
    return MetricFrame(
        metrics={"faces": count, **means}, y_true=faces, y_pred=faces, sensitive_features=groups[enough]
    )


def _mean(values: Floats, _: object, chosen: NDArray[np.int64]) -> float:
    """MetricFrame's view of a measure: it hands over which faces are in the group."""
    return float(values[np.asarray(chosen)].mean())


def fairness(outcome: Outcome) -> list[Table]:
    """The figures of groups of one race and gender, and the largest difference between them."""
    frame = by_race_and_gender(outcome)
    if frame is None:
        return []
    keys = [key for key in MEASURES[outcome.dataset] if key != "interval_width"]
    groups = [(name, f"{row['faces']:,.0f}", row) for name, row in frame.by_group.iterrows()]
    rows = [
        (name, faces, *(write(key, Figure(row[key], row[key], row[key]), ends=False) for key in keys))
        for name, faces, row in [*groups, ("largest difference", "", frame.difference())]
    ]
    title = f"{NAMES[outcome.dataset]}: Race and gender, from {SMALL_CHILD} years"
    return [Table(title, ("", "faces", *(COLUMNS[key] for key in keys)), rows)]


def as_json(outcomes: list[Outcome]) -> dict[str, object]:
    """Every figure, by data set, kind of group and group."""
    result: dict[str, object] = {}
    for outcome in outcomes:
        groups: dict[str, dict[str, object]] = {}
        for kind, name, members in parts(outcome):
            part = outcome.where(members)
            values = {key: dataclasses.asdict(of) for key, of in figures(part).items()}
            groups.setdefault(kind, {})[name] = {"n": len(part), **values}
        result[outcome.dataset] = {
            "gender_calibration_error": expected_calibration_error(outcome),
            "groups": groups,
        }
    return result


def metrics(outcomes: list[Outcome]) -> dict[str, float]:
    """The figures that the metadata holds: those of the first data set by plain names, others with its name."""
    result: dict[str, float] = {}
    for number, outcome in enumerate(outcomes):
        prefix = "" if number == 0 else f"{outcome.dataset}_"
        result[f"{prefix}n"] = len(outcome)
        for key, of in figures(outcome).items():
            result[prefix + key] = round(of.value, 6)
            if key in ("age_mae", "gender_accuracy"):
                result[f"{prefix}{key}_low"] = round(of.low, 6)
                result[f"{prefix}{key}_high"] = round(of.high, 6)
        older = outcome.where(outcome.age_low >= SMALL_CHILD)
        if len(older):
            result[f"{prefix}gender_accuracy_from_5_years"] = round(float(gender_correct(older).mean()), 6)
        result[f"{prefix}gender_calibration_error"] = round(expected_calibration_error(outcome), 6)
    return result
