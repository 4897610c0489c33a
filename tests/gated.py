"""The service with workers that a test can hold."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from agegender.answers import Prediction
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Load
from agegender.main import create_app
from agegender.settings import Settings
from helpers import PATIENCE


class GatedService:
    """The app on a real socket, served by a thread of this process: its workers wait where the gate is shut.

    An image may have a gate of its own, in `gates`; `begun` holds those that a worker has come to.
    """

    def __init__(self, settings: Settings) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.gates: dict[bytes, threading.Event] = {}
        self.begun: list[bytes] = []
        self._app = create_app(settings)
        self._server = uvicorn.Server(uvicorn.Config(self._app, port=0, log_level="error"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def start(self) -> None:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.001)  # else it would take the interpreter from what it waits for
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"

    def load(self) -> Load:
        load: Load = self._app.state.service.pool.load()
        return load

    def queued(self) -> int:
        """Images in the queue of the workers."""
        pool = self._app.state.service.pool
        return sum(not work.running() for place in pool._taken for work in list(place.works))

    def memory(self) -> int:
        """Bytes that requests still arriving, and batches until they are done, take up."""
        taken: int = self._app.state.service.arrival_memory.taken
        return taken

    def stop(self) -> None:
        for gate in (self.gate, *self.gates.values()):
            gate.set()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@contextlib.contextmanager
def gated_service(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatedService]:
    """A `GatedService`, its gate open, for the length of a `with` block."""
    gated = GatedService(settings)

    class Gated(Pipeline):
        def predict(self, data: bytes | memoryview, **options: Any) -> Prediction:
            image = bytes(data)
            gated.begun.append(image)
            assert gated.gates.get(image, gated.gate).wait(PATIENCE)
            return super().predict(data, **options)

    monkeypatch.setattr("agegender.main.Pipeline", Gated)
    gated.start()
    try:
        yield gated
    finally:
        gated.stop()
