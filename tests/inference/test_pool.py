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
from hypothesis import given, settings
from hypothesis import strategies as st

PATIENCE = 30  # seconds until a test that hangs fails


class Worker:
    """Notes the thread that it was made on."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Gate:
    """Work that begins when a worker takes it and ends when the gate opens."""

    def __init__(self) -> None:
        self._begun = threading.Semaphore(0)
        self._open = threading.Event()

    def work(self, worker: Worker) -> int:
        self._begun.release()
        assert self._open.wait(PATIENCE)
        return worker.thread

    async def begun(self, n: int = 1) -> None:
        """Wait until `n` more pieces of this work have begun."""
        for _ in range(n):
            assert await asyncio.to_thread(self._begun.acquire, timeout=PATIENCE)

    def open(self) -> None:
        self._open.set()


@contextmanager
def running(workers: int = 1, queue_size: int = 4, queue_timeout: float = PATIENCE) -> Iterator[Pool[Worker]]:
    pool = Pool(Worker, workers=workers, queue_size=queue_size, queue_timeout=queue_timeout)
    pool.start()
    try:
        yield pool
    finally:
        assert asyncio.run(pool.drain(PATIENCE)), "a ticket never came back"
        left = pool.load()
        assert (left.admitted, left.waiting, left.running) == (0, 0, 0)


async def request(pool: Pool[Worker], work: Callable[[Worker], object]) -> object:
    """What a handler does: a ticket, then the work."""
    with pool.admit() as ticket:
        return await ticket.run(work)


async def batch(pool: Pool[Worker], *works: Callable[[Worker], object]) -> list[object]:
    """What comes of each of `works`, brought by one ticket: a value or an exception."""
    with pool.admit() as ticket:
        return await asyncio.gather(*ticket.submit(works), return_exceptions=True)


async def hold(pool: Pool[Worker]) -> tuple[Gate, asyncio.Task[object]]:
    """A shut gate at which one worker waits, and the request that it is at."""
    gate = Gate()
    held = asyncio.create_task(request(pool, gate.work))
    await gate.begun()
    return gate, held


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))  # type: ignore[arg-type]


def test_beyond_workers_and_queue_admission_is_refused_at_once_and_what_was_admitted_succeeds() -> None:
    with running(workers=2, queue_size=3) as pool:

        async def test() -> None:
            gate = Gate()
            admitted = [asyncio.create_task(request(pool, gate.work)) for _ in range(5)]
            await gate.begun(2)
            assert pool.load() == Load(admitted=5, waiting=3, running=2, refused=0, timed_out=0)

            for refusals in range(1, 11):
                with pytest.raises(Overloaded):
                    pool.admit()
                assert pool.load().refused == refusals
            assert pool.load().waiting == 3

            gate.open()
            threads = await asyncio.gather(*admitted)
            assert len(threads) == 5
            assert pool.load() == Load(admitted=0, waiting=0, running=0, refused=10, timed_out=0)
            with pool.admit():
                pass

        run(test)


def test_who_has_yet_to_bring_work_takes_no_place_and_may_find_none_when_he_does() -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            gate = Gate()
            with pool.admit() as slow, pool.admit() as quick:
                assert pool.load().admitted == 2
                held = quick.run(gate.work)
                await gate.begun()
                with pytest.raises(Overloaded):
                    await slow.run(lambda _: None)
                assert pool.load().refused == 1
                gate.open()
                await held
                assert await slow.run(lambda _: "served after all") == "served after all"

        run(test)


def test_each_worker_is_made_and_used_on_a_thread_of_its_own() -> None:
    with running(workers=3) as pool:

        async def test() -> None:
            gate = Gate()
            held = [asyncio.create_task(request(pool, gate.work)) for _ in range(3)]
            await gate.begun(3)
            gate.open()
            assert len({*await asyncio.gather(*held)} - {threading.get_ident()}) == 3
            assert await request(pool, lambda worker: worker.thread == threading.get_ident())

        run(test)


def test_the_event_loop_and_the_queue_go_in_order_while_a_worker_is_busy() -> None:
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


@pytest.mark.parametrize("error", [ValueError("damaged"), SystemExit(3), KeyboardInterrupt()])
def test_what_work_raises_reaches_its_own_caller_and_the_worker_goes_on(error: BaseException) -> None:
    def fail(_: Worker) -> None:
        raise error

    with running() as pool:

        async def test() -> None:
            before = await request(pool, lambda worker: worker.thread)
            try:
                await request(pool, fail)
            except BaseException as raised:
                assert raised is error
            else:
                pytest.fail("nothing was raised")
            assert await request(pool, lambda worker: worker.thread) == before

        run(test)


def test_work_whose_caller_has_gone_is_never_begun_and_its_place_is_free_at_once() -> None:
    with running(workers=1, queue_size=1) as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            begun: list[Worker] = []
            gone = asyncio.create_task(request(pool, begun.append))
            await until(lambda: pool.load().waiting == 1)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert pool.load() == Load(admitted=1, waiting=0, running=1, refused=0, timed_out=0)
            instead = asyncio.create_task(request(pool, lambda _: "served"))
            gate.open()
            assert await instead == "served"
            await held
            assert begun == []

        run(test)


def test_work_whose_caller_goes_while_it_runs_keeps_its_place_until_it_ends() -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            gate, gone = await hold(pool)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            with pytest.raises(Overloaded):
                pool.admit()
            gate.open()
            await until(lambda: pool.load().running == 0)
            assert await request(pool, lambda _: "served") == "served"

        run(test)


def test_work_that_waited_too_long_is_not_begun() -> None:
    with running(queue_timeout=0) as pool:

        async def test() -> None:
            begun: list[Worker] = []
            with pytest.raises(QueueTimeout):
                await request(pool, begun.append)
            assert begun == []
            assert pool.load() == Load(admitted=0, waiting=0, running=0, refused=0, timed_out=1)

        run(test)


def test_draining_waits_for_work_that_nobody_awaits_any_more() -> None:
    pool = Pool(Worker, workers=1, queue_size=0, queue_timeout=PATIENCE)
    pool.start()

    async def test() -> None:
        gate, gone = await hold(pool)
        gone.cancel()
        drained = asyncio.create_task(pool.drain(PATIENCE))
        await until(lambda: not pool.accepting and pool.load().admitted == 0)
        assert not drained.done()
        gate.open()
        assert await drained

    run(test)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_draining_finishes_what_was_admitted_and_takes_nothing_more() -> None:
    pool = Pool(Worker, workers=1, queue_size=4, queue_timeout=PATIENCE)
    pool.start()

    async def test() -> None:
        gate, held = await hold(pool)
        waiting = asyncio.create_task(request(pool, lambda _: "waited"))
        with pool.admit() as still_reading:
            await until(lambda: pool.load().waiting == 1)
            assert pool.load().admitted == 3
            drained = asyncio.create_task(pool.drain(PATIENCE))
            with pytest.raises(ShuttingDown):
                while True:  # until the drain has begun
                    pool.admit().__exit__()
                    await asyncio.sleep(0)
            gate.open()
            assert await waiting == "waited"
            await held
            assert not drained.done()
            assert await still_reading.run(lambda _: "read at last") == "read at last"
        assert await drained
        assert pool.load().refused == 1

    run(test)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("worker-")]


def test_a_drain_that_runs_out_of_time_fails_what_was_not_begun() -> None:
    pool = Pool(Worker, workers=1, queue_size=4, queue_timeout=PATIENCE)
    pool.start()

    async def test() -> None:
        gate, held = await hold(pool)
        with pool.admit() as still_reading:
            waiting = asyncio.create_task(request(pool, lambda _: None))
            await until(lambda: pool.load().waiting == 1)
            assert not await pool.drain(0)
            with pytest.raises(ShuttingDown):
                await waiting
            with pytest.raises(ShuttingDown):
                await still_reading.run(lambda _: None)
        gate.open()
        await held
        assert pool.load().admitted == 0

    run(test)


def test_the_time_to_drain_counts_from_when_the_pool_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool(Worker, workers=1, queue_size=1, queue_timeout=PATIENCE)
    pool.start()
    with pool.admit():
        pool.close()
        later = time.monotonic() + 20 * PATIENCE
        monkeypatch.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: later))
        pool.close()
        assert asyncio.run(asyncio.wait_for(pool.drain(10 * PATIENCE), PATIENCE)) is False


def test_a_pool_admits_nothing_before_it_has_started() -> None:
    pool = Pool(Worker, workers=1, queue_size=1, queue_timeout=PATIENCE)
    with pytest.raises(ShuttingDown):
        pool.admit()


def test_a_worker_that_cannot_be_made_is_an_error_at_the_start() -> None:
    made = []

    def make() -> Worker:
        made.append(threading.current_thread())
        if len(made) == 2:
            raise OSError("no detector")
        return Worker()

    with pytest.raises(OSError, match="no detector"):
        Pool(make, workers=3, queue_size=1, queue_timeout=PATIENCE).start()
    for thread in made:
        thread.join(PATIENCE)
        assert not thread.is_alive()


@given(st.lists(st.integers(1, 5), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_tickets_take_turns_a_piece_of_work_each(brought: list[int]) -> None:
    with running(queue_size=5) as pool:

        async def test() -> None:
            gate, held = await hold(pool)
            begun: list[tuple[int, int]] = []
            # Ticket t's n-th piece of work notes (t, n).
            waiting = [
                asyncio.create_task(
                    batch(pool, *(lambda _, t=t, n=n: begun.append((t, n)) for n in range(count)))
                )
                for t, count in enumerate(brought)
            ]
            await until(lambda: pool.load().waiting == len(brought))
            gate.open()
            await asyncio.gather(held, *waiting)
            in_turn = [(t, n) for n in range(5) for t, count in enumerate(brought) if n < count]
            assert begun == in_turn

        run(test)


def test_who_comes_while_a_large_batch_is_under_way_waits_for_one_piece_of_it() -> None:
    with running(workers=2) as pool:

        async def test() -> None:
            gates = [Gate() for _ in range(32)]
            large = asyncio.create_task(batch(pool, *(gate.work for gate in gates)))
            await gates[0].begun()
            await gates[1].begun()  # alone it has both workers
            late = Gate()
            single = asyncio.create_task(request(pool, late.work))
            await until(lambda: pool.load().waiting == 1)
            gates[1].open()
            await gates[2].begun()
            gates[0].open()
            await late.begun()
            assert pool.load() == Load(admitted=2, waiting=0, running=2, refused=0, timed_out=0)
            for gate in (late, *gates):
                gate.open()
            await single
            assert len(await large) == 32

        run(test)


def test_a_batch_takes_one_place_however_large_it_is() -> None:
    with running(workers=2, queue_size=1) as pool:

        async def test() -> None:
            gate = Gate()
            batches = [asyncio.create_task(batch(pool, *(5 * [gate.work])))]
            await gate.begun(2)  # both workers are at this one
            batches += [asyncio.create_task(batch(pool, *(5 * [gate.work]))) for _ in range(2)]
            await until(lambda: pool.load().waiting == 2)
            assert pool.load() == Load(admitted=3, waiting=2, running=1, refused=0, timed_out=0)
            with pytest.raises(Overloaded):
                pool.admit()
            gate.open()
            assert [len(done) for done in await asyncio.gather(*batches)] == [5, 5, 5]
            assert pool.load() == Load(admitted=0, waiting=0, running=0, refused=1, timed_out=0)

        run(test)


def test_without_a_queue_a_batch_leaves_the_places_that_it_does_not_take() -> None:
    with running(workers=2, queue_size=0) as pool:

        async def test() -> None:
            gate = Gate()
            large = asyncio.create_task(batch(pool, *(8 * [gate.work])))
            await gate.begun(2)
            single = asyncio.create_task(request(pool, lambda _: "served"))
            await until(lambda: pool.load().waiting == 1)
            gate.open()
            assert await single == "served"
            await large

        run(test)


def test_a_batch_for_which_there_is_no_place_is_refused_whole() -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            with pool.admit() as slow:
                gate, held = await hold(pool)
                begun: list[Worker] = []
                with pytest.raises(Overloaded):
                    slow.submit([begun.append, begun.append])
                assert pool.load().refused == 1
                gate.open()
                await held
                assert begun == []

        run(test)


def test_each_piece_of_work_has_an_outcome_of_its_own() -> None:
    def fail(_: Worker) -> None:
        raise ValueError("damaged")

    with running(workers=2) as pool:

        async def test() -> None:
            first, second, third = await batch(pool, lambda _: "one", fail, lambda _: "three")
            assert (first, str(second), third) == ("one", "damaged", "three")
            assert isinstance(second, ValueError)
            assert await batch(pool) == []

        run(test)


class Clock:
    """The pool's time, which goes on when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = time.monotonic()
        monkeypatch.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: self.now))


def test_no_work_fails_because_that_of_its_own_batch_took_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with running(workers=2, queue_timeout=10) as pool:

        async def test() -> None:
            other, held = await hold(pool)
            first, others = Gate(), Gate()
            large = asyncio.create_task(batch(pool, first.work, *(3 * [others.work])))
            await first.begun()
            clock.now += 11
            other.open()  # a worker is free, and another still at the first of the batch
            await held
            await others.begun()
            first.open()
            await others.begun()
            clock.now += 11
            others.open()  # and now both are free, after a while
            assert not any(isinstance(outcome, Exception) for outcome in await large)
            assert pool.load().timed_out == 0

        run(test)


def test_a_batch_that_others_keep_waiting_too_long_keeps_what_was_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    with running(queue_timeout=10) as pool:

        async def test() -> None:
            gate, other = Gate(), Gate()
            large = asyncio.create_task(batch(pool, gate.work, lambda _: "in time", *(3 * [gate.work])))
            await gate.begun()
            held = asyncio.create_task(request(pool, other.work))
            await until(lambda: pool.load().waiting == 1)
            hopeless = asyncio.create_task(batch(pool, *(2 * [gate.work])))
            await until(lambda: pool.load().waiting == 2)
            gate.open()
            await other.begun()  # after the second of the first batch, which has the next turn
            clock.now += 11
            other.open()
            await held
            first, second, *late = await large
            assert (isinstance(first, int), second) == (True, "in time")
            assert [type(outcome) for outcome in late] == 3 * [QueueTimeout]
            assert [type(outcome) for outcome in await hopeless] == 2 * [QueueTimeout]
            # One for each request.
            assert pool.load() == Load(admitted=0, waiting=0, running=0, refused=0, timed_out=2)

        run(test)


def test_of_a_batch_whose_caller_has_gone_nothing_more_is_begun() -> None:
    with running(workers=1, queue_size=0) as pool:

        async def test() -> None:
            gate = Gate()
            begun: list[Worker] = []
            gone = asyncio.create_task(batch(pool, gate.work, *(5 * [begun.append])))
            await gate.begun()
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            # Its place is that of the work that a worker is still at.
            assert pool.load() == Load(admitted=0, waiting=0, running=1, refused=0, timed_out=0)
            with pytest.raises(Overloaded):
                pool.admit()
            gate.open()
            await until(lambda: pool.load().running == 0)
            assert await request(pool, lambda _: "served") == "served"
            assert begun == []

        run(test)


def test_draining_finishes_batches_that_were_accepted() -> None:
    pool = Pool(Worker, workers=1, queue_size=4, queue_timeout=PATIENCE)
    pool.start()

    async def test() -> None:
        gate = Gate()
        large = asyncio.create_task(batch(pool, gate.work, *(lambda _, n=n: n for n in range(5))))
        await gate.begun()
        drained = asyncio.create_task(pool.drain(PATIENCE))
        await until(lambda: not pool.accepting)
        gate.open()
        assert (await large)[1:] == [0, 1, 2, 3, 4]
        assert await drained

    run(test)


def test_a_drain_that_runs_out_of_time_fails_what_was_not_begun_of_a_batch() -> None:
    pool = Pool(Worker, workers=1, queue_size=4, queue_timeout=PATIENCE)
    pool.start()

    async def test() -> None:
        gate = Gate()
        large = asyncio.create_task(batch(pool, *(3 * [gate.work])))
        await gate.begun()
        assert not await pool.drain(0)
        gate.open()
        done, *left = await large
        assert isinstance(done, int)
        assert [type(outcome) for outcome in left] == [ShuttingDown, ShuttingDown]
        await until(lambda: pool.load() == Load(0, 0, 0, 0, 0))

    run(test)


class Body:
    """Stands for the bytes of an image; unlike bytes, it can be watched."""


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_of_a_request_stays_in_memory_when_it_is_answered(fails: bool) -> None:
    with running() as pool:

        async def handle(body: Body) -> None:
            def work(_: Worker) -> None:
                assert body
                if fails:
                    raise ValueError("damaged")

            with pool.admit() as ticket:
                await ticket.run(work)

        async def test() -> None:
            body = Body()
            watched = weakref.ref(body)
            await asyncio.gather(handle(body), return_exceptions=True)
            del body
            await until(lambda: watched() is None)

        gc.disable()  # the collector would find it in the end, after how many megabytes nobody knows
        try:
            run(test)
        finally:
            gc.enable()


def test_nothing_of_an_image_stays_in_memory_while_others_of_its_batch_are_looked_at() -> None:
    with running() as pool:

        def work_on(body: Body) -> Callable[[Worker], None]:
            return lambda _: body and None

        async def test() -> None:
            gate = Gate()
            body = Body()
            watched = weakref.ref(body)
            with pool.admit() as ticket:
                done, held = ticket.submit([work_on(body), gate.work])
                del body
                await done
                await gate.begun()
                await until(lambda: watched() is None)
                gate.open()
                await held

        gc.disable()
        try:
            run(test)
        finally:
            gc.enable()


@pytest.mark.parametrize("most", [1, 4], ids=["one by one", "in batches"])
def test_a_crowd_that_comes_and_goes_leaves_exact_counts(most: int) -> None:
    with running(workers=2, queue_size=6) as pool:

        async def test() -> None:
            chance = random.Random(0)
            outcomes = {"served": 0, "refused": 0, "gone": 0, "failed": 0}

            def work(worker: Worker) -> int:
                if chance.random() < 0.2:
                    raise ValueError
                return worker.thread

            async def visit() -> None:
                try:
                    with pool.admit() as ticket:
                        await asyncio.gather(*ticket.submit(chance.randint(1, most) * [work]))
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
            await until(lambda: pool.load().admitted == 0)

        run(test)
