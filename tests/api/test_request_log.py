"""Request ids, and what the log says of a request."""

from __future__ import annotations

import re

import pytest
from helpers import ASTRONAUT, Server, check_problem

PHOTOGRAPH = ASTRONAUT.read_bytes()


@pytest.mark.parametrize("request_id", ["7", "order-66_a.b:c/d+e=f", "x" * 128])
def test_a_sane_request_id_is_the_callers_own(server: Server, request_id: str) -> None:
    headers = {"X-Request-ID": request_id}
    assert server.client.get("/health/live", headers=headers).headers["x-request-id"] == request_id
    refused = server.client.get("/nowhere", headers=headers)
    assert check_problem(refused, 404, "not-found", "/nowhere")
    assert refused.headers["x-request-id"] == request_id


@pytest.mark.parametrize(
    "request_id", [None, "", "x" * 129, "two words", 'quote"', "<script>", "a;b", "ü", "new\tline"]
)
def test_any_other_is_replaced(server: Server, request_id: str | None) -> None:
    headers = {} if request_id is None else {"X-Request-ID": request_id.encode()}
    first, second = (server.client.get("/health/live", headers=headers) for _ in range(2))
    assert re.fullmatch("[0-9a-f]{32}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_a_prediction_is_one_line_in_the_log(server: Server) -> None:
    answer = server.client.post(
        "/predict?detector=haar&model=age_gender_A",
        content=PHOTOGRAPH,
        headers={"Content-Type": "image/jpeg", "X-Request-ID": "seen-in-the-log"},
    )
    line = server.request_line("seen-in-the-log")
    assert server.log().count("seen-in-the-log") == 1
    took, at = line.pop("ms"), line.pop("time")
    assert line == {
        "level": "info",
        "message": "request",
        "request_id": "seen-in-the-log",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "model": "age_gender_A",
        "detector": "haar",
        "faces": 1,
    }
    assert took >= answer.json()["timings_ms"]["total"] > 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", at)


@pytest.mark.parametrize(
    ("path", "status", "logged"),
    [
        ("/predict?detector=haar", 400, {"path": "/predict", "model": "age_gender_B", "detector": "haar"}),
        ("/predict?max_faces=0", 422, {"path": "/predict"}),
        ("/models/age_gender_B", 405, {"path": "/models/{model_id}"}),
        ("/nowhere", 404, {"path": "other"}),
    ],
    ids=["no image", "parameter", "method", "path"],
)
def test_a_refusal_is_one_line_too(server: Server, path: str, status: int, logged: dict[str, str]) -> None:
    server.request_line(server.client.get("/health/live").headers["x-request-id"])  # all before it is logged
    before = len(server.log().splitlines())
    answer = server.client.post(path, content=b"this is no image")
    assert answer.status_code == status
    request_id = answer.headers["x-request-id"]
    line = server.request_line(request_id)
    assert len(server.log().splitlines()) == before + 1
    del line["time"], line["ms"]
    common = {"level": "info", "message": "request", "request_id": request_id, "method": "POST"}
    assert line == {**common, "status": status, **logged}
