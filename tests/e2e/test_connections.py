"""What the server makes of requests that few clients send: one answer to each, and bounds on all of them."""

from __future__ import annotations

from agegender.settings import Settings
from helpers import IMAGE, Server, connected, read_to_the_end

HEAD = b"POST /predict?detector=none HTTP/1.1\r\nHost: service\r\nContent-Type: image/png\r\n"
WITH_LENGTH = HEAD + b"Content-Length: %d\r\n" % len(IMAGE)
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n"
LAST = b"Connection: close\r\n"
OFFER = b"Connection: Upgrade, HTTP2-Settings\r\nuPGRADE: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


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
    assert "upgrade" not in server.log()


def test_a_broken_chunk_after_the_answer_ends_the_connection_without_a_traceback(server: Server) -> None:
    request_id = "broken-chunk"
    with connected(server) as (connection,):
        head = IN_CHUNKS.replace(b"/predict", b"/nowhere") + b"X-Request-ID: %s\r\n\r\n" % request_id.encode()
        connection.sendall(head)
        answered = connection.recv(4096)
        assert answered.startswith(b"HTTP/1.1 404")
        connection.sendall(b"this is no chunk\r\n")
        read_to_the_end(connection)
    server.request_line(request_id)
    assert server.predict(IMAGE, detector="none").status_code == 200
    assert "Traceback" not in server.log()


def test_a_refusal_reaches_who_sends_all_before_reading_though_it_is_the_last_answer(server: Server) -> None:
    body = bytes(Settings().max_bytes + 2**20)
    with connected(server) as (connection,):
        connection.sendall(HEAD + b"Content-Length: %d\r\n" % len(body) + LAST + b"\r\n")
        let_read(server)  # it has answered
        connection.sendall(body)
        answer = read_to_the_end(connection)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"instance":"/predict"' in answer


def test_a_client_that_speaks_http_2_is_asked_for_http_1_1(server: Server) -> None:
    with connected(server) as (connection,):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        answer = read_to_the_end(connection)
    settings, goaway = answer[:9], answer[9:]
    assert settings == bytes.fromhex("000000 04 00 00000000")
    assert goaway[3] == 7
    assert int.from_bytes(goaway[-4:], "big") == 0xD  # HTTP_1_1_REQUIRED
