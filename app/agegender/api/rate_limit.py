"""Authentication and rate limits of callers, where the operator set keys or a limit."""

from __future__ import annotations

import ipaddress
import math
import time
from typing import Annotated

import limits
from fastapi import Depends, Request
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from agegender.api.problems import RATE_LIMITED, ApiError
from agegender.api.security import KEY_HEADER, require_key


class RateLimit:
    """Counts the requests of each caller in this process, in a fixed window of time."""

    def __init__(self, rate: str) -> None:
        """`rate` is a number per unit of time, such as 60/minute."""
        self.words = rate.replace("/", " per ")
        self._rate = limits.parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def take(self, caller: str) -> int:
        """Count one request of `caller`. Return 0 if it is allowed, else the seconds until the next one is."""
        if self._limiter.hit(self._rate, caller):
            return 0
        passes_again, _ = self._limiter.get_window_stats(self._rate, caller)
        return max(1, math.ceil(passes_again - time.time()))


async def may_ask(request: Request, sent_key: Annotated[str | None, Depends(KEY_HEADER)]) -> None:
    """Raise a 401 without a valid key, and a 429 beyond the rate limit of the caller's key or else address."""
    key = require_key(request.app.state.api_keys, sent_key)
    rate_limit: RateLimit | None = request.app.state.rate_limit
    if rate_limit is None:
        return
    seconds = rate_limit.take(_network(request) if key is None else key.hex())
    if seconds:
        raise ApiError(
            RATE_LIMITED,
            f"Requests are limited to {rate_limit.words}: try again in {seconds} seconds.",
            {"Retry-After": str(seconds)},
        )


def _network(request: Request) -> str:
    """Return the caller's address, or of IPv6 its /64 network, all of which usually belongs to one customer."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:  # a Unix socket, or a proxy that sends "unknown"
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
