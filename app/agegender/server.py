"""The server: runs the app on uvicorn, listens on one or more sockets and shuts down gracefully."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from prometheus_client import start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agegender.logs import LOGGING
from agegender.main import create_app
from agegender.settings import ENV_PREFIX, Settings

if sys.platform != "win32":
    import resource

logger = logging.getLogger("agegender")


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish the accepted requests. Return False if the service cannot start."""
    if sys.platform != "win32":
        # Memory holds images: a crash must not write it to disk.
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    app = create_app(settings)
    try:
        sockets = bind(settings.host, settings.port, "port")
        if settings.metrics_port is not None:
            with _explained(settings.host, settings.metrics_port, "metrics_port"):
                metrics, _ = start_http_server(
                    settings.metrics_port, settings.host, registry=app.state.metrics.registry
                )
            logger.info("metrics are at %s/metrics", _url(metrics.socket))
    except CannotListen as error:
        logger.error(error)
        return False
    server = _Server(_config(ReadToTheEnd(app), settings), on_stop=lambda: app.state.service.pool.close())
    # After it has stopped, uvicorn raises the signal again: ignore it, so that the exit code is 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, signal.SIG_IGN)
    server.run(sockets)
    if app.state.unfinished:
        # A worker still runs native code, and the interpreter would wait for it.
        logging.shutdown()
        os._exit(0)
    return server.started


def _config(app: ASGIApp, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        # By default, uvicorn trusts the proxy headers of all clients on this machine.
        proxy_headers=settings.trusted_proxies != "",
        forwarded_allow_ips=settings.trusted_proxies,
        lifespan="on",
        ws="none",
        http=partial(_Protocol, arrival_timeout=settings.arrival_timeout),  # type: ignore[arg-type]
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout),
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
    )


class CannotListen(Exception):
    """The address cannot be bound; the message says why and what to do."""


@contextlib.contextmanager
def _explained(host: str, port: int, setting: str) -> Iterator[None]:
    """Raise CannotListen for an error of a block that binds the port of `setting`."""
    try:
        yield
    except (socket.gaierror, UnicodeError) as error:  # UnicodeError if it is not a valid host name
        raise CannotListen(
            f"The host {host} is unknown ({error}): choose another with --host (AGEGENDER_HOST)."
        ) from error
    except OSError as error:
        option = f"--{setting.replace('_', '-')} ({ENV_PREFIX}{setting.upper()})"
        raise CannotListen(
            f"The service cannot listen on host {host}, port {port} ({error.strerror}): stop the program that uses the "
            f"port, or choose another port with {option} or another host with --host (AGEGENDER_HOST)."
        ) from error


def bind(host: str, port: int, setting: str) -> list[socket.socket]:
    """Bind a socket to `host`; for localhost, one of IPv4 and, if available, one of IPv6. Raises CannotListen."""
    with _explained(host, port, setting):
        if host != "localhost":
            return [_bind(host, port)]
        bound = [_bind("127.0.0.1", port)]
        try:
            bound.append(_bind("::1", bound[0].getsockname()[1]))  # the same port, also for port 0
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
        return bound


def _bind(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
    bound.bind(address)
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """At a signal, it calls `on_stop` before it closes connections."""

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            logger.info("listening on %s", ", ".join(map(_url, sockets or [])))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            self._on_stop()
        super().handle_exit(sig, frame)


_HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n"
_USE_HTTP_1_1 = bytes.fromhex(
    "000000 04 00 00000000"  # an empty SETTINGS frame, the first of each side (RFC 9113, 3.4)
    "000008 07 00 00000000 00000000 0000000d"  # GOAWAY with HTTP_1_1_REQUIRED: nothing was processed
)


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol with four changes.

    A request must arrive within `arrival_timeout` seconds, or the connection is closed. A client that begins with
    HTTP/2 is told to use HTTP/1.1. Offers to upgrade are ignored (RFC 9110, 7.8) without a warning in the log. A
    malformed body whose request was already answered closes the connection, on which uvicorn would fail.
    """

    def __init__(self, *args: Any, arrival_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival_timeout = arrival_timeout
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.cycle is None and data.startswith(_HTTP_2_PREFACE):
            self.transport.write(_USE_HTTP_1_1)
            self.transport.close()
        else:
            super().data_received(data)

    def handle_events(self) -> None:
        previous = self.cycle
        super().handle_events()
        head_started = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        arriving = head_started or self.conn.their_state is h11.SEND_BODY
        if not arriving or self.cycle is not previous:
            self._stop_deadline()
        if arriving:
            self._start_deadline()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._arrival_timeout, self.transport.abort)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class ReadToTheEnd:
    """ASGI middleware that reads the rest of a request whose response is sent before all of it has arrived.

    With `Connection: close`, which nginx sends by default, uvicorn closes the connection right after the response. The
    system then resets it, and a client that is still sending may lose the response (RFC 9112, 9.6).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arriving, held = True, False

        async def receive_and_note() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message.get("more_body", False)
            return message

        async def send_without_end(message: Message) -> None:
            nonlocal held
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            held = is_last and arriving
            await send({**message, "more_body": True} if held else message)

        await self._app(scope, receive_and_note, send_without_end)
        if held:
            task = asyncio.current_task()
            # At shutdown the server cancels this, perhaps before the response.
            with contextlib.suppress(asyncio.CancelledError):
                while arriving and not (task and task.cancelling()):
                    await receive_and_note()
            await send({"type": "http.response.body"})
