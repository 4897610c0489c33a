"""A bound on the memory of requests that are still arriving.

Such a request holds no place among the workers, so it is memory that limits how many of them there can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agegender.inference.pool import Overloaded


class ArrivalMemory:
    """At most `limit` bytes of requests that are still arriving.

    Those of a batch count until its images are answered. All batches together have at most half of it, so that a single
    photograph finds room beside them. `refused` counts the requests for which there was none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.taken_by_batches = 0
        self.refused = 0

    @contextmanager
    def for_one_request(self, *, batch: bool = False) -> Iterator[Share]:
        """Give back what is taken in the `with` block at its end."""
        share = Share(self, batch)
        try:
            yield share
        finally:
            share.give_back(share.taken)


class Share:
    """What one request takes of the memory, and may take at `most`."""

    def __init__(self, memory: ArrivalMemory, batch: bool) -> None:
        self.taken = 0
        self.most = memory.limit // 2 if batch else memory.limit
        self._memory = memory
        self._batch = batch

    def take(self, n: int) -> None:
        """Take `n` bytes more, or raise Overloaded."""
        memory = self._memory
        if memory.taken + n > memory.limit or (self._batch and memory.taken_by_batches + n > self.most):
            memory.refused += 1
            raise Overloaded
        self._add(n)

    def give_back(self, n: int) -> None:
        """Give back `n` bytes, or all where there are no more."""
        self._add(-min(n, self.taken))

    def _add(self, n: int) -> None:
        self.taken += n
        self._memory.taken += n
        if self._batch:
            self._memory.taken_by_batches += n
