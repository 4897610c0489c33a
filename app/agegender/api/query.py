"""Rules for the query parameters of all routes."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from agegender.api.problems import PARAMETER_INVALID, ApiError
from agegender.inputs import PredictQuery


class NoQuery(BaseModel):
    """For routes that take no query parameter."""

    model_config = ConfigDict(extra="forbid")


def refuse_repeated(request: Request) -> None:
    """Refuse a parameter that is given more than once: FastAPI would take the last one."""
    for name in PredictQuery.model_fields:
        if len(request.query_params.getlist(name)) > 1:
            raise ApiError(
                PARAMETER_INVALID, f"The query parameter {name} is given more than once: give it once."
            )
