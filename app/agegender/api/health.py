"""GET /health/live and GET /health/ready, which need no key and never wait for predictions."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from agegender.answers import HealthAnswer
from agegender.api import problems
from agegender.api.query import NoQuery
from agegender.api.state import service_of

router = APIRouter(prefix="/health", tags=["health"])


def _example(status: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": {"status": status}}}}}


@router.get(
    "/live",
    summary="Is the process alive?",
    responses={**_example("live"), **problems.openapi_responses(problems.PARAMETER_INVALID)},
)
async def live(_: Annotated[NoQuery, Query()]) -> HealthAnswer:
    """Status 200 as long as the process can answer."""
    return HealthAnswer(status="live")


@router.get(
    "/ready",
    summary="Does the service accept predictions?",
    responses={
        **_example("ready"),
        **problems.openapi_responses(problems.PARAMETER_INVALID, problems.SHUTTING_DOWN),
    },
)
async def ready(request: Request, _: Annotated[NoQuery, Query()]) -> HealthAnswer:
    """Status 200 once the models and the detector are loaded and warmed up, until the service shuts down."""
    if not service_of(request).pool.accepting:
        raise problems.ApiError(problems.SHUTTING_DOWN)
    return HealthAnswer(status="ready")
