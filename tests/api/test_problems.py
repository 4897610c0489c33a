"""What is wrong with a request, or with the service, and that the answer says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from agegender.answers import Prediction
from agegender.inference.pipeline import Pipeline
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import IMAGE, Server, check_problem, in_process

SINGLE, BATCH = "/predict", "/predict/batch"


def send(
    server: Server, path: str, query: str = "", image: bytes = IMAGE, headers: dict[str, str] | None = None
) -> httpx.Response:
    name = "image" if path == SINGLE else "images"
    return server.client.post(f"{path}?{query}", files={name: ("photo.png", image)}, headers=headers)


@pytest.mark.parametrize("path", [SINGLE, BATCH])
@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("detector=viola", "detector is not valid. One of auto, yunet, haar and none"),
        ("min_confidence=1.01", "min_confidence is not valid. A number from 0 to 1"),
        ("min_confidence=nan", "min_confidence is not valid"),
        ("max_faces=0", "max_faces is not valid. A whole number from 1 to 100"),
        ("max_faces=101", "max_faces is not valid"),
        ("max_faces=2.5", "max_faces is not valid"),
        ("max_faces=", "max_faces is not valid"),
        ("coverage=0.49", "coverage is not valid. A number from 0.5 to 0.99"),
        ("coverage=1", "coverage is not valid"),
        ("coverage=nan", "coverage is not valid"),
        ("distribution=perhaps", "distribution is not valid. true or false"),
        ("maxfaces=3", "Unknown query parameter; this path takes model, detector,"),
        ("debug&debug", "Unknown query parameter"),
        ("detector=haar&max_faces=2&detector=none", "parameter detector is given more than once"),
    ],
)
def test_a_parameter_that_is_out_of_range_repeated_or_unknown_is_a_422(
    server: Server, path: str, query: str, said: str
) -> None:
    assert said in check_problem(send(server, path, query), 422, "parameter-invalid", path)


@pytest.mark.parametrize(
    "path",
    ["/", "/openapi.json", "/models", "/models/age_gender_B", "/health/live", "/health/ready", "/metrics"],
)
def test_what_takes_no_parameter_says_so(server: Server, path: str) -> None:
    detail = check_problem(server.client.get(f"{path}?verbose=1"), 422, "parameter-invalid", path)
    assert "this path takes none" in detail


def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are(server: Server) -> None:
    for answer, path in (
        (send(server, SINGLE, "model=age_gender_Z"), SINGLE),
        (send(server, BATCH, "model="), BATCH),
        (server.client.get("/models/age_gender_Z"), "/models/age_gender_Z"),
    ):
        assert "age_gender_A, age_gender_B" in check_problem(answer, 404, "model-unknown", path)


@pytest.mark.parametrize("path", [SINGLE, BATCH])
def test_a_detector_that_is_not_installed_is_a_422(
    bare_server: Server, keys: tuple[str, str], path: str
) -> None:
    # One image of a batch that is no image does not make of it a batch of which some images can be answered.
    for image in (IMAGE, b"this is no image")[: 1 if path == SINGLE else 2]:
        answer = send(bare_server, path, "detector=yunet", image, {"X-API-Key": keys[0]})
        assert "use auto or haar" in check_problem(answer, 422, "detector-unavailable", path)


@pytest.mark.parametrize("path", ["/nowhere", "/predict/nowhere", "/models/age_gender_B/nowhere", "/Predict"])
def test_a_path_that_is_not_there_is_a_404(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        check_problem(server.client.request(method, path), 404, "not-found", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/predict/batch", "POST"),
        ("POST", "/models", "GET, HEAD"),
        ("PUT", "/models/age_gender_B", "GET, HEAD"),
        ("PATCH", "/health/ready", "GET, HEAD"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_a_405_that_lists_those_it_takes(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answer = server.client.request(method, path)
    assert method in check_problem(answer, 405, "method-not-allowed", path)
    assert answer.headers["allow"] == allowed


def test_a_defect_is_a_500_that_says_nothing_and_the_log_says_all(
    models_folder: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaking(Pipeline):
        def predict(self, data: bytes | memoryview, **options: Any) -> Prediction:
            if data == b"the one that breaks it":
                raise RuntimeError("a secret of the library in /etc/secret")
            return super().predict(data, **options)

    def check_log(request_id: str) -> None:
        (defect,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "a secret of the library" in str(defect.exc_info[1])
        assert defect.fields == {"request_id": request_id}
        caplog.clear()

    async def ask(_: FastAPI, client: httpx.AsyncClient) -> None:
        origin = {"Origin": "https://any.example"}
        answer = await client.post(SINGLE, content=b"the one that breaks it", headers=origin)
        check_problem(answer, 500, "internal-error")
        assert "secret" not in answer.text
        assert answer.headers["access-control-allow-origin"] == "*"  # a page of any origin may read it
        check_log(answer.headers["x-request-id"])

        files = [("images", ("x", image)) for image in (IMAGE, b"the one that breaks it", IMAGE)]
        answer = await client.post(f"{BATCH}?detector=none", files=files)
        first, broken, last = answer.json()["results"]
        assert (answer.status_code, "prediction" in first, "prediction" in last) == (200, True, True)
        assert (broken["error"]["type"], broken["error"]["status"]) == ("/problems/internal-error", 500)
        assert "secret" not in answer.text
        check_log(answer.headers["x-request-id"])
        metrics = (await client.get("/metrics")).text
        assert '\nagegender_batch_errors_total{status="500"} 1.0\n' in metrics

    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    monkeypatch.setattr("agegender.main.Pipeline", Breaking)
    in_process(Settings(models=models_folder, workers=1, cors_origins="*"), ask)
