"""A limit on the memory of requests that are still arriving.

Such a request holds no place in the queue, so this limit bounds how many there can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agegender.inference.pool import Overloaded


class ArrivalMemory:
    """At most `limit` bytes for requests that are still arriving.

    The images of a batch count until they are processed. All batches together take at most half of the memory, which
    leaves room for single photographs. `refused` counts the requests that found no room.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.taken_by_batches = 0
        self.refused = 0

    @contextmanager
    def for_one_request(self, *, batch: bool = False) -> Iterator[Share]:
        """Yield the share of one request. At the end of the `with` block, all of it is given back."""
        share = Share(self, batch)
        try:
            yield share
        finally:
            share.give_back(share.taken)


class Share:
    """The bytes that one request has `taken`; it may take `most` bytes."""

    def __init__(self, memory: ArrivalMemory, batch: bool) -> None:
        self.taken = 0
        self.most = memory.limit // 2 if batch else memory.limit
        self._memory = memory
        self._batch = batch

    def take(self, n: int) -> None:
        """Take `n` more bytes. Raises Overloaded if there is no room."""
        memory = self._memory
        if memory.taken + n > memory.limit or (self._batch and memory.taken_by_batches + n > self.most):
            memory.refused += 1
            raise Overloaded
        self._add(n)

    def give_back(self, n: int) -> None:
        """Give back `n` bytes, or all if fewer are taken."""
        self._add(-min(n, self.taken))

    def _add(self, n: int) -> None:
        self.taken += n
        self._memory.taken += n
        if self._batch:
            self._memory.taken_by_batches += n
