"""What a benchmark found: tables, targets met or missed, sentences and plots; printed and written as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

from agegender.cores import available_cores
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"

_DPI = 90

Cell = str | int | float | None


@dataclass
class Grid:
    """A table: a title, the heading of each column and rows of as many cells."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]] = field(default_factory=list)


@dataclass
class Target:
    """A figure that shall be at most (or else at least) `limit`."""

    what: str
    value: float
    limit: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass
class Report:
    """All that one benchmark says; `figures` by the name of their PNG file."""

    name: str
    grids: list[Grid] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    figures: dict[str, Figure] = field(default_factory=dict)

    def target(self, what: str, value: float, *, at_most: float | None = None, at_least: float = 0) -> None:
        """Add a target with either limit."""
        limit = at_least if at_most is None else at_most
        self.targets.append(Target(what, float(value), limit, at_most is not None))


def machine() -> dict[str, Cell]:
    """What the figures were measured on."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0].partition(":")[2].strip() if names else platform.machine(),
        "cores": available_cores(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "opencv": version("opencv-python-headless"),
    }


def show(report: Report, out: Console) -> None:
    """Print tables, sentences and targets."""
    for grid in report.grids:
        table = Table(*grid.columns, title=grid.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in grid.rows:
            table.add_row(*map(_text, row))
        out.print(table)
    for sentence in report.sentences:
        out.print(sentence, highlight=False)
    for target in report.targets:
        verdict = "[green]met[/]" if target.met else "[red]missed[/]"
        bound = "at most" if target.at_most else "at least"
        out.print(
            f"{verdict}: {target.what}: {_text(target.value)}, wanted {bound} {_text(target.limit)}",
            highlight=False,
        )


def write(report: Report, folder: Path, ran_on: dict[str, Cell]) -> None:
    """Write NAME.json and the plots into `folder`."""
    folder.mkdir(exist_ok=True)
    content = {
        "machine": ran_on,
        "tables": [asdict(grid) for grid in report.grids],
        "targets": [{**asdict(target), "met": target.met} for target in report.targets],
        "sentences": report.sentences,
    }
    (folder / f"{report.name}.json").write_text(json.dumps(content, indent=2) + "\n")
    for name, figure in report.figures.items():
        figure.savefig(folder / f"{name}.png", dpi=_DPI, format="png")


def column(grid: Grid, heading: str) -> list[float]:
    """The numbers under a heading."""
    place = grid.columns.index(heading)
    return [float(row[place]) for row in grid.rows]  # type: ignore[arg-type]


def figure(columns: int) -> tuple[Figure, list[Axes]]:
    """An empty plot with that many panels side by side."""
    made = Figure((4.2 * columns + 0.4, 3.4), layout="constrained")
    axes = list(made.subplots(1, columns, squeeze=False)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    return made, axes


def _text(cell: Cell) -> str:
    if cell is None or cell != cell:  # NaN: there was nothing to measure
        return ""
    if isinstance(cell, float):
        return f"{cell:,.{0 if abs(cell) >= 100 else 1 if abs(cell) >= 10 else 2}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
