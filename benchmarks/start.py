"""How soon the service is ready, and how much memory it takes then and after many requests."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks import server
from benchmarks.bench import Bench
from benchmarks.load import post
from benchmarks.photographs import photograph
from benchmarks.report import Grid, Report
from benchmarks.service import SATURATING

_STARTS = 5
EVERYDAY = ((640, 480, 1), (640, 480, 4), (1366, 768, 4))
RARE = ((1366, 768, 20), (4000, 3000, 4))
# The least that any such service does: a process that loads its libraries, says so, and waits.
_LIBRARIES = "import cv2, fastapi, numpy, onnxruntime, uvicorn, uvloop; print(flush=True); input()"


def run(bench: Bench) -> Report:
    """Medians of several starts; then `bench.requests` requests to the last."""
    floors = [_libraries() for _ in range(_STARTS)]
    starts: list[float] = []
    for _ in range(_STARTS - 1):
        with server.service(bench.yunet) as running:
            starts.append(running.ready_after)
    with server.service(bench.yunet) as running:
        starts.append(running.ready_after)
        ready = running.megabytes()
        requests = [post("/predict", photograph(*size).jpeg) for size in 6 * EVERYDAY + RARE]
        answers = bench.client.closed(running.port, requests, SATURATING, 0, at_least=bench.requests)
        after = running.megabytes()
    sent = len(answers.status)
    floor, floor_memory = (statistics.median(column) for column in zip(*floors, strict=True))
    start = statistics.median(starts)
    grid = Grid("Start and memory of one process", ("", "service", "libraries alone", "ratio"))
    grid.rows += [
        ("start to ready, seconds", start, floor, start / floor),
        ("resident when ready, MB", ready, floor_memory, ready / floor_memory),
        (f"resident after {sent:,} requests, MB", after, floor_memory, after / floor_memory),
    ]
    report = Report("start", [grid])
    report.sentences.append(
        f"{sent:,} requests at concurrency {SATURATING}, {answers.count(200):,} answered by 200: "
        f"one in {6 * len(EVERYDAY) + len(RARE)} is of 12 megapixels, one has 20 faces, the others are smaller."
    )
    report.target("seconds from start to ready", start, at_most=1.5)
    report.target("MB resident when ready", ready, at_most=220)
    report.target(f"MB after {sent:,} requests / MB when ready", after / ready, at_most=1.3)
    return report


def _libraries() -> tuple[float, float]:
    """Seconds until a process has loaded what the service is made of, and its resident memory in MB."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-c", _LIBRARIES], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        if process.stdout is None or not process.stdout.readline():
            raise RuntimeError("the libraries cannot be loaded")
        seconds, megabytes = time.perf_counter() - begun, server.resident_megabytes(process.pid)
        process.communicate(b"\n")
    return seconds, megabytes
