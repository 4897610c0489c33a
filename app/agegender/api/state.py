"""State that all requests share, created by the app's lifespan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import Request

from agegender.api.arrival_memory import ArrivalMemory
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Pool
from agegender.inference.variants import Catalogue


@dataclass(frozen=True, slots=True)
class Service:
    """The models, the workers that run them, and the settings that requests need."""

    catalogue: Catalogue
    pipeline: Pipeline
    pool: Pool
    default_model: str
    auto_detector: Literal["yunet", "haar"]
    max_bytes: int
    max_batch_bytes: int
    arrival_memory: ArrivalMemory


def service_of(request: Request) -> Service:
    """Return the service of the app that handles `request`."""
    service: Service = request.app.state.service
    return service
