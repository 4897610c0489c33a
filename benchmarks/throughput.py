"""Answers per second over keep-alive connections, each of which sends again when it is answered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from rich.table import Table

from benchmarks.load import post
from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import CONNECTIONS, Bench, Rounds, service, throughput

_ROUNDS = 3


def run(bench: Bench) -> Iterator[Table]:
    """Take medians of rounds in which the programs take turns: a change of the machine's speed affects all."""
    rounds: Rounds = defaultdict(list)
    for size in EVERYDAY:
        photo = photograph(*size)
        request = post("/predict", photo.jpeg)
        for connections in (1, CONNECTIONS):
            for _ in range(_ROUNDS):
                for program in bench.programs:
                    with service(program, bench.yunet) as server:
                        found = throughput(
                            server.port, request, connections, bench.seconds(4), service=server.cpu_seconds
                        )
                    rounds[program, photo.name, connections].append(found)
    yield bench.medians(f"Throughput, medians of {_ROUNDS} rounds", "photograph", rounds)
