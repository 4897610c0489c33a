"""The ASGI app: `create_app(settings)`. Its lifespan loads and warms up the models, and drains the workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender.answers import Problem
from agegender.api import health, metrics, models, page, predict, problems
from agegender.api.arrival_memory import ArrivalMemory
from agegender.api.callers import ApiKeys, RateLimit, check_caller
from agegender.api.request_log import Observe
from agegender.api.state import Service
from agegender.api.traces import Traced, Traces, TracesUnavailable
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Pool
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.settings import Settings, listed

logger = logging.getLogger("agegender")

CANNOT_START = (DetectorFileError, ModelsInvalid, TracesUnavailable, UnknownModel)
"""Exceptions that prevent the start; the message of each says what to do."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the ASGI app; its lifespan loads the models. By default, settings come from the environment."""
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.traces = Traces() if settings.traces else None
        app.state.service = service = start(settings)
        app.state.metrics.watch(service)
        with contextlib.suppress(asyncio.CancelledError):  # by the server, at a second Ctrl+C
            yield
        app.state.unfinished = not service.pool.stop()
        if app.state.traces:
            app.state.traces.close()

    app = _App(
        title="Age and gender",
        summary="Age and gender of the faces in a photograph",
        description="Each model has its own licence, some for non-commercial research only: see `GET /models`.",
        version=version("agegender"),
        lifespan=lifespan,
        openapi_url=None,  # FastAPI's route ignores unknown query parameters; api/page.py has one that does not
        # A redirect would go to any host that the caller puts into the Host header.
        redirect_slashes=False,
        # FastAPI's traces would contain whole paths; api/traces.py makes traces without them.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.unfinished = False
    app.state.api_keys = ApiKeys(settings.api_keys)
    app.state.rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None
    app.state.metrics = metrics.Metrics()
    problems.add_handlers(app)
    # The last one added is the outermost. Added first, this one lets problem documents get the headers of all others.
    app.add_middleware(problems.ProblemMiddleware)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=listed(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    if settings.traces:
        app.add_middleware(Traced)
    app.add_middleware(Observe, metrics=app.state.metrics)
    app.add_middleware(_LifespanMessages)
    app.include_router(predict.router)
    app.include_router(models.router, dependencies=[Depends(check_caller)])
    app.include_router(health.router)
    if settings.metrics_port is None:
        app.include_router(metrics.router)
    page.add_docs(app)
    if settings.page:
        page.add_page(app)
    return app


def start(settings: Settings) -> Service:
    """Load the models and make a first prediction. Raises one of `CANNOT_START`."""
    catalogue = load_catalogue(settings.models)
    default_model = catalogue.default(settings.default_model)
    yunet = YuNet.installed(settings.yunet_path)
    if yunet is None:
        logger.info(
            "YuNet is not installed, Haar is used instead: run `agegender fetch-detector` to install YuNet"
        )

    pipeline = Pipeline(catalogue, yunet=yunet, max_image_memory=settings.max_image_memory)
    pipeline.warm()
    if not settings.api_keys.get_secret_value():
        logger.info("no API keys are set: anyone who can reach this address can use the service")
    return Service(
        catalogue=catalogue,
        pipeline=pipeline,
        pool=Pool(
            workers=settings.workers,
            queue_size=settings.queue_size,
            queue_timeout=settings.queue_timeout,
        ),
        default_model=default_model,
        auto_detector="haar" if yunet is None else "yunet",
        max_bytes=settings.max_bytes,
        max_batch_bytes=settings.max_batch_bytes,
        arrival_memory=ArrivalMemory(settings.arrival_memory),
    )


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return FastAPI's document with the schema of problem documents added."""
        document = super().openapi()
        document["components"]["schemas"]["Problem"] = Problem.model_json_schema()
        return document


class _LifespanMessages:
    """ASGI middleware that reports a failed start to the server by a message without a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_message(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(sys.exception(), CANNOT_START):
                message = {**message, "message": str(sys.exception())}
            await send(message)

        await self._app(scope, receive, send_message if scope["type"] == "lifespan" else send)
