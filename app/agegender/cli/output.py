"""Print results as they come: as a table, JSON or CSV."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from textwrap import indent
from typing import Any

import rich.box
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from agegender import table
from agegender.answers import Prediction
from agegender.cli.files import Result


def plain_table(*columns: str | Column) -> Table:
    """Return an empty table whose only line is below its heading."""
    return Table(*columns, box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def print_table(results: Iterable[Result], out: Console) -> None:
    """Print a row for each face and for each image without a face, but none for an image with a problem."""
    grid = plain_table(
        Column("image", overflow="fold"),
        Column("age", no_wrap=True),
        Column("gender", no_wrap=True),
        Column("box (x, y, w, h)", no_wrap=True),
        Column("found by", no_wrap=True),
        Column("warnings"),
    )
    try:
        for name, prediction in results:
            if isinstance(prediction, Prediction):
                for row in _rows(prediction):
                    grid.add_row(escape(name), *row)
    finally:  # after Ctrl-C or an exception, print what there is
        if grid.row_count:
            out.print(grid)


def _rows(prediction: Prediction) -> Iterator[tuple[str, str, str, str, str]]:
    if not prediction.faces:
        yield "no face found", "", "", prediction.detector, ""
    for face in prediction.faces:
        box, age, gender = face.box, face.age, face.gender
        yield (
            f"{age.years:.1f} ({age.low:.0f}-{age.high:.0f})",
            f"{gender.label} {gender.probability:.0%}",
            f"{box.x}, {box.y}, {box.width}, {box.height}",
            prediction.detector + ("" if face.confidence is None else f" {face.confidence:.0%}"),
            ", ".join(face.warnings),
        )


def print_json(results: Iterable[Result]) -> None:
    """Print a list of objects with `filename` and either the service's `prediction` or an `error`."""
    before = "["
    try:
        for name, outcome in results:
            entry: dict[str, Any] = {"filename": name}
            if isinstance(outcome, Prediction):
                entry["prediction"] = outcome.model_dump(mode="json")
            else:
                entry["error"] = outcome
            # In one piece, so that Ctrl-C leaves no comma without an entry.
            print(before + "\n" + indent(json.dumps(entry, indent=2), "  "), end="")
            before = ","
    finally:
        print("\n]" if before == "," else "[]")


def print_csv(results: Iterable[Result]) -> None:
    """Print a line for each face, and a line for each image without a face or with an `error`.

    One column holds the probabilities of all ages, separated by spaces.
    """
    writer = csv.DictWriter(sys.stdout, table.COLUMNS, lineterminator="\n")
    writer.writeheader()
    for name, outcome in results:
        for row in table.rows(name, outcome):
            if ages := row.get("age_distribution"):
                row["age_distribution"] = " ".join(map(str, ages))
            writer.writerow(row)
