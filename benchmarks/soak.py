"""The memory of the service over many requests, good and bad: it should stay flat."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

import cv2
import numpy as np
from agegender.vision.decode import decode
from rich.table import Table

from benchmarks.load import closed_loop, multipart, post
from benchmarks.photographs import photograph
from benchmarks.server import CONNECTIONS, Bench, service

_REQUESTS = 50_000
# After this many requests the service has seen every kind, and should not grow any more.
_FIRST = 5_000
_STEP = 500
# Samples whose median is the memory at a time.
_SAMPLES = 10


def run(bench: Bench) -> Iterator[Table]:
    """Sample the resident memory every few hundred requests, while none is in progress."""
    shorter = 10 if bench.quick else 1
    total, first, step = _REQUESTS // shorter, _FIRST // shorter, _STEP // shorter
    requests = _mixed()
    table = bench.table(
        "Memory over mixed requests, resident, MB",
        *(f"after {first:,}", f"after {total:,}", "grown, %", "answers"),
    )
    for program in bench.programs:
        memory: list[float] = []
        statuses: Counter[int] = Counter()
        with service(program, bench.yunet) as server:
            while statuses.total() < total:
                answers = closed_loop(server.port, requests, CONNECTIONS, 0, step)
                statuses.update(answers.status.tolist())
                if statuses.total() >= first:
                    memory.append(server.megabytes())
        before, after = statistics.median(memory[:_SAMPLES]), statistics.median(memory[-_SAMPLES:])
        counts = ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
        bench.add_row(table, program, before, after, 100 * (after / before - 1), counts)
    yield table


def _mixed() -> list[bytes]:
    """Return requests: three in four are photographs of all kinds, the others are mistakes."""
    small, group, wide = photograph(640, 480, 1), photograph(640, 480, 20), photograph(1366, 768, 4)
    pixels = decode(small.jpeg)
    files = [cv2.imencode(ending, pixels)[1].tobytes() for ending in (".png", ".webp", ".bmp")]
    huge = cv2.imencode(".png", np.zeros((7000, 7000), np.uint8))[1].tobytes()  # more pixels than are allowed
    everyday = [
        post("/predict", small.jpeg),
        multipart("/predict", small.jpeg),
        post("/predict?model=age_gender_A", wide.jpeg),
        post("/predict?detector=none", small.jpeg),
        *(post("/predict", file, "application/octet-stream") for file in files),
    ]
    rare = [
        multipart("/predict?max_faces=100", group.jpeg),
        post("/predict?detector=haar", small.jpeg),
        post("/predict", photograph(4000, 3000, 4).jpeg),
    ]
    mistakes = [
        post("/predict", b"this is no image"),
        post("/predict", b""),
        post("/predict", small.jpeg[: len(small.jpeg) // 2]),
        post("/predict", huge),
        post("/predict", bytes(22_000_000)),
        post("/predict", small.jpeg, "text/plain"),
        post("/predict", small.jpeg, "multipart/form-data; boundary=edge"),
        multipart("/predict?model=unknown", small.jpeg),
        post("/predict?unknown=1", small.jpeg),
        post("/unknown", small.jpeg),
    ]
    return 4 * everyday + rare + mistakes
