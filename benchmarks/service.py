"""The service against its bound: cores / (sum of the parts), for each photograph."""

from __future__ import annotations

import multiprocessing.dummy
import time
from pathlib import Path
from typing import Any

import numpy as np
from agegender.cores import available_cores
from agegender.inference.pipeline import Pipeline
from agegender.inference.variants import load_catalogue
from agegender.inference.yunet import YuNet

from benchmarks import parts, server
from benchmarks.bench import DEFAULT_MODEL, Bench
from benchmarks.load import at_random, evenly, perfect_queue, post
from benchmarks.photographs import ROOT, Photograph, photograph
from benchmarks.report import Grid, Report
from benchmarks.server import Server

# Every size and every number of faces; all of them at the smallest size, where HTTP weighs most.
PHOTOGRAPHS = ((640, 480, 1), (640, 480, 4), (640, 480, 20), (1366, 768, 4), (4000, 3000, 4))
SMALLEST = PHOTOGRAPHS[0]
CONCURRENCIES = (1, 2, 8, 64)
SATURATING = 8
"""Connections that keep all workers busy, and for which there is room."""


def run(bench: Bench) -> Report:
    """Throughput by concurrency, and latency at half the load that saturates."""
    bounds = Grid(
        "What is possible",
        (
            *("photograph", "parts, ms", "bound/s"),
            *("processes without HTTP/s", "of bound", "threads without HTTP/s", "of bound"),
        ),
    )
    saturated = Grid(
        "The service, connections that send again when they are answered",
        (
            *("photograph", "connections", "200/s", "of bound", "503/s", "p50, ms", "p99, ms"),
            *("CPU a 200, ms", "client, cores", "others, cores"),
        ),
    )
    half = Grid(
        "Half the load that saturates",
        (
            *("photograph", "sent", "per second", "not 200", "p50, ms", "p99, ms", "p99 / p50"),
            *("of a perfect queue", "client late: p99, ms"),
        ),
    )
    report = Report("service", [bounds, saturated, half])
    refused = 0
    with server.service(bench.yunet) as running:
        for size in PHOTOGRAPHS:
            photo = photograph(*size)
            cost = parts.measure(bench, photo).sum()
            bound = 1000 * available_cores() / cost
            processes = _without_http(bench, photo, multiprocessing.get_context("spawn"))
            threads = _without_http(bench, photo, multiprocessing.dummy)
            bounds.rows.append(
                (photo.name, cost, bound, processes, processes / bound, threads, threads / bound)
            )
            for concurrency in CONCURRENCIES:
                rate, not_200 = _saturate(bench, running, photo, concurrency, bound, saturated)
                if concurrency <= SATURATING:
                    refused += not_200
                if concurrency == SATURATING and size[:2] == SMALLEST[:2]:
                    what = f"{photo.name}: throughput at concurrency {SATURATING} / bound"
                    report.target(what, rate / bound, at_least=0.85)
                if concurrency == SATURATING and size == SMALLEST:
                    tail, not_200 = _half(bench, running, photo, rate / 2, cost, half)
                    report.target("p99 / p50 at half the load, sent evenly", tail, at_most=2.5)
                    refused += not_200
    report.target(f"answers but 200 at half the load and up to concurrency {SATURATING}", refused, at_most=0)
    return report


def _saturate(
    bench: Bench, running: Server, photo: Photograph, concurrency: int, bound: float, grid: Grid
) -> tuple[float, int]:
    """Throughput of 200s, and how many answers were something else."""
    request = post("/predict", photo.jpeg)
    answers, spent = running.watch(
        lambda: bench.client.closed(running.port, [request], concurrency, bench.seconds(2))
    )
    rate = answers.per_second(200)
    grid.rows.append(
        (
            *(photo.name, concurrency, rate, rate / bound, answers.per_second(503)),
            *(answers.percentile(50), answers.percentile(99)),
            *(1000 * spent.cpu_seconds / answers.count(200), answers.client_cores, spent.others_cores),
        )
    )
    return rate, len(answers.status) - answers.count(200)


def _half(
    bench: Bench, running: Server, photo: Photograph, rate: float, cost: float, grid: Grid
) -> tuple[float, int]:
    """p99 / p50 of requests that are sent evenly, and how many of these were not answered by 200."""
    found = []
    for name, schedule in (("evenly", evenly), ("at random", at_random)):
        due = schedule(rate, bench.seconds(10))
        answers = bench.client.open(running.port, [post("/predict", photo.jpeg)], due)
        p50, p99 = answers.percentile(50), answers.percentile(99)
        perfect = perfect_queue(due, cost / 1000, available_cores())
        best = float(np.percentile(perfect, 99) / np.percentile(perfect, 50))
        not_200 = len(answers.status) - answers.count(200)
        grid.rows.append((photo.name, name, rate, not_200, p50, p99, p99 / p50, best, answers.lateness(99)))
        found.append((p99 / p50, not_200))
    return found[0]


def _without_http(bench: Bench, photo: Photograph, kind: Any) -> float:
    """Predictions per second by as many workers as there are cores, each with a predictor of its own.

    They are processes, or threads where `kind` is `multiprocessing.dummy`.
    """
    ready, rates = kind.Barrier(available_cores()), kind.Queue()
    args = (bench.yunet, photo.jpeg, ready, bench.seconds(2), rates)
    workers = [kind.Process(target=_predict, args=args) for _ in range(available_cores())]
    for each in workers:
        each.start()
    rate: float = sum(rates.get() for _ in workers)
    for each in workers:
        each.join()
    return rate


def _predict(yunet: Path | None, jpeg: bytes, ready: Any, seconds: float, rates: Any) -> None:
    """Predict for `seconds`, once all are `ready`, and put into `rates` how often a second."""
    predictor = Pipeline(load_catalogue(ROOT / "models"), yunet=None if yunet is None else YuNet(yunet))
    predictor.predict(jpeg, model=DEFAULT_MODEL)
    ready.wait()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        predictor.predict(jpeg, model=DEFAULT_MODEL)
        count += 1
    rates.put(count / (time.perf_counter() - begun))
