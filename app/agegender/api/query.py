"""The query parameters of all routes."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from pydantic import ValidationError

from agegender.api.problems import PARAMETER_INVALID, ApiError
from agegender.inputs import PredictQuery

OPENAPI_PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": "query", "required": False, "description": schema["description"], "schema": schema}
    for name, schema in PredictQuery.model_json_schema()["properties"].items()
]
"""The fields of `PredictQuery` as OpenAPI describes them."""


def read_query(request: Request) -> PredictQuery:
    """Return the parameters of a prediction. Raises ApiError for one that is unknown, invalid or repeated."""
    fields, given = PredictQuery.model_fields, request.query_params
    for name in fields:
        if len(given.getlist(name)) > 1:  # of which the last would be taken
            raise ApiError(
                PARAMETER_INVALID, f"The query parameter {name} is given more than once: give it once."
            )
    try:
        return PredictQuery.model_validate(dict(given))
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        detail = f"There is no query parameter of that name; there are: {', '.join(fields)}."
        if name in fields:
            detail = f"The query parameter {name} is not valid. {fields[name].description}"
        raise ApiError(PARAMETER_INVALID, detail) from None


async def refuse_query(request: Request) -> None:
    """Refuse any parameter: a dependency of the routes that take none."""
    if request.query_params:
        raise ApiError(PARAMETER_INVALID, "There is no query parameter of that name; this path takes none.")
