"""Several processes that do the same work, each replaced when it dies or hangs."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import FrameType

_SILENCE = 10.0
"""Seconds without a sign of life after which a process counts as hung."""

_STARTING = 60.0
"""Seconds that it has for its first one."""

# A new interpreter: threads, and what ONNX Runtime and OpenCV hold, do not survive a fork.
_context = multiprocessing.get_context("spawn")

logger = logging.getLogger("agegender")

Work = Callable[[Connection], object]
"""Done in a process; sends a byte through the connection once it has started, and then again and again."""


class _Process:
    def __init__(self, work: Work) -> None:
        self._last_sign = time.monotonic()
        self.started = False
        self.signs, theirs = _context.Pipe(duplex=False)
        self._process = _context.Process(target=work, args=(theirs,))
        self._process.start()
        theirs.close()

    @property
    def sentinel(self) -> int:
        return self._process.sentinel

    @property
    def pid(self) -> int:
        return self._process.pid or 0  # it has one, having been started

    @property
    def exit_code(self) -> int | None:
        return self._process.exitcode

    def look(self) -> None:
        """Note its signs of life; kill it where there was none for too long."""
        try:
            while self.signs.poll():
                self.signs.recv_bytes()
                self.started, self._last_sign = True, time.monotonic()
        except EOFError:  # it is dead, as its exit code will tell
            pass
        if time.monotonic() - self._last_sign > (_SILENCE if self.started else _STARTING):
            self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait until it has ended; kill it at `deadline`."""
        self._process.join(max(0.0, deadline - time.monotonic()))
        self._process.kill()
        self._process.join()


def supervise(
    count: int, work: Work, *, grace: float, on_started: Callable[[], None], on_death: Callable[[int], None]
) -> bool:
    """Keep `count` processes at `work` until SIGTERM or SIGINT, which are passed on; they then have `grace` seconds.

    The first one starts alone: what keeps it from starting is said once, and False is returned. `on_started` is called
    when it has, and `on_death` with the id of each process that ended by itself.
    """
    processes: list[_Process] = []
    stopping = False

    def stop(_: int, __: FrameType | None) -> None:
        nonlocal stopping
        stopping = True
        for process in processes:
            process.terminate()

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, stop)
    processes.append(_Process(work))
    while not stopping:
        wait([*(p.sentinel for p in processes), *(p.signs for p in processes)], timeout=1)
        for i, process in enumerate(processes):
            process.look()
            if stopping or process.exit_code is None:
                continue
            on_death(process.pid)
            if not process.started and len(processes) == 1:
                return False
            logger.error("process %d ended with exit code %d: replacing it", process.pid, process.exit_code)
            processes[i] = _Process(work)
        if len(processes) < count and processes[0].started:
            if len(processes) == 1:
                on_started()
            processes.append(_Process(work))
    for process in processes:  # the signal may have come while one was being started
        process.terminate()
    deadline = time.monotonic() + grace
    for process in processes:
        process.end(deadline)
    return True
