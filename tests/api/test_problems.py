"""What is wrong with a request, and that the answer says so: every row of the contract's table of errors."""

from __future__ import annotations

import cv2
import httpx
import pytest
from helpers import ASTRONAUT, Server, Upload, check_problem, grey, jpeg, png

LIMIT = 20 * 2**20
IMAGE = png(grey(51))
JPEG_CUT_SHORT = ASTRONAUT.read_bytes()[:20_000]
BOUNDARY = "multipart/form-data; boundary=b"


def part(name: str, content: bytes = IMAGE, filename: str | None = "photo.png") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    head = f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = b"--b--\r\n"


def post(server: Server, content: bytes, content_type: str | None, query: str = "") -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.client.post(f"/predict{query}", content=content, headers=headers)


@pytest.mark.parametrize(
    ("content", "content_type", "name"),
    [
        (b"", None, "image-missing"),
        (b"", "image/jpeg", "image-missing"),
        (part("image", b"") + END, BOUNDARY, "image-unreadable"),
        (b"this is no image", "image/jpeg", "image-unreadable"),
        (b"%PDF-1.7 " + bytes(1000), "application/octet-stream", "image-unreadable"),
        (b"GIF89a" + bytes(100), "image/gif", "image-unreadable"),
        (part("image", b"this is no image") + END, BOUNDARY, "image-unreadable"),
        (JPEG_CUT_SHORT, "image/jpeg", "image-unreadable"),
        (part("image", JPEG_CUT_SHORT) + END, BOUNDARY, "image-unreadable"),
        (IMAGE[:-20], "image/png", "image-unreadable"),
        (cv2.imencode(".webp", grey(51))[1].tobytes()[:-8], "image/webp", "image-unreadable"),
    ],
    ids=[
        "no body", "empty body", "empty file", "text", "pdf", "gif", "text as a file", "jpeg cut short",
        "jpeg file cut short", "png cut short", "webp cut short",
    ],
)  # fmt: skip
def test_a_body_without_a_readable_image_is_a_400(
    server: Server, content: bytes, content_type: str | None, name: str
) -> None:
    check_problem(post(server, content, content_type), 400, name)


@pytest.mark.parametrize("content_type", ["image/png", BOUNDARY])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_is_sent(
    server: Server, content_type: str
) -> None:
    upload = Upload(server, length=LIMIT + 20_000, content_type=content_type, wait=False)
    check_problem(upload.answer(), 413, "body-too-large")


@pytest.mark.parametrize(
    ("content_type", "first"), [("image/png", b""), (BOUNDARY, part("image", b"")[:-2])], ids=["bare", "form"]
)
def test_a_chunked_body_is_refused_as_soon_as_it_has_become_too_large(
    server: Server, content_type: str, first: bytes
) -> None:
    upload = Upload(server, length=None, content_type=content_type)
    if first:
        upload.send_chunk(first)
    for _ in range(20):
        upload.send_chunk(bytes(2**20))
    upload.send_chunk(bytes(20_000))
    # No end was sent: the server did not wait for it.
    check_problem(upload.answer(), 413, "body-too-large")


def test_a_chunked_image_is_read(server: Server) -> None:
    answer = server.client.post(
        "/predict?detector=none",
        content=(IMAGE[start : start + 50] for start in range(0, len(IMAGE), 50)),
        headers={"Content-Type": "image/png"},
    )
    assert answer.status_code == 200
    assert answer.json()["faces"][0]["age"]["years"] == 20


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("detector=viola", "detector is not valid. One of auto, yunet, haar and none."),
        ("min_confidence=1.01", "min_confidence is not valid. A number from 0 to 1"),
        ("min_confidence=-0.01", "min_confidence is not valid."),
        ("min_confidence=nan", "min_confidence is not valid."),
        ("min_confidence=high", "min_confidence is not valid."),
        ("max_faces=0", "max_faces is not valid. A whole number from 1 to 100"),
        ("max_faces=101", "max_faces is not valid."),
        ("max_faces=2.5", "max_faces is not valid."),
        ("max_faces=", "max_faces is not valid."),
        ("coverage=0.49", "coverage is not valid. A number from 0.5 to 0.99"),
        ("coverage=1", "coverage is not valid."),
        ("coverage=nan", "coverage is not valid."),
        ("distribution=perhaps", "distribution is not valid. true or false"),
        ("coverage=0.9&coverage=0.9", "The query parameter coverage is given more than once"),
        ("maxfaces=3", "There is no query parameter of that name; there are: model, detector,"),
        ("detector=haar&debug", "There is no query parameter of that name"),
        ("debug&debug", "There is no query parameter of that name"),
        ("detector=haar&max_faces=2&detector=none", "The query parameter detector is given more than once"),
        ("max_faces=2&max_faces=2", "The query parameter max_faces is given more than once"),
        ("model=age_gender_A&model=age_gender_B", "The query parameter model is given more than once"),
    ],
)
def test_a_parameter_that_is_out_of_range_repeated_or_unknown_is_a_422(
    server: Server, query: str, said: str
) -> None:
    answer = server.client.post(f"/predict?{query}", content=IMAGE, headers={"Content-Type": "image/png"})
    assert said in check_problem(answer, 422, "parameter-invalid")


@pytest.mark.parametrize("path", ["/models", "/models/age_gender_B", "/health/live", "/health/ready"])
def test_what_takes_no_parameter_says_so(server: Server, path: str) -> None:
    detail = check_problem(server.client.get(f"{path}?verbose=1"), 422, "parameter-invalid", path)
    assert "this path takes none" in detail


def test_bounds_of_parameters_are_allowed(server: Server) -> None:
    for query in (
        {"min_confidence": 0, "max_faces": 1, "coverage": 0.5},
        {"min_confidence": 1, "max_faces": 100, "coverage": 0.99},
    ):
        assert server.predict(IMAGE, detector="none", **query).status_code == 200


def test_a_model_that_is_not_there_is_a_404_that_names_those_that_are(server: Server) -> None:
    for answer, path in (
        (server.predict(IMAGE, model="age_gender_Z"), "/predict"),
        (server.client.get("/models/age_gender_Z"), "/models/age_gender_Z"),
    ):
        detail = check_problem(answer, 404, "model-unknown", path)
        assert "age_gender_A, age_gender_B" in detail


@pytest.mark.parametrize("path", ["/nowhere", "/predict/nowhere", "/models/age_gender_B/nowhere", "/Predict"])
def test_a_path_that_is_not_there_is_a_404(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        check_problem(server.client.request(method, path), 404, "not-found", path)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/predict", "POST"),
        ("DELETE", "/predict", "POST"),
        ("POST", "/models", "GET"),
        ("PUT", "/models/age_gender_B", "GET"),
        ("POST", "/health/live", "GET"),
        ("PATCH", "/health/ready", "GET"),
    ],
)
def test_a_method_that_a_path_does_not_take_is_a_405_that_lists_those_it_takes(
    server: Server, method: str, path: str, allowed: str
) -> None:
    answer = server.client.request(method, path)
    assert method in check_problem(answer, 405, "method-not-allowed", path)
    assert answer.headers["allow"] == allowed


def test_a_connection_serves_on_after_a_refusal(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(3):
            check_problem(
                client.post("/predict?max_faces=0", content=jpeg(grey(), 50)), 422, "parameter-invalid"
            )
            assert client.get("/health/live").status_code == 200
