"""A load generator in a process of its own: HTTP/1.1 over keep-alive connections, as cheap as Python can.

It shares the cores with what it measures, so it says how much of them it took.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
import numpy as np
import uvloop
from numpy.typing import NDArray

LOST = 0
"""Status of a request whose connection ended without an answer."""

# Before it counts, a run lets queues and caches fill.
_WARM_UP = 0.5
# The event loop's timers count whole milliseconds and may ring a little early; less than one would spin.
_TICK = 0.001
# Seconds in which a request must have been answered.
_PATIENCE = 120

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What came back, one element a request, in seconds since the run began; `status` is HTTP's or `LOST`.

    `due` is when a request should have been sent, `sent` when it was: latency counts from `due`. Figures are
    of the window from `start` to `end`. The client took `client_seconds` of processor time in the whole run.
    """

    due: Seconds
    sent: Seconds
    done: Seconds
    status: NDArray[np.int64]
    start: float
    end: float
    client_seconds: float

    def per_second(self, status: int) -> float:
        """Answers of `status` that came in the window, per second."""
        came = (self.done > self.start) & (self.done <= self.end) & (self.status == status)
        return float(came.sum() / (self.end - self.start))

    def latencies(self, status: int) -> Seconds:
        """Milliseconds from when a request of the window was due to its answer, of those with `status`."""
        chosen = (self.due >= self.start) & (self.due < self.end) & (self.status == status)
        return np.asarray(1000 * (self.done - self.due)[chosen])

    def percentile(self, percent: float, status: int = 200) -> float:
        """Percentile of `latencies`; NaN where there are none."""
        latencies = self.latencies(status)
        return float(np.percentile(latencies, percent)) if len(latencies) else math.nan

    def lateness(self, percent: float) -> float:
        """Percentile of the milliseconds by which the client was late to send: its own part of the latencies."""
        return float(np.percentile(1000 * (self.sent - self.due), percent))

    def count(self, status: int) -> int:
        """Answers of `status` in the whole run."""
        return int((self.status == status).sum())

    @property
    def others(self) -> int:
        """Answers of the whole run that are neither 200 nor 503, lost ones among them."""
        return len(self.status) - self.count(200) - self.count(503)


def post(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    """A whole request, ready to be sent as often as one likes."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def multipart(path: str, jpeg: bytes) -> bytes:
    """A whole request with `jpeg` as a form's file `image`, as browsers and curl send it."""
    head = b'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return post(path, b"--edge\r\n" + head + jpeg + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge")


class Client:
    """The process that sends. Each call returns when all of its requests were answered."""

    def __init__(self) -> None:
        # Spawned, not forked: it holds nothing of what the measuring process has loaded.
        self._process = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.shutdown()

    def closed(
        self, port: int, requests: Sequence[bytes], concurrency: int, seconds: float, at_least: int = 20
    ) -> Answers:
        """`concurrency` connections, each of which sends `requests` in turn, the next when one is answered.

        Goes on for `seconds`, and until the window holds `at_least` answers.
        """
        return self._process.submit(_run, _closed, port, requests, concurrency, seconds, at_least).result()

    def open(self, port: int, requests: Sequence[bytes], due: Seconds) -> Answers:
        """Send `requests` in turn at the times `due`, seconds from the start, whether or not others are answered."""
        return self._process.submit(_run, _open, port, requests, due).result()


def evenly(rate: float, seconds: float) -> Seconds:
    """Times at which to send `rate` requests a second, the same time apart, warm-up and then `seconds`."""
    return np.arange(0, _WARM_UP + seconds, 1 / rate, dtype=np.float64)


def _run(load: Callable[..., Coroutine[Any, Any, Answers]], *args: Any) -> Answers:
    return uvloop.run(load(*args))


@dataclass
class _Record:
    """Collects answers; its clock starts with it."""

    begun: float = field(default_factory=time.perf_counter)
    begun_cpu: float = field(default_factory=time.process_time)
    rows: list[tuple[float, float, float, int]] = field(default_factory=list)

    def now(self) -> float:
        return time.perf_counter() - self.begun

    def answers(self, start: float, end: float) -> Answers:
        client_seconds = time.process_time() - self.begun_cpu
        due, sent, done, status = (np.array(column) for column in zip(*self.rows, strict=True))
        return Answers(due, sent, done, status, start, end, client_seconds)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.usable = True
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[int] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        if not self._parser.should_keep_alive():
            self.close()
        self._settle(self._parser.get_status_code())

    def connection_lost(self, _: Exception | None) -> None:
        self.usable = False
        self._settle(LOST)

    async def ask(self, request: bytes) -> int:
        """Send a request; the status of its answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.usable = False
        self._transport.close()

    def _settle(self, status: int) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(status)


class _Connections:
    """Those that are free; a new one where none is."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[_Connection] = []

    async def ask(self, request: bytes) -> int:
        while self._free and not self._free[-1].usable:
            self._free.pop()
        if self._free:
            connection = self._free.pop()
        else:
            try:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, "127.0.0.1", self._port)
            except OSError:
                return LOST
        async with asyncio.timeout(_PATIENCE):
            status = await connection.ask(request)
        self._free.append(connection)
        return status

    def close(self) -> None:
        for connection in self._free:
            connection.close()


async def _closed(
    port: int, requests: Sequence[bytes], concurrency: int, seconds: float, at_least: int
) -> Answers:
    turns = itertools.cycle(requests)
    connections = _Connections(port)
    record = _Record()
    in_window = 0
    end = math.inf

    async def keep_asking() -> None:
        nonlocal in_window, end
        while end == math.inf:
            sent = record.now()
            status = await connections.ask(next(turns))
            done = record.now()
            record.rows.append((sent, sent, done, status))
            in_window += done >= _WARM_UP
            if done >= _WARM_UP + seconds and in_window >= at_least:
                end = min(end, done)

    await asyncio.gather(*(keep_asking() for _ in range(concurrency)))
    connections.close()
    return record.answers(_WARM_UP, end)


async def _open(port: int, requests: Sequence[bytes], due: Seconds) -> Answers:
    turns = itertools.cycle(requests)
    connections = _Connections(port)
    record = _Record()

    async def ask(when: float, request: bytes) -> None:
        sent = record.now()
        status = await connections.ask(request)
        record.rows.append((when, sent, record.now(), status))

    async with asyncio.TaskGroup() as tasks:
        for when in due.tolist():
            await asyncio.sleep(0)  # however late it is, answers come in
            while (wait := when - record.now()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(max(wait, _TICK))
            tasks.create_task(ask(when, next(turns)))
    connections.close()
    return record.answers(_WARM_UP, float(due[-1]))
