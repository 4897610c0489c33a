"""Checks of query parameters beyond those of FastAPI."""

from __future__ import annotations

from fastapi import Request
from pydantic import BaseModel, ConfigDict

from agegender.api.problems import PARAMETER_INVALID, ApiError
from agegender.inputs import PredictQuery


class NoQuery(BaseModel):
    """The query of routes without parameters."""

    model_config = ConfigDict(extra="forbid")


def refuse_repeated(request: Request) -> None:
    """Refuse a parameter that is given more than once: FastAPI would use the last value."""
    for name in PredictQuery.model_fields:
        if len(request.query_params.getlist(name)) > 1:
            raise ApiError(
                PARAMETER_INVALID, f"The query parameter {name} is given more than once: give it once."
            )
