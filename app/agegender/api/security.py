"""API keys, if the operator set any."""

from __future__ import annotations

import hashlib
import hmac

from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from agegender.api.problems import UNAUTHORIZED, ApiError
from agegender.settings import listed

KEY_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed only if the operator set keys."
)


class ApiKeys:
    """The valid keys. Only their digests are kept."""

    def __init__(self, comma_separated: SecretStr) -> None:
        # An environment variable may have bytes that are not UTF-8: Python has read them as surrogates.
        self._digests = [
            _digest(key.encode(errors="surrogateescape"))
            for key in listed(comma_separated.get_secret_value())
        ]

    def check(self, sent: str | None) -> bytes | None:
        """Return the digest of the key sent, or None if the operator set no keys. Raises a 401 for any other key."""
        if not self._digests:
            return None
        # Starlette decodes headers as Latin-1: undo it, so that keys may contain any letters.
        digest = _digest((sent or "").encode("latin-1"))
        if not any(hmac.compare_digest(digest, known) for known in self._digests):
            raise ApiError(UNAUTHORIZED, headers={"WWW-Authenticate": "ApiKey"})
        return digest


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
