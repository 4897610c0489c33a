"""Run a model on labelled photographs for `agegender audit`, and print, plot and write its figures."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from agegender.audit import MEASURES, AuditError, Faces, Figure, Group, Label, measure
from agegender.cli.output import plain_table
from agegender.cores import available_cores
from agegender.inference.metadata import Variant
from agegender.inference.variants import Model
from agegender.inputs import PredictQuery
from agegender.predictor import ImageTooLarge, ImageUnreadable, Predictor
from agegender.settings import Settings
from agegender.vision.align import crop_face, crop_whole
from agegender.vision.decode import decode


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
            "the largest counts",
            highlight=False,
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
            highlight=False,
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
            if not _in_years(name):
                axis.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axis.set_title(title + (", years" if _in_years(name) else ""), fontsize=10)
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
    groups, left_out = measure(faces, variant, coverage)
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


def _in_years(measure: str) -> bool:
    return measure in ("age_mae", "age_bias")


def _cell(measure: str, figure: Figure | None) -> str:
    if figure is None:
        return ""
    if measure == "age_bias":
        return f"{figure.value:+.1f}\n[dim]{figure.low:+.1f} {figure.high:+.1f}[/]"
    if measure == "age_mae":
        return f"{figure.value:.1f}\n[dim]{figure.low:.1f}-{figure.high:.1f}[/]"
    return f"{figure.value:.1%}\n[dim]{100 * figure.low:.0f}-{figure.high:.0%}[/]"
