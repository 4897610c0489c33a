"""Which pages of other origins may ask from a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from agegender.settings import Settings
from helpers import Server, Service, check_problem
from local_service import LocalService

ORIGIN, OTHER = "https://app.example", "http://localhost:3000"
STRANGERS = ["https://evil.example", "http://app.example", "https://app.example:8443", "null"]


@pytest.fixture(scope="module")
def open_server(models_folder: Path) -> Iterator[LocalService]:
    """Two origins may ask, each caller twice an hour, with a key."""
    settings = Settings(
        models=models_folder,
        workers=1,
        cors_origins=f"{ORIGIN}, {OTHER}",
        rate_limit="1/hour",
        api_keys="key,second",
    )
    with LocalService(settings) as running:
        yield running


def may_read(answer: httpx.Response) -> bool:
    """Whether a browser shows this answer, its request id and its Retry-After to a page of ORIGIN."""
    exposed = {name.strip() for name in answer.headers.get("access-control-expose-headers", "").split(",")}
    return answer.headers.get("access-control-allow-origin") in (ORIGIN, "*") and exposed >= {
        "X-Request-ID",
        "Retry-After",
    }


def ask_first(server: Service, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-api-key, x-request-id",
    }
    return server.client.options("/predict", headers=headers)


@pytest.mark.parametrize("origin", [ORIGIN, OTHER])
def test_a_page_that_is_named_may_send_a_photograph_and_a_key(open_server: LocalService, origin: str) -> None:
    answer = ask_first(open_server, origin)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].lower()
    assert all(name in allowed for name in ("content-type", "x-api-key", "x-request-id"))
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("origin", STRANGERS)
def test_any_other_may_not(open_server: LocalService, origin: str) -> None:
    for answer in (
        ask_first(open_server, origin),
        open_server.client.get("/health/live", headers={"Origin": origin}),
    ):
        assert "access-control-allow-origin" not in answer.headers


def test_errors_can_be_read_too(open_server: LocalService) -> None:
    client, origin = open_server.client, {"Origin": ORIGIN}
    key = {**origin, "X-API-Key": "key"}
    answers = [client.get("/models", headers=key) for _ in range(2)]
    answers.append(client.get("/models", headers=origin))
    answers.append(client.post("/predict", content=b"bread", headers={**origin, "X-API-Key": "second"}))
    answers += [client.get(path, headers=origin) for path in ("/nowhere", "/predict")]
    assert [answer.status_code for answer in answers] == [200, 429, 401, 400, 404, 405]
    for answer in answers:
        assert may_read(answer)
        assert "Origin" in answer.headers["vary"]


def test_by_default_no_page_of_another_origin_may(server: Server) -> None:
    check_problem(ask_first(server, ORIGIN), 405, "method-not-allowed")
    assert not may_read(server.client.get("/models", headers={"Origin": ORIGIN}))
