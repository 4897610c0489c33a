"""A load generator: HTTP/1.1 over keep-alive connections, with little Python for each request.

It shares the cores with the service that it measures: `Answers.client_seconds` says how much it used.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import uvloop
from numpy.typing import NDArray

LOST = 0
"""Status of a request whose connection ended without an answer."""

# Seconds at the start of a run that do not count, in which queues and caches fill.
_WARM_UP = 0.5
# The timers of the event loop count whole milliseconds and may fire a little early; shorter sleeps would spin.
_TICK = 0.001
# Seconds in which a request must have been answered.
_TIMEOUT = 120

Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """The answers of a run, one element each, with times in seconds since its start.

    `due` is when a request should have been sent, `sent` when it was sent: latency counts from `due`. `status` is
    HTTP's, or `LOST`. Rates and latencies are those of the window from `start` to `end`; `client_seconds` is the
    processor time of the load generator in the whole run.
    """

    due: Seconds
    sent: Seconds
    done: Seconds
    status: NDArray[np.int64]
    start: float
    end: float
    client_seconds: float

    def per_second(self, status: int) -> float:
        """Return the answers with `status` per second."""
        came = (self.done > self.start) & (self.done <= self.end) & (self.status == status)
        return float(came.sum() / (self.end - self.start))

    def percentile(self, percent: float, status: int = 200) -> float:
        """Return a percentile of the latencies with `status` in milliseconds, NaN if there are none."""
        chosen = (self.due >= self.start) & (self.due < self.end) & (self.status == status)
        return (
            float(np.percentile(1000 * (self.done - self.due)[chosen], percent)) if chosen.any() else math.nan
        )

    def lateness(self, percent: float) -> float:
        """Return a percentile of the delays in sending, in milliseconds: the client's own part of the latencies."""
        return float(np.percentile(1000 * (self.sent - self.due), percent))

    def count(self, status: int) -> int:
        """Return the number of answers with `status` in the whole run."""
        return int((self.status == status).sum())


def post(path: str, body: bytes, content_type: str = "image/jpeg") -> bytes:
    """Return a whole request, which may be sent repeatedly."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: benchmark\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def multipart(path: str, jpeg: bytes) -> bytes:
    """Return a whole request with `jpeg` as the file `image` of a form, as browsers and curl send it."""
    head = b'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    return post(path, b"--edge\r\n" + head + jpeg + b"\r\n--edge--\r\n", "multipart/form-data; boundary=edge")


def closed_loop(
    port: int, requests: Sequence[bytes], connections: int, seconds: float, at_least: int = 20
) -> Answers:
    """Send `requests` in turn over `connections`, each of which sends again when it is answered.

    Runs for `seconds` after the warm-up, and until `at_least` answers came in that time.
    """

    async def run() -> Answers:
        client = _Client(port, requests)
        in_window = 0
        end = math.inf

        async def keep_asking() -> None:
            nonlocal in_window, end
            while end == math.inf:
                done = await client.ask(client.now())
                in_window += done >= _WARM_UP
                if done >= _WARM_UP + seconds and in_window >= at_least:
                    end = min(end, done)

        await asyncio.gather(*(keep_asking() for _ in range(connections)))
        return client.answers(end)

    return uvloop.run(run())


def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Answers:
    """Send `requests` in turn, `rate` a second, for `seconds` after the warm-up, whether or not others are answered."""

    async def run() -> Answers:
        client = _Client(port, requests)
        async with asyncio.TaskGroup() as tasks:
            for when in np.arange(0, _WARM_UP + seconds, 1 / rate).tolist():
                await asyncio.sleep(0)  # receive answers even when sending is late
                while (wait := when - client.now()) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(max(wait, _TICK))
                tasks.create_task(client.ask(when))
        return client.answers(_WARM_UP + seconds)

    return uvloop.run(run())


class _Client:
    """Send requests in turn, each over a connection of its own, and record the answers. The clock starts here."""

    def __init__(self, port: int, requests: Sequence[bytes]) -> None:
        self._port = port
        self._turns = itertools.cycle(requests)
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._rows: list[tuple[float, float, float, int]] = []
        self._begun_cpu = time.process_time()
        self._begun = time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self._begun

    async def ask(self, due: float) -> float:
        """Send the next request, which was due at `due`. Return when it was answered."""
        sent = self.now()
        async with asyncio.timeout(_TIMEOUT):
            status = await self._status(next(self._turns))
        done = self.now()
        self._rows.append((due, sent, done, status))
        return done

    async def _status(self, request: bytes) -> int:
        status = LOST
        try:
            opened = (
                self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
            )
            reader, writer = opened
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(maxsplit=2)[1])
            await reader.readexactly(int(head.partition(b"content-length:")[2].split(maxsplit=1)[0]))
            if b"connection: close" in head:
                writer.close()
            else:
                self._free.append(opened)
        except (OSError, asyncio.IncompleteReadError):
            pass  # lost, or closed after an early answer
        return status

    def answers(self, end: float) -> Answers:
        """Close the connections, and return what was recorded."""
        for _, writer in self._free:
            writer.close()
        client_seconds = time.process_time() - self._begun_cpu
        due, sent, done, status = (np.array(column) for column in zip(*self._rows, strict=True))
        return Answers(due, sent, done, status, _WARM_UP, end, client_seconds)
