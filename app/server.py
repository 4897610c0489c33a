"""The server process: uvicorn around the app, stopping in order."""

from __future__ import annotations

import asyncio
import math
import signal
from collections.abc import Callable
from types import FrameType

import uvicorn

from app.api.observe import LOGGING
from app.main import create_app
from app.settings import Settings


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what was accepted. False where the service could not start."""
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=LOGGING,
        access_log=False,
        server_header=False,
        lifespan="on",
        timeout_graceful_shutdown=math.ceil(settings.drain_timeout),
    )
    server = _Server(config, on_stop=lambda: app.state.service.pool.close())
    # uvicorn raises the signal that stopped it once more when all is done: an orderly stop exits with 0.
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda *_: None)
    server.run()
    return server.started


class _Server(uvicorn.Server):
    """Calls `on_stop`, on the event loop, at the first signal: before connections begin to close."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        await super().main_loop()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.started:
            # Not here and now: the signal may have come in the middle of what holds the pool's lock.
            self._loop.call_soon_threadsafe(self._on_stop)
        super().handle_exit(sig, frame)
