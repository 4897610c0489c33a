"""Measure a model on labelled photographs, overall and by group, and calibrate it on them: `agegender audit`."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from agegender.cli.output import plain_table
from agegender.cores import available_cores
from agegender.inference.ages import AGES, read_ages
from agegender.inference.calibrate import choose_estimate, fit_interval, fit_temperature
from agegender.inference.gender import temper
from agegender.inference.metadata import Variant
from agegender.inference.variants import Model
from agegender.inputs import PredictQuery
from agegender.predictor import ImageTooLarge, ImageUnreadable, Predictor
from agegender.settings import Settings
from agegender.vision.align import crop_face, crop_whole
from agegender.vision.decode import decode

Floats = NDArray[np.float64]

MEASURES = {
    "age_mae": "age error",
    "age_bias": "age bias",
    "age_within_5": "within 5 years",
    "gender_accuracy": "gender right",
    "interval_coverage": "interval holds",
}
"""Names of the measures, and their titles in a table."""

_IN_YEARS = ("age_mae", "age_bias")

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
    try:
        labels = _labels(path, reader)
    except csv.Error as error:  # a quote that is never closed makes one cell of all that follows
        raise AuditError(
            f"{path}, line {reader.line_num}: {error}: look for a quote that is not closed."
        ) from error
    if not labels:
        raise AuditError(f"{path} has a heading but no rows: add a row for each photograph.")
    return labels


def _labels(path: Path, reader: csv.DictReader[str]) -> list[Label]:
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


class Read(NamedTuple):
    """The output of the model for the largest of the `found` faces in a photograph; `distribution` is (101,)."""

    found: int
    distribution: NDArray[np.float32]
    male_probability: float


class Reader(Predictor):
    """Find the largest face in photographs, and run a model on it. Raises what `Predictor` raises, and UnknownModel."""

    def __init__(self, settings: Settings, query: PredictQuery) -> None:
        super().__init__(settings)
        self._query = query
        self.model: Model = self._catalogue[query.model or self._catalogue.default(settings.default_model)]

    def read_all(self, folder: Path, labels: Sequence[Label]) -> Iterator[Read | str | None]:
        """Yield the output for each file, in order: None without a face, a sentence if it cannot be read.

        Raises DetectorUnavailable.
        """
        with ThreadPoolExecutor(available_cores()) as threads:
            yield from threads.map(lambda label: self._read(folder / label.file), labels)

    def _read(self, path: Path) -> Read | str | None:
        try:
            image = decode(path.read_bytes(), self._settings.max_image_memory)
        except OSError as error:
            return f"The file cannot be read ({error.strerror})."
        except (ImageUnreadable, ImageTooLarge) as error:
            return str(error)
        finder = self._pipeline.detector(self._query.detector)
        if finder is None:
            found, crop = 1, crop_whole(image)
        elif faces := finder.detect(image, self._query.min_confidence, self._query.detail):
            found, crop = len(faces), crop_face(image, faces[0])
        else:
            return None
        age, male = self.model.session.run(crop[np.newaxis])
        return Read(found, age[0], float(male[0]))


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


@dataclass(frozen=True)
class Report:
    """The results of an audit."""

    model: str
    coverage: float
    photographs: int
    faces: int
    several_faces: int
    """Photographs with more than one face; only the largest is measured."""
    without_face: list[str]
    unreadable: dict[str, str]
    """Files, and what is wrong with each."""
    columns_left_out: list[str]
    """Columns with too many values to be groups."""
    groups: list[Group]

    def write_json(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    def print(self, out: Console) -> None:
        """Print the figures of all faces and of each group, with their intervals."""
        out.print(
            f"{self.model}: {self.faces:,} faces in {self.photographs:,} photographs, {len(self.without_face):,} "
            f"without a face, {len(self.unreadable):,} unreadable, {self.several_faces:,} with several faces, of which "
            "the largest counts"
        )
        if self.columns_left_out:
            out.print(f"too many values for groups: {', '.join(map(escape, self.columns_left_out))}")
        titles = (title.replace(" ", "\n", 1) for title in MEASURES.values())
        table = plain_table(
            Column("", overflow="fold"),
            *(Column(title, justify="right", no_wrap=True) for title in ("faces", *titles)),
        )
        column = None
        for group in self.groups:
            if group.column != column:
                column = group.column
                table.add_row(f"[bold]{escape(str(column))}[/]")
            cells = [_cell(name, group.figures.get(name)) for name in MEASURES]
            table.add_row(escape(group.value), f"{group.faces:,}", *cells)
        out.print(table)
        out.print(
            f"Age error and bias are in years; the interval should hold {self.coverage:.0%} of the ages. Below "
            "each figure is its 95 % bootstrap interval.",
            style="dim",
        )

    def plot(self, path: Path) -> None:
        """Draw the figures of all faces and of each group, with their intervals, as PNG."""
        from matplotlib.figure import Figure as Drawing
        from matplotlib.ticker import PercentFormatter

        drawing = Drawing((2.3 * len(MEASURES) + 1.5, 0.3 * len(self.groups) + 1.5), layout="constrained")
        axes = drawing.subplots(1, len(MEASURES), sharey=True)
        for (name, title), axis in zip(MEASURES.items(), axes, strict=True):
            for row, group in enumerate(self.groups):
                if figure := group.figures.get(name):
                    axis.plot([figure.low, figure.high], [row, row], color="#2b6cb0", linewidth=2)
                    axis.plot(figure.value, row, "o", color="#2b6cb0")
            wanted = {"age_bias": 0.0, "interval_coverage": self.coverage}.get(name)
            if wanted is not None:
                axis.axvline(wanted, color="#dd6b20", linewidth=1, linestyle="--")
            if name not in _IN_YEARS:
                axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.set_title(title + (", years" if name in _IN_YEARS else ""), fontsize=10)
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
        rows = [
            f"{group.column + ': ' if group.column else ''}{group.value} ({group.faces:,})"
            for group in self.groups
        ]
        axes[0].set_yticks(range(len(rows)), rows)
        axes[0].set_ylim(len(rows) - 0.5, -0.5)
        drawing.suptitle(f"{self.model}: means with 95 % bootstrap intervals", fontsize=11)
        drawing.savefig(path, dpi=120, format="png")


def examine(
    labels: Sequence[Label], read: Sequence[Read | str | None], variant: Variant, coverage: float
) -> tuple[Faces, Report]:
    """Measure the faces in what `Reader.read_all` returned. Raises AuditError if there is none."""
    photographs = list(zip(labels, read, strict=True))
    shown = [(label, each) for label, each in photographs if isinstance(each, Read)]
    unreadable = {label.file: each for label, each in photographs if isinstance(each, str)}
    if not shown:
        first = next((f" {file}: {why}" for file, why in unreadable.items()), "")
        raise AuditError(f"No face was found in the photographs of the table.{first}")
    faces = Faces(
        [label for label, _ in shown],
        np.stack([each.distribution for _, each in shown]),
        np.array([each.male_probability for _, each in shown]),
    )
    outcomes = faces.outcomes(variant, coverage)
    groups, left_out = [_group(None, "all", np.ones(len(shown), bool), outcomes)], []
    for column in faces.labels[0].groups:
        cells = np.array([label.groups[column] for label in faces.labels])
        values = sorted(set(cells) - {""})
        if len(values) > MOST_GROUPS:
            left_out.append(column)
        else:
            groups += [_group(column, value, cells == value, outcomes) for value in values]
    return faces, Report(
        model=variant.id,
        coverage=coverage,
        photographs=len(photographs),
        faces=len(shown),
        several_faces=sum(each.found > 1 for _, each in shown),
        without_face=[label.file for label, each in photographs if each is None],
        unreadable=unreadable,
        columns_left_out=left_out,
        groups=groups,
    )


def write_recalibrated(model: Model, models: Path, faces: Faces, folder: Path) -> None:
    """Write ID.json, calibrated on `faces`, and a copy of ID.onnx into a new `folder`.

    Raises AuditError if the faces are too few.
    """
    variant = faces.recalibrated(model.variant)
    folder.mkdir(parents=True)
    shutil.copyfile(models / f"{variant.id}.onnx", folder / f"{variant.id}.onnx")
    (folder / f"{variant.id}.json").write_text(variant.model_dump_json(indent=2) + "\n")


def _cell(measure: str, figure: Figure | None) -> str:
    if figure is None:
        return ""
    if measure == "age_bias":
        return f"{figure.value:+.1f}\n[dim]{figure.low:+.1f} {figure.high:+.1f}[/]"
    if measure == "age_mae":
        return f"{figure.value:.1f}\n[dim]{figure.low:.1f}-{figure.high:.1f}[/]"
    return f"{figure.value:.1%}\n[dim]{100 * figure.low:.0f}-{figure.high:.0%}[/]"
