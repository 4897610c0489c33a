"""The service on a real socket, served by a thread of this process: it starts ten times as fast as another process."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Self
from unittest import mock

import httpx
import pytest
import uvicorn
from agegender import server
from agegender.answers import Prediction
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Load
from agegender.main import create_app
from agegender.settings import Settings
from helpers import PATIENCE, Service


class LocalService(Service):
    """Started and stopped by a `with` block."""

    def __init__(self, settings: Settings) -> None:
        self._app = create_app(settings)
        with mock.patch.object(server, "LOGGING", None):  # the log is pytest's
            config = server._config(server.ReadToTheEnd(self._app), settings)
        self._server = uvicorn.Server(config)
        (self._socket,) = server.bind("127.0.0.1", 0, "port")
        self._thread = threading.Thread(target=self._server.run, args=[[self._socket]], daemon=True)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    def __enter__(self) -> Self:
        self._thread.start()
        while not self._server.started:
            assert self._thread.is_alive()
            time.sleep(0.001)  # else it would take the interpreter from what it waits for
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join(PATIENCE)
        self._socket.close()
        assert not self._thread.is_alive()


class GatedService(LocalService):
    """Its workers wait where the gate is shut.

    An image may have a gate of its own, in `gates`; `begun` holds those that a worker has come to.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = threading.Event()
        self.gate.set()
        self.gates: dict[bytes, threading.Event] = {}
        self.begun: list[bytes] = []

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

    def __exit__(self, *_: object) -> None:
        for gate in (self.gate, *self.gates.values()):
            gate.set()
        super().__exit__()


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
    with gated:
        yield gated
