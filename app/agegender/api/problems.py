"""Problem documents (RFC 9457) for everything that can go wrong with a request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from agegender.answers import Problem
from agegender.inference.pipeline import DetectorUnavailable
from agegender.inference.pool import Overloaded, QueueTimeout, ShuttingDown
from agegender.inference.variants import UnknownModel
from agegender.vision.decode import ImageTooLarge, ImageUnreadable

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = 1

logger = logging.getLogger("agegender")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem; `example` is a typical `detail`."""

    name: str
    status: int
    title: str
    example: str

    @property
    def type(self) -> str:
        """The relative URI that names this kind."""
        return f"/problems/{self.name}"


IMAGE_MISSING = Kind("image-missing", 400, "No image", "The request body is empty: send an image.")
IMAGE_UNREADABLE = Kind(
    "image-unreadable",
    400,
    "Image unreadable",
    "This file is not a readable image. Send a JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file.",
)
MULTIPART_INVALID = Kind(
    "multipart-invalid",
    400,
    "Multipart body invalid",
    "The multipart body ends before its last boundary: send all of it.",
)
JSON_INVALID = Kind(
    "json-invalid",
    400,
    "JSON body invalid",
    "The image is neither base64 nor a data URL in base64: encode the bytes of the file. Other URLs are not fetched.",
)
UNAUTHORIZED = Kind(
    "unauthorized",
    401,
    "API key missing or wrong",
    "This service needs an API key: send it in the header X-API-Key.",
)
MODEL_UNKNOWN = Kind(
    "model-unknown", 404, "No such model", "There is no such model; there are: age_gender_A, age_gender_B."
)
NOT_FOUND = Kind(
    "not-found", 404, "No such path", "There is nothing at this path: GET /docs lists the paths that exist."
)
METHOD_NOT_ALLOWED = Kind(
    "method-not-allowed",
    405,
    "Method not allowed",
    "This path does not support GET: use a method that the header Allow lists.",
)
BODY_TOO_LARGE = Kind(
    "body-too-large",
    413,
    "Too many bytes",
    "There are more than 20971520 bytes: send a smaller image, or fewer at a time.",
)
IMAGE_TOO_LARGE = Kind(
    "image-too-large",
    413,
    "Too many pixels",
    "The image has 400.0 million pixels; at most 50.0 million are allowed for this kind of file. Send a smaller one.",
)
MEDIA_TYPE_UNSUPPORTED = Kind(
    "media-type-unsupported",
    415,
    "Content type not supported",
    "The body must be multipart/form-data, application/json or, for POST /predict, an image such as image/jpeg.",
)
PARAMETER_INVALID = Kind(
    "parameter-invalid",
    422,
    "Parameter invalid",
    "The query parameter coverage is given more than once: give it once.",
)
DETECTOR_UNAVAILABLE = Kind(
    "detector-unavailable",
    422,
    "Detector not installed",
    "The detector yunet is not installed here: use auto or haar.",
)
RATE_LIMITED = Kind(
    "rate-limited",
    429,
    "Too many requests",
    "Requests are limited to 60 per minute: try again in 12 seconds.",
)
OVERLOADED = Kind("overloaded", 503, "Overloaded", Overloaded.message)
QUEUE_TIMEOUT = Kind("queue-timeout", 503, "Timeout in the queue", QueueTimeout.message)
SHUTTING_DOWN = Kind("shutting-down", 503, "Shutting down", ShuttingDown.message)
INTERNAL_ERROR = Kind(
    "internal-error",
    500,
    "Internal error",
    "The service failed: give this request_id to its operator, whose log has the details.",
)


class ApiError(Exception):
    """A problem found by the HTTP layer; `detail` tells the caller what is wrong and what to do."""

    def __init__(
        self, kind: Kind, detail: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail or kind.example)
        self.kind = kind
        self.headers = headers


_KINDS: dict[type[Exception], Kind] = {
    ImageUnreadable: IMAGE_UNREADABLE,
    ImageTooLarge: IMAGE_TOO_LARGE,
    UnknownModel: MODEL_UNKNOWN,
    DetectorUnavailable: DETECTOR_UNAVAILABLE,
    Overloaded: OVERLOADED,
    QueueTimeout: QUEUE_TIMEOUT,
    ShuttingDown: SHUTTING_DOWN,
}


def as_api_error(error: Exception, request: Request) -> ApiError:
    """Return `error` as an ApiError: an unexpected one as INTERNAL_ERROR, after logging its traceback."""
    if isinstance(error, ApiError):
        return error
    kind = _KINDS.get(type(error))
    if kind is None:
        logger.exception("internal error", extra={"fields": {"request_id": request.state.request_id}})
        return ApiError(INTERNAL_ERROR)
    return ApiError(kind, str(error))


def problem_of(error: ApiError, path: str, request_id: str) -> Problem:
    """Return the problem document of `error`."""
    kind = error.kind
    return Problem(
        type=kind.type,
        title=kind.title,
        status=kind.status,
        detail=str(error),
        instance=path,
        request_id=request_id,
    )


def problem_response(error: ApiError, path: str, request_id: str) -> Response:
    """Return a problem document as a response, with Retry-After if its status is 503."""
    status = error.kind.status
    headers = dict(error.headers or {})
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Response(problem_of(error, path, request_id).model_dump_json(), status, headers, MEDIA_TYPE)


def response_to(error: Exception, request: Request) -> Response:
    """Return the problem document of any exception as a response."""
    return problem_response(as_api_error(error, request), request.scope["path"], request.state.request_id)


def add_handlers(app: FastAPI) -> None:
    """Replace Starlette's and FastAPI's own error responses by problem documents."""

    @app.exception_handler(HTTPException)
    async def routing_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == 405 and error.headers:
            detail = f"This path does not support {request.method}: use a method that the header Allow lists."
            allow = error.headers["Allow"]
            if allow == "GET":
                allow = "GET, HEAD"  # request_log.py turns HEAD into GET
            return response_to(ApiError(METHOD_NOT_ALLOWED, detail, {"Allow": allow}), request)
        return response_to(ApiError(NOT_FOUND), request)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        detail = _what_is_invalid(request, error.errors()[0])
        return response_to(ApiError(PARAMETER_INVALID, detail), request)


class ProblemMiddleware:
    """ASGI middleware that answers exceptions with problem documents. `Observe`, outside it, notes the status."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        try:
            await self._app(scope, receive, send)
        except (asyncio.CancelledError, Exception) as error:
            if scope["type"] != "http" or isinstance(error, ClientDisconnect):
                raise
            # The server cancels after the drain timeout.
            shown = ShuttingDown() if isinstance(error, asyncio.CancelledError) else error
            response = response_to(shown, Request(scope))
            if "status" in scope["state"]:
                raise  # the response has begun: the server closes the connection
            await response(scope, receive, send)


def _what_is_invalid(request: Request, error: Mapping[str, Any]) -> str:
    # Every route declares its query as one model.
    (query,) = request.scope["route"].dependant.query_params
    fields = query.field_info.annotation.model_fields
    name = error["loc"][-1]
    if name in fields:
        return f"The query parameter {name} is not valid. {fields[name].description}"
    return f"Unknown query parameter; this path takes {', '.join(fields) or 'none'}."


def openapi_responses(*kinds: Kind, path: str = "/predict") -> dict[int | str, dict[str, Any]]:
    """Return `responses` for the route at `path`, with an example of each of `kinds`."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in (*kinds, INTERNAL_ERROR):
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        response = responses.setdefault(
            kind.status, {"description": kind.title, "content": {MEDIA_TYPE: content}}
        )
        response["content"][MEDIA_TYPE]["examples"][kind.name] = {
            "summary": kind.title,
            "value": problem_of(ApiError(kind), path, "3f0c5a9e").model_dump(),
        }
        if kind.status in (429, 503):
            response["headers"] = {
                "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
            }
    return responses
