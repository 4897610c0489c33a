"""Labels out of file names (UTKFace) and CSV files (FairFace)."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.errors import TrainingError

UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Others")
FAIRFACE_RACES = (
    "White",
    "Black",
    "Latino_Hispanic",
    "East Asian",
    "Southeast Asian",
    "Indian",
    "Middle Eastern",
)
UNKNOWN_RACE = "unknown"
OLDEST = 116
"""The highest age in UTKFace; anything above is a typing error."""

# AGE_GENDER_RACE_DATE.jpg.chip.jpg, the date being 17 digits. In a handful of names the race is missing, there is
# a stray space, a dot is missing, or the date has another length: age and gender can still be read.
_WELL_FORMED = re.compile(r"(\d{1,3})_([01])_([0-4])_\d{17}\.jpg\.chip\.jpg")
_AGE_AND_GENDER = re.compile(r"(\d{1,3})_([01])_(?:([0-4])_+)?\s*\d{16,20}\s*\.?jpg\.chip\.jpg")


@dataclass(frozen=True, slots=True)
class Label:
    """Age in whole years as an interval (one year wide where it is known exactly), gender and race."""

    age_low: int
    age_high: int
    male: bool
    race: str
    repaired: bool = False


def parse_utkface_name(name: str) -> Label | None:
    """Parse a UTKFace file name; `repaired` if only age and gender can be read, None if not even those."""
    match = _WELL_FORMED.fullmatch(name)
    repaired = match is None
    match = match or _AGE_AND_GENDER.fullmatch(name)
    if match is None or int(match[1]) > OLDEST:
        return None
    age = int(match[1])
    race = UNKNOWN_RACE if match[3] is None else UTKFACE_RACES[int(match[3])]
    return Label(age, age, match[2] == "0", race, repaired)


def parse_age_bin(text: str) -> tuple[int, int]:
    """First and last year of FairFace's bins, "20-29" or "more than 70" (70 and over); raises ValueError."""
    if text == "more than 70":
        return 70, OLDEST
    low, high = map(int, text.split("-"))
    if low > high:
        raise ValueError(f"{text} ends before it begins")
    return low, high


def read_fairface_labels(table: Path) -> dict[str, Label]:
    """Labels of FairFace's table, by the image's path relative to it. Raises TrainingError if it is not FairFace's."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as lines:  # as Excel writes it, too
            rows = csv.DictReader(lines)
            missing = {"file", "age", "gender", "race"}.difference(rows.fieldnames or ())
            if missing:
                raise TrainingError(
                    f"{table.name} has no column {', '.join(sorted(missing))}: see FairFace's own."
                )
            labels = {row["file"]: _fairface_label(row, table.name) for row in rows}
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"{table.name} is not a table in UTF-8 ({error}): see FairFace's own.") from error
    if not labels:
        raise TrainingError(f"{table.name} has no row: name FairFace's archive as downloaded.")
    return labels


def _fairface_label(row: dict[str, Any], table: str) -> Label:
    try:
        low, high = parse_age_bin(row["age"] or "")
        male = {"male": True, "female": False}[(row["gender"] or "").lower()]
        if not row["file"] or row["race"] not in FAIRFACE_RACES:
            raise ValueError("truncated row")
        return Label(low, high, male, row["race"])
    except (ValueError, KeyError):
        raise TrainingError(
            f"{table} gives {row['file']} the age {row['age']!r}, the gender {row['gender']!r} and the race "
            f"{row['race']!r}: they must be a bin, such as 20-29, Male or Female, and one of "
            f"{', '.join(FAIRFACE_RACES)}."
        ) from None
