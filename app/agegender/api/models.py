"""GET /models and /models/{id}."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from agegender.api import problems
from agegender.api.schemas import ModelAnswer, ModelsAnswer, NoQuery
from agegender.api.state import service_of

router = APIRouter(tags=["models"])


@router.get(
    "/models",
    summary="List the models",
    responses=problems.openapi_responses(problems.UNAUTHORIZED, problems.PARAMETER_INVALID),
)
async def list_models(request: Request, _: Annotated[NoQuery, Query()]) -> ModelsAnswer:
    """Each with its measured figures; one that cannot run here says why."""
    service = service_of(request)
    return ModelsAnswer(
        default=service.default_model,
        detector=service.auto_detector,
        models=[ModelAnswer.of(model) for model in service.catalogue],
    )


@router.get(
    "/models/{model_id}",
    summary="Describe one model",
    responses=problems.openapi_responses(
        problems.UNAUTHORIZED, problems.MODEL_UNKNOWN, problems.PARAMETER_INVALID
    ),
)
async def describe_model(model_id: str, request: Request, _: Annotated[NoQuery, Query()]) -> ModelAnswer:
    """As in the list."""
    return ModelAnswer.of(service_of(request).catalogue[model_id])
