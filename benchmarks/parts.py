"""The time of each step of a prediction, as the service reports it: one request at a time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import httpx
from rich.table import Table

from benchmarks.photographs import EVERYDAY, photograph
from benchmarks.server import Bench, service

_STEPS = ("decode", "detect", "predict", "total")


def run(bench: Bench) -> Iterator[Table]:
    """Measure each photograph with each model and detector."""
    table = bench.table(
        "Parts of a request, medians in milliseconds", "photograph", "model", "detector", "found", *_STEPS
    )
    detectors = ("haar",) if bench.yunet is None else ("yunet", "haar")
    for program in bench.programs:
        with (
            service(program, bench.yunet) as server,
            httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client,
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
                        timings = [answer["timings_ms"] for answer in answers[1:]]  # the first is slow
                        medians = [statistics.median(each[step] for each in timings) for step in _STEPS]
                        bench.add_row(table, program, photo.name, model, detector, found, *medians)
    yield table
