"""The order in which the workers take what waits; tests/e2e has what callers see of the queue."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from agegender.inference.pool import Overloaded, Pool
from helpers import PATIENCE, until

Work = Callable[[], object]


@contextmanager
def running(workers: int = 1, queue_size: int = 4) -> Iterator[Pool]:
    pool = Pool(workers=workers, queue_size=queue_size, queue_timeout=PATIENCE)
    yield pool
    asyncio.run(until(pool.stop))
    left = pool.load()
    assert (left.admitted, left.waiting, left.running) == (0, 0, 0)
    asyncio.run(until(lambda: not any(thread.name.startswith("worker") for thread in threading.enumerate())))


async def ask(pool: Pool, *works: Work) -> list[object]:
    """What a handler does with the images of one request."""
    with pool.admit(), pool.place() as place:
        return await asyncio.gather(*map(place.run, works))


@asynccontextmanager
async def held(pool: Pool) -> AsyncIterator[None]:
    """Keep the only worker busy for the length of a `with` block."""
    gate = threading.Event()
    holding = asyncio.create_task(ask(pool, lambda: gate.wait(PATIENCE)))
    await until(lambda: pool.load().running == 1)
    yield
    gate.set()
    await holding


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), PATIENCE))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("requests", "order"),
    [(["a", "b", "c", "d"], "abcd"), (["aaaa", "bbbb"], "abababab"), (["aaa", "b"], "abaa")],
    ids=["single images", "batches take turns", "a single one beside a batch"],
)
def test_work_is_begun_in_the_order_in_which_it_came(requests: list[str], order: str) -> None:
    with running() as pool:

        async def test() -> None:
            begun: list[str] = []
            async with held(pool):
                waiting = []
                for number, names in enumerate(requests):
                    works = [lambda name=name: begun.append(name) for name in names]
                    waiting.append(asyncio.create_task(ask(pool, *works)))
                    await until(lambda number=number: pool.load().waiting == number + 1)
                assert begun == []
            await asyncio.gather(*waiting)
            assert "".join(begun) == order

        run(test)


@pytest.mark.parametrize("most", [1, 4], ids=["one by one", "in batches"])
def test_a_crowd_that_comes_and_goes_leaves_exact_counts(most: int) -> None:
    with running(workers=2, queue_size=6) as pool:

        async def test() -> None:
            chance = random.Random(0)
            outcomes = {"served": 0, "refused": 0, "gone": 0, "failed": 0}

            def work() -> None:
                if chance.random() < 0.2:
                    raise ValueError

            async def visit() -> None:
                try:
                    await ask(pool, *(chance.randint(1, most) * [work]))
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
