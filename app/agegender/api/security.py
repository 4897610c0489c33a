"""API keys, where the operator set any."""

from __future__ import annotations

import hashlib
import hmac

from fastapi.security import APIKeyHeader
from pydantic import SecretStr

from agegender.api.problems import UNAUTHORIZED, ApiError

KEY_HEADER = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="Needed only if the operator has set keys."
)


class ApiKeys:
    """The valid keys, as digests: the keys themselves are not kept."""

    def __init__(self, comma_separated: SecretStr) -> None:
        keys = (key.strip() for key in comma_separated.get_secret_value().split(","))
        self._digests = [_digest(key.encode()) for key in keys if key]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def recognise(self, sent: bytes) -> bytes | None:
        """Return the digest of a valid key, or None."""
        digest = _digest(sent)
        return digest if any(hmac.compare_digest(digest, known) for known in self._digests) else None


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def require_key(keys: ApiKeys, sent: str | None) -> bytes | None:
    """Return the digest of the key that was sent, or None if no keys are set. Raises a 401 without a valid key."""
    if not keys:
        return None
    # Starlette decodes headers as Latin-1; undo it, so that keys may contain any letters.
    recognised = None if sent is None else keys.recognise(sent.encode("latin-1"))
    if recognised is None:
        raise ApiError(UNAUTHORIZED, headers={"WWW-Authenticate": "ApiKey"})
    return recognised
