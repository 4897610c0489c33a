"""The bodies that an image, or several, may come in; what is wrong with any other is said with the next step."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from helpers import ASTRONAUT, Server, check_problem, grey, png

LIMIT, BATCH_LIMIT = 20 * 2**20, 40 * 2**20
IMAGE = png(grey(51))
AGE = 20
BOUNDARY = "multipart/form-data; boundary=b"
JSON = "application/json"
SINGLE, BATCH = "/predict", "/predict/batch"
END = b"--b--\r\n"


def part(name: str, content: bytes = IMAGE, filename: str | None = "photo.png") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode() + content + b"\r\n"


def text(image: bytes = IMAGE) -> str:
    return base64.b64encode(image).decode()


def post(server: Server, path: str, content: bytes, content_type: str | None, **query: Any) -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.client.post(path, content=content, headers=headers, params={"detector": "none", **query})


def ages(answer: httpx.Response) -> list[float]:
    """Of the one face in each image."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    images = [result["prediction"] for result in found["results"]] if "results" in found else [found]
    return [image["faces"][0]["age"]["years"] for image in images]


def test_a_part_without_a_file_name_is_a_file(server: Server) -> None:
    """As Flutter sends it, `requests` with `(None, data)`, and generated clients."""
    assert ages(post(server, SINGLE, part("image", filename=None) + END, BOUNDARY)) == [AGE]
    several = part("images", filename=None) + part("images") + part("images", filename=None) + END
    answer = post(server, BATCH, several, BOUNDARY)
    assert ages(answer) == 3 * [AGE]
    assert [result["filename"] for result in answer.json()["results"]] == ["", "photo.png", ""]


def test_bytes_of_a_part_without_a_file_name_are_kept_as_they_are(server: Server) -> None:
    photograph = ASTRONAUT.read_bytes()
    with_name = post(server, SINGLE, part("image", photograph) + END, BOUNDARY, detector="haar").json()
    without = post(server, SINGLE, part("image", photograph, None) + END, BOUNDARY, detector="haar").json()
    assert len(with_name["faces"]) == 1
    assert without["faces"] == with_name["faces"]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
        "image/x-new",
    ],
)
def test_of_a_bare_body_the_content_decides(server: Server, content_type: str | None) -> None:
    assert ages(post(server, SINGLE, IMAGE, content_type)) == [AGE]
    check_problem(post(server, SINGLE, b"image=photo.jpg", content_type), 400, "image-unreadable")


@pytest.mark.parametrize("content_type", ["text/plain", "video/mp4", "image", "application/xml"])
def test_any_other_type_is_a_415_that_names_those_that_are_taken(server: Server, content_type: str) -> None:
    detail = check_problem(post(server, SINGLE, IMAGE, content_type), 415, "media-type-unsupported")
    assert all(name in detail for name in ("image/jpeg", "multipart/form-data", JSON))


@pytest.mark.parametrize("content_type", [None, "image/jpeg", "application/x-www-form-urlencoded"])
def test_a_batch_is_a_form_or_json(server: Server, content_type: str | None) -> None:
    answer = post(server, BATCH, IMAGE, content_type)
    detail = check_problem(answer, 415, "media-type-unsupported", BATCH)
    assert "multipart/form-data" in detail


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (b"", BOUNDARY, "ends before its last boundary: send all of it"),
        (part("image")[:-40], BOUNDARY, "ends before its last boundary: send all of it"),
        (END, BOUNDARY, "The form is empty: send the file in a part named image"),
        (part("photo") + END, BOUNDARY, "The part is named photo: name it image"),
        (part("image") + part("image") + END, BOUNDARY, "more than one part named image"),
        (part("image") + part("other") + END, BOUNDARY, "parts that are not expected (other)"),
        (part("image") + part("note", b"text", None) + END, BOUNDARY, "not expected (note)"),
        (part("a" * 3000) + END, BOUNDARY, f"named {40 * 'a'}: name it image"),
        (1000 * part("image", b"") + END, BOUNDARY, "more than one part named image"),
        (b"this is no multipart", BOUNDARY, "not valid multipart/form-data"),
        (part("image", filename=5000 * "x") + END, BOUNDARY, "not valid multipart/form-data"),
        (part("image") + END, "multipart/form-data", "names no boundary"),
    ],
    ids=[
        "empty", "cut short", "no part", "another name", "two images", "another file beside", "a field beside",
        "a long name", "many", "text", "a file name too long", "no boundary",
    ],
)  # fmt: skip
def test_a_form_that_is_refused_says_why_and_what_to_do(
    server: Server, content: bytes, content_type: str, said: str
) -> None:
    assert said in check_problem(post(server, SINGLE, content, content_type), 400, "multipart-invalid")


@pytest.mark.parametrize(
    ("content", "content_type", "said"),
    [
        (b"", BOUNDARY, "ends before its last boundary"),
        (END, BOUNDARY, "The form is empty: send 1 to 32 parts named images"),
        (33 * part("images") + END, BOUNDARY, "more than 32 images: send fewer"),
        (part("image") + END, BOUNDARY, "The part image is not expected: send 1 to 32 parts named images"),
        (part("images") + part("note", b"text", None) + END, BOUNDARY, "The part note is not expected"),
        (part("images") + END, "multipart/form-data", "names no boundary"),
        # One without its end loses no image in silence.
        *((2 * part("images") + END[:-n], BOUNDARY, "ends before its last boundary") for n in (4, 7, 9, 20)),
    ],
)
def test_a_form_that_is_no_batch_says_why_and_what_to_do(
    server: Server, content: bytes, content_type: str, said: str
) -> None:
    answer = post(server, BATCH, content, content_type)
    assert said in check_problem(answer, 400, "multipart-invalid", BATCH)


@pytest.mark.parametrize(
    "image",
    [
        text(),
        f"data:image/png;base64,{text()}",
        f"DATA:;base64,{text()}",
        text().rstrip("="),
        base64.urlsafe_b64encode(IMAGE).decode(),
        base64.encodebytes(IMAGE).decode(),
    ],
    ids=["base64", "data url", "short data url", "without padding", "of urls", "in lines"],
)
def test_an_image_may_come_in_json(server: Server, image: str) -> None:
    for content_type in (JSON, f"{JSON}; charset=utf-8"):
        assert ages(post(server, SINGLE, json.dumps({"image": image}).encode(), content_type)) == [AGE]
    answer = post(server, BATCH, json.dumps({"images": 3 * [image]}).encode(), JSON)
    assert ages(answer) == 3 * [AGE]
    assert [result["filename"] for result in answer.json()["results"]] == 3 * [""]


def test_escapes_that_other_languages_write_are_read(server: Server) -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" if letter in "+=" else letter for letter in text())
    body = '{"image": "' + escaped.replace("/", "\\/") + '"}'
    assert ages(post(server, SINGLE, body.encode(), JSON)) == [AGE]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", 'The body is not valid JSON: send {"image": "..."}'),
        (IMAGE, "The body is not valid JSON"),
        (b'{"image": "', "The body is not valid JSON"),
        (b"[1]", "The body is not a JSON object"),
        (b"{}", "The field image is missing"),
        (b'{"photo": "abc"}', "The field photo is not expected"),
        (b'{"image": "abc", "model": "B"}', "The field model is not expected"),
        (b'{"image": 7}', "The field image must be a string"),
        (b'{"image": ["abc"]}', "The field image must be a string"),
        (b'{"image": "https://example.com/photo.jpg"}', "Addresses are not fetched: send the image itself"),
        (b'{"image": "HTTP://169.254.169.254/"}', "Addresses are not fetched: send the image itself"),
        (b'{"image": "no base64!"}', "The image is not valid base64"),
        ('{"image": "ä"}'.encode(), "The image is not valid base64"),
        (b'{"image": "data:image/png,abc"}', "The data URL is not in base64"),
        (b'{"image": [' + b"[]," * 10**6 + b"[]]}", "The body holds more than images"),
    ],
)
def test_json_that_is_refused_says_why_and_what_to_do(server: Server, body: bytes, said: str) -> None:
    assert said in check_problem(post(server, SINGLE, body, JSON), 400, "json-invalid")


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ([], "The list images holds 0 images: send 1 to 32"),
        (33 * ["abc"], "The list images holds 33 images: send 1 to 32"),
        ("abc", "must be a list of strings"),
        ([7], "must be a list of strings"),
    ],
)
def test_json_that_is_no_batch_says_why_and_what_to_do(server: Server, images: Any, said: str) -> None:
    answer = post(server, BATCH, json.dumps({"images": images}).encode(), JSON)
    assert said in check_problem(answer, 400, "json-invalid", BATCH)
    answer = post(server, BATCH, b'{"image": "abc"}', JSON)
    assert '{"images": ["...", "..."]}' in check_problem(answer, 400, "json-invalid", BATCH)


def test_one_bad_image_of_a_batch_in_json_costs_the_others_nothing(server: Server) -> None:
    images = [text(), "https://example.com/a.jpg", "no base64!", text(b"this is no image"), text()]
    answer = post(server, BATCH, json.dumps({"images": images}).encode(), JSON)
    outcomes = [result.get("error", {}).get("type") for result in answer.json()["results"]]
    json_invalid, unreadable = "/problems/json-invalid", "/problems/image-unreadable"
    assert outcomes == [None, json_invalid, json_invalid, unreadable, None]


@pytest.mark.parametrize("kind", ["bare", "form", "json"])
def test_as_many_bytes_as_allowed_are_read_and_one_more_is_a_413(server: Server, kind: str) -> None:
    def send(image: bytes) -> httpx.Response:
        if kind == "bare":
            return post(server, SINGLE, image, "image/png")
        if kind == "form":
            return post(server, SINGLE, part("image", image) + END, BOUNDARY)
        return post(server, SINGLE, json.dumps({"image": text(image)}).encode(), JSON)

    # What follows the image in the file is ignored.
    assert ages(send(IMAGE + bytes(LIMIT - len(IMAGE)))) == [AGE]
    answer = send(IMAGE + bytes(LIMIT + 1 - len(IMAGE)))
    assert f"{LIMIT} bytes" in check_problem(answer, 413, "body-too-large")


def test_the_bound_of_a_batch_in_json_counts_decoded_bytes(server: Server) -> None:
    large = text(IMAGE + bytes(BATCH_LIMIT // 4 - len(IMAGE)))
    assert ages(post(server, BATCH, json.dumps({"images": 4 * [large]}).encode(), JSON)) == 4 * [AGE]
    answer = post(server, BATCH, json.dumps({"images": 5 * [large]}).encode(), JSON)
    assert f"{BATCH_LIMIT} bytes" in check_problem(answer, 413, "body-too-large", BATCH)
