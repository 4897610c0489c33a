"""Several images in one request: each is answered as it would be alone, and none costs another its answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from helpers import (
    ASTRONAUT,
    DETECTORS,
    FORM,
    FORM_END,
    GRACE_HOPPER,
    IMAGE,
    Server,
    jpeg,
    part,
    side_by_side,
    without_timings,
)
from hostile_files import too_many_pixels

LIMIT = 20 * 2**20

GOOD = {
    "astronaut.jpg": ASTRONAUT.read_bytes(),
    "hopper.jpg": GRACE_HOPPER.read_bytes(),
    "both.jpg": jpeg(side_by_side()),
    "grey.png": IMAGE,
}
BAD = {
    "empty.jpg": b"",
    "notes.txt": b"this is no image",
    "half.jpg": ASTRONAUT.read_bytes()[:20_000],
    "page.pdf": b"%PDF-1.7 " + bytes(1000),
    "large.png": IMAGE + bytes(LIMIT + 1 - len(IMAGE)),
    "bomb": next(iter(too_many_pixels().values())),
}

Sent = Sequence[tuple[str, bytes]]


def ask(server: Server, images: Sent, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
    files = [("images", image) for image in images]
    return server.client.post("/predict/batch", files=files, params=query, headers=headers)


def results(server: Server, images: Sent, **query: Any) -> list[dict[str, Any]]:
    """The results of an answer that must be a 200, whose names must be those sent."""
    answer = ask(server, images, **query)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"results"}
    found: list[dict[str, Any]] = answer.json()["results"]
    assert [result["filename"] for result in found] == [name for name, _ in images]
    for result in found:
        assert set(result) in ({"filename", "prediction"}, {"filename", "error"})
        if "error" in result:
            assert result["error"]["instance"] == "/predict/batch"
            assert result["error"]["request_id"] == answer.headers["x-request-id"]
    return found


def outcome(result: dict[str, Any]) -> dict[str, Any]:
    """What is the same in whatever request the image came."""
    if "prediction" in result:
        return without_timings(result["prediction"])
    return {**result["error"], "instance": "", "request_id": ""}


def alone(server: Server, name: str, image: bytes, **query: Any) -> dict[str, Any]:
    """The outcome of an image that is sent to /predict."""
    answer = server.client.post("/predict", files={"image": (name, image)}, params=query)
    said = answer.json()
    return outcome({"prediction": said} if answer.status_code == 200 else {"error": said})


@pytest.mark.parametrize("detector", DETECTORS)
def test_each_image_good_or_bad_is_answered_in_its_place_as_it_is_alone(
    server: Server, detector: str
) -> None:
    good, bad = list(GOOD.items()), list(BAD.items())
    images = [image for pair in zip(bad, good, strict=False) for image in pair] + bad[len(good) :]
    query = {
        "model": "age_gender_A",
        "detector": detector,
        "coverage": 0.95,
        "distribution": True,
        "max_faces": 1,
    }
    found = results(server, images, **query)
    assert [outcome(result) for result in found] == [alone(server, *image, **query) for image in images]
    assert [result["error"]["status"] for result in found if "error" in result] == [
        400, 400, 400, 400, 413, 413,
    ]  # fmt: skip
    faces = [len(result["prediction"]["faces"]) for result in found if "prediction" in result]
    assert faces == [1, 1, 1, 0]  # of two in one of them
    for result in found:
        if "prediction" in result:
            timings = result["prediction"]["timings_ms"]
            assert set(timings) == {"decode", "detect", "predict", "total"}
            assert 0 < timings["detect"] < timings["total"]
            for face in result["prediction"]["faces"]:
                assert (face["age"]["coverage"], len(face["age"]["distribution"])) == (0.95, 101)


def named(filename: bytes) -> bytes:
    """A form with one image of that name."""
    return part("images", filename="NAME").replace(b"NAME", filename) + FORM_END


@pytest.mark.parametrize(
    ("sent", "back"),
    [
        (b"", ""),
        ("Zoë & Łukasz 東京.jpg".encode(), "Zoë & Łukasz 東京.jpg"),
        (b"<script>alert(1)</script>", "<script>alert(1)</script>"),
        (b"../../etc/passwd", "../../etc/passwd"),
        (b"caf\xe9.jpg", "café.jpg"),  # Latin-1
        (4000 * b"x", 4000 * "x"),
    ],
    ids=["empty", "letters", "markup", "a path", "latin-1", "long"],
)
def test_a_file_name_comes_back_as_it_was_sent(server: Server, sent: bytes, back: str) -> None:
    headers = {"Content-Type": FORM}
    answer = server.client.post("/predict/batch?detector=none", content=named(sent), headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert [result["filename"] for result in answer.json()["results"]] == [back]


def test_it_is_one_line_in_the_log_and_one_request_in_the_metrics(server: Server) -> None:
    def count(text: str) -> dict[str, float]:
        names = {
            "requests": r'agegender_requests_total\{route="/predict/batch",status="200"\}',
            "images": "agegender_faces_count",
            "faces": "agegender_faces_sum",
            "decoded": r'agegender_stage_seconds_count\{stage="decode"\}',
            "unreadable": r'agegender_batch_errors_total\{status="400"\}',
        }
        found = {name: re.search(rf"^{pattern} (\S+)$", text, re.M) for name, pattern in names.items()}
        return {name: float(match[1]) if match else 0 for name, match in found.items()}

    before = count(server.client.get("/metrics").text)
    images = [*GOOD.items(), ("notes.txt", b"text"), ("empty", b"")]
    answer = ask(server, images, {"X-Request-ID": "batch-in-the-log"}, detector="haar", model="age_gender_A")
    assert answer.status_code == 200
    line = server.request_line("batch-in-the-log")
    assert server.log().count("batch-in-the-log") == 1
    del line["time"], line["ms"]
    assert line == {
        "level": "info",
        "message": "request",
        "request_id": "batch-in-the-log",
        "method": "POST",
        "path": "/predict/batch",
        "status": 200,
        "model": "age_gender_A",
        "detector": "haar",
        "images": 6,
        "failed": 2,
        "faces": 4,
    }
    after = count(server.client.get("/metrics").text)
    assert {name: after[name] - before[name] for name in after} == {
        "requests": 1,
        "images": 4,
        "faces": 4,
        "decoded": 4,
        "unreadable": 2,
    }
