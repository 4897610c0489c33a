"""POST /predict."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request
from starlette.requests import ClientDisconnect

from app.api import problems
from app.api.body import read_image
from app.api.schemas import PredictionAnswer, PredictQuery
from app.api.state import ServiceDependency

router = APIRouter(tags=["predictions"])

T = TypeVar("T")

_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A JPEG, PNG, WebP, BMP or AVIF file. Its content decides which, never its name or type.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": _FILE},
                    "required": ["image"],
                    "additionalProperties": False,
                },
                "example": {"image": "@photo.jpg"},
            },
            **{
                media_type: {"schema": _FILE, "example": "@photo.jpg"}
                for media_type in (
                    "image/jpeg",
                    "image/png",
                    "image/webp",
                    "image/avif",
                    "application/octet-stream",
                )
            },
        },
    }
}


@router.post(
    "/predict",
    summary="Estimate age and gender of the faces in a photograph",
    openapi_extra=_BODY,
    responses=problems.openapi_responses(
        problems.IMAGE_MISSING,
        problems.IMAGE_UNREADABLE,
        problems.MULTIPART_INVALID,
        problems.UNAUTHORIZED,
        problems.MODEL_UNKNOWN,
        problems.METHOD_NOT_ALLOWED,
        problems.BODY_TOO_LARGE,
        problems.IMAGE_TOO_LARGE,
        problems.MEDIA_TYPE_UNSUPPORTED,
        problems.PARAMETER_INVALID,
        problems.DETECTOR_UNAVAILABLE,
        problems.MODEL_UNAVAILABLE,
        problems.OVERLOADED,
        problems.QUEUE_TIMEOUT,
        problems.SHUTTING_DOWN,
    ),
)
async def predict(
    request: Request, query: Annotated[PredictQuery, Query()], service: ServiceDependency
) -> PredictionAnswer:
    """Faces come by box area, largest first. An image without faces is answered with an empty list."""
    model = query.model or service.default_model
    service.catalogue.session(model)  # before the image travels for nothing; and no other name is logged
    request.state.noted.update(model=model, detector=query.detector)
    with service.pool.admit() as ticket:
        image = await read_image(request, service.max_bytes, service.arrival_memory)
        prediction = await _unless_client_leaves(
            request,
            ticket.run(
                lambda predictor: predictor.predict(
                    image,
                    model=model,
                    detector=query.detector,
                    min_confidence=query.min_confidence,
                    max_faces=query.max_faces,
                )
            ),
        )
    request.app.state.metrics.observe(prediction)
    if request.app.state.traces:
        request.app.state.traces.add_stages(prediction.timings_ms)
    request.state.noted.update(detector=prediction.detector, faces=len(prediction.faces))
    return PredictionAnswer.of(prediction)


async def _unless_client_leaves(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled, with ClientDisconnect, when nobody waits for it any more."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
