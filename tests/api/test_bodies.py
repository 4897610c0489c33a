"""The bodies that an image, or several, may come in; what is wrong with any other is said with the next step."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest
from helpers import ASTRONAUT, FORM, FORM_END, IMAGE, Server, Upload, check_problem, grey, jpeg, part

LIMIT, BATCH_LIMIT = 20 * 2**20, 40 * 2**20
AGE = 20
JSON = "application/json"
SINGLE, BATCH = "/predict", "/predict/batch"


def text(image: bytes = IMAGE) -> str:
    return base64.b64encode(image).decode()


def in_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def post(server: Server, path: str, content: bytes, content_type: str | None) -> httpx.Response:
    headers = {} if content_type is None else {"Content-Type": content_type}
    return server.client.post(path, content=content, headers=headers, params={"detector": "none"})


def ages(answer: httpx.Response) -> list[float]:
    """Of the one face in each image."""
    assert answer.status_code == 200, answer.text
    found = answer.json()
    images = [result["prediction"] for result in found["results"]] if "results" in found else [found]
    return [image["faces"][0]["age"]["years"] for image in images]


@pytest.mark.parametrize(
    "declared",
    [
        None,
        "image/png",
        "image/x-new",
        "application/octet-stream",
        "binary/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_content_decides_what_a_file_is(server: Server, declared: str | None) -> None:
    photograph = jpeg(grey(51))
    assert ages(post(server, SINGLE, photograph, declared)) == [pytest.approx(AGE, abs=0.5)]
    form = {"image": ("photo.gif", photograph, declared)}
    answer = server.client.post(f"{SINGLE}?detector=none", files=form)
    assert ages(answer) == [pytest.approx(AGE, abs=0.5)]
    check_problem(post(server, SINGLE, b"image=photo.jpg", declared), 400, "image-unreadable")


@pytest.mark.parametrize("content_type", ["text/plain", "video/mp4", "image", "application/xml"])
def test_any_other_type_is_a_415_that_names_those_that_are_taken(server: Server, content_type: str) -> None:
    detail = check_problem(post(server, SINGLE, IMAGE, content_type), 415, "media-type-unsupported")
    assert all(name in detail for name in ("image/jpeg", "multipart/form-data", JSON))


@pytest.mark.parametrize("content_type", [None, "image/jpeg"])
def test_a_batch_is_a_form_or_json(server: Server, content_type: str | None) -> None:
    answer = post(server, BATCH, IMAGE, content_type)
    assert "multipart/form-data" in check_problem(answer, 415, "media-type-unsupported", BATCH)


@pytest.mark.parametrize("content_type", [None, "image/jpeg"])
def test_without_a_body_there_is_no_image(server: Server, content_type: str | None) -> None:
    check_problem(post(server, SINGLE, b"", content_type), 400, "image-missing")


def test_a_part_without_a_file_name_is_a_file(server: Server) -> None:
    """As Flutter sends it, `requests` with `(None, data)`, and generated clients."""
    assert ages(post(server, SINGLE, part("image", filename=None) + FORM_END, FORM)) == [AGE]
    several = part("images", filename=None) + part("images") + part("images", filename=None) + FORM_END
    answer = post(server, BATCH, several, FORM)
    assert ages(answer) == 3 * [AGE]
    assert [result["filename"] for result in answer.json()["results"]] == ["", "photo.png", ""]


ONE, TWO = part("image") + FORM_END, 2 * part("images") + FORM_END


@pytest.mark.parametrize(
    ("path", "content", "content_type", "said"),
    [
        (SINGLE, b"", FORM, "ends before its last boundary"),
        (SINGLE, ONE[:-40], FORM, "ends before its last boundary"),
        (SINGLE, FORM_END, FORM, "a part named image"),
        (SINGLE, part("photo") + FORM_END, FORM, "part photo is not expected"),
        (SINGLE, part("a" * 3000) + FORM_END, FORM, f"part {40 * 'a'} is not expected"),
        (SINGLE, 1000 * part("image", b"") + FORM_END, FORM, "too many images"),
        (SINGLE, part("image") + part("note", b"text", None) + FORM_END, FORM, "part note is not expected"),
        (SINGLE, b"this is no multipart", FORM, "not valid multipart/form-data"),
        (SINGLE, part("image", filename=5000 * "x") + FORM_END, FORM, "not valid multipart/form-data"),
        (SINGLE, ONE, "multipart/form-data", "no boundary"),
        (BATCH, FORM_END, FORM, "1 to 32 parts named images"),
        (BATCH, 33 * part("images") + FORM_END, FORM, "too many images"),
        (BATCH, ONE, FORM, "part image is not expected"),
        # One without its end loses no image in silence.
        *((BATCH, TWO[:-n], FORM, "ends before its last boundary") for n in (4, 7, 9, 20)),
    ],
)
def test_a_form_that_is_refused_says_why(
    server: Server, path: str, content: bytes, content_type: str, said: str
) -> None:
    assert said in check_problem(post(server, path, content, content_type), 400, "multipart-invalid", path)


@pytest.mark.parametrize(
    "image",
    [
        text(),
        f"data:image/png;base64,{text()}",
        f"DATA:;BASE64,{text()}",
        text().rstrip("="),
        base64.urlsafe_b64encode(IMAGE).decode(),
        base64.encodebytes(IMAGE).decode(),
    ],
    ids=["base64", "data url", "short data url", "without padding", "of urls", "in lines"],
)
def test_an_image_may_come_in_json(server: Server, image: str) -> None:
    for content_type in (JSON, f"{JSON}; charset=utf-8"):
        assert ages(post(server, SINGLE, in_json(image=image), content_type)) == [AGE]
    answer = post(server, BATCH, in_json(images=3 * [image]), JSON)
    assert ages(answer) == 3 * [AGE]
    assert [result["filename"] for result in answer.json()["results"]] == 3 * [""]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        (SINGLE, b"", "the body is not valid JSON"),
        (SINGLE, IMAGE, "the body is not valid JSON"),
        (SINGLE, b"[1]", "the body must be an object"),
        (SINGLE, b"{}", '(image is missing): send {"image": "..."}'),
        (SINGLE, in_json(image="abc", model="B"), "(model is not expected)"),
        (SINGLE, in_json(photo="abc"), "(image is missing, photo is not expected)"),
        (SINGLE, in_json(image=7), "(image must be a string)"),
        (SINGLE, in_json(image="https://example.com/photo.jpg"), "URLs are not fetched"),
        (SINGLE, in_json(image="HTTP://169.254.169.254/"), "URLs are not fetched"),
        (SINGLE, in_json(image="no base64!"), "neither base64"),
        (SINGLE, '{"image": "ä"}'.encode(), "neither base64"),
        (SINGLE, in_json(image="data:image/png,abc"), "neither base64"),
        (SINGLE, b'{"image": [' + b"[]," * 10**6 + b"[]]}", "too many values"),
        (BATCH, in_json(images=[]), "(images is empty): send"),
        (BATCH, in_json(images=33 * ["abc"]), "(images has too many entries): send"),
        (BATCH, in_json(images="abc"), "(images must be a list): send"),
        (BATCH, in_json(images=[7]), "(images.0 must be a string)"),
        (BATCH, in_json(image="abc"), '{"images": ["...", "..."]}'),
    ],
)
def test_json_that_is_refused_says_why(server: Server, path: str, body: bytes, said: str) -> None:
    assert said in check_problem(post(server, path, body, JSON), 400, "json-invalid", path)


def test_one_bad_image_of_a_batch_in_json_costs_the_others_nothing(server: Server) -> None:
    images = [text(), "https://example.com/a.jpg", "no base64!", text(b"this is no image"), text()]
    answer = post(server, BATCH, in_json(images=images), JSON)
    outcomes = [result.get("error", {}).get("type") for result in answer.json()["results"]]
    json_invalid, unreadable = "/problems/json-invalid", "/problems/image-unreadable"
    assert outcomes == [None, json_invalid, json_invalid, unreadable, None]


# Sizes


def padded(size: int) -> bytes:
    """An image of so many bytes: what follows it in the file is ignored."""
    return IMAGE + bytes(size - len(IMAGE))


def batch_of(size: int) -> bytes:
    """A form of `size` bytes with four files."""
    three = 3 * part("images", padded(BATCH_LIMIT // 4))
    return three + part("images", padded(size - len(three) - len(part("images", b"") + FORM_END))) + FORM_END


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("kind", ["bare", "form", "json"])
def test_as_many_bytes_as_allowed_are_read_and_one_more_is_a_413(
    server: Server, kind: str, more: int
) -> None:
    image = padded(LIMIT + more)
    body, content_type = {
        "bare": (image, "image/png"),
        "form": (part("image", image) + FORM_END, FORM),
        "json": (in_json(image=text(image)), JSON),
    }[kind]
    answer = post(server, SINGLE, body, content_type)
    if more:
        assert f"{LIMIT} bytes" in check_problem(answer, 413, "body-too-large")
    else:
        assert ages(answer) == [AGE]


@pytest.mark.parametrize("kind", ["form", "json"])
def test_a_batch_has_a_bound_of_its_own(server: Server, kind: str) -> None:
    quarter = text(padded(BATCH_LIMIT // 4))
    allowed, too_large, content_type = {
        "form": (batch_of(BATCH_LIMIT), batch_of(BATCH_LIMIT + 1), FORM),
        "json": (in_json(images=4 * [quarter]), in_json(images=5 * [quarter]), JSON),
    }[kind]
    assert ages(post(server, BATCH, allowed, content_type)) == 4 * [AGE]
    answer = post(server, BATCH, too_large, content_type)
    assert f"{BATCH_LIMIT} bytes" in check_problem(answer, 413, "body-too-large", BATCH)


@pytest.mark.parametrize(
    ("path", "content_type", "limit"),
    [(SINGLE, "image/png", LIMIT), (SINGLE, FORM, LIMIT), (BATCH, FORM, BATCH_LIMIT)],
)
def test_a_body_that_is_too_large_is_refused_before_its_end(
    server: Server, path: str, content_type: str, limit: int
) -> None:
    announced = Upload(server, path=path, length=limit + 20_000, content_type=content_type, wait=False)
    check_problem(announced.answer(), 413, "body-too-large", path)
    chunked = Upload(server, path=path, length=None, content_type=content_type)
    if content_type == FORM:
        chunked.send_chunk(part("images" if path == BATCH else "image", b"")[:-2])
    for _ in range(limit // 2**20):
        chunked.send_chunk(bytes(2**20))
    chunked.send_chunk(bytes(20_000))
    # No end was sent: the server did not wait for it.
    check_problem(chunked.answer(), 413, "body-too-large", path)


def test_a_chunked_image_is_read(server: Server) -> None:
    photograph = ASTRONAUT.read_bytes()
    pieces = (photograph[start : start + 5000] for start in range(0, len(photograph), 5000))
    answer = server.client.post("/predict", content=pieces, headers={"Content-Type": "image/jpeg"})
    assert answer.status_code == 200
    assert len(answer.json()["faces"]) == 1
