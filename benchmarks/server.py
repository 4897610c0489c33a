"""The service as a process of its own, its memory and its processor time (read from /proc: Linux)."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agegender.settings import ENV_PREFIX
from rich.table import Table

from benchmarks.load import Client

_PATIENCE = 120

CONNECTIONS = 8
"""Connections that keep the workers of a small machine busy, and for which there is room."""


@dataclass(frozen=True)
class Bench:
    """What all benchmarks of a run share: the client, YuNet's file, the programs to compare, how long to measure."""

    client: Client
    yunet: Path | None
    programs: list[Path]
    quick: bool

    def seconds(self, full: float) -> float:
        """How long to measure what takes `full` seconds in a run that is not quick."""
        return full / 5 if self.quick else full

    def table(self, title: str, *columns: str) -> Table:
        """An empty table; its first column names the program where there are several."""
        table = Table(title=title, title_justify="left")
        for column in ("program", *columns) if len(self.programs) > 1 else columns:
            table.add_column(column, justify="left" if column in ("program", "photograph") else "right")
        return table

    def add_row(self, table: Table, program: Path, *cells: str | float) -> None:
        """Add a row for `program`, numbers with three digits."""
        texts = [cell if isinstance(cell, str) else digits(cell) for cell in cells]
        table.add_row(*([str(program), *texts] if len(self.programs) > 1 else texts))


def digits(number: float) -> str:
    """The number with three digits or more; empty for NaN, where there was nothing to measure."""
    if number != number:
        return ""
    return f"{number:,.{0 if abs(number) >= 100 else 1 if abs(number) >= 10 else 2}f}"


class Server:
    """A running service that is ready; `ready_after` is how many seconds that took."""

    def __init__(self, pid: int, port: int, ready_after: float) -> None:
        self.pid = pid
        self.port = port
        self.ready_after = ready_after

    def megabytes(self) -> float:
        """Resident memory, millions of bytes."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def peak_megabytes(self) -> float:
        """The most resident memory so far, millions of bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

    def cpu_seconds(self) -> float:
        """Processor time since the start, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds() -> float:
    """Processor time that all of the machine has spent on anything."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def service(program: Path, yunet: Path | None, *options: str) -> Iterator[Server]:
    """`program serve` with `options`, from when it is ready to the end of the block.

    Raises RuntimeError, with what it had written, where it ends before.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(program), "serve", f"--port={port}", *options]
    if yunet is not None:
        command.append(f"--yunet-path={yunet.resolve()}")
    settings = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    # Neither the log nor the models of the working directory: each program serves what came with it.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as elsewhere:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=elsewhere, env=settings, stdout=log, stderr=log)
        try:
            while not is_ready(port):
                if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                    log.seek(0)
                    raise RuntimeError(f"{program} did not start:\n{log.read().decode()}")
                time.sleep(0.002)
            yield Server(process.pid, port, time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(_PATIENCE)


def is_ready(port: int) -> bool:
    """Whether the service on that port says that it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
