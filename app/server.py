"""The server process: uvicorn around the app, stopping in order."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.observe import LOGGING
from app.main import create_app, create_metrics_app
from app.settings import ENV_PREFIX, Settings

if sys.platform != "win32":
    import resource

_MAX_HEAD_BYTES = 64 * 1024

logger = logging.getLogger("agegender")


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what was accepted. False where the service could not start."""
    app = create_app(settings)
    obstacle = _why_not_listen(settings.host, settings.port, "port")
    metrics_config = None
    if settings.metrics_port is not None:
        obstacle = obstacle or _why_not_listen(settings.host, settings.metrics_port, "metrics_port")
        metrics_config = _config(create_metrics_app(app), settings, settings.metrics_port, lifespan="off")
    config = _config(app, settings, settings.port, lifespan="on")
    if obstacle is not None:
        logger.error(obstacle)
        return False
    _leave_no_core()
    server = _Server(config, metrics_config, on_stop=lambda: app.state.service.pool.close())
    # uvicorn raises the signal that stopped it once more when all is done: an orderly stop exits with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    server.run()
    return server.started


def _config(app: FastAPI, settings: Settings, port: int, lifespan: Literal["on", "off"]) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=port,
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


def _why_not_listen(host: str, port: int, setting: str) -> str | None:
    """What keeps the service from listening there; uvicorn would say it with a number, after all was loaded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        with socket.socket(family, socket.SOCK_STREAM) as listener:
            # As asyncio does: connections that were closed a moment ago are no obstacle.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        option = f"--{setting.replace('_', '-')} ({ENV_PREFIX}{setting.upper()})"
        return (
            f"The service cannot listen on host {host}, port {port} ({error.strerror}): stop what uses it, or "
            f"choose another by {option} or --host (AGEGENDER_HOST)."
        )
    return None


class _Server(uvicorn.Server):
    """Listens for a second app as well, where there is one, and stops for both together.

    Calls `on_stop`, on the event loop, at the first signal: before connections begin to close.
    """

    def __init__(
        self, config: uvicorn.Config, second: uvicorn.Config | None, on_stop: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._second = second
        self._on_stop = on_stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._second is not None:
            await self._listen_for(self._second)

    async def _listen_for(self, config: uvicorn.Config) -> None:
        config.load()
        protocol: Callable[..., asyncio.Protocol] = config.http_protocol_class
        listener = await asyncio.get_running_loop().create_server(
            partial(protocol, config=config, server_state=self.server_state, app_state={}),
            host=config.host,
            port=config.port,
        )
        # Those are closed when the server stops, and so are all connections of `server_state`.
        self.servers.append(listener)
        host, port = listener.sockets[0].getsockname()[:2]
        logger.info("metrics are at http://%s:%d/metrics", f"[{host}]" if ":" in host else host, port)

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        await super().main_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            # Not here and now: the signal may have come in the middle of what holds the pool's lock.
            self._loop.call_soon_threadsafe(self._on_stop)
        super().handle_exit(sig, frame)


class _Protocol(HttpToolsProtocol):
    """HTTP over one connection, where a request must have arrived whole in time, and its head is bounded.

    uvicorn itself waits without limit for the rest of a request, and buffers headers without limit.
    """

    def __init__(self, *args: Any, arrival_timeout: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._arrival_timeout = arrival_timeout
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = True
        self._head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._request_has_come()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The headers of this request are too large.")

    def on_message_begin(self) -> None:
        self._await_request()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_head = True
        self._request_has_come()
        super().on_message_complete()

    def _await_request(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self._arrival_timeout, self.transport.abort)

    def _request_has_come(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
