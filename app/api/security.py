"""Who may ask: API keys, where the operator set any."""

from __future__ import annotations

import hashlib
import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from app.api.problems import UNAUTHORIZED, ApiError

_header = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed only where the operator set keys."
)


class ApiKeys:
    """The keys that open the service, as digests: the keys themselves are not kept."""

    def __init__(self, comma_separated: SecretStr) -> None:
        keys = (key.strip() for key in comma_separated.get_secret_value().split(","))
        self._digests = [_digest(key) for key in keys if key]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def __contains__(self, key: str) -> bool:
        digest = _digest(key)
        return any(hmac.compare_digest(digest, known) for known in self._digests)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def require_key(request: Request, key: Annotated[str | None, Depends(_header)]) -> None:
    """Raise a 401 unless the request sends one of the keys, or none are set."""
    keys: ApiKeys = request.app.state.api_keys
    if keys and (key is None or key not in keys):
        raise ApiError(UNAUTHORIZED, headers={"WWW-Authenticate": "ApiKey"})
