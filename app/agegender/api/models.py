"""GET /models and /models/{id}."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request

from agegender.answers import ModelAnswer, ModelsAnswer
from agegender.api import problems
from agegender.api.query import NoQuery
from agegender.api.state import service_of
from agegender.inference.variants import Model

router = APIRouter(tags=["models"])


@router.get(
    "/models",
    summary="List the models",
    responses=problems.openapi_responses(
        problems.UNAUTHORIZED, problems.RATE_LIMITED, problems.PARAMETER_INVALID
    ),
)
async def list_models(request: Request, _: Annotated[NoQuery, Query()]) -> ModelsAnswer:
    """Each model has the figures measured on its test faces."""
    service = service_of(request)
    return ModelsAnswer(
        default=service.default_model,
        detector=service.auto_detector,
        models=[_answer(model) for model in service.catalogue],
    )


@router.get(
    "/models/{model_id}",
    summary="Describe one model",
    responses=problems.openapi_responses(
        problems.UNAUTHORIZED,
        problems.RATE_LIMITED,
        problems.MODEL_UNKNOWN,
        problems.PARAMETER_INVALID,
    ),
)
async def describe_model(model_id: str, request: Request, _: Annotated[NoQuery, Query()]) -> ModelAnswer:
    """The same as in the list."""
    return _answer(service_of(request).catalogue[model_id])


def _answer(model: Model) -> ModelAnswer:
    return ModelAnswer(**model.variant.model_dump(include=set(ModelAnswer.model_fields)), loaded=True)
