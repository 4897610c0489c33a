"""The query of routes without parameters."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class NoQuery(BaseModel):
    """Refuses every parameter."""

    model_config = ConfigDict(extra="forbid")
