"""What is let in, what waits and what is refused, while the workers are held busy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.inference.pool import Load
from agegender.settings import Settings
from helpers import PATIENCE, Upload, check_problem, grey, png, until
from local_service import GatedService, gated_service

IMAGE = png(grey(51))
WORKERS, QUEUE_SIZE = 2, 3


@pytest.fixture
def service(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatedService]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    settings = Settings(models=models_folder, workers=WORKERS, queue_size=QUEUE_SIZE)
    with gated_service(settings, monkeypatch) as gated:
        yield gated


@asynccontextmanager
async def filled(service: GatedService) -> AsyncIterator[tuple[httpx.AsyncClient, list[Any]]]:
    """A client, and its requests that keep every worker busy and fill the queue, in the order in which they came."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=service.url, timeout=PATIENCE, limits=limits, trust_env=False
    ) as client:
        service.gate.clear()
        requests: list[Any] = []
        while len(requests) < WORKERS + QUEUE_SIZE:
            requests.append(asyncio.create_task(ask(client)))
            await until(lambda: service.load().running + service.load().waiting == len(requests))
        await until(lambda: (service.load().running, service.load().waiting) == (WORKERS, QUEUE_SIZE))
        yield client, requests


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/predict?detector=none", content=IMAGE, headers={"Content-Type": "image/png"})


def test_when_all_places_are_taken_the_next_ten_are_refused_and_all_that_were_let_in_succeed(
    service: GatedService,
) -> None:
    async def test() -> None:
        async with filled(service) as (client, requests):
            for refused in await asyncio.gather(*(ask(client) for _ in range(10))):
                check_problem(refused, 503, "overloaded")
                assert refused.headers["retry-after"] == "1"
            for path in ("/health/live", "/health/ready", "/models"):
                assert (await client.get(path)).status_code == 200
            metrics = (await client.get("/metrics")).text
            assert 'agegender_requests_total{route="/predict",status="503"} 10.0' in metrics
            for line in ("refused_total 10.0", "running 2.0", "queue_waiting 3.0", "places 5.0"):
                assert f"\nagegender_{line}\n" in metrics
            assert not any(request.done() for request in requests)

            service.gate.set()
            for answer in await asyncio.gather(*requests):
                assert answer.status_code == 200
                assert answer.json()["faces"][0]["age"]["years"] == 20
            assert service.load() == Load(admitted=0, waiting=0, running=0, refused=10, timed_out=0)
            assert (await ask(client)).status_code == 200

    asyncio.run(test())


def test_a_refusal_comes_before_anything_else_is_looked_at(service: GatedService) -> None:
    async def test() -> None:
        async with filled(service) as (client, requests):
            check_problem(await client.post("/predict?model=nobody&colour=blue"), 503, "overloaded")
            batch = await client.post("/predict/batch?model=nobody")
            check_problem(batch, 503, "overloaded", "/predict/batch")
            service.gate.set()
            await asyncio.gather(*requests)
            check_problem(await client.post("/predict?model=nobody"), 404, "model-unknown")

    asyncio.run(test())


def test_a_refusal_comes_before_the_body_is_sent(service: GatedService) -> None:
    async def test() -> None:
        async with filled(service) as (_, requests):
            upload = await asyncio.to_thread(Upload, service, length=len(IMAGE), wait=False)
            check_problem(await asyncio.to_thread(upload.answer), 503, "overloaded")
            service.gate.set()
            await asyncio.gather(*requests)

    asyncio.run(test())


def test_what_has_yet_to_arrive_takes_no_place(service: GatedService) -> None:
    uploads = [Upload(service, length=len(IMAGE)) for _ in range(WORKERS + QUEUE_SIZE + 1)]
    assert service.load().admitted == len(uploads)

    async def test() -> None:
        async with filled(service) as (_, requests):
            uploads[0].send(IMAGE)
            late = await asyncio.to_thread(uploads[0].answer)
            check_problem(late, 503, "overloaded")
            service.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 5

    asyncio.run(test())
    for upload in uploads[1:]:
        upload.send(IMAGE)
        assert upload.answer().status_code == 200


def test_a_caller_who_leaves_the_queue_makes_room_for_the_next(service: GatedService) -> None:
    async def test() -> None:
        async with filled(service) as (client, requests):
            requests[-1].cancel()
            await until(lambda: service.load().waiting == QUEUE_SIZE - 1)
            requests[-1] = asyncio.create_task(ask(client))
            await until(lambda: service.load().waiting == QUEUE_SIZE)
            service.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*requests)] == [200] * 5
            assert service.load().refused == 0

    asyncio.run(test())
