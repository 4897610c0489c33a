"""More than the service can do: callers who send at their own times, whether or not they are answered."""

from __future__ import annotations

from functools import partial

from agegender.cores import available_cores

from benchmarks import parts, server
from benchmarks.bench import Bench
from benchmarks.load import evenly, post
from benchmarks.photographs import photograph
from benchmarks.report import BLUE, ORANGE, Grid, Report, column, figure
from benchmarks.service import SATURATING, SMALLEST

TIMES_CAPACITY = (0.5, 1, 2, 5, 10)


def run(bench: Bench) -> Report:
    """Capacity is what the service does for connections that keep all of its workers busy."""
    photo = photograph(*SMALLEST)
    request = post("/predict", photo.jpeg)
    bound = 1000 * available_cores() / parts.measure(bench, photo).sum()
    grid = Grid(
        f"Overload, {photo.name}, sent evenly; milliseconds, latencies from when a request was due",
        (
            *("times capacity", "sent/s", "200/s", "of bound", "503/s", "other answers"),
            *("200: p50", "200: p99", "503: p50", "503: p99", "503: CPU"),
            *("late: p99", "client, cores", "others, cores"),
        ),
    )
    with server.service(bench.yunet) as running:
        saturated, spent = running.watch(
            partial(bench.client.closed, running.port, [request], SATURATING, bench.seconds(3))
        )
        capacity, cost = saturated.per_second(200), spent.cpu_seconds / saturated.count(200)
        for times in TIMES_CAPACITY:
            due = evenly(times * capacity, bench.seconds(5))
            answers, spent = running.watch(partial(bench.client.open, running.port, [request], due))
            rate, refused = answers.per_second(200), answers.count(503)
            refusing = 1000 * (spent.cpu_seconds - cost * answers.count(200))
            grid.rows.append(
                (
                    *(times, times * capacity, rate, rate / bound, answers.per_second(503), answers.others),
                    *(answers.percentile(percent, status) for status in (200, 503) for percent in (50, 99)),
                    refusing / refused if refused >= 100 else None,  # of few it would be noise
                    *(answers.lateness(99), answers.client_cores, spent.others_cores),
                )
            )
    report = Report("overload", [grid])
    rates = column(grid, "200/s")
    report.target("200s at 10 times capacity / their maximum", rates[-1] / max(rates), at_least=0.9)
    slowest = [ms for ms in column(grid, "503: p99") if ms == ms]  # NaN where there were none
    report.target("slowest p99 of 503s, milliseconds", max(slowest), at_most=50)
    report.target("answers but 200 and 503", sum(column(grid, "other answers")), at_most=0)
    report.figures["overload"], (axis,) = figure(1)
    axis.plot(TIMES_CAPACITY, rates, ".-", color=BLUE, label="200")
    axis.plot(TIMES_CAPACITY, column(grid, "503/s"), ".-", color=ORANGE, label="503")
    axis.axhline(bound, color="black", linestyle=":", label="bound")
    axis.set(xlabel="load, times capacity", ylabel="answers per second", yscale="log")
    axis.legend(frameon=False)
    return report
