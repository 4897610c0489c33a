"""Refusals when every place is taken, at as little cost as can be: the processor is the accepted requests'."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.problems import OVERLOADED, problem_response
from app.inference.pool import Overloaded


class Shed:
    """ASGI middleware: a POST to one of `routes` that would find no place is refused before the route is asked.

    So it comes before the key and the parameters are looked at, which takes longer than the refusal.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._routes:
            try:
                scope["app"].state.service.pool.refuse_if_full()
            except Overloaded as error:
                scope["route"] = self._routes[scope["path"]]  # the log and the metrics name it
                request_id = scope["state"]["request_id"]
                answer = problem_response(OVERLOADED, str(error), scope["path"], request_id)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)
