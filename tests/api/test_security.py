from __future__ import annotations

import os
from pathlib import Path

import pytest
from agegender.settings import Settings
from helpers import IMAGE, Server, Upload, check_problem
from local_service import LocalService

GUARDED = [
    ("POST", "/predict"),
    ("POST", "/predict/batch"),
    ("GET", "/models"),
    ("GET", "/models/age_gender_B"),
]
OPEN = ["/", "/health/live", "/health/ready", "/docs", "/openapi.json"]


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "sent",
    [None, "", "wrong", "first-key-of-the-tes", "first-key-of-the-test, second-key-of-the-test", "schlüssel"],
)
def test_without_one_of_the_keys_a_request_is_a_401(
    bare_server: Server, method: str, path: str, sent: str | None
) -> None:
    headers = {} if sent is None else {"X-API-Key": sent.encode()}
    answer = bare_server.client.request(method, f"{path}?unknown=1", headers=headers)
    check_problem(answer, 401, "unauthorized", path)
    assert answer.headers["www-authenticate"] == "ApiKey"


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_key_is_asked_for_before_the_body(bare_server: Server, path: str) -> None:
    check_problem(
        Upload(bare_server, path=path, length=10**7, wait=False).answer(), 401, "unauthorized", path
    )


@pytest.mark.parametrize("index", [0, 1])
def test_each_of_the_keys_opens(bare_server: Server, keys: tuple[str, str], index: int) -> None:
    headers = {"X-API-Key": keys[index], "Content-Type": "image/png"}
    assert bare_server.client.get("/models", headers=headers).status_code == 200
    answer = bare_server.client.post("/predict?detector=none", content=IMAGE, headers=headers)
    assert answer.status_code == 200
    assert answer.json()["faces"][0]["age"]["years"] == 20


@pytest.mark.parametrize("path", OPEN)
def test_health_page_and_documentation_need_no_key(bare_server: Server, path: str) -> None:
    assert bare_server.client.get(path).status_code == 200


def test_no_key_is_ever_logged(bare_server: Server, keys: tuple[str, str]) -> None:
    request_id = bare_server.client.get("/models", headers={"X-API-Key": keys[0]}).headers["x-request-id"]
    assert bare_server.request_line(request_id)["status"] == 200
    assert not any(key in bare_server.log() for key in keys)


def test_a_key_may_have_any_letters(models_folder: Path) -> None:
    latin = "clé".encode("latin-1")
    keys = f"ein-schlüssel, ключ, {os.fsdecode(latin)}"  # as Python reads an environment variable
    with LocalService(Settings(models=models_folder, workers=1, api_keys=keys)) as server:
        for key, status in (
            ("ein-schlüssel".encode(), 200),
            ("ключ".encode(), 200),
            (latin, 200),
            (b"ein-schlussel", 401),
        ):
            answer = server.client.get("/models", headers={"X-API-Key": key})
            assert answer.status_code == status


def test_the_log_says_once_where_no_key_is_needed(server: Server, bare_server: Server) -> None:
    assert server.log().count("no API keys are set") == 1
    assert "no API keys are set" not in bare_server.log()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/health/ready", 200),
        ("GET", "/models", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("POST", "/predict?detector=none", 200),
        ("POST", "/predict?max_faces=0", 422),
        ("GET", "/predict", 405),
        ("GET", "/nowhere", 404),
    ],
)
def test_an_answer_is_for_the_caller_alone_and_nothing_in_it_runs(
    server: Server, method: str, path: str, status: int
) -> None:
    content = IMAGE if method == "POST" else b""
    answer = server.client.request(method, path, content=content)
    assert answer.status_code == status
    assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    assert not {"server", "x-powered-by"} & set(answer.headers)
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/models/", "/health/live/", "/docs/", "//models"])
def test_nobody_is_sent_elsewhere(server: Server, path: str) -> None:
    answer = server.client.get(server.url + path, headers={"Host": "elsewhere.example"})
    check_problem(answer, 404, "not-found", path)
