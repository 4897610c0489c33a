"""The time from start to ready, and the memory of the service, when it is ready and after requests."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.table import Table

from benchmarks.load import closed_loop, post
from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import CONNECTIONS, Bench, service

_STARTS = 5


def run(bench: Bench) -> Iterator[Table]:
    """Take the median of several starts, then send requests to the last, the largest photographs among them."""
    table = bench.table(
        "Start and memory of one process",
        *("start to ready, s", "ready: CPU, s", "ready, MB", "requests", "after them, MB", "peak, MB"),
    )
    requests = [post("/predict", photograph(*size).jpeg) for size in EVERYDAY]
    at_least = 200 if bench.quick else 1000
    for program in bench.programs:
        starts = []
        for _ in range(_STARTS - 1):
            with service(program, bench.yunet) as server:
                starts.append(server.ready_after)
        with service(program, bench.yunet) as server:
            starts.append(server.ready_after)
            ready = statistics.median(starts), server.cpu_seconds(), server.megabytes()
            answers = closed_loop(server.port, requests, CONNECTIONS, 0, at_least)
            after = server.megabytes(), server.peak_megabytes()
        bench.add_row(table, program, *ready, str(answers.count(200)), *after)
    yield table
