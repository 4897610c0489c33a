"""What means harm, sent to a running service: always an exact problem document, in bounded time and memory."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from helpers import Server, check_problem
from hostile_files import costly_headers, damaged_files, foreign_files, polyglots, too_many_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import FILES, HEIGHT, WIDTH

SMALL = ("JPEG", "lossless WebP", "AVIF", "HEIC", "TIFF by LZW")
BOMBS = {**too_many_pixels(), **costly_headers()}
OUTCOMES = {
    (400, "image-missing"),
    (400, "image-unreadable"),
    (400, "multipart-invalid"),
    (413, "image-too-large"),
    (415, "media-type-unsupported"),
}


def check_refused(answer: httpx.Response) -> None:
    """Assert that the answer is one of the two problems that a bomb can be."""
    name = "image-too-large" if answer.status_code == 413 else "image-unreadable"
    check_problem(answer, 413 if name == "image-too-large" else 400, name)


class Spent:
    """Processor seconds and peak memory of a server's process, from here on."""

    def __init__(self, server: Server) -> None:
        self._process = Path(f"/proc/{server.process.pid}")
        (self._process / "clear_refs").write_text("5")  # which resets the peak
        self._seconds, self._bytes = self._read()

    def _read(self) -> tuple[float, int]:
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[11]) + int(fields[12])
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", (self._process / "status").read_text())
        return ticks / os.sysconf("SC_CLK_TCK"), 1024 * int(kilobytes)

    def so_far(self) -> tuple[float, int]:
        seconds, peak = self._read()
        return seconds - self._seconds, peak - self._bytes


def check_contract(answer: httpx.Response) -> None:
    """Assert that the answer is a prediction, or one of the problems that an image can be."""
    if answer.status_code == 200:
        assert set(answer.json()) == {"model", "detector", "image", "faces_found", "faces", "timings_ms"}
        return
    name = answer.json()["type"].removeprefix("/problems/")
    assert (answer.status_code, name) in OUTCOMES
    check_problem(answer, answer.status_code, name)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a process as only Linux shows it")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_a_problem_that_costs_nothing(server: Server, name: str) -> None:
    spent = Spent(server)
    for _ in range(3):
        check_refused(server.predict(BOMBS[name]))
    seconds, memory = spent.so_far()
    assert seconds < 5
    assert memory < 50e6


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a process as only Linux shows it")
def test_a_batch_of_bombs_costs_no_more(server: Server) -> None:
    bombs = list(BOMBS.values())
    files = [("images", ("bomb", bombs[place % len(bombs)])) for place in range(32)]
    spent = Spent(server)
    answer = server.client.post("/predict/batch", files=files)
    assert answer.status_code == 200
    assert {result["error"]["status"] for result in answer.json()["results"]} == {400, 413}
    seconds, memory = spent.so_far()
    assert seconds < 5
    assert memory < 100e6


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_cut_short_is_a_problem(server: Server, kind: str) -> None:
    data = FILES[kind]
    check_problem(server.predict(b""), 400, "image-missing")
    for length in range(1, len(data), 9):
        check_problem(server.predict(data[:length], detector="none"), 400, "image-unreadable")
    assert server.predict(data, detector="none").status_code == 200


@pytest.mark.parametrize("kind", foreign_files())
@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream"])
def test_what_is_of_another_kind_is_a_problem(server: Server, kind: str, content_type: str) -> None:
    # Pillow could read some of them: decoders that nobody needs are not reached.
    answer = server.client.post(
        "/predict", content=foreign_files()[kind], headers={"Content-Type": content_type}
    )
    check_problem(answer, 400, "image-unreadable")


@pytest.mark.parametrize("kind", polyglots())
def test_a_polyglot_is_the_image_in_it_and_nothing_else(server: Server, kind: str) -> None:
    answer = server.predict(polyglots()[kind], detector="none")
    assert answer.status_code == 200
    assert answer.json()["image"] == {"width": WIDTH, "height": HEIGHT}
    assert "marked" not in answer.text
    assert answer.headers["content-type"] == "application/json"


@given(damaged_files())
@settings(max_examples=200, deadline=None)
def test_damaged_files_end_as_the_contract_says(server: Server, data: bytes) -> None:
    check_contract(server.predict(data))


HEADERS = st.lists(
    st.sampled_from(
        [
            b'Content-Disposition: form-data; name="image"; filename="p.png"',
            b'Content-Disposition: form-data; name="image"',
            b"Content-Disposition: form-data; name=",
            b"Content-Disposition: attachment",
            b"Content-Type: image/png",
            b"Content-Transfer-Encoding: base64",
            b"Content-Length: 7",
            b": nothing",
            b"x" * 5000,
            b"\xff\xfe\0",
        ]
    ),
    max_size=4,
)
FORMS = st.lists(
    st.tuples(st.sampled_from([b"--b", b"--b--", b"--c", b""]), HEADERS, st.binary(max_size=50)), max_size=4
)


@given(FORMS, st.sampled_from(["b", "c", "", '"b', "b" * 300]), st.sampled_from([b"\r\n", b"\n"]))
@settings(max_examples=200, deadline=None)
def test_broken_forms_end_as_the_contract_says(
    server: Server, parts: list[tuple[bytes, list[bytes], bytes]], boundary: str, line_end: bytes
) -> None:
    body = line_end.join(
        line for border, headers, content in parts for line in (border, *headers, b"", content)
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    check_contract(server.client.post("/predict", content=body, headers=headers))


@given(st.binary(max_size=500), st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40))
@settings(max_examples=200, deadline=None)
def test_random_bytes_of_any_type_end_as_the_contract_says(
    server: Server, data: bytes, content_type: str
) -> None:
    check_contract(
        server.client.post("/predict", content=data, headers={"Content-Type": content_type.strip()})
    )
