"""Answers per second over keep-alive connections, each of which sends again when it is answered."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from benchmarks.load import post
from benchmarks.photographs import EVERYDAY, Photograph, photograph
from benchmarks.server import CONNECTIONS, Bench, machine_cpu_seconds, service

_ROUNDS = 3


def run(bench: Bench) -> Iterator[Table]:
    """Medians of rounds in which the programs take turns, so that a change of the machine's pace hits all."""
    table = bench.table(
        f"Throughput, medians of {_ROUNDS} rounds",
        *("photograph", "connections", "200/s", "p50, ms", "p99, ms", "CPU a 200, ms"),
        *("other answers", "client, cores", "others, cores"),
    )
    for size in EVERYDAY:
        photo = photograph(*size)
        for connections in (1, CONNECTIONS):
            rounds: dict[Path, list[tuple[float, ...]]] = {program: [] for program in bench.programs}
            for _ in range(_ROUNDS):
                for program, found in rounds.items():
                    found.append(_measure(bench, program, photo, connections))
            for program, found in rounds.items():
                medians = [statistics.median(figures) for figures in zip(*found, strict=True)]
                bench.add_row(table, program, photo.name, str(connections), *medians)
    yield table


def _measure(bench: Bench, program: Path, photo: Photograph, connections: int) -> tuple[float, ...]:
    """The figures of one round, in the order of the table."""
    with service(program, bench.yunet) as server:
        begun, cpu, machine = time.perf_counter(), server.cpu_seconds(), machine_cpu_seconds()
        request = post("/predict", photo.jpeg)
        answers = bench.client.closed(server.port, [request], connections, bench.seconds(4))
        seconds = time.perf_counter() - begun
        cpu, machine = server.cpu_seconds() - cpu, machine_cpu_seconds() - machine
    good, client = answers.count(200), answers.client_seconds
    latency = (answers.percentile(50), answers.percentile(99))
    others = max(0.0, (machine - cpu - client) / seconds)
    cost = (1000 * cpu / good, len(answers.status) - good, client / seconds, others)
    return (answers.per_second(200), *latency, *cost)
