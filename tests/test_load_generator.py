"""The benchmarks' load generator: it sends when it should, and counts right."""

from __future__ import annotations

import itertools
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers import PATIENCE, Server, grey, png

from benchmarks.load import LOST, Answers, Client, multipart, post

IMAGE = png(grey(51))
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with Client() as started:
        yield started


def test_figures_are_those_of_the_window_and_latency_counts_from_when_a_request_was_due() -> None:
    answers = Answers(
        due=np.array([0.0, 1.0, 2.0, 3.0, 4.0]),
        sent=np.array([0.0, 1.0, 2.5, 3.0, 4.0]),
        done=np.array([0.5, 1.25, 4.0, 3.125, 6.0]),
        status=np.array([200, 200, 200, 503, LOST]),
        start=1.0,
        end=5.0,
        client_seconds=1.5,
    )
    assert answers.per_second(200) == 2 / 4  # the first was answered before the window
    assert answers.per_second(503) == 1 / 4
    assert answers.latencies(200).tolist() == [250, 2000]  # of which 500 were the client's own delay
    assert answers.percentile(50) == 1125
    assert answers.percentile(50, 503) == 125
    assert np.isnan(answers.percentile(99, 404))
    assert answers.lateness(100) == 500
    assert (answers.count(200), answers.others) == (3, 1)


def test_answers_of_the_real_service_are_told_apart(server: Server, client: Client) -> None:
    port = urlsplit(server.url).port
    kinds = {
        200: post("/predict?detector=none", IMAGE, "image/png"),
        400: post("/predict", b"this is no image"),
        404: post("/nothing", b""),
        413: post("/predict", bytes(22_000_000)),
        422: multipart("/predict?max_faces=0", IMAGE),
    }
    closed = client.closed(port, list(kinds.values()), concurrency=2, seconds=0, at_least=50)
    counts = [closed.count(status) for status in kinds]
    assert sum(counts) == len(closed.status) >= 50
    assert max(counts) - min(counts) <= 3  # they were sent in turn
    assert (closed.done > closed.sent).all()

    opened = client.open(port, list(kinds.values()), np.linspace(0, 0.1, 25))
    assert [opened.count(status) for status in kinds] == 5 * [5]
    assert (opened.sent >= opened.due).all()


@contextmanager
def answering(answer: Callable[[], bytes]) -> Iterator[int]:
    """The port of a server that sends `answer()` to the request of each connection, and closes it."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            self.wfile.write(answer())

    class Listener(socketserver.ThreadingTCPServer):
        request_queue_size = 50

    with Listener(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_an_open_load_sends_on_time_though_nothing_is_answered(client: Client) -> None:
    due = np.linspace(0, 0.1, 20)
    all_came = threading.Barrier(len(due))

    def answer_when_all_came() -> bytes:
        all_came.wait(PATIENCE)
        return ANSWER

    with answering(answer_when_all_came) as port:
        answers = client.open(port, [post("/", b"")], due)
    assert answers.count(200) == 20
    assert ((answers.done - answers.due) >= due[-1] - answers.due).all()


def test_a_connection_that_ends_is_replaced_and_a_request_without_answer_is_lost(client: Client) -> None:
    turns = itertools.cycle([ANSWER.replace(b"\r\n", b"\r\nConnection: close\r\n", 1), b""])
    with answering(lambda: next(turns)) as port:
        answers = client.closed(port, [post("/", b"")], concurrency=1, seconds=0, at_least=10)
    assert answers.count(LOST) == answers.others == len(answers.status) // 2
    assert answers.count(200) == len(answers.status) - answers.others
