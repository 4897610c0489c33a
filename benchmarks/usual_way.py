"""The service against the usual way: Haar at full size and Keras' `predict` in a plain FastAPI handler."""

from __future__ import annotations

import importlib.util
import sys
from functools import partial

from benchmarks import server
from benchmarks.bench import Bench
from benchmarks.load import multipart
from benchmarks.photographs import photograph
from benchmarks.report import Grid, Report
from benchmarks.service import PHOTOGRAPHS, SATURATING


def run(bench: Bench) -> Report:
    """Throughput of both for the same requests."""
    grid = Grid(
        "Against the usual way (Haar at full size, Keras predict, plain FastAPI)",
        ("photograph", "usual/s", "p50, ms", "service/s", "p50, ms", "times as many", "others, cores"),
    )
    report = Report("usual_way", [grid])
    if importlib.util.find_spec("tensorflow") is None:
        report.sentences.append("Left out: TensorFlow is not installed (`make env-train`).")
        return report
    photos = [photograph(*size) for size in PHOTOGRAPHS]
    requests = [multipart("/predict", photo.jpeg) for photo in photos]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.tutorial:app", "--port", "PORT"]
    # One after the other: neither takes memory or time from the other. Two connections keep the usual way
    # busy, since its handler holds up the event loop.
    with server.serving([*command, "--no-access-log"], "/openapi.json") as usual:
        theirs = [
            usual.watch(partial(bench.client.closed, usual.port, [request], 2, bench.seconds(4), 4))
            for request in requests
        ]
    with server.service(bench.yunet) as running:
        ours = [
            running.watch(partial(bench.client.closed, running.port, [request], SATURATING, bench.seconds(2)))
            for request in requests
        ]
    for photo, (usual_answers, usual_spent), (answers, spent) in zip(photos, theirs, ours, strict=True):
        usual_rate, rate = usual_answers.per_second(200), answers.per_second(200)
        grid.rows.append(
            (
                *(photo.name, usual_rate, usual_answers.percentile(50), rate, answers.percentile(50)),
                *(rate / usual_rate, max(usual_spent.others_cores, spent.others_cores)),
            )
        )
        report.target(f"{photo.name}: throughput / that of the usual way", rate / usual_rate, at_least=15)
    return report
