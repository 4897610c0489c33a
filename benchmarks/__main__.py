"""`python -m benchmarks [NAME...]`: measure the service on this machine, and print tables."""

from __future__ import annotations

import os
import platform
import re
import signal
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from agegender.inference import detector_file
from agegender.settings import Settings
from rich.console import Console
from rich.table import Table

from benchmarks.server import Bench

Name = StrEnum("Name", ["parts", "throughput", "overload", "start", "scale", "soak"])


def main(
    names: Annotated[
        list[Name] | None,
        typer.Argument(help="By default all but scale and soak."),
    ] = None,
    program: Annotated[
        list[Path] | None,
        typer.Option(help="`agegender` of an installation to measure, in turn with others; may be repeated."),
    ] = None,
    quick: Annotated[bool, typer.Option(help="Take a fifth of the time, to check that all works.")] = False,
) -> None:
    """Measure the service on this machine, and print tables."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # like an interrupt: stop the servers
    # Wide enough for the tables if the output goes to a file.
    out = Console(width=None if Console().is_terminal else 160, highlight=False)
    out.print(
        f"{_processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
        f"onnxruntime {version('onnxruntime')}, opencv-python-headless {version('opencv-python-headless')}"
    )
    yunet = detector_file.find(Settings().yunet_path)
    if yunet is None:
        out.print("YuNet is not installed, so Haar finds the faces: run `agegender fetch-detector`.")
    # Absolute paths: each program runs in a folder of its own.
    programs = [each.absolute() for each in program or [Path(sys.executable).with_name("agegender")]]
    for name in names or [name for name in Name if name not in ("scale", "soak")]:
        run: Callable[[Bench], Iterator[Table]] = import_module(f"benchmarks.{name}").run
        for table in run(Bench(yunet, programs, quick)):
            out.print(table)


def _processor() -> str:
    name = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return name[1] if name else platform.machine()


if __name__ == "__main__":
    typer.run(main)
