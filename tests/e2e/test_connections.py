"""What the server makes of requests that few clients send: one answer to each, and bounds on all of them."""

from __future__ import annotations

import contextlib

from helpers import Server, connected, grey, png, read_to_the_end

IMAGE = png(grey(51))
HEAD = b"POST /predict?detector=none HTTP/1.1\r\nHost: service\r\nContent-Type: image/png\r\n"
WITH_LENGTH = HEAD + b"Content-Length: %d\r\n" % len(IMAGE)
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n"
LAST = b"Connection: close\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nuPGRADE: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def let_read(server: Server) -> None:
    """Wait until `server` has read what was sent: what comes next comes by itself."""
    for _ in range(2):  # turns of its event loop, of which one may be spent on accepting the connection
        server.client.get("/health/live")


def test_an_offer_to_speak_another_protocol_is_passed_over(server: Server) -> None:
    """As Java's own client makes it, and `curl --http2`; the body follows in a packet of its own."""
    another = b"GET /health/live HTTP/1.1\r\nHost: service\r\n" + LAST + b"\r\n"
    with connected(server) as (connection,):
        connection.sendall(WITH_LENGTH + OFFER + b"\r\n")
        let_read(server)
        connection.sendall(IMAGE + another)
        answers = read_to_the_end(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 2
    assert b'"faces":[{' in answers
    assert b'{"status":"live"}' in answers


def test_an_offer_in_two_pieces_lets_nobody_hide_a_request_in_a_body(server: Server) -> None:
    hidden = b"GET /health/live HTTP/1.1\r\nHost: service\r\n\r\n"
    request = HEAD + b"Content-Length: %d\r\n" % len(hidden) + OFFER + b"\r\n"
    middle = request.index(b"uPGRADE") + 3
    with connected(server) as (connection,):
        for piece in (request[:middle], request[middle:]):
            connection.sendall(piece)
            let_read(server)
        with contextlib.suppress(ConnectionError):
            connection.sendall(hidden)
        answers = read_to_the_end(connection)
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert b"send the request without it" in answers
    assert b"live" not in answers


def test_trailers_are_no_headers(server: Server) -> None:
    body = chunk(IMAGE[:10]) + chunk(IMAGE[10:])
    with connected(server) as (connection,):
        connection.sendall(IN_CHUNKS + LAST + b"\r\n" + body + b"0\r\nX-Request-ID: trailing\r\n\r\n")
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"trailing" not in answer


def test_trailers_without_end_are_refused(server: Server) -> None:
    sent = 0
    with connected(server) as (connection,):
        connection.sendall(IN_CHUNKS + b"\r\n" + chunk(IMAGE) + b"0\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 50e6:
                sent += connection.send(b"X-Padding: " + 10_000 * b"x" + b"\r\n")
        assert read_to_the_end(connection)[:12] in (b"HTTP/1.1 400", b"")
    assert sent < 20e6  # what lies in the buffers of the two sockets


def test_a_body_in_many_chunks_is_read(server: Server) -> None:
    with connected(server) as (connection,):
        connection.sendall(IN_CHUNKS + LAST + b"\r\n")
        for each in IMAGE:
            connection.sendall(chunk(bytes([each])))
        connection.sendall(b"0\r\n\r\n")
        assert read_to_the_end(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_refusal_reaches_who_sends_all_before_reading_though_it_is_the_last_answer(server: Server) -> None:
    body = bytes(12 * 2**20)
    with connected(server) as (connection,):
        connection.sendall(HEAD + b"Content-Length: %d\r\n" % len(body) + LAST + b"\r\n")
        let_read(server)  # it has answered
        connection.sendall(body)
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"instance":"/predict"' in answer
