"""Run the service as a process of its own, and measure it. Memory and processor time come from /proc: Linux only."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agegender.settings import ENV_PREFIX
from rich.table import Table

from benchmarks.load import closed_loop

_TIMEOUT = 120

CONNECTIONS = 8
"""Enough to keep the workers of a small machine busy, and few enough that none is refused."""

Rounds = dict[tuple[Path, str, int], list[dict[str, float]]]
"""The figures of `throughput` in each round, by program, first column of the table, and connections."""


@dataclass(frozen=True)
class Bench:
    """The arguments of a run: YuNet's file, the programs to compare, and whether to take a fifth of the time."""

    yunet: Path | None
    programs: list[Path]
    quick: bool

    def seconds(self, full: float) -> float:
        """Return how long to measure what takes `full` seconds in a full run."""
        return full / 5 if self.quick else full

    def table(self, title: str, *columns: str) -> Table:
        """Return an empty table, whose first column names the program if there are several."""
        table = Table(title=title, title_justify="left")
        for column in ("program", *columns) if len(self.programs) > 1 else columns:
            table.add_column(column, justify="left" if column in ("program", "photograph") else "right")
        return table

    def add_row(self, table: Table, program: Path, *cells: str | float) -> None:
        """Add a row for `program`, numbers with three digits or more, NaN as an empty cell."""
        texts = [cell if isinstance(cell, str) else _digits(cell) for cell in cells]
        table.add_row(*([str(program), *texts] if len(self.programs) > 1 else texts))

    def medians(self, title: str, column: str, rounds: Rounds) -> Table:
        """Return a table of the medians of all rounds."""
        titles = list(next(iter(rounds.values()))[0])
        table = self.table(title, column, "connections", *titles)
        for (program, cell, connections), found in rounds.items():
            figures = (statistics.median(each[name] for each in found) for name in titles)
            self.add_row(table, program, cell, str(connections), *figures)
        return table


def _digits(number: float) -> str:
    if number != number:
        return ""
    return f"{number:,.{0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2}f}"


@dataclass(frozen=True)
class Process:
    """A running process. The methods raise OSError if it has ended."""

    pid: int

    def megabytes(self) -> float:
        """Return its resident memory, in millions of bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def peak_megabytes(self) -> float:
        """Return its largest resident memory so far, in millions of bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """Return its processor time since its start, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Server(Process):
    """A running service that became ready `ready_after` seconds after its start."""

    port: int
    ready_after: float


def machine_cpu_seconds() -> float:
    """Return the processor time of everything on the machine since it started."""
    spent = list(map(int, Path("/proc/stat").read_text().split()[1:9]))
    idle, waiting = spent[3:5]
    return (sum(spent) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def throughput(
    port: int, request: bytes, connections: int, seconds: float, **cpu: Callable[[], float]
) -> dict[str, float]:
    """Send `request` again and again over `connections`, and return the figures by their titles.

    `cpu` are functions that return processor time in seconds: `service`, and any part of it under a name of its own.
    """
    begun, machine = time.perf_counter(), machine_cpu_seconds()
    before = {name: spent() for name, spent in cpu.items()}
    answers = closed_loop(port, [request], connections, seconds)
    used = {name: spent() - before[name] for name, spent in cpu.items()}
    machine, elapsed = machine_cpu_seconds() - machine, time.perf_counter() - begun
    good = answers.count(200)
    return {
        "200/s": answers.per_second(200),
        "p50, ms": answers.percentile(50),
        "p99, ms": answers.percentile(99),
        **{f"CPU of {name} per 200, ms": 1000 * spent / good for name, spent in used.items()},
        "other answers": len(answers.status) - good,
        "client, cores": answers.client_seconds / elapsed,
        "others, cores": max(0.0, (machine - used["service"] - answers.client_seconds) / elapsed),
    }


@contextlib.contextmanager
def service(program: Path, yunet: Path | None, *options: str) -> Iterator[Server]:
    """Run `program serve` with `options`, from when it is ready to the end of the block.

    Raises RuntimeError with its log if it does not become ready.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "serve", f"--port={port}", *options]
    if yunet is not None:
        command.append(f"--yunet-path={yunet.resolve()}")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    # In an empty folder, each program serves its own models, not those of the working directory.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as elsewhere:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=elsewhere, env=settings, stdout=log, stderr=log)
        try:
            while not _is_ready(port):
                if process.poll() is not None or time.perf_counter() - begun > _TIMEOUT:
                    log.seek(0)
                    raise RuntimeError(f"{program} did not start:\n{log.read().decode()}")
                time.sleep(0.002)
            yield Server(process.pid, port, time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(_TIMEOUT)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    return False
