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
from agegender.answers import Prediction
from agegender.inference.pipeline import Pipeline
from agegender.settings import Settings
from fastapi import FastAPI
from helpers import (
    ASTRONAUT,
    DETECTORS,
    GRACE_HOPPER,
    PATIENCE,
    Server,
    Upload,
    check_problem,
    grey,
    in_process,
    jpeg,
    png,
    side_by_side,
    without_timings,
)
from hostile_files import too_many_pixels
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from local_service import LocalService

LIMIT, BATCH_LIMIT = 20 * 2**20, 40 * 2**20
IMAGE = png(grey(51))
BOUNDARY = "multipart/form-data; boundary=b"

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


def part(name: str, content: bytes = IMAGE, filename: str | None = "photo.png") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


END = b"--b--\r\n"


def ask(
    server: Server | LocalService, images: Sent, headers: dict[str, str] | None = None, **query: Any
) -> httpx.Response:
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
            error = result["error"]
            assert set(error) == {"type", "title", "status", "detail", "instance", "request_id"}
            assert error["instance"] == "/predict/batch"
            assert error["request_id"] == answer.headers["x-request-id"]
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
@pytest.mark.parametrize("model", ["age_gender_A", "age_gender_B"])
def test_each_image_good_or_bad_is_answered_in_its_place_as_it_is_alone(
    server: Server, model: str, detector: str
) -> None:
    good, bad = list(GOOD.items()), list(BAD.items())
    images = [image for pair in zip(bad, good, strict=False) for image in pair] + bad[len(good) :]
    query = {"model": model, "detector": detector, "coverage": 0.95, "distribution": True}
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


def test_a_single_image_is_a_batch(server: Server) -> None:
    (result,) = results(server, [("one.png", IMAGE)], detector="none")
    assert result["prediction"]["faces"][0]["age"]["years"] == 20


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
    body = part("images", filename="NAME").replace(b"NAME", sent) + END
    answer = post(server, body, BOUNDARY, "?detector=none")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert [result["filename"] for result in answer.json()["results"]] == [back]


@pytest.mark.parametrize("charset", ["utf-7", "unicode_escape", "idna", "undefined", "utf-16", "no-such"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_no_charset_makes_of_a_file_name_what_cannot_be_answered(
    server: Server, path: str, charset: str
) -> None:
    name = "image" if path == "/predict" else "images"
    for filename in (b"+2AA-.png", b"\\ud800.png", b"xn--\xff", 70 * b"a" + b".."):
        body = part(name, filename="NAME").replace(b"NAME", filename) + END
        answer = server.client.post(
            f"{path}?detector=none", content=body, headers={"Content-Type": f"{BOUNDARY}; charset={charset}"}
        )
        if answer.status_code != 200:
            check_problem(answer, 400, "multipart-invalid", path)
        assert answer.json()


def post(server: Server, content: bytes, content_type: str | None, query: str = "") -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.client.post(f"/predict/batch{query}", content=content, headers=headers)


def test_a_method_that_it_does_not_take_is_a_405(server: Server) -> None:
    answer = server.client.get("/predict/batch")
    check_problem(answer, 405, "method-not-allowed", "/predict/batch")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("query", "status", "name"),
    [
        ({"max_faces": 0}, 422, "parameter-invalid"),
        ({"debug": 1}, 422, "parameter-invalid"),
        ({"model": "age_gender_Z"}, 404, "model-unknown"),
        ({"model": ""}, 404, "model-unknown"),
    ],
)
def test_what_is_wrong_with_the_query_is_wrong_with_the_batch(
    server: Server, query: dict[str, Any], status: int, name: str
) -> None:
    check_problem(ask(server, [("one.png", IMAGE)], **query), status, name, "/predict/batch")


def test_what_is_not_installed_is_a_problem_of_the_batch(bare_server: Server, keys: tuple[str, str]) -> None:
    images, key = [("one.png", IMAGE), ("notes.txt", b"text")], {"X-API-Key": keys[1]}
    answer = ask(bare_server, images, key, detector="yunet")
    assert "use auto or haar" in check_problem(answer, 422, "detector-unavailable", "/predict/batch")
    assert [*ask(bare_server, images, key).json()["results"][0]["prediction"]["faces"]] == []


def test_a_key_is_needed_where_keys_are_set(bare_server: Server, keys: tuple[str, str]) -> None:
    for headers in ({}, {"X-API-Key": "wrong"}):
        check_problem(ask(bare_server, [("one.png", IMAGE)], headers), 401, "unauthorized", "/predict/batch")
    upload = Upload(bare_server, path="/predict/batch", length=LIMIT, content_type=BOUNDARY, wait=False)
    check_problem(upload.answer(), 401, "unauthorized", "/predict/batch")  # before the body


def of_exactly(size: int) -> bytes:
    """Return a form of `size` bytes with four files, a quarter of the limit each but for the last."""
    first = 3 * part("images", IMAGE + bytes(BATCH_LIMIT // 4 - len(IMAGE)))
    last = part("images", b"") + END
    rest = size - len(first) - len(last)
    return first + part("images", IMAGE + bytes(rest - len(IMAGE))) + END


def test_as_many_bytes_as_allowed_are_read_and_one_more_is_a_413(server: Server) -> None:
    answer = post(server, of_exactly(BATCH_LIMIT), BOUNDARY, "?detector=none")
    assert answer.status_code == 200, answer.text
    assert ["prediction" in result for result in answer.json()["results"]] == 4 * [True]
    answer = post(server, of_exactly(BATCH_LIMIT + 1), BOUNDARY)
    detail = check_problem(answer, 413, "body-too-large", "/predict/batch")
    assert "41943040 bytes" in detail


def test_a_batch_that_says_it_is_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    upload = Upload(server, path="/predict/batch", length=BATCH_LIMIT + 1, content_type=BOUNDARY, wait=False)
    check_problem(upload.answer(), 413, "body-too-large", "/predict/batch")


def test_a_chunked_batch_is_refused_as_soon_as_it_has_become_too_large(server: Server) -> None:
    upload = Upload(server, path="/predict/batch", length=None, content_type=BOUNDARY)
    upload.send_chunk(part("images", b"")[:-2])
    for _ in range(40):
        upload.send_chunk(bytes(2**20))
    # No end was sent: the server did not wait for it.
    check_problem(upload.answer(), 413, "body-too-large", "/predict/batch")


def test_it_is_one_line_in_the_log_and_one_request_in_the_metrics(server: Server) -> None:
    def count(text: str) -> dict[str, float]:
        names = {
            "requests": r'agegender_requests_total\{route="/predict/batch",status="200"\}',
            "images": "agegender_faces_count",
            "faces": "agegender_faces_sum",
            "decoded": r'agegender_stage_seconds_count\{stage="decode"\}',
            "unreadable": r'agegender_batch_errors_total\{status="400"\}',
            "defects": r'agegender_batch_errors_total\{status="500"\}',
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
        "defects": 0,
    }


def test_a_defect_costs_one_image_its_answer_and_the_log_says_all_of_it(
    models_folder: Path,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Breaking(Pipeline):
        def predict(self, data: bytes | memoryview, **options: Any) -> Prediction:
            if data == b"the one that breaks it":
                raise RuntimeError("a secret of the library in /etc/secret")
            return super().predict(data, **options)

    async def talk(_: FastAPI, client: httpx.AsyncClient) -> None:
        images = [IMAGE, b"the one that breaks it", IMAGE]
        answer = await client.post(
            "/predict/batch?detector=none", files=[("images", ("x", image)) for image in images]
        )
        assert answer.status_code == 200
        first, broken, last = answer.json()["results"]
        assert "prediction" in first
        assert "prediction" in last
        assert (broken["error"]["type"], broken["error"]["status"]) == ("/problems/internal-error", 500)
        assert "secret" not in answer.text
        (defect,) = [record for record in caplog.records if record.levelname == "ERROR"]
        assert "a secret of the library" in str(defect.exc_info[1])
        assert defect.fields == {"request_id": answer.headers["x-request-id"]}
        metrics = (await client.get("/metrics")).text
        assert '\nagegender_batch_errors_total{status="500"} 1.0\n' in metrics

    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache))
    monkeypatch.setattr("agegender.main.Pipeline", Breaking)
    in_process(Settings(models=models_folder, workers=1), talk)


FILES = st.lists(
    st.one_of(
        st.sampled_from([*GOOD.values()]),
        st.binary(max_size=50),
        st.integers(0, 2**31).map(lambda seed: _damaged(seed)),
    ),
    min_size=1,
    max_size=8,
)


def _damaged(seed: int) -> bytes:
    """A photograph in which some bytes were changed."""
    chance = np.random.default_rng(seed)
    data = bytearray(ASTRONAUT.read_bytes())
    for place in chance.integers(2, len(data), chance.integers(1, 20)):
        data[place] = chance.integers(256)
    return bytes(data)


@given(FILES)
@examples(max_examples=25, deadline=None)
def test_whatever_is_in_the_files_each_is_answered_as_it_is_alone(server: Server, files: list[bytes]) -> None:
    images = [(f"{place}.jpg", data) for place, data in enumerate(files)]
    found = results(server, images, detector="none")
    assert [outcome(result) for result in found] == [
        alone(server, *image, detector="none") for image in images
    ]


HEADERS = st.lists(
    st.sampled_from(
        [
            b'Content-Disposition: form-data; name="images"; filename="p.png"',
            b'Content-Disposition: form-data; name="images"; filename=',
            b'Content-Disposition: form-data; name="images"',
            b"Content-Disposition: form-data; name=",
            b"Content-Type: image/png",
            b"Content-Length: 7",
            b": nothing",
            b"x" * 5000,
            b"\xff\xfe\0",
        ]
    ),
    max_size=3,
)
FORMS = st.lists(
    st.tuples(st.sampled_from([b"--b", b"--b--", b"--c", b""]), HEADERS, st.binary(max_size=50)), max_size=6
)


@given(FORMS, st.sampled_from([b"\r\n", b"\n"]))
@examples(max_examples=200, deadline=None)
def test_broken_forms_end_as_the_contract_says(
    server: Server, parts: list[tuple[bytes, list[bytes], bytes]], line_end: bytes
) -> None:
    body = line_end.join(
        line for border, headers, content in parts for line in (border, *headers, b"", content)
    )
    answer = post(server, body, BOUNDARY)
    if answer.status_code == 200:
        assert all("error" in result or "prediction" in result for result in answer.json()["results"])
    else:
        check_problem(answer, 400, "multipart-invalid", "/predict/batch")


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
