"""Results for files, as they come: a table, JSON or CSV on standard output."""

from __future__ import annotations

import csv
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from textwrap import indent
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from agegender import table
from agegender.answers import Prediction
from agegender.cli.files import Result


def print_table(results: Iterable[Result], out: Console) -> None:
    """A row for each face, and for each image without one; nothing for what has no answer."""
    grid = Table("image", Column("box (x, y, w, h)", no_wrap=True), "age", "gender", "found by")
    try:
        for name, answer in results:
            if isinstance(answer, Prediction):
                for row in _rows(answer):
                    grid.add_row(escape(name), *row)
    finally:  # what there is, where something ends it too early
        if grid.row_count:
            out.print(grid)


def _rows(answer: Prediction) -> Iterator[tuple[str, str, str, str]]:
    if not answer.faces:
        yield "no face found", "", "", answer.detector
    for face in answer.faces:
        box, age, gender = face.box, face.age, face.gender
        yield (
            f"{box.x}, {box.y}, {box.width}, {box.height}",
            f"{age.years:.1f} ({age.low:.0f}-{age.high:.0f})",
            f"{gender.label} {gender.probability:.0%}",
            answer.detector + ("" if face.confidence is None else f" {face.confidence:.0%}"),
        )


class CannotWrite(Exception):
    """str(e) is a sentence that says why."""


@contextmanager
def written() -> Iterator[None]:
    """What is printed meanwhile is written at the end. Raises CannotWrite where it cannot be, as on a full disk."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        if error.errno == errno.EPIPE:  # the reader has seen enough, as `head` has
            raise
        # Python would try again at its exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CannotWrite(f"The answers cannot be written ({error.strerror}).") from error


def print_json(results: Iterable[Result]) -> None:
    """A list with `filename` and `prediction`, as of the service, or `error` for each result."""
    before, after = "[\n", ""
    try:
        for name, said in results:
            entry: dict[str, Any] = {"filename": name}
            if isinstance(said, Prediction):
                entry["prediction"] = said.model_dump(mode="json")
            else:
                entry["error"] = said
            print(before + indent(json.dumps(entry, indent=2), "  "), end="")
            before, after = ",\n", "\n]"
    finally:
        if after:
            print(after)


def print_csv(results: Iterable[Result]) -> None:
    """A line for each face, and one without a box for each image without a face, or with an `error`."""
    writer = csv.DictWriter(sys.stdout, table.COLUMNS, lineterminator="\n")
    begun = False
    for name, said in results:
        if not begun:
            writer.writeheader()
            begun = True
        writer.writerows(table.rows(name, said))
