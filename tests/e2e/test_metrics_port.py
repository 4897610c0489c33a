"""GET /metrics on a port of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from helpers import PATIENCE, Server, check_problem, grey, png, serving


@pytest.fixture(scope="module")
def server(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    options = ["--workers=1", "--metrics-port=0"]
    with serving(models_folder, empty_cache, *options, AGEGENDER_API_KEYS="key") as running:
        yield running


@pytest.fixture(scope="module")
def metrics(server: Server) -> Iterator[httpx.Client]:
    (url,) = re.findall(r"http://[\w.:]+", server.wait_for_line("metrics are at")["message"])
    assert url != server.url
    with httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False) as client:
        yield client


def test_they_count_what_the_service_does(server: Server, metrics: httpx.Client) -> None:
    headers = {"X-API-Key": "key"}
    answer = server.client.post("/predict?detector=none", content=png(grey()), headers=headers)
    assert answer.status_code == 200
    shown = metrics.get("/metrics")
    assert shown.status_code == 200
    assert shown.headers["content-type"].startswith("text/plain")
    assert 'agegender_requests_total{route="/predict",status="200"} 1.0' in shown.text
    assert 'agegender_model_loaded{model="age_gender_B"} 1.0' in shown.text


def test_they_are_not_on_the_other_port(server: Server) -> None:
    check_problem(server.client.get("/metrics"), 404, "not-found", "/metrics")
    assert "/metrics" not in server.client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/predict"),
        ("GET", "/models"),
        ("GET", "/health/live"),
        ("GET", "/"),
        ("GET", "/openapi.json"),
    ],
)
def test_nothing_else_is_there(metrics: httpx.Client, method: str, path: str) -> None:
    check_problem(metrics.request(method, path), 404, "not-found", path)


def test_an_answer_is_as_careful_as_on_the_other_port(metrics: httpx.Client) -> None:
    headers = metrics.get("/metrics", headers={"X-Request-ID": "scrape-1"}).headers
    assert headers["x-request-id"] == "scrape-1"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers


def test_both_stop_together(models_folder: Path, empty_cache: Path) -> None:
    with serving(models_folder, empty_cache, "--workers=1", "--metrics-port=0") as server:
        (url,) = re.findall(r"http://[\w.:/]+", server.wait_for_line("metrics are at")["message"])
        with httpx.Client(trust_env=False) as client:
            assert client.get(url).status_code == 200  # and the connection stays open
            assert server.stop() == 0
            with pytest.raises(httpx.TransportError):
                client.get(url)
    assert '"level": "error"' not in server.log()
