"""Batches beside other requests, while the workers are held busy: who waits for whom, and how long for."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from agegender.api import upload
from agegender.api.upload import SentImage
from agegender.inference.pool import Load
from agegender.settings import Settings
from helpers import PATIENCE, Upload, check_problem, grey, png, serving, until
from local_service import GatedService, gated_service

SINGLE = png(grey(51))
# Each has other bytes, and is of another width: 100 and more.
IMAGES = [png(grey(51, width)) for width in range(100, 132)]
IDLE = Load(admitted=0, waiting=0, running=0, refused=0, timed_out=0)
BOUNDARY = "multipart/form-data; boundary=b"


@pytest.fixture
def service(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[GatedService]:
    """Two workers and a queue of three."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    with gated_service(Settings(models=models_folder, workers=2, queue_size=3), monkeypatch) as gated:
        yield gated


def connected(service: GatedService) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=service.url, timeout=PATIENCE, limits=limits, trust_env=False)


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/predict?detector=none", content=SINGLE, headers={"Content-Type": "image/png"})


async def ask_batch(client: httpx.AsyncClient, images: list[bytes]) -> httpx.Response:
    files = [("images", (f"{place}.png", image)) for place, image in enumerate(images)]
    return await client.post("/predict/batch?detector=none", files=files)


def check_batch(answer: httpx.Response, images: list[bytes]) -> None:
    """Assert that each image is answered, in its place."""
    assert answer.status_code == 200, answer.text
    widths = [result["prediction"]["image"]["width"] for result in answer.json()["results"]]
    assert widths == [100 + IMAGES.index(image) for image in images]


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


def form(images: list[bytes]) -> bytes:
    head = b'--b\r\nContent-Disposition: form-data; name="images"; filename="p.png"\r\n\r\n'
    return b"".join(head + image + b"\r\n" for image in images) + b"--b--\r\n"


def test_a_photograph_sent_beside_a_batch_of_32_waits_for_one_image_of_it(service: GatedService) -> None:
    async def test() -> None:
        service.gate.clear()
        service.gates = {image: threading.Event() for image in IMAGES[:2]}
        async with connected(service) as client:
            batch = asyncio.create_task(ask_batch(client, IMAGES))
            await until(lambda: len(service.begun) == 2)  # alone it has both workers
            single = asyncio.create_task(ask(client))
            await until(lambda: service.load().waiting == 1)
            service.gates[IMAGES[1]].set()
            await until(lambda: len(service.begun) == 3)
            assert service.begun[2] == SINGLE
            service.gates[IMAGES[0]].set()
            service.gate.set()
            assert (await single).status_code == 200
            check_batch(await batch, IMAGES)
            assert service.load() == IDLE

    asyncio.run(test())


def test_each_takes_one_place_and_none_that_was_let_in_is_refused_later(service: GatedService) -> None:
    async def test() -> None:
        service.gate.clear()
        async with connected(service) as client:
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

    asyncio.run(test())


def test_one_that_finds_no_place_when_it_has_arrived_is_refused_whole(service: GatedService) -> None:
    batch = form(IMAGES[:3])
    upload = Upload(service, path="/predict/batch", length=len(batch), content_type=BOUNDARY)

    async def test() -> None:
        service.gate.clear()
        async with connected(service) as client:
            singles = [asyncio.create_task(ask(client)) for _ in range(5)]
            await until(lambda: service.load().waiting == 3)
            await asyncio.to_thread(upload.send, batch)
            late = await asyncio.to_thread(upload.answer)
            check_problem(late, 503, "overloaded", "/predict/batch")
            service.gate.set()
            assert [answer.status_code for answer in await asyncio.gather(*singles)] == [200] * 5
            assert service.begun == [SINGLE] * 5
            assert service.memory() == 0

    asyncio.run(test())


def test_what_others_kept_waiting_too_long_says_so_and_the_rest_is_answered(
    service: GatedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    monkeypatch.setattr("agegender.inference.pool.time", SimpleNamespace(monotonic=lambda: now))

    async def test() -> None:
        nonlocal now
        service.gate.clear()
        service.gates = {image: threading.Event() for image in IMAGES[:3]}
        async with connected(service) as client:
            batch = asyncio.create_task(ask_batch(client, IMAGES[:5]))
            await until(lambda: len(service.begun) == 2)
            singles = [asyncio.create_task(ask(client)) for _ in range(2)]
            await until(lambda: service.load().waiting == 2)
            hopeless = asyncio.create_task(ask_batch(client, IMAGES[5:7]))
            await until(lambda: service.load().waiting == 3)
            for gate in list(service.gates.values())[:2]:
                gate.set()
            await until(lambda: service.begun[2:] == [SINGLE, SINGLE])
            await until(lambda: service.queued() == 4)  # two of the rest of the first batch, and the second
            now += 11  # more than the 10 seconds of the queue
            service.gate.set()
            results = (await batch).json()["results"]
            assert ["prediction" in result for result in results] == [True, True, False, False, False]
            for result in results[2:]:
                error = result["error"]
                assert (error["type"], error["status"]) == ("/problems/queue-timeout", 503)
            check_problem(await hopeless, 503, "queue-timeout", "/predict/batch")
            assert [answer.status_code for answer in await asyncio.gather(*singles)] == [200, 200]
            assert service.load() == Load(admitted=0, waiting=0, running=0, refused=0, timed_out=2)
            metrics = (await client.get("/metrics")).text
            assert "\nagegender_queue_timeouts_total 2.0\n" in metrics
            assert '\nagegender_batch_errors_total{status="503"} 3.0\n' in metrics

    asyncio.run(test())


def test_memory_is_given_back_image_by_image(service: GatedService) -> None:
    large = [image + bytes(2**20) for image in IMAGES[:3]]

    async def test() -> None:
        service.gates = {large[2]: threading.Event()}
        async with connected(service) as client:
            batch = asyncio.create_task(ask_batch(client, large))
            await until(lambda: len(service.begun) == 3)
            await until(lambda: service.memory() < 1.1 * 2**20)
            assert service.memory() > 2**20
            service.gates[large[2]].set()
            assert (await batch).status_code == 200
            assert service.memory() == 0

    asyncio.run(test())


def test_all_together_leave_half_of_the_memory_to_photographs(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    settings = Settings(models=models_folder, workers=1, max_bytes=40_000, arrival_memory=40_000)
    assert settings.max_batch_bytes == 10_000
    padded = [image + bytes(4000) for image in IMAGES[:2]]

    async def test(service: GatedService) -> None:
        service.gate.clear()
        async with connected(service) as client:
            batches = [asyncio.create_task(ask_batch(client, padded)) for _ in range(2)]
            # One is begun, and both are held in memory.
            await until(lambda: (service.load().running, service.load().waiting) == (1, 1))
            assert 16_000 < service.memory() < 20_000
            check_problem(await ask_batch(client, padded), 503, "overloaded", "/predict/batch")
            single = asyncio.create_task(client.post("/predict", content=SINGLE + bytes(20_000)))
            await until(lambda: service.load().waiting == 2)
            service.gate.set()
            assert (await single).status_code == 200
            for batch in batches:
                assert (await batch).status_code == 200
            assert "\nagegender_refused_total 1.0\n" in (await client.get("/metrics")).text

    with gated_service(settings, monkeypatch) as service:
        asyncio.run(test(service))


def test_of_one_whose_sender_leaves_nothing_more_is_begun(service: GatedService) -> None:
    async def test() -> None:
        service.gate.clear()
        async with connected(service) as client:
            batch = asyncio.create_task(ask_batch(client, IMAGES))
            await until(lambda: len(service.begun) == 2)
            batch.cancel()
            await until(lambda: service.load().admitted == 0)
            assert service.memory() == 0
            assert service.load().running == 1  # the two images that the workers are at
            service.gate.set()
            await until(lambda: service.load() == IDLE)
            assert len(service.begun) == 2
            assert (await ask(client)).status_code == 200

    asyncio.run(test())


def test_nothing_of_one_stays_in_memory_when_it_is_answered(
    service: GatedService, kept: list[weakref.ref[SentImage]]
) -> None:
    async def test() -> None:
        async with connected(service) as client:
            answer = await ask_batch(client, [*IMAGES[:3], b"this is no image", IMAGES[3][:-20]])
            assert ["error" in result for result in answer.json()["results"]] == 3 * [False] + 2 * [True]
            assert len(kept) == 5
            await until(lambda: not any(image() for image in kept))

    asyncio.run(test())


def test_nothing_of_one_stays_in_memory_when_its_sender_has_left(
    service: GatedService, kept: list[weakref.ref[SentImage]]
) -> None:
    async def test() -> None:
        service.gate.clear()
        async with connected(service) as client:
            batch = asyncio.create_task(ask_batch(client, IMAGES))
            await until(lambda: len(service.begun) == 2)
            batch.cancel()
            await until(lambda: sum(image() is not None for image in kept) == 2)
            service.gate.set()
            await until(lambda: not any(image() for image in kept))

    asyncio.run(test())


def test_the_signal_to_stop_lets_one_that_was_accepted_finish(models_folder: Path, empty_cache: Path) -> None:
    batch = form(IMAGES)
    with serving(models_folder, empty_cache, "--workers=2", "--queue-size=0") as server:
        upload = Upload(
            server, path="/predict/batch", query="?detector=none", length=len(batch), content_type=BOUNDARY
        )
        upload.send(batch[:1000])
        server.process.terminate()
        server.wait_for_line("Waiting for connections to close")
        upload.send(batch[1000:])
        check_batch(upload.answer(), IMAGES)
        assert server.end() == 0
    assert '"level": "error"' not in server.log()
