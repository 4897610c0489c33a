"""More than the service can do: callers who send at their own times, whether or not they are answered."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.load import evenly, post
from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import CONNECTIONS, Bench, service

TIMES_CAPACITY = (0.5, 1, 2, 10)


def run(bench: Bench) -> Iterator[Table]:
    """Capacity is what the service does for connections that keep all of its workers busy."""
    photo = photograph(*EVERYDAY[0])
    request = post("/predict", photo.jpeg)
    table = bench.table(
        f"Overload, {photo.name}, sent evenly; latencies from when a request was due, ms",
        *("times capacity", "sent/s", "200/s", "503/s", "other answers"),
        *("200: p50", "200: p99", "503: p50", "503: p99", "sent late: p99"),
    )
    for program in bench.programs:
        with service(program, bench.yunet) as server:
            saturated = bench.client.closed(server.port, [request], CONNECTIONS, bench.seconds(3))
            capacity = saturated.per_second(200)
            for times in TIMES_CAPACITY:
                due = evenly(times * capacity, bench.seconds(5))
                answers = bench.client.open(server.port, [request], due)
                bench.add_row(
                    *(table, program, times, times * capacity, answers.per_second(200)),
                    *(answers.per_second(503), str(answers.others)),
                    *(answers.percentile(percent, status) for status in (200, 503) for percent in (50, 99)),
                    answers.lateness(99),
                )
    yield table
