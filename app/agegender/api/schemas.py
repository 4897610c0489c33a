"""Query parameters of routes that take none."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NoQuery(BaseModel):
    """For what takes no query parameter."""

    model_config = ConfigDict(extra="forbid")
