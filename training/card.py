"""Render the model card, `card.md.j2`, from a run's record and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from agegender.inference.ages import read_ages
from agegender.inference.metadata import Variant
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training import evaluate, plots
from training.data import NAMES, Faces
from training.evaluate import Outcome, Table
from training.files import write_aside
from training.recipe import Recipe
from training.splits import TEST, TRAIN, VALIDATION

TEMPLATE = Path(__file__).with_name("card.md.j2")
COVERAGES = (0.5, 0.8, 0.9, 0.95)


def write_card(
    recipe: Recipe,
    variant: Variant,
    record: dict[str, Any],
    outcomes: list[Outcome],
    faces: Faces,
    card: Path,
    pictures: Path,
) -> None:
    """Write the file `card` and its pictures into the folder `pictures`."""
    plots.learning_curves(record["history"], pictures / "curves.png")
    plots.errors(outcomes[0], pictures / "errors.png")
    environment = Environment(  # noqa: S701 Markdown, not HTML: nothing is escaped.
        loader=FileSystemLoader(TEMPLATE.parent), undefined=StrictUndefined
    )
    text = environment.get_template(TEMPLATE.name).render(
        variant=variant,
        words=recipe.words,
        inputs=recipe.inputs,
        datasets=recipe.datasets,
        names=NAMES,
        trained_sets=" and ".join(NAMES[name] for name in recipe.datasets),
        outcomes=outcomes,
        summary=summary,
        weakest=weakest(outcomes),
        splits=split_counts(faces),
        training=training(record),
        tables=[table for outcome in outcomes for table in evaluate.tables(outcome)],
        calibration=calibration(outcomes, variant),
    )
    write_aside(card, lambda path: path.write_text(text.rstrip() + "\n", encoding="utf-8"))


def summary(outcome: Outcome) -> str:
    """Summarise an outcome in a sentence."""
    of = {key: evaluate.write(key, value, ends=False) for key, value in evaluate.figures(outcome).items()}
    age = f"age is {of['age_mae']} years off on average"
    if "right_bin" in of:
        age = f"age is in the right bin for {of['right_bin']}"
    return (
        f"{age}, gender right for {of['gender_accuracy']}; the interval of 80 % is {of['interval_width']} years wide "
        f"and holds {of['interval_coverage']}."
    )


def weakest(outcomes: list[Outcome]) -> str:
    """The race and gender of which gender is named worst, on the last data set: the largest with races."""
    outcome = outcomes[-1]
    frame = evaluate.by_race_and_gender(outcome)
    if frame is None:
        return "unknown: there are too few faces of each race and gender."
    right = frame.by_group["gender_accuracy"]
    group = right.idxmin()
    return (
        f"{group} in {NAMES[outcome.dataset]}, of {evaluate.SMALL_CHILD} years and older: gender is right for "
        f"{100 * right[group]:.1f} % of {frame.by_group['faces'][group]:,.0f} faces."
    )


def training(record: dict[str, Any]) -> dict[str, str]:
    """The facts about the run, by name."""
    recipe = record["recipe"]
    rows = {
        name.replace("_", " "): str(value)
        for name, value in recipe.items()
        if name not in ("stages", "teacher")
    }
    rows["stages"] = ", ".join(
        f"{stage['epochs']} epochs at {stage['side']} pixels" for stage in recipe["stages"]
    )
    if recipe["teacher"] is not None:
        rows["teacher"] = ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in recipe["teacher"].items()
        )
    rows["hours"] = f"{record['seconds'] / 3600:.1f}"
    rows |= {"machine": record["machine"], "libraries": record["libraries"]}
    rows["code"] = f"commit `{record['commit'] or 'unknown'}`"
    rows["labels and splits"] = f"SHA-256 `{record['data_sha256']}`"
    return rows


def split_counts(faces: Faces) -> Table:
    """Faces by data set and split."""
    rows = [
        (NAMES[name], *(f"{len(faces.indices(split, name)):,}" for split in (TRAIN, VALIDATION, TEST)))
        for name in NAMES
        if (faces.dataset == name).any()
    ]
    return Table("Faces", ("", TRAIN, VALIDATION, TEST), rows)


def calibration(outcomes: list[Outcome], variant: Variant) -> Table:
    """The share of faces whose age the intervals contain, and the calibration error of gender."""
    rows = []
    for outcome in outcomes:
        held = []
        for coverage in COVERAGES:
            _, low, high = read_ages(
                outcome.distribution, variant.age_estimate, variant.age_interval, coverage
            )
            held.append(f"{100 * np.mean((low <= outcome.age_high) & (outcome.age_low <= high)):.1f} %")
        error = evaluate.expected_calibration_error(outcome)
        rows.append((NAMES[outcome.dataset], *held, f"{100 * error:.1f} %"))
    columns = (
        "held by the interval of",
        *(f"{coverage:.0%}" for coverage in COVERAGES),
        "gender's calibration error",
    )
    return Table("Calibration", columns, rows)
