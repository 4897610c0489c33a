"""Whether memory stays flat over many requests, good and bad."""

from __future__ import annotations

import statistics
from collections import Counter

import cv2
import numpy as np
from agegender.vision.decode import decode

from benchmarks import server
from benchmarks.bench import Bench
from benchmarks.load import multipart, post
from benchmarks.photographs import photograph
from benchmarks.report import BLUE, GREY, Grid, Report, figure
from benchmarks.service import SATURATING

REQUESTS = 50_000
FIRST = 5_000
"""After so many the service has met everything once, and shall not grow any more."""

_STEP = 500
# Samples whose median stands for the memory at a moment.
_SAMPLES = 10


def run(bench: Bench) -> Report:
    """Resident memory every few hundred requests, while none is on its way."""
    shorter = 10 if bench.quick else 1
    total, first, step = REQUESTS // shorter, FIRST // shorter, _STEP // shorter
    requests = _mixed()
    sent: list[int] = []
    memory: list[float] = []
    statuses: Counter[int] = Counter()
    with server.service(bench.yunet) as running:
        while not sent or sent[-1] < total:
            answers = bench.client.closed(running.port, requests, SATURATING, 0, at_least=step)
            statuses.update(answers.status.tolist())
            sent.append(statuses.total())
            memory.append(running.megabytes())
    settled = [megabytes for count, megabytes in zip(sent, memory, strict=True) if count >= first]
    before, after = statistics.median(settled[:_SAMPLES]), statistics.median(settled[-_SAMPLES:])
    report = Report("soak", [Grid("Memory over mixed requests", ("requests", "resident, MB"))])
    report.grids[0].rows += [
        (sent[0], memory[0]),
        (next(count for count in sent if count >= first), before),
        (sent[-1], after),
    ]
    report.sentences.append(
        f"{sent[-1]:,} requests at concurrency {SATURATING}; answers by status: "
        + ", ".join(f"{status}: {count:,}" for status, count in sorted(statuses.items()))
    )
    report.target(f"growth after the first {first:,} requests, %", 100 * (after / before - 1), at_most=5)
    report.figures["soak"], (axis,) = figure(1)
    axis.plot(sent, memory, color=BLUE)
    axis.axvline(first, color=GREY, linestyle=":")
    axis.set(xlabel="requests", ylabel="resident memory, MB", ylim=(0, None))
    return report


def _mixed() -> list[bytes]:
    """What all kinds of callers send: photographs of all kinds three times in four, and mistakes."""
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
        post("/predict", bytes(11_000_000)),
        post("/predict", small.jpeg, "text/plain"),
        post("/predict", small.jpeg, "multipart/form-data; boundary=edge"),
        multipart("/predict?model=unknown", small.jpeg),
        post("/predict?unknown=1", small.jpeg),
        post("/unknown", small.jpeg),
    ]
    return 4 * everyday + rare + mistakes
