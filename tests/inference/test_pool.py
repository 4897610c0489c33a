from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from agegender.inference.pool import Load, Overloaded, Pool, QueueTimeout, ShuttingDown
from helpers import until

PATIENCE = 30  # seconds until a test that hangs fails


class Worker:
    """Must never be used by two threads at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Gate:
    """Work that begins when a worker takes it and ends when the gate opens."""

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._open = threading.Event()

    def work(self, worker: Worker) -> str:
        with worker.lock:
            self._begun.release()
            assert self._open.wait(PATIENCE)
            return "served"

    async def begun(self, n: int = 1) -> None:
        """Wait until `n` more pieces of this work have begun."""
        for _ in range(n):
            assert await asyncio.to_thread(self._begun.acquire, timeout=PATIENCE)

    def open(self) -> None:
        self._open.set()


@contextmanager
def running(workers: int = 1, queue_size: int = 4, queue_timeout: float = PATIENCE) -> Iterator[Pool[Worker]]:
    pool = Pool(Worker, workers=workers, queue_size=queue_size, queue_timeout=queue_timeout)
    yield pool
    assert asyncio.run(pool.drain(PATIENCE)), "some work never ended"
    left = pool.load()
    assert (left.admitted, left.waiting, left.running) == (0, 0, 0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker")]


async def request(pool: Pool[Worker], work: Callable[[Worker], object]) -> object:
    """What a handler does."""
    with pool.admit(), pool.place() as place:
        return await place.run(work)


async def batch(pool: Pool[Worker], *works: Callable[[Worker], object]) -> list[object]:
    """The value or the exception of each of `works`, which share one place."""
    with pool.admit(), pool.place() as place:
        return await asyncio.gather(*map(place.run, works), return_exceptions=True)


async def hold(pool: Pool[Worker]) -> tuple[Gate, asyncio.Task[object]]:
    """A shut gate at which one worker waits, and the request that waits for it."""
    gate = Gate()
    held = asyncio.create_task(request(pool, gate.work))
    await gate.begun()
    return gate, held


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))  # type: ignore[arg-type]


def test_beyond_workers_and_queue_requests_are_refused_at_once_and_what_was_admitted_succeeds() -> None:
    with running(workers=2, queue_size=3) as pool:

        async def test() -> None:
            gate = Gate()
            admitted = [asyncio.create_task(request(pool, gate.work)) for _ in range(5)]
            await gate.begun(2)
            assert pool.load() == Load(admitted=5, waiting=3, running=2, refused=0, timed_out=0)
            for _ in range(10):
                with pytest.raises(Overloaded):
                    await request(pool, gate.work)
            assert pool.load() == Load(admitted=5, waiting=3, running=2, refused=10, timed_out=0)
            gate.open()
            assert await asyncio.gather(*admitted) == 5 * ["served"]
            assert await request(pool, lambda _: "served again") == "served again"

        run(test)


def test_a_request_takes_a_place_only_with_its_work_and_may_find_none_then() -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            with pool.admit():
                gate, held = await hold(pool)
                assert pool.load().admitted == 2
                with pytest.raises(Overloaded), pool.place():
                    pass
                gate.open()
                await held
                with pool.place() as place:
                    assert await place.run(lambda _: "served after all") == "served after all"
            assert pool.load().refused == 1

        run(test)


def test_work_is_begun_in_the_order_in_which_it_came() -> None:
    with running() as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            order: list[int] = []
            waiting = [asyncio.create_task(request(pool, lambda _, n=n: order.append(n))) for n in range(4)]
            await until(lambda: pool.load().waiting == 4)
            assert order == []
            gate.open()
            await asyncio.gather(held, *waiting)
            assert order == [0, 1, 2, 3]

        run(test)


def test_what_work_raises_reaches_its_own_caller_and_the_worker_goes_on() -> None:
    def fail(_: Worker) -> None:
        raise ValueError("damaged")

    with running() as pool:

        async def test() -> None:
            with pytest.raises(ValueError, match="damaged"):
                await request(pool, fail)
            first, second, third = await batch(pool, lambda _: "one", fail, lambda _: "three")
            assert (first, str(second), third) == ("one", "damaged", "three")

        run(test)


def test_work_whose_caller_has_left_is_never_begun_and_its_place_is_free_at_once() -> None:
    with running(workers=1, queue_size=1) as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            begun: list[Worker] = []
            left = asyncio.create_task(request(pool, begun.append))
            await until(lambda: pool.load().waiting == 1)
            left.cancel()
            await asyncio.wait([left])
            await until(lambda: pool.load().waiting == 0)
            instead = asyncio.create_task(request(pool, lambda _: "served"))
            gate.open()
            assert await instead == "served"
            await held
            assert begun == []

        run(test)


@pytest.mark.parametrize("of_a_batch", [False, True])
def test_work_whose_caller_leaves_while_it_runs_keeps_its_place_and_nothing_more_is_begun(
    of_a_batch: bool,
) -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            gate = Gate()
            begun: list[Worker] = []
            more = 5 * [begun.append] if of_a_batch else []
            left = asyncio.create_task(batch(pool, gate.work, *more))
            await gate.begun()
            left.cancel()
            await asyncio.wait([left])
            assert pool.load() == Load(admitted=0, waiting=0, running=1, refused=0, timed_out=0)
            with pytest.raises(Overloaded):
                await request(pool, begun.append)
            gate.open()
            await until(lambda: pool.load().running == 0)
            assert await request(pool, lambda _: "served") == "served"
            assert begun == []

        run(test)


def test_work_that_waited_too_long_is_not_begun() -> None:
    with running(queue_timeout=0) as pool:

        async def test() -> None:
            begun: list[Worker] = []
            with pytest.raises(QueueTimeout):
                await request(pool, begun.append)
            assert begun == []
            assert pool.load().timed_out == 1

        run(test)


def test_a_batch_that_others_keep_waiting_too_long_keeps_what_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: now))
    with running(queue_timeout=10) as pool:

        async def test() -> None:
            nonlocal now
            gate, other = Gate(), Gate()
            large = asyncio.create_task(batch(pool, *(4 * [gate.work])))
            await gate.begun()
            now += 11  # its own work may take as long as it does
            held = asyncio.create_task(request(pool, other.work))
            await until(lambda: pool.load().waiting == 1)
            gate.open()
            await other.begun()
            (waiting,) = (place for place in pool._taken if not place.is_running)
            await until(lambda: len(waiting.works) == 1)  # its second piece of work
            now += 11
            other.open()
            await held
            first, *late = await large
            assert first == "served"
            assert [type(outcome) for outcome in late] == 3 * [QueueTimeout]
            # One for the request, not one for each piece of its work.
            assert pool.load() == Load(admitted=0, waiting=0, running=0, refused=0, timed_out=1)

        run(test)


def test_a_batch_alone_uses_all_workers_and_who_comes_then_waits_for_one_piece_of_it() -> None:
    with running(workers=2) as pool:

        async def test() -> None:
            gates = [Gate() for _ in range(32)]
            large = asyncio.create_task(batch(pool, *(gate.work for gate in gates)))
            await gates[0].begun()
            await gates[1].begun()
            late = Gate()
            single = asyncio.create_task(request(pool, late.work))
            await until(lambda: pool.load().waiting == 1)
            gates[1].open()
            await late.begun()
            for gate in (late, *gates):
                gate.open()
            assert await single == "served"
            assert await large == 32 * ["served"]

        run(test)


def test_batches_share_the_workers_with_one_another() -> None:
    with running() as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            order: list[str] = []
            batches = [
                asyncio.create_task(batch(pool, *(4 * [lambda _, name=name: order.append(name)])))
                for name in "ab"
            ]
            await until(lambda: pool.load().waiting == 2)
            gate.open()
            await asyncio.gather(held, *batches)
            assert order == [*"abababab"]

        run(test)


def test_a_batch_takes_one_place_however_large_it_is() -> None:
    with running(workers=2, queue_size=1) as pool:

        async def test() -> None:
            gate = Gate()
            batches = [asyncio.create_task(batch(pool, *(5 * [gate.work])))]
            await gate.begun(2)
            batches += [asyncio.create_task(batch(pool, *(5 * [gate.work]))) for _ in range(2)]
            await until(lambda: pool.load().waiting == 2)
            assert pool.load() == Load(admitted=3, waiting=2, running=1, refused=0, timed_out=0)
            with pytest.raises(Overloaded):
                await request(pool, gate.work)
            gate.open()
            assert [len(done) for done in await asyncio.gather(*batches)] == [5, 5, 5]

        run(test)


def test_a_closed_pool_finishes_what_was_admitted_and_takes_nothing_more() -> None:
    with running() as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            waiting = asyncio.create_task(batch(pool, *(3 * [lambda _: "waited"])))
            with pool.admit():
                await until(lambda: pool.load().waiting == 1)
                pool.close()
                with pytest.raises(ShuttingDown):
                    await request(pool, gate.work)
                gate.open()
                assert await waiting == 3 * ["waited"]
                await held
                with pool.place() as place:
                    assert await place.run(lambda _: "read at last") == "read at last"

        run(test)


def test_draining_waits_for_work_that_nobody_awaits_any_more() -> None:
    with running() as pool:

        async def test() -> None:
            gate, left = await hold(pool)
            left.cancel()
            await asyncio.wait([left])
            drained = asyncio.create_task(pool.drain(PATIENCE))
            await until(lambda: not pool.accepting)
            assert not drained.done()
            gate.open()
            assert await drained

        run(test)


def test_the_time_to_drain_counts_from_when_the_pool_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            pool.close()
            later = time.monotonic() + 20 * PATIENCE
            with monkeypatch.context() as patched:
                patched.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: later))
                assert await pool.drain(10 * PATIENCE) is False
            gate.open()
            assert await held == "served"

        run(test)


def test_a_worker_that_cannot_be_made_is_an_error_at_the_start() -> None:
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker())
        if len(made) == 2:
            raise OSError("no detector")
        return made[-1]

    with pytest.raises(OSError, match="no detector"):
        Pool(make, workers=3, queue_size=1, queue_timeout=PATIENCE)


class Image:
    """Stands for the bytes of an image; unlike bytes, it can be watched."""


@contextmanager
def without_collections() -> Iterator[None]:
    """The collector would find what a cycle keeps in the end, but after how many megabytes?"""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_request_stays_in_memory_when_it_is_answered(fails: bool) -> None:
    def work_on(image: Image) -> Callable[[Worker], None]:
        def work(_: Worker) -> None:
            assert image
            if fails:
                raise ValueError("damaged")

        return work

    async def handle(pool: Pool[Worker], image: Image) -> None:
        await request(pool, work_on(image))

    with running() as pool, without_collections():

        async def test() -> None:
            image = Image()
            watched = weakref.ref(image)
            await asyncio.gather(handle(pool, image), return_exceptions=True)
            del image
            await until(lambda: watched() is None)

        run(test)


def test_nothing_of_a_request_stays_in_memory_when_its_caller_has_left_the_queue() -> None:
    with running() as pool, without_collections():

        async def test() -> None:
            gate, held = await hold(pool)
            image = Image()
            watched = weakref.ref(image)
            left = asyncio.create_task(request(pool, lambda _, image=image: image))
            del image
            await until(lambda: pool.load().waiting == 1)
            left.cancel()
            await asyncio.wait([left])
            del left
            await until(lambda: watched() is None)
            gate.open()
            await held

        run(test)


@pytest.mark.parametrize("most", [1, 4], ids=["one by one", "in batches"])
def test_a_crowd_that_comes_and_goes_leaves_exact_counts(most: int) -> None:
    with running(workers=2, queue_size=6) as pool:

        async def test() -> None:
            chance = random.Random(0)
            outcomes = {"served": 0, "refused": 0, "gone": 0, "failed": 0}

            def work(worker: Worker) -> None:
                assert worker.lock.acquire(blocking=False), "two threads share a worker"
                worker.lock.release()
                if chance.random() < 0.2:
                    raise ValueError

            async def visit() -> None:
                try:
                    with pool.admit(), pool.place() as place:
                        await asyncio.gather(*(place.run(work) for _ in range(chance.randint(1, most))))
                    outcomes["served"] += 1
                except Overloaded:
                    outcomes["refused"] += 1
                except ValueError:
                    outcomes["failed"] += 1
                except asyncio.CancelledError:
                    outcomes["gone"] += 1

            for _ in range(200):
                crowd = [asyncio.create_task(visit()) for _ in range(chance.randint(1, 12))]
                await asyncio.sleep(0)
                for visitor in crowd:
                    if chance.random() < 0.3:
                        visitor.cancel()
                await asyncio.gather(*crowd)
            assert all(outcomes.values()), outcomes
            assert pool.load().refused == outcomes["refused"]
            assert pool.load().admitted == 0

        run(test)
