"""Request ids, the headers of every response, and a log line and a count for each request."""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender.api.metrics import Metrics
from agegender.api.problems import INTERNAL_ERROR

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_CLIENT_LEFT = 499
"""Logged, never sent: nginx's status for a client that closed the connection before the response."""

HEADERS = (
    # A browser may only display a response. The pages set policies of their own.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    # Predictions are personal data, so no cache may keep them.
    (b"cache-control", b"no-store"),
)

logger = logging.getLogger("agegender")


def id_of(headers: Headers) -> str:
    """Return the request's X-Request-ID if it is safe to repeat, or else a new one."""
    sent_id = headers.get("x-request-id", "")
    return sent_id if _SANE_ID.fullmatch(sent_id) else os.urandom(16).hex()


class Observe:
    """The outermost ASGI middleware. Routes add fields to the log line through `request.state.log_fields`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = id_of(Headers(scope=scope))
        log_fields: dict[str, Any] = {}
        state = scope.setdefault("state", {})
        state.update(request_id=request_id, log_fields=log_fields)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                state["status"] = message["status"]
                given = {name for name, _ in message["headers"]}
                own = [(b"x-request-id", request_id.encode())]
                own += [header for header in HEADERS if header[0] not in given]
                message["headers"] = [*message["headers"], *own]
            await send(message)

        # HEAD is handled as GET (RFC 9110, 9.3.2): the server sends only the head. A Range is ignored (14.2), as
        # Starlette refuses invalid ones with plain text.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        asked = [header for header in scope["headers"] if header[0] != b"range"]
        handled = {**scope, "method": method, "headers": asked}
        try:
            await self._app(handled, receive, send_with_id)
        except ClientDisconnect:
            state["status"] = _CLIENT_LEFT
        finally:
            # The route, not the path: `curl -T` puts the file name into the path.
            route = getattr(handled.get("route"), "path", "other")
            status = state.get("status")
            self._metrics.count_request(route, status or INTERNAL_ERROR.status)
            fields = {
                "request_id": request_id,
                "method": scope["method"],
                "path": route,
                "status": status,
                **log_fields,
                "ms": round(1000 * (time.perf_counter() - started), 2),
            }
            logger.info("request", extra={"fields": fields})
