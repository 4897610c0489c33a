"""How often a caller may ask, and who counts as one caller."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import IMAGE, Upload, check_problem, in_process, wait_until
from local_service import LocalService

UNLIMITED = ["/health/live", "/health/ready", "/metrics", "/", "/docs", "/openapi.json"]


def check_limited(answer: httpx.Response, path: str) -> None:
    detail = check_problem(answer, 429, "rate-limited", path)
    seconds = int(answer.headers["retry-after"])
    assert 3590 <= seconds <= 3600
    assert detail == f"Requests are limited to 3 per hour: try again in {seconds} seconds."


@pytest.fixture(scope="module")
def limited_server(models_folder: Path) -> Iterator[LocalService]:
    """Three requests an hour for each key, and a key for each test."""
    settings = Settings(models=models_folder, workers=1, rate_limit="3/hour", api_keys="one,two,three")
    with LocalService(settings) as running:
        yield running


def test_all_requests_of_a_key_count_together_and_those_of_others_apart(limited_server: LocalService) -> None:
    client, key = limited_server.client, {"X-API-Key": "one"}
    files = 4 * [("images", ("photo.png", IMAGE))]
    assert client.get("/models/age_gender_Z", headers=key).status_code == 404
    assert client.post("/predict?detector=none", content=IMAGE, headers=key).status_code == 200
    assert client.post("/predict/batch?detector=none", files=files, headers=key).status_code == 200
    for _ in range(2):
        check_limited(client.get("/models", headers=key), "/models")
        check_limited(client.post("/predict", content=IMAGE, headers=key), "/predict")
        check_limited(client.post("/predict/batch", files=files, headers=key), "/predict/batch")
    assert client.get("/models", headers={"X-API-Key": "two"}).status_code == 200


def test_without_a_key_nothing_is_counted(limited_server: LocalService) -> None:
    for sent in 5 * [{}, {"X-API-Key": "wrong"}]:
        check_problem(limited_server.client.get("/models", headers=sent), 401, "unauthorized", "/models")


def test_the_limit_comes_before_the_body(limited_server: LocalService) -> None:
    for _ in range(3):
        assert limited_server.client.get("/models", headers={"X-API-Key": "three"}).status_code == 200
    upload = Upload(limited_server, length=10 * 2**20, wait=False, **{"X-API-Key": "three"})
    check_limited(upload.answer(), "/predict")


def test_where_no_keys_are_set_addresses_count_and_nobody_talks_himself_into_another(
    models_folder: Path,
) -> None:
    with LocalService(Settings(models=models_folder, workers=1, rate_limit="3/hour")) as server:
        for other in ("198.51.100.1", "198.51.100.2", "unknown"):
            headers = {"X-Forwarded-For": other, "Forwarded": f"for={other}", "X-API-Key": other}
            assert server.client.get("/models", headers=headers).status_code == 200
        headers = {"X-Forwarded-For": "198.51.100.3", "X-API-Key": "another"}
        check_limited(server.client.get("/models", headers=headers), "/models")
        for path in 2 * UNLIMITED:
            assert server.client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("proxies", "trusted"), [("127.0.0.1", True), ("192.0.2.1, 127.0.0.0/8", True), ("192.0.2.1", False)]
)
def test_a_trusted_proxy_alone_says_who_asks(models_folder: Path, proxies: str, trusted: bool) -> None:
    def status(forwarded_for: str) -> int:
        return server.client.get("/models", headers={"X-Forwarded-For": forwarded_for}).status_code

    settings = Settings(models=models_folder, workers=1, rate_limit="1/hour", trusted_proxies=proxies)
    with LocalService(settings) as server:
        assert status("198.51.100.1") == 200
        assert status("198.51.100.2") == (200 if trusted else 429)
        # What the caller himself wrote there stands before what the proxy saw.
        assert status("203.0.113.9, 198.51.100.1") == 429
        assert status("198.51.100.1, 203.0.113.9") == (200 if trusted else 429)


def test_who_waits_as_long_as_told_is_let_in(models_folder: Path) -> None:
    with LocalService(Settings(models=models_folder, workers=1, rate_limit="1/second")) as server:
        refused = next(answer for _ in range(1000) if (answer := server.client.get("/models")).is_error)
        detail = check_problem(refused, 429, "rate-limited", "/models")
        assert (refused.headers["retry-after"], "1 per second" in detail) == ("1", True)
        wait_until(lambda: server.client.get("/models").status_code != 429, "the caller is let in")


def test_an_ipv6_caller_is_as_many_addresses_as_he_has(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(app: FastAPI, _: httpx.AsyncClient) -> None:
        async def status(address: str) -> int:
            transport = httpx.ASGITransport(app, client=(address, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
                return (await client.get("/models")).status_code

        assert await status("2001:db8:0:1::1") == 200
        assert await status("2001:db8:0:1:ffff::2") == 429
        assert await status("2001:db8:0:2::1") == 200
        # As a socket that takes both kinds names callers in IPv4: each is one.
        assert await status("::ffff:198.51.100.1") == 200
        assert await status("::ffff:198.51.100.2") == 200
        assert await status("198.51.100.1") == 429
        # Whatever cannot be told apart counts as one.
        assert (await status("unknown"), await status("no address")) == (200, 429)

    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    in_process(Settings(models=models_folder, workers=1, rate_limit="1/hour"), ask)
