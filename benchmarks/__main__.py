"""`python -m benchmarks [NAME...]`: measure the service on this machine and print tables."""

from __future__ import annotations

import os
import platform
import signal
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from agegender.inference import detector_file
from agegender.settings import Settings
from rich.console import Console
from rich.table import Table

from benchmarks import overload, parts, scale, soak, start, throughput
from benchmarks.load import Client
from benchmarks.server import Bench


class Name(StrEnum):
    """The benchmarks."""

    PARTS = "parts"
    THROUGHPUT = "throughput"
    OVERLOAD = "overload"
    START = "start"
    SCALE = "scale"
    SOAK = "soak"


RUN: dict[Name, Callable[[Bench], Iterator[Table]]] = {
    Name.PARTS: parts.run,
    Name.THROUGHPUT: throughput.run,
    Name.OVERLOAD: overload.run,
    Name.START: start.run,
    Name.SCALE: scale.run,
    Name.SOAK: soak.run,
}


def main(
    names: Annotated[
        list[Name] | None,
        typer.Argument(metavar="[NAME]...", help=f"Of {', '.join(Name)}; all but scale and soak by default."),
    ] = None,
    program: Annotated[
        list[Path] | None,
        typer.Option(help="Another installation's `agegender`, measured by turns; may be repeated."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="A fifth of the time: to see that all works.")] = False,
) -> None:
    """Measure the service on this machine and print tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an interrupt does: stop the servers
    # Wide enough for the tables where the output goes to a file.
    out = Console(width=None if Console().is_terminal else 140, highlight=False)
    out.print(
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"onnxruntime {version('onnxruntime')}, opencv-python-headless {version('opencv-python-headless')}"
    )
    yunet = detector_file.find(Settings().yunet_path)
    if yunet is None:
        out.print("YuNet is not installed (`agegender fetch-detector`): Haar finds the faces.")
    # Absolute, since each runs in a folder of its own.
    programs = [each.absolute() for each in program or [Path(sys.executable).with_name("agegender")]]
    with Client() as client:
        bench = Bench(client, yunet, programs, quick)
        for name in names or [name for name in Name if name not in (Name.SCALE, Name.SOAK)]:
            for table in RUN[name](bench):
                out.print(table)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    typer.run(main)
