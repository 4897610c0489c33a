"""What the service says of itself: whether it is live and ready, and its models."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import IMAGE, YUNET, Server, check_problem, in_process
from tiny_models import metadata


@pytest.mark.parametrize("state", ["live", "ready"])
def test_a_running_service_is_live_and_ready(server: Server, state: str) -> None:
    answer = server.client.get(f"/health/{state}")
    assert (answer.status_code, answer.json()) == (200, {"status": state})


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/models", "/", "/metrics"])
def test_head_answers_what_get_does_but_the_body(server: Server, path: str) -> None:
    head, got = server.client.head(path), server.client.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    assert server.request_line(head.headers["x-request-id"])["method"] == "HEAD"


def test_a_service_that_shuts_down_is_live_but_not_ready_and_takes_no_predictions(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(app: FastAPI, client: httpx.AsyncClient) -> None:
        assert (await client.get("/health/ready")).status_code == 200
        app.state.service.pool.close()  # as the signal to stop does, soon after which a server's socket closes
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/models")).status_code == 200
        check_problem(await client.get("/health/ready"), 503, "shutting-down", "/health/ready")
        check_problem(await client.post("/predict", content=IMAGE), 503, "shutting-down")

    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    in_process(Settings(models=models_folder, workers=1), ask)


def test_models_are_listed_with_all_that_is_known_of_them(server: Server, models_folder: Path) -> None:
    answer = server.client.get("/models")
    assert answer.status_code == 200
    listing = answer.json()
    assert listing["default"] == "age_gender_B"
    assert listing["detector"] == ("yunet" if YUNET.exists() else "haar")
    assert [model["id"] for model in listing["models"]] == ["age_gender_A", "age_gender_B"]
    for model in listing["models"]:
        known = metadata(model["id"], (models_folder / f"{model['id']}.onnx").read_bytes())
        del known["age_interval"]
        assert model == {**known, "loaded": True}
        assert server.client.get(f"/models/{model['id']}").json() == model
