"""What each step from file to answer costs, as the service itself says in its answers: one request at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
from rich.table import Table

from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import Bench, service

_JPEG = {"Content-Type": "image/jpeg"}
_STEPS = ("decode", "detect", "predict", "total")


def run(bench: Bench) -> Iterator[Table]:
    """Every photograph, detector and model."""
    table = bench.table(
        "Parts of a request, medians in milliseconds", *("photograph", "model", "detector", "found", *_STEPS)
    )
    detectors = ("haar",) if bench.yunet is None else ("yunet", "haar")
    for program in bench.programs:
        with (
            service(program, bench.yunet) as server,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=_JPEG, timeout=60) as client,
        ):
            models = [model["id"] for model in client.get("/models").json()["models"]]
            for size in (*EVERYDAY, (640, 480, 4), (640, 480, 20)):
                photo = photograph(*size)
                for model in models:
                    for detector in detectors:
                        query = {"model": model, "detector": detector, "max_faces": 100}
                        answers: list[Any] = []
                        begun = time.perf_counter()
                        while len(answers) < 6 or time.perf_counter() - begun < bench.seconds(1):
                            answer = client.post("/predict", params=query, content=photo.jpeg)
                            answers.append(answer.raise_for_status().json())
                        found = str(len(answers[0]["faces"]))
                        medians = [
                            # The first request is slow.
                            statistics.median(answer["timings_ms"][step] for answer in answers[1:])
                            for step in _STEPS
                        ]
                        bench.add_row(table, program, photo.name, model, detector, found, *medians)
    yield table
