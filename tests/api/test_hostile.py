"""What means harm, sent to a running service: always an exact problem document, in bounded time and memory."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import httpx
import pytest
from helpers import Server, check_problem
from hostile_files import costly_headers, damaged_files, polyglots, too_many_pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import HEIGHT, WIDTH

OUTCOMES = {
    (400, "image-missing"),
    (400, "image-unreadable"),
    (400, "multipart-invalid"),
    (413, "image-too-large"),
    (415, "media-type-unsupported"),
}


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


def check_contract(answer: httpx.Response, path: str = "/predict") -> None:
    """Assert that the answer is a prediction, or one of the problems that an image can be."""
    if answer.status_code == 200:
        assert "results" in answer.json() or "faces" in answer.json()
        return
    name = answer.json()["type"].removeprefix("/problems/")
    assert (answer.status_code, name) in OUTCOMES
    check_problem(answer, answer.status_code, name, path)


@pytest.mark.skipif(sys.platform != "linux", reason="looks at a process as only Linux shows it")
def test_bombs_are_problems_that_cost_neither_time_nor_memory(server: Server) -> None:
    bombs = {**too_many_pixels(), **costly_headers()}
    files = [("images", bomb) for bomb in bombs.items()]
    spent = Spent(server)
    answer = server.client.post("/predict/batch", files=files)
    assert answer.status_code == 200
    for result in answer.json()["results"]:
        error = result["error"]
        kind = (error["status"], error["type"].removeprefix("/problems/"))
        assert kind in {(400, "image-unreadable"), (413, "image-too-large")}, result["filename"]
    seconds, memory = spent.so_far()
    assert seconds < 5
    assert memory < 100e6


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
            b'Content-Disposition: form-data; name="images"; filename="p.png"',
            b'Content-Disposition: form-data; name="image"',
            b'Content-Disposition: form-data; name="images"; filename=',
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
    st.tuples(st.sampled_from([b"--b", b"--b--", b"--c", b""]), HEADERS, st.binary(max_size=50)), max_size=6
)


@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
@given(FORMS, st.sampled_from(["b", "c", "", '"b', "b" * 300]), st.sampled_from([b"\r\n", b"\n"]))
@settings(max_examples=150, deadline=None)
def test_broken_forms_end_as_the_contract_says(
    server: Server, path: str, parts: list[tuple[bytes, list[bytes], bytes]], boundary: str, line_end: bytes
) -> None:
    body = line_end.join(
        line for border, headers, content in parts for line in (border, *headers, b"", content)
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    check_contract(server.client.post(path, content=body, headers=headers), path)
