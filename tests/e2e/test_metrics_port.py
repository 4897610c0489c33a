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


def test_nothing_else_is_there(metrics: httpx.Client) -> None:
    assert metrics.post("/predict", content=png(grey())).status_code == 405
    assert "agegender_build_info" in metrics.get("/openapi.json").text
