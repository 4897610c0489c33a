"""Whether a single photograph gets its share of the workers while others send batches."""

from __future__ import annotations

import http.client
import re
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from agegender.api.body import MAX_BATCH_IMAGES
from agegender.cores import available_cores

from benchmarks import server
from benchmarks.bench import Bench
from benchmarks.load import Client, batch, post
from benchmarks.photographs import photograph
from benchmarks.report import Cell, Grid, Report, column
from benchmarks.server import Server
from benchmarks.service import SMALLEST

BATCHES = (0, 1, 4)
"""Connections that send batches, each the next when one is answered."""

# Batches are under way so many seconds before, and after, the photographs are sent.
_MARGIN = 1.0


def run(bench: Bench) -> Report:
    """One connection sends photographs, beside none and some that send batches of the same photograph.

    Where all take turns, a photograph waits for whatever the workers are at and for one image of each batch. Where they
    do not, all images of the batches go before it.
    """
    photo = photograph(*SMALLEST)
    grid = Grid(
        f"One photograph at a time beside batches of {MAX_BATCH_IMAGES}, {photo.name}; milliseconds",
        (
            *("batches", "images/s", "p50", "p99", "in turn", "p50 / in turn", "p99 / in turn"),
            *("not in turn", "other answers", "clients, cores", "others, cores"),
        ),
    )
    with server.service(bench.yunet) as running, Client() as others, ThreadPoolExecutor() as threads:
        for batches in BATCHES:
            grid.rows.append(_beside(bench, running, others, threads, photo.jpeg, batches))
    report = Report("fairness", [grid])
    report.target("slowest p50 / that of taking turns", max(column(grid, "p50 / in turn")), at_most=1.25)
    report.target("answers but 200", sum(column(grid, "other answers")), at_most=0)
    return report


def _beside(
    bench: Bench, running: Server, others: Client, threads: ThreadPoolExecutor, jpeg: bytes, batches: int
) -> tuple[Cell, ...]:
    seconds = bench.seconds(10)
    several = batch("/predict/batch", MAX_BATCH_IMAGES * [jpeg])
    keep_sending = partial(others.closed, running.port, [several], batches, seconds + 2 * _MARGIN, 1)
    sending = threads.submit(keep_sending) if batches else None
    time.sleep(_MARGIN)
    seen, begun = _images_seen(running), time.perf_counter()
    answers, spent = running.watch(
        lambda: bench.client.closed(running.port, [post("/predict", jpeg)], 1, seconds)
    )
    not_200, clients = len(answers.status) - answers.count(200), answers.client_cores
    if sending is None:
        rate = answers.per_second(200)
        in_turn = not_in_turn = 1000 / rate
    else:
        # Those of the batches too: what all workers get done, whatever else the machine does.
        rate = (_images_seen(running) - seen) / (time.perf_counter() - begun)
        own = 1000 * available_cores() / rate
        in_turn, not_in_turn = (own + 1000 * n / rate for n in (batches + 1, MAX_BATCH_IMAGES * batches))
        sent = sending.result()
        not_200 += len(sent.status) - sent.count(200)
        clients += sent.client_cores
    p50, p99 = answers.percentile(50), answers.percentile(99)
    return (
        *(batches, rate, p50, p99, in_turn, p50 / in_turn, p99 / in_turn, not_in_turn, not_200),
        *(clients, max(0.0, spent.others_cores + answers.client_cores - clients)),
    )


def _images_seen(running: Server) -> float:
    connection = http.client.HTTPConnection("127.0.0.1", running.port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    (count,) = re.findall(r"^agegender_faces_count (\S+)$", text, re.MULTILINE)
    return float(count)
