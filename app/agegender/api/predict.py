"""POST /predict and POST /predict/batch."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect

from agegender.answers import BatchAnswer, ImagePrediction, ImageProblem, Prediction
from agegender.api import body, problems
from agegender.api.body import MAX_BATCH_IMAGES, Share
from agegender.api.problems import ApiError
from agegender.api.query import refuse_repeated
from agegender.api.rate_limit import may_ask
from agegender.api.security import KEY_HEADER
from agegender.api.state import Service, service_of
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Overloaded, Ticket
from agegender.inputs import PredictQuery


async def accept(request: Request, key: Annotated[str | None, Depends(KEY_HEADER)]) -> None:
    """Refuse a request that will not be answered, before its parameters and its body are looked at.

    One for which there is no place does not count for the caller's limit.
    """
    service_of(request).pool.refuse_if_full()
    await may_ask(request, key)
    refuse_repeated(request)


router = APIRouter(tags=["predictions"], dependencies=[Depends(accept)])

T = TypeVar("T")

_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file. Its content decides which, never its "
        "name or type.",
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
                    "image/heic",
                    "image/avif",
                    "image/gif",
                    "image/tiff",
                    "application/octet-stream",
                )
            },
        },
    }
}


_WHATEVER_IS_SENT = (
    problems.UNAUTHORIZED,
    problems.RATE_LIMITED,
    problems.MODEL_UNKNOWN,
    problems.METHOD_NOT_ALLOWED,
    problems.PARAMETER_INVALID,
    problems.DETECTOR_UNAVAILABLE,
    problems.OVERLOADED,
    problems.QUEUE_TIMEOUT,
    problems.SHUTTING_DOWN,
)


@router.post(
    "/predict",
    response_model=Prediction,
    summary="Estimate age and gender of the faces in a photograph",
    openapi_extra=_BODY,
    responses=problems.openapi_responses(
        problems.IMAGE_MISSING,
        problems.IMAGE_UNREADABLE,
        problems.MULTIPART_INVALID,
        problems.BODY_TOO_LARGE,
        problems.IMAGE_TOO_LARGE,
        problems.MEDIA_TYPE_UNSUPPORTED,
        *_WHATEVER_IS_SENT,
    ),
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Faces come by box area, largest first. An image without faces is answered with an empty list."""
    service = service_of(request)
    options = _options(request, query, service)
    with service.pool.admit() as ticket:
        image = await body.read_image(request, service.max_bytes, service.arrival_memory)
        prediction = await _unless_client_leaves(
            request, ticket.run(lambda predictor: predictor.predict(image, **options))
        )
    _observe(request, prediction)
    request.state.noted.update(detector=prediction.detector, faces=len(prediction.faces))
    return _json(prediction)


_BATCH_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": f"1 to {MAX_BATCH_IMAGES} files, each as POST /predict takes one.",
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {
                            "type": "array",
                            "items": _FILE,
                            "minItems": 1,
                            "maxItems": MAX_BATCH_IMAGES,
                        }
                    },
                    "required": ["images"],
                    "additionalProperties": False,
                },
                # One: in /docs there are as many fields for files as here, and more are easily added.
                "example": {"images": ["@photo.jpg"]},
            },
        },
    }
}

_NO_FAULT_OF_AN_IMAGE = (
    problems.DETECTOR_UNAVAILABLE,
    problems.OVERLOADED,
    problems.QUEUE_TIMEOUT,
    problems.SHUTTING_DOWN,
)


@router.post(
    "/predict/batch",
    response_model=BatchAnswer,
    summary="Estimate age and gender of the faces in several photographs",
    openapi_extra=_BATCH_BODY,
    responses=problems.openapi_responses(
        body.BATCH_INVALID,
        body.BATCH_TOO_LARGE,
        body.BATCH_NOT_MULTIPART,
        *_WHATEVER_IS_SENT,
        path="/predict/batch",
    ),
)
async def predict_batch(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """One result for each image, in the order sent: the prediction or the problem that POST /predict has for it.

    A batch takes turns with other requests, an image each. Where others keep it waiting too long, the images that were
    not begun are answered by a 503 each: send those again. Where that is all of them, the whole batch is.
    """
    service = service_of(request)
    options = _options(request, query, service)
    with service.pool.admit() as ticket, service.arrival_memory.for_one_request(batch=True) as share:
        images = await body.read_batch(request, service.max_batch_bytes, share)
        names = [_name(image) for image in images]
        request.state.noted.update(images=len(images))
        looking = _each(request, images, service.max_bytes, options, ticket, share)
        outcomes = await _unless_client_leaves(request, asyncio.ensure_future(looking))
    found = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    if not found and all(error.kind in _NO_FAULT_OF_AN_IMAGE for error in failed):
        raise failed[0]
    for error in failed:
        request.app.state.metrics.count_batch_error(error.kind.status)
    request.state.noted.update(failed=len(failed), faces=sum(len(answer.faces) for answer in found))
    if found:
        request.state.noted.update(detector=found[0].detector)
    results = [_result(request, *each) for each in zip(names, outcomes, strict=True)]
    return _json(BatchAnswer(results=results))


def _json(answer: BaseModel) -> Response:
    """An answer that FastAPI need not validate and serialize again."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _options(request: Request, query: PredictQuery, service: Service) -> dict[str, Any]:
    """Return the arguments of `Pipeline.predict`, and log them. Raises UnknownModel."""
    model = service.default_model if query.model is None else query.model
    service.catalogue[model]  # before the image is read; only names of models that exist are logged
    request.state.noted.update(model=model, detector=query.detector)
    return {**query.model_dump(), "model": model}


def _observe(request: Request, prediction: Prediction) -> None:
    """Count a prediction that has just been made, and trace its stages."""
    request.app.state.metrics.observe(prediction)
    if request.app.state.traces:
        request.app.state.traces.add_stages(prediction.timings_ms)


async def _each(
    request: Request,
    images: list[UploadFile],
    max_bytes: int,
    options: dict[str, Any],
    ticket: Ticket[Pipeline],
    share: Share,
) -> list[Prediction | ApiError]:
    """What comes of each of `images`, which are taken out of that list. Raises Overloaded.

    The memory of each is given back as soon as it has been looked at.
    """

    def look_at(image: UploadFile, predictor: Pipeline) -> Prediction | ApiError:
        try:
            if (image.size or 0) > max_bytes:
                return body.image_too_large(max_bytes)
            return predictor.predict(image.file.read(), **options)
        except Exception as error:  # is answered here: what it holds of the image shall not stay
            return problems.as_api_error(error, request)
        finally:
            image.file.close()

    async def outcome(size: int, looking: asyncio.Future[Prediction | ApiError]) -> Prediction | ApiError:
        try:
            seen = await looking
        except Overloaded as error:
            seen = problems.as_api_error(error, request)
        share.give_back(size)
        if isinstance(seen, ApiError):
            return seen
        _observe(request, seen)
        return seen

    sizes = [image.size or 0 for image in images]
    looking = ticket.submit(partial(look_at, image) for image in images)
    images.clear()  # now the pool alone has them: what it is done with, or drops, is gone
    async with asyncio.TaskGroup() as group:
        outcomes = [group.create_task(outcome(*each)) for each in zip(sizes, looking, strict=True)]
    return [task.result() for task in outcomes]


def _name(image: UploadFile) -> str:
    # A charset can make of bytes what no UTF-8 can say.
    return (image.filename or "").encode(errors="replace").decode()


def _result(
    request: Request, filename: str, outcome: Prediction | ApiError
) -> ImagePrediction | ImageProblem:
    if isinstance(outcome, ApiError):
        return ImageProblem(filename=filename, error=problems.problem_of(outcome, request))
    return ImagePrediction(filename=filename, prediction=outcome)


async def _unless_client_leaves(request: Request, working: asyncio.Future[T]) -> T:
    """The result of `working`, which is cancelled, with ClientDisconnect, when nobody waits for it any more."""
    leaving = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working  # a traceback holds this frame: with it, a cycle would keep the image until a collection


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
