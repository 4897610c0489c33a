"""The app: settings to a service that is loaded, warm and, in the end, drained."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agegender.answers import ModelAnswer, ModelsAnswer, Problem
from agegender.api import health, metrics, models, page, predict, problems
from agegender.api.arrival_memory import ArrivalMemory
from agegender.api.rate_limit import RateLimit, may_ask
from agegender.api.request_log import Observe
from agegender.api.security import ApiKeys
from agegender.api.state import Service
from agegender.api.traces import Traced, Traces, TracesUnavailable
from agegender.inference.detector_file import DetectorFileError
from agegender.inference.pipeline import Pipeline
from agegender.inference.pool import Pool
from agegender.inference.variants import ModelsInvalid, UnknownModel, load_catalogue
from agegender.inference.yunet import YuNet
from agegender.settings import Settings, listed
from agegender.vision.detect import CascadeMissing

logger = logging.getLogger("agegender")

CANNOT_START = (
    CascadeMissing,
    DetectorFileError,
    ModelsInvalid,
    TracesUnavailable,
    UnknownModel,
)
"""What keeps the service from starting; each says in one sentence what to do."""


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI app; without `settings` they come from the environment. Models are loaded by its lifespan."""
    settings = settings or Settings()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.traces = Traces() if settings.traces else None
        app.state.service = service = start(settings)
        app.state.metrics.watch(service)
        yield
        app.state.unfinished = not await service.pool.drain(settings.drain_timeout)
        if app.state.unfinished:
            logger.warning("stopped with requests unfinished after %g seconds", settings.drain_timeout)
        if app.state.traces:
            app.state.traces.close()

    app = _App(
        title="Age and gender",
        summary="Age and gender of the faces in a photograph",
        description="The models that come with it are for non-commercial research only: `GET /models` says the licence "
        "of each.",
        version=version("agegender"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # It would send callers to whatever address they say that they called.
        redirect_slashes=False,
        # Traces are `traces`' business: FastAPI's own would say more, and ask at each request whether they are wanted.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.unfinished = False
    app.state.api_keys = ApiKeys(settings.api_keys)
    app.state.rate_limit = RateLimit(settings.rate_limit) if settings.rate_limit else None
    app.state.metrics = metrics.Metrics()
    _observe(app, settings.cors_origins, settings.traces)
    app.add_middleware(_OneSentence)
    app.include_router(predict.router)
    app.include_router(models.router, dependencies=[Depends(may_ask)])
    app.include_router(health.router)
    if settings.metrics_port is None:
        app.include_router(metrics.router)
    app.include_router(page.docs_router())
    if settings.page:
        app.include_router(page.page_router())
    return app


def create_metrics_app(watched: FastAPI) -> FastAPI:
    """The ASGI app that shows the metrics of `watched`, and nothing else: for a port of its own."""
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.state.metrics = watched.state.metrics
    _observe(app)
    app.include_router(metrics.router)
    return app


def _observe(app: FastAPI, cors_origins: str = "", traces: bool = False) -> None:
    """Put around `app` what answers errors, what browsers need, and what counts and logs each request."""
    problems.add_handlers(app)
    # The last one added is the outermost: errors, too, carry the headers of those around them.
    app.add_middleware(problems.AnswerDefects)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=listed(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    if traces:
        app.add_middleware(Traced)
    app.add_middleware(Observe, metrics=app.state.metrics)


def start(settings: Settings) -> Service:
    """Load the models and start the workers, each of which has then made a first prediction.

    Raises one of `CANNOT_START`.
    """
    catalogue = load_catalogue(settings.models)
    try:
        catalogue[settings.default_model]
    except UnknownModel as error:
        raise UnknownModel(
            f"The default model {settings.default_model} is none of those in {settings.models}. {error} "
            "Name one by --default-model (AGEGENDER_DEFAULT_MODEL)."
        ) from None
    yunet = YuNet.installed(settings.yunet_path, settings.detect_max_side)
    if yunet is None:
        logger.info("YuNet is not installed: Haar finds the faces, until `agegender fetch-detector` is run")

    def make_worker() -> Pipeline:
        predictor = Pipeline(
            catalogue,
            yunet=yunet,
            max_image_memory=settings.max_image_memory,
            detect_max_side=settings.detect_max_side,
        )
        predictor.warm()
        return predictor

    pool = Pool(
        make_worker,
        workers=settings.workers,
        queue_size=settings.queue_size,
        queue_timeout=settings.queue_timeout,
    )
    if not settings.api_keys.get_secret_value():
        logger.info("no API keys are set: whoever reaches this address may ask")
    return Service(
        catalogue=catalogue,
        pool=pool,
        default_model=settings.default_model,
        auto_detector="haar" if yunet is None else "yunet",
        max_bytes=settings.max_bytes,
        max_batch_bytes=settings.max_batch_bytes,
        arrival_memory=ArrivalMemory(settings.arrival_memory),
    )


class _App(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with the schema that every error refers to."""
        document = super().openapi()
        schemas = document["components"]["schemas"]
        schemas["Problem"] = Problem.model_json_schema()
        for answer in (ModelAnswer, ModelsAnswer):
            # FastAPI leaves out what is null in an example, though the schema requires it.
            schemas[answer.__name__]["example"] = answer.model_json_schema()["example"]
        return document


class _OneSentence:
    """ASGI middleware: where the service cannot start, the server is told why in one sentence, not a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_sentence(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed" and isinstance(sys.exception(), CANNOT_START):
                message = {**message, "message": str(sys.exception())}
            await send(message)

        await self._app(scope, receive, send_sentence if scope["type"] == "lifespan" else send)
