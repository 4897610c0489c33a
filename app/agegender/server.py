"""The server: uvicorn around the app, listening on one or several sockets, stopping in order."""

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
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Literal

import h11
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from agegender.logs import LOGGING
from agegender.main import create_app, create_metrics_app
from agegender.settings import ENV_PREFIX, Settings

if sys.platform != "win32":
    import resource

logger = logging.getLogger("agegender")


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish the requests that were accepted.

    Return whether the service could start.
    """
    _disable_core_dumps()
    with contextlib.ExitStack() as sockets:
        try:
            listening = bind(settings.host, settings.port, "port")
            for bound in listening:
                sockets.enter_context(bound)
            metrics: list[socket.socket] = []
            if settings.metrics_port is not None:
                metrics = bind(settings.host, settings.metrics_port, "metrics_port")
                for bound in metrics:
                    sockets.enter_context(bound)
        except CannotListen as error:
            logger.error(error)
            return False
        return _serve(settings, listening, metrics)


def _serve(settings: Settings, listening: list[socket.socket], metrics: list[socket.socket]) -> bool:
    app = create_app(settings)
    server = _Server(
        _config(ReadToTheEnd(app), settings, lifespan="on"),
        metrics_config=_config(create_metrics_app(app), settings, lifespan="off"),
        metrics_sockets=metrics,
        on_stop=lambda: app.state.service.pool.close(),
    )
    # uvicorn raises the signal that stopped it again when all is done; an orderly stop exits with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    server.run(listening)
    if app.state.unfinished:
        # A worker still runs native code; the interpreter would wait for it.
        logging.shutdown()
        os._exit(0)
    return server.started


def _config(app: ASGIApp, settings: Settings, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        # By default uvicorn trusts every client on this machine.
        proxy_headers=settings.trusted_proxies != "",
        forwarded_allow_ips=settings.trusted_proxies,
        lifespan=lifespan,
        ws="none",
        http=partial(_Protocol, arrival_timeout=settings.arrival_timeout),  # type: ignore[arg-type]
        timeout_keep_alive=math.ceil(settings.keep_alive_timeout),
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
    )


def _disable_core_dumps() -> None:
    """Keep the process's memory, which holds images, from being written to a disk after a crash."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class CannotListen(Exception):
    """str(e) is a sentence that says why, and what to do."""


def bind(host: str, port: int, setting: str) -> list[socket.socket]:
    """Bind a socket to `host`, or two to localhost: IPv4 and, where there is any, IPv6. Raises CannotListen."""
    try:
        if host != "localhost":
            return [_bind(host, port)]
        bound = [_bind("127.0.0.1", port)]
        try:
            # Where a free port is wanted, both are to have the same.
            bound.append(_bind("::1", bound[0].getsockname()[1]))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                bound[0].close()
                raise
    except (OSError, UnicodeError) as error:  # the latter where `host` cannot be a name
        reason = error.strerror if isinstance(error, OSError) else error
        option = f"--{setting.replace('_', '-')} ({ENV_PREFIX}{setting.upper()})"
        raise CannotListen(
            f"The service cannot listen on host {host}, port {port} ({reason}): stop what uses it, or "
            f"choose another by {option} or --host (AGEGENDER_HOST)."
        ) from error
    return bound


def _bind(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    with contextlib.ExitStack() as unless_bound:
        bound = unless_bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as asyncio does
        bound.bind(address)
        unless_bound.pop_all()
    return bound


def _url(bound: socket.socket) -> str:
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """Listens for the metrics as well, on sockets of their own, and stops for both together.

    Calls `on_stop`, on the event loop, at the first signal: before connections begin to close.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        metrics_config: uvicorn.Config,
        metrics_sockets: list[socket.socket],
        on_stop: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self._metrics_config = metrics_config
        self._metrics_sockets = metrics_sockets
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if not self.started:
            return
        self._metrics_config.load()
        protocol: Callable[..., asyncio.Protocol] = self._metrics_config.http_protocol_class
        for bound in self._metrics_sockets:
            # uvicorn closes those in `servers`, and the connections in `server_state`, when it stops.
            self.servers.append(
                await self._loop.create_server(
                    partial(
                        protocol, config=self._metrics_config, server_state=self.server_state, app_state={}
                    ),
                    sock=bound,
                )
            )
        logger.info("listening on %s", ", ".join(map(_url, sockets or [])))
        if self._metrics_sockets:
            logger.info("metrics are at %s/metrics", ", ".join(map(_url, self._metrics_sockets)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            self._loop.call_soon_threadsafe(self._on_stop)
        super().handle_exit(sig, frame)


_HTTP_2_PREFACE = b"PRI * HTTP/2.0\r\n"
_USE_HTTP_1_1 = bytes.fromhex(
    "000000 04 00 00000000"  # an empty SETTINGS frame, with which each side begins (RFC 9113, 3.4)
    "000008 07 00 00000000 00000000 0000000d"  # GOAWAY: HTTP_1_1_REQUIRED, nothing was processed
)


class _Protocol(H11Protocol):
    """HTTP/1.1 over one connection, where each request must have arrived whole in time.

    uvicorn waits without limit for the rest of a request. It warns in the log of each offer to switch to another
    protocol, which a server may ignore (RFC 9110, 7.8), and fails on a malformed body that it has already answered.
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
        before = self.cycle
        super().handle_events()
        head_begun = self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]
        arriving = head_begun or self.conn.their_state is h11.SEND_BODY
        if not arriving or self.cycle is not before:
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
    """ASGI middleware: read the rest of a request that was answered before it had arrived whole.

    Where the connection is to be closed after the answer, as nginx asks by default, uvicorn would close it at once: the
    system then resets it, and the answer may be lost to a client that is still sending (RFC 9112, 9.6).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        arriving, held = True, False

        async def receive_noting() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message.get("more_body", False)
            return message

        async def send_holding_the_end(message: Message) -> None:
            nonlocal held
            ends = message["type"] == "http.response.body" and not message.get("more_body", False)
            held = ends and arriving
            await send({**message, "more_body": True} if held else message)

        await self._app(scope, receive_noting, send_holding_the_end)
        if held:
            while arriving:
                await receive_noting()
            await send({"type": "http.response.body"})
