"""POST /predict and POST /predict/batch."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect

from agegender.answers import BatchAnswer, ImagePrediction, ImageProblem, Prediction
from agegender.api import problems, upload
from agegender.api.arrival_memory import Share
from agegender.api.callers import KEY_HEADER, check_caller
from agegender.api.problems import ApiError
from agegender.api.state import Service, service_of
from agegender.api.upload import MAX_BATCH_IMAGES, BatchBody, ImageBody, SentImage
from agegender.inference.pool import Overloaded, Place
from agegender.inputs import PredictQuery


async def accept(request: Request, key: Annotated[str | None, Depends(KEY_HEADER)]) -> None:
    """Refuse a request that cannot be served, before its query is validated and its body read."""
    service_of(request).pool.refuse_if_full()  # first: it does not count towards the caller's rate limit
    await check_caller(request, key)
    for name in PredictQuery.model_fields:
        if len(request.query_params.getlist(name)) > 1:  # FastAPI would use the last value
            raise ApiError(
                problems.PARAMETER_INVALID,
                f"The query parameter {name} is given more than once: give it once.",
            )


router = APIRouter(tags=["predictions"], dependencies=[Depends(accept)])

T = TypeVar("T")

_FILE = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _FILE, "minItems": 1, "maxItems": MAX_BATCH_IMAGES}
# One grey pixel.
_TEXT = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVQIHWNo"
    "aGgAAAMEAYHZ9rm7AAAAAElFTkSuQmCC"
)


def _body(
    description: str, name: str, part: dict[str, Any], form: type[BaseModel], file: Any, text: Any
) -> dict[str, Any]:
    """Return the OpenAPI description of a body, multipart or JSON, with the examples `file` and `text`."""
    multipart = {
        "type": "object",
        "properties": {name: part},
        "required": [name],
        "additionalProperties": False,
    }
    content = {
        "multipart/form-data": {"schema": multipart, "example": {name: file}},
        "application/json": {"schema": form.model_json_schema(), "example": {name: text}},
    }
    return {"requestBody": {"required": True, "description": description, "content": content}}


_BODY = _body(
    "A JPEG, PNG, WebP, HEIC, AVIF, GIF, TIFF or BMP file. The format is detected from the content, not from the file "
    "name or media type.",
    "image",
    _FILE,
    ImageBody,
    "@photo.jpg",
    _TEXT,
)
for _kind in ("jpeg", "png", "webp", "heic", "avif", "gif", "tiff"):
    _BODY["requestBody"]["content"][f"image/{_kind}"] = {"schema": _FILE, "example": "@photo.jpg"}
_BODY["requestBody"]["content"]["application/octet-stream"] = {"schema": _FILE, "example": "@photo.jpg"}
# /docs shows one file field for each file in the example, and a button that adds more.
_BATCH_BODY = _body(
    f"1 to {MAX_BATCH_IMAGES} files of the formats that POST /predict reads.",
    "images",
    _FILES,
    BatchBody,
    ["@photo.jpg"],
    [_TEXT],
)

_NOT_ABOUT_AN_IMAGE = (
    problems.DETECTOR_UNAVAILABLE,
    problems.OVERLOADED,
    problems.QUEUE_TIMEOUT,
    problems.SHUTTING_DOWN,
)
_FOR_ANY_BODY = (
    problems.MULTIPART_INVALID,
    problems.JSON_INVALID,
    problems.BODY_TOO_LARGE,
    problems.MEDIA_TYPE_UNSUPPORTED,
    problems.UNAUTHORIZED,
    problems.RATE_LIMITED,
    problems.MODEL_UNKNOWN,
    problems.METHOD_NOT_ALLOWED,
    problems.PARAMETER_INVALID,
    *_NOT_ABOUT_AN_IMAGE,
)


@router.post(
    "/predict",
    response_model=Prediction,
    summary="Estimate age and gender of the faces in a photograph",
    openapi_extra=_BODY,
    responses=problems.openapi_responses(
        problems.IMAGE_MISSING,
        problems.IMAGE_UNREADABLE,
        problems.IMAGE_TOO_LARGE,
        *_FOR_ANY_BODY,
    ),
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """Faces are sorted by box area, largest first. The list is empty if no face is found."""
    service = service_of(request)
    options = _options(request, query, service)
    with service.pool.admit():
        image = await upload.read_image(request, service.max_bytes, service.arrival_memory)
        with service.pool.place() as place:
            prediction = await _unless_client_leaves(
                request,
                place.run(lambda: service.pipeline.predict(image.take(service.max_bytes), **options)),
            )
    _observe(request, prediction)
    request.state.log_fields.update(detector=prediction.detector, faces=len(prediction.faces))
    return _json(prediction)


@router.post(
    "/predict/batch",
    response_model=BatchAnswer,
    summary="Estimate age and gender of the faces in several photographs",
    openapi_extra=_BATCH_BODY,
    responses=problems.openapi_responses(*_FOR_ANY_BODY, path="/predict/batch"),
)
async def predict_batch(request: Request, query: Annotated[PredictQuery, Query()]) -> Response:
    """One result for each image, in the order sent: its prediction, or the problem that POST /predict would return.

    If an image waits too long for a worker, it and all images that have not started get a 503 each: send them again.
    If no image was processed, the whole request gets a 503.
    """
    service = service_of(request)
    options = _options(request, query, service)
    with service.pool.admit(), service.arrival_memory.for_one_request(batch=True) as share:
        images = await upload.read_batch(request, service.max_batch_bytes, share)
        names = [image.filename for image in images]
        request.state.log_fields.update(images=len(images))
        with service.pool.place() as place:
            outcomes = await _unless_client_leaves(
                request, _predict_each(request, images, options, place, share)
            )
    found = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    failed = [outcome for outcome in outcomes if isinstance(outcome, ApiError)]
    if not found and all(error.kind in _NOT_ABOUT_AN_IMAGE for error in failed):
        raise failed[0]
    for error in failed:
        request.app.state.metrics.count_batch_error(error.kind.status)
    request.state.log_fields.update(failed=len(failed), faces=sum(len(answer.faces) for answer in found))
    if found:
        request.state.log_fields.update(detector=found[0].detector)
    results: list[ImagePrediction | ImageProblem] = []
    for filename, outcome in zip(names, outcomes, strict=True):
        if isinstance(outcome, Prediction):
            results.append(ImagePrediction(filename=filename, prediction=outcome))
        else:
            problem = problems.problem_of(outcome, request.scope["path"], request.state.request_id)
            results.append(ImageProblem(filename=filename, error=problem))
    return _json(BatchAnswer(results=results))


def _json(answer: BaseModel) -> Response:
    """Return `answer` as a response, so that FastAPI does not validate and serialize it again."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _options(request: Request, query: PredictQuery, service: Service) -> dict[str, Any]:
    """Return the arguments of `Pipeline.predict`, and log them. Raises UnknownModel."""
    model = service.default_model if query.model is None else query.model
    service.catalogue[model]  # raises before the image is read, and before an unknown name is logged
    request.state.log_fields.update(model=model, detector=query.detector)
    return {**query.model_dump(), "model": model}


def _observe(request: Request, prediction: Prediction) -> None:
    """Add a prediction that has just ended to the metrics and the traces."""
    request.app.state.metrics.observe(prediction)
    if request.app.state.traces:
        request.app.state.traces.add_stages(prediction.timings_ms)


async def _predict_each(
    request: Request,
    images: list[SentImage],
    options: dict[str, Any],
    place: Place,
    share: Share,
) -> list[Prediction | ApiError]:
    """Return the prediction or the problem of each image. Empties `images`, to free each one once it is processed."""

    service = service_of(request)

    def work(image: SentImage) -> Prediction | ApiError:
        try:
            return service.pipeline.predict(image.take(service.max_bytes), **options)
        except Exception as error:
            # Returned, not raised: its traceback would keep the image in memory.
            return problems.as_api_error(error, request)

    async def outcome(image: SentImage) -> Prediction | ApiError:
        size = image.size
        try:
            answer = await place.run(partial(work, image))
        except Overloaded as error:
            answer = problems.as_api_error(error, request)
        share.give_back(size)
        if isinstance(answer, Prediction):
            _observe(request, answer)
        return answer

    outcomes = asyncio.gather(*map(outcome, images))
    images.clear()  # now only its task holds an image
    try:
        return await outcomes
    finally:
        del outcomes  # it may hold an exception, whose traceback holds this frame: a reference cycle


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of `work`. If the client disconnects first, cancel it and raise ClientDisconnect."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_client_left(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        del working  # as above: a cycle would keep the image in memory until it is collected


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
