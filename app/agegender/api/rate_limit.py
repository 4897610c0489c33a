"""Authentication and rate limits, if the operator set keys or a limit."""

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
from agegender.api.security import KEY_HEADER, ApiKeys


class RateLimit:
    """Counts the requests of each caller in this process, in fixed windows of time."""

    def __init__(self, rate: str) -> None:
        """`rate` is a number per unit of time, such as 60/minute."""
        self.words = rate.replace("/", " per ")
        self._rate = limits.parse(rate)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    def take(self, caller: str) -> int:
        """Count a request of `caller`. Return 0 if it is allowed, else the seconds until the next window."""
        if self._limiter.hit(self._rate, caller):
            return 0
        reset_time, _ = self._limiter.get_window_stats(self._rate, caller)
        return max(1, math.ceil(reset_time - time.time()))


async def check_caller(request: Request, sent_key: Annotated[str | None, Depends(KEY_HEADER)]) -> None:
    """Raise a 401 without a valid key, and a 429 above the rate limit of the key or, without keys, the address."""
    api_keys: ApiKeys = request.app.state.api_keys
    key = api_keys.check(sent_key)
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
    """Return the caller's IPv4 address or IPv6 /64 network, which usually belongs to one customer."""
    try:
        address = ipaddress.ip_address(request.client.host if request.client else "")
    except ValueError:  # a Unix socket, or a proxy that sends "unknown"
        return "unknown"
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
