"""A bounded pool of worker threads for work that would block the event loop.

Admission is apart from work: a ticket is given, or refused, at once, before anything is read for it. A place among
the workers and in the queue is taken by the work itself: a caller who is slow to send holds none.

    with pool.admit() as ticket:                  # or Overloaded
        body = await read()
        answer = await ticket.run(lambda worker: worker.predict(body))  # or Overloaded

A ticket may bring several pieces of work at once. They share one place, and tickets take turns, a piece each: however
much one brings, it uses the workers that nobody else waits for, and others wait for one piece of it at a time.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

W = TypeVar("W")
T = TypeVar("T")


class Overloaded(Exception):
    """Every place is taken."""

    def __init__(
        self, message: str = "The service has as much to do as it can take: try again in a few seconds."
    ) -> None:
        super().__init__(message)


class QueueTimeout(Overloaded):
    """The work waited longer for its turn than is allowed, and was not begun."""

    def __init__(self) -> None:
        super().__init__("The service is busy and this waited too long: try again in a few seconds.")


class ShuttingDown(Overloaded):
    """The pool takes no more work."""

    def __init__(self, message: str = "The service is shutting down: try again in a few seconds.") -> None:
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Load:
    """Tickets out at one moment, and how many of them wait and are worked at; those refused and timed out in all.

    A ticket with several pieces of work waits while none of them is worked at.
    """

    admitted: int
    waiting: int
    running: int
    refused: int
    timed_out: int


class Pool(Generic[W]):
    """Worker threads, each with a worker of its own from `make_worker`, and a bounded number of places.

    There are `workers` + `queue_size` places. Work that has waited for more than `queue_timeout` seconds is
    not begun; what its own ticket's other work took does not count.
    """

    def __init__(
        self, make_worker: Callable[[], W], *, workers: int, queue_size: int, queue_timeout: float
    ) -> None:
        self.workers = workers
        self.places = workers + queue_size
        self._make_worker = make_worker
        self._queue_timeout = queue_timeout
        self._lock = threading.Lock()
        self._work_came = threading.Condition(self._lock)
        self._became_less = threading.Condition(self._lock)
        # Those whose turn comes next: with work that waits. A place is held by each that has work here at all.
        self._turns: deque[Ticket[W]] = deque()
        self._places_held: set[Ticket[W]] = set()
        self._threads: list[threading.Thread] = []
        self._open = False
        self._closed_at = math.inf
        self._stopped = False
        self._admitted = self._refused = self._timed_out = 0

    def start(self) -> None:
        """Start the threads and wait until each has made its worker; raises what making one raised."""
        made: list[concurrent.futures.Future[None]] = []
        for index in range(self.workers):
            made.append(concurrent.futures.Future())
            # Daemons, so that a worker that hangs does not keep the process from ending after `drain`.
            thread = threading.Thread(
                target=self._serve, args=(made[-1],), name=f"worker-{index}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        concurrent.futures.wait(made)
        try:
            for outcome in made:
                outcome.result()
        except BaseException:
            self._stop()
            raise
        self._open = True

    def admit(self) -> Ticket[W]:
        """A ticket, or Overloaded or ShuttingDown at once."""
        with self._lock:
            if not self._open:
                self._refused += 1
                raise ShuttingDown
            self._refuse_if_full()
            self._admitted += 1
        return Ticket(self)

    def refuse_if_full(self) -> None:
        """Raise Overloaded, and count it, where `admit` would for want of a place."""
        with self._lock:
            self._refuse_if_full()

    def load(self) -> Load:
        """What the pool has to do right now."""
        with self._lock:
            running = sum(ticket._running > 0 for ticket in self._places_held)
            waiting = len(self._places_held) - running
            return Load(self._admitted, waiting, running, self._refused, self._timed_out)

    @property
    def accepting(self) -> bool:
        """Whether work is admitted at all: between `start` and `close`."""
        return self._open

    def close(self) -> None:
        """Admit nothing more; who has a ticket may still use it."""
        with self._lock:
            self._open = False
            self._closed_at = min(self._closed_at, time.monotonic())

    async def drain(self, grace: float) -> bool:
        """Close, wait until every ticket is back and no work is left, and stop the workers.

        It waits until `grace` seconds after the first `close`. True if all came to an end by then; if not, work still
        in the queue fails with ShuttingDown.
        """
        self.close()
        return await asyncio.to_thread(self._drain, grace)

    def _drain(self, grace: float) -> bool:
        with self._lock:
            left = max(0.0, self._closed_at + grace - time.monotonic())
            finished = self._became_less.wait_for(lambda: self._admitted + len(self._places_held) == 0, left)
        self._stop()
        if finished:
            for thread in self._threads:
                thread.join()
        return finished

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            left = [job for ticket in self._turns for job in ticket._waiting]
            for ticket in list(self._turns):
                self._withdraw(ticket)
            self._work_came.notify_all()
        for job in left:
            _settle(job, error=ShuttingDown("The service shut down before it came to this: try again."))

    def _serve(self, made: concurrent.futures.Future[None]) -> None:
        try:
            worker = self._make_worker()
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(None)
        while self._serve_one(worker):
            pass

    def _serve_one(self, worker: W) -> bool:
        """Wait for a job and do it; False when there will be none.

        One call a job, so that no local keeps its image while the worker waits for the next.
        """
        with self._lock:
            self._work_came.wait_for(lambda: self._turns or self._stopped)
            if self._stopped:
                return False
            ticket = self._turns.popleft()
            late = ticket._running == 0 and time.monotonic() >= ticket._deadline
            if late:
                jobs = list(ticket._waiting)
                ticket._waiting.clear()
                self._timed_out += 1
            else:
                jobs = [ticket._waiting.popleft()]
                ticket._running += 1
                if ticket._waiting:
                    self._turns.append(ticket)
            self._hold_or_leave_place(ticket)
        if late:
            for job in jobs:
                _settle(job, error=QueueTimeout())
            return True
        job = jobs.pop()
        value, error = None, None
        try:
            value = job.work(worker)
        except BaseException as raised:  # whatever it is, it belongs to who awaits it, and the thread goes on
            error = raised
        with self._lock:
            ticket._running -= 1
            ticket._deadline = time.monotonic() + self._queue_timeout
            self._hold_or_leave_place(ticket)
        _settle(job, value, error)
        # A traceback holds this frame: with either of these in it, a cycle would keep the image until a collection.
        del job, error
        return True

    def _enqueue(self, ticket: Ticket[W], jobs: list[_Job[W]]) -> None:
        with self._lock:
            if self._stopped:
                raise ShuttingDown("The service shut down before it came to this: try again.")
            self._refuse_if_full()
            ticket._deadline = time.monotonic() + self._queue_timeout
            if jobs and not ticket._waiting:
                self._turns.append(ticket)
            ticket._waiting.extend(jobs)
            self._hold_or_leave_place(ticket)
            self._work_came.notify(len(jobs))

    def _hold_or_leave_place(self, ticket: Ticket[W]) -> None:
        """To be called when a ticket's work has changed; the lock is held.

        Work that nobody awaits any more takes up its worker, and so its place, to its end.
        """
        if ticket._waiting or ticket._running:
            self._places_held.add(ticket)
        else:
            self._places_held.discard(ticket)
            self._became_less.notify_all()

    def _refuse_if_full(self) -> None:
        if len(self._places_held) >= self.places:
            self._refused += 1
            raise Overloaded

    def _withdraw(self, ticket: Ticket[W]) -> None:
        """Drop the work of a ticket that has not been begun; the lock is held."""
        if ticket._waiting:
            ticket._waiting.clear()
            self._turns.remove(ticket)
            self._hold_or_leave_place(ticket)

    def _give_back(self, ticket: Ticket[W]) -> None:
        with self._lock:
            self._admitted -= 1
            self._withdraw(ticket)
            self._became_less.notify_all()


class Ticket(Generic[W]):
    """The right to bring work to the pool, to be used in a `with` block that gives it back.

    Work that waits when the block is left is never begun.
    """

    def __init__(self, pool: Pool[W]) -> None:
        self._pool = pool
        # The pool's, under its lock.
        self._waiting: deque[_Job[W]] = deque()
        self._running = 0
        self._deadline = 0.0

    def __enter__(self) -> Ticket[W]:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool._give_back(self)

    def run(self, work: Callable[[W], T]) -> asyncio.Future[T]:
        """What `work` returns or raises, called with a worker on its thread; QueueTimeout where it is not begun.

        Raises Overloaded or ShuttingDown where there is no place for it.
        """
        (result,) = self.submit([work])
        return result

    def submit(self, works: Iterable[Callable[[W], T]]) -> list[asyncio.Future[T]]:
        """As `run`, of several pieces of work, which are begun in order; one outcome each.

        Raises Overloaded or ShuttingDown where there is no place for them. Where their turn does not come in time,
        QueueTimeout is the outcome of all that have not been begun.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(work, loop.create_future()) for work in works]
        self._pool._enqueue(self, jobs)
        return [job.result for job in jobs]


@dataclass(eq=False, slots=True)
class _Job(Generic[W]):
    work: Callable[[W], Any]
    result: asyncio.Future[Any]


def _settle(job: _Job[Any], value: object = None, error: BaseException | None = None) -> None:
    """Hand the outcome of `job` to the event loop on which it is awaited."""
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
        job.result.get_loop().call_soon_threadsafe(_resolve, job.result, value, error)


def _resolve(result: asyncio.Future[Any], value: object, error: BaseException | None) -> None:
    if result.done():  # cancelled
        return
    if error is None:
        result.set_result(value)
    else:
        result.set_exception(error)
