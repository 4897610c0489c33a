"""API keys and rate limits, if the operator set any."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import time
from typing import Annotated

import limits
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pydantic import SecretStr

from agegender.api.problems import RATE_LIMITED, UNAUTHORIZED, ApiError
from agegender.settings import listed

KEY_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed only if the operator set keys."
)


class ApiKeys:
    """The valid keys. Only their digests are kept."""

    def __init__(self, comma_separated: SecretStr) -> None:
        # An environment variable may have bytes that are not UTF-8: Python has read them as surrogates.
        self._digests = [
            hashlib.sha256(key.encode(errors="surrogateescape")).digest()
            for key in listed(comma_separated.get_secret_value())
        ]

    def check(self, sent: str | None) -> bytes | None:
        """Return the digest of the key sent, or None if the operator set no keys. Raises a 401 for any other key."""
        if not self._digests:
            return None
        # Starlette decodes headers as Latin-1: undo it, so that keys may contain any letters.
        digest = hashlib.sha256((sent or "").encode("latin-1")).digest()
        if not any(hmac.compare_digest(digest, known) for known in self._digests):
            raise ApiError(UNAUTHORIZED, headers={"WWW-Authenticate": "ApiKey"})
        return digest


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
