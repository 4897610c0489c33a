"""Measure a model on labelled faces, overall and by group, with bootstrap intervals, and calibrate it on them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agegender.inference.ages import AGES, read_ages
from agegender.inference.calibrate import choose_estimate, fit_interval, fit_temperature
from agegender.inference.gender import temper
from agegender.inference.metadata import Variant

Floats = NDArray[np.float64]

MEASURES = {
    "age_mae": "age error",
    "age_bias": "age bias",
    "age_within_5": "within 5 years",
    "gender_accuracy": "gender right",
    "interval_coverage": "interval holds",
}
"""Names of the measures, and their titles in a table."""

MOST_GROUPS = 30
"""A column with more values, such as names or dates, does not divide the faces into groups."""

ENOUGH = 100
"""The fewest labelled faces for a calibration."""

_OLDEST = 120
_BOOTSTRAP_SAMPLES = 1000
_GENDERS = {"male": "male", "m": "male", "female": "female", "f": "female", "": ""}


class AuditError(Exception):
    """An audit is not possible or cannot be written; str(e) says why in a sentence."""


@dataclass(frozen=True, slots=True)
class Label:
    """A row of the table: the known facts about the face in a file."""

    file: str
    age: tuple[float, float] | None
    """The lowest and highest possible age in years; both the same if the age is known."""
    groups: dict[str, str]
    """The other columns: `gender`, which is male, female or empty, comes first."""


def read_labels(path: Path) -> list[Label]:
    """Read a CSV table with the columns `file`, `age` or `gender` or both, and any others. Raises AuditError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise AuditError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise AuditError(f"{path} is not text in UTF-8: save the table as CSV in UTF-8.") from error
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    names = reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
    if "file" not in names or not {"age", "gender"} & set(names):
        raise AuditError(
            f"{path} needs a column `file`, and `age` or `gender` or both; it has: {', '.join(names)}."
        )
    labels = []
    for row in reader:
        cells = {name: (row[name] or "").strip() for name in names if name}
        try:
            age, gender = _age(cells.pop("age", "")), _gender(cells.pop("gender", ""))
        except ValueError as error:
            raise AuditError(f"{path}, line {reader.line_num}: {error}.") from error
        labels.append(Label(cells.pop("file"), age, {"gender": gender, **cells}))
    if not labels:
        raise AuditError(f"{path} has a heading but no rows: add a row for each photograph.")
    return labels


def _age(text: str) -> tuple[float, float] | None:
    if not text:
        return None
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(more than )?{number}(?:\s*[-\u2013]\s*{number}|(\+))?", text)
    if not found:
        raise ValueError(f"the age {text!r} must be a number, a range such as 20-29 or 70+, or empty")
    low = float(found[2])
    high = _OLDEST if found[1] or found[4] else float(found[3] or low)
    if not low <= high <= _OLDEST:
        raise ValueError(f"the age {text!r} must be from 0 to {_OLDEST} years, a range in ascending order")
    return low, high


def _gender(text: str) -> str:
    if text.lower() not in _GENDERS:
        raise ValueError(f"the gender {text!r} must be male (m), female (f) or empty")
    return _GENDERS[text.lower()]


@dataclass(frozen=True)
class Faces:
    """The labels of n faces, and the uncalibrated outputs of a model for them."""

    labels: Sequence[Label]
    distribution: NDArray[np.floating]
    """(n, 101) probabilities of the ages from 0 to 100 years."""
    male_probability: NDArray[np.floating]
    """(n,) probabilities of male."""

    @property
    def age(self) -> Floats:
        """(n, 2) lowest and highest possible ages in years; NaN without a label."""
        return np.array([label.age or (np.nan, np.nan) for label in self.labels])

    @property
    def male(self) -> Floats:
        """(n,) 1 for male, 0 for female, NaN without a label."""
        numbers = {"male": 1, "female": 0, "": np.nan}
        return np.array([numbers[label.groups["gender"]] for label in self.labels], np.float64)

    def outcomes(self, variant: Variant, coverage: float) -> dict[str, Floats]:
        """Return (n,) values of each measure, NaN for faces without the label.

        The error of an age label that is a range is the distance to the nearer end, 0 inside. `interval_coverage` is
        then the share of the range that the interval holds, its years weighted by the model's own distribution, as in
        a calibration.
        """
        (first, last), male = self.age.T, self.male
        ages = read_ages(self.distribution, variant.age_estimate, variant.age_interval, coverage)
        error = np.maximum(ages.years - last, 0) + np.minimum(ages.years - first, 0)
        is_male = temper(self.male_probability, variant.gender_temperature) >= 0.5
        years = np.arange(AGES)
        possible = (first[:, None] <= years) & (years <= last[:, None])
        weight = np.where(possible, self.distribution + 1e-6, 0)
        inside = (ages.low[:, None] <= years) & (years <= ages.high[:, None])
        share = (weight * inside).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-12)
        holds = np.where(first == last, (ages.low <= first) & (first <= ages.high), share)
        return {
            "age_mae": np.abs(error),
            "age_bias": error,
            "age_within_5": np.where(np.isnan(error), np.nan, np.abs(error) <= 5),
            "gender_accuracy": np.where(np.isnan(male), np.nan, is_male == male),
            "interval_coverage": np.where(np.isnan(error), np.nan, holds),
        }

    def recalibrated(self, variant: Variant) -> Variant:
        """Return `variant` with its age interval and gender temperature fitted to these faces.

        Raises AuditError if fewer than `ENOUGH` faces have a label.
        """
        (first, last), male = self.age.T, self.male
        aged, gendered = ~np.isnan(first), ~np.isnan(male)
        changes: dict[str, Any] = {}
        if aged.sum() >= ENOUGH:
            bounds = np.rint(first[aged]).astype(np.int64), np.rint(last[aged]).astype(np.int64)
            estimate = choose_estimate(self.distribution[aged], *bounds)
            interval = fit_interval(self.distribution[aged], estimate, *bounds)
            changes |= {"age_estimate": estimate, "age_interval": interval}
        if gendered.sum() >= ENOUGH:
            temperature = fit_temperature(self.male_probability[gendered], male[gendered] == 1)
            changes["gender_temperature"] = temperature
        if not changes:
            raise AuditError(
                f"A calibration needs at least {ENOUGH} faces with an age or with a gender: {aged.sum()} have an age, "
                f"{gendered.sum()} have a gender."
            )
        about = f"{variant.description} Calibrated on {len(self.labels):,} other faces by `agegender audit`."
        return variant.model_copy(update={**changes, "description": about})


@dataclass(frozen=True, slots=True)
class Figure:
    """The mean of `n` faces and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Group:
    """The faces with one `value` in a column, or all faces without a column.

    `figures` has no entry for a measure if none of the faces has the label.
    """

    column: str | None
    value: str
    faces: int
    figures: dict[str, Figure]


def measure(faces: Faces, variant: Variant, coverage: float) -> tuple[list[Group], list[str]]:
    """Return the figures of all faces and of each group, and the columns with more than `MOST_GROUPS` values."""
    outcomes = faces.outcomes(variant, coverage)
    everyone = np.ones(len(faces.labels), bool)
    groups, left_out = [_group(None, "all", everyone, outcomes)], []
    for column in faces.labels[0].groups:
        cells = np.array([label.groups[column] for label in faces.labels])
        values = sorted(set(cells) - {""}, key=_by_number)
        if len(values) > MOST_GROUPS:
            left_out.append(column)
        else:
            groups += [_group(column, value, cells == value, outcomes) for value in values]
    return groups, left_out


def _by_number(text: str) -> list[str | int]:
    """Return a key that sorts 3-9 before 20-29."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def _group(column: str | None, value: str, members: NDArray[np.bool_], outcomes: dict[str, Floats]) -> Group:
    figures = {}
    for name, values in outcomes.items():
        known = values[members & ~np.isnan(values)]
        if len(known):
            figures[name] = _figure(known)
    return Group(column, value, int(members.sum()), figures)


def _figure(values: Floats) -> Figure:
    """Return the mean with its percentile-bootstrap interval (Efron 1979)."""
    random, n = np.random.default_rng(0), len(values)
    means = [values[random.integers(0, n, n)].mean() for _ in range(_BOOTSTRAP_SAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Figure(float(values.mean()), float(low), float(high), n)
