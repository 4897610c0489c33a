"""Several images in one request: each is answered as it would be alone, and none costs another its answer."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from agegender.settings import Settings
from helpers import (
    ASTRONAUT,
    DETECTORS,
    FORM,
    FORM_END,
    GRACE_HOPPER,
    IMAGE,
    PATIENCE,
    Server,
    Service,
    Upload,
    check_problem,
    grey,
    jpeg,
    part,
    png,
    side_by_side,
    without_timings,
)
from hostile_files import too_many_pixels
from local_service import LocalService

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


def ask(server: Service, images: Sent, headers: dict[str, str] | None = None, **query: Any) -> httpx.Response:
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
    query = {"model": "age_gender_A", "detector": detector, "coverage": 0.95, "distribution": True}
    found = results(server, images, **query)
    assert [outcome(result) for result in found] == [alone(server, *image, **query) for image in images]
    assert [result["error"]["status"] for result in found if "error" in result] == [
        400, 400, 400, 400, 413, 413,
    ]  # fmt: skip
    faces = [len(result["prediction"]["faces"]) for result in found if "prediction" in result]
    assert faces == [1, 1, 2, 0]
    for result in found:
        if "prediction" in result:
            timings = result["prediction"]["timings_ms"]
            assert set(timings) == {"decode", "detect", "predict", "total"}
            assert 0 < timings["detect"] < timings["total"]
            for face in result["prediction"]["faces"]:
                assert (face["age"]["coverage"], len(face["age"]["distribution"])) == (0.95, 101)


def test_as_many_as_32_are_answered_in_the_order_sent(server: Server) -> None:
    levels = range(40, 200, 5)
    assert len(levels) == 32
    found = results(server, [(f"{level}.png", png(grey(level))) for level in levels], detector="none")
    ages = [result["prediction"]["faces"][0]["age"]["years"] for result in found]
    assert ages == [pytest.approx(level * 100 / 255, abs=0.06) for level in levels]


def test_where_every_image_is_bad_each_one_says_why(server: Server) -> None:
    found = results(server, list(BAD.items()))
    assert [result["error"]["type"].removeprefix("/problems/") for result in found] == [
        "image-unreadable"
    ] * 4 + ["body-too-large", "image-too-large"]


def test_the_query_is_that_of_every_image(server: Server) -> None:
    both = GOOD["both.jpg"]
    for result in results(server, 3 * [("both.jpg", both)], detector="haar", max_faces=1):
        assert len(result["prediction"]["faces"]) == 1
    for result in results(server, 2 * [("both.jpg", both)], detector="haar", min_confidence=1):
        assert result["prediction"]["faces"] == []


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


def test_bodies_for_which_there_is_no_memory_are_counted_as_refused_once(models_folder: Path) -> None:
    def refused() -> float:
        (value,) = re.findall(r"^agegender_refused_total (\S+)$", server.client.get("/metrics").text, re.M)
        return float(value)

    settings = Settings(
        models=models_folder, workers=1, max_bytes=40_000, arrival_memory=40_000, max_batch_bytes=20_000
    )
    with LocalService(settings) as server:
        assert refused() == 0
        noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
        image = png(noise)  # of some 16,000 bytes
        held = Upload(server, length=30_000)
        held.send(bytes(25_000))
        # 25,000 are taken, and so 15,000 are left.
        answer = server.predict(image)
        check_problem(answer, 503, "overloaded")
        assert refused() == 1
        answer = ask(server, [("one.png", image)])
        check_problem(answer, 503, "overloaded", "/predict/batch")
        assert refused() == 2
        held.leave()
        deadline = time.monotonic() + PATIENCE
        while server.predict(image).status_code == 503:  # until the service knows that it has left
            assert time.monotonic() < deadline
