"""How soon the service is ready, and how much memory it takes then and after requests."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator

from rich.table import Table

from benchmarks.load import post
from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import CONNECTIONS, Bench, is_ready, service

_STARTS = 5
_IMAGE = "agegender"


def run(bench: Bench) -> Iterator[Table]:
    """Medians of several starts; then requests to the last, the largest photographs among them."""
    table = bench.table(
        "Start and memory of one process",
        *("start to ready, s", "ready: CPU, s", "ready, MB", "requests", "after them, MB", "peak, MB"),
    )
    requests = [post("/predict", photograph(*size).jpeg) for size in EVERYDAY]
    for program in bench.programs:
        starts = []
        for _ in range(_STARTS - 1):
            with service(program, bench.yunet) as server:
                starts.append(server.ready_after)
        with service(program, bench.yunet) as server:
            starts.append(server.ready_after)
            cpu, ready = server.cpu_seconds(), server.megabytes()
            answers = bench.client.closed(
                server.port, requests, CONNECTIONS, 0, at_least=200 if bench.quick else 1000
            )
            after, peak = server.megabytes(), server.peak_megabytes()
        bench.add_row(
            table, program, statistics.median(starts), cpu, ready, str(answers.count(200)), after, peak
        )
    yield table
    if shutil.which("docker") and _docker("image", "inspect", _IMAGE, "--format", "{{.Id}}"):
        table = Table("start to ready, s", title=f"`docker run {_IMAGE}`", title_justify="left")
        table.add_row(f"{statistics.median(_container() for _ in range(_STARTS)):.2f}")
        yield table


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)  # noqa: S607
    return done.stdout.strip()


def _container() -> float:
    """Seconds from `docker run` to ready."""
    begun = time.perf_counter()
    container = _docker("run", "--detach", "--publish=127.0.0.1::8000", _IMAGE)
    try:
        port = int(_docker("port", container, "8000/tcp").rpartition(":")[2])
        while not is_ready(port):
            time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        _docker("rm", "--force", container)
