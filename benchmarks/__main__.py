"""`python -m benchmarks [NAME...]`: measure, print, and write results/."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from agegender.inference import detector_file
from agegender.inference.variants import load_catalogue
from agegender.settings import Settings
from rich.console import Console

from benchmarks import (
    fairness,
    growth,
    networks,
    overload,
    parts,
    report,
    service,
    soak,
    start,
    usual_way,
)
from benchmarks.bench import Bench
from benchmarks.load import Client
from benchmarks.photographs import ROOT
from benchmarks.report import Report

RESULTS = Path(__file__).with_name("results")


class Name(StrEnum):
    """The benchmarks."""

    PARTS = "parts"
    NETWORKS = "networks"
    SERVICE = "service"
    USUAL_WAY = "usual_way"
    START = "start"
    GROWTH = "growth"
    OVERLOAD = "overload"
    FAIRNESS = "fairness"
    SOAK = "soak"


RUN: dict[Name, Callable[[Bench], Report]] = {
    Name.PARTS: parts.run,
    Name.NETWORKS: networks.run,
    Name.SERVICE: service.run,
    Name.USUAL_WAY: usual_way.run,
    Name.START: start.run,
    Name.GROWTH: growth.run,
    Name.OVERLOAD: overload.run,
    Name.FAIRNESS: fairness.run,
    Name.SOAK: soak.run,
}


def main(
    names: Annotated[
        list[Name] | None,
        typer.Argument(metavar="[NAME]...", help=f"Of {', '.join(Name)}; all but soak by default."),
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="A fifth of the time: to see that all works, not to quote.")
    ] = False,
    requests: Annotated[int, typer.Option(help="Requests before `start` measures memory again.")] = 1000,
) -> None:
    """Measure the service on this machine; the tables are printed and written, with plots, to benchmarks/results/."""
    # Ends like an interrupt: no server is left behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # Wide enough for the tables where the output goes to a file.
    out = Console(width=None if Console().is_terminal else 180)
    ran_on = report.machine()
    out.print(", ".join(f"{name} {value}" for name, value in ran_on.items()), highlight=False)
    yunet = detector_file.find(Settings().yunet_path)
    if yunet is None:
        out.print("YuNet is not installed (`agegender fetch-detector`): Haar finds the faces.")
    with Client() as client:
        bench = Bench(load_catalogue(ROOT / "models"), yunet, client, quick, requests)
        for name in names or [name for name in Name if name != Name.SOAK]:
            begun = time.perf_counter()
            result = RUN[name](bench)
            report.show(result, out)
            report.write(result, RESULTS, ran_on)
            out.print(f"{name}: {time.perf_counter() - begun:.0f} seconds\n", highlight=False)


if __name__ == "__main__":
    typer.run(main)
