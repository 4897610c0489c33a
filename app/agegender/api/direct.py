"""Predictions past FastAPI's layers: the processor is the workers'.

FastAPI declares these routes and documents them. To find one and to resolve what it depends on takes FastAPI two fifths
of what a request costs the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender.api import problems
from agegender.api.rate_limit import may_ask
from agegender.api.security import KEY_HEADER
from agegender.api.state import service_of
from agegender.inputs import PredictQuery


class Direct:
    """ASGI middleware: a POST to one of `routes`, whose endpoints take a request and a `PredictQuery`.

    One that would find no place among the workers is refused before its key and its parameters are looked at.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        called = scope["type"] == "http" and scope["method"] == "POST"
        route = self._routes.get(scope["path"]) if called else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # the log and the metrics name it
        request = Request(scope, receive, send)
        try:
            service_of(request).pool.refuse_if_full()
            await may_ask(request, request.headers.get(KEY_HEADER.model.name))
            answer = await route.endpoint(request, _query(request))
            response = Response(answer.model_dump_json(), media_type="application/json")
        except ClientDisconnect:
            raise
        except Exception as error:
            response = problems.response_to(error, request)
        await response(scope, receive, send)


def _query(request: Request) -> PredictQuery:
    given = request.query_params
    # No parameter takes a list, so one that is repeated is invalid.
    query = {name: values if len(values := given.getlist(name)) > 1 else given[name] for name in given}
    try:
        return PredictQuery.model_validate(query)
    except ValidationError as error:
        raise problems.parameter_invalid(request, error.errors()) from None
