"""Callers who send slowly, in part or never: they cost nobody else an answer, and are cut off in time."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agegender.settings import Settings
from helpers import IMAGE, PATIENCE, Server, connected, read_to_the_end, serving

HEAD = b"POST /predict?detector=none HTTP/1.1\r\nHost: service\r\nContent-Type: image/png\r\n"
WITH_LENGTH = HEAD + b"Content-Length: %d\r\n\r\n" % len(IMAGE)
LARGE = WITH_LENGTH.replace(b"%d" % len(IMAGE), b"1000000")
WHOLE = b"GET /health/live HTTP/1.1\r\nHost: service\r\n\r\n"
UNFINISHED = {
    "nothing": b"",
    "half a line": b"POST /pre",
    "half a head": HEAD,
    "no body": WITH_LENGTH,
    "half a body": WITH_LENGTH + IMAGE[:-1],
    "half a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nff\r\nhalf",
    "half a part": b"POST /predict HTTP/1.1\r\nHost: service\r\nContent-Length: 1000\r\n"
    b'Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\nContent-Disposition: form-data; name="im',
    "half a batch": b"POST /predict/batch HTTP/1.1\r\nHost: service\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    b'--b\r\nContent-Disposition: form-data; name="images"; filename="p"\r\n\r\n' + IMAGE + b"\r\n--b\r\n",
}


@pytest.fixture(scope="module")
def hasty(models_folder: Path, empty_cache: Path) -> Iterator[Server]:
    """A service that gives a request one second to arrive, and keeps idle connections for one more."""
    with serving(
        models_folder, empty_cache, "--workers=1", "--arrival-timeout=1", "--keep-alive-timeout=1"
    ) as server:
        yield server


def test_200_of_them_keep_no_answer_from_others(narrow_server: Server) -> None:
    with connected(narrow_server, 200) as connections:
        for i, connection in enumerate(connections):
            connection.sendall(list(UNFINISHED.values())[i % len(UNFINISHED)])
        for _ in range(10):
            assert narrow_server.predict(IMAGE, detector="none").status_code == 200
            for path in ("/health/live", "/health/ready", "/metrics", "/models"):
                assert narrow_server.client.get(path).status_code == 200
        # One of them goes on, and is answered.
        slow = connections[list(UNFINISHED).index("half a body")]
        slow.sendall(IMAGE[-1:])
        assert slow.recv(15) == b"HTTP/1.1 200 OK"


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
def test_what_has_not_arrived_in_time_is_cut_off(hasty: Server, sent: bytes) -> None:
    with connected(hasty) as (connection,):
        connection.sendall(sent)
        assert read_to_the_end(connection) == b""
    assert hasty.predict(IMAGE).status_code == 200
    assert "\nagegender_admitted 0.0\n" in hasty.client.get("/metrics").text


@pytest.mark.parametrize(
    ("begun", "answer", "drop"),
    [(LARGE, b"", b"x"), (WHOLE, b"HTTP/1.1 200 OK", b"\r\n")],
    ids=["of a body", "of empty lines"],
)
def test_a_drop_now_and_then_earns_no_more_time(
    hasty: Server, begun: bytes, answer: bytes, drop: bytes
) -> None:
    ends = time.monotonic() + PATIENCE
    with connected(hasty) as (connection,):
        connection.sendall(begun)
        assert connection.recv(len(answer)) == answer
        connection.settimeout(0.05)
        with contextlib.suppress(ConnectionError):
            while True:
                connection.sendall(drop)
                with contextlib.suppress(TimeoutError):
                    if connection.recv(4096) == b"":
                        break
                assert time.monotonic() < ends


def test_an_idle_connection_is_kept_for_longer_than_load_balancers_do_and_then_closed(hasty: Server) -> None:
    assert Settings().keep_alive_timeout > 60
    with connected(hasty) as (connection,):
        connection.sendall(WHOLE)
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 OK")
