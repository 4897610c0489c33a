"""Work on many items, a bounded number of them at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(executor: Executor, work: Callable[[T], R], items: Iterable[T], limit: int) -> Iterator[R]:
    """Yield `work(item)` for each item, in order, like `executor.map`, with at most `limit` items in progress."""
    begun: deque[Future[R]] = deque()
    for item in items:
        begun.append(executor.submit(work, item))
        if len(begun) == limit:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()
