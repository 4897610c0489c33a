"""A server as a process of its own, its memory and its processor time (read from /proc: Linux)."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agegender.settings import ENV_PREFIX

from benchmarks.load import Answers
from benchmarks.photographs import ROOT

_PATIENCE = 120


class Server:
    """A running server that has answered a first request; `ready_after` is how many seconds that took."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, ready_after: float) -> None:
        self.process = process
        self.port = port
        self.ready_after = ready_after

    def megabytes(self) -> float:
        """Resident memory."""
        return resident_megabytes(self.process.pid)

    def cpu_seconds(self) -> float:
        """Processor time since the start, of all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def watch(self, load: Callable[[], Answers]) -> tuple[Answers, Spent]:
        """The answers of a `load`, and what was spent on them."""
        begun, machine_before, before = time.perf_counter(), machine_cpu_seconds(), self.cpu_seconds()
        answers = load()
        cpu, machine = self.cpu_seconds() - before, machine_cpu_seconds() - machine_before
        others = (machine - cpu - answers.client_seconds) / (time.perf_counter() - begun)
        return answers, Spent(cpu, max(0.0, others))


@dataclass(frozen=True)
class Spent:
    """The server's seconds of processor time, and how many cores were busy with neither server nor client.

    Where these are not about 0, the figures are those of a busy machine.
    """

    cpu_seconds: float
    others_cores: float


def machine_cpu_seconds() -> float:
    """Processor time that all of the machine has spent on anything."""
    user, nice, system, _, _, *interrupts = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """Resident memory of a process, millions of bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextlib.contextmanager
def serving(command: list[str], ready_path: str) -> Iterator[Server]:
    """`command` with a free port for its PORT, from when `ready_path` gives 200 to the end of the block.

    Raises RuntimeError, with what it had written, where it ends before.
    """
    port = _free_port()
    settings = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    with tempfile.TemporaryFile() as log:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [str(port) if word == "PORT" else word for word in command],
            cwd=ROOT,
            env={**settings, "TF_CPP_MIN_LOG_LEVEL": "2"},
            stdout=log,
            stderr=log,
        )
        try:
            while not _answers(port, ready_path):
                if process.poll() is not None or time.perf_counter() - begun > _PATIENCE:
                    log.seek(0)
                    raise RuntimeError(f"{command[0]} did not start:\n{log.read().decode()}")
                time.sleep(0.002)
            yield Server(process, port, time.perf_counter() - begun)
        finally:
            process.terminate()
            process.wait(_PATIENCE)


@contextlib.contextmanager
def service(yunet: Path | None) -> Iterator[Server]:
    """The service with its default settings."""
    command = [str(Path(sys.executable).with_name("agegender")), "serve", "--port", "PORT"]
    if yunet is not None:
        command += ["--yunet-path", str(yunet.resolve())]
    with serving(command, "/health/ready") as server:
        yield server


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
