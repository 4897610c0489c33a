"""Who is let in, who waits for whom and who is refused, while the workers are held busy."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from agegender.api import upload
from agegender.api.upload import SentImage
from agegender.inference.pool import Load
from agegender.settings import Settings
from helpers import FORM, FORM_END, IMAGE, PATIENCE, Upload, check_problem, grey, part, png, until
from local_service import GatedService, gated_service

# Each has other bytes, and is of another width: 100 and more.
IMAGES = [png(grey(51, width)) for width in range(100, 132)]
WORKERS, QUEUE_SIZE = 2, 3
PLACES = WORKERS + QUEUE_SIZE
IDLE = Load(admitted=0, waiting=0, running=0, refused=0, timed_out=0)

Test = Callable[[httpx.AsyncClient], Awaitable[None]]


@pytest.fixture(params=[{"workers": WORKERS, "queue_size": QUEUE_SIZE}])
def service(
    request: pytest.FixtureRequest, models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatedService]:
    """With these settings, or with those that a test names in their place by `with_settings`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    with gated_service(Settings(models=models_folder, **request.param), monkeypatch) as gated:
        yield gated


def with_settings(**settings: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("service", [settings], indirect=True)


def run(service: GatedService, test: Test) -> None:
    """Run `test` with a client that has as many connections as it likes, and a shut gate before the workers."""

    async def with_client() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=service.url, timeout=PATIENCE, limits=limits, trust_env=False
        ) as client:
            service.gate.clear()
            await test(client)

    asyncio.run(with_client())


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/predict?detector=none", content=IMAGE)


async def ask_batch(client: httpx.AsyncClient, images: list[bytes]) -> httpx.Response:
    files = [("images", (f"{place}.png", image)) for place, image in enumerate(images)]
    return await client.post("/predict/batch?detector=none", files=files)


def check_batch(answer: httpx.Response, images: list[bytes]) -> None:
    """Assert that each image is answered, in its place."""
    assert answer.status_code == 200, answer.text
    widths = [result["prediction"]["image"]["width"] for result in answer.json()["results"]]
    assert widths == [100 + IMAGES.index(image) for image in images]


@asynccontextmanager
async def filled(
    service: GatedService, client: httpx.AsyncClient
) -> AsyncIterator[list[asyncio.Task[httpx.Response]]]:
    """Requests that keep every worker busy and fill the queue, until the gate opens; all must be answered."""
    requests: list[asyncio.Task[httpx.Response]] = []
    while len(requests) < PLACES:
        requests.append(asyncio.create_task(ask(client)))
        await until(lambda: service.load().running + service.load().waiting == len(requests))
    await until(lambda: (service.load().running, service.load().waiting) == (WORKERS, QUEUE_SIZE))
    yield requests
    service.gate.set()
    for answer in await asyncio.gather(*requests):
        assert answer.status_code == 200
        assert answer.json()["faces"][0]["age"]["years"] == 20


# Single images


def test_when_all_places_are_taken_the_next_ten_are_refused_and_all_that_were_let_in_succeed(
    service: GatedService,
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with filled(service, client) as requests:
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
        assert service.load() == Load(admitted=0, waiting=0, running=0, refused=10, timed_out=0)
        assert (await ask(client)).status_code == 200

    run(service, test)


def test_a_refusal_comes_before_anything_else_is_looked_at(service: GatedService) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with filled(service, client):
            check_problem(await client.post("/predict?model=nobody&colour=blue"), 503, "overloaded")
            batch = await client.post("/predict/batch?model=nobody")
            check_problem(batch, 503, "overloaded", "/predict/batch")
            not_sent = await asyncio.to_thread(Upload, service, length=len(IMAGE), wait=False)
            check_problem(await asyncio.to_thread(not_sent.answer), 503, "overloaded")
        check_problem(await client.post("/predict?model=nobody"), 404, "model-unknown")

    run(service, test)


def test_what_has_yet_to_arrive_takes_no_place(service: GatedService) -> None:
    uploads = [Upload(service, length=len(IMAGE)) for _ in range(PLACES + 1)]
    form = 3 * part("images") + FORM_END
    batch = Upload(service, path="/predict/batch", length=len(form), content_type=FORM)
    assert service.load().admitted == len(uploads) + 1

    async def test(client: httpx.AsyncClient) -> None:
        async with filled(service, client):
            for late, content, path in ((uploads[0], IMAGE, "/predict"), (batch, form, "/predict/batch")):
                await asyncio.to_thread(late.send, content)
                check_problem(await asyncio.to_thread(late.answer), 503, "overloaded", path)
        assert service.begun == PLACES * [IMAGE]  # nothing of the batch

    run(service, test)
    for sent in uploads[1:]:
        sent.send(IMAGE)
        assert sent.answer().status_code == 200
    assert service.memory() == 0


def test_a_caller_who_leaves_the_queue_makes_room_and_is_not_served(service: GatedService) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        async with filled(service, client) as requests:
            requests[-1].cancel()
            await until(lambda: service.load().waiting == QUEUE_SIZE - 1)
            requests[-1] = asyncio.create_task(ask(client))
            await until(lambda: service.load().waiting == QUEUE_SIZE)
        assert len(service.begun) == PLACES
        assert service.load() == IDLE
        metrics = (await client.get("/metrics")).text
        assert 'agegender_requests_total{route="/predict",status="499"} 1.0' in metrics

    run(service, test)


def test_a_crowd_that_comes_and_goes_leaves_every_place_free(service: GatedService) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        chance = random.Random(0)
        outcomes: Counter[int | None] = Counter()

        async def visit() -> None:
            images = chance.choices([*IMAGES[:4], b"this is no image"], k=chance.randint(1, 4))
            try:
                outcomes[(await ask_batch(client, images)).status_code] += 1
            except asyncio.CancelledError:
                outcomes[None] += 1

        service.gate.set()
        for _ in range(30):
            crowd = [asyncio.create_task(visit()) for _ in range(chance.randint(1, 12))]
            await asyncio.sleep(chance.uniform(0, 0.02))
            for visitor in crowd:
                if chance.random() < 0.3:
                    visitor.cancel()
            await asyncio.gather(*crowd)
        assert outcomes.keys() == {200, 503, None}
        await until(lambda: service.load().admitted == service.load().running == 0)
        assert service.memory() == 0
        service.gate.clear()
        async with filled(service, client):
            check_problem(await ask(client), 503, "overloaded")

    run(service, test)


# Batches


@with_settings(workers=1)
@pytest.mark.parametrize(
    ("requests", "order"),
    [
        (["a", "b", "c", "d"], "abcd"),
        (["aaaa", "bbbb"], "abababab"),
        ([32 * "a", "b"], "ab" + 31 * "a"),
    ],
    ids=["single images", "batches take turns", "a single one beside a batch"],
)
def test_images_are_begun_in_the_order_in_which_they_came(
    service: GatedService, requests: list[str], order: str
) -> None:
    def images(names: str) -> list[bytes]:
        return [IMAGES["abcd".index(name)] for name in names]

    async def test(client: httpx.AsyncClient) -> None:
        sent = [asyncio.create_task(ask(client))]  # which keeps the worker busy
        await until(lambda: service.load().running == 1)
        for names in requests:
            sent.append(asyncio.create_task(ask_batch(client, images(names))))
            await until(lambda: service.load().waiting == len(sent) - 1)
        service.gate.set()
        _, *batches = await asyncio.gather(*sent)
        for batch, names in zip(batches, requests, strict=True):
            check_batch(batch, images(names))
        assert service.begun == [IMAGE, *images(order)]
        assert service.load() == IDLE

    run(service, test)


def test_each_takes_one_place_and_none_that_was_let_in_is_refused_later(service: GatedService) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        batches = [asyncio.create_task(ask_batch(client, IMAGES))]
        await until(lambda: len(service.begun) == 2)
        batches += [asyncio.create_task(ask_batch(client, IMAGES)) for _ in range(3)]
        single = asyncio.create_task(ask(client))
        await until(lambda: service.load().waiting == 4)
        check_problem(await ask(client), 503, "overloaded")
        check_problem(await ask_batch(client, IMAGES[:1]), 503, "overloaded", "/predict/batch")
        service.gate.set()
        assert (await single).status_code == 200
        for batch in batches:
            check_batch(await batch, IMAGES)
        assert service.load() == Load(admitted=0, waiting=0, running=0, refused=2, timed_out=0)

    run(service, test)


def test_what_others_kept_waiting_too_long_says_so_and_the_rest_is_answered(
    service: GatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: now))

    async def test(client: httpx.AsyncClient) -> None:
        nonlocal now
        service.gates = {image: threading.Event() for image in IMAGES[:2]}
        batch = asyncio.create_task(ask_batch(client, IMAGES[:5]))
        await until(lambda: len(service.begun) == 2)
        singles = [asyncio.create_task(ask(client)) for _ in range(2)]
        await until(lambda: service.load().waiting == 2)
        hopeless = asyncio.create_task(ask_batch(client, IMAGES[5:7]))
        await until(lambda: service.load().waiting == 3)
        late = asyncio.create_task(ask(client))
        await until(lambda: service.load().waiting == 4)
        for gate in service.gates.values():
            gate.set()
        await until(lambda: service.begun[2:] == [IMAGE, IMAGE])
        await until(
            lambda: service.queued() == 5
        )  # two of the rest of the first batch, and all that came after
        now += 11  # more than the 10 seconds of the queue
        service.gate.set()
        results = (await batch).json()["results"]
        assert ["prediction" in result for result in results] == [True, True, False, False, False]
        for result in results[2:]:
            error = result["error"]
            assert (error["type"], error["status"]) == ("/problems/queue-timeout", 503)
        check_problem(await hopeless, 503, "queue-timeout", "/predict/batch")
        check_problem(await late, 503, "queue-timeout")
        assert [answer.status_code for answer in await asyncio.gather(*singles)] == [200, 200]
        assert service.load() == Load(admitted=0, waiting=0, running=0, refused=0, timed_out=3)
        metrics = (await client.get("/metrics")).text
        assert "\nagegender_queue_timeouts_total 3.0\n" in metrics
        assert '\nagegender_batch_errors_total{status="503"} 3.0\n' in metrics

    run(service, test)


def test_memory_is_given_back_image_by_image(service: GatedService) -> None:
    large = [image + bytes(2**20) for image in IMAGES[:3]]

    async def test(client: httpx.AsyncClient) -> None:
        service.gate.set()
        service.gates = {large[2]: threading.Event()}
        batch = asyncio.create_task(ask_batch(client, large))
        await until(lambda: len(service.begun) == 3)
        await until(lambda: service.memory() < 1.1 * 2**20)
        assert service.memory() > 2**20
        service.gates[large[2]].set()
        assert (await batch).status_code == 200
        assert service.memory() == 0

    run(service, test)


@with_settings(workers=1, max_bytes=40_000, arrival_memory=40_000)
def test_all_together_leave_half_of_the_memory_to_photographs(service: GatedService) -> None:
    padded = [image + bytes(4000) for image in IMAGES[:2]]

    async def test(client: httpx.AsyncClient) -> None:
        batches = [asyncio.create_task(ask_batch(client, padded)) for _ in range(2)]
        # One is begun, and both are held in memory.
        await until(lambda: (service.load().running, service.load().waiting) == (1, 1))
        assert 16_000 < service.memory() < 20_000
        check_problem(await ask_batch(client, padded), 503, "overloaded", "/predict/batch")
        check_problem(await client.post("/predict", content=IMAGE + bytes(25_000)), 503, "overloaded")
        single = asyncio.create_task(client.post("/predict", content=IMAGE + bytes(20_000)))
        await until(lambda: service.load().waiting == 2)
        service.gate.set()
        for answer in await asyncio.gather(single, *batches):
            assert answer.status_code == 200
        assert "\nagegender_refused_total 2.0\n" in (await client.get("/metrics")).text

    run(service, test)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[SentImage]]]:
    """What was read of batches and must be freed without waiting for the garbage collector."""
    read_batch = upload.read_batch
    read: list[weakref.ref[SentImage]] = []

    async def read_and_note(*args: Any) -> list[SentImage]:
        images = await read_batch(*args)
        read.extend(weakref.ref(image) for image in images)
        return images

    monkeypatch.setattr(upload, "read_batch", read_and_note)
    gc.collect()
    gc.disable()
    yield read
    gc.enable()


def test_nothing_stays_in_memory_of_one_that_is_answered_or_whose_sender_leaves(
    service: GatedService, kept: list[weakref.ref[SentImage]]
) -> None:
    async def test(client: httpx.AsyncClient) -> None:
        batch = asyncio.create_task(ask_batch(client, IMAGES))
        await until(lambda: len(service.begun) == 2)
        batch.cancel()
        await until(lambda: service.load().admitted == 0)
        assert service.memory() == 0
        assert service.load().running == 1  # the two images that the workers are at
        await until(lambda: sum(image() is not None for image in kept) == 2)
        service.gate.set()
        await until(lambda: service.load() == IDLE)
        await until(lambda: not any(image() for image in kept))
        assert len(service.begun) == 2
        answer = await ask_batch(client, [*IMAGES[:3], b"this is no image", IMAGES[3][:-20]])
        assert ["error" in result for result in answer.json()["results"]] == 3 * [False] + 2 * [True]
        assert len(kept) == len(IMAGES) + 5
        await until(lambda: not any(image() for image in kept))

    run(service, test)
