"""Damaged files and forms, sent to a running service: always an answer or an exact problem document."""

from __future__ import annotations

import httpx
import pytest
from helpers import Server, check_problem
from hostile_files import damaged_files
from hypothesis import given, settings
from hypothesis import strategies as st

OUTCOMES = {
    (400, "image-missing"),
    (400, "image-unreadable"),
    (400, "multipart-invalid"),
    (413, "image-too-large"),
    (415, "media-type-unsupported"),
}


def check_contract(answer: httpx.Response, path: str = "/predict") -> None:
    """Assert that the answer is a prediction, or one of the problems that an image can be."""
    if answer.status_code == 200:
        assert "results" in answer.json() or "faces" in answer.json()
        return
    name = answer.json()["type"].removeprefix("/problems/")
    assert (answer.status_code, name) in OUTCOMES
    check_problem(answer, answer.status_code, name, path)


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
