"""A bounded number of worker threads for work that would block the event loop, first come, first served.

Admission is apart from work: a request is admitted, or refused, before its body is read, but takes a place among the
workers and in the queue only when its work begins to wait. A caller who is slow to send holds no place.

    with pool.admit():                            # or Overloaded, ShuttingDown
        body = await read()
        with pool.place() as place:               # or Overloaded
            answer = await place.run(lambda: predict(body))  # or QueueTimeout

All but the work itself happens on one event loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class Overloaded(Exception):
    """Every place is taken."""

    message = "The service is overloaded: try again in a few seconds."

    def __str__(self) -> str:
        return self.message


class QueueTimeout(Overloaded):
    """The work waited too long for a worker, and was not begun."""

    message = "The service is busy and no worker became free in time: try again in a few seconds."


class ShuttingDown(Overloaded):
    """The pool takes no more work."""

    message = "The service is shutting down: try again in a few seconds."


@dataclass(frozen=True, slots=True)
class Load:
    """Requests admitted, waiting for a worker and running now; those refused and timed out since the start.

    A request with several pieces of work waits while none of them runs.
    """

    admitted: int
    waiting: int
    running: int
    refused: int
    timed_out: int


class Pool:
    """`workers` threads and a queue in front of them: `workers` + `queue_size` places.

    Work that has waited for more than `queue_timeout` seconds is not begun.
    """

    def __init__(self, *, workers: int, queue_size: int, queue_timeout: float) -> None:
        self.workers = workers
        self.places = workers + queue_size
        self.accepting = True
        self._queue_timeout = queue_timeout
        self._executor = concurrent.futures.ThreadPoolExecutor(workers, "worker")
        self._taken: list[Place] = []
        self._admitted = self._refused = self._timed_out = 0

    @contextlib.contextmanager
    def admit(self) -> Iterator[None]:
        """Count a request for as long as the `with` block lasts. Raises ShuttingDown or Overloaded at its begin."""
        if not self.accepting:
            self._refused += 1
            raise ShuttingDown
        self.refuse_if_full()
        self._admitted += 1
        try:
            yield
        finally:
            self._admitted -= 1

    def refuse_if_full(self) -> None:
        """Raise Overloaded, and count the refusal, where no place is free."""
        self._taken = [place for place in self._taken if place.is_held]
        if len(self._taken) >= self.places:
            self._refused += 1
            raise Overloaded

    @contextlib.contextmanager
    def place(self) -> Iterator[Place]:
        """Take one place, for one or several pieces of work. Raises Overloaded."""
        self.refuse_if_full()
        place = Place(self)
        self._taken.append(place)
        try:
            yield place
        finally:
            place.is_open = False

    def load(self) -> Load:
        """What the pool has to do right now."""
        held = [place for place in self._taken if place.is_held]
        running = sum(place.is_running for place in held)
        return Load(self._admitted, len(held) - running, running, self._refused, self._timed_out)

    def close(self) -> None:
        """Admit nothing more; what was admitted goes on."""
        self.accepting = False

    def stop(self) -> bool:
        """Close, when no request is left, and return whether all work has ended: nobody awaits any that has not."""
        self.close()
        self._executor.shutdown(wait=False, cancel_futures=True)
        return not any(place.works for place in self._taken)


class Place:
    """One of the pool's places. It is held until all of its work has ended, also that which nobody awaits any more."""

    def __init__(self, pool: Pool) -> None:
        self.is_open = True
        self.works: set[concurrent.futures.Future[Any]] = set()
        self._pool = pool
        # However many pieces of work it has, others wait for so many of them at most.
        self._at_a_time = asyncio.Semaphore(pool.workers)
        self._timed_out = False

    @property
    def is_held(self) -> bool:
        """Whether it is in use."""
        return self.is_open or bool(self.works)

    @property
    def is_running(self) -> bool:
        """Whether a worker runs a piece of its work."""
        return any(work.running() for work in list(self.works))

    async def run(self, work: Callable[[], T]) -> T:
        """Return what `work` returns, called on a thread of the pool; work that is cancelled before is not begun.

        Called several times at once, it starts the works in that order, at most as many at a time as there are workers.
        When one waits too long, those that have not started do not start either. Raises QueueTimeout and what `work`
        raises.
        """

        def begin() -> T:
            if time.monotonic() >= deadline:
                raise QueueTimeout
            return waiting.pop()()

        async with self._at_a_time:
            if self._timed_out:
                raise QueueTimeout
            deadline, waiting = time.monotonic() + self._pool._queue_timeout, [work]
            started = self._pool._executor.submit(begin)
            self.works.add(started)
            started.add_done_callback(self.works.discard)
            try:
                return await asyncio.wrap_future(started)
            except QueueTimeout:
                if not self._timed_out:
                    self._pool._timed_out += 1
                self._timed_out = True
                raise
            finally:
                waiting.clear()  # else the executor's queue would keep the image of a caller who has left
                del started  # it may hold an exception, whose traceback holds this frame
