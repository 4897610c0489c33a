"""More requests than the service can answer, sent at times of their own, whether or not others are answered."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.load import closed_loop, open_loop, post
from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import CONNECTIONS, Bench, service

_TIMES_CAPACITY = (0.5, 1, 2, 10)


def run(bench: Bench) -> Iterator[Table]:
    """Measure the capacity over connections that keep all workers busy, then send multiples of it."""
    photo = photograph(*EVERYDAY[0])
    request = post("/predict", photo.jpeg)
    table = bench.table(
        f"Overload, {photo.name}, sent evenly; latencies from when a request was due, ms",
        *("times capacity", "sent/s", "200/s", "503/s", "other answers"),
        *("200: p50", "200: p99", "503: p50", "503: p99", "sent late: p99"),
    )
    for program in bench.programs:
        with service(program, bench.yunet) as server:
            capacity = closed_loop(server.port, [request], CONNECTIONS, bench.seconds(3)).per_second(200)
            for times in _TIMES_CAPACITY:
                answers = open_loop(server.port, [request], times * capacity, bench.seconds(5))
                others = len(answers.status) - answers.count(200) - answers.count(503)
                bench.add_row(
                    *(table, program, times, times * capacity),
                    *(answers.per_second(200), answers.per_second(503), str(others)),
                    *(answers.percentile(percent, status) for status in (200, 503) for percent in (50, 99)),
                    answers.lateness(99),
                )
    yield table
