"""How time grows with pixels, with faces and with callers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from agegender.cores import available_cores
from matplotlib.figure import Figure

from benchmarks import parts, server
from benchmarks.bench import DEFAULT_MODEL, Bench
from benchmarks.load import post
from benchmarks.photographs import Photograph, photograph
from benchmarks.report import BLUE, ORANGE, Grid, Report, column, figure
from benchmarks.server import Server
from benchmarks.service import SMALLEST

# 0.3 to 40 million pixels.
SIZES = ((640, 480), (1280, 960), (2000, 1500), (2828, 2121), (4000, 3000), (5656, 4242), (7300, 5475))
FACES = (1, 2, 5, 10, 20, 30, 40, 50)
CONCURRENCIES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

_STEPS = ("decode", "detect", "align", "run", "encode")


def run(bench: Bench) -> Report:
    """Three tables and a plot of each."""
    with server.service(bench.yunet) as running:
        sizes = [photograph(*size, 1) for size in SIZES]
        pixels = _one_caller(bench, running, "megapixels", sizes, [photo.megapixels for photo in sizes])
        groups = [photograph(1366, 768, faces) for faces in FACES]
        faces = _one_caller(bench, running, "faces", groups, FACES)
        callers = _many_callers(bench, running)
    plots = {"megapixels": _stack(pixels), "faces": _stack(faces), "concurrency": _against_callers(callers)}
    return Report(
        "growth",
        [pixels, faces, callers],
        figures={f"growth_{name}": plot for name, plot in plots.items()},
    )


def _one_caller(
    bench: Bench, running: Server, what: str, photos: Sequence[Photograph], values: Sequence[float]
) -> Grid:
    """The parts of each photograph and the median of one connection's latencies."""
    grid = Grid(
        f"Time by {what}, one caller, milliseconds", (what, *_STEPS, "sum", "service, p50", "service / sum")
    )
    for photo, value in zip(photos, values, strict=True):
        cost = parts.measure(bench, photo)
        request = post("/predict?max_faces=100", photo.jpeg)
        p50 = bench.client.closed(running.port, [request], 1, bench.seconds(1), at_least=5).percentile(50)
        steps = (cost.decode, cost.detect, cost.align, cost.run[DEFAULT_MODEL], cost.encode)
        grid.rows.append((value, *steps, cost.sum(), p50, p50 / cost.sum()))
    return grid


def _many_callers(bench: Bench, running: Server) -> Grid:
    photo = photograph(*SMALLEST)
    request = post("/predict", photo.jpeg)
    bound = 1000 * available_cores() / parts.measure(bench, photo).sum()
    grid = Grid(
        f"Load by connections, {photo.name}",
        (
            "connections",
            "bound/s",
            "200/s",
            "of bound",
            "503/s",
            "p50, ms",
            "p99, ms",
            "client, cores",
            "others, cores",
        ),
    )
    for concurrency in CONCURRENCIES:
        load = partial(bench.client.closed, running.port, [request], concurrency, bench.seconds(2))
        answers, spent = running.watch(load)
        rate = answers.per_second(200)
        grid.rows.append(
            (
                *(concurrency, bound, rate, rate / bound, answers.per_second(503)),
                *(answers.percentile(50), answers.percentile(99), answers.client_cores, spent.others_cores),
            )
        )
    return grid


def _stack(grid: Grid) -> Figure:
    """The parts on top of one another, and what a caller waits."""
    plot, (axis,) = figure(1)
    what = grid.columns[0]
    axis.stackplot(column(grid, what), [column(grid, step) for step in _STEPS], labels=_STEPS, alpha=0.6)
    axis.plot(column(grid, what), column(grid, "service, p50"), "k.-", label="service, p50")
    axis.set(xlabel=what, ylabel="milliseconds", xlim=(0, None), ylim=(0, None))
    axis.legend(frameon=False, loc="upper left")
    return plot


def _against_callers(grid: Grid) -> Figure:
    plot, (rates, latencies) = figure(2)
    connections = column(grid, "connections")
    rates.plot(connections, column(grid, "bound/s"), "k:", label="bound")
    rates.plot(connections, column(grid, "200/s"), ".-", color=BLUE, label="200")
    rates.plot(connections, column(grid, "503/s"), ".-", color=ORANGE, label="503")
    rates.set(xlabel="connections", ylabel="answers per second", xscale="log", yscale="log")
    rates.legend(frameon=False)
    for heading, colour in (("p50, ms", BLUE), ("p99, ms", ORANGE)):
        latencies.plot(connections, column(grid, heading), ".-", color=colour, label=heading[:3])
    latencies.set(xlabel="connections", ylabel="latency of 200s, milliseconds", xscale="log", ylim=(0, None))
    latencies.legend(frameon=False)
    return plot
