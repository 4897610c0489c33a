"""The server: uvicorn around the app, in one process or in several on one socket, stopping in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import logging.config
import math
import os
import re
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agegender.api.request_log import LOGGING
from agegender.main import create_app, create_metrics_app
from agegender.processes import supervise
from agegender.settings import ENV_PREFIX, Settings

if sys.platform != "win32":
    import resource

# Of a request's headers, and again of its trailers.
_MAX_FIELD_BYTES = 64 * 1024
_UPGRADE = re.compile(rb"(^|\r\n)Upgrade:", re.IGNORECASE)

logger = logging.getLogger("agegender")


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what was accepted. False where the service could not start."""
    _leave_no_core()
    ports = {"port": settings.port}
    if settings.metrics_port is not None:
        ports["metrics_port"] = settings.metrics_port
    with contextlib.ExitStack() as stack:
        try:
            sockets = [
                stack.enter_context(bind(settings.host, port, setting)) for setting, port in ports.items()
            ]
        except CannotListen as error:
            logging.config.dictConfig(LOGGING)
            logger.error(error)
            return False
        if settings.processes > 1:
            return _serve_in_processes(settings, sockets)
        return _serve(settings, sockets)


def _serve(settings: Settings, sockets: Sequence[socket.socket], signs: Connection | None = None) -> bool:
    """Serve on the first of `sockets`, and the metrics on the second if there is one.

    Signs of life go to `signs`, where there is a supervisor; without it this stops.
    """
    _gather_only_what_is_logged()
    app = create_app(settings)
    config = _config(app, settings, lifespan="on")
    others = [_config(create_metrics_app(app), settings, lifespan="off")] if len(sockets) > 1 else []
    server = _Server(config, others, on_stop=lambda: app.state.service.pool.close())

    if signs is not None:

        async def give_sign() -> None:
            app.state.metrics.publish()
            try:
                signs.send_bytes(b".")
            except OSError:
                server.should_exit = True

        config.callback_notify, config.timeout_notify = give_sign, 0  # which is each second
    # uvicorn raises the signal that stopped it once more when all is done: an orderly stop exits with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    server.run(list(sockets))
    if app.state.unfinished:
        # A worker is still in native code, where the interpreter's own end would find it and abort.
        logging.shutdown()
        os._exit(0)
    return server.started


def _serve_in_processes(settings: Settings, sockets: Sequence[socket.socket]) -> bool:
    logging.config.dictConfig(LOGGING)
    with tempfile.TemporaryDirectory(prefix="agegender-metrics-", dir=_writable_folder()) as folder:
        # Where prometheus_client lets processes add up what each has counted; it looks there when it is imported.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        return supervise(
            settings.processes,
            partial(_serve, settings, sockets),
            grace=settings.drain_timeout + 5,
            on_started=lambda: _say_where(sockets),
            on_death=partial(mark_process_dead, path=folder),
        )


def _writable_folder() -> str | None:
    """In memory if possible: that can be written even where the root file system cannot. None: the usual place."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


def _config(app: FastAPI, settings: Settings, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        # By default uvicorn believes whoever speaks from this machine.
        proxy_headers=settings.trusted_proxies != "",
        forwarded_allow_ips=settings.trusted_proxies,
        lifespan=lifespan,
        # Nothing here speaks it; where a library for it is installed, connections would pass to that one's care.
        ws="none",
        http=partial(_Protocol, arrival_timeout=settings.arrival_timeout),  # type: ignore[arg-type]
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
    )


def _leave_no_core() -> None:
    """A crash shall not write the process's memory, and with it images, to a disk."""
    if sys.platform != "win32":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _gather_only_what_is_logged() -> None:
    """No line says where in the code it comes from, or from which thread (logging's HOWTO, "Optimization")."""
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class CannotListen(Exception):
    """str(e) is a sentence that says why, and what to do."""


def bind(host: str, port: int, setting: str) -> socket.socket:
    """A socket bound to that address, on which nobody listens yet. Raises CannotListen."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        with contextlib.ExitStack() as unless_bound:
            bound = unless_bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
            # As asyncio does: connections that were closed a moment ago are no obstacle.
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            unless_bound.pop_all()
    except (OSError, UnicodeError) as error:  # the latter for what can be no name
        reason = error.strerror if isinstance(error, OSError) else error
        option = f"--{setting.replace('_', '-')} ({ENV_PREFIX}{setting.upper()})"
        raise CannotListen(
            f"The service cannot listen on host {host}, port {port} ({reason}): stop what uses it, or "
            f"choose another by {option} or --host (AGEGENDER_HOST)."
        ) from error
    return bound


def _say_where(sockets: Sequence[socket.socket]) -> None:
    for bound, what in zip(sockets, ("listening on %s", "metrics are at %s/metrics"), strict=False):
        host, port = bound.getsockname()[:2]
        logger.info(what, f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


class _Server(uvicorn.Server):
    """Listens for `others` as well, each on a socket of its own after the first, and stops for all together.

    Calls `on_stop`, on the event loop, at the first signal: before connections begin to close.
    """

    def __init__(
        self, config: uvicorn.Config, others: Sequence[uvicorn.Config], on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._others = others
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # Before it counts as started: a signal may come at any moment.
        self._loop = asyncio.get_running_loop()
        first, *further = sockets or []
        await super().startup([first])
        for config, bound in zip(self._others, further, strict=True):
            await self._listen_for(config, bound)
        if not self.config.callback_notify:  # else it is for the supervisor to say
            _say_where([first, *further])

    async def _listen_for(self, config: uvicorn.Config, bound: socket.socket) -> None:
        config.load()
        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        listener = await asyncio.get_running_loop().create_server(
            partial(protocol, config=config, server_state=self.server_state, app_state={}), sock=bound
        )
        # Those are closed when the server stops, and so are all connections of `server_state`.
        self.servers.append(listener)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            # Not here and now: the signal may have come in the middle of what holds the pool's lock.
            self._loop.call_soon_threadsafe(self._on_stop)
        super().handle_exit(sig, frame)


class _Protocol(HttpToolsProtocol):
    """HTTP over one connection, where a request must have arrived whole in time, and its fields are bounded.

    uvicorn itself waits without limit for the rest of a request, buffers headers and trailers without limit, takes
    trailers for headers, and loses the body of a request that offers another protocol, as Java's own client and
    `curl --http2` do. A server may pass over such an offer (RFC 9110, 7.8). Where the connection is to end with the
    answer, as nginx asks by default, it closes it while the body is still arriving: the system then resets it, and the
    answer may be lost. Here the rest of the body is read first (RFC 9112, 9.6).
    """

    def __init__(self, *args: Any, arrival_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival_timeout = arrival_timeout
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        # From each chunk's size on, until the chunk begins: after the last one come the trailers.
        self._in_trailers = False
        self._field_bytes = 0
        self._answered_last = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._await_request()  # empty lines before a request begin none
            data = _without_offers(data)
        if self._in_head or self._in_trailers:
            self._field_bytes += len(data)
        super().data_received(data)
        too_large = self._field_bytes > _MAX_FIELD_BYTES and (self._in_head or self._in_trailers)
        if too_large and not self.transport.is_closing():
            self.send_400_response("The headers of this request are too large.")

    def on_message_begin(self) -> None:
        self._await_request()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head, self._field_bytes = False, 0
        super().on_headers_complete()
        self.cycle.transport = _Answering(self.transport, self._close)  # type: ignore[assignment]

    def on_chunk_header(self) -> None:
        self._in_trailers = True

    def on_body(self, body: bytes) -> None:
        self._in_trailers, self._field_bytes = False, 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_head, self._in_trailers, self._field_bytes = True, False, 0
        self._request_has_come()
        super().on_message_complete()
        if self._answered_last:
            self.transport.close()

    def _close(self) -> None:
        if self._deadline is None or self.transport.is_closing():
            self.transport.close()
        else:
            self._answered_last = True
            self.transport.write_eof()

    def _unsupported_upgrade_warning(self) -> None:
        # An offer in two pieces, or behind another request: where the body ends, nobody knows any more.
        self.send_400_response("The header Upgrade is not supported: send the request without it.")

    def _await_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._arrival_timeout, self.transport.abort)

    def _request_has_come(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Answering:
    """What an answer needs of a transport, with another way to close it."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = close


def _without_offers(data: bytes) -> bytes:
    """What came of a head, and maybe more, with another name for each header Upgrade of the head."""
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]
    if not _UPGRADE.search(head):
        return data  # and not a copy of it: a body may be behind
    return _UPGRADE.sub(rb"\1X-Ignored-Upgrade:", head) + data[len(head) :]
